//! Reads bodies back. Gives no byte that is not what the chain holds a commitment to.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::Nonce;
use zstd::bulk::decompress;

use super::disk::{Access, Disk, Segment};
use super::keyring::Keyring;
use super::segments::{BodyKey, NONCE_BYTES, OVERHEAD_BYTES, Placed, SegmentRow, body_aad, commitment};
use super::{Snapshot, StoreError};
use crate::operation::Sha256;

/// Segment files a reader keeps open.
const OPEN_MAX: usize = 64;

/// Reads bodies.
#[derive(Debug)]
pub struct Bodies {
    disk: Arc<dyn Disk>,
    keys: Keyring,
    open: Mutex<BTreeMap<u32, Arc<Opened>>>,
}

struct Opened {
    file: Arc<dyn Segment>,
    key: BodyKey,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Bodies {
    /// Of the store on this disk.
    #[must_use]
    pub fn of(disk: Arc<dyn Disk>, keys: Keyring) -> Self {
        Self { disk, keys, open: Mutex::new(BTreeMap::new()) }
    }

    /// The bytes at this place, decrypted, decompressed and checked against what the chain holds of them.
    ///
    /// # Errors
    /// They are gone, sealed with a key that is not here, unreadable, or not the bytes that were recorded.
    pub fn read(&self, snapshot: &Snapshot, store: &Sha256, placed: &Placed) -> Result<Vec<u8>, StoreError> {
        let place = || format!("body segment {:08}.seg at byte {}", placed.segment, placed.offset);
        let stored = placed.stored as usize;
        if stored < OVERHEAD_BYTES
            || stored - OVERHEAD_BYTES > placed.length as usize
            || placed.length as usize > crate::limits::BODY_STRETCH_BYTES
        {
            return Err(StoreError::damaged(place(), "its recorded lengths contradict each other"));
        }
        let opened = self.opened(snapshot, store, placed.segment)?;
        let mut bytes = vec![0; stored];
        opened.file.read_at(placed.offset, &mut bytes).map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => {
                StoreError::damaged(place(), "the file ends before the body does")
            }
            _ => StoreError::io(format!("read {}", place()))(cause),
        })?;
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&bytes[..NONCE_BYTES]);
        let changed = || StoreError::damaged(place(), "the bytes are not those that were recorded");
        let plain = opened.key.cipher.open_in_place(
            Nonce::assume_unique_for_key(nonce),
            body_aad(placed.segment, placed.offset),
            &mut bytes[NONCE_BYTES..],
        );
        let plain = plain.map_err(|_| changed())?;
        let body = if plain.len() == placed.length as usize {
            plain.to_vec()
        } else {
            decompress(plain, placed.length as usize)
                .map_err(|cause| StoreError::damaged(place(), format!("it does not decompress ({cause})")))?
        };
        let made = commitment(&opened.key.blinding(&nonce), &body);
        if made == placed.digest { Ok(body) } else { Err(changed()) }
    }

    fn opened(&self, snapshot: &Snapshot, store: &Sha256, number: u32) -> Result<Arc<Opened>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = open.get(&number) {
            return Ok(Arc::clone(opened));
        }
        let row = snapshot.segment(number)?.ok_or(StoreError::Gone(number))?;
        let secret = SegmentRow::read(number, &row)?.open(number, store, &self.keys)?;
        let file = self.disk.segment(number, Access::Read).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => StoreError::Gone(number),
            _ => StoreError::io(format!("open body segment {number:08}.seg"))(cause),
        })?;
        if open.len() >= OPEN_MAX {
            open.pop_first();
        }
        let opened = Arc::new(Opened { file, key: BodyKey::of(&secret)? });
        open.insert(number, Arc::clone(&opened));
        Ok(opened)
    }
}
