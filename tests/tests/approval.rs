//! An operation that waits for people: shown exactly, decided by others than its requester, run once, and only as it was
//! approved. No spelling of it gets past, and no restart forgets it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use tidegate::record::entry::Verdict;
use tidegate_tests::recorded::{fault, status};
use tidegate_tests::{Client, Finished, Gate, Host, Response, Seat, Upstream, eventually};

const REQUESTER: u32 = 1001;
const LEAD: u32 = 1002;
const OTHER_LEAD: u32 = 1003;
const COLLEAGUE: u32 = 1004;
const STRANGER: u32 = 1099;

const NOUNS: &str = r#"
[[target]]
name = "models"
direction = "outbound"
addresses = ["127.0.0.1", "::1"]
ports = [7001, 7002]

[[operation]]
name = "read"
target = "models"
methods = ["GET", "HEAD"]
paths = ["/v1/**"]

[[operation]]
name = "update"
target = "models"
methods = ["POST", "PUT", "PATCH"]
paths = ["/v1/models/{model}"]

[[operation]]
name = "erase"
target = "models"
methods = ["DELETE"]
paths = ["/v1/models/{model}"]

[[operation]]
name = "quick"
target = "models"
methods = ["POST"]
paths = ["/v1/quick"]

[[role]]
name = "ml-lead"

[[person]]
name = "rita"
uid = 1001
roles = ["ml-lead"]

[[person]]
name = "lea"
uid = 1002
roles = ["ml-lead"]

[[person]]
name = "olga"
uid = 1003
roles = ["ml-lead"]

[[person]]
name = "colin"
uid = 1004

[[person]]
name = "otto"
uid = 1005
roles = ["ml-lead"]
owns = ["uid:2002"]

[[approval]]
name = "one-lead"
approvers = ["ml-lead"]
needed = 1

[[approval]]
name = "two-leads"
approvers = ["ml-lead"]
needed = 2

[[operation]]
name = "tune"
target = "models"
methods = ["PUT"]
paths = ["/v1/tuning/{model}"]

[[operation]]
name = "later"
target = "models"
methods = ["PUT"]
paths = ["/v1/later/{model}"]

[[operation]]
name = "argued"
target = "models"
methods = ["PUT"]
paths = ["/v1/argued/{model}"]

[[approval]]
name = "for-a-while"
approvers = ["ml-lead"]
window = "1h"

[[approval]]
name = "retried"
approvers = ["ml-lead"]
hold = "retry"

[[approval]]
name = "argued"
approvers = ["ml-lead"]
reason = "required"
comment = "required"
on_timeout = "deny"

[[approval]]
name = "soon"
approvers = ["ml-lead"]
timeout = "2s"
"#;

const RULES: &str = r#"
permit (principal, action in Action::"request", resource == Target::"models");
@id("tune") @approval("for-a-while")
forbid (principal, action == Action::"tune", resource == Target::"models");
@id("later") @approval("retried")
forbid (principal, action == Action::"later", resource == Target::"models");
@id("argued") @approval("argued")
forbid (principal, action == Action::"argued", resource == Target::"models");
@id("update") @approval("one-lead") @message("changing a model needs an ML lead")
forbid (principal, action == Action::"update", resource == Target::"models");
@id("erase") @approval("two-leads")
forbid (principal, action == Action::"erase", resource == Target::"models");
@id("quick") @approval("soon")
forbid (principal, action == Action::"quick", resource == Target::"models");
@id("frozen") @message("frozen")
forbid (principal, action == Action::"update", resource == Target::"models") when { context.path == "/v1/models/frozen" };
"#;

struct World {
    host: Host,
    gate: Gate,
    upstream: Upstream,
    /// Where the requester sits: logged in, so that somebody stands behind the request.
    requester: Seat,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let upstream = Upstream::start(&host.client(), "127.0.0.1:7001");
        let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
        let requester = host.client().login(REQUESTER);
        Self { host, gate, upstream, requester }
    }

    fn client(&self) -> Client {
        self.requester.connect(self.upstream.address()).unwrap()
    }

    fn reached(&self, path: &str) -> usize {
        self.upstream.requests().iter().filter(|request| request.target.contains(path)).count()
    }

    /// The id of the one demand for this path.
    fn demand(&self, path: &str) -> String {
        eventually(&format!("a demand for {path}"), || self.demands(path).pop())
    }

    fn demands(&self, path: &str) -> Vec<String> {
        demands_in(&self.gate.tidegate(&["--json", "approvals", "list"]).success().json(), path)
    }

    fn vote(&self, uid: u32, word: &str, demand: &str) -> Finished {
        self.gate.tidegate_as(uid, &["approvals", word, demand])
    }
}

fn demands_in(listed: &Value, path: &str) -> Vec<String> {
    let list = listed.as_array().or_else(|| listed["demands"].as_array()).expect("a list of demands");
    let about = |demand: &&Value| demand.to_string().contains(path);
    list.iter().filter(about).map(|demand| demand["id"].as_str().expect("an id").to_owned()).collect()
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fn unique() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!("/v1/models/m{}x", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn put(path: &str, body: &str) -> String {
    with(path, "", body)
}

fn with(path: &str, field: &str, body: &str) -> String {
    let length = body.len();
    format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:7001\r\n{field}Content-Length: {length}\r\n\r\n{body}")
}

/// Sends, and gives the client and the demand it waits for.
fn held(world: &World, path: &str, request: &str) -> (Client, String) {
    let mut client = world.client();
    client.send(request).unwrap();
    let demand = world.demand(path);
    // Approvers see it a moment before it is durable.
    eventually("the recorded hold", || {
        let held = world.gate.entries_of(path);
        held.iter()
            .any(|entry| {
                entry.demanded.as_ref().is_some_and(|demanded| demanded.demand.to_string() == demand)
            })
            .then_some(())
    });
    assert_eq!(world.reached(path), 0, "nothing is forwarded while it waits");
    (client, demand)
}

fn refused(vote: &Finished) {
    assert!(matches!(vote.code(), Some(1 | 3)), "{:?}: {}{}", vote.code(), vote.text(), vote.errors());
}

fn answer(client: &mut Client) -> Response {
    client.response("PUT").unwrap()
}

#[test]
fn a_held_operation_is_shown_approved_by_another_and_runs_once_as_it_was_shown() {
    let path = unique();
    let (mut client, demand) = held(&WORLD, &path, &with(&path, "X-Why: spring\r\n", r#"{"temperature":7}"#));
    let shown = WORLD.gate.tidegate(&["approvals", "show", &demand]).success().text();
    for text in [path.as_str(), "PUT", "temperature", "spring", "1001", "changing a model needs an ML lead"] {
        assert!(shown.contains(text), "`{text}` is not shown:\n{shown}");
    }
    drop(WORLD.vote(LEAD, "approve", &demand).success());
    assert_eq!(answer(&mut client).status, 200);
    assert_eq!(WORLD.reached(&path), 1);
    let got = WORLD.upstream.requests().into_iter().find(|request| request.target == path).unwrap();
    assert_eq!((got.body.as_slice(), got.header("x-why")), (&br#"{"temperature":7}"#[..], Some("spring")));
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!((entry.intent.verdict, status(&entry), fault(&entry)), (Verdict::Hold, Some(200), "nobody"));
    assert_eq!(entry.decided.len(), 1);
    assert!(entry.decided[0].verdict == Verdict::Allow && entry.decided[0].reason.contains("lea"));
    assert_eq!(entry.votes.iter().map(|vote| vote.person.as_str()).collect::<Vec<_>>(), ["lea"]);
    assert!(WORLD.demands(&path).is_empty());
}

#[test]
fn a_hold_is_recorded_before_the_client_is_asked_for_a_byte_of_its_body() {
    let path = unique();
    let request = with(&path, "Expect: 100-continue\r\n", "a body");
    let (head, body) = request.split_at(request.len() - "a body".len());
    let mut client = WORLD.client();
    client.send(head).unwrap();
    assert_eq!(client.exactly(25).unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
    // No waiting: what was answered is in the record already.
    let entries = WORLD.gate.entries_of(&path);
    assert_eq!(entries.len(), 1, "the 100 came before the record of what it is for");
    assert_eq!((entries[0].intent.verdict, entries[0].demanded.is_some()), (Verdict::Hold, false));
    client.send(body).unwrap();
    drop(WORLD.vote(LEAD, "approve", &WORLD.demand(&path)).success());
    assert_eq!(answer(&mut client).status, 200);
}

#[test]
fn a_client_that_leaves_before_its_body_is_whole_leaves_one_ended_entry_and_no_demand() {
    let path = unique();
    let request = put(&path, "never whole");
    let mut client = WORLD.client();
    client.send(&request[..request.len() - 1]).unwrap();
    let _ = eventually("the recorded hold", || WORLD.gate.entries_of(&path).pop());
    drop(client);
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!(entry.intent.verdict, Verdict::Hold);
    assert!(entry.demanded.is_none() && fault(&entry) != "nobody" && fault(&entry) != "gate", "{entry:?}");
    assert!(WORLD.demands(&path).is_empty() && WORLD.reached(&path) == 0);
}

#[test]
fn a_grant_is_used_once() {
    let path = unique();
    let request = put(&path, "once");
    let (mut client, demand) = held(&WORLD, &path, &request);
    drop(WORLD.vote(LEAD, "approve", &demand).success());
    assert_eq!(answer(&mut client).status, 200);
    let (_second, again) = held_again(&path, &request);
    assert_ne!(demand, again, "the second use asks anew");
    assert_eq!(WORLD.reached(&path), 1);
}

fn held_again(path: &str, request: &str) -> (Client, String) {
    let mut client = WORLD.client();
    client.send(request).unwrap();
    (client, WORLD.demand(path))
}

#[test]
fn the_requester_cannot_approve_their_own_request_in_any_guise() {
    let path = unique();
    let (_client, demand) = held(&WORLD, &path, &put(&path, "mine"));
    refused(&WORLD.vote(REQUESTER, "approve", &demand));
    // Root by sudo, and another uid by su: the login stays.
    let su = WORLD.host.client().login(REQUESTER).uid(LEAD);
    refused(&WORLD.gate.tidegate_at(&su, &["approvals", "approve", &demand]));
    assert_eq!((WORLD.demands(&path), WORLD.reached(&path)), (vec![demand], 0));
}

#[test]
fn root_a_stranger_and_one_who_is_no_approver_cannot_vote() {
    let path = unique();
    let (_client, demand) = held(&WORLD, &path, &put(&path, "x"));
    refused(&WORLD.gate.tidegate(&["approvals", "approve", &demand]));
    for uid in [0, STRANGER, COLLEAGUE] {
        refused(&WORLD.vote(uid, "approve", &demand));
        refused(&WORLD.vote(uid, "reject", &demand));
    }
    assert_eq!((WORLD.demands(&path), WORLD.reached(&path)), (vec![demand], 0));
}

#[test]
fn one_person_twice_is_one_vote() {
    let path = unique();
    let request = format!("DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1:7001\r\n\r\n");
    let (mut client, demand) = held(&WORLD, &path, &request);
    drop(WORLD.vote(LEAD, "approve", &demand).success());
    refused(&WORLD.vote(LEAD, "approve", &demand));
    assert_eq!((WORLD.demands(&path).len(), WORLD.reached(&path)), (1, 0), "one of two is not two");
    drop(WORLD.vote(OTHER_LEAD, "approve", &demand).success());
    assert_eq!(client.response("DELETE").unwrap().status, 200);
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!(entry.votes.len(), 2);
}

#[test]
fn a_rejected_operation_never_runs_and_the_record_says_who_rejected_it() {
    let path = unique();
    let (mut client, demand) = held(&WORLD, &path, &put(&path, "no"));
    drop(WORLD.vote(LEAD, "reject", &demand).success());
    let response = answer(&mut client);
    assert_eq!((response.status, WORLD.reached(&path)), (403, 0));
    assert!(!response.text().contains("lea"), "the client learns no names: {}", response.text());
    let entry = WORLD.gate.entry_of(&path);
    assert!(entry.decided[0].verdict == Verdict::Deny && entry.decided[0].reason.contains("lea"));
    refused(&WORLD.vote(OTHER_LEAD, "approve", &demand));
}

#[test]
fn an_expired_demand_is_refused_and_cannot_be_approved_any_more() {
    let mut client = WORLD.client();
    client.send("POST /v1/quick HTTP/1.1\r\nHost: 127.0.0.1:7001\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    let demand = WORLD.demand("/v1/quick");
    let response = client.response("POST").unwrap();
    assert_eq!((response.status, WORLD.reached("/v1/quick")), (403, 0));
    refused(&WORLD.vote(LEAD, "approve", &demand));
    let entry = WORLD.gate.entry_of("/v1/quick");
    assert!(entry.decided[0].reason.contains("in time"), "{:?}", entry.decided);
}

#[test]
fn an_approval_covers_no_other_body_query_header_or_path() {
    let path = unique();
    let (client, demand) = held(&WORLD, &path, &with(&path, "X-A: 1\r\n", "body"));
    drop(client);
    drop(WORLD.vote(LEAD, "approve", &demand).success());
    // The approval waits for exactly that request; these are others, and each asks anew.
    for (what, other) in [
        ("body", with(&path, "X-A: 1\r\n", "bodY")),
        ("longer body", with(&path, "X-A: 1\r\n", "body ")),
        ("query", with(&format!("{path}?force=1"), "X-A: 1\r\n", "body")),
        ("header", with(&path, "X-A: 2\r\n", "body")),
        ("one header more", with(&path, "X-A: 1\r\nX-B: 1\r\n", "body")),
        ("one header less", with(&path, "", "body")),
        ("method", with(&path, "X-A: 1\r\n", "body").replacen("PUT", "POST", 1)),
        ("path", with(&format!("{path}y"), "X-A: 1\r\n", "body")),
    ] {
        let before = WORLD.demands(&path).len();
        let mut client = WORLD.client();
        client.send(other).unwrap();
        eventually(&format!("a new demand for another {what}"), || {
            (WORLD.demands(&path).len() > before).then_some(())
        });
        assert_eq!(WORLD.reached(&path), 0, "{what}");
    }
    let mut client = WORLD.client();
    assert_eq!(
        client.ask(with(&path, "X-A: 1\r\n", "body")).unwrap().status,
        200,
        "the approved one goes through"
    );
    assert_eq!(WORLD.reached(&path), 1);
}

#[test]
fn a_banked_approval_is_of_its_requester_alone() {
    let path = unique();
    let request = put(&path, "banked");
    let (client, demand) = held(&WORLD, &path, &request);
    drop(client);
    drop(WORLD.vote(LEAD, "approve", &demand).success());
    let seat = WORLD.host.client().uid(2001);
    let mut other = seat.connect(WORLD.upstream.address()).unwrap();
    other.send(&request).unwrap();
    eventually("a demand of its own", || (WORLD.demands(&path).len() == 2).then_some(()));
    assert_eq!(WORLD.reached(&path), 0);
    assert_eq!(WORLD.client().ask(&request).unwrap().status, 200);
    assert_eq!(WORLD.reached(&path), 1);
}

#[test]
fn two_of_the_same_at_once_need_an_approval_each() {
    let path = unique();
    let request = put(&path, "twice");
    let (mut one, first) = held(&WORLD, &path, &request);
    let mut two = WORLD.client();
    two.send(&request).unwrap();
    let second = eventually("two demands", || {
        let all = WORLD.demands(&path);
        all.into_iter().find(|demand| *demand != first)
    });
    drop(WORLD.vote(LEAD, "approve", &first).success());
    assert_eq!(answer(&mut one).status, 200);
    assert_eq!(WORLD.reached(&path), 1);
    drop(WORLD.vote(LEAD, "reject", &second).success());
    assert_eq!(answer(&mut two).status, 403);
    assert_eq!(WORLD.reached(&path), 1);
}

#[test]
fn nobody_is_asked_about_what_could_never_run() {
    let mut client = WORLD.client();
    let response = client.ask(put("/v1/models/frozen", "x")).unwrap();
    assert_eq!((response.status, response.json()["detail"].clone()), (403, "frozen".into()));
    assert!(WORLD.demands("/v1/models/frozen").is_empty());
}

#[test]
fn no_spelling_of_an_approval_bound_path_gets_past_the_approval() {
    let spellings = [
        ("PATCH", "/v1/models/spell"),
        ("POST", "/v1/models/spell"),
        ("patch", "/v1/models/spell"),
        ("put", "/v1/models/spell"),
        ("PUT", "/v1/models/spell/"),
        ("PUT", "/v1/Models/spell"),
        ("PUT", "/V1/models/spell"),
        ("PUT", "/v1/models%2Fspell"),
        ("PUT", "/v1%2Fmodels/spell"),
        ("PUT", "/v1/models%2fspell"),
        ("PUT", "/v1//models/spell"),
        ("PUT", "//v1/models/spell"),
        ("PUT", "/v1/models//spell"),
        ("PUT", "/v1/models/spell/versions"),
        ("PUT", "/v1/models/spell/versions/1"),
        ("PUT", "/v1/models;x=1/spell"),
        ("PUT", "/v1/models/spell;x=1"),
        ("PUT", "/v1/models/./spell"),
        ("PUT", "/v1/x/../models/spell"),
        ("PUT", "/v1/%6Dodels/spell"),
        ("PUT", "/v1/models/spell%00"),
        ("PUT", "/v1/models/spell%20"),
        ("PUT", "/v1/models/spell%3Fx"),
        ("PUT", "/v1/models/spell?x=1"),
        ("PUT", "http://127.0.0.1:7001/v1/models/spell"),
        ("PUT", "HTTP://127.0.0.1:7001/v1/models/spell"),
        ("PUT", "/v1\\models\\spell"),
        ("GETPUT", "/v1/models/spell"),
    ];
    for (method, target) in spellings {
        let mut client = WORLD.client();
        client.set_patience(Duration::from_millis(1500));
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:7001\r\nContent-Length: 2\r\n\r\nhi");
        match client.ask(request) {
            Ok(response) => {
                assert!((400..500).contains(&response.status), "{method} {target}: {}", response.status)
            }
            Err(_) => {
                assert!(!WORLD.demands("spell").is_empty(), "{method} {target} neither refused nor held")
            }
        }
        assert_eq!(WORLD.reached("spell"), 0, "{method} {target} got past");
    }
    let overridden =
        "GET /v1/models/spell HTTP/1.1\r\nHost: 127.0.0.1:7001\r\nX-HTTP-Method-Override: PUT\r\n\r\n";
    assert_eq!(WORLD.client().ask(overridden).unwrap().status, 400);
    assert_eq!(WORLD.reached("spell"), 0);
}

#[test]
fn a_body_that_cannot_be_known_whole_is_not_held_but_refused() {
    let path = unique();
    let size = tidegate::limits::HELD_BODY_BYTES_MAX + 1;
    let head = format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:7001\r\n");
    let mut declared = WORLD.client();
    assert_eq!(declared.ask(format!("{head}Content-Length: {size}\r\n\r\n")).unwrap().status, 413);
    let mut chunked = WORLD.client();
    chunked.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n")).unwrap();
    // The gate may hang up before all of it is sent.
    chunked.send("x".repeat(size)).ok();
    chunked.send("\r\n0\r\n\r\n").ok();
    if let Ok(response) = chunked.response("PUT") {
        assert_eq!(response.status, 413);
    }
    assert_eq!((WORLD.demands(&path).len(), WORLD.reached(&path)), (0, 0));
}

#[test]
fn what_is_masked_in_a_held_request_is_masked_for_approvers() {
    let path = unique();
    let body = r#"{"card":"4111 1111 1111 1111","note":"ok"}"#;
    let field = "Content-Type: application/json\r\nAuthorization: Bearer abc-secret-abc\r\n";
    let (_client, demand) = held(&WORLD, &path, &with(&path, field, body));
    for words in [&["approvals", "show", demand.as_str()][..], &["--json", "approvals", "show", &demand]] {
        let shown = WORLD.gate.tidegate(words).success().text();
        assert!(!shown.contains("4111") && !shown.contains("abc-secret-abc"), "{shown}");
        for part in ["note", "[masked: card]", "Bearer [masked: credential]"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}

#[test]
fn a_held_request_cannot_forge_what_the_approver_reads() {
    let path = unique();
    let body = "x\x1b[2J\x1b[1;1Happroved by lea\u{202e}";
    let (_client, demand) = held(&WORLD, &path, &with(&path, "X-Note: a\u{202e}b\r\n", body));
    let shown = WORLD.gate.tidegate(&["approvals", "show", &demand]).success().text();
    assert!(!shown.contains('\x1b') && !shown.contains('\u{202e}'), "{shown:?}");
    let listed = WORLD.gate.tidegate(&["approvals", "list"]).success().text();
    assert!(listed.contains(&demand[..8]) && !listed.contains('\x1b'), "{listed:?}");
}

#[test]
fn a_requester_who_ended_before_anyone_looked_keeps_its_login_and_does_not_approve_itself() {
    let mut world = World::new();
    let path = "/v1/models/gone";
    world.gate.freeze(true);
    let mut client = world.requester.connect(world.upstream.address()).unwrap();
    client.send(put(path, "x")).unwrap();
    let pid = world.requester.dialer().pid();
    // Its process ends; the connection lives on here.
    world.requester = world.host.client();
    eventually("its end", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    world.gate.freeze(false);
    let demand = world.demand(path);
    refused(&world.vote(REQUESTER, "approve", &demand));
    assert_eq!(world.reached(path), 0);
    drop(world.vote(LEAD, "approve", &demand).success());
    assert_eq!(client.response("PUT").unwrap().status, 200);
    let opened = world.gate.session_of(&world.gate.entry_of(path)).summary.opened;
    let workload = opened.workload.expect("the kernel's record of the process");
    assert_eq!((workload.pid, workload.login_uid), (pid, Some(REQUESTER)));
    assert_eq!(workload.executable, None, "nobody saw its program");
}

#[test]
fn a_changed_rule_voids_the_hold() {
    let world = World::new();
    let (mut client, demand) = held(&world, "/v1/models/void", &put("/v1/models/void", "x"));
    let before = world.gate.status();
    world.gate.write_policy("a.cedar", &RULES.replace("one-lead", "two-leads"));
    let _ = world
        .gate
        .await_status("the new policy", |status| status["policy"]["digest"] != before["policy"]["digest"]);
    let voted = world.vote(LEAD, "approve", &demand);
    client.set_patience(Duration::from_secs(3));
    let answered = client.response("PUT");
    assert_eq!(world.reached("/v1/models/void"), 0, "{voted:?}");
    if let Ok(response) = answered {
        assert_eq!(response.status, 403, "{}", response.text());
    }
}

#[test]
fn a_demand_survives_a_kill_and_its_approval_lets_the_retry_through_once() {
    let mut world = World::new();
    let path = "/v1/models/survivor";
    let (client, demand) = held(&world, path, &put(path, "again"));
    world.gate.kill();
    drop(client);
    world.gate.start();
    assert_eq!(world.demands(path), std::slice::from_ref(&demand), "it is still there");
    drop(world.vote(LEAD, "approve", &demand).success());
    // The approval itself survives too.
    world.gate.kill();
    world.gate.start();
    assert_eq!(world.reached(path), 0, "nobody asked for it since");
    assert_eq!(world.client().ask(put(path, "again")).unwrap().status, 200);
    let mut second = world.client();
    second.send(put(path, "again")).unwrap();
    let another = world.demand(path);
    assert_ne!(another, demand);
    // And so does its use.
    world.gate.kill();
    world.gate.start();
    let mut third = world.client();
    third.send(put(path, "again")).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(world.reached(path), 1, "one approval, one run");
    let recovered = world.gate.entries_of(path);
    assert!(
        recovered.iter().any(|entry| entry.closed.is_some() && fault(entry) == "gate"),
        "the killed ones are closed"
    );
    drop(world.gate.tidegate(&["record", "verify"]).success());
}

/// A path below `root` that no other test uses.
fn below(root: &str) -> String {
    format!("/v1/{root}/{}", unique().rsplit('/').next().unwrap())
}

#[test]
fn approved_for_a_window_runs_all_like_it_without_another_vote_and_each_use_is_recorded() {
    let mut world = World::new();
    let path = below("tuning");
    let (mut client, demand) = held(&world, &path, &put(&path, "one"));
    let shown = world.gate.tidegate(&["approvals", "show", &demand]).success().text();
    assert!(shown.contains("for 1h") && shown.contains("under the same rules"), "{shown}");
    drop(world.vote(LEAD, "approve", &demand).success());
    assert_eq!(answer(&mut client).status, 200);
    assert_eq!(world.client().ask(put(&path, "another body")).unwrap().status, 200);
    // It is durable.
    world.gate.kill();
    world.gate.start();
    assert_eq!(world.client().ask(put(&path, "after a restart")).unwrap().status, 200);
    assert_eq!(world.reached(&path), 3);
    for entry in world.gate.entries_of(&path).iter().filter(|entry| entry.closed.is_some()) {
        assert_eq!(entry.demanded.as_ref().unwrap().demand.to_string(), demand);
        assert!(entry.decided[0].reason.contains("lea for a window until"), "{:?}", entry.decided);
    }
    // Not for another subject.
    let mut other = world.host.client().uid(2001).connect(world.upstream.address()).unwrap();
    other.send(put(&path, "one")).unwrap();
    eventually("a demand of its own", || (world.demands(&path).len() == 2).then_some(()));
    drop(world.gate.tidegate_as(LEAD, &["approvals", "revoke", &demand]).success());
    let mut held_again = world.client();
    held_again.send(put(&path, "after the end")).unwrap();
    eventually("held again", || (world.demands(&path).len() == 2).then_some(()));
    assert_eq!(world.reached(&path), 3);
    drop(world.gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn a_client_told_to_ask_again_gets_its_demand_and_runs_once_when_approved() {
    let path = below("later");
    let request = put(&path, "later");
    let told = WORLD.client().ask(&request).unwrap();
    let demand = told.json()["demand"].as_str().expect("the demand's id").to_owned();
    assert_eq!(
        (told.status, told.header("retry-after"), told.header("tidegate-demand")),
        (503, Some("5"), Some(demand.as_str()))
    );
    assert_eq!(WORLD.client().ask(&request).unwrap().json()["demand"], demand.as_str());
    assert_eq!(WORLD.demands(&path), std::slice::from_ref(&demand));
    drop(WORLD.vote(LEAD, "approve", &demand).success());
    assert_eq!(WORLD.reached(&path), 0, "nobody asked for it since");
    let ran = std::thread::scope(|scope| {
        let asks: Vec<_> =
            (0..4).map(|_| scope.spawn(|| WORLD.client().ask(&request).unwrap().status)).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).filter(|status| *status == 200).count()
    });
    assert_eq!((ran, WORLD.reached(&path)), (1, 1), "concurrent duplicates need one grant each");
}

#[test]
fn a_rejected_retry_is_told_no_and_nobody_is_asked_again() {
    let path = below("later");
    let request = put(&path, "no");
    let demand = WORLD.client().ask(&request).unwrap().json()["demand"].as_str().unwrap().to_owned();
    drop(WORLD.vote(LEAD, "reject", &demand).success());
    for _ in 0..2 {
        assert_eq!(WORLD.client().ask(&request).unwrap().status, 403);
    }
    assert!(WORLD.demands(&path).is_empty() && WORLD.reached(&path) == 0);
}

#[test]
fn a_reason_that_is_required_is_asked_for_shown_and_never_forwarded() {
    let path = below("argued");
    let refused = WORLD.client().ask(put(&path, "x")).unwrap();
    assert_eq!(refused.status, 428);
    assert!(refused.text().contains("Tidegate-Reason"), "{}", refused.text());
    for unfit in [
        "Tidegate-Reason: \r\n".to_owned(),
        "Tidegate-Reason: a\r\nTidegate-Reason: b\r\n".to_owned(),
        format!("Tidegate-Reason: {}\r\n", "x".repeat(1025)),
    ] {
        assert_eq!(WORLD.client().ask(with(&path, &unfit, "x")).unwrap().status, 428, "{unfit}");
    }
    assert!(WORLD.demands(&path).is_empty());
    let field = "Tidegate-Reason: fix card 4111 1111 1111 1111 for ticket 7\r\n";
    let (mut client, demand) = held(&WORLD, &path, &with(&path, field, "x"));
    let shown = WORLD.gate.tidegate(&["approvals", "show", &demand]).success().text();
    assert!(shown.contains("for ticket 7") && !shown.contains("4111"), "{shown}");
    let silent = WORLD.vote(LEAD, "approve", &demand);
    refused_vote(&silent, "--comment");
    drop(
        WORLD
            .gate
            .tidegate_as(LEAD, &["approvals", "approve", &demand, "--comment", "ticket 7 is real"])
            .success(),
    );
    assert_eq!(answer(&mut client).status, 200);
    let got = WORLD.upstream.requests().into_iter().find(|request| request.target == path).unwrap();
    assert_eq!(got.header("tidegate-reason"), None);
}

fn refused_vote(vote: &Finished, why: &str) {
    refused(vote);
    let said = format!("{}{}", vote.text(), vote.errors());
    assert!(said.contains(why), "{said}");
}

#[test]
fn a_workloads_owner_cannot_vote_on_what_it_asks() {
    let path = unique();
    let mut client = WORLD.host.client().uid(2002).connect(WORLD.upstream.address()).unwrap();
    client.send(put(&path, "x")).unwrap();
    let demand = WORLD.demand(&path);
    let shown = WORLD.gate.tidegate(&["approvals", "show", &demand]).success().text();
    assert!(shown.contains("otto"), "{shown}");
    for word in ["approve", "reject"] {
        refused_vote(&WORLD.vote(1005, word, &demand), "otto is behind this request");
    }
    drop(WORLD.vote(LEAD, "approve", &demand).success());
    assert_eq!(client.response("PUT").unwrap().status, 200);
}

#[test]
fn a_demand_is_withdrawn_by_its_requester_or_an_operator_and_by_no_one_else() {
    let path = unique();
    let (mut client, demand) = held(&WORLD, &path, &put(&path, "x"));
    drop(WORLD.gate.tidegate_as(REQUESTER, &["approvals", "withdraw", &demand]).success());
    assert_eq!((answer(&mut client).status, WORLD.reached(&path)), (403, 0));
    assert!(WORLD.demands(&path).is_empty());
    refused(&WORLD.vote(LEAD, "approve", &demand));
    let entry = WORLD.gate.entry_of(&path);
    assert!(entry.decided[0].reason.contains("withdrawn by rita"), "{:?}", entry.decided);
    let other = unique();
    let (mut client, demand) = held(&WORLD, &other, &put(&other, "x"));
    drop(WORLD.gate.tidegate(&["approvals", "withdraw", &demand]).success());
    assert_eq!(answer(&mut client).status, 403);
}

#[test]
fn a_long_body_is_fully_viewable_in_parts() {
    let path = unique();
    let body = "0123456789abcde\n".repeat(40 * 1024);
    let (_client, demand) = held(&WORLD, &path, &put(&path, &body));
    let shown = WORLD.gate.tidegate(&["--json", "approvals", "show", &demand]).success().json();
    assert_eq!(shown["operation"]["body"]["text"].as_str().unwrap(), body);
    let page = WORLD.gate.admin("GET", &format!("/v1/approvals/{demand}?offset=16&limit=15"), "").json();
    assert_eq!(page["operation"]["body"]["text"], "0123456789abcde");
    assert_eq!(page["operation"]["body"]["length"], body.len());
}

#[test]
fn a_held_body_is_nowhere_on_disk_in_clear_and_its_spool_is_empty_when_it_is_over() {
    let mut world = World::new();
    let path = "/v1/models/sealed";
    let marker = "a-marker-that-is-in-no-file";
    let (client, demand) = held(&world, path, &put(path, marker));
    let spool = world.gate.spool();
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 2);
    let found = |world: &World| {
        let search = std::process::Command::new("grep")
            .args(["-rl", marker])
            .arg(world.gate.state())
            .output()
            .unwrap();
        String::from_utf8(search.stdout).unwrap()
    };
    assert_eq!(found(&world), "");
    world.gate.kill();
    drop(client);
    // What a kill leaves between the spool and the record.
    std::fs::write(spool.join("019ab2c4-8f1e-7d63-b7a5-5f2f0c6f4c11.body"), "left over").unwrap();
    world.gate.start();
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 2);
    let shown = world.gate.tidegate(&["approvals", "show", &demand]).success().text();
    assert!(shown.contains(marker), "{shown}");
    drop(world.vote(LEAD, "reject", &demand).success());
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    assert_eq!(found(&world), "");
}
