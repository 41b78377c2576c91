//! What is open: sessions and entries whose end is not written yet. Refuses an event about anything that is not.
//!
//! The writer, the recovery after a crash and the verifier run the same ledger over the same frames, so that what one
//! accepted the others accept, and each entry gets exactly one end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::entry::{
    BodyEnd, CredentialClaimed, Ending, EntryClosed, Event, Intent, Micros, SessionClosed, SessionOpened,
    Side, Verdict,
};
use super::frame::Frame;
use super::index::{Dimension, Place};
use crate::limits::RECORD_OPEN_MAX;
use crate::operation::{EntryId, SessionId};

/// Sessions and entries without an end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    sessions: BTreeMap<SessionId, OpenSession>,
    entries: BTreeMap<EntryId, OpenEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OpenSession {
    /// Entries begun in it and not ended.
    open: u64,
    /// Its end was written; only its open entries still may follow.
    ended: bool,
    /// The last commit that holds something of it.
    last: Option<u64>,
    /// Where it begins and what it holds, so that it can be listed without a walk through it.
    story: Story,
}

/// A session in figures: what a list shows of it. Stands in its index row when it is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// The commit that holds its opening.
    pub first: u64,
    /// The first commit that holds an operation of it.
    pub judged: Option<u64>,
    /// The commit that holds its end.
    pub closed: Option<u64>,
    /// Operations in it.
    pub entries: u64,
    /// How often each verdict was given, in the order of [`VERDICTS`].
    pub verdicts: [u64; VERDICTS.len()],
}

/// Names of verdicts in the index: given, and what would have been on an observed target.
pub const VERDICTS: [&str; 7] =
    ["allow", "hold", "deny", "refuse", "would-hold", "would-deny", "would-refuse"];

impl Story {
    /// This verdict was given once more.
    pub fn count(&mut self, name: &str) {
        let counted = VERDICTS.iter().zip(&mut self.verdicts).find(|(verdict, _)| **verdict == name);
        counted.into_iter().for_each(|(_, count)| *count += 1);
    }
}

/// What the index needs to know about an entry as long as it is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OpenEntry {
    session: SessionId,
    user: Option<String>,
    workload: Option<String>,
    target: Option<String>,
    kind: String,
    status: Option<u16>,
    recorded: [u64; 2],
}

/// An event about something that is not open: never opened durably, or ended already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not open in the record: its opening was refused or never written, or its end is written already"
)]
pub struct NotOpen(pub String);

/// Whether what an entry claims is for its own target.
fn meant_for(target: Option<&str>, claimed: &CredentialClaimed) -> Result<(), NotOpen> {
    match target == Some(claimed.target.as_str()) {
        true => Ok(()),
        false => Err(NotOpen(format!("entry {} on that target", claimed.entry))),
    }
}

/// Whether so many may be open at once.
fn room(open: usize) -> Result<(), NotOpen> {
    match open <= RECORD_OPEN_MAX {
        true => Ok(()),
        false => Err(NotOpen(format!("one more than {RECORD_OPEN_MAX} at once"))),
    }
}

impl Ledger {
    /// Sessions that are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.values().filter(|session| !session.ended).count()
    }

    fn has_session(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|session| !session.ended)
    }

    /// The last commit that holds something of this session, while it is open.
    #[must_use]
    pub fn last_commit(&self, session: SessionId) -> Option<u64> {
        self.sessions.get(&session)?.last
    }

    /// What there is of this session, while it is open.
    #[must_use]
    pub fn story(&self, session: SessionId) -> Option<Story> {
        Some(self.sessions.get(&session)?.story)
    }

    /// This commit holds something of this session. Gives the commit that did before, and where nothing more can follow
    /// the whole story.
    pub fn touch(&mut self, session: SessionId, commit: u64) -> (Option<u64>, Option<Story>) {
        let Some(open) = self.sessions.get_mut(&session) else { return (None, None) };
        let before = open.last.replace(commit);
        if before.is_none() {
            open.story.first = commit;
        }
        if open.story.entries > 0 {
            open.story.judged.get_or_insert(commit);
        }
        if open.ended {
            open.story.closed.get_or_insert(commit);
        }
        let over = (open.ended && open.open == 0).then_some(open.story);
        if over.is_some() {
            self.sessions.remove(&session);
        }
        (before, over)
    }

    /// Entries that are open.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// The target of this entry, while it is open.
    #[must_use]
    pub fn target_of(&self, entry: EntryId) -> Option<&str> {
        self.entries.get(&entry)?.target.as_deref()
    }

    /// Whether this entry is open.
    #[must_use]
    pub fn has_entry(&self, entry: EntryId) -> bool {
        self.entries.contains_key(&entry)
    }

    /// Whether these events, in this order, would all be admitted.
    ///
    /// # Errors
    /// The first that would not.
    pub fn check(&self, events: &[Event]) -> Result<(), NotOpen> {
        let (mut sessions, mut entries) = (BTreeMap::new(), BTreeMap::new());
        let mut targets: BTreeMap<EntryId, Option<&str>> = BTreeMap::new();
        for event in events {
            let has_session = |id| *sessions.get(&id).unwrap_or(&self.has_session(id));
            let has_entry = |id| *entries.get(&id).unwrap_or(&self.entries.contains_key(&id));
            let session =
                |id: SessionId| has_session(id).then_some(()).ok_or(NotOpen(format!("session {id}")));
            let entry = |id: EntryId| has_entry(id).then_some(()).ok_or(NotOpen(format!("entry {id}")));
            match event {
                Event::SessionOpened(opened) => {
                    if self.sessions.contains_key(&opened.session) || sessions.contains_key(&opened.session) {
                        return Err(NotOpen(format!("session {} a second time", opened.session)));
                    }
                    sessions.insert(opened.session, true);
                    room(self.sessions.len() + sessions.len())?;
                }
                Event::Intent(intent) => {
                    session(intent.session)?;
                    if has_entry(intent.entry) {
                        return Err(NotOpen(format!("entry {} a second time", intent.entry)));
                    }
                    entries.insert(intent.entry, true);
                    targets.insert(intent.entry, intent.target.as_deref());
                    room(self.entries.len() + entries.len())?;
                }
                Event::Demanded(demanded) => entry(demanded.entry)?,
                Event::Decided(decided) => entry(decided.entry)?,
                Event::Responded(responded) => entry(responded.entry)?,
                Event::CredentialClaimed(claimed) => {
                    entry(claimed.entry)?;
                    let target = || self.entries.get(&claimed.entry)?.target.as_deref();
                    let target = targets.get(&claimed.entry).copied().unwrap_or_else(target);
                    meant_for(target, claimed)?;
                }
                Event::Body(body) => entry(body.entry)?,
                Event::EntryClosed(closed) => {
                    entry(closed.entry)?;
                    entries.insert(closed.entry, false);
                }
                Event::SessionClosed(closed) => {
                    session(closed.session)?;
                    sessions.insert(closed.session, false);
                }
                Event::Voted(_)
                | Event::CalledOff(_)
                | Event::PolicyChanged(_)
                | Event::PolicyWeighed(_)
                | Event::Blocked(_)
                | Event::Unblocked(_)
                | Event::Started(_)
                | Event::Interrupted(_)
                | Event::RecordRead(_)
                | Event::Surged(_)
                | Event::SocketsDestroyed(_)
                | Event::KernelRefused(_)
                | Event::Kept(_) => {}
            }
        }
        Ok(())
    }

    /// Takes one frame in, and says under what it is to be found.
    ///
    /// # Errors
    /// It is about something that is not open; nothing changed then.
    pub fn admit(&mut self, frame: &Frame, places: &mut Vec<Place>) -> Result<(), NotOpen> {
        match frame {
            Frame::Event(event) => self.admit_event(event, places),
            Frame::Body(body) => {
                let entry = self.entry(body.entry)?;
                entry.recorded[side(body.side)] += u64::from(body.placed.length);
                places.push(Place::session(entry.session, false));
                Ok(())
            }
            Frame::Put { .. } | Frame::Removed { .. } => Ok(()),
        }
    }

    fn admit_event(&mut self, event: &Event, places: &mut Vec<Place>) -> Result<(), NotOpen> {
        match event {
            Event::SessionOpened(opened) => self.open_session(opened, places)?,
            Event::Intent(intent) => self.open_entry(intent, places)?,
            Event::Demanded(demanded) => {
                places.push(Place::session(self.entry(demanded.entry)?.session, false));
            }
            Event::CredentialClaimed(claimed) => {
                let entry = self.entry(claimed.entry)?;
                meant_for(entry.target.as_deref(), claimed)?;
                places.push(Place::session(entry.session, false));
            }
            Event::Decided(decided) => {
                let entry = self.entry(decided.entry)?;
                places.push(Place::session(entry.session, false));
                entry.places(decided.verdict, places);
                let session = entry.session;
                if let Some(open) = self.sessions.get_mut(&session) {
                    open.story.count(decided.verdict.name());
                }
            }
            Event::Responded(responded) => {
                let entry = self.entry(responded.entry)?;
                entry.status = Some(responded.status);
                places.push(Place::session(entry.session, false));
            }
            Event::EntryClosed(closed) => {
                let gone = self.entries.remove(&closed.entry);
                let entry = gone.ok_or_else(|| NotOpen(format!("entry {}", closed.entry)))?;
                if let Some(session) = self.sessions.get_mut(&entry.session) {
                    session.open -= 1;
                }
                places.push(Place::session(entry.session, false));
            }
            Event::SessionClosed(closed) => {
                let session = self.sessions.get_mut(&closed.session).filter(|session| !session.ended);
                session.ok_or_else(|| NotOpen(format!("session {}", closed.session)))?.ended = true;
                places.push(Place::session(closed.session, false));
            }
            // A demand outlives the client that caused it, so its entry may have ended.
            Event::Voted(voted) => places.push(Place::entry(voted.entry)),
            Event::CalledOff(off) => places.push(Place::entry(off.entry)),
            Event::PolicyChanged(_)
            | Event::PolicyWeighed(_)
            | Event::Blocked(_)
            | Event::Unblocked(_)
            | Event::Started(_)
            | Event::Interrupted(_)
            | Event::RecordRead(_)
            | Event::Surged(_)
            | Event::SocketsDestroyed(_)
            | Event::KernelRefused(_)
            | Event::Kept(_) => {
                places.push(Place::of(Dimension::Gate, ""));
            }
            Event::Body(body) => return Err(NotOpen(format!("entry {} in this form", body.entry))),
        }
        Ok(())
    }

    fn open_session(&mut self, opened: &SessionOpened, places: &mut Vec<Place>) -> Result<(), NotOpen> {
        if self.sessions.contains_key(&opened.session) {
            return Err(NotOpen(format!("session {} a second time", opened.session)));
        }
        room(self.sessions.len() + 1)?;
        let open = OpenSession { open: 0, ended: false, last: None, story: Story::default() };
        self.sessions.insert(opened.session, open);
        places.push(Place::session(opened.session, false));
        places.push(Place::of(Dimension::Opened, ""));
        places
            .extend(opened.workload.as_ref().map(|workload| Place::of(Dimension::Workload, &workload.key())));
        places.extend(opened.target.as_ref().map(|target| Place::of(Dimension::Target, target)));
        Ok(())
    }

    fn open_entry(&mut self, intent: &Intent, places: &mut Vec<Place>) -> Result<(), NotOpen> {
        if self.entries.contains_key(&intent.entry) {
            return Err(NotOpen(format!("entry {} a second time", intent.entry)));
        }
        room(self.entries.len() + 1)?;
        let session = self.sessions.get_mut(&intent.session).filter(|session| !session.ended);
        let session = session.ok_or_else(|| NotOpen(format!("session {}", intent.session)))?;
        session.open += 1;
        session.story.entries += 1;
        session.story.count(intent.verdict.name());
        let would = intent.would.and_then(Verdict::would_name);
        would.into_iter().for_each(|would| session.story.count(would));
        let entry = OpenEntry {
            session: intent.session,
            user: intent.user.as_ref().map(crate::operation::User::key),
            workload: intent.workload.clone(),
            target: intent.target.clone(),
            kind: intent.kind.clone(),
            status: None,
            recorded: [0; 2],
        };
        places.push(Place::session(intent.session, true));
        places.push(Place::entry(intent.entry));
        entry.places(intent.verdict, places);
        places.extend(would.map(|would| Place::of(Dimension::Verdict, would)));
        self.entries.insert(intent.entry, entry);
        Ok(())
    }

    fn entry(&mut self, entry: EntryId) -> Result<&mut OpenEntry, NotOpen> {
        self.entries.get_mut(&entry).ok_or_else(|| NotOpen(format!("entry {entry}")))
    }

    /// The ends that an enforcer which stopped did not write, entries first.
    #[must_use]
    pub fn abandoned(&self, at: Micros, why: &str) -> Vec<Event> {
        let ending = || Ending::ByGate(why.to_owned());
        let end = |recorded: u64| BodyEnd { bytes: recorded, recorded, ..BodyEnd::default() };
        let entries = self.entries.iter().map(|(entry, open)| {
            Event::EntryClosed(EntryClosed {
                entry: *entry,
                at,
                status: open.status,
                request: end(open.recorded[0]),
                response: end(open.recorded[1]),
                masks: Vec::new(),
                ending: ending(),
                rewrites: Vec::new(),
            })
        });
        let sessions = self.sessions.iter().filter(|(_, open)| !open.ended).map(|(session, open)| {
            Event::SessionClosed(SessionClosed {
                session: *session,
                at,
                entries: open.story.entries,
                ending: ending(),
            })
        });
        entries.chain(sessions).collect()
    }
}

impl OpenEntry {
    fn places(&self, verdict: Verdict, places: &mut Vec<Place>) {
        places.push(Place::of(Dimension::Kind, &self.kind));
        places.push(Place::of(Dimension::Verdict, verdict.name()));
        places.extend(self.user.as_ref().map(|user| Place::of(Dimension::User, user)));
        places.extend(self.workload.as_ref().map(|workload| Place::of(Dimension::Workload, workload)));
        places.extend(self.target.as_ref().map(|target| Place::of(Dimension::Target, target)));
    }
}

fn side(side: Side) -> usize {
    match side {
        Side::Request => 0,
        Side::Response => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Direction;

    fn opened() -> Event {
        Event::SessionOpened(SessionOpened {
            session: SessionId::now(),
            at: 1,
            direction: Direction::Outbound,
            peer: String::new(),
            destination: String::new(),
            workload: None,
            guard: None,
            target: None,
        })
    }

    #[test]
    fn no_more_than_the_bound_are_open_at_once_however_they_come() {
        let (mut ledger, mut places) = (Ledger::default(), Vec::new());
        for _ in 0..RECORD_OPEN_MAX {
            ledger.admit(&Frame::Event(opened()), &mut places).unwrap();
            places.clear();
        }
        assert!(ledger.check(&[opened()]).is_err());
        assert!(ledger.admit(&Frame::Event(opened()), &mut places).is_err());
        let one = *ledger.sessions.keys().next().unwrap();
        let end = SessionClosed { session: one, at: 1, entries: 0, ending: Ending::Finished };
        ledger.admit(&Frame::Event(Event::SessionClosed(end)), &mut places).unwrap();
        ledger.touch(one, 1);
        assert!(ledger.check(&[opened()]).is_ok());
        assert!(ledger.check(&[opened(), opened()]).is_err(), "all of them or none");
    }
}
