//! Rules of one effect, parted by whom their scope is about, so that a question walks only those that can be about who
//! asks. Never leaves out a rule whose scope the principal meets.
//!
//! A scope that is not met makes a rule neither match nor err: Cedar evaluates it first and then stops. So leaving such
//! a rule out changes no answer, and most rules of a large set are about somebody else.

use std::collections::HashMap;

use cedar_policy::{Entities, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint};

/// What a rule's scope asks of the principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    Any,
    Is(EntityTypeName),
    Eq(EntityUid),
    In(EntityUid),
    IsIn(EntityTypeName, EntityUid),
}

/// The rules of one effect.
#[derive(Debug, Clone, Default)]
pub(super) struct Half {
    parts: HashMap<Scope, PolicySet>,
}

impl Half {
    /// Parts these rules.
    pub(super) fn of(policies: impl Iterator<Item = Policy>) -> Self {
        let mut parted: HashMap<Scope, Vec<Policy>> = HashMap::new();
        for policy in policies {
            parted.entry(Scope::of(&policy)).or_default().push(policy);
        }
        // Ids are distinct when the directory has no mistake; when it has one, no set is made of it.
        let set = |policies: Vec<Policy>| PolicySet::from_policies(policies).unwrap_or_default();
        Self { parts: parted.into_iter().map(|(scope, policies)| (scope, set(policies))).collect() }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All of them, in no order.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.parts.values().flat_map(PolicySet::policies)
    }

    /// The parts whose scope this principal meets.
    pub(super) fn about<'a>(&'a self, principal: &EntityUid, entities: &Entities) -> Vec<&'a PolicySet> {
        let kind = principal.type_name();
        let mut scopes = vec![Scope::Any, Scope::Is(kind.clone()), Scope::Eq(principal.clone())];
        let mut within = |uid: &EntityUid| {
            scopes.extend([Scope::In(uid.clone()), Scope::IsIn(kind.clone(), uid.clone())]);
        };
        // Everything is in itself.
        within(principal);
        entities.ancestors(principal).into_iter().flatten().for_each(within);
        scopes.iter().filter_map(|scope| self.parts.get(scope)).collect()
    }
}

impl Scope {
    fn of(policy: &Policy) -> Self {
        match policy.principal_constraint() {
            PrincipalConstraint::Any => Self::Any,
            PrincipalConstraint::Is(kind) => Self::Is(kind),
            PrincipalConstraint::Eq(uid) => Self::Eq(uid),
            PrincipalConstraint::In(uid) => Self::In(uid),
            PrincipalConstraint::IsIn(kind, uid) => Self::IsIn(kind, uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::str::FromStr;

    use cedar_policy::{Authorizer, Context, Entity, Request};

    use super::*;

    const RULES: &str = r#"
        permit (principal, action, resource);
        permit (principal is Workload, action, resource);
        permit (principal is User, action, resource);
        permit (principal == Workload::"a", action, resource);
        permit (principal == Workload::"b", action, resource);
        permit (principal in Workload::"a", action, resource);
        permit (principal in Role::"near", action, resource);
        permit (principal in Role::"far", action, resource);
        permit (principal in Role::"other", action, resource);
        permit (principal is Workload in Role::"far", action, resource);
        permit (principal is Workload in Workload::"a", action, resource);
        permit (principal is User in Role::"near", action, resource);
        permit (principal is Workload in Role::"other", action, resource);
        permit (principal in Role::"other", action, resource) when { principal.nothing };
        permit (principal in Role::"far", action, resource) when { principal.nothing };
        permit (principal, action, resource) when { principal.nothing };
    "#;

    fn uid(text: &str) -> EntityUid {
        text.parse().unwrap()
    }

    fn request(principal: &str) -> Request {
        let (action, resource) = (uid("Action::\"read\""), uid("Target::\"t\""));
        Request::new(uid(principal), action, resource, Context::empty(), None).unwrap()
    }

    /// Rules that match, and how many err.
    fn asked(sets: &[&PolicySet], request: &Request, entities: &Entities) -> (BTreeSet<String>, usize) {
        let responses: Vec<_> =
            sets.iter().map(|set| Authorizer::new().is_authorized(request, set, entities)).collect();
        let matched = responses.iter().flat_map(|response| response.diagnostics().reason());
        let errors = responses.iter().map(|response| response.diagnostics().errors().count()).sum();
        (matched.map(ToString::to_string).collect(), errors)
    }

    #[test]
    fn leaving_out_rules_about_others_changes_no_answer_and_hides_no_error() {
        let whole = PolicySet::from_str(RULES).unwrap();
        let half = Half::of(whole.policies().cloned());
        assert_eq!(half.policies().count(), whole.policies().count());
        let near = Entity::new_no_attrs(uid("Role::\"near\""), HashSet::from([uid("Role::\"far\"")]));
        let caller = Entity::new_no_attrs(uid("Workload::\"a\""), HashSet::from([uid("Role::\"near\"")]));
        let entities = Entities::from_entities([near, caller], None).unwrap();
        for principal in ["Workload::\"a\"", "Workload::\"b\"", "User::\"a\"", "Role::\"near\""] {
            let request = request(principal);
            let all = asked(&[&whole], &request, &entities);
            assert_eq!(
                asked(&half.about(&uid(principal), &entities), &request, &entities),
                all,
                "{principal}"
            );
            assert!(all.1 > 0, "a rule errs for {principal}, so that hiding it would show");
        }
    }

    #[test]
    fn rules_about_others_are_not_walked() {
        let whole = PolicySet::from_str(RULES).unwrap();
        let half = Half::of(whole.policies().cloned());
        let walked: usize = half
            .about(&uid("Workload::\"b\""), &Entities::empty())
            .iter()
            .map(|set| set.policies().count())
            .sum();
        assert_eq!(walked, 4, "two about anyone, one about any workload, one about this one");
    }
}
