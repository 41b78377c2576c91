//! Decisions remembered by everything they depend on: an operation that looks the same to every rule is judged once for
//! each policy set. Never answers for a question that differs in anything a rule can see, and keeps a bounded number.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cedar_policy::{Entities, Policy, RestrictedExpression};
use serde::Serialize;

use crate::limits::{DECISION_KEY_BYTES_MAX, DECISIONS_KEPT_MAX};
use crate::operation::{
    Direction, Executable, Extracted, HttpRequest, Kind, Operation, Proof, Subject, User, Workload,
};

use super::decide::{Decision, Question};
use super::when::Season;

/// What one set remembers. It goes with the set.
#[derive(Default)]
pub(super) struct Memo {
    pub(super) decisions: Kept<Decision>,
    /// Who asks and about which target, as Cedar walks it.
    pub(super) entities: Kept<Entities>,
    /// Addresses in Cedar's words: it parses the name of its own function for each.
    pub(super) addresses: Kept<RestrictedExpression>,
}

/// Values by their keys, at most [`DECISIONS_KEPT_MAX`].
pub(super) struct Kept<T>(Mutex<HashMap<Vec<u8>, Arc<T>>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").finish_non_exhaustive()
    }
}

impl<T> Kept<T> {
    /// The value under this key; made, and kept, where there is none. Where there is no room, all others are forgotten.
    pub(super) fn get_or<E>(&self, key: Vec<u8>, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        if let Some(known) = self.lock().get(&key) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(make()?);
        let mut kept = self.lock();
        if kept.len() >= DECISIONS_KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, Arc::clone(&made));
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the rules about one target look at, of that which is different in almost every request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sight {
    pub(super) query: bool,
    body_length: bool,
}

impl Sight {
    /// Of these rules. Where their text leaves any doubt, they look at everything.
    pub(super) fn of<'r>(rules: impl Iterator<Item = &'r Policy>) -> Self {
        let mut sight = Self::default();
        for rule in rules {
            let text = rule.to_string();
            // An escape may spell an attribute's name; the context as a whole is all of its attributes.
            let all =
                text.contains('\\') || text.match_indices("context").any(|(at, _)| is_whole(&text[at..]));
            sight.query |= all || text.contains("query");
            sight.body_length |= all || text.contains("body_length");
        }
        sight
    }
}

/// Whether this `context` is more than the start of one attribute's name.
fn is_whole(text: &str) -> bool {
    let rest = text.trim_start_matches("context").trim_start();
    !rest.starts_with(['.', '[']) && !rest.starts_with("has ")
}

/// Who asks, and about which target: all of that which a rule can see. Where a type grows a field, this does not compile
/// until somebody has said whether a rule can see it.
#[derive(Serialize)]
struct Standing<'a> {
    target: &'a str,
    direction: Direction,
    guard: Option<&'a str>,
    peer: IpAddr,
    user: Option<(&'a str, &'a str, &'a [String], &'a Proof)>,
    workload: Option<Process<'a>>,
}

#[derive(Serialize)]
struct Process<'a> {
    uid: u32,
    login_uid: Option<u32>,
    cgroup: Option<&'a str>,
    unit: Option<&'a str>,
    container: Option<&'a str>,
    image: Option<&'a str>,
    pod: Option<&'a str>,
    executable: Option<&'a Executable>,
}

#[derive(Serialize)]
enum What<'a> {
    Open(IpAddr, u16),
    Http {
        method: &'a str,
        host: &'a str,
        path: &'a str,
        query: Option<&'a str>,
        body_length: Option<Option<u64>>,
        extracted: &'a Extracted,
    },
}

/// Under what the answer to this question is remembered; `None` where it is not.
pub(super) fn decision_key(sight: Sight, season: &Season, asked: &Question<'_>) -> Option<Vec<u8>> {
    if !asked.approved.is_empty() {
        return None;
    }
    let what = match &asked.operation.kind {
        Kind::Open { address, port } => What::Open(*address, *port),
        Kind::Http(request) => {
            // No rule sees a header field, but for what was extracted.
            let HttpRequest { method, host, path, query, headers: _, body_length, extracted } = request;
            let query = query.as_deref().filter(|_| sight.query);
            let body_length = sight.body_length.then_some(*body_length);
            What::Http { method, host, path, query, body_length, extracted }
        }
    };
    // Rules end and hours change between seasons, and a clock may be put back.
    let season = (season.from.as_nanosecond(), season.until.as_nanosecond());
    key(&(season, standing(asked.subject, asked.guard, asked.operation), what))
}

/// Under what the entities of a question about this action are remembered.
pub(super) fn entities_key(
    subject: &Subject,
    guard: Option<&str>,
    operation: &Operation,
    action: &str,
) -> Option<Vec<u8>> {
    key(&(standing(subject, guard, operation), action))
}

fn key(of: &impl Serialize) -> Option<Vec<u8>> {
    postcard::to_allocvec(of).ok().filter(|key| key.len() <= DECISION_KEY_BYTES_MAX)
}

fn standing<'a>(subject: &'a Subject, guard: Option<&'a str>, operation: &'a Operation) -> Standing<'a> {
    let Subject { user, workload, peer } = subject;
    let Operation { target, direction, kind: _ } = operation;
    let user = user.as_ref().map(|user| {
        // Whether the proof still holds was asked before.
        let User { provider, subject, groups, expires: _, proof } = user;
        (provider.as_str(), subject.as_str(), groups.as_slice(), proof)
    });
    Standing {
        target,
        direction: *direction,
        guard,
        peer: peer.ip(),
        user,
        workload: workload.as_deref().map(process),
    }
}

fn process(workload: &Workload) -> Process<'_> {
    let Workload {
        pid: _,
        started: _,
        uid,
        login_uid,
        command: _,
        cgroup,
        unit,
        container,
        image,
        pod,
        executable,
        parents: _,
    } = workload;
    Process {
        uid: *uid,
        login_uid: *login_uid,
        cgroup: cgroup.as_deref(),
        unit: unit.as_deref(),
        container: container.as_deref(),
        image: image.as_deref(),
        pod: pod.as_deref(),
        executable: executable.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_may_look_at_something_does() {
        let sees_all = [
            "context.query like \"*a*\" && context.body_length > 1",
            "context has query && context has body_length",
            "context[\"query\"] == \"\" && context[\"body_length\"] == 1",
            "context[\"\\u{71}uery\"] == \"\"",
            "context == {}",
            "[context].contains({})",
            "{a: context} == {}",
        ];
        for text in sees_all {
            assert!(sight(text) == (true, true), "{text}");
        }
        assert_eq!(sight("context.path == \"/a\" && context has guard"), (false, false));
        assert_eq!(sight("context.query == \"context\""), (true, true));
        assert_eq!(sight("context.query == \"\""), (true, false));
        assert_eq!(sight("context . body_length < 7"), (false, true));
    }

    fn sight(condition: &str) -> (bool, bool) {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let rule: Policy = text.parse().unwrap();
        let Sight { query, body_length } = Sight::of(std::iter::once(&rule));
        (query, body_length)
    }
}
