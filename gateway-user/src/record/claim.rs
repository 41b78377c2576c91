//! What credentials the record says are about to be used: each counts for one release, and not for long. Whoever gives
//! credentials out asks here first, so that none leaves the vault without an entry that says so.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::entry::CredentialClaimed;
use crate::limits::{CLAIM_COUNTS_FOR, CLAIMS_MAX};
use crate::operation::EntryId;

/// Claims that are durable and were not spent.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<EntryId, (Instant, CredentialClaimed)>>);

impl Claims {
    /// A commit with this in it is durable. Where too many wait, those that no longer count make room, or this one never counts.
    pub(super) fn durable(&self, claim: &CredentialClaimed) {
        let (mut claims, now) = (self.claims(), Instant::now());
        if claims.len() >= CLAIMS_MAX {
            claims.retain(|_, (made, _)| now.duration_since(*made) < CLAIM_COUNTS_FOR);
        }
        if claims.len() < CLAIMS_MAX {
            claims.insert(claim.entry, (now, claim.clone()));
        }
    }

    /// Whether the record says that this entry uses this credential on this target. It counts once.
    #[must_use]
    pub(super) fn spend(&self, asked: &CredentialClaimed) -> bool {
        let claim = self.claims().remove(&asked.entry);
        claim.is_some_and(|(made, claim)| claim == *asked && made.elapsed() < CLAIM_COUNTS_FOR)
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<EntryId, (Instant, CredentialClaimed)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(target: &str) -> CredentialClaimed {
        CredentialClaimed { entry: EntryId::now(), at: 1, target: target.into(), credential: "crm".into() }
    }

    #[test]
    fn a_claim_counts_once_for_what_it_says() {
        let (claims, one) = (Claims::default(), claim("crm"));
        assert!(!claims.spend(&one), "nothing is recorded yet");
        claims.durable(&one);
        assert!(claims.spend(&one));
        assert!(!claims.spend(&one), "a second time");
        claims.durable(&one);
        assert!(!claims.spend(&CredentialClaimed { target: "bank".into(), ..one.clone() }));
        assert!(!claims.spend(&one), "whoever asks wrongly has spent it");
    }

    #[test]
    fn more_claims_than_the_bound_do_not_count() {
        let claims = Claims::default();
        (0..CLAIMS_MAX).for_each(|_| claims.durable(&claim("crm")));
        let late = claim("crm");
        claims.durable(&late);
        assert!(!claims.spend(&late));
    }
}
