//! What the agent never holds: a credential of the vault goes into one request to its target, and nowhere else. Who asks sees it
//! in no answer, and nobody in a record or a log; without it nothing is sent.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tidegate::record::entry::{Ending, Side};
use tidegate_tests::{Answer, Builder, Client, Gate, Host, Request, Response, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7201]

[[target]]
name = "other"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7202]

[[target]]
name = "search"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7203]

[[operation]]
name = "read"
target = "crm"
methods = ["GET", "POST"]
paths = ["/**"]

[[operation]]
name = "change"
target = "crm"
methods = ["PUT"]
paths = ["/**"]

[[operation]]
name = "drop"
target = "crm"
methods = ["DELETE"]
paths = ["/**"]

[[credential]]
name = "crm-api"
targets = ["crm"]

[[credential]]
name = "search"
targets = ["search"]
header = "X-Api-Key"

[[role]]
name = "lead"

[[person]]
name = "lea"
uid = 1002
roles = ["lead"]

[[approval]]
name = "one-lead"
approvers = ["lead"]
hold = "retry"
"#;

const RULES: &str = r#"
permit (principal, action in [Action::"read", Action::"change"], resource == Target::"crm");
permit (principal, action == Action::"http", resource == Target::"other");
permit (principal, action == Action::"http", resource == Target::"search");
@id("ask") @approval("one-lead") forbid (principal, action == Action::"change", resource == Target::"crm");
"#;

const CRM: &str = "127.0.0.1:7201";
const OTHER: &str = "127.0.0.1:7202";
const SEARCH: &str = "127.0.0.1:7203";
/// Made up; no issuer gives keys of this form, so nothing but the gate's knowledge of it finds it.
const SECRET: &str = "plum-harbour-92-oak-vault";
const NEXT: &str = "fern-anchor-17-elm-vault";
const LEAD: u32 = 1002;

fn gate_on(host: &Host) -> Builder {
    Gate::on(host).policy("a.toml", NOUNS).policy("a.cedar", RULES)
}

/// In one process, and in four.
fn both(host: &Host) -> [Builder; 2] {
    [gate_on(host), gate_on(host).option_of_run("--user=61234")]
}

fn set(gate: &Gate, name: &str, secret: &str) {
    drop(gate.tidegate_given(&format!("{secret}\n"), &["credential", "set", name]).success());
}

fn dial(host: &Host, to: &str) -> Client {
    host.client().connect(to.parse().unwrap()).unwrap()
}

fn ask(host: &Host, to: &str, line: &str, fields: &str) -> Response {
    let body = if line.starts_with("GET") { "" } else { "Content-Length: 0\r\n" };
    dial(host, to).ask(format!("{line} HTTP/1.1\r\nHost: {to}\r\n{body}{fields}\r\n")).unwrap()
}

fn all<'r>(request: &'r Request, name: &str) -> Vec<&'r str> {
    let fields = request.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
    fields.map(|(_, value)| value.as_str()).collect()
}

/// Files below a directory that have these bytes in them.
fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(directory).unwrap().map(|item| item.unwrap().path()) {
        if item.is_dir() {
            found.extend(files_with(&item, text));
        } else if fs::read(&item)
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        {
            found.push(item);
        }
    }
    found
}

#[test]
fn the_target_gets_it_once_and_who_asks_never_sees_it() {
    for builder in [0, 1] {
        let host = Host::new();
        let upstream = Upstream::start(&host.client(), CRM);
        let gate = both(&host).into_iter().nth(builder).unwrap().build();
        set(&gate, "crm-api", SECRET);
        let mut gate = gate;
        gate.start();
        let said = format!(r#"{{"sent":"Bearer {SECRET}","inside":"x{SECRET}y","n":1}}"#);
        let echo = format!("you said Bearer {SECRET}");
        let fields =
            [("Content-Type", "application/json"), ("X-Echo", echo.as_str()), ("Set-Cookie", SECRET)];
        upstream.next(Answer::new(200, &fields, said));
        let placeholder = "Authorization: Bearer placeholder\r\n";
        let words = format!("HTTP/1.1 401 not {SECRET}\r\nContent-Length: 0\r\n\r\n");
        upstream.next(Answer::bytes(words));
        let answer = ask(&host, CRM, "GET /echo", placeholder);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut client = dial(&host, CRM);
        client.send(format!("GET /words HTTP/1.1\r\nHost: {CRM}\r\nConnection: close\r\n\r\n")).unwrap();
        let refused = String::from_utf8(client.to_end().unwrap()).unwrap();
        assert!(refused.starts_with("HTTP/1.1 401") && !refused.contains("plum"), "{refused}");
        let sent = upstream.requests().remove(0);
        assert_eq!(
            all(&sent, "authorization"),
            [format!("Bearer {SECRET}")],
            "in the place of the placeholder"
        );
        let text = answer.text();
        let fields = format!("{:?}", answer.headers);
        assert!(!fields.contains("plum") && fields.contains("you said"), "{fields}");
        assert!(text.contains("\"n\":1") && !text.contains("plum") && !text.contains("oak-vault"), "{text}");
        let entry = gate.entry_of("/echo");
        let claimed = entry.claimed.clone().unwrap();
        assert_eq!((claimed.credential.as_str(), claimed.target.as_str()), ("crm-api", "crm"));
        assert!(!gate.recorded_body(&entry, Side::Response).contains("plum"));
        let told = gate.tidegate(&["replay", "--all"]);
        let told = format!("{}{}{}", told.text(), told.errors(), gate.log());
        assert!(!told.contains(SECRET), "{told}");
        gate.stop();
        assert_eq!(files_with(&gate.state(), SECRET), Vec::<PathBuf>::new());
        drop(gate.tidegate(&["record", "verify"]).success());
    }
}

#[test]
fn no_other_target_gets_it_and_each_gets_its_own_in_its_own_field() {
    let host = Host::new();
    let (other, search) = (Upstream::start(&host.client(), OTHER), Upstream::start(&host.client(), SEARCH));
    let gate = gate_on(&host).start();
    set(&gate, "crm-api", SECRET);
    set(&gate, "search", NEXT);
    let own = "Authorization: Bearer mine\r\nX-Api-Key: placeholder\r\nX_Api_Key: twin\r\n";
    assert_eq!(ask(&host, OTHER, "GET /plain", own).status, 200);
    assert_eq!(ask(&host, SEARCH, "GET /found", own).status, 200);
    let (plain, found) = (other.requests().pop().unwrap(), search.requests().pop().unwrap());
    assert_eq!(
        (all(&plain, "authorization"), all(&plain, "x-api-key")),
        (vec!["Bearer mine"], vec!["placeholder"])
    );
    assert_eq!(all(&found, "x-api-key"), [NEXT]);
    assert!(all(&found, "x_api_key").is_empty(), "nor in another spelling that some servers read the same");
    let head = format!("{:?}", gate.entry_of("/found").intent.head);
    assert!(
        !head.contains("placeholder") && !head.contains("twin"),
        "what a client sends there may be its own: {head}"
    );
    assert!(all(&found, "authorization").is_empty(), "who asks is not the target's to know");
    assert!(gate.entry_of("/plain").claimed.is_none());
    assert_eq!(gate.entry_of("/found").claimed.unwrap().credential, "search");
}

#[test]
fn without_it_nothing_is_sent_and_what_is_set_counts_from_the_next_operation_on() {
    for builder in [0, 1] {
        let host = Host::new();
        let upstream = Upstream::start(&host.client(), CRM);
        let gate = both(&host).into_iter().nth(builder).unwrap().start();
        let refused = ask(&host, CRM, "GET /before", "Authorization: Bearer placeholder\r\n");
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(upstream.requests().is_empty(), "not with the placeholder either");
        let entry = gate.entry_in(&refused);
        let Ending::Refused(why) = entry.closed.unwrap().ending else { panic!("it was not refused") };
        assert!(why.contains("tidegate credential set crm-api"), "{why}");
        for secret in [SECRET, NEXT] {
            set(&gate, "crm-api", secret);
            assert_eq!(ask(&host, CRM, "GET /now", "").status, 200);
            assert_eq!(
                all(&upstream.requests().pop().unwrap(), "authorization"),
                [format!("Bearer {secret}")]
            );
        }
        drop(gate.tidegate(&["credential", "remove", "crm-api"]).success());
        let before = upstream.requests().len();
        assert_eq!(ask(&host, CRM, "GET /after", "").status, 503);
        assert_eq!(upstream.requests().len(), before);
    }
}

#[test]
fn what_is_denied_claims_none_and_what_is_held_gets_it_when_it_is_released() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), CRM);
    let gate = gate_on(&host).option_of_run("--user=61234").start();
    set(&gate, "crm-api", SECRET);
    let denied = ask(&host, CRM, "DELETE /all", "");
    assert_eq!(denied.status, 403, "{}", denied.text());
    assert!(gate.entry_in(&denied).claimed.is_none());
    let held = ask(&host, CRM, "PUT /held", "");
    assert_eq!(held.status, 503, "{}", held.text());
    assert!(gate.entry_in(&held).claimed.is_none(), "nobody has approved it yet");
    let demand = held.json()["demand"].as_str().unwrap().to_owned();
    drop(gate.tidegate_as(LEAD, &["approvals", "approve", &demand]).success());
    let answer = ask(&host, CRM, "PUT /held", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let requests = upstream.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(all(&requests[0], "authorization"), [format!("Bearer {SECRET}")]);
    let claims = gate.entries_of("/held").into_iter().filter(|entry| entry.claimed.is_some()).count();
    assert_eq!(claims, 1);
}

#[test]
fn it_is_given_out_again_when_recorder_or_enforcer_were_killed() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), CRM);
    let gate = gate_on(&host).option_of_run("--user=61234").start();
    set(&gate, "crm-api", SECRET);
    assert_eq!(ask(&host, CRM, "GET /first", "").status, 200);
    for (round, role) in ["--recording", "--kept", "--recording"].into_iter().enumerate() {
        let child = Pid::from_raw(i32::try_from(gate.child(role)).unwrap()).unwrap();
        kill_process(child, Signal::KILL).unwrap();
        eventually("an answer", || {
            let mut client = host.client().connect(CRM.parse().unwrap()).ok()?;
            client.get(CRM, &format!("/{round}")).ok().filter(|answer| answer.status == 200)
        });
    }
    for request in upstream.requests() {
        assert_eq!(all(&request, "authorization"), [format!("Bearer {SECRET}")], "{}", request.target);
    }
}

#[test]
fn the_vault_is_roots_alone_and_the_command_shows_no_credential() {
    let host = Host::new();
    let gate = gate_on(&host).option_of_run("--user=61234").start();
    set(&gate, "crm-api", SECRET);
    let about = |path: &str| fs::metadata(gate.state().join(path)).unwrap();
    for (path, mode) in [("vault", 0o700), ("vault/vault.key", 0o600), ("vault/crm-api.sealed", 0o600)] {
        assert_eq!((about(path).uid(), about(path).mode() & 0o777), (0, mode), "{path}");
    }
    let listed = gate.tidegate(&["credential", "list"]);
    let text = listed.text();
    assert_eq!(listed.code(), Some(1), "one is missing: {text}");
    assert!(text.contains("crm-api") && text.contains("missing") && !text.contains(SECRET), "{text}");
    let doctor = || gate.tidegate(&["doctor"]).text();
    assert!(doctor().contains("tidegate credential set search"), "{}", doctor());
    set(&gate, "search", NEXT);
    assert!(doctor().contains("2 of 2"), "{}", doctor());
    let listed = gate.tidegate(&["--json", "credential", "list"]).success().json();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crm-api", "search"]);
    assert_eq!(listed[1]["targets"][0], "search");
    for (name, secret, why) in [
        ("../crm", SECRET, "no name of a credential"),
        ("crm-api", "short", "8 to 4096 bytes"),
        ("crm-api", "two\nlines-of-it", "one line"),
    ] {
        let refused = gate.tidegate_given(secret, &["credential", "set", name]);
        assert_eq!(refused.code(), Some(3), "{}", refused.errors());
        assert!(refused.errors().contains(why), "{}", refused.errors());
    }
    assert!(gate.tidegate(&["credential", "remove", "nothing"]).errors().contains("holds no credential"));
    let strangers = host.client().login(LEAD).run(
        "setpriv",
        &[
            "--reuid",
            "61999",
            "--regid",
            "61999",
            "--clear-groups",
            "cat",
            gate.state().join("vault/crm-api.sealed").to_str().unwrap(),
        ],
    );
    assert!(!strangers.status.success() && strangers.errors().contains("Permission denied"));
}

#[test]
fn a_host_that_nobody_declared_gets_no_credential() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), CRM);
    let gate = gate_on(&host).start();
    set(&gate, "crm-api", SECRET);
    // `localhost` is at that address, and the target has no `hosts`.
    let named = dial(&host, CRM).ask("GET /named HTTP/1.1\r\nHost: localhost:7201\r\n\r\n").unwrap();
    assert_eq!(named.status, 503, "{}", named.text());
    assert!(upstream.requests().is_empty());
    let named = NOUNS.replace("ports = [7201]", "ports = [7201]\nhosts = [\"localhost\"]");
    gate.write_policy("a.toml", &named);
    eventually("the declared name", || {
        let ask = dial(&host, CRM).ask("GET /named HTTP/1.1\r\nHost: localhost:7201\r\n\r\n").ok()?;
        (ask.status == 200).then_some(())
    });
    let requests = upstream.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(all(&requests[0], "authorization"), [format!("Bearer {SECRET}")]);
}
