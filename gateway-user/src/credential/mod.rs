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
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::limits::{CLAIM_COUNTS_FOR, RELEASES_MAX};
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

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
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
pub struct Release {
    ask: Arc<dyn Fn(CredentialClaimed) -> Released + Send + Sync>,
    /// The claims of one commit are durable at the same moment.
    rooms: Arc<Semaphore>,
}

impl Release {
    /// By asking whoever has the vault.
    #[must_use]
    pub fn by(ask: impl Fn(CredentialClaimed) -> Released + Send + Sync + 'static) -> Self {
        Self { ask: Arc::new(ask), rooms: Arc::new(Semaphore::new(RELEASES_MAX)) }
    }

    /// The credential that is claimed, where the claim is durable.
    ///
    /// # Errors
    /// It is not given out, or not in time.
    pub async fn of(&self, claim: CredentialClaimed) -> io::Result<Secret> {
        let asked = async {
            let _room = self.rooms.acquire().await.map_err(io::Error::other)?;
            (self.ask)(claim).await
        };
        tokio::time::timeout(CLAIM_COUNTS_FOR, asked).await?
    }
}
