//! SHA-256 of program files, each computed once.
//!
//! Remembers digests by device, inode, change time and size; a file that changes while it is read has none.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use crate::limits::{EXECUTABLE_BYTES_MAX, EXECUTABLE_CACHE_MAX};
use crate::operation::Sha256;

/// A version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl Version {
    fn of(file: &File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        meta.is_file().then_some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            changed: (meta.ctime(), meta.ctime_nsec()),
            size: meta.size(),
        })
    }
}

type Slot = Arc<OnceLock<Option<Sha256>>>;

/// Digests remembered, oldest first out.
#[derive(Debug, Default)]
struct Known {
    slots: HashMap<Version, Slot>,
    order: VecDeque<Version>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<Known>);

impl Digests {
    /// The digest of an open file; `None` where it is too large, cannot be read, or changed meanwhile. Blocks while the
    /// file is read, and while another thread reads the same one.
    pub(super) fn of(&self, file: &mut File) -> Option<Sha256> {
        let version = Version::of(file)?;
        if version.size > EXECUTABLE_BYTES_MAX {
            return None;
        }
        let slot = self.slot(version);
        let digest = *slot.get_or_init(|| hash(file).filter(|_| Version::of(file) == Some(version)));
        if digest.is_none() {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.slots.remove(&version);
            known.order.retain(|other| *other != version);
        }
        digest
    }

    fn slot(&self, version: Version) -> Slot {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = known.slots.get(&version) {
            return slot.clone();
        }
        if known.order.len() >= EXECUTABLE_CACHE_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.slots.remove(&oldest);
        }
        let slot = Slot::default();
        known.slots.insert(version, slot.clone());
        known.order.push_back(version);
        slot
    }
}

fn hash(file: &mut File) -> Option<Sha256> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0u64;
    loop {
        let read = file.read(&mut buffer).ok()?;
        if read == 0 {
            break;
        }
        total += read as u64;
        if total > EXECUTABLE_BYTES_MAX {
            return None;
        }
        context.update(&buffer[..read]);
    }
    let mut digest = Sha256::default();
    digest.0.copy_from_slice(context.finish().as_ref());
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_once_and_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, b"one").unwrap();
        let digests = Digests::default();
        assert_eq!(digests.of(&mut File::open(&path).unwrap()), Some(Sha256::of(b"one")));
        assert_eq!(digests.of(&mut File::open(&path).unwrap()), Some(Sha256::of(b"one")));
        assert_eq!(digests.0.lock().unwrap().order.len(), 1);
        std::fs::write(&path, b"three").unwrap();
        assert_eq!(digests.of(&mut File::open(&path).unwrap()), Some(Sha256::of(b"three")));
    }

    #[test]
    fn a_file_beyond_the_bound_and_a_directory_have_no_digest() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(dir.path().join("huge")).unwrap();
        file.set_len(EXECUTABLE_BYTES_MAX + 1).unwrap();
        let digests = Digests::default();
        assert_eq!(digests.of(&mut File::open(dir.path().join("huge")).unwrap()), None);
        assert_eq!(digests.of(&mut File::open(dir.path()).unwrap()), None);
    }
}
