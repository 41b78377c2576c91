//! Reads the record beside the running enforcer: lists by index, shows whole sessions, follows commits. Changes
//! nothing, and shows no commit whose hashes do not hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::entry::{
    CredentialClaimed, Decided, Demanded, Ending, EntryClosed, Event, Intent, Micros, Responded,
    SessionClosed, SessionOpened, Side, Verdict, Voted,
};
use super::frame::Frame;
use super::journal::store_name;
use super::story::Stories;
use super::summary::{intent_of, load, session_rows, votes};
use super::{DIRECTORY, RecordError};
use crate::operation::{EntryId, SessionId};
use crate::store::disk::{Disk, Folder};
use crate::store::keyfile::Place;
use crate::store::keyring::Keyring;
use crate::store::{Bodies, Placed, ReadStore};

/// Which sessions to list. Every condition that is set must hold for one and the same operation.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// A user's key, or the subject alone.
    pub user: Option<String>,
    /// A workload's key, or the unit, container or uid alone.
    pub workload: Option<String>,
    /// A target's name.
    pub target: Option<String>,
    /// A kind of operation.
    pub kind: Option<String>,
    /// A verdict.
    pub verdict: Option<Verdict>,
    /// What the verdict would have been on a target that is only observed; never [`Verdict::Allow`].
    pub would: Option<Verdict>,
    /// Not before.
    pub since: Option<Micros>,
    /// Before.
    pub until: Option<Micros>,
    /// At most so many sessions.
    pub limit: usize,
}

/// A session in one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The session.
    #[serde(flatten)]
    pub opened: SessionOpened,
    /// The user of its first operation that had one.
    pub user: Option<String>,
    /// Its workload's key.
    pub workload_key: Option<String>,
    /// Operations in it.
    pub entries: u64,
    /// How many times each verdict was given, holds and what became of them counted each.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Its end; none while it runs.
    pub closed: Option<SessionClosed>,
}

/// All that is recorded of one session.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionView {
    /// In one line.
    pub summary: Summary,
    /// Its operations, in order.
    pub entries: Vec<EntryView>,
}

/// All that is recorded of one operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntryView {
    /// What was about to happen, and the verdict.
    pub intent: Intent,
    /// What it waits for, or waited, when held.
    pub demanded: Option<Demanded>,
    /// What became of a hold.
    pub decided: Vec<Decided>,
    /// Votes on it.
    pub votes: Vec<Voted>,
    /// The credential that it was about to be given.
    pub claimed: Option<CredentialClaimed>,
    /// Response heads.
    pub responded: Vec<Responded>,
    /// Stretches of its bodies, in order.
    pub stretches: Vec<Stretch>,
    /// Its end; none while it runs.
    pub closed: Option<EntryClosed>,
}

/// A stretch of a body, as the record refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// Which body.
    pub side: Side,
    /// Where its bytes are.
    #[serde(flatten)]
    pub placed: Placed,
}

impl EntryView {
    /// How it ended, if it did.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        self.closed.as_ref().map(|closed| &closed.ending)
    }
}

/// One event as it stands in the chain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its number, counted from the first of the store.
    pub sequence: u64,
    /// When its commit was written.
    pub written: Micros,
    /// What it says.
    pub frame: Frame,
}

/// The record, open for reading.
#[derive(Debug)]
pub struct Reader {
    pub(super) store: ReadStore,
    pub(super) bodies: Bodies,
    pub(super) disk: Arc<dyn Disk>,
}

impl Reader {
    /// Opens the record below this state directory. Works beside the running enforcer, after a clean end, and after a
    /// kill.
    ///
    /// # Errors
    /// There is none; it is damaged; no permission.
    pub fn open(state: &Path) -> Result<Self, RecordError> {
        Self::open_with(state, &Place::below(state))
    }

    /// As [`Reader::open`], with the keys from this place. Where there are none, heads are shown and bodies stay sealed.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_with(state: &Path, keys: &Place) -> Result<Self, RecordError> {
        let keys = Keyring::open(keys).unwrap_or_else(|_| Keyring::empty());
        Self::open_keyed(Arc::new(Folder::at(&state.join(DIRECTORY))), keys)
    }

    pub(crate) fn open_keyed(disk: Arc<dyn Disk>, keys: Keyring) -> Result<Self, RecordError> {
        let store = ReadStore::open(disk.as_ref())?;
        Ok(Self { store, bodies: Bodies::of(Arc::clone(&disk), keys), disk })
    }

    /// With the keys of tests.
    #[cfg(test)]
    pub(crate) fn open_on(disk: Arc<dyn Disk>) -> Result<Self, RecordError> {
        Self::open_keyed(disk, super::tests::keys().bodies)
    }

    /// Whether an enforcer writes the record below this state directory now.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn is_being_written(state: &Path) -> Result<bool, RecordError> {
        Ok(ReadStore::is_being_written(&Folder::at(&state.join(DIRECTORY)))?)
    }

    /// Whether the enforcer was killed and has not started since. This reader follows no commits then, and keeps an
    /// enforcer from starting: drop it soon.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.store.is_recovered()
    }

    /// One session, whole.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn session(&self, session: SessionId) -> Result<Option<SessionView>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let Some(summary) = Stories::of(&snapshot).summary(session)? else { return Ok(None) };
        let mut entries: Vec<EntryView> = Vec::new();
        let mut at = BTreeMap::new();
        for (number, marks) in session_rows(&snapshot, session, 0)? {
            let loaded = load(&snapshot, number)?;
            for mark in marks {
                let frame = loaded.frame(mark / 2)?;
                if let Frame::Event(Event::Intent(intent)) = frame {
                    at.insert(intent.entry, entries.len());
                    entries.push(EntryView::of(intent.as_ref().clone(), votes(&snapshot, intent.entry)?));
                } else if let Some(view) = entry_of(frame).and_then(|entry| at.get(&entry)) {
                    entries[*view].take(frame);
                }
            }
        }
        Ok(Some(SessionView { summary, entries }))
    }

    /// One entry, whole.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn entry(&self, entry: EntryId) -> Result<Option<EntryView>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let Some((first, intent)) = intent_of(&snapshot, entry)? else { return Ok(None) };
        let mut view = EntryView::of(intent, votes(&snapshot, entry)?);
        for (number, marks) in session_rows(&snapshot, view.intent.session, first)? {
            let loaded = load(&snapshot, number)?;
            for mark in marks {
                let frame = loaded.frame(mark / 2)?;
                if entry_of(frame) == Some(entry) {
                    view.take(frame);
                }
            }
            if view.closed.is_some() {
                break;
            }
        }
        Ok(Some(view))
    }

    /// The recorded bytes of one body, checked against their digests.
    ///
    /// # Errors
    /// They are no longer kept, sealed with a key that is not here, or not those that were recorded.
    pub fn body(&self, entry: &EntryView, side: Side) -> Result<Vec<u8>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let store = store_name(&snapshot)?;
        let mut bytes = Vec::new();
        for stretch in entry.stretches.iter().filter(|stretch| stretch.side == side) {
            bytes.extend(self.bodies.read(&snapshot, &store, &stretch.placed)?);
        }
        Ok(bytes)
    }

    /// The number of the next commit: where [`Reader::follow`] starts to see only what is new.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn end(&self) -> Result<u64, RecordError> {
        Ok(self.store.snapshot()?.last_commit()?.map_or(0, |last| last + 1))
    }

    /// The first commit that was written at this moment or later: where [`Reader::follow`] starts to see what happened
    /// since then. `None` where there is none.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn since(&self, at: Micros) -> Result<Option<u64>, RecordError> {
        Ok(self.store.snapshot()?.commit_at(at.div_euclid(1_000_000))?)
    }

    /// The last `count` events, oldest first.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn last(&self, count: usize) -> Result<Vec<Line>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let mut lines = Vec::new();
        let mut next = snapshot.last_commit()?;
        while let Some(number) = next.filter(|_| lines.len() < count) {
            let mut loaded = load(&snapshot, number)?.lines();
            loaded.append(&mut lines);
            lines = loaded;
            next = number.checked_sub(1);
        }
        Ok(lines.split_off(lines.len().saturating_sub(count)))
    }

    /// What one commit says, and the number to ask for next; `None` while it is not written yet.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn follow(&self, from: u64) -> Result<Option<(Vec<Line>, u64)>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let Some(number) = snapshot.commit_from(from)? else { return Ok(None) };
        Ok(Some((load(&snapshot, number)?.lines(), number + 1)))
    }
}

impl EntryView {
    pub(super) fn of(intent: Intent, votes: Vec<Voted>) -> Self {
        Self {
            intent,
            demanded: None,
            decided: Vec::new(),
            votes,
            claimed: None,
            responded: Vec::new(),
            stretches: Vec::new(),
            closed: None,
        }
    }

    pub(super) fn take(&mut self, frame: &Frame) {
        match frame {
            Frame::Event(Event::Demanded(event)) => self.demanded = Some(event.clone()),
            Frame::Event(Event::Decided(event)) => self.decided.push(event.clone()),
            // Only the first one counts.
            Frame::Event(Event::CredentialClaimed(event)) => {
                self.claimed.get_or_insert_with(|| event.clone());
            }
            Frame::Event(Event::Responded(event)) => self.responded.push(event.clone()),
            Frame::Event(Event::EntryClosed(event)) => self.closed = Some(event.clone()),
            Frame::Body(body) => self.stretches.push(Stretch { side: body.side, placed: body.placed }),
            _ => {}
        }
    }
}

fn entry_of(frame: &Frame) -> Option<EntryId> {
    match frame.about() {
        (_, super::frame::About::Entry(entry)) => Some(entry),
        _ => None,
    }
}
