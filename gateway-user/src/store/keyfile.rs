//! Where keys lie: a private file, made once, or a credential that systemd hands in. Never reads a key that others can
//! read, and never leaves half a file behind.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::keyring::{Ring, SEAL_OVERHEAD_BYTES, generation_of};
use crate::config::Settings;
use crate::limits::KEY_FILE_BYTES_MAX;

/// The directory of keys below the state directory.
pub const KEYS: &str = "keys";
/// The file of the record's keys.
pub const RECORD_KEY: &str = "record.key";
/// The directory of what waits, sealed with the same keys.
const SPOOL: &str = "spool";
/// The name of the credential that systemd hands in.
pub const CREDENTIAL: &str = "tidegate.record-key";

/// Why keys cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    /// There are none.
    #[error(
        "the key {0} is missing. What is sealed with it can be read by nobody without it: put it back from a backup, or name its place (--record-key, --vault-key); a new one is made only where nothing is sealed yet"
    )]
    Missing(String),
    /// Others could read or replace it, or it is no key file.
    #[error("the file {path} {what}")]
    Unfit {
        /// The file.
        path: String,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The file system refused.
    #[error("the file {path}: {what}")]
    Io {
        /// The file.
        path: String,
        /// What the file system said.
        what: String,
    },
    /// The system gives no random numbers.
    #[error("{0}")]
    NoRandom(String),
}

/// Where a key file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// It is handed in by systemd: only the operator can change it, and its directory is private.
    pub credential: bool,
}

impl Place {
    /// The record's keys below this state directory.
    #[must_use]
    pub fn below(state: &Path) -> Self {
        Self { path: state.join(KEYS).join(RECORD_KEY), credential: false }
    }

    /// This file; below the directory of credentials, one of them.
    #[must_use]
    pub fn file(path: &Path, credentials: Option<&Path>) -> Self {
        Self {
            path: path.to_owned(),
            credential: credentials.is_some_and(|directory| path.starts_with(directory)),
        }
    }

    /// By the settings of this host: the file that is named, else the credential where there is one, else below the state
    /// directory.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let below = Self::below(&settings.state).path;
        Self::chosen(settings.record_key.as_deref(), settings, CREDENTIAL, below)
    }

    /// The file that is `named`, else systemd's credential of this name where there is one, else `otherwise`.
    #[must_use]
    pub fn chosen(named: Option<&Path>, settings: &Settings, credential: &str, otherwise: PathBuf) -> Self {
        let credentials = settings.credentials.as_deref();
        let handed = credentials.map(|directory| directory.join(credential)).filter(|path| path.exists());
        match named.map(Path::to_owned).or(handed) {
            Some(path) => Self::file(&path, credentials),
            None => Self { path: otherwise, credential: false },
        }
    }

    /// Reads the bytes of the file, which nobody else may read.
    ///
    /// # Errors
    /// It is missing, too long, or others may read it.
    pub fn read_private(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32)
            .open(&self.path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyError::Missing(self.path.display().to_string()));
            }
            other => other.map_err(|error| self.io(&error))?,
        };
        let metadata = file.metadata().map_err(|error| self.io(&error))?;
        if !metadata.is_file() {
            return Err(self.unfit("is no plain file: name the file itself"));
        }
        // systemd gives a credential to a service's user by an access list, whose mask shows as the group's rights.
        let forbidden = if self.credential { 0o027 } else { 0o077 };
        if metadata.mode() & forbidden != 0 {
            return Err(self.unfit("can be read by others: take it as known to them, or run chmod 600 on it"));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX as usize + 1));
        file.take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| self.io(&error))?;
        if bytes.len() as u64 > KEY_FILE_BYTES_MAX {
            return Err(self.unfit(format!("is longer than {KEY_FILE_BYTES_MAX} bytes: it is no key file")));
        }
        Ok(bytes)
    }

    /// Replaces the file, durably: whoever looks finds the old one or the new one.
    ///
    /// # Errors
    /// It is a credential, or the disk refuses.
    pub fn write_private(&self, bytes: &[u8]) -> Result<(), KeyError> {
        if self.credential {
            return Err(self.unfit(
                "is a credential, which only you can change: add a line with the next generation to it, and restart",
            ));
        }
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let written = || -> io::Result<()> {
            if !directory.exists() {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
                if let Some(above) = directory.parent().filter(|path| !path.as_os_str().is_empty()) {
                    File::open(above)?.sync_all()?;
                }
            }
            let mut beside = self.path.clone().into_os_string();
            beside.push(".new");
            // What a crash left is no key of anybody.
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            File::open(directory)?.sync_all()
        };
        written().map_err(|error| self.io(&error))
    }

    pub(super) fn read(&self) -> Result<Ring, KeyError> {
        let bytes = self.read_private()?;
        let text = std::str::from_utf8(&bytes).map_err(|_| self.unfit("is no text: it is no key file"))?;
        Ring::parse(text).map_err(|what| self.unfit(what))
    }

    pub(super) fn write(&self, ring: &Ring) -> Result<(), KeyError> {
        self.write_private(ring.text().as_bytes())
    }

    fn io(&self, error: &io::Error) -> KeyError {
        KeyError::Io { path: self.path.display().to_string(), what: error.to_string() }
    }

    fn unfit(&self, what: impl Into<String>) -> KeyError {
        KeyError::Unfit { path: self.path.display().to_string(), what: what.into() }
    }
}

/// Generations that anything below the state directory's spool is sealed with.
///
/// # Errors
/// It cannot be read: then no key may be given up.
pub fn generations_below(state: &Path) -> Result<BTreeSet<u32>, KeyError> {
    let spool = state.join(SPOOL);
    let failed =
        |error: io::Error| KeyError::Io { path: spool.display().to_string(), what: error.to_string() };
    let items = match fs::read_dir(&spool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other.map_err(failed)?,
    };
    let mut used = BTreeSet::new();
    for item in items {
        let path = item.map_err(failed)?.path();
        let mut head = Vec::new();
        let opened = match File::open(&path) {
            // It was over between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        opened.take(SEAL_OVERHEAD_BYTES as u64).read_to_end(&mut head).map_err(failed)?;
        used.extend(generation_of(&head));
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::keyring::Keyring;
    use super::*;

    #[test]
    fn a_key_is_made_once_for_nobody_else_and_read_again() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::below(state.path());
        assert!(matches!(Keyring::open(&place), Err(KeyError::Missing(_))));
        let first = Keyring::open_or_make(&place).unwrap();
        let sealed = first.seal(b"", b"body").unwrap();
        let again = Keyring::open_or_make(&place).unwrap();
        assert_eq!(&again.open_sealed(b"", &sealed).unwrap()[..], b"body");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place.path), 0o600);
        assert_eq!(mode(&state.path().join(KEYS)), 0o700);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_a_link_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::below(state.path());
        Keyring::open_or_make(&place).unwrap();
        fs::set_permissions(&place.path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Keyring::open(&place).unwrap_err().to_string().contains("read by others"));
        fs::set_permissions(&place.path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = Place::file(&state.path().join("link"), None);
        std::os::unix::fs::symlink(&place.path, &link.path).unwrap();
        assert!(Keyring::open(&link).is_err());
    }

    #[test]
    fn a_credential_is_read_and_never_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CREDENTIAL);
        let place = Place::file(&path, Some(directory.path()));
        assert!(place.credential);
        assert!(matches!(Keyring::open_or_make(&place), Err(KeyError::Missing(_))));
        assert!(!path.exists());
        Keyring::open_or_make(&Place::file(&path, None)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        let keyring = Keyring::open(&place).unwrap();
        let grown = keyring.ring().grown().unwrap();
        assert!(keyring.replace(grown).unwrap_err().to_string().contains("only you"));
        assert_eq!(keyring.ring().current(), 1);
    }

    #[test]
    fn a_named_file_goes_before_a_credential_and_that_before_the_state_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (state, credentials) = (directory.path().join("state"), directory.path().join("credentials"));
        let mut settings = Settings { state: state.clone(), ..Settings::default() };
        assert_eq!(Place::of(&settings), Place::below(&state));
        settings.credentials = Some(credentials.clone());
        assert_eq!(Place::of(&settings), Place::below(&state));
        Keyring::open_or_make(&Place::file(&credentials.join(CREDENTIAL), None)).unwrap();
        assert_eq!(Place::of(&settings), Place { path: credentials.join(CREDENTIAL), credential: true });
        settings.record_key = Some(state.join("mine"));
        assert_eq!(Place::of(&settings), Place { path: state.join("mine"), credential: false });
    }

    #[test]
    fn a_rotation_reaches_all_who_share_the_ring_and_the_file() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::below(state.path());
        let keyring = Keyring::open_or_make(&place).unwrap();
        let shared = keyring.clone();
        fs::write(state.path().join(KEYS).join("record.key.new"), b"half").unwrap();
        keyring.replace(keyring.ring().grown().unwrap()).unwrap();
        assert_eq!(shared.ring().current(), 2);
        assert_eq!(Keyring::open(&place).unwrap().ring().generations(), [1, 2]);
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_unread() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::file(&state.path().join("key"), None);
        place.write_private(&vec![b' '; KEY_FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(Keyring::open(&place).unwrap_err().to_string().contains("longer than"));
    }
}
