//! The vault: a directory of root's, one sealed file for each credential, and the key beside it or where the operator put it.
//! Read anew each time, so that what is set counts from the next operation on.
//!
//! Never writes a credential in clear, and never half a file.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::Secret;
use crate::config::Settings;
use crate::limits::{CREDENTIAL_BYTES_MAX, CREDENTIAL_BYTES_MIN, CREDENTIALS_MAX, NAME_BYTES_MAX};
use crate::store::keyfile::{KeyError, Place};
use crate::store::keyring::{Keyring, SealError};

/// The directory of the vault below the state directory.
pub const VAULT: &str = "vault";
/// Its key, where the operator names no other place.
const KEY: &str = "vault.key";
/// The name of the credential by which systemd hands it in.
const HANDED_IN: &str = "tidegate.vault-key";
/// How the file of a credential ends.
const ENDING: &str = "sealed";
/// What a sealed credential is, and before its name.
const ABOUT: &str = "tidegate credential 1\0";

/// Why the vault does not give or take a credential.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is none of this name.
    #[error("the vault holds no credential `{0}`: set it with `tidegate credential set {0}`")]
    Missing(String),
    /// It is no credential.
    #[error("{0}")]
    Unfit(String),
    /// Its file cannot be read or written, or the key cannot.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It does not open with this key.
    #[error("the credential `{name}`: {why}")]
    Sealed {
        /// Which.
        name: String,
        /// Why not.
        why: SealError,
    },
    /// The directory cannot be read.
    #[error("the vault {path}: {source}")]
    Io {
        /// The directory or file.
        path: String,
        /// What the file system said.
        source: io::Error,
    },
}

/// A credential that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// When it was set.
    pub set: SystemTime,
}

/// The vault of one gate.
#[derive(Debug, Clone)]
pub struct Vault {
    directory: PathBuf,
    key: Place,
}

impl Vault {
    /// By the settings of this host. Opens nothing.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let directory = settings.state.join(VAULT);
        let below = directory.join(KEY);
        let key = Place::chosen(settings.vault_key.as_deref(), settings, HANDED_IN, below);
        Self { directory, key }
    }

    /// Gives a credential out. Blocks.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub fn get(&self, name: &str) -> Result<Secret, VaultError> {
        let file = self.file(name)?;
        let sealed = match file.read_private() {
            Err(KeyError::Missing(_)) => return Err(VaultError::Missing(name.to_owned())),
            other => other?,
        };
        let opened = Keyring::open(&self.key)?.open_sealed(&about(name), &sealed);
        let plain = opened.map_err(|why| VaultError::Sealed { name: name.to_owned(), why })?;
        check(&plain)?;
        Ok(Secret::new(plain))
    }

    /// Takes a credential, durably, in the place of the one of this name. Makes the key where there is none. Blocks.
    ///
    /// # Errors
    /// It is too short, too long, or no text; the vault is full, or cannot be written.
    pub fn set(&self, name: &str, secret: Zeroizing<Vec<u8>>) -> Result<(), VaultError> {
        let file = self.file(name)?;
        check(&secret)?;
        let failed = |source| VaultError::Io { path: self.directory.display().to_string(), source };
        if !self.directory.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(failed)?;
            let above = self.directory.parent().unwrap_or(&self.directory);
            fs::File::open(above).and_then(|above| above.sync_all()).map_err(failed)?;
        }
        // One at a time: two that make the key would each seal with another.
        let directory = fs::File::open(&self.directory).map_err(failed)?;
        directory.lock().map_err(failed)?;
        let known = self.list()?;
        if known.len() >= CREDENTIALS_MAX && known.iter().all(|kept| kept.name != name) {
            return Err(VaultError::Unfit(format!(
                "the vault holds {CREDENTIALS_MAX} credentials, the most it may"
            )));
        }
        // A key that is gone is not made anew over what only the old one opens.
        let keyring =
            if known.is_empty() { Keyring::open_or_make(&self.key) } else { Keyring::open(&self.key) }?;
        let sealed = keyring.seal(&about(name), &secret);
        let sealed = sealed.map_err(|why| VaultError::Sealed { name: name.to_owned(), why })?;
        Ok(file.write_private(&sealed)?)
    }

    /// Removes a credential: from the next operation on there is none. Blocks.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), VaultError> {
        let path = self.file(name)?.path;
        let removed = fs::remove_file(&path).and_then(|()| fs::File::open(&self.directory)?.sync_all());
        removed.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VaultError::Missing(name.to_owned()),
            _ => VaultError::Io { path: path.display().to_string(), source },
        })
    }

    /// What it holds, by name. Blocks.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<Kept>, VaultError> {
        let failed = |source| VaultError::Io { path: self.directory.display().to_string(), source };
        let found = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut kept = Vec::new();
        for file in found {
            let file = file.map_err(failed)?;
            let path = file.path();
            let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| is_name(name));
            if let (Some(name), true) = (name, path.extension().is_some_and(|ending| ending == ENDING)) {
                let set = file.metadata().and_then(|about| about.modified()).map_err(failed)?;
                kept.push(Kept { name: name.to_owned(), set });
            }
        }
        kept.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(kept)
    }

    /// The file of one credential.
    fn file(&self, name: &str) -> Result<Place, VaultError> {
        match is_name(name) {
            true => Ok(Place::file(&self.directory.join(format!("{name}.{ENDING}")), None)),
            false => Err(VaultError::Unfit(format!(
                "`{}` is no name of a credential: letters, digits, `.`, `_`, `-`, at most {NAME_BYTES_MAX}",
                name.escape_debug()
            ))),
        }
    }
}

/// As names in policy files are; none that leads out of the directory.
fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.')
}

fn about(name: &str) -> Vec<u8> {
    [ABOUT.as_bytes(), name.as_bytes()].concat()
}

/// Whether these bytes are a credential: a short one would be hidden in the middle of words.
fn check(secret: &[u8]) -> Result<(), VaultError> {
    let refuse = |why: String| Err(VaultError::Unfit(why));
    if !(CREDENTIAL_BYTES_MIN..=CREDENTIAL_BYTES_MAX).contains(&secret.len()) {
        return refuse(format!(
            "a credential has {CREDENTIAL_BYTES_MIN} to {CREDENTIAL_BYTES_MAX} bytes; this has {}",
            secret.len()
        ));
    }
    let Ok(text) = std::str::from_utf8(secret) else {
        return refuse("a credential is text in UTF-8".to_owned());
    };
    if text.chars().any(char::is_control) || text.trim() != text {
        return refuse("a credential is one line, without blanks at its ends".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn vault() -> (tempfile::TempDir, Vault) {
        let state = tempfile::tempdir().unwrap();
        let vault = Vault::of(&Settings { state: state.path().to_owned(), ..Settings::default() });
        (state, vault)
    }

    fn secret(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_set_is_given_out_until_it_is_removed_and_stands_nowhere_in_clear() {
        let (state, vault) = vault();
        assert!(matches!(vault.get("crm"), Err(VaultError::Missing(_))));
        vault.set("crm", secret("k-0123456789")).unwrap();
        vault.set("crm", secret("k-9876543210")).unwrap();
        assert_eq!(vault.get("crm").unwrap().bytes(), b"k-9876543210");
        assert_eq!(vault.list().unwrap().iter().map(|kept| kept.name.as_str()).collect::<Vec<_>>(), ["crm"]);
        let directory = state.path().join(VAULT);
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        for file in fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()) {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(10).any(|part| part == b"9876543210"), "{}", file.display());
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        }
        vault.remove("crm").unwrap();
        assert!(matches!(vault.get("crm"), Err(VaultError::Missing(_))));
        assert!(matches!(vault.remove("crm"), Err(VaultError::Missing(_))));
    }

    #[test]
    fn a_file_under_another_name_or_with_a_changed_byte_gives_nothing() {
        let (state, vault) = vault();
        vault.set("cheap", secret("k-0123456789")).unwrap();
        vault.set("dear", secret("k-9876543210")).unwrap();
        let file = |name: &str| state.path().join(VAULT).join(format!("{name}.sealed"));
        fs::copy(file("dear"), file("cheap")).unwrap();
        assert!(matches!(vault.get("cheap"), Err(VaultError::Sealed { .. })));
        let mut bytes = fs::read(file("dear")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file("dear"), bytes).unwrap();
        assert!(matches!(vault.get("dear"), Err(VaultError::Sealed { .. })));
    }

    #[test]
    fn a_lost_key_is_said_and_not_made_anew() {
        let (state, vault) = vault();
        vault.set("crm", secret("k-0123456789")).unwrap();
        fs::remove_file(state.path().join(VAULT).join(KEY)).unwrap();
        assert!(matches!(vault.get("crm"), Err(VaultError::Key(KeyError::Missing(_)))));
        assert!(matches!(
            vault.set("other", secret("k-0123456789")),
            Err(VaultError::Key(KeyError::Missing(_)))
        ));
    }

    #[test]
    fn what_is_no_name_or_no_credential_is_refused() {
        let (_state, vault) = vault();
        for name in ["", "../crm", ".hidden", "a/b", "a\nb", &"x".repeat(65)] {
            assert!(matches!(vault.set(name, secret("k-0123456789")), Err(VaultError::Unfit(_))), "{name:?}");
            assert!(matches!(vault.get(name), Err(VaultError::Unfit(_))), "{name:?}");
        }
        for text in
            ["short", "k-0123456789\nX-Evil: 1", " k-0123456789", &"x".repeat(CREDENTIAL_BYTES_MAX + 1)]
        {
            assert!(matches!(vault.set("crm", secret(text)), Err(VaultError::Unfit(_))), "{text:?}");
        }
        assert!(matches!(vault.set("crm", Zeroizing::new(vec![0xff; 16])), Err(VaultError::Unfit(_))));
    }
}
