//! Rows in redb and bodies beside them: one durable batch at a time. The only module that names redb; never repairs,
//! truncates or overwrites what it finds damaged.
//!
//! A batch is durable in this order: the bytes of its bodies are synced to their segment, then one redb transaction
//! with the packed commit, its index rows and the small state is committed (two-phase, quick repair). What a commit
//! refers to is on disk before the commit is. The layout is written down byte by byte in `docs/RECORD.md`.

mod backend;
mod bodies;
pub mod disk;
pub mod keyfile;
pub mod keyring;
mod overlay;
mod segments;
#[cfg(test)]
pub(crate) mod sim;
mod snapshot;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{
    Builder, ConcurrencyMode, Database, ReadOnlyDatabase, ReadableDatabase, Table, TableDefinition,
    WriteTransaction,
};

use self::backend::Boxed;
pub use self::bodies::Bodies;
use self::disk::{Access, Disk};
use self::overlay::Overlay;
pub use self::overlay::Rehearsal;
pub(crate) use self::segments::Appender;
pub use self::segments::{Placed, SegmentRow};
pub use self::snapshot::{IndexRows, Row, Snapshot};

/// Names and single rows about the whole store.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Commit number and part to a part of the packed commit.
const COMMITS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("commits");
/// Index key and commit number to positions in that commit.
const INDEX: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("index");
/// Second of writing to the first commit written in it.
const TIMES: TableDefinition<'_, i64, u64> = TableDefinition::new("times");
/// Small durable state.
const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");

/// Segment of bodies to its [`SegmentRow`].
const SEGMENTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("segments");
/// Level and index to a node of the tree over the commits.
const TREE: TableDefinition<'_, (u8, u64), &[u8; 32]> = TableDefinition::new("tree");
/// Number of commits to what was signed of them.
const HEADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("heads");

/// Bytes of one part of a packed commit. The engine rounds a value's page up to a power of two, so that one large value
/// wastes up to half; this just fits 64 KiB, and many of them waste little.
pub const PART_BYTES: usize = 64 * 1024 - 256;

/// Bytes of pages the writer keeps in memory.
const WRITER_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of pages a reader keeps in memory.
const READER_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Why the store cannot do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no store.
    #[error("there is no record here ({0}): start the enforcer once, or name its state directory")]
    Missing(String),
    /// Another process has it open for writing.
    #[error("another process is writing this record; only one enforcer may, so stop that one first")]
    InUse,
    /// Its bytes contradict themselves.
    #[error(
        "the record is damaged: {what}: {detail}. Nothing was changed. Keep the directory as evidence, and move it away to start a new record"
    )]
    Damaged {
        /// Which part.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Its key is missing.
    #[error("{what} is sealed: {detail}")]
    Sealed {
        /// Which part.
        what: String,
        /// Which key it needs.
        detail: String,
    },
    /// A segment of bodies that is no longer there: shed, or lost.
    #[error("the body is gone: segment {0:08}.seg is no longer kept")]
    Gone(u32),
    /// The disk or the file system refused.
    #[error("cannot {doing}: {cause}; check space, permissions and the disk")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        cause: Arc<io::Error>,
    },
}

impl StoreError {
    /// A system error while doing something.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |cause| Self::Io { doing, cause: Arc::new(cause) }
    }

    /// Bytes that contradict themselves.
    pub(crate) fn damaged(what: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::Damaged { what: what.into(), detail: detail.to_string() }
    }
}

/// Runs engine code. Its errors, and its panics over damaged pages, come back as one clear error.
fn guarded<T>(doing: &str, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(StoreError::InUse),
        // A file that ends before its own pages do is cut short, not a disk that refuses.
        Ok(Err(redb::Error::Io(cause)))
            if matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Err(StoreError::damaged(format!("the database, trying to {doing}"), cause))
        }
        Ok(Err(redb::Error::Io(cause))) => Err(StoreError::io(doing)(cause)),
        Ok(Err(redb::Error::PreviousIo)) => {
            Err(StoreError::io(doing)(io::Error::other("an earlier write failed")))
        }
        Ok(Err(other)) => Err(StoreError::damaged(format!("the database, trying to {doing}"), other)),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it gave no reason");
            Err(StoreError::damaged(format!("the database's own pages, trying to {doing}"), said))
        }
    }
}

fn builder(cache: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter).set_cache_size(cache);
    builder
}

/// What one durable batch changes.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// The packed commit's number and bytes.
    pub commit: Option<(u64, &'a [u8])>,
    /// Index rows.
    pub index: &'a [(Vec<u8>, Vec<u8>)],
    /// The second it was written in, where no earlier commit was.
    pub second: Option<i64>,
    /// State put (`Some`) and removed (`None`), in order.
    pub state: &'a [(Vec<u8>, Option<Vec<u8>>)],
    /// Rows about the whole store.
    pub meta: &'a [(&'a str, Vec<u8>)],
    /// Segments put (`Some`) and removed (`None`).
    pub segments: &'a [(u32, Option<Vec<u8>>)],
    /// New nodes of the tree.
    pub tree: &'a [((u8, u64), [u8; 32])],
    /// What was signed, by number of commits.
    pub signed: Option<(u64, &'a [u8])>,
    /// What is pruned.
    pub cut: Option<&'a Cut>,
}

/// What pruning removes.
#[derive(Debug, Default)]
pub struct Cut {
    /// Commits from the first to before this one.
    pub below: u64,
    /// The first that is there.
    pub from: u64,
    /// Keys of index rows.
    pub index: Vec<Vec<u8>>,
    /// Seconds of the time index.
    pub seconds: Vec<i64>,
    /// Nodes of the tree.
    pub tree: Vec<(u8, u64)>,
}

/// The store, open for writing.
#[derive(Debug)]
pub struct Store {
    database: Arc<Database>,
}

impl Store {
    /// Makes a new store that holds these rows, whole or not at all.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(disk: &dyn Disk, first: &Batch<'_>) -> Result<(), StoreError> {
        let backend = disk.scratch().map_err(StoreError::io("make the record's database"))?;
        let store = guarded("make a new database", || {
            let database = builder(WRITER_CACHE_BYTES).create_with_backend(Boxed::of(backend))?;
            Ok(Self { database: Arc::new(database) })
        })?;
        store.commit(first)?;
        close(store)?;
        disk.adopt().map_err(StoreError::io("name the record's new database"))
    }

    /// Opens it for writing. The engine's own recovery runs; nothing else is changed.
    ///
    /// # Errors
    /// Another process has it open; it is damaged; the disk refuses.
    pub fn open(disk: &dyn Disk) -> Result<Self, StoreError> {
        let backend = disk.database(Access::Write).map_err(StoreError::io("open the record's database"))?;
        guarded("open the database", || {
            let database = builder(WRITER_CACHE_BYTES).create_with_backend(Boxed::of(backend))?;
            Ok(Self { database: Arc::new(database) })
        })
    }

    /// Writes one batch and returns when it is durable.
    ///
    /// # Errors
    /// The disk refuses. The batch may or may not be there then; the store must be opened again to find out.
    pub fn commit(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        guarded("write to the database", || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            {
                let mut commits = transaction.open_table(COMMITS)?;
                let mut index = transaction.open_table(INDEX)?;
                let mut meta = transaction.open_table(META)?;
                if let Some((number, bytes)) = batch.commit {
                    for (bytes, part) in bytes.chunks(PART_BYTES).zip(0_u32..) {
                        commits.insert((number, part), bytes)?;
                    }
                    if let Some(second) = batch.second {
                        transaction.open_table(TIMES)?.insert(second, number)?;
                    }
                }
                for (key, value) in batch.index {
                    index.insert(key.as_slice(), value.as_slice())?;
                }
                // Opening a table costs; a new store gets them all.
                if batch.commit.is_none() {
                    transaction.open_table(TIMES)?;
                }
                if batch.commit.is_none() || !batch.state.is_empty() {
                    put_state(&mut transaction.open_table(STATE)?, batch.state)?;
                }
                for (key, value) in batch.meta {
                    meta.insert(*key, value.as_slice())?;
                }
            }
            put_upkeep(&transaction, batch)?;
            Ok(transaction.commit()?)
        })
    }

    /// What is committed now.
    ///
    /// # Errors
    /// The database is damaged or the disk refuses.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        guarded("read the database", || Snapshot::of(self.database.begin_read()?))
    }

    /// A handle for readers in this process that does not keep the store open.
    #[must_use]
    pub fn viewer(&self) -> Viewer {
        Viewer(Arc::downgrade(&self.database))
    }
}

/// What most commits do not have. Opening a table costs; a new store gets them all.
fn put_upkeep(transaction: &WriteTransaction, batch: &Batch<'_>) -> Result<(), redb::Error> {
    let new = batch.commit.is_none();
    if new || !batch.tree.is_empty() {
        let mut tree = transaction.open_table(TREE)?;
        for (at, hash) in batch.tree {
            tree.insert(at, hash)?;
        }
    }
    if new || !batch.segments.is_empty() {
        let mut segments = transaction.open_table(SEGMENTS)?;
        for (number, row) in batch.segments {
            match row {
                Some(row) => drop(segments.insert(number, row.as_slice())?),
                None => drop(segments.remove(number)?),
            }
        }
    }
    if new || batch.signed.is_some() {
        let mut heads = transaction.open_table(HEADS)?;
        if let Some((commits, head)) = batch.signed {
            heads.insert(commits, head)?;
        }
    }
    batch.cut.map_or(Ok(()), |cut| prune(transaction, cut))
}

fn prune(transaction: &WriteTransaction, cut: &Cut) -> Result<(), redb::Error> {
    transaction.open_table(COMMITS)?.retain_in((cut.from, 0)..(cut.below, 0), |_, _| false)?;
    transaction.open_table(HEADS)?.retain_in(..cut.below, |_, _| false)?;
    let mut index = transaction.open_table(INDEX)?;
    for key in &cut.index {
        index.remove(key.as_slice())?;
    }
    let mut times = transaction.open_table(TIMES)?;
    for second in &cut.seconds {
        times.remove(second)?;
    }
    let mut tree = transaction.open_table(TREE)?;
    for at in &cut.tree {
        tree.remove(at)?;
    }
    Ok(())
}

fn put_state(
    table: &mut Table<'_, &[u8], &[u8]>,
    rows: &[(Vec<u8>, Option<Vec<u8>>)],
) -> Result<(), redb::Error> {
    for (key, value) in rows {
        match value {
            Some(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
            None => drop(table.remove(key.as_slice())?),
        }
    }
    Ok(())
}

/// Drops what holds an open store. The engine walks pages when it closes, and they may be damaged.
///
/// # Errors
/// They are.
pub fn close<T>(holder: T) -> Result<(), StoreError> {
    guarded("close the database", move || {
        drop(holder);
        Ok(())
    })
}

/// Reads a store that this process has open for writing.
#[derive(Debug, Clone, Default)]
pub struct Viewer(std::sync::Weak<Database>);

impl Viewer {
    /// What is committed now, or `None` while the store is closed.
    ///
    /// # Errors
    /// The database is damaged or the disk refuses.
    pub fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        let Some(database) = self.0.upgrade() else { return Ok(None) };
        guarded("read the database", || Snapshot::of(database.begin_read()?)).map(Some)
    }
}

enum Handle {
    /// Beside a running writer, or after a clean end.
    Beside(ReadOnlyDatabase),
    /// After an unclean end: recovered in memory.
    Recovered(Database),
}

/// The store, open for reading.
pub struct ReadStore {
    /// `None` only while it is dropped.
    handle: Option<Handle>,
}

impl fmt::Debug for ReadStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadStore").field("recovered", &self.is_recovered()).finish_non_exhaustive()
    }
}

impl ReadStore {
    /// Opens it. Changes nothing on disk, whatever state the store is in.
    ///
    /// # Errors
    /// It is missing or damaged, or the disk refuses.
    pub fn open(disk: &dyn Disk) -> Result<Self, StoreError> {
        let there = disk.exists().map_err(StoreError::io("look for the record's database"))?;
        if !there {
            return Err(StoreError::Missing(format!("{disk:?}")));
        }
        let doing = "open the record's database to read";
        let backend = disk.database(Access::Read).map_err(StoreError::io(doing))?;
        let beside = guarded("open the database to read", || {
            match builder(READER_CACHE_BYTES).open_read_only_with_backend(Boxed::of(backend)) {
                Ok(database) => Ok(Some(Handle::Beside(database))),
                Err(redb::DatabaseError::RepairAborted) => Ok(None),
                Err(other) => Err(other.into()),
            }
        })?;
        if beside.is_some() {
            return Ok(Self { handle: beside });
        }
        let doing = "open the record's database, which was not closed, for a look";
        let backend = disk.database(Access::Probe).and_then(Overlay::over).map_err(StoreError::io(doing))?;
        let handle = guarded("recover the database in memory", || {
            Ok(Handle::Recovered(builder(READER_CACHE_BYTES).create_with_backend(backend)?))
        })?;
        Ok(Self { handle: Some(handle) })
    }

    /// Whether somebody has it open for writing now. Asked by trying the writer's lock for a moment; writes nothing.
    ///
    /// # Errors
    /// As [`ReadStore::open`].
    pub fn is_being_written(disk: &dyn Disk) -> Result<bool, StoreError> {
        if !disk.exists().map_err(StoreError::io("look for the record's database"))? {
            return Err(StoreError::Missing(format!("{disk:?}")));
        }
        let doing = "look whether the record's database is being written";
        let backend = disk.database(Access::Probe).and_then(Overlay::over).map_err(StoreError::io(doing))?;
        let tried = guarded(doing, || Ok(builder(READER_CACHE_BYTES).create_with_backend(backend)?));
        match tried.and_then(close) {
            Ok(()) => Ok(false),
            Err(StoreError::InUse) => Ok(true),
            Err(other) => Err(other),
        }
    }

    /// Whether it shows a store that was not closed, recovered in memory. It follows no commits then, and keeps an
    /// enforcer from starting until it is dropped.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        matches!(self.handle, Some(Handle::Recovered(_)))
    }

    /// What is committed now.
    ///
    /// # Errors
    /// The database is damaged or the disk refuses.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        guarded("read the database", || match &self.handle {
            Some(Handle::Beside(database)) => Snapshot::of(database.begin_read()?),
            Some(Handle::Recovered(database)) => Snapshot::of(database.begin_read()?),
            None => Err(redb::Error::DatabaseClosed),
        })
    }
}

impl Drop for ReadStore {
    fn drop(&mut self) {
        let _ = close(self.handle.take());
    }
}
