//! Which `[[hours]]` a rule names: to Cedar they are text, and text it cannot know to be misspelt.
//!
//! Refuses a rule that compares `context.hours` with anything but names written out.

use cedar_policy::Policy;
use serde_json::Value;

/// The names that a rule compares `context.hours` with. `None` where it does something else with them, so that nobody
/// could tell a misspelt name.
pub(super) fn named(policy: &Policy) -> Option<Vec<String>> {
    let json = policy.to_json().ok()?;
    let mut names = Vec::new();
    walk(json.get("conditions")?, &mut names).then_some(names)
}

fn walk(node: &Value, names: &mut Vec<String>) -> bool {
    match node {
        Value::Array(nodes) => nodes.iter().all(|node| walk(node, names)),
        Value::Object(fields) => {
            for word in ["contains", "containsAll", "containsAny", "==", "!="] {
                let Some((left, right)) = fields.get(word).and_then(sides) else { continue };
                if is_hours(left) {
                    return written(right, names);
                }
                if is_hours(right) && word != "contains" {
                    return written(left, names);
                }
            }
            let emptiness = fields.get("isEmpty").and_then(|test| test.get("arg"));
            if emptiness.is_some_and(is_hours) {
                return true;
            }
            !is_hours(node) && fields.values().all(|node| walk(node, names))
        }
        _ => true,
    }
}

fn sides(of: &Value) -> Option<(&Value, &Value)> {
    Some((of.get("left")?, of.get("right")?))
}

/// `context.hours`, or the same of anything else: nothing else has hours.
fn is_hours(node: &Value) -> bool {
    node.get(".").and_then(|access| access.get("attr")).and_then(Value::as_str) == Some("hours")
}

/// Takes a text, or a set of texts, written out.
fn written(node: &Value, names: &mut Vec<String>) -> bool {
    match node.get("Set").or_else(|| node.get("Value")) {
        Some(Value::String(name)) => {
            names.push(name.clone());
            true
        }
        Some(Value::Array(items)) => items.iter().all(|item| match item {
            Value::String(name) => {
                names.push(name.clone());
                true
            }
            item => item.get("Value").is_some() && written(item, names),
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(condition: &str) -> Option<Vec<String>> {
        named(&format!("permit (principal, action, resource) when {{ {condition} }};").parse().unwrap())
    }

    #[test]
    fn names_are_found_wherever_hours_are_compared() {
        for (condition, names) in [
            ("true", vec![]),
            ("context.hours.contains(\"office\")", vec!["office"]),
            ("!(context.hours.contains(\"office\")) || context.method == \"GET\"", vec!["office"]),
            ("context[\"hours\"].containsAny([\"a\", \"b\"])", vec!["a", "b"]),
            ("[\"a\", \"b\"].containsAll(context.hours)", vec!["a", "b"]),
            ("context.hours == [\"a\"] && context.hours.isEmpty()", vec!["a"]),
            ("if context.hours.contains(\"a\") then true else context.hours.contains(\"b\")", vec!["a", "b"]),
        ] {
            assert_eq!(of(condition).unwrap(), names, "{condition}");
        }
    }

    #[test]
    fn hours_compared_with_what_is_not_written_out_are_refused() {
        for condition in [
            "context.hours.contains(context.method)",
            "context.hours.containsAny(context.segments)",
            "context.segments.containsAny(context.hours)",
            "context.hours == context.segments",
            "[context.hours].contains([\"a\"])",
            "context.hours.contains(if true then \"a\" else \"b\")",
            "(if true then context.hours else context.hours).contains(\"a\")",
        ] {
            assert_eq!(of(condition), None, "{condition}");
        }
    }
}
