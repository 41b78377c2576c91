//! What a gate has recorded, read as `tidegate sessions` reads it: from the files, beside the running enforcer. Waits
//! for what is still being written, and never for longer than a test should.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tidegate::operation::{EntryId, SessionId};
use tidegate::record::entry::{Ending, Event, Side};
use tidegate::record::frame::Frame;
use tidegate::record::read::{EntryView, Filter, Reader, SessionView};

use crate::{Gate, Response, eventually};

impl Gate {
    /// The record, opened for reading. Keeps an enforcer from starting while it lives.
    ///
    /// # Panics
    /// When there is none, or it is damaged.
    #[must_use]
    pub fn record(&self) -> Reader {
        Reader::open(&self.state()).unwrap_or_else(|error| panic!("the record cannot be read: {error}"))
    }

    /// Every session, oldest first. Takes long when there are thousands.
    ///
    /// # Panics
    /// As [`Gate::record`].
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionView> {
        let reader = self.record();
        let all = Filter { limit: usize::MAX, ..Filter::default() };
        let listed = reader.list(&all).unwrap_or_else(|error| panic!("the record cannot be listed: {error}"));
        listed.iter().rev().map(|summary| session(&reader, summary.opened.session)).collect()
    }

    /// Every entry, session by session. Takes long when there are thousands.
    #[must_use]
    pub fn entries(&self) -> Vec<EntryView> {
        self.sessions().into_iter().flat_map(|session| session.entries).collect()
    }

    /// The sessions to this destination (`127.0.0.1:80`), oldest first.
    #[must_use]
    pub fn sessions_to(&self, destination: &str) -> Vec<SessionView> {
        let reader = self.record();
        let found = self.seen(&reader, |seen| {
            let there = seen.opened.iter().filter(|(to, _)| to == destination);
            there.map(|(_, session)| *session).collect::<Vec<_>>()
        });
        found.into_iter().map(|id| session(&reader, id)).collect()
    }

    /// The session of an entry.
    #[must_use]
    pub fn session_of(&self, entry: &EntryView) -> SessionView {
        session(&self.record(), entry.intent.session)
    }

    /// The entry that a problem document names.
    ///
    /// # Panics
    /// When it names none.
    #[must_use]
    pub fn entry_in(&self, problem: &Response) -> EntryView {
        let named = problem.json()["instance"].as_str().unwrap_or_default().to_owned();
        let id = named.strip_prefix("urn:uuid:").and_then(|id| id.parse().ok());
        let id = id.unwrap_or_else(|| panic!("no entry in {}", problem.text()));
        entry(&self.record(), id)
    }

    /// The entries whose request line contains this text, whatever their state, oldest first.
    #[must_use]
    pub fn entries_of(&self, text: &str) -> Vec<EntryView> {
        let reader = self.record();
        let found = self.seen(&reader, |seen| {
            let about = seen.intents.iter().filter(|(line, _)| line.contains(text));
            about.map(|(_, entry)| *entry).collect::<Vec<_>>()
        });
        found.into_iter().map(|id| entry(&reader, id)).collect()
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

    /// Asks what was seen of the record, after reading on from where the last question ended.
    fn seen<T>(&self, reader: &Reader, ask: impl FnOnce(&Seen) -> T) -> T {
        static SEEN: Mutex<BTreeMap<PathBuf, Seen>> = Mutex::new(BTreeMap::new());
        let mut all = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(self.state()).or_default();
        while let Some((lines, next)) = reader.follow(seen.next).unwrap_or_else(|error| panic!("{error}")) {
            lines.into_iter().for_each(|line| seen.take(line.frame));
            seen.next = next;
        }
        ask(seen)
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

/// What was read of one record so far, in order.
#[derive(Default)]
struct Seen {
    next: u64,
    /// Destinations.
    opened: Vec<(String, SessionId)>,
    /// Request lines.
    intents: Vec<(String, EntryId)>,
}

impl Seen {
    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Event(Event::SessionOpened(opened)) => {
                self.opened.push((opened.destination, opened.session))
            }
            Frame::Event(Event::Intent(intent)) => self.intents.push((intent.head.line, intent.entry)),
            _ => {}
        }
    }
}

fn session(reader: &Reader, id: SessionId) -> SessionView {
    reader.session(id).unwrap_or_else(|error| panic!("{error}")).expect("it is in the record")
}

fn entry(reader: &Reader, id: EntryId) -> EntryView {
    reader.entry(id).unwrap_or_else(|error| panic!("{error}")).expect("it is in the record")
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
