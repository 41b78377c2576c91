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
    /// It ends on 1 December.
    ends: bool,
    only_office: bool,
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
        let mut when = if self.only_get { " when { context.method == \"GET\" }" } else { "" }.to_owned();
        if self.only_office {
            when.push_str(" when { context.hours.contains(\"office\") }");
        }
        let until = if self.ends { "@until(\"2026-12-01\") " } else { "" };
        // Without a resource, `open` has no method to look at.
        let action = if self.only_get && self.action.is_none() {
            "action in Action::\"request\"".to_owned()
        } else {
            action
        };
        format!("{until}{approval}{effect} ({principal}, {action}, resource == Target::\"svc\"){when};\n")
    }

    fn matches(&self, action: &str, uid: u32, method: &str, moment: &Moment) -> bool {
        if (self.ends && moment.after_the_end) || (self.only_office && !moment.in_the_office) {
            return false;
        }
        let about = self.action.is_none_or(|name| name == "request" || name == action);
        about && (!self.only_one || uid == 1) && (!self.only_get || method == "GET")
    }
}

/// A moment, and what by hand is known of it.
struct Moment {
    at: &'static str,
    after_the_end: bool,
    in_the_office: bool,
}

const OFFICE: &str = "\n[[hours]]\nname = \"office\"\nzone = \"UTC\"\nfrom = \"09:00\"\nto = \"17:00\"\n";

const MOMENTS: [Moment; 4] = [
    Moment { at: "2026-11-30T10:00:00Z", after_the_end: false, in_the_office: true },
    Moment { at: "2026-11-30T20:00:00Z", after_the_end: false, in_the_office: false },
    Moment { at: "2026-12-01T10:00:00Z", after_the_end: true, in_the_office: true },
    Moment { at: "2026-12-01T00:00:00Z", after_the_end: true, in_the_office: false },
];

fn simple() -> impl Strategy<Value = Simple> {
    let approval = prop_oneof![Just(None), Just(Some("x")), Just(Some("y")), Just(Some("z"))];
    let action = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("request"))];
    let time = (any::<bool>(), any::<bool>());
    (any::<bool>(), approval, action, any::<bool>(), any::<bool>(), time).prop_map(
        |(forbids, approval, action, only_one, only_get, (ends, only_office))| Simple {
            forbids,
            approval: approval.filter(|_| forbids),
            action,
            only_one,
            only_get,
            ends,
            only_office,
        },
    )
}

/// Whether the matching rules allow once exactly these approvals have lifted theirs.
fn allows(matching: &[&Simple], lifted: &[&str]) -> bool {
    let stands = |rule: &&&Simple| rule.forbids && !rule.approval.is_some_and(|name| lifted.contains(&name));
    matching.iter().any(|rule| !rule.forbids) && !matching.iter().any(|rule| stands(&rule))
}

/// By the words of the design: tries every set of approvals, smallest first.
fn by_hand(
    rules: &[Simple],
    actions: &[&str],
    (uid, method): (u32, &str),
    approved: &[&str],
    moment: &Moment,
) -> Answer {
    let mut needed: Vec<String> = Vec::new();
    for action in actions {
        let matching: Vec<&Simple> =
            rules.iter().filter(|rule| rule.matches(action, uid, method, moment)).collect();
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
        moments in proptest::collection::vec(0_usize..4, 1..6),
    ) {
        let text: String = rules.iter().map(Simple::text).collect();
        let set = set_of(&format!("{NOUNS}{OFFICE}"), &text);
        let sample = Sample { uid: Some(uid), ..request("svc", method, path.0) };
        let (subject, operation) = sample.stage(&set).unwrap();
        let granted: Vec<String> = approved.iter().map(|name| (*name).to_owned()).collect();
        let asked = Question { subject: &subject, guard: None, operation: &operation, approved: &granted };
        // In any order, so that nothing is answered from memory of another moment.
        for moment in moments.into_iter().map(|index| &MOMENTS[index]) {
            let expected = by_hand(&rules, &path.1, (uid, method), &approved, moment);
            let decision = set.recall(moment.at.parse().unwrap(), &asked);
            prop_assert_eq!(&decision.answer, &expected, "{} at {}", text, moment.at);
        }
    }
}
