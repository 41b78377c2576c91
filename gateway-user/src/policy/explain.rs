//! Why a decision is what it is: the rules that matched, and those that nearly did, with what kept each from it.
//!
//! Decides nothing: it asks `decide` and adds what a person wants to know.

use cedar_policy::{Authorizer, Entities, EntityUid, PolicySet, PrincipalConstraint, Request};
use jiff::Timestamp;
use serde::Serialize;

use super::decide::{Answer, Cause, Decision, Question};
use super::entities::{Asked, Principal, principal};
use super::rules::Rule;
use super::set::Set;

/// How a rule met the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Met {
    /// It matched and decided.
    Decided,
    /// It matched, and another rule decided.
    Matched,
    /// It matched, and a granted approval lifted it.
    Lifted,
    /// It is about this principal, action and target, and its conditions do not hold.
    ConditionsFalse,
    /// It is about this action and target, and another principal.
    OtherPrincipal,
    /// It could not be evaluated.
    Failed,
    /// Its `@until` has passed: it is as if it were not there.
    Ended,
}

/// One rule as it met the question.
#[derive(Debug, Clone, Serialize)]
pub struct Considered {
    /// `file#id`.
    pub rule: String,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// Which action it was considered for.
    pub action: String,
    /// How it met the question.
    pub met: Met,
    /// The approval that lifts it.
    pub approval: Option<String>,
    /// Its message.
    pub message: Option<String>,
    /// `file:line:column`.
    pub place: String,
}

/// A decision and everything about it.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// Who asked, as rules see it: `User::"corp/ada"`. `None` where nobody could stand as the principal.
    pub principal: Option<String>,
    /// The roles of that principal.
    pub roles: Vec<String>,
    /// The rules about this action and target: those that matched first, then the nearest.
    pub considered: Vec<Considered>,
}

impl Set {
    /// Explains the decision on a question.
    #[must_use]
    pub fn explain(&self, at: Timestamp, question: &Question<'_>) -> Explanation {
        let decision = self.decide(at, question);
        let mut explanation =
            Explanation { decision, principal: None, roles: Vec::new(), considered: Vec::new() };
        let Some(target) = self.target(&question.operation.target) else { return explanation };
        let Ok(principal) = principal(target, question.subject) else { return explanation };
        explanation.principal = Some(principal.uid().to_string());
        explanation.roles = principal.roles(self.roles()).into_iter().map(str::to_owned).collect();
        let Ok(actions) = self.actions_of(question.operation) else { return explanation };
        let (subject, guard, operation) = (question.subject, question.guard, question.operation);
        let season = &*self.season(at);
        let asked = Asked { set: self, target, subject, principal, guard, operation, season };
        for (action, caught) in actions {
            let (Ok(request), Ok(entities)) = (asked.request(action, &caught), asked.entities(action)) else {
                continue;
            };
            let Some(slot) = self.slot(&target.name, action) else { continue };
            for policy in slot.permits.policies().chain(slot.forbids.policies()) {
                let Some(rule) = self.rule(policy.id().as_ref()) else { continue };
                let met = match rule.is_over(at) {
                    true => Met::Ended,
                    false => {
                        met(rule, &principal, &request, &entities, &explanation.decision, question.approved)
                    }
                };
                explanation.considered.push(considered(rule, action, met));
            }
        }
        explanation.considered.sort_by(|a, b| (a.met, &a.rule).cmp(&(b.met, &b.rule)));
        explanation
    }
}

fn considered(rule: &Rule, action: &str, met: Met) -> Considered {
    Considered {
        rule: rule.id.clone(),
        effect: if rule.permits() { "permit" } else { "forbid" },
        action: action.to_owned(),
        met,
        approval: rule.approval.clone(),
        message: rule.message.clone(),
        place: rule.place.to_string(),
    }
}

fn met(
    rule: &Rule,
    principal: &Principal<'_>,
    request: &Request,
    entities: &Entities,
    decision: &Decision,
    approved: &[String],
) -> Met {
    let Ok(alone) = PolicySet::from_policies([rule.policy.clone()]) else { return Met::Failed };
    let response = Authorizer::new().is_authorized(request, &alone, entities);
    if response.diagnostics().errors().next().is_some() {
        return Met::Failed;
    }
    let matched = response.diagnostics().reason().next().is_some();
    let lifted = rule.approval.as_ref().is_some_and(|approval| approved.contains(approval));
    match matched {
        true if decision.rules.contains(&rule.id) => Met::Decided,
        true if lifted => Met::Lifted,
        true => Met::Matched,
        false if is_about(rule, &principal.uid(), entities) => Met::ConditionsFalse,
        false => Met::OtherPrincipal,
    }
}

fn is_about(rule: &Rule, principal: &EntityUid, entities: &Entities) -> bool {
    let within = |uid: &EntityUid| uid == principal || entities.is_ancestor_of(uid, principal);
    match rule.policy.principal_constraint() {
        PrincipalConstraint::Any => true,
        PrincipalConstraint::Eq(uid) => uid == *principal,
        PrincipalConstraint::In(uid) => within(&uid),
        PrincipalConstraint::Is(kind) => kind == *principal.type_name(),
        PrincipalConstraint::IsIn(kind, uid) => kind == *principal.type_name() && within(&uid),
    }
}

impl Answer {
    /// `allow`, `hold` or `deny`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Hold { .. } => "hold",
            Self::Deny => "deny",
        }
    }
}

impl Cause {
    /// What an operator can do about a denial, where something general can be said.
    #[must_use]
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Rule => None,
            Self::NoRule => Some("permit it, or see below which rule comes nearest"),
            Self::NoOperation => Some("declare what this request is as an `[[operation]]` of the target"),
            Self::NoTarget => Some("declare the target, or name the right one"),
            Self::NoUser => Some("the target's `require` asks for a user: send a bearer token"),
            Self::NoWorkload => Some("the target's `require` asks for a local process"),
            Self::EvaluationError => {
                Some("mend the rule: what cannot be evaluated denies everything it is about")
            }
        }
    }
}
