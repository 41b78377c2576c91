//! The record: what happened, chained and durable before it takes effect. Never says that something is recorded
//! before it is on disk, and never blocks who asks.
//!
//! [`Recorder::append`] takes an event and gives a [`Durable`] that resolves when the event is on disk. When the disk
//! fails, is full or hangs, `append` refuses at once and the caller answers 503; the record comes back by itself.

pub mod chain;
mod desk;
pub mod entry;
pub mod export;
pub mod frame;
pub mod index;
mod journal;
pub mod ledger;
pub mod operations;
pub mod read;
pub mod search;
mod summary;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod walk;
mod writer;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

use self::entry::Event;
pub use self::journal::StateOp;
use self::writer::Writer;
use crate::limits;
pub use crate::store::Row;
use crate::store::StoreError;
use crate::store::disk::{Disk, Folder};

/// The directory of the record below the state directory.
pub const DIRECTORY: &str = "record";

/// Why something is not recorded. The caller forwards nothing then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// The disk failed, is full, or hangs.
    #[error("the record cannot be written, so nothing is forwarded until it can: {0}")]
    Unavailable(Arc<str>),
    /// More is waiting for the disk than the bounds allow.
    #[error("the record's queue is full ({waiting} events); the disk is too slow for this load")]
    Full {
        /// Events that wait.
        waiting: usize,
    },
    /// It is about a session or an entry that is not open in the record.
    #[error(transparent)]
    NotOpen(#[from] ledger::NotOpen),
    /// One event, key or value beyond its bound.
    #[error("{what} of {bytes} bytes is more than the record takes ({max})")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        max: usize,
    },
    /// The recorder was closed.
    #[error("the record is closed; the enforcer is stopping")]
    Closed,
    /// The store cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Resolves when what was appended is on disk. Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "nothing is durable before this resolves"]
pub struct Durable(oneshot::Receiver<Result<(), RecordError>>);

impl Durable {
    /// What is known now; `None` while it is under way. Not to be waited for after it has answered.
    pub fn now(&mut self) -> Option<Result<(), RecordError>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(RecordError::Closed)),
        }
    }

    /// Waits on this thread. Not for async code.
    ///
    /// # Errors
    /// As the future's output.
    pub fn wait(self) -> Result<(), RecordError> {
        self.0.blocking_recv().unwrap_or(Err(RecordError::Closed))
    }
}

impl Future for Durable {
    type Output = Result<(), RecordError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(RecordError::Closed)))
    }
}

/// How the record is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Events become durable.
    Up,
    /// They do not, for this reason; it is tried again and again.
    Down(Arc<str>),
}

/// What was written since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commits.
    pub commits: u64,
    /// Events and changes of state.
    pub frames: u64,
    /// Events and changes of state that were refused.
    pub refused: u64,
    /// Events that wait now.
    pub waiting: u64,
    /// Entries open at the start, which an earlier enforcer had left.
    pub recovered: u64,
}

/// Bounds and times of one recorder. The defaults are those of [`crate::limits`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    pub(crate) queue: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) commit: Duration,
    pub(crate) retry: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            queue: limits::JOURNAL_QUEUE_MAX,
            queue_bytes: limits::JOURNAL_QUEUE_BYTES_MAX,
            commit: limits::COMMIT_TIMEOUT,
            retry: limits::RECORD_RETRY,
        }
    }
}

/// Is shown every event that is taken, before it is durable. Must be quick, and must not append.
#[derive(Clone)]
struct Observer(Arc<dyn Fn(&Event) + Send + Sync>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer(..)")
    }
}

/// Writes the record. Clones share one writer; when the last is dropped, what waits is written and the writer ends.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Writer>, Option<Observer>);

impl Recorder {
    /// Opens the record below this state directory, makes one where there is none. What an earlier enforcer left
    /// open is closed in the record, and an [`Event::Started`] says how much that was.
    ///
    /// # Errors
    /// The record is damaged (nothing was changed then), another process writes it, or the disk refuses.
    pub fn open(state: &Path) -> Result<Self, RecordError> {
        let disk =
            Folder::create(&state.join(DIRECTORY)).map_err(StoreError::io("make the record's directory"))?;
        Self::open_on(Arc::new(disk), Tuning::default())
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, tuning: Tuning) -> Result<Self, RecordError> {
        Ok(Self(Arc::new(Writer::start(disk, tuning)?), None))
    }

    /// Shows every event that this and its later clones take to `observer`, before it is durable: for signals, never
    /// for what must be true. It must be quick, and must not append.
    #[must_use]
    pub fn observed(self, observer: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(self.0, Some(Observer(Arc::new(observer))))
    }

    /// Takes an event. Never blocks.
    ///
    /// An event about a session or entry is refused (through the [`Durable`]) unless its opening is durable or comes
    /// in the same commit. Always hand in the end of an entry or session, also after its opening gave an error: a
    /// commit that failed or hung may turn out to be there. An end is kept and written when the record comes back,
    /// even where this or the [`Durable`] gives an error; the end of what never became durable is dropped.
    ///
    /// # Errors
    /// The record cannot be written now, or the queue is full.
    pub fn append(&self, event: Event) -> Result<Durable, RecordError> {
        self.append_all(vec![event])
    }

    /// Takes events, in order: all become durable in one commit, or none. Never blocks.
    ///
    /// # Errors
    /// As [`Recorder::append`].
    pub fn append_all(&self, events: Vec<Event>) -> Result<Durable, RecordError> {
        self.append_with(Vec::new(), events)
    }

    /// Takes events that nobody waits for at once. They are part of the next commit, and make one begin only after
    /// [`limits::COMMIT_PATIENCE`]; else as [`Recorder::append_all`].
    ///
    /// # Errors
    /// As [`Recorder::append`].
    pub fn append_soon(&self, events: Vec<Event>) -> Result<Durable, RecordError> {
        self.take(Vec::new(), events, limits::COMMIT_PATIENCE)
    }

    /// Takes changes of the small state and events: all become durable in one commit, or none.
    ///
    /// # Errors
    /// As [`Recorder::append`].
    pub fn append_with(&self, state: Vec<StateOp>, events: Vec<Event>) -> Result<Durable, RecordError> {
        self.take(state, events, Duration::ZERO)
    }

    fn take(
        &self,
        state: Vec<StateOp>,
        events: Vec<Event>,
        patience: Duration,
    ) -> Result<Durable, RecordError> {
        if let Some(Observer(observer)) = &self.1 {
            events.iter().for_each(|event| observer(event));
        }
        self.0.append(state, events, patience).map(Durable)
    }

    /// Puts a value under a key, durably. Where the [`Durable`] gives an error the value may still turn out to be
    /// there after the next start.
    ///
    /// # Errors
    /// As [`Recorder::append`].
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Durable, RecordError> {
        self.append_with(vec![StateOp::Put(key.to_vec(), value.to_vec())], Vec::new())
    }

    /// Removes what is under a key, durably.
    ///
    /// # Errors
    /// As [`Recorder::append`].
    pub fn remove(&self, key: &[u8]) -> Result<Durable, RecordError> {
        self.append_with(vec![StateOp::Remove(key.to_vec())], Vec::new())
    }

    /// Every key that starts with `prefix` and its value, in key order, as committed now.
    ///
    /// # Errors
    /// The store is not open now, or cannot be read.
    pub fn scan(&self, prefix: &[u8]) -> Result<Vec<Row>, RecordError> {
        self.0.scan(prefix)
    }

    /// What is committed now.
    fn snapshot(&self) -> Result<crate::store::Snapshot, RecordError> {
        self.0.snapshot()
    }

    /// How it is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.health()
    }

    /// What was written so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Writes what waits and ends the writer; clones refuse from now on. Waits at most
    /// [`limits::COMMIT_TIMEOUT`].
    pub fn close(&self) {
        self.0.close();
    }
}
