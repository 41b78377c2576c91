//! Lets the database engine recover a file that was not closed, in memory only. Never writes to the file beneath.
//!
//! After a kill the engine wants to repair its own bookkeeping before it reads. A reader must not write, and a writer
//! must first see that the record is sound; so both look through an overlay that keeps every write to itself.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

use super::disk::{Access, Disk, Segment, Space};

const PAGE: usize = 4096;
/// Pages the overlay may hold: 256 MiB. A repair that needs more is refused; the enforcer's own open does not.
const PAGES_MAX: usize = 64 * 1024;

/// A file with writes that only this object sees.
#[derive(Debug)]
pub(super) struct Overlay {
    beneath: Box<dyn StorageBackend>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    len: u64,
    /// Length of the file beneath that still shows through.
    shown: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Overlay {
    /// Over this file.
    ///
    /// # Errors
    /// Its length cannot be read.
    pub(super) fn over(beneath: Box<dyn StorageBackend>) -> io::Result<Self> {
        let len = beneath.len()?;
        Ok(Self { beneath, held: Mutex::new(Held { len, shown: len, pages: BTreeMap::new() }) })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the file beneath shows of `out`; zeros after its end.
    fn read_beneath(&self, held: &Held, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = held.shown.saturating_sub(offset).min(out.len() as u64) as usize;
        let (shown, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        if shown.is_empty() { Ok(()) } else { self.beneath.read(offset, shown) }
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.held().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let held = self.held();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > held.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_beneath(&held, offset, out)?;
        let (first, last) = (offset / PAGE as u64, (offset + out.len() as u64) / PAGE as u64);
        for (number, page) in held.pages.range(first..=last) {
            let start = number * PAGE as u64;
            let from = start.max(offset);
            let to = (start + PAGE as u64).min(offset + out.len() as u64);
            if from < to {
                let source = &page[(from - start) as usize..(to - start) as usize];
                out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut held = self.held();
        held.len = len;
        held.shown = held.shown.min(len);
        let (whole, cut) = (len / PAGE as u64, (len % PAGE as u64) as usize);
        held.pages.split_off(&len.div_ceil(PAGE as u64));
        if let Some(page) = held.pages.get_mut(&whole) {
            page[cut..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut held = self.held();
        let end = offset + data.len() as u64;
        held.len = held.len.max(end);
        let mut at = offset;
        while at < end {
            let number = at / PAGE as u64;
            let start = number * PAGE as u64;
            if !held.pages.contains_key(&number) {
                if held.pages.len() >= PAGES_MAX {
                    return Err(io::Error::other("repairing the database in memory needs more than 256 MiB"));
                }
                let mut page = Box::new([0; PAGE]);
                self.read_beneath(&held, start, &mut page[..])?;
                held.pages.insert(number, page);
            }
            let to = end.min(start + PAGE as u64);
            if let Some(page) = held.pages.get_mut(&number) {
                let target = &mut page[(at - start) as usize..(to - start) as usize];
                target.copy_from_slice(&data[(at - offset) as usize..(to - offset) as usize]);
            }
            at = to;
        }
        Ok(())
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

/// A disk on which writing can be tried: the database is overlaid, and nothing else is written.
#[derive(Debug, Clone)]
pub struct Rehearsal(pub Arc<dyn Disk>);

impl Disk for Rehearsal {
    fn exists(&self) -> io::Result<bool> {
        self.0.exists()
    }

    fn scratch(&self) -> io::Result<Box<dyn StorageBackend>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn adopt(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn database(&self, _access: Access) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Overlay::over(self.0.database(Access::Probe)?)?))
    }

    fn segment(&self, number: u32, _access: Access) -> io::Result<Arc<dyn Segment>> {
        self.0.segment(number, Access::Read)
    }

    fn segments(&self) -> io::Result<Vec<u32>> {
        self.0.segments()
    }

    fn remove_segment(&self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn database_bytes(&self) -> io::Result<u64> {
        self.0.database_bytes()
    }

    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }
}
