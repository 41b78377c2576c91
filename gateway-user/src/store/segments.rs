//! Bodies, appended to segment files and compressed. Never rewrites a byte that a commit refers to.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use zstd::bulk::{Compressor, decompress};

use super::StoreError;
use super::disk::{Access, Disk, Segment};
use crate::operation::Sha256;

/// Bytes after which the next segment begins.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes that are kept free for bodies of what is under way. Some of the longest, or a great many short ones.
const ROOM_BYTES: u64 = 4 * 1024 * 1024;
/// Fast, and within a few percent of the default level on JSON.
const LEVEL: i32 = 1;
/// Segment files a reader keeps open.
const OPEN_MAX: usize = 64;

/// Where a body's bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Placed {
    /// Number of the segment file.
    pub segment: u32,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Bytes there. Equal to `length` where compression did not help and the bytes are stored plain.
    pub stored: u32,
    /// Bytes after decompression.
    pub length: u32,
    /// Digest of those.
    pub digest: Sha256,
}

/// Appends to the last segment.
pub(crate) struct Appender {
    disk: Arc<dyn Disk>,
    file: Option<Arc<dyn Segment>>,
    number: u32,
    /// End of what commits refer to, and of what was there when the segment was opened.
    end: u64,
    /// Where the space ends that is taken already.
    reserved: u64,
    /// Bytes of this batch, to be written at `end`.
    pending: Vec<u8>,
    compressor: Compressor<'static>,
    scratch: Vec<u8>,
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender")
            .field("number", &self.number)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Appender {
    /// Continues after the last segment there is.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let last = disk.segments().map_err(StoreError::io("list the body segments"))?.pop();
        let compressor = Compressor::new(LEVEL).map_err(StoreError::io("start the compressor"))?;
        let mut appender = Self {
            disk,
            file: None,
            number: last.unwrap_or(1),
            end: 0,
            reserved: 0,
            pending: Vec::new(),
            compressor,
            scratch: Vec::new(),
        };
        if last.is_some() {
            appender.file()?;
        }
        Ok(appender)
    }

    /// Makes sure that there is space for bodies, before anything begins that will have one.
    ///
    /// # Errors
    /// There is not. What has begun may still find its space.
    pub(crate) fn make_room(&mut self) -> Result<(), StoreError> {
        self.roll_over();
        let file = self.file()?;
        let end = self.end + self.pending.len() as u64;
        if self.reserved >= end + ROOM_BYTES / 2 {
            return Ok(());
        }
        match file.reserve(end, ROOM_BYTES) {
            Ok(()) => self.reserved = end + ROOM_BYTES,
            // Such a file system is found full by writing only.
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => self.reserved = u64::MAX,
            Err(cause) => return Err(StoreError::io("take space for bodies")(cause)),
        }
        Ok(())
    }

    /// Takes a body into this batch and says where it will lie.
    pub(crate) fn place(&mut self, bytes: &[u8]) -> Result<Placed, StoreError> {
        self.roll_over();
        self.file()?;
        self.scratch.resize(zstd::zstd_safe::compress_bound(bytes.len()), 0);
        let packed = self.compressor.compress_to_buffer(bytes, &mut self.scratch[..]);
        let packed = packed.map_err(StoreError::io("compress a body"))?;
        let stored = if packed < bytes.len() { &self.scratch[..packed] } else { bytes };
        let offset = self.end + self.pending.len() as u64;
        self.pending.extend_from_slice(stored);
        Ok(Placed {
            segment: self.number,
            offset,
            stored: stored.len() as u32,
            length: bytes.len() as u32,
            digest: Sha256::of(bytes),
        })
    }

    /// Begins the next segment, where this one is long enough and between two batches.
    fn roll_over(&mut self) {
        if self.pending.is_empty() && self.end >= SEGMENT_BYTES {
            self.number += 1;
            (self.end, self.reserved) = (0, 0);
            self.file = None;
        }
    }

    /// Writes this batch's bodies and makes them durable. A failure gives back the space it took, if it can.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let end = self.end;
        let file = self.file()?;
        let written = file.write_at(end, &self.pending).and_then(|()| file.sync());
        if let Err(cause) = written {
            let _ = file.set_len(end);
            return Err(StoreError::io(format!("write body segment {}", self.number))(cause));
        }
        self.end += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn file(&mut self) -> Result<Arc<dyn Segment>, StoreError> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let doing = format!("open body segment {}", self.number);
        let file = self.disk.segment(self.number, Access::Write).map_err(StoreError::io(doing.clone()))?;
        self.end = file.len().map_err(StoreError::io(doing))?;
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }
}

/// Reads bodies.
#[derive(Debug)]
pub struct Bodies {
    disk: Arc<dyn Disk>,
    open: Mutex<BTreeMap<u32, Arc<dyn Segment>>>,
}

impl Bodies {
    /// Of the store on this disk.
    #[must_use]
    pub fn of(disk: Arc<dyn Disk>) -> Self {
        Self { disk, open: Mutex::new(BTreeMap::new()) }
    }

    /// The bytes at this place, decompressed and checked against their digest.
    ///
    /// # Errors
    /// They are missing, unreadable, or not the bytes that were recorded.
    pub fn read(&self, placed: &Placed) -> Result<Vec<u8>, StoreError> {
        let place = || format!("body segment {:08}.seg at byte {}", placed.segment, placed.offset);
        if placed.stored > placed.length || placed.length as usize > crate::limits::BODY_STRETCH_BYTES {
            return Err(StoreError::damaged(place(), "its recorded lengths contradict each other"));
        }
        let mut stored = vec![0; placed.stored as usize];
        let read = self.file(placed.segment).and_then(|file| file.read_at(placed.offset, &mut stored));
        read.map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => StoreError::damaged(place(), "the file is missing"),
            io::ErrorKind::UnexpectedEof => {
                StoreError::damaged(place(), "the file ends before the body does")
            }
            _ => StoreError::io(format!("read {}", place()))(cause),
        })?;
        let bytes = if placed.stored == placed.length {
            stored
        } else {
            decompress(&stored, placed.length as usize)
                .map_err(|cause| StoreError::damaged(place(), format!("it does not decompress ({cause})")))?
        };
        if Sha256::of(&bytes) != placed.digest {
            return Err(StoreError::damaged(place(), "the bytes are not those that were recorded"));
        }
        Ok(bytes)
    }

    fn file(&self, number: u32) -> io::Result<Arc<dyn Segment>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.segment(number, Access::Read)?;
        if open.len() >= OPEN_MAX {
            open.pop_first();
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }
}
