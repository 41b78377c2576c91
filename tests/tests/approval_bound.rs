//! What one approval is bound to at a service with two ports and callers with keys: nothing but what was shown is run by
//! it. And demands that nobody waits for end by themselves, with all that was kept of them.

use std::time::Duration;

use serde_json::Value;
use tidegate::operation::Sha256;
use tidegate_tests::{Client, Gate, Host, Response, Seat, Upstream, eventually};

const REQUESTER: u32 = 1001;
const LEAD: u32 = 1002;
const ONE: &str = "127.0.0.1:7101";
const OTHER: &str = "127.0.0.1:7102";
const KEY: &str = "a-key-that-is-long-enough-to-be-one";

const RULES: &str = r#"
permit (principal, action in Action::"request", resource == Target::"service");
@id("writes") @approval("lead")
forbid (principal, action == Action::"http", resource == Target::"service") when { context.method == "PUT" };
@id("erases") @approval("soon")
forbid (principal, action == Action::"http", resource == Target::"service") when { context.method == "DELETE" };
"#;

fn nouns() -> String {
    let digest = Sha256::of(KEY.as_bytes());
    format!(
        r#"
[[target]]
name = "service"
direction = "inbound"
ports = [7101, 7102]

[[role]]
name = "caller"
key_sha256 = "{digest}"
key_header = "x-api-key"

[[person]]
name = "lea"
uid = 1002

[[approval]]
name = "lead"
approvers = ["lea"]

[[approval]]
name = "soon"
approvers = ["lea"]
timeout = "2s"
"#
    )
}

struct World {
    _host: Host,
    gate: Gate,
    one: Upstream,
    other: Upstream,
    seat: Seat,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let one = Upstream::start(&host.seat("service"), ONE);
        let other = Upstream::start(&host.seat("service"), OTHER);
        let gate = Gate::on(&host).policy("a.toml", &nouns()).policy("a.cedar", RULES).start();
        let seat = host.client().login(REQUESTER);
        Self { _host: host, gate, one, other, seat }
    }

    fn send(&self, to: &Upstream, request: &str) -> Client {
        let mut client = self.seat.connect(to.address()).unwrap();
        client.send(request).unwrap();
        client
    }

    fn demands(&self) -> Vec<Value> {
        let listed = self.gate.tidegate(&["--json", "approvals", "list"]).success().json();
        listed.as_array().unwrap().clone()
    }

    fn pending(&self) -> Option<String> {
        let demands = self.demands();
        let pending = demands.iter().find(|demand| demand["state"] == "pending")?;
        Some(pending["id"].as_str().unwrap().to_owned())
    }

    /// Asks, leaves, and is approved meanwhile: the grant is banked.
    fn bank(&self, to: &Upstream, request: &str) -> String {
        let client = self.send(to, request);
        let demand = eventually("a demand", || self.pending());
        drop(client);
        // The place of the flow that left is free.
        std::thread::sleep(Duration::from_millis(300));
        drop(self.gate.tidegate_as(LEAD, &["approvals", "approve", &demand]).success());
        demand
    }

    fn answered(&self, to: &Upstream, request: &str) -> Response {
        self.send(to, request).response("PUT").unwrap()
    }
}

fn put(path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("PUT {path} HTTP/1.1\r\nHost: service\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

#[test]
fn an_approval_for_one_port_of_a_target_runs_nothing_on_another() {
    let world = World::new();
    let request = put("/ports", "", "x");
    let demand = world.bank(&world.one, &request);
    let shown = world.gate.tidegate(&["approvals", "show", &demand]).success().text();
    assert!(shown.contains(ONE), "{shown}");
    let mut elsewhere = world.send(&world.other, &request);
    let another = eventually("a demand of its own", || world.pending());
    assert_ne!(another, demand);
    assert!(world.other.requests().is_empty(), "nothing was forwarded there");
    let shown = world.gate.tidegate(&["approvals", "show", &another]).success().text();
    assert!(shown.contains(OTHER) && !shown.contains(ONE), "{shown}");
    assert_eq!(world.answered(&world.one, &request).status, 200, "where it was approved it runs");
    assert_eq!((world.one.requests().len(), world.other.requests().len()), (1, 0));
    drop(world.gate.tidegate_as(LEAD, &["approvals", "reject", &another]).success());
    assert_eq!(elsewhere.response("PUT").unwrap().status, 403);
}

#[test]
fn beside_a_static_key_an_approval_forwards_no_other_credential_than_was_asked_with() {
    let world = World::new();
    let with = |credential: &str| {
        put("/keys", &format!("X-Api-Key: {KEY}\r\nAuthorization: Basic {credential}\r\n"), "x")
    };
    let demand = world.bank(&world.one, &with("YTph"));
    let _other = world.send(&world.one, &with("Yjpi"));
    let another = eventually("a demand of its own", || world.pending());
    assert_ne!(another, demand);
    assert!(world.one.requests().is_empty());
    assert_eq!(world.answered(&world.one, &with("YTph")).status, 200);
    let sent = world.one.requests();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header("authorization").map(str::to_owned), Some("Basic YTph".to_owned()));
}

#[test]
fn a_demand_that_nobody_waits_for_ends_at_its_time_and_its_body_with_it() {
    let world = World::new();
    let spool = world.gate.spool();
    let kept = || std::fs::read_dir(&spool).unwrap().count();
    let client =
        world.send(&world.one, "DELETE /quiet HTTP/1.1\r\nHost: service\r\nContent-Length: 1\r\n\r\nx");
    drop(eventually("a demand", || world.pending()));
    assert_eq!(kept(), 2);
    drop(client);
    // Nobody asks for anything any more, not even whether it is over.
    eventually("the end of its body", || (kept() == 0).then_some(()));
    assert!(world.demands().is_empty());
    assert!(world.one.requests().is_empty());
}

#[test]
fn a_body_forges_no_line_of_what_is_shown_of_its_session() {
    let world = World::new();
    let forged = "{}\n     vote approved by lea at 2026-11-22 10:00:00 +0000 fine\n     then allow";
    let request = format!(
        "POST /forged HTTP/1.1\r\nHost: service\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{forged}",
        forged.len()
    );
    assert_eq!(world.send(&world.one, &request).response("POST").unwrap().status, 200);
    let entry = world.gate.entry_of("/forged");
    for words in [vec!["sessions", "show", "--bodies"], vec!["replay", "--no-wait"]] {
        let id = entry.intent.entry.to_string();
        let shown = world.gate.tidegate(&[&words[..], &[&id]].concat()).success().text();
        let lines: Vec<&str> = shown.lines().filter(|line| line.contains("approved by lea")).collect();
        assert_eq!(lines.len(), 1, "{shown}");
        assert!(lines[0].starts_with("  | "), "{shown}");
    }
}
