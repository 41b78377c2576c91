//! What credentials the record says are about to be used: each entry's first claim counts for one release, and not for long. Whoever
//! gives credentials out asks here first, so that none leaves the vault without an entry that says so.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::entry::CredentialClaimed;
use crate::limits::{CLAIM_COUNTS_FOR, RECORD_OPEN_MAX};
use crate::operation::EntryId;

/// Claims of the entries that are open, each with the time at which it became durable until it is spent.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<EntryId, Option<(Instant, CredentialClaimed)>>>);

impl Claims {
    /// A commit with this in it is durable. A second claim of an entry does not count, nor does one beyond the bound.
    pub(super) fn durable(&self, claim: &CredentialClaimed) {
        let mut claims = self.claims();
        if claims.len() < RECORD_OPEN_MAX {
            claims.entry(claim.entry).or_insert_with(|| Some((Instant::now(), claim.clone())));
        }
    }

    /// A commit with the end of this entry in it is durable.
    pub(super) fn ended(&self, entry: EntryId) {
        self.claims().remove(&entry);
    }

    /// Whether the record says that this entry uses this credential on this target. It counts once.
    #[must_use]
    pub(super) fn spend(&self, asked: &CredentialClaimed) -> bool {
        let claim = self.claims().get_mut(&asked.entry).and_then(Option::take);
        claim.is_some_and(|(made, claim)| claim == *asked && made.elapsed() < CLAIM_COUNTS_FOR)
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<EntryId, Option<(Instant, CredentialClaimed)>>> {
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
    fn a_claim_counts_once_for_what_it_says_until_its_entry_ends() {
        let (claims, one, other) = (Claims::default(), claim("crm"), claim("crm"));
        assert!(!claims.spend(&one), "nothing is recorded yet");
        claims.durable(&one);
        assert!(claims.spend(&one));
        assert!(!claims.spend(&one), "a second time");
        claims.durable(&one);
        assert!(!claims.spend(&one), "claimed a second time");
        claims.durable(&other);
        assert!(!claims.spend(&CredentialClaimed { target: "bank".into(), ..other.clone() }));
        assert!(!claims.spend(&other), "whoever asks wrongly has spent it");
        let late = claim("crm");
        claims.durable(&late);
        claims.ended(late.entry);
        assert!(!claims.spend(&late), "its entry is over");
    }

    #[test]
    fn claims_of_entries_that_ended_take_no_room_and_more_than_the_bound_do_not_count() {
        let claims = Claims::default();
        for _ in 0..RECORD_OPEN_MAX {
            let gone = claim("crm");
            claims.durable(&gone);
            claims.ended(gone.entry);
        }
        let first = claim("crm");
        claims.durable(&first);
        (1..RECORD_OPEN_MAX).for_each(|_| claims.durable(&claim("crm")));
        let late = claim("crm");
        claims.durable(&late);
        assert!(claims.spend(&first) && !claims.spend(&late));
    }
}
