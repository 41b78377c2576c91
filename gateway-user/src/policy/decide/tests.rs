//! What a decision promises. Most of these show a refusal.

mod by_hand;
mod proof;
mod time;
mod who;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use cedar_policy::{Entities, Entity, Request, Schema};
use proptest::prelude::*;

use super::*;
use crate::operation::Direction;
use crate::policy::{Sample, read};

const NOUNS: &str = r#"
[[target]]
name = "svc"
direction = "outbound"
ports = [80]
addresses = ["10.0.0.1"]
labels = ["zone=blue", "zone=green"]

[[target]]
name = "plain"
direction = "outbound"
ports = [81]
addresses = ["10.0.0.1"]

[[operation]]
name = "a"
target = "svc"
paths = ["/a/**", "/{first}/b"]

[[operation]]
name = "b"
target = "svc"
methods = ["GET", "POST"]
paths = ["/**"]

[[role]]
name = "one"
uids = [1]
groups = ["one"]

[[role]]
name = "two"
units = ["two.service", "two.slice"]
executables = ["/bin/two"]

[[guard]]
name = "agents"
uids = [1]

[[identity_provider]]
name = "corp"
issuer = "https://id.example.com"
audience = ["tidegate"]
algorithms = ["ES256"]
jwks = "keys.json"

[[role]]
name = "corp-staff"
provider = "corp"

[[person]]
name = "ada"
uid = 1001

[[mask]]
name = "cards"
targets = ["svc", "plain"]
find = ["card"]

[[mask]]
name = "mail"
targets = ["svc"]
find = ["email"]

[[approval]]
name = "x"
approvers = ["ada"]

[[approval]]
name = "y"
approvers = ["ada"]

[[approval]]
name = "z"
approvers = ["ada"]
"#;

fn set_of(nouns: &str, rules: &str) -> Set {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("n.toml"), nouns).unwrap();
    fs::write(dir.path().join("r.cedar"), rules).unwrap();
    read(dir.path()).unwrap_or_else(|problems| panic!("{}\n{rules}", problems.render(false)))
}

fn set(rules: &str) -> Set {
    set_of(NOUNS, rules)
}

fn request(target: &str, method: &str, path: &str) -> Sample {
    let (method, path) = (Some(method.to_owned()), Some(path.to_owned()));
    Sample { uid: Some(1), target: target.into(), method, path, ..Sample::default() }
}

fn ask(set: &Set, sample: &Sample, approved: &[&str]) -> Decision {
    let (subject, operation) = sample.stage(set).unwrap();
    let approved: Vec<String> = approved.iter().map(|name| (*name).to_owned()).collect();
    let guard = sample.guard.as_deref();
    let question = Question { subject: &subject, guard, operation: &operation, approved: &approved };
    let decision = set.decide(Timestamp::UNIX_EPOCH, &question);
    // Whatever was asked of this set before, and when it is asked again.
    for _ in 0..2 {
        assert_eq!(*set.recall(Timestamp::UNIX_EPOCH, &question), decision);
    }
    decision
}

fn answer(rules: &str, sample: &Sample) -> (Answer, Cause) {
    let decision = ask(&set(rules), sample, &[]);
    (decision.answer, decision.cause)
}

const PERMIT: &str = "@id(\"all\") permit (principal, action, resource);\n";

#[test]
fn nothing_is_allowed_by_default() {
    assert_eq!(answer("", &request("svc", "GET", "/x")), (Answer::Deny, Cause::NoRule));
    assert_eq!(answer("", &request("plain", "GET", "/x")), (Answer::Deny, Cause::NoRule));
    assert_eq!(answer(PERMIT, &request("svc", "GET", "/x")), (Answer::Allow, Cause::Rule));
}

#[test]
fn what_is_no_declared_operation_is_denied_whatever_is_permitted() {
    assert_eq!(answer(PERMIT, &request("svc", "DELETE", "/x")), (Answer::Deny, Cause::NoOperation));
    assert_eq!(answer(PERMIT, &request("plain", "DELETE", "/x")), (Answer::Allow, Cause::Rule));
}

#[test]
fn an_unknown_target_or_the_wrong_direction_is_denied() {
    let set = set(PERMIT);
    let (subject, mut operation) = request("svc", "GET", "/x").stage(&set).unwrap();
    operation.direction = Direction::Inbound;
    let ask = |operation: &Operation| {
        set.decide(
            Timestamp::UNIX_EPOCH,
            &Question { subject: &subject, guard: None, operation, approved: &[] },
        )
    };
    assert_eq!(ask(&operation).cause, Cause::NoTarget);
    operation.direction = Direction::Outbound;
    assert_eq!(ask(&operation).answer, Answer::Allow);
    operation.target = "gone".into();
    assert_eq!((ask(&operation).answer, ask(&operation).cause), (Answer::Deny, Cause::NoTarget));
}

#[test]
fn a_rule_that_cannot_be_evaluated_denies_everything_it_is_about() {
    let overflow = "forbid (principal, action in Action::\"request\", resource == Target::\"svc\")\n\
                    when { context has body_length && context.body_length + 9223372036854775807 < 0 };";
    let rules = format!("{PERMIT}{overflow}");
    let mut sample = request("svc", "GET", "/x");
    assert_eq!(answer(&rules, &sample), (Answer::Allow, Cause::Rule));
    sample.body_length = Some(1);
    assert_eq!(answer(&rules, &sample), (Answer::Deny, Cause::EvaluationError));
    sample.target = "plain".into();
    assert_eq!(answer(&rules, &sample), (Answer::Allow, Cause::Rule));
    let failing_permit = overflow.replace("forbid", "permit");
    sample.target = "svc".into();
    assert_eq!(answer(&format!("{PERMIT}{failing_permit}"), &sample), (Answer::Deny, Cause::EvaluationError));
}

#[test]
fn nobody_is_asked_about_what_could_never_run() {
    let held = "@id(\"h\") @approval(\"x\") forbid (principal, action, resource == Target::\"svc\");\n";
    let sample = request("svc", "GET", "/x");
    assert_eq!(answer(held, &sample), (Answer::Deny, Cause::NoRule));
    let hard =
        format!("{PERMIT}{held}@message(\"no\") forbid (principal, action, resource == Target::\"svc\");");
    let decision = ask(&set(&hard), &sample, &[]);
    assert_eq!((decision.answer, decision.shown.as_deref()), (Answer::Deny, Some("no")));
    assert_eq!(decision.rules, ["r.cedar#policy2"]);
    let decision = ask(&set(&format!("{PERMIT}{held}")), &sample, &[]);
    assert_eq!(decision.answer, Answer::Hold { approvals: vec!["x".into()] });
    assert_eq!(decision.rules, ["r.cedar#h"]);
}

#[test]
fn a_hold_needs_every_approval_and_no_other_lifts_it() {
    let rules = format!(
        "{PERMIT}@approval(\"x\") forbid (principal, action == Action::\"b\", resource);\n\
         @approval(\"y\") forbid (principal in Role::\"one\", action, resource == Target::\"svc\");"
    );
    let (set, sample) = (set(&rules), request("svc", "GET", "/x"));
    let approvals =
        |names: &[&str]| Answer::Hold { approvals: names.iter().map(|name| (*name).to_owned()).collect() };
    assert_eq!(ask(&set, &sample, &[]).answer, approvals(&["x", "y"]));
    assert_eq!(ask(&set, &sample, &["x", "z"]).answer, approvals(&["y"]));
    assert_eq!(ask(&set, &sample, &["y", "x"]).answer, Answer::Allow);
}

#[test]
fn no_spelling_of_a_path_gets_past_its_approval() {
    let nouns = NOUNS.replace("paths = [\"/**\"]", "paths = [\"/v1/models/{model}/**\"]");
    let rules = format!("{PERMIT}@approval(\"x\") forbid (principal, action == Action::\"b\", resource);");
    let set = set_of(&nouns, &rules);
    for (method, path) in
        [("GET", "/v1/models/m"), ("POST", "/v1/models/m/weights/7"), ("GET", "/v1/models/%2A")]
    {
        let decision = ask(&set, &request("svc", method, path), &[]);
        assert!(matches!(decision.answer, Answer::Hold { .. }), "{method} {path}: {decision:?}");
    }
    let others = [
        ("PATCH", "/v1/models/m"),
        ("get", "/v1/models/m"),
        ("GET", "/v1/models"),
        ("GET", "/V1/models/m"),
        ("GET", "/v1/Models/m"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models//m"),
        ("GET", "//v1/models/m"),
        ("GET", "/v1%2Fmodels/m"),
        ("GET", "/v2/../v1/models/m"),
        ("GET", "/v1/models;x/m"),
        ("GET", "v1/models/m"),
        ("GET", ""),
    ];
    let (subject, operation) = request("svc", "GET", "/v1/models/m").stage(&set).unwrap();
    for (method, path) in others {
        let mut operation = operation.clone();
        if let Kind::Http(request) = &mut operation.kind {
            (request.method, request.path) = (method.into(), path.into());
        }
        let asked = Question { subject: &subject, guard: None, operation: &operation, approved: &[] };
        let decision = set.decide(Timestamp::UNIX_EPOCH, &asked);
        assert_eq!((decision.answer, decision.cause), (Answer::Deny, Cause::NoOperation), "{method} {path}");
    }
}

#[test]
fn every_pattern_that_matches_is_judged_with_its_own_captures() {
    let rules = format!(
        "{PERMIT}forbid (principal, action == Action::\"a\", resource) when {{ context has first && context.first == \"a\" }};"
    );
    // `/a/b` is `a` by both patterns, and only the second captures.
    assert_eq!(answer(&rules, &request("svc", "GET", "/a/b")), (Answer::Deny, Cause::Rule));
    assert_eq!(answer(&rules, &request("svc", "GET", "/c/b")), (Answer::Allow, Cause::Rule));
}

#[test]
fn a_request_that_is_several_operations_needs_all_of_them() {
    let rules = "permit (principal, action == Action::\"b\", resource);";
    let decision = ask(&set(rules), &request("svc", "GET", "/a/x"), &[]);
    assert_eq!((decision.answer, decision.cause), (Answer::Deny, Cause::NoRule));
    assert_eq!(decision.operations, ["a", "b"]);
    assert_eq!(answer(rules, &request("svc", "GET", "/x")), (Answer::Allow, Cause::Rule));
}

#[test]
fn all_masks_stay_but_those_a_permit_of_reveal_clears() {
    let sample = request("svc", "GET", "/x");
    let names = |rules: &str, sample: &Sample, approved: &[&str]| -> Vec<String> {
        ask(&set(rules), sample, approved).masks.iter().map(|mask| mask.name.clone()).collect()
    };
    let use_svc = "permit (principal, action in Action::\"request\", resource);\n";
    let reveal =
        "permit (principal in Role::\"one\", action == Action::\"reveal\", resource == Mask::\"cards\");\n";
    assert_eq!(names(use_svc, &sample, &[]), ["cards", "mail"]);
    assert_eq!(names(&format!("{use_svc}{reveal}"), &sample, &[]), ["mail"]);
    assert_eq!(names(reveal, &sample, &[]), ["cards", "mail"], "what is denied reveals nothing");
    let other = Sample { uid: Some(7), ..sample.clone() };
    assert_eq!(names(&format!("{use_svc}{reveal}"), &other, &[]), ["cards", "mail"]);
    let elsewhere = reveal.replace(";", " when { context.target == Target::\"plain\" };");
    assert_eq!(names(&format!("{use_svc}{elsewhere}"), &sample, &[]), ["cards", "mail"]);
    let forbid = "forbid (principal, action == Action::\"reveal\", resource);\n";
    assert_eq!(names(&format!("{use_svc}{reveal}{forbid}"), &sample, &[]), ["cards", "mail"]);
    let held = "@approval(\"x\") forbid (principal, action, resource);\n";
    assert_eq!(
        names(&format!("{use_svc}{reveal}{held}"), &sample, &["x"]),
        ["cards", "mail"],
        "no approval reveals"
    );
    let failing = reveal.replace(";", " when { context.workload.uid + 9223372036854775807 > 0 };");
    let failing = failing.replace("when { ", "when { context has workload && ");
    assert_eq!(
        names(&format!("{use_svc}{failing}"), &sample, &[]),
        ["cards", "mail"],
        "an error reveals nothing"
    );
}

#[test]
fn opening_a_connection_is_asked_by_its_own_action() {
    let mut sample = request("svc", "GET", "/");
    (sample.method, sample.path) = (None, None);
    assert_eq!(
        answer("permit (principal, action in Action::\"request\", resource);", &sample).1,
        Cause::NoRule
    );
    let rule = "permit (principal, action == Action::\"open\", resource)\n\
                when { context.port == 80 && context.address.isInRange(ip(\"10.0.0.0/8\")) };";
    assert_eq!(answer(rule, &sample), (Answer::Allow, Cause::Rule));
}

#[test]
fn the_context_says_what_the_request_is() {
    let holds = [
        "context.method == \"POST\"",
        "context.host == \"svc.example\"",
        "context.path == \"/a/b%20c\"",
        "context.segments == [\"a\", \"b%20c\"]",
        "context has query && context.query == \"q=1\"",
        "context has body_length && context.body_length == 7",
        "context.peer.isLoopback()",
        "context.direction == Direction::\"outbound\"",
        "context has guard && context.guard == Guard::\"agents\"",
        "context has workload && context.workload in Guard::\"agents\" && context.workload in Container::\"0123456789ab\"",
        "context.workload.uid == 1 && context.workload has executable && context.workload.executable.path == \"/bin/x\"",
        "resource in Label::\"zone=blue\" && resource in Label::\"zone=green\"",
        "principal == Workload::\"unit:w.service\"",
    ];
    let mut sample = request("svc", "POST", "/a/b%20c");
    sample.host = Some("svc.example".into());
    (sample.query, sample.body_length, sample.guard) = (Some("q=1".into()), Some(7), Some("agents".into()));
    (sample.container, sample.unit) = (Some("0123456789ab".into()), Some("w.service".into()));
    sample.executable = Some("/bin/x".into());
    for condition in holds {
        let guarded = format!("context has workload && {condition}");
        let rule = format!(
            "permit (principal, action in Action::\"request\", resource == Target::\"svc\") when {{ {guarded} }};"
        );
        assert_eq!(answer(&rule, &sample).0, Answer::Allow, "{condition}");
    }
}

#[test]
fn what_is_asked_is_what_the_schema_says() {
    let nouns = NOUNS.replace("ports = [81]", "ports = [81]\nrequire = \"user\"");
    let set = set_of(&nouns, PERMIT);
    let (schema, _) = Schema::from_cedarschema_str(set.schema()).unwrap();
    let mut full = request("svc", "GET", "/a/b");
    (full.guard, full.query) = (Some("agents".into()), Some("q".into()));
    (full.unit, full.container, full.login_uid) =
        (Some("two.service".into()), Some("0123456789ab".into()), Some(5));
    (full.executable, full.peer) = (Some("/bin/two".into()), Some("::ffff:127.0.0.1".parse().unwrap()));
    let user =
        Sample { user: Some("ann".into()), groups: vec!["one".into()], ..request("plain", "GET", "/") };
    let open = Sample { method: None, path: None, ..full.clone() };
    for sample in [full, user, open] {
        let (subject, operation) = sample.stage(&set).unwrap();
        let target = set.target(&sample.target).unwrap();
        let principal = principal(target, &subject).unwrap();
        let guard = sample.guard.as_deref();
        let season = &*set.season(Timestamp::UNIX_EPOCH);
        let asked =
            Asked { set: &set, target, subject: &subject, principal, guard, operation: &operation, season };
        let conforms = |request: &Request, entities: &Entities| {
            let part = |uid: Option<&cedar_policy::EntityUid>| uid.unwrap().clone();
            let context = request.context().unwrap().clone();
            let (who, what) = (part(request.principal()), part(request.resource()));
            Request::new(who, part(request.action()), what, context, Some(&schema)).unwrap();
            let all: Vec<Entity> = entities.iter().cloned().collect();
            Entities::from_entities(all, Some(&schema)).unwrap();
        };
        for (action, caught) in set.actions_of(&operation).unwrap() {
            conforms(&asked.request(action, &caught).unwrap(), &asked.entities(action).unwrap());
        }
        conforms(&asked.reveal("cards").unwrap(), &asked.entities("reveal").unwrap());
    }
}

#[test]
fn the_same_question_always_gets_the_same_answer() {
    let set = set(PERMIT);
    let sample = request("svc", "GET", "/x");
    let first = format!("{:?}", ask(&set, &sample, &[]));
    for _ in 0..20 {
        assert_eq!(format!("{:?}", ask(&set, &sample, &[])), first);
    }
}

#[test]
fn a_rule_at_every_bound_is_validated_and_evaluated_on_a_small_stack() {
    use crate::limits::{RULE_DEPTH_MAX, RULE_OPERATORS_MAX};
    let depth = RULE_DEPTH_MAX - 2;
    let deep = format!("{}context.method == \"GET\"{}", "(".repeat(depth), ")".repeat(depth));
    let long = vec!["context.method == \"GET\""; RULE_OPERATORS_MAX / 6].join(" && ");
    let rule = |condition: &str| {
        format!(
            "permit (principal, action in Action::\"request\", resource == Target::\"svc\") when {{ {condition} }};"
        )
    };
    for condition in [deep, long] {
        let get = rule(&condition);
        assert_eq!(answer(&get, &request("svc", "GET", "/x")), (Answer::Allow, Cause::Rule));
        assert_eq!(answer(&get, &request("svc", "POST", "/x")), (Answer::Deny, Cause::NoRule));
        let misspelt = rule(&condition.replace("context.method ==", "context.methd =="));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("n.toml"), NOUNS).unwrap();
        fs::write(dir.path().join("r.cedar"), misspelt).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("`methd`"));
    }
}

#[test]
fn a_decision_is_remembered_only_for_what_looks_the_same_to_every_rule() {
    let conditions = [
        "context has query && context.query like \"*evil*\"",
        "context has body_length && context.body_length > 10",
        "context.path like \"*evil*\"",
        "context.host == \"evil\"",
        "context has guard && context.guard == Guard::\"g\"",
        "context.peer == ip(\"192.0.2.66\")",
        "principal has executable && principal.executable.path == \"/evil\"",
        "principal.uid == 66",
        "principal has login_uid && principal.login_uid == 66",
    ];
    let rules = |condition: &str| {
        let about = "principal is Workload, action == Action::\"http\", resource == Target::\"plain\"";
        format!("{PERMIT}forbid ({about}) when {{ {condition} }};")
    };
    let sample = request("plain", "GET", "/x");
    for (number, condition) in conditions.into_iter().enumerate() {
        let nouns = format!("{NOUNS}\n[[guard]]\nname = \"g\"\nunits = [\"g.service\"]\n");
        let set = set_of(&nouns, &rules(condition));
        let (good, operation) = sample.stage(&set).unwrap();
        let mut answers = Vec::new();
        for evil in [false, true, false] {
            let (mut subject, mut operation) = (good.clone(), operation.clone());
            let Kind::Http(request) = &mut operation.kind else { panic!("it is HTTP") };
            let mut workload = (*subject.workload.unwrap()).clone();
            // Only what this condition is about.
            match number {
                _ if !evil => {}
                0 => request.query = Some("evil".into()),
                1 => request.body_length = Some(11),
                2 => request.path = "/evil".into(),
                3 => request.host = "evil".into(),
                5 => subject.peer.set_ip("192.0.2.66".parse().unwrap()),
                6 => {
                    let sha256 = crate::operation::Sha256::of(b"evil");
                    workload.executable = Some(crate::operation::Executable { path: "/evil".into(), sha256 });
                }
                7 => workload.uid = 66,
                8 => workload.login_uid = Some(66),
                _ => {}
            }
            subject.workload = Some(Arc::new(workload));
            let guard = (evil && number == 4).then_some("g");
            let asked = Question { subject: &subject, guard, operation: &operation, approved: &[] };
            answers.push(set.recall(Timestamp::UNIX_EPOCH, &asked).answer.clone());
        }
        assert_eq!(answers, [Answer::Allow, Answer::Deny, Answer::Allow], "{condition}");
    }
}
