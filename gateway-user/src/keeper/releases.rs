//! Gives credentials of the vault out, one for each claim in the record. Refuses what no policy file declares, what the record
//! does not say, and what was given out for that entry already.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};

use super::aide::Aide;
use crate::credential::{Secret, Vault};
use crate::limits::RELEASES_MAX;
use crate::policy::Shelf;
use crate::record::Recorder;
use crate::record::entry::CredentialClaimed;
use crate::record::line::claims::Asking;

/// How long the recorder may take to answer, and others before who asks: it does nothing for it but remember. Shorter than an
/// enforcer waits.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Who gives them out.
#[derive(Debug)]
pub struct Releases {
    vault: Vault,
    shelf: Shelf,
    record: Record,
    rooms: Semaphore,
}

/// Who knows what the record says.
#[derive(Debug)]
enum Record {
    /// This process writes it.
    Own(Recorder),
    /// The recorder, over a line that is made anew where it broke.
    Far(Arc<Aide>, Mutex<Option<Asking>>),
}

impl Releases {
    /// Of a gate in one process.
    #[must_use]
    pub fn own(vault: Vault, shelf: Shelf, recorder: Recorder) -> Self {
        Self { vault, shelf, record: Record::Own(recorder), rooms: Semaphore::new(2 * RELEASES_MAX) }
    }

    /// Of the keeper.
    pub(super) fn of(vault: Vault, shelf: Shelf, recorder: Arc<Aide>) -> Self {
        let record = Record::Far(recorder, Mutex::default());
        Self { vault, shelf, record, rooms: Semaphore::new(2 * RELEASES_MAX) }
    }

    /// The credential that this entry claims.
    ///
    /// # Errors
    /// No policy file declares it for that target, the record does not say that this entry uses it or it was given out for it
    /// already, or the vault does not have it.
    pub async fn release(&self, claim: &CredentialClaimed) -> io::Result<Secret> {
        let CredentialClaimed { entry, target, credential, .. } = claim;
        let Ok(_room) = self.rooms.try_acquire() else {
            return Err(io::Error::other("too many are asked for at once"));
        };
        if !self.is_declared(claim) {
            // The policy may have changed a moment ago.
            let shelf = self.shelf.clone();
            tokio::task::spawn_blocking(move || shelf.reload()).await.map_err(io::Error::other)?;
            if !self.is_declared(claim) {
                tracing::error!(%entry, "a credential was asked for that no policy file declares for that target");
                return Err(io::Error::other(format!(
                    "no policy file declares `{credential}` for `{target}`"
                )));
            }
        }
        let said = tokio::time::timeout(ANSWERED_WITHIN, self.record.spend(claim)).await;
        if !said
            .map_err(|_| io::Error::other("the recorder does not say whether the record has its claim"))??
        {
            tracing::error!(%entry, %credential, %target, "a credential was asked for without a claim in the record");
            return Err(io::Error::other("the record does not say that this operation uses it"));
        }
        let (vault, name) = (self.vault.clone(), credential.clone());
        let given = tokio::task::spawn_blocking(move || vault.get(&name)).await.map_err(io::Error::other)?;
        given.map_err(|error| {
            tracing::error!(%error, %target, "no credential was given out");
            io::Error::other(error)
        })
    }

    fn is_declared(&self, claim: &CredentialClaimed) -> bool {
        let set = self.shelf.current();
        set.credential_of(&claim.target).is_some_and(|declared| declared.name == claim.credential)
    }
}

impl Record {
    async fn spend(&self, claim: &CredentialClaimed) -> io::Result<bool> {
        let (aide, line) = match self {
            Self::Own(recorder) => return Ok(recorder.spend(claim)),
            Self::Far(aide, line) => (aide, line),
        };
        let mut line = line.lock().await;
        // The line of a recorder that is gone is found to be broken; one more is tried.
        let before = match line.take() {
            Some(asking) => Self::ask(asking, claim).await.ok(),
            None => None,
        };
        let (asking, said) = match before {
            Some(answered) => answered,
            None => Self::ask(Asking::over(aide.claims().await?)?, claim).await?,
        };
        *line = Some(asking);
        Ok(said)
    }

    /// Asks once. The line comes back where it is still of use.
    async fn ask(mut asking: Asking, claim: &CredentialClaimed) -> io::Result<(Asking, bool)> {
        let said = asking.spend(claim).await?;
        Ok((asking, said))
    }
}
