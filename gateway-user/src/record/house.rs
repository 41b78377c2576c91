//! What the writer does between commits: signs, shows what it signed to witnesses, removes what is due, follows orders.
//! One small step at a time, so that nobody who appends waits for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::desk::Shared;
use super::entry::Micros;
use super::journal::Journal;
use super::retention::{Pressure, Removed, Wanted, before};
use super::witness::WitnessState;
use super::{RecordError, Tuning};
use crate::store::StoreError;

/// What an operator wants done to the record. `by` says who.
#[derive(Debug, Clone)]
pub enum Order {
    /// Remove what is wanted.
    Prune(Wanted),
    /// Seal with a new generation of the key.
    Rekey {
        /// Who.
        by: String,
    },
    /// Forget generations of the key that nothing is sealed with: no segment, and none of these spools.
    ForgetKeys {
        /// Generations that are used outside the record.
        used: BTreeSet<u32>,
    },
    /// Sign with a new key.
    RotateSigningKey {
        /// Who.
        by: String,
    },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// This was removed.
    Removed(Removed),
    /// The keys of so many segments are sealed with this generation.
    Rekeyed {
        /// The generation.
        generation: u32,
        /// How many.
        segments: u64,
    },
    /// These generations are left.
    KeysLeft(Vec<u32>),
    /// Checkpoints are signed with this public key.
    SigningKey(String),
}

/// The upkeep of a running record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkept {
    /// What the free space allows.
    pub pressure: Pressure,
    /// Bytes free, and in all, on the record's file system.
    pub space: (u64, u64),
    /// What was removed since the start.
    pub removed: Removed,
    /// Why nothing can be removed, if that is so.
    pub stuck: Option<String>,
    /// Commits that the last signed checkpoint covers.
    pub signed_commits: u64,
    /// When it was signed.
    pub signed_at: Option<Micros>,
    /// The witnesses.
    pub witnesses: Vec<WitnessState>,
}

/// The writer's own work.
pub(super) struct House {
    next: Instant,
    period: Duration,
    signed: Instant,
    /// Something is left to remove, so that the next step comes at once.
    more: bool,
    shown: u64,
    /// What an operator wants removed, what was by now, and who waits.
    pruning: Vec<(Wanted, Removed, Reply)>,
}

type Reply = tokio::sync::oneshot::Sender<Result<Done, RecordError>>;

impl House {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let now = Instant::now();
        Self { next: now, period: tuning.upkeep, signed: now, more: false, shown: 0, pruning: Vec::new() }
    }

    /// When it wants to be called again.
    pub(super) fn wake(&self) -> Instant {
        if self.more || !self.pruning.is_empty() { Instant::now() } else { self.next }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(super) fn keep(
        &mut self,
        shared: &Shared,
        journal: &mut Journal,
        now: Micros,
    ) -> Result<(), StoreError> {
        self.sign(shared, journal, now)?;
        self.follow(shared, journal, now)?;
        if self.more || Instant::now() >= self.next {
            self.next = Instant::now() + self.period;
            self.tend(shared, journal, now)?;
        }
        self.show(shared, journal);
        Ok(())
    }

    fn sign(&mut self, shared: &Shared, journal: &mut Journal, now: Micros) -> Result<(), StoreError> {
        let unsigned = journal.unsigned();
        // The next commit signs with no sync of its own.
        journal.sign |= unsigned >= shared.tuning.sign_events;
        if unsigned == 0 {
            self.signed = Instant::now();
        } else if self.signed.elapsed() >= shared.tuning.sign_period {
            journal.sign_now(now)?;
            self.signed = Instant::now();
        }
        Ok(())
    }

    /// Gives what was signed to the witnesses.
    fn show(&mut self, shared: &Shared, journal: &Journal) {
        let Some(head) = journal.signed.as_ref().filter(|head| head.commits > self.shown) else { return };
        self.shown = head.commits;
        let mut desk = shared.desk();
        (desk.upkeep.signed_commits, desk.upkeep.signed_at) = (head.commits, Some(head.at));
        drop(desk);
        shared.witness.offer(head);
    }

    /// At the end: signs and shows what is left.
    pub(super) fn last(shared: &Shared, journal: &mut Journal, now: Micros) {
        if let Err(cause) = journal.sign_now(now) {
            warn!(%cause, "the end of the record stays unsigned");
        } else if let Some(head) = &journal.signed {
            shared.witness.offer(head);
        }
    }

    fn follow(&mut self, shared: &Shared, journal: &mut Journal, now: Micros) -> Result<(), StoreError> {
        let orders = std::mem::take(&mut shared.desk().orders);
        for (order, waiter) in orders {
            if let Order::Prune(wanted) = order {
                self.pruning.push((wanted, Removed::default(), waiter));
                continue;
            }
            let done = at_once(journal, &order, now);
            answer(journal, waiter, done)?;
        }
        let Some((wanted, mut all, waiter)) = self.pruning.pop() else { return Ok(()) };
        let done = match journal.prune(&wanted, now) {
            Ok(removed) if removed.is_nothing() => Ok(Done::Removed(all)),
            Ok(removed) => {
                shared.desk().upkeep.removed.add(removed);
                all.add(removed);
                self.pruning.push((wanted, all, waiter));
                return Ok(());
            }
            Err(cause) => Err(cause),
        };
        answer(journal, waiter, done)
    }

    /// Looks at the space, and takes one step of retention.
    fn tend(&mut self, shared: &Shared, journal: &mut Journal, now: Micros) -> Result<(), StoreError> {
        self.more = false;
        let retention = journal.retention.clone();
        let space = journal.disk.space().map_err(StoreError::io("ask for the free space of the record"))?;
        let pressure = retention.marks.pressure(space);
        if pressure != journal.pressure {
            tell(pressure, space.free, space.total);
        }
        journal.pressure = pressure;
        let stuck = {
            let mut desk = shared.desk();
            (desk.upkeep.pressure, desk.upkeep.space) = (pressure, (space.free, space.total));
            desk.upkeep.stuck.is_some()
        };
        if stuck {
            return Ok(());
        }
        let mut wanted = retention.wanted(now);
        if pressure >= Pressure::Shedding {
            wanted.oldest = Some(before(now, retention.spare.0));
            wanted.why = "too little space is left".to_owned();
        }
        if retention.max_bytes.is_some_and(|max| journal.bytes() > max) {
            wanted.oldest = Some(now);
            wanted.why = "more bytes than are to be kept".to_owned();
        }
        if wanted.is_nothing() {
            return Ok(());
        }
        match journal.prune(&wanted, now) {
            Ok(removed) => {
                self.more = !removed.is_nothing();
                shared.desk().upkeep.removed.add(removed);
            }
            Err(cause) => match fatal(journal, &cause) {
                Some(fatal) => return Err(fatal),
                None => {
                    error!(%cause, "what is due to be removed from the record does not verify; nothing more is removed");
                    shared.desk().upkeep.stuck = Some(cause.to_string());
                }
            },
        }
        Ok(())
    }
}

/// The whole order, for a record that nobody else writes.
pub(super) fn at_once(journal: &mut Journal, order: &Order, now: Micros) -> Result<Done, RecordError> {
    match order {
        Order::Prune(wanted) => {
            let mut all = Removed::default();
            loop {
                let removed = journal.prune(wanted, now)?;
                if removed.is_nothing() {
                    return Ok(Done::Removed(all));
                }
                all.add(removed);
            }
        }
        Order::Rekey { by } => {
            let (generation, segments) = journal.rekey(by, now)?;
            Ok(Done::Rekeyed { generation, segments })
        }
        Order::ForgetKeys { used } => journal.forget_keys(used).map(Done::KeysLeft),
        Order::RotateSigningKey { by } => journal.rotate_signing_key(by, now).map(Done::SigningKey),
    }
}

fn answer(journal: &mut Journal, waiter: Reply, done: Result<Done, RecordError>) -> Result<(), StoreError> {
    let failed = done.as_ref().err().and_then(|cause| fatal(journal, cause));
    // Who no longer waits has dropped the other end.
    let _ = waiter.send(done);
    failed.map_or(Ok(()), Err)
}

/// What makes the journal useless. The rest was noticed before anything was written.
fn fatal(journal: &mut Journal, cause: &RecordError) -> Option<StoreError> {
    match cause {
        RecordError::Store(cause @ StoreError::Io { .. }) => Some(cause.clone()),
        RecordError::Store(cause) if !journal.is_empty() => Some(cause.clone()),
        _ => {
            journal.abandon();
            None
        }
    }
}

fn tell(pressure: Pressure, free: u64, total: u64) {
    match pressure {
        Pressure::Enough => info!(free, total, "the record has enough space again"),
        Pressure::Low => warn!(free, total, "little space is left for the record"),
        Pressure::Shedding => {
            error!(free, total, "too little space is left: the oldest of the record is shed")
        }
        Pressure::Refusing => {
            error!(free, total, "no space is left for the record: nothing new is forwarded")
        }
    }
}
