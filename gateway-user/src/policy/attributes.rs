//! The attributes of `context`: which there are, and which a rule asks for. Finds also those that stand under `has`, of
//! which Cedar's validator says nothing.

use std::collections::BTreeSet;

use cedar_policy::Policy;
use serde_json::Value;

use super::schema::cedar_json;

/// The attributes that `context` has for some action of a schema.
pub(super) fn known(schema: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    // A schema that cannot be read is reported as that, and then no rule is read against it.
    let Ok(schema) = cedar_json(schema) else { return names };
    for namespace in schema.as_object().into_iter().flat_map(|namespaces| namespaces.values()) {
        let shared = namespace.get("commonTypes").and_then(Value::as_object);
        let actions = namespace.get("actions").and_then(Value::as_object);
        let contexts = actions
            .into_iter()
            .flat_map(|all| all.values())
            .filter_map(|action| action.pointer("/appliesTo/context"));
        for shape in shared.into_iter().flat_map(|all| all.values()).chain(contexts) {
            let attributes = shape.get("attributes").and_then(Value::as_object);
            names.extend(attributes.into_iter().flat_map(|all| all.keys().cloned()));
        }
    }
    names
}

/// The attributes of `context` that a rule asks for.
pub(super) fn asked(policy: &Policy) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Ok(rule) = policy.to_json() else { return names };
    let mut left = vec![&rule];
    while let Some(part) = left.pop() {
        match part {
            Value::Object(members) => {
                for (operator, operands) in members {
                    let of_context = operands.pointer("/left/Var").and_then(Value::as_str) == Some("context");
                    if of_context
                        && matches!(operator.as_str(), "has" | ".")
                        && let Some(name) = operands.get("attr").and_then(Value::as_str)
                    {
                        names.insert(name.to_owned());
                    }
                    left.push(operands);
                }
            }
            Value::Array(parts) => left.extend(parts),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_ask_for_an_attribute_is_found() {
        let text = r#"forbid (principal, action, resource) when {
            context has one && context.two == "context.nine" && context["three"] == 1
            || ([{a: context.four}].contains({a: 1}) && resource has five && context.six.seven == 2)
        };"#;
        let rule: Policy = text.parse().unwrap();
        let found: Vec<String> = asked(&rule).into_iter().collect();
        assert_eq!(found, ["four", "one", "six", "three", "two"]);
    }
}
