//! The record: what happened, chained and durable before it takes effect. Never says that something is recorded
//! before it is on disk, and never blocks who asks.
//!
//! [`Recorder::append`] takes an event and gives a [`Durable`] that resolves when the event is on disk. When the disk
//! fails, is full or hangs, `append` refuses at once and the caller answers 503; the record comes back by itself.

pub mod chain;
mod claim;
mod desk;
pub mod entry;
pub mod export;
pub mod frame;
pub mod head;
mod house;
pub mod index;
mod journal;
pub mod ledger;
pub mod line;
pub mod list;
pub mod operations;
mod owing;
pub mod proof;
pub mod read;
mod retention;
pub mod search;
pub mod stats;
mod story;
mod summary;
#[cfg(test)]
mod tests;
pub mod tree;
pub mod verify;
pub mod walk;
pub mod warrant;
pub mod witness;
mod writer;

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::entry::Event;
use self::head::{ListedKey, Signer};
pub use self::house::{Done, Order, Upkept};
use self::journal::Journal;
pub use self::journal::StateOp;
pub use self::line::Connect;
use self::line::Line;
pub use self::retention::{Marks, Pressure, Removed, Retention, Spare, Wanted};
use self::warrant::Warrants;
use self::writer::Writer;
use crate::limits;
pub use crate::store::Row;
use crate::store::StoreError;
use crate::store::disk::{Disk, Folder};
use crate::store::keyfile::{KEYS, KeyError, Place};
use crate::store::keyring::Keyring;

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
    /// It is recorded, and not signed yet.
    #[error("no signed checkpoint covers {0} yet: the enforcer makes one within a minute, and when it stops")]
    Unsigned(String),
    /// The record is another process's, which takes no such order from this one.
    #[error("the recorder takes orders at its own socket, from root: `sudo tidegate record ...`")]
    Elsewhere,
    /// It says that a human did something, and admin, which operators talk to, has not said so.
    #[error(
        "the recorder was not told by admin that somebody does just this; if the policy is being changed, ask again"
    )]
    Unvouched,
    /// Keys cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The file of the keys that checkpoints are signed with, in [`KEYS`].
const SIGNING_KEY: &str = "signing.key";

/// The keys of one record.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Bodies are encrypted with these.
    pub bodies: Keyring,
    /// The seeds of the keys that checkpoints are signed with.
    signing: Keyring,
}

impl Keys {
    /// Opens the keys of the record below this state directory; makes them where there is no record yet.
    ///
    /// # Errors
    /// A record is there and its keys are not, or they cannot be used.
    pub fn open(state: &Path, bodies: &Place) -> Result<Self, KeyError> {
        let signing = Place::file(&state.join(KEYS).join(SIGNING_KEY), None);
        let known = state.join(DIRECTORY).join(crate::store::disk::DATABASE).exists();
        let open = if known { Keyring::open } else { Keyring::open_or_make };
        Ok(Self { bodies: open(bodies)?, signing: open(&signing)? })
    }

    /// The one that signs after these were listed: the last of them. For a new record, the newest there is.
    fn signer(&self, listed: &[ListedKey]) -> Result<Option<Signer>, StoreError> {
        let ring = self.signing.ring();
        let Some(last) = listed.last() else {
            return ring.secrets().last().map(|(_, seed)| Signer::of(seed)).transpose();
        };
        for (_, seed) in ring.secrets() {
            let signer = Signer::of(seed)?;
            if signer.public() == last.public {
                return Ok(Some(signer));
            }
        }
        let detail = format!(
            "the seed of signing key {} is not in its key file: put the file back, for no other key can take its place",
            last.public
        );
        Err(StoreError::Sealed { what: "the end of the record".to_owned(), detail })
    }
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone)]
pub(crate) struct Tuning {
    pub(crate) queue: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) commit: Duration,
    pub(crate) retry: Duration,
    /// Events and time after which what is written is signed.
    pub(crate) sign_events: u64,
    pub(crate) sign_period: Duration,
    /// Between two looks at what may be removed.
    pub(crate) upkeep: Duration,
    pub(crate) retention: Arc<Retention>,
    pub(crate) witnesses: Arc<[witness::Kind]>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            queue: limits::JOURNAL_QUEUE_MAX,
            queue_bytes: limits::JOURNAL_QUEUE_BYTES_MAX,
            commit: limits::COMMIT_TIMEOUT,
            retry: limits::RECORD_RETRY,
            sign_events: limits::SIGN_EVENTS,
            sign_period: limits::SIGN_PERIOD,
            upkeep: limits::UPKEEP_PERIOD,
            retention: Arc::new(Retention::default()),
            witnesses: Arc::new([]),
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

/// Does this to a record that no enforcer writes. Closes nothing that is open in it.
///
/// # Errors
/// Another process writes it; it is damaged; it cannot be done.
pub fn offline(state: &Path, keys: &Keys, order: &Order) -> Result<Done, RecordError> {
    let disk =
        Folder::create(&state.join(DIRECTORY)).map_err(StoreError::io("open the record's directory"))?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let (mut journal, ()) = Journal::open(&disk, keys, &Arc::new(Retention::default()), |_| Ok(()))?;
    let done = house::at_once(&mut journal, order, now());
    let signed = journal.sign_now(now());
    crate::store::close(journal)?;
    signed?;
    done
}

/// Microseconds since the Unix epoch.
fn now() -> entry::Micros {
    jiff::Timestamp::now().as_microsecond()
}

/// Writes the record. Clones share one writer; when the last is dropped, what waits is written and the writer ends.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Hand>, Option<Observer>);

/// Who writes.
#[derive(Debug)]
enum Hand {
    /// A thread of this process.
    Own(Writer),
    /// Another process.
    Far(Line),
}

impl Recorder {
    /// Opens the record below this state directory, makes one where there is none. What an earlier enforcer left
    /// open is closed in the record, and an [`Event::Started`] says how much that was.
    ///
    /// # Errors
    /// The record is damaged (nothing was changed then), another process writes it, or the disk refuses.
    pub fn open(state: &Path) -> Result<Self, RecordError> {
        Self::open_with(state, Keys::open(state, &Place::below(state))?, Retention::default(), Vec::new())
    }

    /// As [`Recorder::open`], with these keys, this retention and these witnesses.
    ///
    /// # Errors
    /// As [`Recorder::open`].
    pub fn open_with(
        state: &Path,
        keys: Keys,
        retention: Retention,
        witnesses: Vec<witness::Kind>,
    ) -> Result<Self, RecordError> {
        let disk =
            Folder::create(&state.join(DIRECTORY)).map_err(StoreError::io("make the record's directory"))?;
        let tuning =
            Tuning { retention: Arc::new(retention), witnesses: witnesses.into(), ..Tuning::default() };
        Self::open_keyed(Arc::new(disk), keys, tuning)
    }

    pub(crate) fn open_keyed(disk: Arc<dyn Disk>, keys: Keys, tuning: Tuning) -> Result<Self, RecordError> {
        Ok(Self(Arc::new(Hand::Own(Writer::start(disk, keys, tuning)?)), None))
    }

    /// Hands over to the recorder that `connect` gives a line to, and to the next one where that is gone. Blocks until the
    /// record is open.
    ///
    /// # Errors
    /// There is none, or it cannot open the record.
    pub fn through(connect: Connect) -> Result<Self, RecordError> {
        Ok(Self(Arc::new(Hand::Far(Line::open(connect)?)), None))
    }

    /// Takes what an enforcer hands over on this line, until that is gone; that a human did something only where there is a
    /// warrant for it. Blocks.
    ///
    /// # Errors
    /// The line broke, or carried something that is no message.
    pub fn serve(&self, line: &UnixStream, warrants: &Arc<Warrants>) -> io::Result<()> {
        line::serve(self, line, warrants)
    }

    /// With the keys of tests.
    #[cfg(test)]
    pub(crate) fn open_on(disk: Arc<dyn Disk>, tuning: Tuning) -> Result<Self, RecordError> {
        Self::open_keyed(disk, tests::keys(), tuning)
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
        self.append_within(Vec::new(), events, limits::COMMIT_PATIENCE)
    }

    /// Takes changes of the small state and events: all become durable in one commit, or none.
    ///
    /// # Errors
    /// As [`Recorder::append`].
    pub fn append_with(&self, state: Vec<StateOp>, events: Vec<Event>) -> Result<Durable, RecordError> {
        self.append_within(state, events, Duration::ZERO)
    }

    fn append_within(
        &self,
        state: Vec<StateOp>,
        events: Vec<Event>,
        patience: Duration,
    ) -> Result<Durable, RecordError> {
        if let Some(Observer(observer)) = &self.1 {
            events.iter().for_each(|event| observer(event));
        }
        match &*self.0 {
            Hand::Own(writer) => writer.append(state, events, patience),
            Hand::Far(line) => line.append(state, events, patience),
        }
        .map(Durable)
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
        match &*self.0 {
            Hand::Own(writer) => writer.scan(prefix),
            Hand::Far(line) => line.scan(prefix),
        }
    }

    /// Whether the record says that this entry uses this credential on this target; then it does not a second time.
    #[must_use]
    pub fn spend(&self, claim: &entry::CredentialClaimed) -> bool {
        match &*self.0 {
            Hand::Own(writer) => writer.spend(claim),
            // The recorder says it to whoever has the vault, and to nobody else.
            Hand::Far(_) => false,
        }
    }

    /// What could not be handed over, and how much was refused meanwhile.
    fn owe(&self, since: entry::Micros, ends: Vec<Event>, refused: (u64, u64)) {
        if let Hand::Own(writer) = &*self.0 {
            writer.owe(since, ends, refused);
        }
    }

    /// Has the writer do something to the record itself, and waits for it on this thread. Not for async code.
    ///
    /// # Errors
    /// It cannot be done, or not now.
    pub fn order(&self, order: Order) -> Result<Done, RecordError> {
        match &*self.0 {
            Hand::Own(writer) => writer.order(order)?.blocking_recv().unwrap_or(Err(RecordError::Closed)),
            Hand::Far(_) => Err(RecordError::Elsewhere),
        }
    }

    /// What was done to the record itself, and how much space it has.
    #[must_use]
    pub fn upkeep(&self) -> Upkept {
        match &*self.0 {
            Hand::Own(writer) => writer.upkeep(),
            Hand::Far(line) => line.upkeep(),
        }
    }

    /// How it is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        match &*self.0 {
            Hand::Own(writer) => writer.health(),
            Hand::Far(line) => line.health(),
        }
    }

    /// What was written so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match &*self.0 {
            Hand::Own(writer) => writer.stats(),
            Hand::Far(line) => line.stats(),
        }
    }

    /// Writes what waits and ends the writer; clones refuse from now on. Waits at most
    /// [`limits::COMMIT_TIMEOUT`].
    pub fn close(&self) {
        match &*self.0 {
            Hand::Own(writer) => writer.close(),
            Hand::Far(line) => line.close(),
        };
    }
}
