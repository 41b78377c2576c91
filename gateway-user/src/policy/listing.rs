//! The rules of a set as a list, for those who weigh them against what happened. Decides nothing.

use cedar_policy::{ActionConstraint, PrincipalConstraint, ResourceConstraint};

use super::rules::Rule;
use super::set::{Set, is_about};

/// One rule, as its author sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `file#id`.
    pub id: String,
    /// Whether it permits.
    pub permits: bool,
    /// Whether it is about seeing through a mask. Such a rule decides no operation.
    pub reveals: bool,
    /// The role in its principal.
    pub role: Option<String>,
    /// Principal, action and resource, as in the rule.
    pub scope: String,
    /// `file:line:column`.
    pub place: String,
    /// The targets it can be about.
    pub targets: Vec<String>,
}

impl Set {
    /// Its rules, by id.
    #[must_use]
    pub fn listing(&self) -> Vec<Listed> {
        let mut rules: Vec<_> = self.rules().map(|rule| self.listed(rule)).collect();
        rules.sort_by(|a, b| a.id.cmp(&b.id));
        rules
    }

    fn listed(&self, rule: &Rule) -> Listed {
        let about = self.targets().iter().filter(|target| is_about(rule, target));
        let targets = about.map(|target| target.name.clone()).collect();
        Listed {
            id: rule.id.clone(),
            permits: rule.permits(),
            reveals: rule.names_action("reveal"),
            role: role(rule),
            scope: scope(rule),
            place: rule.place.to_string(),
            targets,
        }
    }

    /// Whether a rule is about this action, by its scope.
    #[must_use]
    pub fn covers(&self, rule: &str, action: &str) -> bool {
        self.rule(rule).is_some_and(|rule| rule.covers_action(action))
    }
}

fn role(rule: &Rule) -> Option<String> {
    match rule.policy.principal_constraint() {
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid)
            if uid.type_name().to_string() == "Role" =>
        {
            let id: &str = uid.id().as_ref();
            Some(id.to_owned())
        }
        _ => None,
    }
}

fn scope(rule: &Rule) -> String {
    let principal = match rule.policy.principal_constraint() {
        PrincipalConstraint::Any => "anyone".to_owned(),
        PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) => uid.to_string(),
        PrincipalConstraint::Is(kind) => format!("any {kind}"),
        PrincipalConstraint::IsIn(kind, uid) => format!("any {kind} in {uid}"),
    };
    let action = match rule.policy.action_constraint() {
        ActionConstraint::Any => "anything".to_owned(),
        ActionConstraint::Eq(uid) => uid.to_string(),
        ActionConstraint::In(uids) => uids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let resource = match rule.policy.resource_constraint() {
        ResourceConstraint::Any => "anything".to_owned(),
        ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) => uid.to_string(),
        ResourceConstraint::Is(kind) => format!("any {kind}"),
        ResourceConstraint::IsIn(kind, uid) => format!("any {kind} in {uid}"),
    };
    format!("{principal} may {action} on {resource}")
}
