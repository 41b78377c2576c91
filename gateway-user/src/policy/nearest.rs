//! The permits that come nearest to a question that nothing permits, and which part of each kept it from matching. Every
//! part of a rule's scope and every condition is put to Cedar alone, as a rule of its own; nothing is read off the text.
//!
//! Decides nothing.

use std::cmp::Reverse;

use cedar_policy::{Authorizer, Entities, Policy, PolicySet, Request};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::decide::Question;
use super::entities::{Asked, principal};
use super::rules::Rule;
use super::set::Set;

/// Parts that one condition is taken apart into at most. The rest stays together.
const PARTS_MAX: usize = 32;

/// How one part of a rule meets the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meets {
    /// It holds.
    Holds,
    /// It does not.
    Fails,
    /// It cannot be evaluated by itself.
    Errs,
}

/// One part of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// `principal`, `action`, `resource`, `when`, `unless` or `until`.
    pub part: &'static str,
    /// It in Cedar's words.
    pub text: String,
    /// How it meets the question.
    pub meets: Meets,
}

/// A permit that did not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// `file#id`.
    pub rule: String,
    /// `file:line:column`.
    pub place: String,
    /// The action it was held against.
    pub action: String,
    /// How many of its parts hold.
    pub holds: usize,
    /// Its parts, in order.
    pub parts: Vec<Part>,
}

impl Set {
    /// The permits that nearly match this question, at most `most`: those of which the fewest parts do not hold first.
    /// Empty where nobody could stand as the principal, or the request is no operation.
    #[must_use]
    pub fn nearest(&self, at: Timestamp, question: &Question<'_>, most: usize) -> Vec<Nearest> {
        let Some(target) = self.target(&question.operation.target) else { return Vec::new() };
        let Ok(principal) = principal(target, question.subject) else { return Vec::new() };
        let Ok(actions) = self.actions_of(question.operation) else { return Vec::new() };
        let (subject, guard, operation) = (question.subject, question.guard, question.operation);
        let season = &*self.season(at);
        let asked = Asked { set: self, target, subject, principal, guard, operation, season };
        let mut found = Vec::new();
        for (action, caught) in actions {
            let (Ok(request), Ok(entities)) = (asked.request(action, &caught), asked.entities(action)) else {
                continue;
            };
            let near = self.rules().filter(|rule| rule.permits());
            let near = near.map(|rule| held_against(rule, action, at, &request, &entities));
            found.extend(near.filter(|near| near.parts.iter().any(|part| part.meets != Meets::Holds)));
        }
        let misses = |near: &Nearest| near.parts.len() - near.holds;
        found.sort_by(|a, b| {
            (misses(a), Reverse(a.holds), &a.rule).cmp(&(misses(b), Reverse(b.holds), &b.rule))
        });
        found.truncate(most);
        found
    }
}

fn held_against(rule: &Rule, action: &str, at: Timestamp, request: &Request, entities: &Entities) -> Nearest {
    let mut parts = Vec::new();
    if let Some(until) = rule.until {
        let meets = if rule.is_over(at) { Meets::Fails } else { Meets::Holds };
        parts.push(Part { part: "until", text: until.to_string(), meets });
    }
    for (part, alone) in taken_apart(&rule.policy) {
        let meets = meets(&alone, request, entities);
        parts.push(Part { part, text: words(part, &alone), meets });
    }
    Nearest {
        rule: rule.id.clone(),
        place: rule.place.to_string(),
        action: action.to_owned(),
        holds: parts.iter().filter(|part| part.meets == Meets::Holds).count(),
        parts,
    }
}

/// Each part of a rule as a rule of its own, which matches where the part holds.
fn taken_apart(policy: &Policy) -> Vec<(&'static str, Policy)> {
    let Ok(whole) = policy.to_json() else { return Vec::new() };
    let any = json!({ "op": "All" });
    let alone = |part: &str, value: Value, conditions: Vec<Value>| {
        let mut pieces = json!({
            "effect": "permit", "principal": any, "action": any, "resource": any, "conditions": conditions,
        });
        if part != "conditions" {
            pieces[part] = value;
        }
        Policy::from_json(None, pieces).ok()
    };
    let mut parts = Vec::new();
    for part in ["principal", "action", "resource"] {
        parts.extend(alone(part, whole[part].clone(), Vec::new()).map(|policy| (part, policy)));
    }
    for condition in whole["conditions"].as_array().into_iter().flatten() {
        let unless = condition["kind"] == "unless";
        // `unless (a || b)` is `unless a` and `unless b`, as `when (a && b)` is `when a` and `when b`.
        let (name, joined) = if unless { ("unless", "||") } else { ("when", "&&") };
        let mut pieces = Vec::new();
        split(&condition["body"], joined, &mut pieces);
        for piece in pieces {
            let condition = json!({ "kind": name, "body": piece });
            parts.extend(alone("conditions", Value::Null, vec![condition]).map(|policy| (name, policy)));
        }
    }
    parts
}

fn split<'v>(body: &'v Value, joined: &str, into: &mut Vec<&'v Value>) {
    match body.get(joined) {
        Some(both) if into.len() < PARTS_MAX => {
            split(&both["left"], joined, into);
            split(&both["right"], joined, into);
        }
        _ => into.push(body),
    }
}

fn meets(alone: &Policy, request: &Request, entities: &Entities) -> Meets {
    let Ok(set) = PolicySet::from_policies([alone.clone()]) else { return Meets::Errs };
    let response = Authorizer::new().is_authorized(request, &set, entities);
    if response.diagnostics().errors().next().is_some() {
        return Meets::Errs;
    }
    if response.diagnostics().reason().next().is_some() { Meets::Holds } else { Meets::Fails }
}

/// A part in Cedar's own words: what stands between the brackets of the rule that is only this part.
fn words(part: &str, alone: &Policy) -> String {
    let text = alone.to_string();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let scope = || {
        let (_, inside) = text.split_once('(')?;
        let (inside, _) = inside.rsplit_once(')')?;
        let inside = inside.trim().trim_end_matches(',');
        let start = inside.find(part)?;
        let rest = &inside[start..];
        let later = ["action", "resource"].iter().filter(|name| **name != part);
        let end = later.filter_map(|name| rest.find(&format!(", {name}"))).min().unwrap_or(rest.len());
        Some(rest[..end].to_owned())
    };
    let condition = || {
        let (_, inside) = text.split_once(&format!("{part} {{"))?;
        Some(inside.rsplit_once('}')?.0.trim().to_owned())
    };
    match part {
        "when" | "unless" => condition(),
        _ => scope(),
    }
    .unwrap_or(text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::files::Files;
    use crate::policy::{Sample, without_cases};

    const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["192.0.2.0/24"]
ports = [80]

[[target]]
name = "other"
direction = "outbound"
addresses = ["198.51.100.0/24"]
ports = [80]

[[role]]
name = "worker"
units = ["worker.service"]
"#;

    fn nearest(rules: &str, most: usize) -> Vec<Nearest> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.toml"), NOUNS).unwrap();
        std::fs::write(dir.path().join("a.cedar"), rules).unwrap();
        let set = without_cases(&Files::read(dir.path()).unwrap()).unwrap_or_else(|p| panic!("{p}"));
        let sample = Sample {
            unit: Some("worker.service".into()),
            target: "crm".into(),
            method: Some("POST".into()),
            path: Some("/orders/7".into()),
            ..Sample::default()
        };
        let (subject, operation) = sample.stage(&set).unwrap();
        let question = Question { subject: &subject, guard: None, operation: &operation, approved: &[] };
        set.nearest(Timestamp::now(), &question, most)
    }

    fn missed(near: &Nearest) -> Vec<(&'static str, &str)> {
        let missed = near.parts.iter().filter(|part| part.meets != Meets::Holds);
        missed.map(|part| (part.part, part.text.as_str())).collect()
    }

    const RULES: &str = r#"
@id("method") permit (principal in Role::"worker", action == Action::"http", resource == Target::"crm")
    when { context.method == "GET" && context.path like "/orders/*" };
@id("place") permit (principal in Role::"worker", action == Action::"http", resource == Target::"other")
    when { context.method == "GET" };
@id("who") permit (principal == Workload::"uid:7", action == Action::"http", resource == Target::"crm")
    unless { context.method == "POST" || context has query };
@id("never") forbid (principal, action == Action::"http", resource == Target::"crm");
"#;

    #[test]
    fn the_rule_that_misses_by_one_part_comes_first_and_that_part_is_named() {
        let found = nearest(RULES, 3);
        let ids: Vec<&str> = found.iter().map(|near| near.rule.as_str()).collect();
        assert_eq!(ids, ["a.cedar#method", "a.cedar#who", "a.cedar#place"]);
        assert_eq!(missed(&found[0]), [("when", r#"context.method == "GET""#)]);
        assert!(found[0].parts.iter().any(|part| part.text.contains("like") && part.meets == Meets::Holds));
        assert_eq!(
            missed(&found[1]),
            [("principal", r#"principal == Workload::"uid:7""#), ("unless", r#"context.method == "POST""#)]
        );
        assert_eq!(missed(&found[2])[0], ("resource", r#"resource == Target::"other""#));
        assert_eq!(nearest(RULES, 1).len(), 1);
    }

    #[test]
    fn a_part_that_leans_on_another_is_said_to_err_and_not_guessed() {
        let rules = r#"permit (principal, action == Action::"http", resource == Target::"crm")
            when { context has query && context.query == "a" };"#;
        let found = nearest(rules, 3);
        let meets: Vec<Meets> = found[0].parts.iter().map(|part| part.meets).collect();
        assert_eq!(meets, [Meets::Holds, Meets::Holds, Meets::Holds, Meets::Fails, Meets::Errs]);
    }

    #[test]
    fn a_rule_that_matches_is_not_near() {
        assert!(nearest(r#"permit (principal, action, resource == Target::"crm");"#, 3).is_empty());
    }
}
