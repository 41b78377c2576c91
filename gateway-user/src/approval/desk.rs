//! The approval desk: holds, shows, takes votes, expires, and survives a restart. Every change is durable before
//! anyone acts on it; what cannot be kept does not happen.

mod form;
mod turns;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::oneshot;

use self::form::{PREFIX, decode, encode, key_of, make};
use super::book::{Book, Full, Queue, Word};
use super::demand::{Demand, DemandDraft, ShownBody, State};
use super::ledger::{Change, Durable, Ledger, LedgerError};
use super::news::{Listener, News, Turn};
use super::priors::{Prior, Priors};
use super::quorum::{self, Electorate, Share};
use super::spool::{Spool, SpoolError};
use super::waiting::{NO_TICKET, Seat, Waiting};
use crate::operation::DemandId;

pub use self::turns::Caller;

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

/// What becomes of an operation that is held.
#[derive(Debug)]
#[must_use]
pub enum Place {
    /// Its flow waits.
    Wait(Waiting),
    /// Its client asks again later.
    Retry {
        /// The demand that is decided meanwhile.
        demand: DemandId,
        /// When that ends without an answer.
        expires: Timestamp,
    },
    /// An approver has said no to it a while ago.
    Rejected {
        /// The demand.
        demand: DemandId,
        /// Who.
        by: String,
        /// What they said, masked.
        comment: Option<String>,
    },
}

/// What a desk works with.
pub struct Parts {
    /// Where demands are kept.
    pub ledger: Arc<dyn Ledger>,
    /// What time it is.
    pub clock: Clock,
    /// Where bodies are kept.
    pub spool: Spool,
    /// Who hears of demands.
    pub listener: Arc<dyn Listener>,
}

/// The desk. Clones share it.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    parts: Parts,
    book: Mutex<Book>,
    priors: Mutex<Priors>,
    /// One change of an existing demand at a time, over its commit: what was weighed is what is kept.
    turn: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Desk {
    /// Opens the desk on what an earlier run left. What expired meanwhile loses its body now and ends, told to whoever
    /// listens, with the next [`Desk::sweep`]. What can no longer be shown whole ends; what cannot be read stays where it is, is named in the log, and can be neither voted on nor used. Blocks.
    ///
    /// # Errors
    /// The ledger or the spool cannot be read.
    pub fn open(parts: Parts) -> Result<Self, DeskError> {
        let (mut book, mut open) = (Book::default(), BTreeSet::new());
        let now = (parts.clock)();
        let forget =
            |key: String| drop(parts.ledger.write(Change { remove: vec![key], ..Change::default() }));
        for (key, bytes) in parts.ledger.scan(PREFIX)? {
            match decode(&bytes) {
                Ok(demand) if key_of(demand.id) != key => {
                    tracing::error!(%key, "a kept demand has another name than its key; it is ignored");
                }
                Ok(demand) if demand.is_over(now) => book.restore(demand),
                Ok(demand) => match demand.shown.body.as_ref().map(|_| parts.spool.read(demand.id)) {
                    Some(Err(error)) => {
                        tracing::error!(%key, %error, "a demand that cannot be shown whole is void");
                        forget(key);
                    }
                    Some(Ok(_)) | None => {
                        open.insert(demand.id);
                        book.restore(demand);
                    }
                },
                Err(error) => tracing::error!(%key, %error, "a kept demand cannot be read; it is ignored"),
            }
        }
        let swept = parts.spool.sweep(&open).map_err(|error| LedgerError(error.to_string()))?;
        if swept > 0 {
            tracing::warn!(swept, "bodies of demands that were never recorded, or ended, were removed");
        }
        let (book, turn) = (Mutex::new(book), tokio::sync::Mutex::new(()));
        Ok(Self(Arc::new(Inner { parts, book, priors: Mutex::default(), turn })))
    }

    /// Holds an operation. One that falls into an open window goes on at once; a retry of the same operation takes the
    /// place at a demand that nobody waits on, or the grant that was banked; else a new demand is made, and is durable when
    /// this returns. Goes on to its end also when the caller leaves.
    ///
    /// # Errors
    /// A bound is reached, an approval is not in force, or the demand cannot be kept.
    pub async fn hold(
        &self,
        draft: DemandDraft<'_>,
        electorate: Arc<dyn Electorate>,
    ) -> Result<Place, DeskError> {
        self.sweep().await;
        let demand = make(draft, &*electorate, self.now())?;
        let desk = self.clone();
        tokio::spawn(async move { desk.take_in(demand, &*electorate).await })
            .await
            .unwrap_or_else(|error| Err(LedgerError(error.to_string()).into()))
    }

    async fn take_in(&self, mut demand: Demand, electorate: &dyn Electorate) -> Result<Place, DeskError> {
        if let Some(place) = self.reserve(&demand, electorate)? {
            return Ok(place);
        }
        let text = demand.shown.take_text();
        if let Err(error) = self.spool(&demand, text).await {
            self.book().unreserve(&demand);
            return Err(LedgerError(error.to_string()).into());
        }
        let id = demand.id;
        let begun = self.begin(demand.clone(), electorate);
        let (place, kept) = match begun {
            Ok((place, Some(kept))) => (place, kept),
            Ok((place, None)) => {
                self.forget(&demand).await;
                return Ok(place);
            }
            Err(error) => {
                self.forget(&demand).await;
                return Err(error.into());
            }
        };
        if let Err(error) = kept.await {
            self.book().end(id, Word::Superseded);
            self.forget(&demand).await;
            return Err(error.into());
        }
        Ok(place)
    }

    /// The place of what is known; else room is kept for a new demand.
    fn reserve(&self, demand: &Demand, electorate: &dyn Electorate) -> Result<Option<Place>, DeskError> {
        let mut book = self.book();
        if let Some(place) = self.known(&mut book, demand, electorate) {
            return Ok(Some(place));
        }
        book.reserve(demand).map(|()| None).map_err(|full| match full {
            Full::Subject => DeskError::SubjectFull(demand.asker.key.clone()),
            Full::Gate => DeskError::Full,
        })
    }

    /// Every open demand, banked grants and windows included: the oldest of each subject first, then the second of each,
    /// so that no subject's many stand before another's one.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Demand>> {
        let now = self.now();
        let mut places: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
        let all = self.book().all().into_iter();
        let open =
            all.filter(|demand| !demand.is_over(now) && !matches!(demand.state, State::Rejected { .. }));
        let mut ranked: Vec<(usize, Arc<Demand>)> = open
            .map(|demand| {
                let place = places.entry(demand.asker.key.clone()).or_default();
                *place += 1;
                (*place, demand)
            })
            .collect();
        ranked.sort_by_key(|(place, demand)| (*place, demand.id));
        ranked.into_iter().map(|(_, demand)| demand).collect()
    }

    /// What each subject has here, the fullest first.
    #[must_use]
    pub fn queues(&self) -> Vec<Queue> {
        self.book().queues()
    }

    /// How many operations were refused because too many wait.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.book().refused()
    }

    /// One open demand, without the text of its body.
    #[must_use]
    pub fn show(&self, id: DemandId) -> Option<Arc<Demand>> {
        let now = self.now();
        self.book().get(id).filter(|demand| !demand.is_over(now))
    }

    /// The whole body of a demand, as approvers see it. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn body(&self, demand: &Demand) -> Result<Option<ShownBody>, SpoolError> {
        let Some(about) = &demand.shown.body else { return Ok(None) };
        let text = self.0.parts.spool.read(demand.id)?;
        Ok(Some(ShownBody { text: String::from_utf8_lossy(&text).into_owned(), ..about.clone() }))
    }

    /// The last approved demand like this one, since the gate started.
    #[must_use]
    pub fn prior(&self, demand: &Demand) -> Option<Arc<Prior>> {
        self.0.priors.lock().unwrap_or_else(PoisonError::into_inner).like(demand)
    }

    /// How far a demand has come by this set; empty where its rules have changed.
    #[must_use]
    pub fn shares(&self, demand: &Demand, electorate: &dyn Electorate) -> Vec<Share> {
        quorum::tally(demand, electorate).unwrap_or_default()
    }

    /// How many demands, unused grants and windows there are.
    #[must_use]
    pub fn held(&self) -> usize {
        self.book().len()
    }

    /// What time it is, by the clock this desk was opened with.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0.parts.clock)()
    }

    pub(super) fn leave(&self, id: DemandId, ticket: u64) {
        if ticket != NO_TICKET {
            self.book().leave(id, ticket);
        }
    }

    /// The place of an operation that was asked before, or that a window covers.
    fn known(&self, book: &mut Book, asked: &Demand, electorate: &dyn Electorate) -> Option<Place> {
        let stands = |open: &Demand| {
            open.asker.key == asked.asker.key
                && open.is_under_same_rules(asked)
                && !open.is_over(asked.created)
                && self.stands(open, asked, electorate)
        };
        if let Some(window) = book.window(asked, stands) {
            let (word, receiver) = oneshot::channel();
            // Nobody else holds the other end.
            let _ = word.send(Word::Covered(window.id));
            let seat = Seat { desk: self.clone(), id: window.id, ticket: NO_TICKET };
            let (asker, expires) = (Box::new(asked.asker.clone()), window.deadline());
            return Some(Place::Wait(Waiting { seat, asker, word: receiver, expires }));
        }
        let rejections = book.rejection(asked.digest).into_iter();
        if let Some(no) =
            rejections.filter(|no| asked.retry && no.asker.key == asked.asker.key).find(|no| stands(no))
            && let State::Rejected { by, comment, .. } = &no.state
        {
            return Some(Place::Rejected { demand: no.id, by: by.clone(), comment: comment.clone() });
        }
        let open = book.unattended(asked.digest).into_iter().find(|open| stands(open))?;
        match asked.retry && open.state == State::Pending {
            true => Some(Place::Retry { demand: open.id, expires: open.expires }),
            false => self.wait(book, &open, asked).map(Place::Wait),
        }
    }

    /// Takes a new demand that has its room into the book and the ledger, in this order under one lock: a vote can come
    /// only after it. Where another of the same came meanwhile, its room is given up.
    fn begin(
        &self,
        demand: Demand,
        electorate: &dyn Electorate,
    ) -> Result<(Place, Option<Durable>), LedgerError> {
        let mut book = self.book();
        if let Some(place) = self.known(&mut book, &demand, electorate) {
            book.unreserve(&demand);
            return Ok((place, None));
        }
        let (id, expires, retry) = (demand.id, demand.expires, demand.retry);
        let bytes = encode(&demand).inspect_err(|_| book.unreserve(&demand))?;
        let news = News { turn: Turn::Requested, demand: &demand, by: None, comment: None };
        let kept = self.commit(Change { put: vec![(key_of(id), bytes)], ..Change::default() }, Some(&news));
        book.insert(demand.clone());
        let waiting = if retry { None } else { self.wait(&mut book, &demand, &demand) };
        let place = match waiting {
            Some(waiting) => Place::Wait(waiting),
            None => Place::Retry { demand: id, expires },
        };
        Ok((place, Some(kept)))
    }

    fn wait(&self, book: &mut Book, demand: &Demand, asked: &Demand) -> Option<Waiting> {
        let (ticket, word) = book.sit(demand.id)?;
        let seat = Seat { desk: self.clone(), id: demand.id, ticket };
        Some(Waiting { seat, asker: Box::new(asked.asker.clone()), word, expires: demand.deadline() })
    }

    /// Whether a demand still rests on the rules in force and, where it is granted, on votes that count today, also for
    /// whoever asks now.
    fn stands(&self, demand: &Demand, asked: &Demand, electorate: &dyn Electorate) -> bool {
        let counts = |shares: Vec<Share>| !demand.is_approved() || quorum::is_met(&shares);
        quorum::tally(demand, electorate).is_ok_and(counts)
            && quorum::tally_for(demand, &asked.asker, electorate).is_ok_and(counts)
    }

    /// Makes a change durable, and in the same commit tells who listens.
    fn commit(&self, mut change: Change, news: Option<&News<'_>>) -> Durable {
        let rows = news.map(|news| self.0.parts.listener.rows(news)).unwrap_or_default();
        change.put.extend(rows.iter().cloned());
        let (written, listener) = (self.0.parts.ledger.write(change), Arc::clone(&self.0.parts.listener));
        Box::pin(async move {
            written.await?;
            listener.kept(rows);
            Ok(())
        })
    }

    async fn spool(&self, demand: &Demand, text: Option<String>) -> Result<(), SpoolError> {
        let Some(text) = text else { return Ok(()) };
        let (spool, id) = (self.0.parts.spool.clone(), demand.id);
        // What panicked there kept nothing that the next start would not sweep.
        tokio::task::spawn_blocking(move || spool.keep(id, text.as_bytes())).await.unwrap_or_else(|error| {
            Err(SpoolError::Io { path: super::spool::SPOOL.into(), source: std::io::Error::other(error) })
        })
    }

    async fn forget(&self, demand: &Demand) {
        if demand.shown.body.is_some() {
            let (spool, id) = (self.0.parts.spool.clone(), demand.id);
            // What stays there is swept at the next start.
            let _ = tokio::task::spawn_blocking(move || spool.forget(id)).await;
        }
    }

    /// A panic elsewhere leaves the book whole: no change to it can stop halfway.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
