//! A suggestion passes the checks, allows all that was allowed, and nothing that was never seen.

use super::super::rejudge::{Before, Rejudge, samples};
use super::*;
use crate::policy::files::Files;
use crate::policy::{Set, without_cases};
use crate::record::operations::Looked;

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["192.0.2.0/24"]
ports = [80]

[[role]]
name = "worker"
units = ["agent.service"]
"#;

fn set(files: &[(&str, &str)]) -> Set {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
    without_cases(&Files::read(dir.path()).unwrap()).unwrap_or_else(|problems| panic!("{problems}"))
}

const ALL: &str = r#"permit (principal, action == Action::"http", resource);"#;

fn seen() -> Vec<Recorded> {
    let mut other = samples::recorded("GET /v1/status HTTP/1.1", &[], Verdict::Allow);
    let mut opened = (*other.opened).clone();
    let workload = opened.workload.as_mut().unwrap();
    (workload.unit, workload.cgroup, workload.uid) = (None, None, 1234);
    other.opened = std::sync::Arc::new(opened);
    vec![
        samples::recorded("GET /v1/customers/17 HTTP/1.1", &[], Verdict::Allow),
        samples::recorded("GET /v1/customers/18?full=1 HTTP/1.1", &[], Verdict::Allow),
        samples::recorded("POST /v1/notes HTTP/1.1", &[("Content-Length", "3")], Verdict::Allow),
        other,
    ]
}

fn suggested(all: &[Recorded], include_denied: bool) -> Suggestion {
    let old = set(&[("a.toml", NOUNS), ("a.cedar", ALL)]);
    let mut suggest = Suggest::new(&old, include_denied);
    all.iter().for_each(|recorded| suggest.take(recorded));
    suggest.finish()
}

fn judged(set: &Set, all: &[Recorded]) -> Vec<Verdict> {
    all.iter().map(|recorded| Again::of(recorded).unwrap().judge(set).unwrap().verdict).collect()
}

#[test]
fn what_is_suggested_passes_the_checks_allows_what_was_allowed_and_denies_the_never_seen() {
    let suggestion = suggested(&seen(), false);
    let files = [("a.toml", NOUNS), ("s.toml", &suggestion.toml), ("s.cedar", &suggestion.cedar)];
    let new = set(&files);
    let mut work = Rejudge::new(Before::Recorded, &new, 100);
    seen().iter().for_each(|recorded| assert!(work.take(recorded)));
    let report = work.finish(Looked::Whole);
    assert_eq!((report.judged, report.differences.len()), (4, 0), "{report:?}\n{suggestion:?}");
    let never = [
        samples::recorded("DELETE /v1/customers/17 HTTP/1.1", &[], Verdict::Allow),
        samples::recorded("GET /v1/customers HTTP/1.1", &[], Verdict::Allow),
        samples::recorded("GET /v1/status HTTP/1.1", &[], Verdict::Allow),
    ];
    assert_eq!(judged(&new, &never), [Verdict::Deny; 3], "the last is another's");
    let another = samples::recorded("GET /v1/customers/99 HTTP/1.1", &[], Verdict::Allow);
    assert_eq!(judged(&new, &[another]), [Verdict::Allow], "an id is any id");
    assert!(suggestion.cedar.contains(r#"principal in Role::"worker""#), "{}", suggestion.cedar);
    assert!(suggestion.cedar.contains(r#"principal == Workload::"uid:1234""#), "{}", suggestion.cedar);
}

#[test]
fn what_was_denied_or_held_is_left_out_counted_and_taken_in_only_when_asked() {
    let all = [
        samples::recorded("GET /denied HTTP/1.1", &[], Verdict::Deny),
        samples::recorded("GET /held HTTP/1.1", &[], Verdict::Hold),
        samples::recorded("GET /users/******** HTTP/1.1", &[], Verdict::Allow),
    ];
    let suggestion = suggested(&all, false);
    assert_eq!((suggestion.used, suggestion.cedar.as_str(), suggestion.left_out.len()), (0, "", 3));
    let with = suggested(&all, true);
    assert!(with.used == 2 && with.toml.contains("/denied") && with.toml.contains("/held"), "{with:?}");
    assert_eq!(with.left_out.len(), 1, "what is masked can never be proposed");
}

#[test]
fn a_target_with_operations_gets_rules_about_those() {
    let operation =
        "[[operation]]\nname = \"read\"\ntarget = \"crm\"\nmethods = [\"GET\"]\npaths = [\"/v1/**\"]\n";
    let all = r#"permit (principal, action == Action::"read", resource);"#;
    let old = set(&[("a.toml", NOUNS), ("b.toml", operation), ("a.cedar", all)]);
    let mut suggest = Suggest::new(&old, false);
    seen().iter().for_each(|recorded| suggest.take(recorded));
    let suggestion = suggest.finish();
    assert!(suggestion.toml.is_empty() && suggestion.cedar.contains(r#"[Action::"read"]"#), "{suggestion:?}");
    assert_eq!(suggestion.left_out["it is none of the operations its target declares"], 1);
    let new = set(&[("a.toml", NOUNS), ("b.toml", operation), ("s.cedar", &suggestion.cedar)]);
    assert_eq!(judged(&new, &seen()[..1]), [Verdict::Allow]);
}
