//! One thread that writes: takes everything that waits, makes one commit of it, wakes all who wait. Never tells a
//! waiter that something is durable before it is, and never keeps one waiting for a disk that is gone.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::claim::Claims;
use super::desk::{Answer, Desk, Item, Owed, Shared, now, watch};
use super::entry::{CredentialClaimed, Event, Interrupted, Micros, Started};
use super::house::{Done, House, Order, Upkept};
use super::journal::{Journal, Refused, StateOp};
use super::witness::Witness;
use super::{Health, Keys, RecordError, Row, Stats, Tuning};
use crate::limits;
use crate::store::disk::Disk;
use crate::store::{Snapshot, StoreError, Viewer, close};

/// Why entries and sessions were closed that nobody closed.
const ABANDONED: &str = "the enforcer stopped before it ended";

/// Why an enforcer had to refuse what the recorder would have taken.
const HANDED_OVER: &str = "what was to be recorded could not be handed to the recorder";

/// A commit for at least this many callers was for a crowd: more of them are on their way.
const CROWD: usize = 4;
/// The longest that a crowd is waited for. No more than what a commit costs a busy disk.
const GATHER_MAX: Duration = Duration::from_millis(4);

/// A handle on the writer's thread. Dropping it writes what waits and ends the thread.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Shared>);

impl Writer {
    pub(crate) fn start(disk: Arc<dyn Disk>, keys: Keys, tuning: Tuning) -> Result<Self, RecordError> {
        let (journal, recovered) = open_patiently(&disk, &keys, &tuning)?;
        let witness = Witness::start(tuning.witnesses.to_vec())?;
        if recovered > 0 {
            warn!(recovered, "an earlier enforcer stopped with entries open; they are closed in the record");
        }
        let shared = Arc::new(Shared {
            desk: Mutex::new(Desk::new(recovered, journal.viewer())),
            work: Condvar::new(),
            done: Condvar::new(),
            tuning,
            keys,
            witness,
            claims: Claims::default(),
        });
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
            spawned.map(drop).map_err(StoreError::io("start the record's writer"))
        };
        let mine = Arc::clone(&shared);
        spawn("record-writer", Box::new(move || Loop { shared: mine, disk }.run(journal)))?;
        let mine = Arc::clone(&shared);
        spawn("record-watch", Box::new(move || watch(&mine)))?;
        Ok(Self(shared))
    }

    pub(crate) fn append(
        &self,
        state: Vec<StateOp>,
        events: Vec<Event>,
        patience: Duration,
    ) -> Result<oneshot::Receiver<Answer>, RecordError> {
        self.0.append(state, events, patience)
    }

    /// What could not be handed over, and how many flows and operations were refused meanwhile.
    pub(super) fn owe(&self, since: Micros, ends: Vec<Event>, refused: (u64, u64)) {
        let mut desk = self.0.desk();
        let room = limits::ENDS_KEPT_MAX.saturating_sub(desk.owing.ends.len());
        desk.owing.ends.extend(ends.into_iter().take(room));
        desk.owing.flows = desk.owing.flows.saturating_add(refused.0);
        desk.owing.operations = desk.owing.operations.saturating_add(refused.1);
        // Else it is told when the record is written again.
        let told = desk.owing.ends.len() >= limits::ENDS_KEPT_MAX;
        if desk.down.is_none() && desk.tight.is_none() && refused != (0, 0) && !told {
            let gap = desk.gap(since, HANDED_OVER);
            desk.owing.ends.push(gap);
        }
        self.0.work.notify_one();
    }

    /// Whether the record says so; then it does not a second time.
    pub(super) fn spend(&self, claim: &CredentialClaimed) -> bool {
        self.0.claims.spend(claim)
    }

    pub(crate) fn scan(&self, prefix: &[u8]) -> Result<Vec<Row>, RecordError> {
        Ok(self.snapshot()?.state_scan(prefix)?)
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, RecordError> {
        let viewer = self.0.desk().viewer.clone();
        match viewer.snapshot()? {
            Some(snapshot) => Ok(snapshot),
            None => Err(RecordError::Unavailable(
                self.0.desk().down.clone().unwrap_or_else(|| "it is closed".into()),
            )),
        }
    }

    pub(crate) fn order(
        &self,
        order: Order,
    ) -> Result<oneshot::Receiver<Result<Done, RecordError>>, RecordError> {
        self.0.order(order)
    }

    pub(crate) fn upkeep(&self) -> Upkept {
        let mut upkeep = self.0.desk().upkeep.clone();
        upkeep.witnesses = self.0.witness.states();
        upkeep
    }

    pub(crate) fn health(&self) -> Health {
        let desk = self.0.desk();
        let reason = desk.down.as_ref().or(desk.tight.as_ref().map(|(_, reason)| reason));
        reason.map_or(Health::Up, |reason| Health::Down(Arc::clone(reason)))
    }

    pub(crate) fn stats(&self) -> Stats {
        let desk = self.0.desk();
        Stats { waiting: desk.queued_events as u64, ..desk.stats }
    }

    pub(crate) fn close(&self) {
        let mut desk = self.0.desk();
        desk.stopping = true;
        self.0.work.notify_all();
        let bound = Instant::now() + self.0.tuning.commit;
        while !desk.stopped {
            let Some(left) = bound.checked_duration_since(Instant::now()) else { break };
            desk = self.0.done.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// A reader of a record that was not closed keeps the writer's lock for a moment.
fn open_patiently(disk: &Arc<dyn Disk>, keys: &Keys, tuning: &Tuning) -> Result<(Journal, u64), RecordError> {
    let bound = Instant::now() + limits::RECORD_OPEN_TIMEOUT;
    loop {
        match Journal::open(disk, keys, &tuning.retention, take_over) {
            Err(RecordError::Store(StoreError::InUse)) if Instant::now() < bound => {
                thread::sleep(Duration::from_millis(50))
            }
            other => return other,
        }
    }
}

/// Closes what an earlier enforcer left open, and says that this one started.
fn take_over(journal: &mut Journal) -> Result<u64, RecordError> {
    let at = now();
    let recovered = journal.ledger().entries() as u64;
    journal.introduce(at)?;
    let mut events = journal.ledger().abandoned(at, ABANDONED);
    events.push(Event::Started(Started { at, version: env!("CARGO_PKG_VERSION").to_owned(), recovered }));
    journal.add(Vec::new(), events).map_err(refusal)?;
    journal.commit(at)?;
    Ok(recovered)
}

fn refusal(refused: Refused) -> RecordError {
    match refused {
        Refused::NotOpen(cause) => cause.into(),
        Refused::NoRoom(cause, _) | Refused::Store(cause) => cause.into(),
    }
}

/// Whom the last commit was for, and how long it is worth waiting for as many again.
#[derive(Debug, Clone, Copy, Default)]
struct Crowd {
    callers: usize,
    patience: Duration,
}

/// The writer's thread.
struct Loop {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
}

impl Loop {
    fn run(self, journal: Journal) {
        let mut journal = Some(journal);
        let mut crowd = Crowd::default();
        let mut house = House::new(&self.shared.tuning);
        loop {
            let Some((items, ends)) = self.take(crowd, house.wake()) else { break };
            let (callers, begun) = (items.len(), Instant::now());
            let owed = Owed::of(&items, &ends);
            let Some(open) = journal.as_mut() else { break };
            let written = catch_unwind(AssertUnwindSafe(|| {
                self.write(open, items, ends)?;
                house.keep(&self.shared, open, now())
            }));
            let failed = match written {
                Ok(Ok(())) => {
                    // One commit for many costs little more than one for few; a lone writer never waits for others.
                    let patience = begun.elapsed().min(GATHER_MAX);
                    crowd = if callers < CROWD { Crowd::default() } else { Crowd { callers, patience } };
                    continue;
                }
                Ok(Err(failed)) => failed,
                Err(_) => StoreError::damaged("the writer", "it panicked; see the log"),
            };
            let _ = close(journal.take());
            journal = self.recover(&failed, owed);
        }
        if let Some(journal) = &mut journal {
            House::last(&self.shared, journal, now());
        }
        let _ = close(journal);
        self.shared.witness.close();
        let mut desk = self.shared.desk();
        desk.stopped = true;
        desk.stopping = true;
        desk.go_down(&"it is closed".into());
        self.shared.done.notify_all();
    }

    /// Waits for work that is due, then for the crowd that comes with it, and takes all of it; nothing where it is time to
    /// look for space; `None` when there is none and the writer shall stop.
    fn take(&self, crowd: Crowd, wake: Instant) -> Option<(Vec<Item>, Vec<Event>)> {
        let mut desk = self.shared.desk();
        loop {
            let idle = desk.queue.is_empty() && desk.owing.ends.is_empty();
            if idle && desk.stopping {
                let (since, reason) = desk.tight.take()?;
                let gap = desk.gap(since, &reason);
                desk.owing.ends.push(gap);
                continue;
            }
            if idle && (!desk.orders.is_empty() || Instant::now() >= wake) {
                return Some((Vec::new(), Vec::new()));
            }
            let due = desk.due.map(|due| due.saturating_duration_since(Instant::now()));
            if !idle
                && (desk.stopping || !desk.owing.ends.is_empty() || due.is_none_or(|wait| wait.is_zero()))
            {
                break;
            }
            // Where there was no space, it is looked for now and then.
            let wait = due.or(desk.tight.is_some().then_some(self.shared.tuning.retry));
            let wait = wait.unwrap_or(Duration::MAX).min(wake.saturating_duration_since(Instant::now()));
            let (woken, waited) =
                self.shared.work.wait_timeout(desk, wait).unwrap_or_else(PoisonError::into_inner);
            if idle && waited.timed_out() && woken.queue.is_empty() && woken.owing.ends.is_empty() {
                return Some((Vec::new(), Vec::new()));
            }
            desk = woken;
        }
        let bound = Instant::now() + crowd.patience;
        desk.awaited = crowd.callers;
        while desk.queue.len() < crowd.callers && !desk.stopping {
            let Some(left) = bound.checked_duration_since(Instant::now()) else { break };
            desk = self.shared.work.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        desk.awaited = 0;
        (desk.queued_events, desk.queued_bytes, desk.due) = (0, 0, None);
        desk.owing.refused.clear();
        let ends = mem::take(&mut desk.owing.ends);
        let items = mem::take(&mut desk.queue);
        desk.writing = Some((Instant::now(), Vec::new()));
        Some((items, ends))
    }

    /// One commit: what was queued, then the ends that no queue took (what they end was queued before them). Who waits
    /// stands in the desk all the time, since every step may touch a disk that does not answer.
    fn write(&self, journal: &mut Journal, items: Vec<Item>, ends: Vec<Event>) -> Result<(), StoreError> {
        let before = journal.link().sequence;
        let (mut failed, mut room) = (None, None);
        let (work, waiters): (Vec<_>, Vec<_>) =
            items.into_iter().map(|item| ((item.state, item.events), Some(item.waiter))).unzip();
        if let Some((_, slot)) = &mut self.shared.desk().writing {
            *slot = waiters;
        }
        for (at, (state, events)) in work.into_iter().enumerate() {
            let begins = events.iter().any(Event::is_beginning);
            match journal.add(state, events) {
                Ok(()) => room = if begins { room.or(Some(true)) } else { room },
                Err(Refused::NotOpen(cause)) => self.shared.desk().answer(at, Err(cause.into())),
                Err(Refused::NoRoom(cause, events)) => {
                    room = Some(false);
                    let mut desk = self.shared.desk();
                    desk.tighten(&cause, events);
                    desk.answer(at, Err(cause.into()));
                }
                Err(Refused::Store(cause)) => {
                    failed = Some(cause);
                    break;
                }
            }
        }
        for end in ends {
            match journal.add_event(end) {
                Ok(()) | Err(Refused::NotOpen(_)) => {}
                Err(Refused::NoRoom(cause, _) | Refused::Store(cause)) => failed = Some(cause),
            }
        }
        if let Some(cause) = failed {
            return Err(cause);
        }
        if !journal.is_empty() {
            journal.commit(now())?;
        }
        journal.tell(&self.shared.claims);
        let room = room.unwrap_or_else(|| journal.make_room().is_ok());
        self.written(journal, before, room);
        journal.tidy();
        Ok(())
    }

    fn written(&self, journal: &Journal, before: u64, room: bool) {
        let mut desk = self.shared.desk();
        let waiters = desk.writing.take().map(|(_, waiters)| waiters).unwrap_or_default();
        let frames = journal.link().sequence - before;
        desk.stats.commits += u64::from(frames > 0);
        desk.stats.frames += frames;
        if let Some(since) = desk.hung.take() {
            let reason = desk.down.take().unwrap_or_else(|| "the disk did not answer".into());
            let gap = desk.gap(since, &reason);
            desk.owing.ends.push(gap);
        }
        if let Some((since, reason)) = desk.tight.take_if(|_| room) {
            let gap = desk.gap(since, &reason);
            desk.owing.ends.push(gap);
        }
        drop(desk);
        for waiter in waiters.into_iter().flatten() {
            // Who no longer waits has dropped the other end.
            let _ = waiter.send(Ok(()));
        }
    }

    /// After a failure: refuses everything, and tries to open and to write until that works. `None` when the writer
    /// shall stop.
    fn recover(&self, failed: &StoreError, owed: Owed) -> Option<Journal> {
        let mut since = now();
        let reason: Arc<str> = failed.to_string().into();
        error!(%reason, "the record cannot be written; nothing is forwarded until it can");
        {
            let mut desk = self.shared.desk();
            since = desk.tight.take().map_or(since, |(before, _)| before);
            desk.hung = None;
            desk.viewer = Viewer::default();
            desk.go_down(&reason);
            desk.owing.flows = desk.owing.flows.saturating_add(owed.flows);
            desk.owing.operations = desk.owing.operations.saturating_add(owed.operations);
            let room = limits::ENDS_KEPT_MAX.saturating_sub(desk.owing.ends.len());
            let later = mem::take(&mut desk.owing.ends);
            desk.owing.ends = owed.ends.into_iter().take(room).chain(later).collect();
        }
        loop {
            {
                let desk = self.shared.desk();
                let (desk, _) = self
                    .shared
                    .work
                    .wait_timeout_while(desk, self.shared.tuning.retry, |desk| !desk.stopping)
                    .unwrap_or_else(PoisonError::into_inner);
                if desk.stopping {
                    return None;
                }
            }
            match catch_unwind(AssertUnwindSafe(|| self.come_back(since, &reason))) {
                Ok(Ok(journal)) => return Some(journal),
                Ok(Err(cause)) => warn!(%cause, "the record still cannot be written"),
                Err(_) => error!("the record's recovery panicked"),
            }
        }
    }

    /// Opens the record again and writes what it owes: the ends that were kept, and that there was a gap.
    fn come_back(&self, since: Micros, reason: &Arc<str>) -> Result<Journal, RecordError> {
        let mut journal = Journal::reopen(&self.disk, &self.shared.keys, &self.shared.tuning.retention)?;
        let (ends, flows, operations) = {
            let desk = self.shared.desk();
            (desk.owing.ends.clone(), desk.owing.flows, desk.owing.operations)
        };
        let written = ends.len();
        for end in ends {
            match journal.add_event(end) {
                Ok(()) | Err(Refused::NotOpen(_)) => {}
                Err(Refused::NoRoom(cause, _) | Refused::Store(cause)) => return Err(cause.into()),
            }
        }
        let gap = Interrupted { at: now(), since, reason: reason.to_string(), flows, operations };
        journal.add_event(Event::Interrupted(gap)).map_err(refusal)?;
        journal.commit(now())?;
        let mut desk = self.shared.desk();
        desk.owing.ends.drain(..written);
        desk.owing.flows -= flows;
        desk.owing.operations -= operations;
        desk.down = None;
        desk.viewer = journal.viewer();
        info!(flows, operations, "the record is written again");
        Ok(journal)
    }
}
