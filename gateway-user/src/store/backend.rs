//! What the database engine writes to. Says that nothing is durable in a file that nobody finds any more.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{BackendError, StorageBackend};

/// The database file as its writer has it: under its name, and as long as it was made.
#[derive(Debug)]
pub(super) struct Named {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    length: AtomicU64,
}

impl Named {
    pub(super) fn of(file: &File, path: PathBuf) -> io::Result<Self> {
        let about = file.metadata()?;
        Ok(Self { path, identity: (about.dev(), about.ino()), length: about.len().into() })
    }

    fn look(&self) -> io::Result<()> {
        let about = fs::metadata(&self.path)?;
        if (about.dev(), about.ino()) != self.identity {
            return Err(io::Error::other("another file was put in the place of the database"));
        }
        self.is_as_long(about.len())
    }

    fn is_as_long(&self, length: u64) -> io::Result<()> {
        match length == self.length.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(io::Error::other("somebody else changed the length of the database")),
        }
    }
}

/// The engine takes a backend by value; this is one behind a pointer.
#[derive(Debug)]
pub(super) struct Boxed {
    beneath: Box<dyn StorageBackend>,
    named: Option<Named>,
}

impl Boxed {
    pub(super) fn of(beneath: Box<dyn StorageBackend>) -> Self {
        Self { beneath, named: None }
    }

    /// With a look at the file after each sync, and at its length before each write.
    pub(super) fn named(beneath: Box<dyn StorageBackend>, named: Named) -> Self {
        Self { beneath, named: Some(named) }
    }
}

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.beneath.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.beneath.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.beneath.set_len(len)?;
        self.named.iter().for_each(|named| named.length.store(len, Ordering::Relaxed));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.beneath.sync_data()?;
        self.named.as_ref().map_or(Ok(()), Named::look)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        // A write at its end makes a file that was cut off as long as it was: then no later look finds out.
        if let Some(named) = &self.named {
            named.is_as_long(self.beneath.len()?)?;
        }
        self.beneath.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.beneath.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.beneath.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.beneath.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.beneath.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.beneath.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.beneath.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.beneath.query_lock_range(start, end)
    }
}
