//! Least-privilege rules out of what was recorded: for each asking party, the operations it was let through for, and
//! nothing else. Proposes nothing that was denied unless it is told to, and says what it left out.

mod shape;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use self::shape::{pattern, title};
use super::rejudge::Again;
use crate::operation::User;
use crate::policy::Set;
use crate::record::entry::Verdict;
use crate::record::operations::Recorded;

/// What is proposed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// `[[operation]]`s for targets that declare none.
    pub toml: String,
    /// Rules.
    pub cedar: String,
    /// Recorded operations that the rules were made from.
    pub used: u64,
    /// Those that were left out, by why.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Targets that would declare operations now: rules of theirs about `http` must go.
    pub declares: BTreeSet<String>,
}

/// Collects operations, then proposes.
pub struct Suggest<'a> {
    set: &'a Set,
    include_denied: bool,
    /// By target and principal, the actions.
    rules: BTreeMap<(String, String), BTreeSet<String>>,
    /// By target, method and pattern, the name of the operation.
    operations: BTreeMap<(String, String, String), String>,
    names: BTreeSet<String>,
    suggestion: Suggestion,
}

impl<'a> Suggest<'a> {
    /// Proposes rules for the targets, roles and operations of this set. `include_denied`: also for what was denied, held
    /// or only observed.
    #[must_use]
    pub fn new(set: &'a Set, include_denied: bool) -> Self {
        Self {
            set,
            include_denied,
            rules: BTreeMap::new(),
            operations: BTreeMap::new(),
            names: set
                .targets()
                .iter()
                .flat_map(|target| set.operations_declared(&target.name))
                .map(|operation| operation.name.clone())
                .collect(),
            suggestion: Suggestion::default(),
        }
    }

    /// Takes one more operation.
    pub fn take(&mut self, recorded: &Recorded) {
        match self.weigh(recorded) {
            Ok(()) => self.suggestion.used += 1,
            Err(why) => *self.suggestion.left_out.entry(why).or_default() += 1,
        }
    }

    fn weigh(&mut self, recorded: &Recorded) -> Result<(), &'static str> {
        let intent = &recorded.intent;
        match super::rejudge::spoken(intent) {
            Verdict::Allow => {}
            Verdict::Refuse => return Err("refused before the policy was asked"),
            _ if self.include_denied => {}
            Verdict::Hold => return Err("held for people (--include-denied takes them in)"),
            Verdict::Deny => return Err("denied (--include-denied takes them in)"),
        }
        let again = Again::of(recorded).map_err(super::rejudge::Unknown::word)?;
        let target = intent.target.as_deref().and_then(|name| self.set.target(name));
        let target = target.ok_or("its target is not in the directory")?.name.clone();
        let principal = self.principal(recorded)?;
        let actions = if self.set.operations_declared(&target).next().is_some() {
            let found = self.set.classify(&target, again.method(), again.path());
            let names: BTreeSet<String> = found.into_iter().map(|(noun, _)| noun.name.clone()).collect();
            if names.is_empty() {
                return Err("it is none of the operations its target declares");
            }
            names
        } else {
            BTreeSet::from([self.operation(&target, again.method(), again.path())?])
        };
        self.rules.entry((target, principal)).or_default().extend(actions);
        Ok(())
    }

    /// Who asked, in Cedar's words: the role where there is one, else the very one.
    fn principal(&self, recorded: &Recorded) -> Result<String, &'static str> {
        let set = self.set;
        let target = recorded.intent.target.as_deref().and_then(|name| set.target(name));
        let (uid, roles) = target
            .and_then(|target| again_principal(set, target, recorded))
            .ok_or("who asked is not on record")?;
        // Of several roles the one that lets the fewest in is not known; the first by name is as good as any.
        Ok(match roles.first() {
            Some(role) => format!("principal in Role::{role:?}"),
            None => format!("principal == {uid}"),
        })
    }

    /// The operation that a request on a target without declared ones becomes.
    fn operation(&mut self, target: &str, method: &str, path: &str) -> Result<String, &'static str> {
        let pattern = pattern(path).ok_or("its path cannot be written as a pattern")?;
        let key = (target.to_owned(), method.to_owned(), pattern);
        if let Some(name) = self.operations.get(&key) {
            return Ok(name.clone());
        }
        let base = title(method, &key.2);
        let mut name = base.clone();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{base}-{number}");
        }
        self.suggestion.declares.insert(target.to_owned());
        self.operations.insert(key, name.clone());
        Ok(name)
    }

    /// What is proposed.
    #[must_use]
    pub fn finish(self) -> Suggestion {
        let mut suggestion = self.suggestion;
        for ((target, method, pattern), name) in &self.operations {
            let _ = writeln!(
                suggestion.toml,
                "[[operation]]\nname = {name:?}\ntarget = {target:?}\nmethods = [{method:?}]\npaths = [{pattern:?}]\n"
            );
        }
        for ((target, principal), actions) in &self.rules {
            let actions: Vec<String> = actions.iter().map(|name| format!("Action::{name:?}")).collect();
            let _ = writeln!(
                suggestion.cedar,
                "permit (\n  {principal},\n  action in [{}],\n  resource == Target::{target:?}\n);\n",
                actions.join(", ")
            );
        }
        suggestion
    }
}

/// The principal that a target sees of a recorded flow, and its roles.
fn again_principal(
    set: &Set,
    target: &crate::policy::nouns::Target,
    recorded: &Recorded,
) -> Option<(String, Vec<String>)> {
    let peer = recorded.opened.peer.parse().ok()?;
    let workload = recorded.opened.workload.clone().map(std::sync::Arc::new);
    let user: Option<User> = recorded.intent.user.clone();
    let subject = crate::operation::Subject { user, workload, peer };
    set.principal_of(target, &subject)
}
