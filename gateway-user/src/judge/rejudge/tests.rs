//! What is judged again, and what is only counted.

use std::sync::Arc;

use super::samples::recorded;
use super::*;
use crate::operation::{Direction, User};
use crate::policy::files::Files;
use crate::policy::without_cases;
use crate::record::entry::SessionOpened;

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["192.0.2.0/24"]
ports = [80]

[[target]]
name = "react"
direction = "inbound"
ports = [8080]
require = "user"

[[identity_provider]]
name = "corp"
issuer = "https://id.example.com"
audience = ["tidegate"]
algorithms = ["ES256"]
jwks = "keys.json"

[[role]]
name = "staff"
groups = ["staff"]
"#;

fn set(nouns: &str, rules: &str) -> Set {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.toml"), nouns).unwrap();
    std::fs::write(dir.path().join("a.cedar"), rules).unwrap();
    without_cases(&Files::read(dir.path()).unwrap()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn inbound(user: Option<&str>, fields: &[(&str, &str)]) -> Recorded {
    let mut recorded = recorded("GET /v1/runs HTTP/1.1", fields, Verdict::Allow);
    recorded.opened = Arc::new(SessionOpened {
        direction: Direction::Inbound,
        peer: "198.51.100.9:4000".into(),
        destination: "192.0.2.1:8080".into(),
        workload: None,
        ..(*recorded.opened).clone()
    });
    recorded.intent.target = Some("react".into());
    recorded.intent.user = user.map(|subject| User {
        provider: "corp".into(),
        subject: subject.into(),
        groups: vec!["staff".into()],
        expires: 0,
        proof: crate::operation::Proof::default(),
    });
    recorded
}

fn against(set: &Set, all: &[Recorded]) -> Report {
    let mut work = Rejudge::new(Before::Recorded, set, 100);
    all.iter().for_each(|recorded| assert!(work.take(recorded)));
    work.finish(Looked::Whole)
}

const READS: &str = r#"@id("reads") permit (principal is Workload, action == Action::"http", resource == Target::"crm")
    when { context.method == "GET" };"#;

#[test]
fn what_is_decided_otherwise_is_told_with_both_verdicts_and_its_number() {
    let set = set(NOUNS, READS);
    let all = [
        recorded("GET /a HTTP/1.1", &[], Verdict::Allow),
        recorded("POST /a HTTP/1.1", &[("Content-Length", "3")], Verdict::Allow),
        recorded("POST /a HTTP/1.1", &[("Transfer-Encoding", "chunked")], Verdict::Allow),
        recorded("GET /b HTTP/1.1", &[], Verdict::Hold),
        recorded("DELETE /b HTTP/1.1", &[], Verdict::Deny),
    ];
    let report = against(&set, &all);
    assert_eq!((report.looked_at, report.judged, report.same, report.kinds), (5, 5, 2, 4));
    let [widened, narrowed] = report.differences.as_slice() else { panic!("{report:?}") };
    assert_eq!((widened.before, widened.after, widened.times), (Verdict::Hold, Verdict::Allow, 1));
    assert_eq!(
        (widened.operation.as_str(), widened.rules.as_slice()),
        ("GET /b", &["a.cedar#reads".to_owned()][..])
    );
    assert_eq!((narrowed.before, narrowed.after, narrowed.times), (Verdict::Allow, Verdict::Deny, 2));
    assert_eq!((narrowed.subject.as_str(), narrowed.target.as_str()), ("unit:agent.service", "crm"));
    assert!(widened.widens() && !narrowed.widens());
}

#[test]
fn two_sets_are_compared_by_what_each_says_whatever_was_recorded() {
    let (old, new) =
        (set(NOUNS, READS), set(NOUNS, r#"permit (principal, action, resource == Target::"crm");"#));
    let mut work = Rejudge::new(Before::Set(&old), &new, 100);
    for line in ["GET /a HTTP/1.1", "POST /a HTTP/1.1"] {
        assert!(work.take(&recorded(line, &[], Verdict::Deny)));
    }
    let report = work.finish(Looked::Whole);
    assert_eq!((report.same, report.differences.len()), (1, 1));
    assert_eq!((report.differences[0].before, report.differences[0].after), (Verdict::Deny, Verdict::Allow));
}

#[test]
fn what_was_hidden_or_never_judged_is_counted_and_never_guessed() {
    let looks =
        set(NOUNS, r#"permit (principal, action, resource == Target::"crm") unless { context has query };"#);
    let blind = set(NOUNS, READS);
    let mut blocked = recorded("GET /a HTTP/1.1", &[], Verdict::Deny);
    blocked.intent.rules = vec!["block#unit:agent.service".into()];
    let all = [
        recorded("GET /users/******** HTTP/1.1", &[], Verdict::Allow),
        recorded("GET /a?card=******** HTTP/1.1", &[], Verdict::Allow),
        recorded("OPEN 192.0.2.7:80", &[], Verdict::Deny),
        recorded("", &[], Verdict::Refuse),
        recorded("GET /a HTTP/1.1", &[("Content-Length", "many")], Verdict::Allow),
        blocked,
    ];
    let report = against(&looks, &all);
    assert_eq!((report.looked_at, report.judged, report.unknown.len()), (6, 0, 5), "{report:?}");
    assert_eq!(report.unknown[Unknown::NeverJudged.word()], 2);
    assert!(report.differences.is_empty());
    assert_eq!(against(&blind, &all[1..2]).judged, 1, "no rule looks at the query");
}

#[test]
fn who_asks_is_who_was_proven_then() {
    let set = set(NOUNS, r#"permit (principal in Role::"staff", action, resource == Target::"react");"#);
    assert_eq!(against(&set, &[inbound(Some("ann"), &[("Authorization", "Bearer ********")])]).same, 1);
    let nobody = against(&set, &[inbound(None, &[])]);
    assert_eq!(nobody.differences[0].after, Verdict::Deny, "no token was sent");
    let unseen = against(&set, &[inbound(None, &[("Authorization", "Bearer ********")])]);
    assert_eq!(unseen.unknown[Unknown::Token.word()], 1, "whom it would prove is not known");
    let mut foreign = inbound(Some("ann"), &[]);
    foreign.intent.user.as_mut().unwrap().provider = "gone".into();
    assert_eq!(against(&set, &[foreign]).differences[0].after, Verdict::Deny);
}

#[test]
fn a_target_that_is_gone_moved_or_found_by_name_alone_is_no_surprise() {
    let gone = set(&NOUNS.replace("192.0.2.0/24", "203.0.113.0/24"), READS);
    let report = against(&gone, &[recorded("GET /a HTTP/1.1", &[], Verdict::Allow)]);
    assert_eq!(report.differences[0].after, Verdict::Deny);
    assert!(report.differences[0].reason.contains("no target is declared"), "{report:?}");
    let mut named = recorded("GET /a HTTP/1.1", &[], Verdict::Deny);
    named.intent.target = None;
    named.intent.head.fields = vec![("Host".into(), "crm.example.com".into())];
    let report = against(&set(NOUNS, READS), &[named]);
    assert_eq!(report.unknown[Unknown::Name.word()], 1, "{report:?}");
}

#[test]
fn no_more_kinds_are_told_apart_than_there_is_room_for() {
    let set = set(NOUNS, READS);
    let mut work = Rejudge::new(Before::Recorded, &set, 1);
    assert!(work.take(&recorded("GET /a HTTP/1.1", &[], Verdict::Allow)));
    assert!(work.take(&recorded("GET /a HTTP/1.1", &[], Verdict::Allow)), "the same again");
    assert!(!work.take(&recorded("GET /b HTTP/1.1", &[], Verdict::Allow)));
    assert!(work.finish(Looked::CutShort).cut_short);
}
