//! The queue of approvals on a terminal, as an on-call engineer sees and uses it: what waits, in full, how it differs from
//! what was approved before, and one vote by hand. Nothing that was captured moves the cursor or forges a line.

use std::time::Duration;

use tidegate_tests::{Client, Gate, Host, Terminal, Upstream, eventually};

const LEAD: u32 = 1002;
const AT: &str = "127.0.0.1:7001";

const NOUNS: &str = r#"
[[target]]
name = "models"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[person]]
name = "lea"
uid = 1002

[[approval]]
name = "lead"
approvers = ["lea"]
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"models");
@id("writes") @approval("lead") @message("a model change needs a lead")
forbid (principal, action == Action::"http", resource == Target::"models") unless { context.method == "GET" };
"#;

struct World {
    host: Host,
    upstream: Upstream,
    gate: Gate,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let upstream = Upstream::start(&host.client(), AT);
        let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
        Self { host, upstream, gate }
    }

    fn put(&self, path: &str, body: &str) -> Client {
        let mut client = self.host.client().connect(AT.parse().unwrap()).unwrap();
        let head = format!("PUT {path} HTTP/1.1\r\nHost: {AT}\r\nContent-Type: application/json\r\n");
        client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).unwrap();
        client
    }

    fn watch(&self) -> Terminal {
        // Tall enough for a whole demand, wide enough for an id beside its comment.
        self.gate.terminal(&self.host.seat("gate").login(LEAD), 150, 45, &["approvals", "watch"])
    }
}

#[test]
fn an_engineer_sees_what_waits_in_full_votes_with_a_word_and_the_operation_runs() {
    let world = World::new();
    let terminal = world.watch();
    terminal.await_screen("an empty queue", |screen| screen.contains("Nothing waits"));

    let mut client = world.put("/v1/models/m1", "{\"rate\": 1, \"note\": \"a\\u001b[2Jb\"}");
    let queue = terminal.await_screen("the demand", |screen| screen.contains("PUT /v1/models/m1"));
    assert!(queue.contains("Approvals: 1 wait") && queue.contains("lead 0/1"), "{queue}");
    assert!(queue.contains("a model change needs a lead"), "{queue}");

    terminal.press(&["Enter"]);
    let detail = terminal.await_screen("the whole demand", |screen| {
        screen.contains("asked by") && screen.contains("\"rate\"")
    });
    assert!(detail.contains("a.cedar#writes") && detail.contains("exactly this, once"), "{detail}");

    terminal.press(&["a"]);
    terminal.await_screen("what is about to be said", |screen| {
        screen.contains("APPROVE") && screen.contains("enter votes")
    });
    assert!(world.upstream.requests().is_empty(), "one key decides nothing");
    terminal.write("checked with the team");
    terminal.await_screen("the comment", |screen| screen.contains("checked with the team"));
    terminal.press(&["Enter"]);
    terminal.await_screen("the vote", |screen| screen.contains("approved by lea"));
    assert_eq!(client.response("PUT").unwrap().status, 200);
    assert_eq!(world.upstream.await_requests(1).len(), 1);

    let votes = world.gate.entry_of("/v1/models/m1").votes;
    assert_eq!(votes[0].comment.as_deref(), Some("checked with the team"));
    terminal.press(&["q", "q"]);
    eventually("the end of the page", || terminal.is_over().then_some(()));
}

#[test]
fn the_difference_to_what_was_approved_before_is_shown_line_by_line() {
    let world = World::new();
    let mut first = world.put("/v1/models/m1", "{\"rate\":1,\"name\":\"m\"}");
    let id = eventually("the first demand", || {
        let listed = world.gate.tidegate(&["approvals", "list", "--json"]).success().json();
        listed.as_array()?.first().map(|demand| demand["id"].as_str().unwrap().to_owned())
    });
    drop(world.gate.tidegate_as(LEAD, &["approvals", "approve", &id]).success());
    assert_eq!(first.response("PUT").unwrap().status, 200);

    let mut second = world.put("/v1/models/m1", "{\"rate\":9,\"name\":\"m\"}");
    let terminal = world.watch();
    terminal.await_screen("the second demand", |screen| screen.contains("PUT /v1/models/m1"));
    terminal.press(&["Enter"]);
    terminal.await_screen("the whole demand", |screen| screen.contains("asked by"));
    terminal.press(&["d"]);
    let shown = terminal.await_screen("the difference", |screen| screen.contains("approved by lea"));
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    assert!(lines.iter().any(|line| line.starts_with('-') && line.contains("\"rate\": 1")), "{shown}");
    assert!(lines.iter().any(|line| line.starts_with('+') && line.contains("\"rate\": 9")), "{shown}");
    assert!(lines.iter().any(|line| line.starts_with(' ') && line.contains("\"name\": \"m\"")), "{shown}");

    terminal.press(&["r", "Enter"]);
    terminal.await_screen("the rejection", |screen| screen.contains("rejected by lea"));
    assert_eq!(second.response("PUT").unwrap().status, 403);
    assert_eq!(world.upstream.requests().len(), 1, "what was rejected never runs");
}

#[test]
fn the_bell_rings_for_what_comes_and_a_cancelled_vote_is_none() {
    let world = World::new();
    let terminal = world.watch();
    terminal.await_screen("an empty queue", |screen| screen.contains("Nothing waits"));
    let client = world.put("/v1/models/m2", "{}");
    terminal.await_screen("the demand", |screen| screen.contains("PUT /v1/models/m2"));
    eventually("the bell", || terminal.has_rung().then_some(()));
    terminal.press(&["r"]);
    terminal.await_screen("what is about to be said", |screen| screen.contains("REJECT"));
    terminal.press(&["Escape"]);
    terminal.await_screen("the queue again", |screen| screen.contains("enter shows"));
    std::thread::sleep(Duration::from_millis(300));
    let listed = world.gate.tidegate(&["approvals", "list", "--json"]).success().json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    drop(client);
}

#[test]
fn without_a_terminal_the_page_is_refused_with_what_to_do() {
    let world = World::new();
    let refused = world.gate.tidegate(&["approvals", "watch"]);
    assert_eq!(refused.code(), Some(2));
    assert!(refused.errors().contains("approvals list"), "{refused:?}");
}
