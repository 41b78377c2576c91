//! Lifting rules by approval, held against the words of the design, which are tried by hand.

use super::*;

/// A rule of the generated sets, simple enough to judge by hand.
#[derive(Debug, Clone)]
struct Simple {
    forbids: bool,
    approval: Option<&'static str>,
    /// `a`, `b`, the group, or any.
    action: Option<&'static str>,
    /// Role `one`, by uid 1.
    only_one: bool,
    only_get: bool,
}

impl Simple {
    fn text(&self) -> String {
        let approval = self.approval.map(|name| format!("@approval(\"{name}\") ")).unwrap_or_default();
        let effect = if self.forbids { "forbid" } else { "permit" };
        let principal = if self.only_one { "principal in Role::\"one\"" } else { "principal" };
        let action = match self.action {
            None => "action".to_owned(),
            Some("request") => "action in Action::\"request\"".to_owned(),
            Some(name) => format!("action == Action::\"{name}\""),
        };
        let when = if self.only_get { " when { context.method == \"GET\" }" } else { "" };
        // Without a resource, `open` has no method to look at.
        let action = if self.only_get && self.action.is_none() {
            "action in Action::\"request\"".to_owned()
        } else {
            action
        };
        format!("{approval}{effect} ({principal}, {action}, resource == Target::\"svc\"){when};\n")
    }

    fn matches(&self, action: &str, uid: u32, method: &str) -> bool {
        let about = self.action.is_none_or(|name| name == "request" || name == action);
        about && (!self.only_one || uid == 1) && (!self.only_get || method == "GET")
    }
}

fn simple() -> impl Strategy<Value = Simple> {
    let approval = prop_oneof![Just(None), Just(Some("x")), Just(Some("y")), Just(Some("z"))];
    let action = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("request"))];
    (any::<bool>(), approval, action, any::<bool>(), any::<bool>()).prop_map(
        |(forbids, approval, action, only_one, only_get)| Simple {
            forbids,
            approval: approval.filter(|_| forbids),
            action,
            only_one,
            only_get,
        },
    )
}

/// Whether the matching rules allow once exactly these approvals have lifted theirs.
fn allows(matching: &[&Simple], lifted: &[&str]) -> bool {
    let stands = |rule: &&&Simple| rule.forbids && !rule.approval.is_some_and(|name| lifted.contains(&name));
    matching.iter().any(|rule| !rule.forbids) && !matching.iter().any(|rule| stands(&rule))
}

/// By the words of the design: tries every set of approvals, smallest first.
fn by_hand(rules: &[Simple], actions: &[&str], uid: u32, method: &str, approved: &[&str]) -> Answer {
    let mut needed: Vec<String> = Vec::new();
    for action in actions {
        let matching: Vec<&Simple> = rules.iter().filter(|rule| rule.matches(action, uid, method)).collect();
        let mut ways: Vec<Vec<&str>> = (0_u32..8)
            .map(|bits| {
                ["x", "y", "z"]
                    .into_iter()
                    .enumerate()
                    .filter(|(at, _)| bits >> at & 1 == 1)
                    .map(|(_, name)| name)
                    .collect()
            })
            .collect();
        ways.sort_by_key(Vec::len);
        let enough = |more: &&Vec<&str>| allows(&matching, &[more.as_slice(), approved].concat());
        match ways.iter().find(enough) {
            Some(more) => needed.extend(more.iter().map(|name| (*name).to_owned())),
            None => return Answer::Deny,
        }
    }
    needed.sort_unstable();
    needed.dedup();
    if needed.is_empty() { Answer::Allow } else { Answer::Hold { approvals: needed } }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn lifting_means_what_the_design_says(
        rules in proptest::collection::vec(simple(), 0..7),
        uid in 1_u32..3,
        method in prop_oneof![Just("GET"), Just("POST")],
        path in prop_oneof![Just(("/a/x", vec!["a", "b"])), Just(("/x", vec!["b"]))],
        approved in proptest::sample::subsequence(vec!["x", "y", "z"], 0..=2),
    ) {
        let text: String = rules.iter().map(Simple::text).collect();
        let set = set(&text);
        let sample = Sample { uid: Some(uid), ..request("svc", method, path.0) };
        let decision = ask(&set, &sample, &approved);
        prop_assert_eq!(decision.answer, by_hand(&rules, &path.1, uid, method, &approved), "{}", text);
    }
}
