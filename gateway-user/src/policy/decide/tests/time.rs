//! Rules that end and hours that last: as of the moment that is asked about, and never from memory of another.

use super::*;

const HOURS: &str = r#"
[[hours]]
name = "office"
zone = "Europe/Berlin"
days = ["mon", "tue", "wed", "thu", "fri"]
from = "09:00"
to = "17:00"

[[hours]]
name = "night"
zone = "UTC"
from = "22:00"
to = "06:00"
"#;

fn at(set: &Set, sample: &Sample, at: &str) -> Decision {
    let (subject, operation) = sample.stage(set).unwrap();
    let question = Question { subject: &subject, guard: None, operation: &operation, approved: &[] };
    let moment = at.parse().unwrap();
    let decision = set.decide(moment, &question);
    assert_eq!(*set.recall(moment, &question), decision, "at {at}");
    decision
}

#[test]
fn a_rule_whose_time_is_over_is_as_if_it_were_not_there() {
    let sample = request("plain", "GET", "/x");
    let permit = set("@until(\"2026-12-01\") permit (principal, action, resource);");
    let answers = |set: &Set, moments: &[&str]| -> Vec<Answer> {
        moments.iter().map(|moment| at(set, &sample, moment).answer).collect()
    };
    let (before, on, after) =
        ("2026-11-30T23:59:59.999999999Z", "2026-12-01T00:00:00Z", "2030-01-01T00:00:00Z");
    // Also when the clock is put back.
    assert_eq!(
        answers(&permit, &[before, on, after, before]),
        [Answer::Allow, Answer::Deny, Answer::Deny, Answer::Allow]
    );
    assert_eq!(at(&permit, &sample, on).cause, Cause::NoRule);
    let forbid = set(&format!("{PERMIT}@until(\"2026-12-01\") forbid (principal, action, resource);"));
    assert_eq!(answers(&forbid, &[before, on]), [Answer::Deny, Answer::Allow]);
    let held = set(&format!(
        "{PERMIT}@approval(\"x\") @until(\"2026-12-01\") forbid (principal, action, resource);"
    ));
    assert_eq!(answers(&held, &[before, on]), [Answer::Hold { approvals: vec!["x".into()] }, Answer::Allow]);
}

#[test]
fn a_rule_that_cannot_be_evaluated_denies_until_it_ends_and_no_longer() {
    let overflow = "@until(\"2026-12-01\") forbid (principal, action == Action::\"http\", resource == Target::\"plain\")\n\
                    when { context has body_length && context.body_length + 9223372036854775807 < 0 };";
    let set = set(&format!("{PERMIT}{overflow}"));
    let sample = Sample { body_length: Some(1), ..request("plain", "GET", "/x") };
    assert_eq!(at(&set, &sample, "2026-11-30T00:00:00Z").cause, Cause::EvaluationError);
    assert_eq!(at(&set, &sample, "2026-12-01T00:00:00Z").answer, Answer::Allow);
}

#[test]
fn a_reveal_that_has_ended_reveals_nothing() {
    let rules = "permit (principal, action in Action::\"request\", resource);\n\
                 @until(\"2026-12-01\") permit (principal, action == Action::\"reveal\", resource == Mask::\"cards\");";
    let (set, sample) = (set(rules), request("plain", "GET", "/x"));
    assert!(at(&set, &sample, "2026-11-30T00:00:00Z").masks.is_empty());
    assert_eq!(at(&set, &sample, "2026-12-01T00:00:00Z").masks.len(), 1);
}

#[test]
fn rules_see_which_hours_last_and_no_memory_outlasts_them() {
    let rules = format!(
        "{PERMIT}@approval(\"x\") forbid (principal, action, resource == Target::\"plain\")\n\
         unless {{ context.hours.contains(\"office\") }};\n\
         forbid (principal, action, resource == Target::\"plain\") when {{ context.hours.contains(\"night\") }};"
    );
    let (set, sample) = (set_of(&format!("{NOUNS}{HOURS}"), &rules), request("plain", "GET", "/x"));
    let held = || Answer::Hold { approvals: vec!["x".into()] };
    // 2026-11-23 is a Monday.
    for (moment, answer) in [
        ("2026-11-23T07:59:59Z", held()),
        ("2026-11-23T08:00:00Z", Answer::Allow),
        ("2026-11-23T15:59:59Z", Answer::Allow),
        ("2026-11-23T16:00:00Z", held()),
        ("2026-11-23T22:00:00Z", Answer::Deny),
        ("2026-11-24T05:59:59Z", Answer::Deny),
        ("2026-11-24T06:00:00Z", held()),
        ("2026-11-28T12:00:00Z", held()),
        ("2026-11-23T08:00:00Z", Answer::Allow),
    ] {
        assert_eq!(at(&set, &sample, moment).answer, answer, "{moment}");
    }
}

#[test]
fn a_case_asks_about_its_own_moment() {
    let case = |name: &str, at: &str, expect: &str| {
        format!(
            "[[case]]\nname = \"{name}\"\nas = {{ uid = 1 }}\ntarget = \"plain\"\nmethod = \"GET\"\npath = \"/\"\nat = {at}\nexpect = \"{expect}\"\n"
        )
    };
    let read_with = |cases: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("n.toml"), NOUNS).unwrap();
        fs::write(dir.path().join("r.cedar"), format!("@until(\"2026-12-01\") {PERMIT}")).unwrap();
        fs::write(dir.path().join("c.cases.toml"), cases).unwrap();
        read(dir.path()).map(drop)
    };
    let (before, after) = ("2026-11-30T12:00:00Z", "\"2026-12-01T01:00:00+01:00\"");
    let sound = format!("{}{}", case("before", before, "allow"), case("after", after, "deny"));
    read_with(&sound).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert!(
        read_with(&case("before", before, "deny"))
            .unwrap_err()
            .to_string()
            .contains("expects deny, and is: allow")
    );
}
