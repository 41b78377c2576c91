//! What the agent never holds: credentials of services, sealed in the vault, and put into one request at a time.
//!
//! Whoever has the vault gives one out only for an operation whose [`CredentialClaimed`] stands in the record. What is given out shows in no
//! log and in no debug text, and is forgotten when dropped; where a target says it back, it is hidden.

mod inject;
mod vault;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::record::entry::CredentialClaimed;

pub use inject::{Injection, Unfit};
pub use vault::{Kept, VAULT, Vault, VaultError};

/// A credential. Forgotten when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(#[serde(with = "serde_bytes")] Vec<u8>);

impl Secret {
    /// Of these bytes.
    #[must_use]
    pub fn new(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(std::mem::take(&mut *bytes))
    }

    /// What it is.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

type Released = Pin<Box<dyn Future<Output = io::Result<Secret>> + Send>>;

/// Gives an operation the credential that it claims. Clones share it.
#[derive(Clone)]
pub struct Release(Arc<dyn Fn(CredentialClaimed) -> Released + Send + Sync>);

impl Release {
    /// By asking whoever has the vault.
    #[must_use]
    pub fn by(ask: impl Fn(CredentialClaimed) -> Released + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// The credential that is claimed, where the claim is durable.
    ///
    /// # Errors
    /// It is not given out.
    pub async fn of(&self, claim: CredentialClaimed) -> io::Result<Secret> {
        (self.0)(claim).await
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}
