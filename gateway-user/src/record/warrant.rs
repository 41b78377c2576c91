//! What humans had done, as their own process (admin) says it to the recorder just before it asks the enforcer for it. Where the two
//! are processes, the enforcer's word that a human did something is not believed without. Each counts once, and not for
//! long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::StateOp;
use super::entry::{Event, Micros};
use crate::limits::{VERB_BYTES_MAX, WARRANTS_MAX};
use crate::operation::DemandId;

/// Below this the blocks in force are kept, each under its subject.
pub const BLOCKS: &str = "block/";

/// Whether each block that is to be kept is said with it: what stands there is in force after the next start.
#[must_use]
pub fn says_its_blocks(state: &[StateOp], events: &[Event]) -> bool {
    let said = |subject: &[u8]| {
        events.iter().any(|event| matches!(event, Event::Blocked(made) if made.subject.as_bytes() == subject))
    };
    state.iter().all(|op| match op {
        StateOp::Put(key, _) => key.strip_prefix(BLOCKS.as_bytes()).is_none_or(said),
        StateOp::Remove(_) => true,
    })
}

/// How long a warrant counts, if nobody takes it back: longer than any verb may take.
const COUNTS_FOR: Duration = Duration::from_secs(60);

/// What a human did, in all that an event says of it but when, and on which entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// Voted.
    Voted {
        /// On what.
        demand: DemandId,
        /// The `[[person]]`.
        person: String,
        /// For or against.
        approve: bool,
        /// What they said, masked.
        comment: Option<String>,
    },
    /// Took back a demand, a grant or a window.
    CalledOff {
        /// Which.
        demand: DemandId,
        /// Who.
        by: String,
    },
    /// Blocked.
    Blocked {
        /// Whom or what.
        subject: String,
        /// Who.
        by: String,
        /// Why, masked.
        reason: String,
        /// When it ends by itself.
        until: Option<Micros>,
    },
    /// Lifted a block.
    Unblocked {
        /// Of whom or what.
        subject: String,
        /// Who.
        by: String,
    },
    /// Read the record.
    Read {
        /// The effective user id.
        uid: u32,
        /// The user id of the login.
        login_uid: Option<u32>,
        /// The `[[person]]`.
        person: Option<String>,
        /// The command.
        command: String,
        /// What of it, masked.
        about: String,
    },
}

impl Deed {
    /// Bytes of its texts.
    fn weight(&self) -> usize {
        match self {
            Self::Voted { person, comment, .. } => person.len() + comment.as_ref().map_or(0, String::len),
            Self::CalledOff { by, .. } => by.len(),
            Self::Blocked { subject, by, reason, .. } => subject.len() + by.len() + reason.len(),
            Self::Unblocked { subject, by } => subject.len() + by.len(),
            Self::Read { person, command, about, .. } => {
                person.as_ref().map_or(0, String::len) + command.len() + about.len()
            }
        }
    }

    /// What a human did, where an event says that one did something.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Voted(event) => Some(Self::Voted {
                demand: event.demand,
                person: event.person.clone(),
                approve: event.approve,
                comment: event.comment.clone(),
            }),
            Event::CalledOff(event) => Some(Self::CalledOff { demand: event.demand, by: event.by.clone() }),
            Event::Blocked(event) => Some(Self::Blocked {
                subject: event.subject.clone(),
                by: event.by.clone(),
                reason: event.reason.clone(),
                until: event.until,
            }),
            // Its time ran out: nobody is named.
            Event::Unblocked(event) if event.by.is_empty() => None,
            Event::Unblocked(event) => {
                Some(Self::Unblocked { subject: event.subject.clone(), by: event.by.clone() })
            }
            Event::RecordRead(event) => Some(Self::Read {
                uid: event.uid,
                login_uid: event.login_uid,
                person: event.person.clone(),
                command: event.command.clone(),
                about: event.about.clone(),
            }),
            Event::SessionOpened(_)
            | Event::Intent(_)
            | Event::Decided(_)
            | Event::Responded(_)
            | Event::Body(_)
            | Event::EntryClosed(_)
            | Event::SessionClosed(_)
            | Event::PolicyChanged(_)
            | Event::Started(_)
            | Event::Interrupted(_)
            | Event::Demanded(_)
            | Event::PolicyWeighed(_)
            | Event::Kept(_)
            | Event::Surged(_)
            | Event::SocketsDestroyed(_)
            | Event::KernelRefused(_)
            | Event::CredentialClaimed(_) => None,
        }
    }
}

/// Why a warrant is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// As many wait as may.
    #[error("{WARRANTS_MAX} warrants wait already")]
    Full,
    /// No human says so much.
    #[error("a warrant has at most {VERB_BYTES_MAX} bytes")]
    TooLong,
}

/// The warrants that nobody has used yet, by the line each came over, and the number it has there.
#[derive(Debug, Default)]
pub struct Warrants {
    waiting: Mutex<HashMap<(u64, u64), (Instant, Deed)>>,
    lines: AtomicU64,
}

impl Warrants {
    /// The number of a new line that warrants come over.
    pub fn line(&self) -> u64 {
        self.lines.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes one.
    ///
    /// # Errors
    /// Too many wait, or it is too long.
    pub fn deposit(&self, key: (u64, u64), deed: Deed) -> Result<(), NotTaken> {
        if deed.weight() > VERB_BYTES_MAX {
            return Err(NotTaken::TooLong);
        }
        let mut waiting = self.waiting();
        waiting.retain(|_, (since, _)| since.elapsed() < COUNTS_FOR);
        if waiting.len() >= WARRANTS_MAX {
            return Err(NotTaken::Full);
        }
        waiting.insert(key, (Instant::now(), deed));
        Ok(())
    }

    /// It is not to be used any more.
    pub fn lapse(&self, key: (u64, u64)) {
        self.waiting().remove(&key);
    }

    /// None of this line is.
    pub fn end(&self, line: u64) {
        self.waiting().retain(|(of, _), _| *of != line);
    }

    /// Uses up a warrant for each thing that these events say a human did. False: one is missing, and none is used.
    #[must_use]
    pub fn cover(&self, events: &[Event]) -> bool {
        let deeds: Vec<Deed> = events.iter().filter_map(Deed::of).collect();
        if deeds.is_empty() {
            return true;
        }
        let mut waiting = self.waiting();
        waiting.retain(|_, (since, _)| since.elapsed() < COUNTS_FOR);
        let mut used = Vec::new();
        for deed in &deeds {
            let found = waiting.iter().find(|(key, (_, known))| known == deed && !used.contains(*key));
            let Some((key, _)) = found else { return false };
            used.push(*key);
        }
        used.iter().for_each(|key| drop(waiting.remove(key)));
        true
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<(u64, u64), (Instant, Deed)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::EntryId;
    use crate::record::entry::{Blocked, Unblocked, Voted};

    fn voted(person: &str, demand: DemandId) -> Event {
        let (person, comment) = (person.to_owned(), Some("fine".to_owned()));
        Event::Voted(Voted { demand, entry: EntryId::now(), at: 1, person, approve: true, comment })
    }

    #[test]
    fn a_warrant_counts_once_and_for_exactly_what_was_done() {
        let (warrants, demand) = (Warrants::default(), DemandId::now());
        let deed = Deed::of(&voted("ann", demand)).unwrap();
        assert!(!warrants.cover(&[voted("ann", demand)]), "none yet");
        warrants.deposit((0, 1), deed.clone()).unwrap();
        assert!(!warrants.cover(&[voted("bob", demand)]), "another person");
        assert!(!warrants.cover(&[voted("ann", DemandId::now())]), "another demand");
        let Event::Voted(vote) = voted("ann", demand) else { panic!() };
        assert!(!warrants.cover(&[Event::Voted(Voted { approve: false, ..vote.clone() })]), "the other vote");
        assert!(!warrants.cover(&[Event::Voted(Voted { comment: None, ..vote })]), "other words");
        assert!(!warrants.cover(&[voted("ann", demand), voted("ann", demand)]), "two for one");
        assert!(warrants.cover(&[voted("ann", demand)]));
        assert!(!warrants.cover(&[voted("ann", demand)]), "twice");
        warrants.deposit((0, 2), deed.clone()).unwrap();
        warrants.lapse((0, 2));
        assert!(!warrants.cover(&[voted("ann", demand)]), "taken back");
        warrants.deposit((1, 2), deed).unwrap();
        warrants.end(0);
        assert!(warrants.cover(&[voted("ann", demand)]), "another line's");
    }

    #[test]
    fn what_no_human_did_needs_none() {
        let warrants = Warrants::default();
        let ran_out =
            |by: &str| Event::Unblocked(Unblocked { at: 1, subject: "uid:7".into(), by: by.into() });
        assert!(warrants.cover(&[ran_out("")]) && !warrants.cover(&[ran_out("root")]));
        let block =
            Blocked { at: 1, subject: "uid:7".into(), by: String::new(), reason: String::new(), until: None };
        assert!(!warrants.cover(&[Event::Blocked(block)]), "whoever it was");
    }

    #[test]
    fn no_block_is_kept_that_is_not_said_with_it() {
        let keep = |subject: &str| [StateOp::Put(format!("block/{subject}").into_bytes(), vec![1])];
        let (by, reason) = ("root".to_owned(), "why".to_owned());
        let block = Event::Blocked(Blocked { at: 1, subject: "uid:7".into(), by, reason, until: None });
        assert!(says_its_blocks(&keep("uid:7"), std::slice::from_ref(&block)));
        assert!(!says_its_blocks(&keep("uid:8"), &[block]) && !says_its_blocks(&keep("uid:7"), &[]));
        assert!(says_its_blocks(&[StateOp::Put(b"approval/x".to_vec(), vec![1])], &[]));
    }

    #[test]
    fn so_many_wait_and_not_one_more() {
        let warrants = Warrants::default();
        let deed = |uid: usize| Deed::Unblocked { subject: format!("uid:{uid}"), by: "root".into() };
        for number in 0..WARRANTS_MAX {
            warrants.deposit((0, number as u64), deed(number)).unwrap();
        }
        assert!(warrants.deposit((1, 0), deed(WARRANTS_MAX)).is_err());
        warrants.lapse((0, 0));
        warrants.deposit((1, 0), deed(WARRANTS_MAX)).unwrap();
        warrants.lapse((1, 0));
        let long = |bytes: usize| Deed::Unblocked { subject: "x".repeat(bytes), by: String::new() };
        assert!(warrants.deposit((1, 0), long(VERB_BYTES_MAX + 1)).is_err());
        warrants.deposit((1, 0), long(VERB_BYTES_MAX)).unwrap();
    }
}
