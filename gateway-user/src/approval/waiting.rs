//! The waiting side of the desk: a flow that waits for the word, and the promise it gets. Nothing here lets an
//! operation through; the promise must be spent, durably, and only then may the judge make a permit.

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::book::Word;
use super::demand::{Asker, State};
use super::desk::{Desk, DeskError};
use super::quorum::Electorate;
use crate::operation::DemandId;

/// The longest sleep between two looks at the clock: wall clocks may be set.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Of a seat that nobody can take: a window has none.
pub(super) const NO_TICKET: u64 = 0;

/// How a wait ended.
#[derive(Debug)]
#[must_use]
pub enum Outcome {
    /// Every quorum is met. Ask the judge again with these approvals, then [`Approved::spend`].
    Approved(Approved),
    /// An approver said no.
    Rejected {
        /// Who.
        by: String,
        /// What they said, masked.
        comment: Option<String>,
    },
    /// Nobody answered in time.
    Expired,
    /// Somebody took the demand back.
    CalledOff {
        /// Who.
        by: String,
    },
    /// The rules that asked have changed since. Ask the judge again from the start.
    Superseded,
}

/// A flow that waits. Dropping it leaves the demand waiting for a retry of the same operation.
#[derive(Debug)]
#[must_use]
pub struct Waiting {
    pub(super) seat: Seat,
    pub(super) asker: Box<Asker>,
    pub(super) word: oneshot::Receiver<Word>,
    pub(super) expires: Timestamp,
}

impl Waiting {
    /// The demand it waits on.
    #[must_use]
    pub fn demand(&self) -> DemandId {
        self.seat.id
    }

    /// When the wait ends without an answer.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Waits for the end. Whatever it is, it was durable before.
    pub async fn outcome(mut self) -> Outcome {
        loop {
            let left = self.expires.duration_since(self.seat.desk.now());
            let nap = std::time::Duration::try_from(left).unwrap_or_default().min(LOOK_EVERY);
            tokio::select! {
                biased;
                word = &mut self.word => return self.heard(word),
                () = tokio::time::sleep(nap) => {
                    if self.seat.desk.now() >= self.expires {
                        self.seat.desk.sweep().await;
                        return match self.word.try_recv() {
                            Ok(word) => self.heard(Ok(word)),
                            Err(_) => Outcome::Expired,
                        };
                    }
                }
            }
        }
    }

    fn heard(mut self, word: Result<Word, oneshot::error::RecvError>) -> Outcome {
        if let Ok(Word::Covered(window)) = word {
            let (desk, ticket) = (self.seat.desk.clone(), NO_TICKET);
            self.seat = Seat { desk, id: window, ticket };
        }
        match word {
            Ok(Word::Approved | Word::Covered(_)) => match self.seat.desk.show(self.seat.id) {
                Some(demand) => Outcome::Approved(Approved {
                    by: demand.voters(),
                    approvals: demand.approvals.clone(),
                    window: match demand.state {
                        State::Window { until } => Some(until),
                        _ => None,
                    },
                    asker: self.asker,
                    seat: self.seat,
                }),
                None => Outcome::Superseded,
            },
            Ok(Word::Rejected { by, comment }) => Outcome::Rejected { by, comment },
            Ok(Word::Expired) => Outcome::Expired,
            Ok(Word::CalledOff { by }) => Outcome::CalledOff { by },
            Ok(Word::Superseded) | Err(_) => Outcome::Superseded,
        }
    }
}

/// A grant promised to this flow, or the window it falls into. Dropped unspent a grant stays banked for a retry of the
/// same operation.
#[derive(Debug)]
#[must_use]
pub struct Approved {
    by: Vec<String>,
    approvals: Vec<String>,
    window: Option<Timestamp>,
    asker: Box<Asker>,
    seat: Seat,
}

impl Approved {
    /// The demand that was approved.
    #[must_use]
    pub fn demand(&self) -> DemandId {
        self.seat.id
    }

    /// Names of the persons who approved it.
    #[must_use]
    pub fn by(&self) -> &[String] {
        &self.by
    }

    /// Names of the `[[approval]]`s that are met.
    #[must_use]
    pub fn approvals(&self) -> &[String] {
        &self.approvals
    }

    /// Until when it is approved, where that is for a window.
    #[must_use]
    pub fn window(&self) -> Option<Timestamp> {
        self.window
    }

    /// Marks the grant used, and returns when that is on disk. After `Ok` the operation may be forwarded, once. A window
    /// is looked at again, and stays.
    ///
    /// # Errors
    /// The grant has run out, was rejected since, no longer stands by this set (the one the judge has just asked), or
    /// the record cannot keep that it was used. Nothing may be forwarded then.
    pub async fn spend(self, electorate: &dyn Electorate) -> Result<(), DeskError> {
        self.seat.desk.spend(self.seat.id, &self.asker, electorate).await
    }
}

/// The place of one flow at one demand; given up when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) desk: Desk,
    pub(super) id: DemandId,
    pub(super) ticket: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.desk.leave(self.id, self.ticket);
    }
}
