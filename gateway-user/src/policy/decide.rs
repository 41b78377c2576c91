//! The decision: allow, hold for approvals, or deny. Pure: no clock, no lock, no I/O, so that a replay gets the same.
//!
//! Denies what no rule permits, what is no declared operation, and whatever a rule could not be evaluated for.

use std::convert::Infallible;
use std::sync::Arc;

use cedar_policy::{AuthorizationError, Authorizer, Entities, PolicyId, Request};
use jiff::Timestamp;

use crate::operation::{HttpRequest, Kind, Operation, Subject};

use super::entities::{Asked, Nobody, principal};
use super::extract::is_like;
use super::memo;
use super::nouns::{Mask, OperationNoun};
use super::rules::Rule;
use super::scope::Half;
use super::set::{Captures, Set, Slot};
use super::when::Season;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who asks.
    pub subject: &'a Subject,
    /// The guard that holds the asking process, if one does.
    pub guard: Option<&'a str>,
    /// For what.
    pub operation: &'a Operation,
    /// Names of the approvals already granted to exactly this.
    pub approved: &'a [String],
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Let it through.
    Allow,
    /// Let it through once every one of these approvals is granted.
    Hold {
        /// Names of `[[approval]]`s, sorted, each once.
        approvals: Vec<String>,
    },
    /// Refuse it.
    Deny,
}

/// Why it was answered so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The rules named decided.
    Rule,
    /// No rule permits it.
    NoRule,
    /// The target declares operations, and it is none of them.
    NoOperation,
    /// The set has no such target.
    NoTarget,
    /// The target requires a user, and none is proven: 401.
    NoUser,
    /// The target requires a local process, and none is known.
    NoWorkload,
    /// A rule could not be evaluated.
    EvaluationError,
}

/// The decision on one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What is answered.
    pub answer: Answer,
    /// Why, as a kind.
    pub cause: Cause,
    /// The declared `[[operation]]`s it is; empty where the target declares none.
    pub operations: Vec<String>,
    /// The rules that decided, `file#id`, sorted.
    pub rules: Vec<String>,
    /// Why, in words for the operator.
    pub reason: String,
    /// What the client may be told: the `@message` of the deciding rule.
    pub shown: Option<String>,
    /// The masks that apply to what this subject gets.
    pub masks: Vec<Arc<Mask>>,
}

/// The decision on one action, before several are weighed.
struct Single {
    answer: Answer,
    cause: Cause,
    rules: Vec<Arc<Rule>>,
    reason: String,
}

impl Set {
    /// As [`Set::decide`], from memory where the same was asked before. What will be asked once (after an approval) is
    /// not remembered.
    #[must_use]
    pub fn recall(&self, at: Timestamp, asked: &Question<'_>) -> Arc<Decision> {
        let (sight, season) = (self.sight(&asked.operation.target), self.season(at));
        let Some(key) = memo::decision_key(sight, &season, asked) else {
            return Arc::new(self.decide(at, asked));
        };
        let decided: Result<_, Infallible> = self.memo.decisions.get_or(key, || Ok(self.decide(at, asked)));
        decided.unwrap_or_else(|never| match never {})
    }

    /// Decides, as of this moment: rules that have ended are not there, and the context says which hours last.
    #[must_use]
    pub fn decide(&self, at: Timestamp, asked: &Question<'_>) -> Decision {
        let operation = asked.operation;
        let refuse = |cause, reason| refusal(cause, reason, self.masks_of(&operation.target));
        let Some(target) =
            self.target(&operation.target).filter(|target| target.direction == operation.direction)
        else {
            return refuse(Cause::NoTarget, format!("there is no such target: {}", operation.target));
        };
        let name = &target.name;
        let principal = match principal(target, asked.subject) {
            Ok(principal) => principal,
            Err(Nobody::User) => {
                return refuse(Cause::NoUser, format!("{name} requires a user, and none is proven"));
            }
            Err(Nobody::Workload) => {
                return refuse(
                    Cause::NoWorkload,
                    format!("{name} requires a local process, and none is known"),
                );
            }
        };
        let actions = match self.actions_of(operation) {
            Ok(actions) => actions,
            Err(reason) => return refuse(Cause::NoOperation, reason),
        };
        let (guard, subject) = (asked.guard, asked.subject);
        let season = &*self.season(at);
        let asked_of = Asked { set: self, target, subject, principal, guard, operation, season };
        let operations = match operation.kind {
            Kind::Http(_) if self.operations_declared(name).next().is_some() => {
                let mut names: Vec<String> = actions.iter().map(|(action, _)| (*action).to_owned()).collect();
                names.dedup();
                names
            }
            _ => Vec::new(),
        };
        let singles =
            actions.iter().map(|(action, caught)| self.single(&asked_of, action, caught, asked.approved));
        let decided = strictest(singles.collect());
        let masks = match decided.answer {
            Answer::Deny => self.masks_of(name).to_vec(),
            Answer::Allow | Answer::Hold { .. } => self.masks_left(&asked_of),
        };
        Decision { operations, masks, ..decided }
    }

    /// The actions that an operation is, with what their captures caught.
    pub(super) fn actions_of<'a>(
        &'a self,
        operation: &'a Operation,
    ) -> Result<Vec<(&'a str, Captures<'a>)>, String> {
        let target = operation.target.as_str();
        let request = match &operation.kind {
            Kind::Open { .. } => return Ok(vec![("open", Vec::new())]),
            Kind::Http(request) => request,
        };
        if self.operations_declared(target).next().is_none() {
            return Ok(vec![("http", Vec::new())]);
        }
        let found = self.classify(target, &request.method, &request.path);
        if found.is_empty() {
            return Err(format!("{} {} is none of the operations of {target}", request.method, request.path));
        }
        if found.iter().all(|(operation, _)| operation.calls.is_empty()) {
            return Ok(found
                .into_iter()
                .map(|(operation, caught)| (operation.name.as_str(), caught))
                .collect());
        }
        called(found, request, target)
    }

    fn single(&self, asked: &Asked<'_>, action: &str, caught: &Captures<'_>, approved: &[String]) -> Single {
        let found =
            self.slot(&asked.target.name, action).ok_or_else(|| format!("{action} is never asked here"));
        let matched = found.and_then(|slot| {
            let request = asked.request(action, caught)?;
            self.matching(slot, asked.season, &request, &*self.entities(asked, action)?)
        });
        match matched {
            Ok(matched) => {
                let what = format!("{action} on {} for {}", asked.target.name, asked.principal.uid());
                matched.answer(approved, &what)
            }
            Err(error) => Single {
                answer: Answer::Deny,
                cause: Cause::EvaluationError,
                rules: Vec::new(),
                reason: format!("denied because a rule could not be evaluated: {error}"),
            },
        }
    }

    /// The entities of a question about this action: always the same for one who asks and one target.
    fn entities(&self, asked: &Asked<'_>, action: &str) -> Result<Arc<Entities>, String> {
        match memo::entities_key(asked.subject, asked.guard, asked.operation, action) {
            Some(key) => self.memo.entities.get_or(key, || asked.entities(action)),
            None => asked.entities(action).map(Arc::new),
        }
    }

    /// The rules of a slot that match. An error in any of them is an error of the whole: a rule that cannot be evaluated
    /// might have forbidden.
    pub(super) fn matching(
        &self,
        slot: &Slot,
        season: &Season,
        request: &Request,
        entities: &Entities,
    ) -> Result<Matched, String> {
        let principal = request.principal().ok_or("nobody asks")?;
        let half = |half: &Half| -> Result<Vec<Arc<Rule>>, String> {
            let mut rules = Vec::new();
            let mut errors = Vec::new();
            for set in half.about(principal, entities) {
                let response = Authorizer::new().is_authorized(request, set, entities);
                let is_over =
                    |id: &PolicyId| self.rule(id.as_ref()).is_some_and(|rule| rule.is_over(season.from));
                for error in response.diagnostics().errors() {
                    let AuthorizationError::PolicyEvaluationError(failed) = error;
                    if !is_over(failed.policy_id()) {
                        errors.push(error.to_string());
                    }
                }
                for id in response.diagnostics().reason().filter(|id| !is_over(id)) {
                    let rule = self.rule(id.as_ref()).cloned();
                    rules.push(rule.ok_or_else(|| format!("rule {id} is not in the set"))?);
                }
            }
            if let Some(error) = errors.into_iter().min() {
                return Err(error);
            }
            rules.sort_by(|a, b| a.id.cmp(&b.id));
            Ok(rules)
        };
        Ok(Matched { permits: half(&slot.permits)?, forbids: half(&slot.forbids)? })
    }

    /// The masks of the target but those that a permit of `reveal` clears for this principal. A mask stays where that
    /// cannot be established.
    fn masks_left(&self, asked: &Asked<'_>) -> Vec<Arc<Mask>> {
        let masks = self.masks_of(&asked.target.name);
        let revealable =
            |mask: &Arc<Mask>| self.mask_slot(&mask.name).filter(|slot| !slot.permits.is_empty());
        if masks.iter().all(|mask| revealable(mask).is_none()) {
            return masks.to_vec();
        }
        let Ok(entities) = self.entities(asked, "reveal") else { return masks.to_vec() };
        let clear = |mask: &&Arc<Mask>| {
            revealable(mask).is_some_and(|slot| {
                let matched = asked
                    .reveal(&mask.name)
                    .and_then(|request| self.matching(slot, asked.season, &request, &entities));
                matched.is_ok_and(|matched| matched.forbids.is_empty() && !matched.permits.is_empty())
            })
        };
        masks.iter().filter(|mask| !clear(mask)).cloned().collect()
    }
}

/// The operations that a request is by its path and by each call in it. A call that is none of them makes it no operation.
fn called<'a>(
    found: Vec<(&'a OperationNoun, Captures<'a>)>,
    request: &HttpRequest,
    target: &str,
) -> Result<Vec<(&'a str, Captures<'a>)>, String> {
    let what = format!("{} {}", request.method, request.path);
    if request.extracted.uncalled || request.extracted.calls.is_empty() {
        return Err(format!("{what} should carry calls of {target}, and does not say which"));
    }
    let mut actions = Vec::new();
    for (operation, caught) in found.iter().filter(|(operation, _)| operation.calls.is_empty()) {
        actions.push((operation.name.as_str(), caught.clone()));
    }
    for call in &request.extracted.calls {
        let before = actions.len();
        for (operation, caught) in &found {
            if operation.calls.iter().any(|pattern| is_like(pattern, call)) {
                let mut caught = caught.clone();
                caught.push(("call", call.clone()));
                actions.push((operation.name.as_str(), caught));
            }
        }
        if actions.len() == before {
            let call = call.escape_debug();
            return Err(format!(
                "{what} carries the call `{call}`, which is none of the operations of {target}"
            ));
        }
    }
    // The same operations stand together, so that each is named once.
    actions.sort_by(|one, other| one.0.cmp(other.0));
    Ok(actions)
}

/// The rules that match one action.
#[derive(Debug, Default)]
pub(super) struct Matched {
    pub(super) permits: Vec<Arc<Rule>>,
    pub(super) forbids: Vec<Arc<Rule>>,
}

impl Matched {
    /// A forbid without an approval denies. One whose approval is granted is lifted. If lifting all that remain would
    /// leave a permit standing alone, it is held; else nobody is asked about what could never run.
    fn answer(self, approved: &[String], what: &str) -> Single {
        let lifted =
            |rule: &Arc<Rule>| rule.approval.as_ref().is_some_and(|approval| approved.contains(approval));
        let standing: Vec<Arc<Rule>> = self.forbids.into_iter().filter(|rule| !lifted(rule)).collect();
        let hard: Vec<Arc<Rule>> = standing.iter().filter(|rule| rule.approval.is_none()).cloned().collect();
        let single = |answer, cause, rules, reason| Single { answer, cause, rules, reason };
        if !hard.is_empty() {
            let reason = format!("{what} is forbidden by {}", ids(&hard));
            return single(Answer::Deny, Cause::Rule, hard, reason);
        }
        if self.permits.is_empty() {
            return single(Answer::Deny, Cause::NoRule, Vec::new(), format!("no rule permits {what}"));
        }
        if standing.is_empty() {
            let reason = format!("{what} is permitted by {}", ids(&self.permits));
            return single(Answer::Allow, Cause::Rule, self.permits, reason);
        }
        let mut approvals: Vec<String> = standing.iter().filter_map(|rule| rule.approval.clone()).collect();
        approvals.sort_unstable();
        approvals.dedup();
        let reason =
            format!("{what} is held by {} for the approval of {}", ids(&standing), approvals.join(", "));
        single(Answer::Hold { approvals }, Cause::Rule, standing, reason)
    }
}

fn ids(rules: &[Arc<Rule>]) -> String {
    rules.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>().join(", ")
}

/// Weighs the decisions on everything that one request is: deny before hold before allow, approvals of all holds.
fn strictest(singles: Vec<Single>) -> Decision {
    let rank = |answer: &Answer| match answer {
        Answer::Allow => 0,
        Answer::Hold { .. } => 1,
        Answer::Deny => 2,
    };
    let top = singles.iter().map(|single| rank(&single.answer)).max();
    let mut decision: Option<Decision> = None;
    for single in singles.into_iter().filter(|single| Some(rank(&single.answer)) == top) {
        let shown = single.rules.iter().filter(|rule| !rule.permits()).find_map(|rule| rule.message.clone());
        let rules = single.rules.iter().map(|rule| rule.id.clone());
        match &mut decision {
            None => {
                decision = Some(Decision {
                    answer: single.answer,
                    cause: single.cause,
                    operations: Vec::new(),
                    rules: rules.collect(),
                    reason: single.reason,
                    shown,
                    masks: Vec::new(),
                });
            }
            Some(so_far) => {
                if let (Answer::Hold { approvals }, Answer::Hold { approvals: more }) =
                    (&mut so_far.answer, single.answer)
                {
                    approvals.extend(more);
                    approvals.sort_unstable();
                    approvals.dedup();
                }
                so_far.rules.extend(rules);
                so_far.rules.sort_unstable();
                so_far.rules.dedup();
                so_far.reason = format!("{}; {}", so_far.reason, single.reason);
                so_far.shown = so_far.shown.take().or(shown);
            }
        }
    }
    decision.unwrap_or_else(|| refusal(Cause::NoOperation, "it is no operation".to_owned(), &[]))
}

fn refusal(cause: Cause, reason: String, masks: &[Arc<Mask>]) -> Decision {
    let masks = masks.to_vec();
    Decision {
        answer: Answer::Deny,
        cause,
        operations: Vec::new(),
        rules: Vec::new(),
        reason,
        shown: None,
        masks,
    }
}

#[cfg(test)]
mod tests;
