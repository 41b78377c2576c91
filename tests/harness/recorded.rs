//! What a gate has recorded, read as `tidegate sessions` reads it: from the files, beside the running enforcer. Waits
//! for what is still being written, and never for longer than a test should.

use tidegate::record::entry::{Ending, Side};
use tidegate::record::read::{EntryView, Filter, Reader, SessionView};

use crate::{Gate, eventually};

impl Gate {
    /// The record, opened for reading. Keeps an enforcer from starting while it lives.
    ///
    /// # Panics
    /// When there is none, or it is damaged.
    #[must_use]
    pub fn record(&self) -> Reader {
        Reader::open(&self.state()).unwrap_or_else(|error| panic!("the record cannot be read: {error}"))
    }

    /// Every session, oldest first.
    ///
    /// # Panics
    /// As [`Gate::record`].
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionView> {
        let reader = self.record();
        let all = Filter { limit: usize::MAX, ..Filter::default() };
        let listed = reader.list(&all).unwrap_or_else(|error| panic!("the record cannot be listed: {error}"));
        let views = listed.iter().rev().map(|summary| {
            let view = reader.session(summary.opened.session);
            view.unwrap_or_else(|error| panic!("{error}")).expect("it is listed")
        });
        views.collect()
    }

    /// Every entry, session by session.
    #[must_use]
    pub fn entries(&self) -> Vec<EntryView> {
        self.sessions().into_iter().flat_map(|session| session.entries).collect()
    }

    /// The entries whose request line contains this text, whatever their state.
    #[must_use]
    pub fn entries_of(&self, text: &str) -> Vec<EntryView> {
        let mut all = self.entries();
        all.retain(|entry| entry.intent.head.line.contains(text));
        all
    }

    /// Waits until the one entry whose request line contains this text has ended.
    ///
    /// # Panics
    /// When there is none in time, or more than one.
    #[must_use]
    pub fn entry_of(&self, text: &str) -> EntryView {
        eventually(&format!("a closed entry of `{text}`"), || {
            let mut found = self.entries_of(text);
            assert!(found.len() < 2, "{} entries of `{text}`", found.len());
            found.pop().filter(|entry| entry.closed.is_some())
        })
    }

    /// The recorded bytes of one body of an entry.
    ///
    /// # Panics
    /// When they are not what was recorded.
    #[must_use]
    pub fn recorded_body(&self, entry: &EntryView, side: Side) -> String {
        let bytes = self.record().body(entry, side).unwrap_or_else(|error| panic!("{error}"));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whose fault the record says it was: `nobody`, `refused`, `client`, `upstream` or `gate`.
///
/// # Panics
/// When the entry has not ended.
#[must_use]
pub fn fault(entry: &EntryView) -> &'static str {
    match entry.ending().expect("the entry has ended") {
        Ending::Finished => "nobody",
        Ending::Refused(_) => "refused",
        Ending::ByClient(_) => "client",
        Ending::ByUpstream(_) => "upstream",
        Ending::ByGate(_) => "gate",
    }
}

/// The status that the record says the client got.
#[must_use]
pub fn status(entry: &EntryView) -> Option<u16> {
    entry.closed.as_ref().and_then(|closed| closed.status)
}
