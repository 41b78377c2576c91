//! The approval desk: holds, shows, takes votes, expires, and survives a restart. Every change is durable before
//! anyone acts on it; what cannot be kept does not happen.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::book::{Book, Full, Word};
use super::demand::{Asker, Demand, DemandDraft, State};
use super::ledger::{Durable, Ledger, LedgerError};
use super::quorum::{self, Account, Ballot, Electorate, Share, Standing, VoteError, Weighed};
use super::waiting::{Seat, Waiting};
use crate::operation::DemandId;

/// Where demands are in the ledger.
const PREFIX: &str = "approval/demand/";

/// First byte of a kept demand: the form of the rest.
const FORM: u8 = 1;

/// What time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Why an operation cannot be held, or an approval not be used. Whatever it is, the operation is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeskError {
    /// The asking subject has too much waiting.
    #[error(
        "{0} already has as many operations waiting for approval as one subject may; decide or wait for some"
    )]
    SubjectFull(String),
    /// Too much waits in all.
    #[error("too many operations wait for approval on this gate; decide or wait for some")]
    Full,
    /// A rule asks for an approval that the set does not have.
    #[error("no [[approval]] named {0} is in force")]
    NoApproval(String),
    /// The grant is gone.
    #[error("the approval was used, withdrawn or has run out; ask again")]
    Gone,
    /// The grant no longer stands.
    #[error("the policy that asked for this approval has changed; ask again")]
    Superseded,
    /// The record cannot keep it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The desk. Clones share it.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    book: Mutex<Book>,
    /// One change of an existing demand at a time, over its commit: what was weighed is what is kept.
    turn: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Desk {
    /// Opens the desk on what an earlier run left. What expired meanwhile ends; what cannot be read stays where it is,
    /// is named in the log, and can be neither voted on nor used.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn open(ledger: Arc<dyn Ledger>, clock: Clock) -> Result<Self, DeskError> {
        let mut book = Book::default();
        let now = clock();
        for (key, bytes) in ledger.scan(PREFIX)? {
            match decode(&bytes) {
                Ok(demand) if demand.is_over(now) => drop(ledger.remove(&key)),
                Ok(demand) if key_of(demand.id) == key => book.restore(demand),
                Ok(_) => tracing::error!(%key, "a kept demand has another name than its key; it is ignored"),
                Err(error) => tracing::error!(%key, %error, "a kept demand cannot be read; it is ignored"),
            }
        }
        let (book, turn) = (Mutex::new(book), tokio::sync::Mutex::new(()));
        Ok(Self(Arc::new(Inner { ledger, clock, book, turn })))
    }

    /// Holds an operation. A retry of the same operation takes the place at a demand that nobody waits on, or the grant
    /// that was banked; else a new demand is made, and is durable when this returns.
    ///
    /// # Errors
    /// A bound is reached, an approval is not in force, or the demand cannot be kept.
    pub async fn hold(
        &self,
        draft: DemandDraft<'_>,
        electorate: &dyn Electorate,
    ) -> Result<Waiting, DeskError> {
        if !self.book().over(self.now()).is_empty() {
            self.sweep().await;
        }
        let demand = make(draft, electorate, self.now())?;
        let (waiting, kept) = {
            let mut book = self.book();
            match self.rejoin(&mut book, &demand, electorate) {
                Some(waiting) => (waiting, None),
                None => self.begin(&mut book, demand)?,
            }
        };
        if let Some(kept) = kept
            && let Err(error) = kept.await
        {
            self.book().end(waiting.demand(), Word::Superseded);
            return Err(error.into());
        }
        Ok(waiting)
    }

    /// Takes one vote, records it, and when that is durable lets it take effect. Goes on to its end also when the
    /// caller leaves.
    ///
    /// # Errors
    /// The vote does not count, and why; nothing has changed then.
    pub async fn vote(
        &self,
        id: DemandId,
        account: Account,
        approve: bool,
        comment: Option<String>,
        electorate: Arc<dyn Electorate>,
    ) -> Result<Standing, VoteError> {
        let desk = self.clone();
        let ballot = Ballot { approve, comment };
        tokio::spawn(async move { desk.cast(id, account, ballot, &*electorate).await })
            .await
            .unwrap_or_else(|error| Err(LedgerError(error.to_string()).into()))
    }

    /// Ends what has run out. Called by those who wait and by [`Desk::hold`]; calling it now and then also frees what
    /// nobody waits on.
    pub async fn sweep(&self) {
        let _turn = self.0.turn.lock().await;
        let over = self.book().over(self.now());
        let removed: Vec<_> = over.into_iter().map(|id| self.end(id, Word::Expired)).collect();
        for removal in removed {
            log_failure(removal.await);
        }
    }

    /// Holds every demand against a new set: ends those whose rules changed (their votes are void), counts the votes of
    /// the others again by today's approvers.
    pub async fn recheck(&self, electorate: &dyn Electorate) {
        let _turn = self.0.turn.lock().await;
        let all = self.book().all();
        for demand in all {
            let mut next = (*demand).clone();
            let changed = match quorum::grant_if_met(&mut next, electorate, self.now()) {
                Ok(()) if next != *demand => self.keep(&next),
                Ok(()) if self.stands(&demand, electorate) => continue,
                Ok(()) | Err(_) => self.end(demand.id, Word::Superseded),
            };
            match changed.await {
                Ok(()) => self.book().replace(next),
                Err(error) => log_failure(Err(error)),
            }
        }
    }

    /// Ends a demand that can no longer come to anything. Nobody can vote on it or use it from now on.
    pub async fn withdraw(&self, id: DemandId) {
        let _turn = self.0.turn.lock().await;
        log_failure(self.end(id, Word::Superseded).await);
    }

    /// Every open demand, oldest first, banked grants included.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Demand>> {
        let now = self.now();
        let mut all = self.book().all();
        all.retain(|demand| !demand.is_over(now));
        all
    }

    /// One open demand.
    #[must_use]
    pub fn show(&self, id: DemandId) -> Option<Arc<Demand>> {
        let now = self.now();
        self.book().get(id).filter(|demand| !demand.is_over(now))
    }

    /// How far a demand has come by this set; empty where its rules have changed.
    #[must_use]
    pub fn shares(&self, demand: &Demand, electorate: &dyn Electorate) -> Vec<Share> {
        quorum::tally(demand, electorate).unwrap_or_default()
    }

    /// How many demands and unused grants there are.
    #[must_use]
    pub fn held(&self) -> usize {
        self.book().len()
    }

    /// What time it is, by the clock this desk was opened with.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// Marks a grant used.
    pub(super) async fn spend(&self, id: DemandId, electorate: &dyn Electorate) -> Result<(), DeskError> {
        let _turn = self.0.turn.lock().await;
        let demand = self.show(id).ok_or(DeskError::Gone)?;
        if demand.state == State::Pending {
            return Err(DeskError::Gone);
        }
        if !self.stands(&demand, electorate) {
            return Err(DeskError::Superseded);
        }
        // Forgotten before it is durable: whatever happens now, nobody else spends it.
        self.end(id, Word::Superseded).await?;
        Ok(())
    }

    pub(super) fn leave(&self, id: DemandId, ticket: u64) {
        self.book().leave(id, ticket);
    }

    async fn cast(
        &self,
        id: DemandId,
        account: Account,
        ballot: Ballot,
        electorate: &dyn Electorate,
    ) -> Result<Standing, VoteError> {
        let _turn = self.0.turn.lock().await;
        let demand = self.book().get(id).ok_or(VoteError::Unknown(id))?;
        match quorum::weigh(&demand, account, ballot, electorate, self.now()) {
            Ok(Weighed::For(next, cast)) => {
                self.0.ledger.voted(cast, &key_of(id), Some(encode(&next)?)).await?;
                let standing = match next.state {
                    State::Granted { .. } => Standing::Approved,
                    State::Pending => Standing::Open(quorum::tally(&next, electorate)?),
                };
                self.book().replace(*next);
                Ok(standing)
            }
            Ok(Weighed::Against(cast)) => {
                let (by, comment) = (cast.person.clone(), cast.comment.clone());
                self.0.ledger.voted(cast, &key_of(id), None).await?;
                self.book().end(id, Word::Rejected { by, comment });
                Ok(Standing::Rejected)
            }
            Err(error) => {
                match error {
                    VoteError::Expired => log_failure(self.end(id, Word::Expired).await),
                    VoteError::Superseded => log_failure(self.end(id, Word::Superseded).await),
                    _ => {}
                }
                Err(error)
            }
        }
    }

    /// Sits down at an open demand for the same operation that nobody waits on, if there is one that still stands.
    fn rejoin(&self, book: &mut Book, asked: &Demand, electorate: &dyn Electorate) -> Option<Waiting> {
        let fits = |open: &Demand| {
            open.asker.key == asked.asker.key
                && open.target == asked.target
                && open.basis == asked.basis
                && open.approvals == asked.approvals
                && !open.is_over(asked.created)
                && self.stands(open, electorate)
        };
        let open = book.unattended(asked.digest).into_iter().find(|open| fits(open))?;
        self.wait(book, &open)
    }

    /// Takes a new demand into the book and the ledger, in this order under one lock: a vote can come only after it.
    fn begin(&self, book: &mut Book, demand: Demand) -> Result<(Waiting, Option<Durable>), DeskError> {
        let (id, asker) = (demand.id, demand.asker.key.clone());
        let bytes = encode(&demand)?;
        book.admit(demand).map_err(|full| match full {
            Full::Subject => DeskError::SubjectFull(asker),
            Full::Gate => DeskError::Full,
        })?;
        let kept = self.0.ledger.put(&key_of(id), bytes);
        let waiting = book.get(id).and_then(|demand| self.wait(book, &demand)).ok_or(DeskError::Gone)?;
        Ok((waiting, Some(kept)))
    }

    fn wait(&self, book: &mut Book, demand: &Demand) -> Option<Waiting> {
        let (ticket, word) = book.sit(demand.id)?;
        let seat = Seat { desk: self.clone(), id: demand.id, ticket };
        Some(Waiting { seat, word, expires: demand.deadline() })
    }

    /// Whether a demand still rests on the rules in force and, where it is granted, on votes that count today.
    fn stands(&self, demand: &Demand, electorate: &dyn Electorate) -> bool {
        quorum::tally(demand, electorate)
            .is_ok_and(|shares| demand.state == State::Pending || quorum::is_met(&shares))
    }

    /// Forgets a demand here and in the ledger, and tells who waits.
    fn end(&self, id: DemandId, word: Word) -> Durable {
        self.book().end(id, word);
        self.0.ledger.remove(&key_of(id))
    }

    fn keep(&self, demand: &Demand) -> Durable {
        match encode(demand) {
            Ok(bytes) => self.0.ledger.put(&key_of(demand.id), bytes),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// A panic elsewhere leaves the book whole: no change to it can stop halfway.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(id: DemandId) -> String {
    format!("{PREFIX}{id}")
}

fn encode(demand: &Demand) -> Result<Vec<u8>, LedgerError> {
    postcard::to_extend(demand, vec![FORM]).map_err(|error| LedgerError(error.to_string()))
}

fn decode(bytes: &[u8]) -> Result<Demand, LedgerError> {
    match bytes {
        [FORM, demand @ ..] => postcard::from_bytes(demand).map_err(|error| LedgerError(error.to_string())),
        _ => Err(LedgerError("it was written by another version".into())),
    }
}

fn make(draft: DemandDraft<'_>, electorate: &dyn Electorate, now: Timestamp) -> Result<Demand, DeskError> {
    let mut approvals = draft.approvals;
    approvals.sort();
    approvals.dedup();
    let missing = approvals.iter().find(|name| electorate.approval(name).is_none());
    if let Some(name) = missing {
        return Err(DeskError::NoApproval(name.clone()));
    }
    let lasts =
        quorum::shortest(&approvals, electorate).ok_or_else(|| DeskError::NoApproval("(none)".into()))?;
    let mut rules = draft.rules;
    rules.sort();
    rules.dedup();
    Ok(Demand {
        id: DemandId::now(),
        entry: draft.entry,
        session: draft.session,
        asker: Asker::from(draft.subject),
        target: draft.target,
        digest: draft.digest,
        basis: quorum::basis(&rules, electorate),
        rules,
        message: draft.message,
        approvals,
        created: now,
        expires: quorum::end_of(now, lasts),
        shown: draft.shown,
        votes: Vec::new(),
        state: State::Pending,
    })
}

/// For endings that hold in memory whatever the disk says, and end by themselves after a restart.
fn log_failure(result: Result<(), LedgerError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "an approval that is over stays in the record until its time runs out");
    }
}

#[cfg(test)]
mod tests;
