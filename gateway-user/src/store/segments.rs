//! Bodies, appended to segment files, compressed and encrypted. Never rewrites a byte that a commit refers to, and writes
//! none in clear.
//!
//! Each segment has a random key of its own, which stands in the segment's row, sealed with the keyring: so a rotation of
//! the keyring writes rows only, and with its row a segment is gone for good. Bodies of a target that has an age of its
//! own lie in a lane of segments of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;
use zstd::bulk::Compressor;

use super::disk::{Access, Disk, Segment};
use super::keyring::{Keyring, SealError, Secret, random};
use super::{Snapshot, StoreError};
use crate::operation::Sha256;

/// Bytes after which the next segment begins.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Microseconds after which the next segment begins, so that old bodies do not wait for young ones: a day.
const SEGMENT_SPAN: i64 = 24 * 60 * 60 * 1_000_000;
/// Bytes that are kept free for bodies of what is under way. Some of the longest, or a great many short ones.
const ROOM_BYTES: u64 = 4 * 1024 * 1024;
/// Fast, and within a few percent of the default level on JSON.
const LEVEL: i32 = 1;
/// A random nonce before each body. Even one-byte bodies are no more than 2^22 in a segment, so that two of one segment
/// get the same nonce with a chance below 2^-52.
pub(super) const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Bytes a body takes beside its own.
pub(super) const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// Where a body's bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Number of the segment file.
    pub segment: u32,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Bytes there: nonce, ciphertext, tag. `length` and 28 where compression did not help.
    pub stored: u32,
    /// Bytes after decryption and decompression.
    pub length: u32,
    /// `commitment` to those.
    pub digest: Sha256,
}

/// What the chain holds of a body: a digest that says nothing to who guesses the body, because its blinding comes from
/// the segment's key and is gone with it.
pub(super) fn commitment(blinding: &Sha256, body: &[u8]) -> Sha256 {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(b"tidegate record 1 body\0");
    context.update(&blinding.0);
    context.update(body);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Sha256(out)
}

/// The row of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRow {
    /// Its lane: the target whose bodies it holds, or empty for all others.
    pub lane: String,
    /// The first commit that refers to it.
    pub first: u64,
    /// When that was written, microseconds since the epoch.
    pub born: i64,
    /// Its key, sealed.
    pub key: Vec<u8>,
}

impl SegmentRow {
    /// Reads a row.
    ///
    /// # Errors
    /// It is damaged.
    pub fn read(number: u32, row: &[u8]) -> Result<Self, StoreError> {
        postcard::from_bytes(row)
            .map_err(|cause| StoreError::damaged(format!("the row of segment {number:08}.seg"), cause))
    }

    /// Its bytes.
    ///
    /// # Errors
    /// Memory.
    pub fn bytes(&self) -> Result<Vec<u8>, StoreError> {
        postcard::to_allocvec(self).map_err(|cause| StoreError::damaged("a row in memory", cause))
    }

    /// The same, sealed with the current generation.
    ///
    /// # Errors
    /// Its key does not open.
    pub fn resealed(&self, number: u32, store: &Sha256, keys: &Keyring) -> Result<Self, StoreError> {
        let key = self.open(number, store, keys)?;
        Ok(Self { key: seal(number, store, keys, &key)?, ..self.clone() })
    }

    pub(super) fn open(&self, number: u32, store: &Sha256, keys: &Keyring) -> Result<Secret, StoreError> {
        let what = || format!("body segment {number:08}.seg");
        let opened = keys.open_sealed(&aad(number, store), &self.key).map_err(|cause| match cause {
            SealError::NoKey(_) => StoreError::Sealed { what: what(), detail: cause.to_string() },
            other => StoreError::damaged(format!("the key of {}", what()), other),
        })?;
        let key: [u8; 32] = opened.as_slice().try_into().map_err(|_| {
            StoreError::damaged(format!("the key of {}", what()), "it has another length than a key")
        })?;
        Ok(Zeroizing::new(key))
    }
}

fn aad(number: u32, store: &Sha256) -> Vec<u8> {
    [b"tidegate segment 1\0".as_slice(), &store.0, &number.to_be_bytes()].concat()
}

fn seal(number: u32, store: &Sha256, keys: &Keyring, key: &Secret) -> Result<Vec<u8>, StoreError> {
    keys.seal(&aad(number, store), &key[..]).map_err(|cause| StoreError::Sealed {
        what: format!("body segment {number:08}.seg"),
        detail: cause.to_string(),
    })
}

/// What one segment is encrypted with.
pub(super) struct BodyKey {
    pub(super) cipher: LessSafeKey,
    blinding: hmac::Key,
}

impl BodyKey {
    pub(super) fn of(secret: &Secret) -> Result<Self, StoreError> {
        let master = hmac::Key::new(hmac::HMAC_SHA256, &secret[..]);
        let cipher = hmac::sign(&master, b"tidegate body cipher 1");
        let blinding = hmac::sign(&master, b"tidegate body blinding 1");
        let cipher = UnboundKey::new(&AES_256_GCM, cipher.as_ref())
            .map_err(|cause| StoreError::damaged("a key in memory", cause))?;
        Ok(Self {
            cipher: LessSafeKey::new(cipher),
            blinding: hmac::Key::new(hmac::HMAC_SHA256, blinding.as_ref()),
        })
    }

    pub(super) fn blinding(&self, nonce: &[u8]) -> Sha256 {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.blinding, nonce).as_ref());
        Sha256(out)
    }
}

pub(super) fn body_aad(segment: u32, offset: u64) -> Aad<[u8; 12]> {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&segment.to_be_bytes());
    bytes[4..].copy_from_slice(&offset.to_be_bytes());
    Aad::from(bytes)
}

/// One lane: the segment that its bodies go to.
struct Lane {
    number: u32,
    file: Arc<dyn Segment>,
    key: BodyKey,
    /// Its row, until the first commit that refers to it.
    fresh: Option<SegmentRow>,
    /// End of what commits refer to, and of what was there when the segment was opened.
    end: u64,
    /// Where the space ends that is taken already.
    reserved: u64,
    /// Bytes of this batch, to be written at `end`.
    pending: Vec<u8>,
    /// When the first commit that refers to it was written, and the last; microseconds since the epoch.
    born: i64,
    last: i64,
}

/// Appends to the last segment of each lane.
pub(crate) struct Appender {
    disk: Arc<dyn Disk>,
    store: Sha256,
    keys: Keyring,
    lanes: BTreeMap<String, Lane>,
    next: u32,
    /// When the last commit was written, microseconds since the epoch.
    now: i64,
    compressor: Compressor<'static>,
    scratch: Vec<u8>,
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender")
            .field("next", &self.next)
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

impl Appender {
    /// Continues after the last segment of each lane, and after the last number that was ever given.
    ///
    /// # Errors
    /// The key of one is missing, or the disk refuses.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        snapshot: &Snapshot,
        store: Sha256,
        keys: Keyring,
        now: i64,
        given: u32,
    ) -> Result<Self, StoreError> {
        let files = disk.segments().map_err(StoreError::io("list the body segments"))?;
        let rows = snapshot.segments()?;
        let last = files.last().copied().max(rows.last().map(|(number, _)| *number)).unwrap_or(0);
        let unused = rows.iter().all(|(number, _)| *number != last) && is_empty(disk.as_ref(), last);
        let compressor = Compressor::new(LEVEL).map_err(StoreError::io("start the compressor"))?;
        let mut lanes = BTreeMap::new();
        for (number, row) in rows {
            let row = SegmentRow::read(number, &row)?;
            let secret = row.open(number, &store, &keys)?;
            if files.contains(&number) {
                let file = open_segment(disk.as_ref(), number)?;
                let end = file.len().map_err(StoreError::io(format!("open body segment {number}")))?;
                let lane = Lane {
                    number,
                    file,
                    key: BodyKey::of(&secret)?,
                    fresh: None,
                    end,
                    reserved: 0,
                    pending: Vec::new(),
                    born: row.born,
                    last: now,
                };
                lanes.insert(row.lane, lane);
            }
        }
        // A number is never given twice: a tombstone may name it.
        let next = (if unused { last } else { last + 1 }).max(given + 1);
        Ok(Self { disk, store, keys, lanes, next, now, compressor, scratch: Vec::new() })
    }

    /// Makes sure that there is space for bodies, before anything begins that will have one.
    ///
    /// # Errors
    /// There is not. What has begun may still find its space.
    pub(crate) fn make_room(&mut self) -> Result<(), StoreError> {
        self.lane("")?;
        for lane in self.lanes.values_mut() {
            let end = lane.end + lane.pending.len() as u64;
            if lane.reserved >= end + ROOM_BYTES / 2 {
                continue;
            }
            match lane.file.reserve(end, ROOM_BYTES) {
                Ok(()) => lane.reserved = end + ROOM_BYTES,
                // Such a file system is found full by writing only.
                Err(cause) if cause.kind() == io::ErrorKind::Unsupported => lane.reserved = u64::MAX,
                Err(cause) => return Err(StoreError::io("take space for bodies")(cause)),
            }
        }
        Ok(())
    }

    /// Takes a body into this batch and says where it will lie.
    pub(crate) fn place(&mut self, lane: &str, bytes: &[u8]) -> Result<Placed, StoreError> {
        self.scratch.resize(zstd::zstd_safe::compress_bound(bytes.len()), 0);
        let packed = self.compressor.compress_to_buffer(bytes, &mut self.scratch[..]);
        let packed = packed.map_err(StoreError::io("compress a body"))?;
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| StoreError::io("encrypt a body")(io::Error::other("no random numbers")))?;
        // Lent out, since the lane is borrowed from the same whole.
        let scratch = std::mem::take(&mut self.scratch);
        let plain = if packed < bytes.len() { &scratch[..packed] } else { bytes };
        let placed = self.lane(lane)?.append(plain, bytes, nonce);
        self.scratch = scratch;
        placed
    }

    /// The lane, with a segment that has space left.
    fn lane(&mut self, name: &str) -> Result<&mut Lane, StoreError> {
        let now = self.now;
        let full = |lane: &Lane| {
            let old = lane.fresh.is_none() && now.saturating_sub(lane.born) >= SEGMENT_SPAN;
            lane.pending.is_empty() && (lane.end >= SEGMENT_BYTES || old)
        };
        if self.lanes.get(name).is_none_or(full) {
            let lane = self.begin(name)?;
            self.lanes.insert(name.to_owned(), lane);
        }
        self.lanes.get_mut(name).ok_or_else(|| StoreError::damaged("a lane in memory", "it is missing"))
    }

    fn begin(&mut self, lane: &str) -> Result<Lane, StoreError> {
        let number = self.next;
        let secret =
            random().map_err(|cause| StoreError::io("make a key")(io::Error::other(cause.to_string())))?;
        let row = SegmentRow {
            lane: lane.to_owned(),
            first: 0,
            born: 0,
            key: seal(number, &self.store, &self.keys, &secret)?,
        };
        let file = open_segment(self.disk.as_ref(), number)?;
        self.next += 1;
        Ok(Lane {
            number,
            file,
            key: BodyKey::of(&secret)?,
            fresh: Some(row),
            end: 0,
            reserved: 0,
            pending: Vec::new(),
            born: 0,
            last: 0,
        })
    }

    /// Writes this batch's bodies and makes them durable. A failure gives back the space it took, if it can. Gives the
    /// rows of segments that this commit refers to first.
    pub(crate) fn sync(&mut self, commit: u64, written: i64) -> Result<Vec<(u32, SegmentRow)>, StoreError> {
        let mut rows = Vec::new();
        for lane in self.lanes.values_mut().filter(|lane| !lane.pending.is_empty()) {
            let kept = lane.file.write_at(lane.end, &lane.pending).and_then(|()| lane.file.sync());
            if let Err(cause) = kept {
                let _ = lane.file.set_len(lane.end);
                return Err(StoreError::io(format!("write body segment {}", lane.number))(cause));
            }
            lane.end += lane.pending.len() as u64;
            lane.pending.clear();
            lane.last = written;
            if let Some(row) = lane.fresh.take() {
                lane.born = written;
                rows.push((lane.number, SegmentRow { first: commit, born: written, ..row }));
            }
        }
        self.now = written;
        Ok(rows)
    }

    /// When the last commit that refers to this segment was written, if it is open here.
    pub(crate) fn last_use(&self, segment: u32) -> Option<i64> {
        self.lanes.values().find(|lane| lane.number == segment).map(|lane| lane.last)
    }

    /// Lets go of a segment that is shed; the next body of its lane begins a new one.
    pub(crate) fn forget(&mut self, segment: u32) {
        self.lanes.retain(|_, lane| lane.number != segment);
    }

    /// Seals the keys of segments that no commit refers to yet with the current generation.
    pub(crate) fn reseal(&mut self) -> Result<(), StoreError> {
        for lane in self.lanes.values_mut() {
            if let Some(row) = &mut lane.fresh {
                *row = row.resealed(lane.number, &self.store, &self.keys)?;
            }
        }
        Ok(())
    }

    /// Removes the files of segments that have no row: shed, or left by a crash.
    pub(crate) fn sweep(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        for number in self.disk.segments().map_err(StoreError::io("list the body segments"))? {
            let open = self.lanes.values().any(|lane| lane.number == number);
            if !open && snapshot.segment(number)?.is_none() {
                let doing = || format!("remove body segment {number:08}.seg");
                self.disk.remove_segment(number).map_err(StoreError::io(doing()))?;
            }
        }
        Ok(())
    }
}

impl Lane {
    fn append(&mut self, plain: &[u8], bytes: &[u8], nonce: [u8; NONCE_BYTES]) -> Result<Placed, StoreError> {
        let start = self.pending.len();
        let offset = self.end + start as u64;
        self.pending.extend_from_slice(&nonce);
        self.pending.extend_from_slice(plain);
        let sealed = self.key.cipher.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            body_aad(self.number, offset),
            &mut self.pending[start + NONCE_BYTES..],
        );
        let Ok(tag) = sealed else {
            self.pending.truncate(start);
            return Err(StoreError::io("encrypt a body")(io::Error::other("the cipher refused")));
        };
        self.pending.extend_from_slice(tag.as_ref());
        Ok(Placed {
            segment: self.number,
            offset,
            stored: (plain.len() + OVERHEAD_BYTES) as u32,
            length: bytes.len() as u32,
            digest: commitment(&self.key.blinding(&nonce), bytes),
        })
    }
}

fn is_empty(disk: &dyn Disk, number: u32) -> bool {
    disk.segment(number, Access::Read).and_then(|file| file.is_empty()).unwrap_or(false)
}

fn open_segment(disk: &dyn Disk, number: u32) -> Result<Arc<dyn Segment>, StoreError> {
    disk.segment(number, Access::Write).map_err(StoreError::io(format!("open body segment {number}")))
}
