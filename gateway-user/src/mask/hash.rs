//! The key of keyed hashes: made once for a gate, kept in its state directory, readable by nobody else.
//!
//! Whoever has the key can try values; without it a token tells nothing but that two values are the same.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use aws_lc_rs::hmac;
use rustix::fs::OFlags;

/// Name of the key's file below the state directory.
const FILE: &str = "mask-hash.key";
const KEY_BYTES: usize = 32;
/// Bytes of a hash that a token shows: no two of a billion values share one by chance.
const TOKEN_BYTES: usize = 12;

/// The key of keyed hashes.
#[derive(Clone)]
pub struct HashKey(hmac::Key);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

impl HashKey {
    /// A key of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The key below this state directory, made if there is none.
    ///
    /// # Errors
    /// It cannot be read or made, others may read it, or it is no key.
    pub fn below(state: &Path) -> io::Result<Self> {
        let path = state.join(FILE);
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        match OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(&path) {
            Ok(mut file) => {
                let mut bytes = [0; KEY_BYTES];
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                File::open(state)?.sync_all()?;
                Ok(Self::of(&bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::read(OpenOptions::new().read(true).custom_flags(flags).open(&path)?)
            }
            Err(error) => Err(error),
        }
    }

    fn read(mut file: File) -> io::Result<Self> {
        let about = file.metadata()?;
        if about.mode() & 0o077 != 0 {
            return Err(io::Error::other("others may read it; make it mode 0600"));
        }
        let mut bytes = [0; KEY_BYTES];
        if about.len() != KEY_BYTES as u64 {
            return Err(io::Error::other("it does not have 32 bytes; remove it, and a new one is made"));
        }
        file.read_exact(&mut bytes)?;
        Ok(Self::of(&bytes))
    }

    /// The token for a value with this SHA-256.
    pub(super) fn token(&self, digest: &[u8]) -> String {
        let tag = hmac::sign(&self.0, digest);
        format!("hash:{}", data_encoding::HEXLOWER.encode(&tag.as_ref()[..TOKEN_BYTES]))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = HashKey::below(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = HashKey::below(dir.path()).unwrap();
        assert_eq!(made.token(b"x"), again.token(b"x"));
        assert_ne!(made.token(b"x"), made.token(b"y"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(HashKey::below(dir.path()).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert!(HashKey::below(dir.path()).is_err());
    }
}
