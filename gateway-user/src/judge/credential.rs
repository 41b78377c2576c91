//! The credential that goes with a permit: claimed in the record, then asked for. Without it the operation is refused.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use super::entry::{Entry, now};
use super::{Case, Denial, Duties, Judge, refused};
use crate::credential::Injection;
use crate::operation::Kind;
use crate::policy::nouns::Target;
use crate::record::entry::CredentialClaimed;

/// Why a name that only resolves to a target's address is not enough.
const NO_HOSTS: &str = "the request names a host, and the target's `hosts` are not declared: what answers at its address to that \
                        name may be somebody else's";

/// Whether the request names a host that nobody declared to be the target: at an address that many share its server may be another.
fn may_be_elsewhere(target: &Target, operation: &Kind) -> bool {
    let names_another = match operation {
        Kind::Http(request) => request.host.parse::<IpAddr>().is_err(),
        Kind::Open { .. } => true,
    };
    target.hosts.is_empty() && names_another
}

impl Duties {
    /// Fields that have no business behind the head: those that were judged there, taken out, or put in.
    pub fn too_late(&self) -> impl Iterator<Item = String> {
        let injected = self.injection.iter().map(|injection| injection.header.to_string());
        self.judged.iter().chain(&self.stripped).cloned().chain(injected)
    }
}

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
        let given = match may_be_elsewhere(&case.target, &case.operation.kind) {
            true => Err(io::Error::other(NO_HOSTS)),
            false => self.bench.releases.of(claim).await,
        };
        let why = match given {
            Ok(secret) => match Injection::of(noun, &secret) {
                Ok(injection) => return Ok(Some(injection)),
                Err(unfit) => unfit.to_string(),
            },
            Err(error) => format!("the credential `{}` was not given out: {error}", noun.name),
        };
        let denial = Denial::busy("the gate has no credential for this now");
        entry.answered(denial.status);
        Err(refused(entry, Ok(()), why, denial).await)
    }
}
