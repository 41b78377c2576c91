//! Bodies of demands on disk: each sealed with a key of its own, and gone for good when its demand is over. Never holds a
//! body in clear, and gives none that was changed or moved.
//!
//! A body lies in `ID.body`, sealed with a random key. That key lies beside it in `ID.key`, sealed with the gate's keyring,
//! and nowhere else: neither the record nor an old page of its database ever held it. To forget a body, its key is
//! overwritten first.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::limits::STATE_VALUE_BYTES_MAX;
use crate::operation::DemandId;
use crate::store::keyring::{Keyring, SealError, generation_of, random};

/// The directory of the spool below the state directory.
pub const SPOOL: &str = "spool";
/// Bytes of one file. A held body in base64, and room.
const FILE_BYTES_MAX: u64 = STATE_VALUE_BYTES_MAX as u64;
/// What a sealed key is sealed as, before the demand's id.
const PURPOSE: &[u8] = b"tidegate spool key 1 ";
const KEY: &str = "key";
const BODY: &str = "body";

/// Why a body cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system refused.
    #[error("the spool {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// It cannot be sealed or opened.
    #[error("the spooled body of demand {id}: {source}")]
    Sealed {
        /// The demand.
        id: DemandId,
        /// What is wrong.
        source: SealError,
    },
}

/// The spool of one gate. Blocks; not for async code.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
    keys: Keyring,
}

impl Spool {
    /// Opens the spool below a state directory, and makes it (0700) where there is none.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(state: &Path, keys: Keyring) -> Result<Self, SpoolError> {
        let directory = state.join(SPOOL);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|source| SpoolError::Io { path: directory.clone(), source })?;
        Ok(Self { directory, keys })
    }

    /// Keeps a body. It is on disk when this returns.
    ///
    /// # Errors
    /// The file system refuses; nothing is left then.
    pub(super) fn keep(&self, id: DemandId, text: &[u8]) -> Result<(), SpoolError> {
        let failed = |source| SpoolError::Sealed { id, source };
        let key = random().map_err(failed)?;
        let mut sealed = text.to_vec();
        cipher(&key[..])
            .and_then(|cipher| cipher.seal_in_place_append_tag(nonce(), aad(id), &mut sealed))
            .map_err(|_| failed(SealError::Broken))?;
        let wrapped = self.keys.seal(&purpose(id), &key[..]).map_err(failed)?;
        let written = self
            .write(&self.path(id, BODY), &sealed)
            .and_then(|()| self.write(&self.path(id, KEY), &wrapped));
        let written = written.and_then(|()| self.sync());
        if written.is_err() {
            self.forget(id);
        }
        written
    }

    /// The body of a demand.
    ///
    /// # Errors
    /// It is not there, was changed, or its key is gone.
    pub(super) fn read(&self, id: DemandId) -> Result<Zeroizing<Vec<u8>>, SpoolError> {
        let failed = |source| SpoolError::Sealed { id, source };
        let wrapped = self.load(&self.path(id, KEY))?;
        let key = self.keys.open_sealed(&purpose(id), &wrapped).map_err(failed)?;
        let mut sealed = Zeroizing::new(self.load(&self.path(id, BODY))?);
        let length = cipher(&key)
            .and_then(|cipher| cipher.open_in_place(nonce(), aad(id), &mut sealed).map(|text| text.len()))
            .map_err(|_| failed(SealError::Broken))?;
        sealed.truncate(length);
        Ok(sealed)
    }

    /// Overwrites and removes what is kept of a demand: its key first, without which the rest says nothing.
    pub(super) fn forget(&self, id: DemandId) {
        for kind in [KEY, BODY] {
            let path = self.path(id, kind);
            match shred(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(path = %path.display(), %error, "a spooled body could not be removed");
                }
                _ => {}
            }
        }
        if let Err(error) = self.sync() {
            tracing::error!(%error, "the removal of a spooled body may not last");
        }
    }

    /// Forgets whatever belongs to none of these demands: what a kill left between the spool and the record.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(super) fn sweep(&self, open: &BTreeSet<DemandId>) -> Result<usize, SpoolError> {
        let stale: BTreeSet<DemandId> = self.ids()?.into_iter().filter(|id| !open.contains(id)).collect();
        stale.iter().for_each(|id| self.forget(*id));
        Ok(stale.len())
    }

    /// Seals the key of every open demand with the keyring's current generation, so that an older one can be given up.
    /// Gives how many were sealed anew.
    ///
    /// # Errors
    /// One of them cannot be read or written; those before it are done, the others are as they were.
    pub fn rekey(&self) -> Result<usize, SpoolError> {
        let mut renewed = 0;
        for id in self.ids()? {
            let failed = |source| SpoolError::Sealed { id, source };
            let path = self.path(id, KEY);
            let wrapped = match self.load(&path) {
                Err(SpoolError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if generation_of(&wrapped) == Some(self.keys.ring().current()) {
                continue;
            }
            let key = self.keys.open_sealed(&purpose(id), &wrapped).map_err(failed)?;
            let anew = self.keys.seal(&purpose(id), &key).map_err(failed)?;
            let scratch = path.with_extension("new");
            self.write(&scratch, &anew)?;
            fs::rename(&scratch, &path).map_err(|source| SpoolError::Io { path, source })?;
            renewed += 1;
        }
        self.sync()?;
        Ok(renewed)
    }

    /// Generations of the keyring that open demands still need.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub fn generations(&self) -> Result<BTreeSet<u32>, SpoolError> {
        let ids = self.ids()?;
        let wrapped = ids.into_iter().filter_map(|id| self.load(&self.path(id, KEY)).ok());
        Ok(wrapped.filter_map(|wrapped| generation_of(&wrapped)).collect())
    }

    fn path(&self, id: DemandId, kind: &str) -> PathBuf {
        self.directory.join(format!("{id}.{kind}"))
    }

    fn ids(&self) -> Result<BTreeSet<DemandId>, SpoolError> {
        let failed = |source| SpoolError::Io { path: self.directory.clone(), source };
        let mut ids = BTreeSet::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.split('.').next()?.parse::<DemandId>().ok()));
        }
        Ok(ids)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
        let failed = |source| SpoolError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(no_links());
        let mut file = options.open(path).map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
    }

    fn load(&self, path: &Path) -> Result<Vec<u8>, SpoolError> {
        let failed = |source| SpoolError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).custom_flags(no_links()).open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(failed(io::Error::other("it is larger than any body that is held")));
        }
        Ok(bytes)
    }

    fn sync(&self) -> Result<(), SpoolError> {
        let failed = |source| SpoolError::Io { path: self.directory.clone(), source };
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

fn no_links() -> i32 {
    (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed()
}

fn purpose(id: DemandId) -> Vec<u8> {
    [PURPOSE, id.0.as_bytes()].concat()
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, aws_lc_rs::error::Unspecified> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new)
}

/// Each key seals one body, once, so that one nonce serves all.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn aad(id: DemandId) -> Aad<[u8; 16]> {
    Aad::from(*id.0.as_bytes())
}

/// Overwrites a file and removes it. On disks that write elsewhere what is written anew (flash, copy-on-write) the old
/// bytes may stay; without the key they say nothing.
fn shred(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(no_links()).open(path)?;
    let mut left = file.metadata()?.len();
    let zeros = [0; 4096];
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all(&zeros[..part])?;
        left -= part as u64;
    }
    file.sync_data()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keyring::Ring;

    fn spool() -> (tempfile::TempDir, Spool) {
        let state = tempfile::tempdir().unwrap();
        let keys = Keyring::in_memory(Ring::default().grown().unwrap());
        let spool = Spool::open(state.path(), keys).unwrap();
        (state, spool)
    }

    fn files(state: &tempfile::TempDir) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            fs::read_dir(state.path().join(SPOOL)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn a_spooled_body_is_sealed_private_and_read_back() {
        use std::os::unix::fs::MetadataExt;
        let (state, spool) = spool();
        let id = DemandId::now();
        spool.keep(id, b"a body that nobody else reads").unwrap();
        assert_eq!(&spool.read(id).unwrap()[..], b"a body that nobody else reads");
        for path in files(&state) {
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(6).any(|part| part == b"a body"), "{}", path.display());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_body_is_overwritten_and_removed_with_its_key() {
        let (state, spool) = spool();
        let id = DemandId::now();
        spool.keep(id, b"secret").unwrap();
        // A second name shows what the file holds after it is gone.
        let kept: Vec<PathBuf> = files(&state)
            .iter()
            .map(|path| {
                let other = state.path().join(path.file_name().unwrap());
                fs::hard_link(path, &other).unwrap();
                other
            })
            .collect();
        spool.forget(id);
        assert!(files(&state).is_empty());
        assert!(kept.iter().all(|path| fs::read(path).unwrap().iter().all(|byte| *byte == 0)));
        assert!(spool.read(id).is_err());
    }

    #[test]
    fn a_body_that_was_changed_or_belongs_to_another_demand_is_not_shown() {
        let (state, spool) = spool();
        let (one, two) = (DemandId::now(), DemandId::now());
        spool.keep(one, b"one").unwrap();
        spool.keep(two, b"two").unwrap();
        let body = spool.path(one, BODY);
        let mut bytes = fs::read(&body).unwrap();
        bytes[0] ^= 1;
        fs::write(&body, bytes).unwrap();
        assert!(spool.read(one).is_err());
        fs::copy(spool.path(two, BODY), &body).unwrap();
        fs::copy(spool.path(two, KEY), spool.path(one, KEY)).unwrap();
        assert!(spool.read(one).is_err(), "moved with its key");
        assert_eq!(files(&state).len(), 4);
    }

    #[test]
    fn what_belongs_to_no_open_demand_is_swept() {
        let (state, spool) = spool();
        let (open, gone) = (DemandId::now(), DemandId::now());
        spool.keep(open, b"open").unwrap();
        spool.keep(gone, b"gone").unwrap();
        // A kill may leave a body without its key.
        fs::remove_file(spool.path(gone, KEY)).unwrap();
        assert_eq!(spool.sweep(&BTreeSet::from([open])).unwrap(), 1);
        assert_eq!(files(&state).len(), 2);
        assert_eq!(&spool.read(open).unwrap()[..], b"open");
    }

    #[test]
    fn a_new_generation_of_keys_keeps_open_demands_readable_and_needs_no_older_one() {
        let (_state, spool) = spool();
        let id = DemandId::now();
        spool.keep(id, b"still here").unwrap();
        let old = spool.keys.ring().current();
        spool.keys.replace(spool.keys.ring().grown().unwrap()).unwrap();
        assert_eq!(&spool.read(id).unwrap()[..], b"still here");
        assert_eq!(spool.generations().unwrap(), BTreeSet::from([old]));
        assert_eq!((spool.rekey().unwrap(), spool.rekey().unwrap()), (1, 0));
        spool.keys.replace(spool.keys.ring().keeping(|_| false)).unwrap();
        assert_eq!(&spool.read(id).unwrap()[..], b"still here");
    }
}
