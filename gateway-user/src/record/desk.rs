//! Where events wait for the writer, and who waits for them. Bounded in events and in bytes; what does not fit, or comes
//! while the disk is gone, is refused at once.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info};

use super::claim::Claims;
use super::entry::{Event, Interrupted, Micros};
use super::house::{Done, Order, Upkept};
use super::journal::StateOp;
use super::owing::Owing;
use super::witness::Witness;
use super::{Keys, RecordError, Stats, Tuning};
use crate::limits;
use crate::store::{StoreError, Viewer};

pub(super) type Answer = Result<(), RecordError>;
pub(super) type Waiter = oneshot::Sender<Answer>;

/// What one caller appended.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) state: Vec<StateOp>,
    pub(super) events: Vec<Event>,
    pub(super) waiter: Waiter,
}

/// Shared between callers, writer and watchdog.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) queue: Vec<Item>,
    pub(super) queued_events: usize,
    pub(super) queued_bytes: usize,
    /// When the commit of what is queued begins at the latest.
    pub(super) due: Option<Instant>,
    /// The writer waits for so many callers; 0 where it waits for none.
    pub(super) awaited: usize,
    /// What no queue took. Its ends are written with the next commit.
    pub(super) owing: Owing,
    /// Waiters of the commit being written, and since when.
    pub(super) writing: Option<(Instant, Vec<Option<Waiter>>)>,
    pub(super) down: Option<Arc<str>>,
    /// Since when the disk does not answer, if the watchdog, not the writer, set `down`.
    pub(super) hung: Option<Micros>,
    /// Since when there is no space for anything new, and why. What has begun is still written.
    pub(super) tight: Option<(Micros, Arc<str>)>,
    pub(super) stats: Stats,
    pub(super) stopping: bool,
    pub(super) stopped: bool,
    pub(super) viewer: Viewer,
    /// What operators want done, and who waits for it.
    pub(super) orders: Vec<(Order, oneshot::Sender<Result<Done, RecordError>>)>,
    pub(super) upkeep: Upkept,
}

/// The desk and its bells.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) desk: Mutex<Desk>,
    /// Something waits, or the writer shall stop.
    pub(super) work: Condvar,
    /// The writer stopped.
    pub(super) done: Condvar,
    pub(super) tuning: Tuning,
    pub(super) keys: Keys,
    pub(super) witness: Witness,
    pub(super) claims: Claims,
}

impl Shared {
    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an order for the writer.
    pub(super) fn order(
        &self,
        order: Order,
    ) -> Result<oneshot::Receiver<Result<Done, RecordError>>, RecordError> {
        let mut desk = self.desk();
        if desk.stopping {
            return Err(RecordError::Closed);
        }
        if let Some(reason) = &desk.down {
            return Err(RecordError::Unavailable(Arc::clone(reason)));
        }
        if desk.orders.len() >= limits::RECORD_ORDERS_MAX {
            return Err(RecordError::Full { waiting: desk.orders.len() });
        }
        let (waiter, receiver) = oneshot::channel();
        desk.orders.push((order, waiter));
        self.work.notify_one();
        Ok(receiver)
    }

    pub(super) fn append(
        &self,
        state: Vec<StateOp>,
        events: Vec<Event>,
        patience: Duration,
    ) -> Result<oneshot::Receiver<Answer>, RecordError> {
        let bytes = weigh(&state, &events)?;
        let count = state.len() + events.len();
        let mut desk = self.desk();
        let refusal = if desk.stopping {
            Some(RecordError::Closed)
        } else if let Some(reason) = &desk.down {
            Some(RecordError::Unavailable(Arc::clone(reason)))
        } else if let Some((_, reason)) =
            desk.tight.as_ref().filter(|_| events.iter().any(Event::is_beginning))
        {
            Some(RecordError::Unavailable(Arc::clone(reason)))
        } else if desk.queued_events + count > self.tuning.queue
            || desk.queued_bytes + bytes > self.tuning.queue_bytes
        {
            Some(RecordError::Full { waiting: desk.queued_events })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            desk.stats.refused += count as u64;
            desk.owing.lose(events);
            return Err(refusal);
        }
        let (waiter, receiver) = oneshot::channel();
        desk.queue.push(Item { state, events, waiter });
        desk.queued_events += count;
        desk.queued_bytes += bytes;
        let due = Instant::now() + patience;
        let sooner = desk.due.is_none_or(|due_now| due < due_now);
        if sooner {
            desk.due = Some(due);
        }
        // A writer that is writing looks at the queue again by itself; one that waits for a crowd, when that is there.
        let here = desk.queue.len() == desk.awaited;
        if desk.writing.is_none() && (here || (sooner && desk.awaited == 0)) {
            self.work.notify_one();
        }
        Ok(receiver)
    }
}

impl Desk {
    /// Of a record that was just opened.
    pub(super) fn new(recovered: u64, viewer: Viewer) -> Self {
        Self {
            queue: Vec::new(),
            queued_events: 0,
            queued_bytes: 0,
            due: None,
            awaited: 0,
            owing: Owing::default(),
            writing: None,
            down: None,
            hung: None,
            tight: None,
            stats: Stats { recovered, ..Stats::default() },
            stopping: false,
            stopped: false,
            viewer,
            orders: Vec::new(),
            upkeep: Upkept::default(),
        }
    }

    /// Answers one of those who wait for the commit being written.
    pub(super) fn answer(&mut self, at: usize, answer: Answer) {
        let waiter = self.writing.as_mut().and_then(|(_, waiters)| waiters.get_mut(at)?.take());
        // Who no longer waits has dropped the other end.
        drop(waiter.map(|waiter| waiter.send(answer)));
    }

    /// Refuses what begins something: there is no space for what it would bring.
    pub(super) fn tighten(&mut self, cause: &StoreError, events: Vec<Event>) {
        self.stats.refused += events.len() as u64;
        self.owing.lose(events);
        if self.tight.is_none() {
            error!(reason = %cause, "no space for the record of anything new; nothing new is forwarded until there is");
            self.tight = Some((now(), cause.to_string().into()));
        }
    }

    /// What was refused since, as an event; nothing of it is told again.
    pub(super) fn gap(&mut self, since: Micros, reason: &str) -> Event {
        let (flows, operations) = (mem::take(&mut self.owing.flows), mem::take(&mut self.owing.operations));
        info!(flows, operations, "the record is written again");
        Event::Interrupted(Interrupted { at: now(), since, reason: reason.to_owned(), flows, operations })
    }

    /// Refuses everything from now on, and whoever waits.
    pub(super) fn go_down(&mut self, reason: &Arc<str>) {
        let refusal = || Err(RecordError::Unavailable(Arc::clone(reason)));
        self.down = Some(Arc::clone(reason));
        let (_, waiters) = self.writing.take().unwrap_or((Instant::now(), Vec::new()));
        self.stats.refused += (waiters.len() + self.queued_events) as u64;
        waiters.into_iter().flatten().for_each(|waiter| drop(waiter.send(refusal())));
        (self.queued_events, self.queued_bytes, self.due) = (0, 0, None);
        for (_, waiter) in mem::take(&mut self.orders) {
            drop(waiter.send(Err(RecordError::Unavailable(Arc::clone(reason)))));
        }
        for item in mem::take(&mut self.queue) {
            self.owing.lose(item.events);
            drop(item.waiter.send(refusal()));
        }
    }
}

/// What a commit that fails leaves behind.
pub(super) struct Owed {
    pub(super) ends: Vec<Event>,
    pub(super) flows: u64,
    pub(super) operations: u64,
}

impl Owed {
    pub(super) fn of(items: &[Item], ends: &[Event]) -> Self {
        let mut owed = Self { ends: ends.to_vec(), flows: 0, operations: 0 };
        for event in items.iter().flat_map(|item| &item.events) {
            match event {
                Event::SessionOpened(_) => owed.flows += 1,
                Event::Intent(_) => owed.operations += 1,
                end if end.is_end() => owed.ends.push(end.clone()),
                _ => {}
            }
        }
        owed
    }
}

/// Fails those who wait for a commit that takes too long.
pub(super) fn watch(shared: &Shared) {
    let tick = (shared.tuning.commit / 20).max(Duration::from_millis(5));
    loop {
        thread::sleep(tick);
        let mut desk = shared.desk();
        if desk.stopped {
            return;
        }
        let since = desk.writing.as_ref().map(|(since, _)| *since);
        if since.is_some_and(|since| since.elapsed() > shared.tuning.commit) && desk.down.is_none() {
            let reason: Arc<str> = format!("the disk has not answered for {:?}", shared.tuning.commit).into();
            error!(%reason, "the record hangs; nothing is forwarded until the disk answers");
            desk.hung = Some(now());
            desk.go_down(&reason);
        }
    }
}

/// Checks the bounds of single values and gives the weight of all.
pub(super) fn weigh(state: &[StateOp], events: &[Event]) -> Result<usize, RecordError> {
    let bound =
        |what, bytes, max| if bytes > max { Err(RecordError::TooLarge { what, bytes, max }) } else { Ok(()) };
    let mut bytes = 0;
    // What any change takes, however short its key.
    const BASE: usize = 64;
    for change in state {
        let (key, value) = match change {
            StateOp::Put(key, value) => (key.len(), value.len()),
            StateOp::Remove(key) => (key.len(), 0),
        };
        bound("a key", key, limits::STATE_KEY_BYTES_MAX)?;
        bound("a value", value, limits::STATE_VALUE_BYTES_MAX)?;
        bytes += BASE + key + value;
    }
    for event in events {
        let weight = event.weight();
        match event {
            Event::Body(body) => bound("a stretch of a body", body.bytes.len(), limits::BODY_STRETCH_BYTES)?,
            _ => bound("an event", weight, limits::EVENT_BYTES_MAX)?,
        }
        bytes += weight;
    }
    Ok(bytes)
}

/// Microseconds since the Unix epoch.
pub(super) fn now() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::entry::Verdict;
    use crate::record::tests::{entry_closed, entry_id, intent, session_id};

    #[test]
    fn ends_are_kept_up_to_their_bound_and_never_for_what_was_refused() {
        let mut desk = Owing::default();
        let refused = entry_id();
        desk.lose(vec![intent(session_id(), refused, "ann", Verdict::Allow), entry_closed(refused)]);
        assert!(desk.ends.is_empty() && desk.refused.is_empty());
        assert_eq!(desk.operations, 1);
        let end = entry_closed(entry_id());
        desk.lose(vec![end.clone(); limits::ENDS_KEPT_MAX]);
        assert_eq!(desk.ends.len(), limits::ENDS_KEPT_MAX);
        desk.lose(vec![end]);
        assert_eq!(desk.ends.len(), limits::ENDS_KEPT_MAX);
    }
}
