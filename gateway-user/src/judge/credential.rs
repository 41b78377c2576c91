//! The credential that goes with a permit: claimed in the record, then asked for. Without it the operation is refused.

use std::sync::Arc;

use super::entry::{Entry, now};
use super::{Case, Denial, Judge, refused};
use crate::credential::Injection;
use crate::record::entry::CredentialClaimed;

impl Judge {
    /// What the record must say before the credential of this operation's target is given out; `None` where it gets none.
    pub(super) fn claim(&self, entry: &Entry, case: &Case) -> Option<CredentialClaimed> {
        case.set.credential_of(&case.target.name).map(|credential| CredentialClaimed {
            entry: entry.id(),
            at: now(),
            target: case.target.name.clone(),
            credential: credential.name.clone(),
        })
    }

    /// Has the credential given out, once its claim is durable.
    pub(super) async fn inject(
        &self,
        entry: &Arc<Entry>,
        case: &Case,
        claim: Option<CredentialClaimed>,
    ) -> Result<Option<Injection>, Denial> {
        let Some((claim, noun)) = claim.zip(case.set.credential_of(&case.target.name)) else {
            return Ok(None);
        };
        let why = match self.bench.releases.of(claim).await {
            Ok(secret) => match Injection::of(noun, &secret) {
                Ok(injection) => return Ok(Some(injection)),
                Err(unsayable) => unsayable.to_string(),
            },
            Err(error) => format!("the credential `{}` was not given out: {error}", noun.name),
        };
        let denial = Denial::busy("the gate has no credential for this now");
        entry.answered(denial.status);
        Err(refused(entry, Ok(()), why, denial).await)
    }
}
