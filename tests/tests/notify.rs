//! People elsewhere hear of what waits: by signed webhooks, tried again, kept over restarts, and listed where nobody takes
//! them. And what happens where nobody can be reached: refused, or the safe mode, which allows nothing that the rules deny.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;
use tidegate_tests::{Client, Finished, Gate, Host, Process, Seat, Upstream, eventually, workspace};

const REQUESTER: u32 = 1001;
const LEAD: u32 = 1002;

const RULES: &str = r#"
permit (principal, action in Action::"request", resource == Target::"models");
@id("update") @approval("leads")
forbid (principal, action == Action::"update", resource == Target::"models");
@id("erase") @approval("careful")
forbid (principal, action == Action::"erase", resource == Target::"models");
@id("frozen")
forbid (principal, action == Action::"update", resource == Target::"models") when { context.model == "frozen" };
"#;

fn nouns(port: u16, secret: &str) -> String {
    format!(
        r#"
[[target]]
name = "models"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[operation]]
name = "update"
target = "models"
methods = ["PUT"]
paths = ["/v1/models/{{model}}"]

[[operation]]
name = "erase"
target = "models"
methods = ["DELETE"]
paths = ["/v1/models/{{model}}"]

[[person]]
name = "rita"
uid = 1001

[[person]]
name = "lea"
uid = 1002

[[notify]]
name = "on-call"
kind = "webhook"
url = "http://127.0.0.1:{port}/hook?x=1"
secret = "{secret}"

[[approval]]
name = "leads"
approvers = ["lea"]
notify = ["on-call"]
on_unavailable = "safe-mode"

[[approval]]
name = "careful"
approvers = ["lea"]
notify = ["on-call"]
"#
    )
}

struct World {
    _host: Host,
    gate: Gate,
    upstream: Upstream,
    requester: Seat,
    client_seat: Seat,
    port: u16,
    receiver: Option<Process>,
    folder: PathBuf,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let seat = host.client();
        let upstream = Upstream::start(&seat, "127.0.0.1:7001");
        let (port, folder) = (seat.free_port(), host.folder());
        let secret = folder.join("hook.secret");
        // 24 bytes in base64.
        fs::write(&secret, "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        tidegate_tests::gate::give_to_enforcer(&secret);
        let gate = Gate::on(&host)
            .policy("a.toml", &nouns(port, &secret.display().to_string()))
            .policy("a.cedar", RULES)
            .policy("safe-mode/a.cedar", "permit (principal, action == Action::\"update\", resource == Target::\"models\")\nunless { context.model == \"closed\" };\n")
            .start();
        let requester = host.client().login(REQUESTER);
        let mut world =
            Self { _host: host, gate, upstream, requester, client_seat: seat, port, receiver: None, folder };
        world.receive(true);
        world
    }

    fn receive(&mut self, up: bool) {
        self.receiver = None;
        if up {
            let script = workspace().join("tests/react/webhook.py").display().to_string();
            let place = |name: &str| self.folder.join(name).display().to_string();
            let (secret, seen, answer) = (place("hook.secret"), place("seen"), place("answer"));
            let mut receiver = self
                .client_seat
                .spawn("python3", &[&script, &self.port.to_string(), &secret, &seen, &answer]);
            receiver.await_text("ready");
            self.receiver = Some(receiver);
        }
    }

    fn answer(&self, status: u16) {
        fs::write(self.folder.join("answer"), status.to_string()).unwrap();
    }

    fn seen(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("seen")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn await_event(&self, event: &str, demand: &str) -> Value {
        eventually(&format!("{event} of {demand}"), || {
            let about =
                |seen: &Value| seen["body"]["type"] == event && seen["body"]["data"]["demand"] == demand;
            self.seen().into_iter().find(about)
        })
    }

    fn client(&self) -> Client {
        self.requester.connect(self.upstream.address()).unwrap()
    }

    fn ask(&self, method: &str, path: &str) -> u16 {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:7001\r\nContent-Length: 2\r\n\r\nhi");
        self.client().ask(request).unwrap().status
    }

    fn held(&self, path: &str) -> (Client, String) {
        let mut client = self.client();
        let head = format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:7001\r\nX-Api-Key: hidden-credential\r\n");
        client.send(format!("{head}Content-Length: 11\r\n\r\nsecret-body")).unwrap();
        let demand = eventually("a demand", || {
            let list = self.gate.tidegate(&["--json", "approvals", "list"]).success().json();
            let about = |demand: &&Value| demand["operation"]["path"] == path;
            list.as_array()
                .unwrap()
                .iter()
                .find(about)
                .map(|demand| demand["id"].as_str().unwrap().to_owned())
        });
        (client, demand)
    }

    fn vote(&self, word: &str, demand: &str) -> Finished {
        self.gate.tidegate_as(LEAD, &["approvals", word, demand])
    }

    fn channel(&self) -> Value {
        self.gate.tidegate(&["--json", "notify", "list"]).success().json()[0].clone()
    }
}

#[test]
fn every_turn_of_a_demand_is_told_by_a_signed_webhook_without_its_secrets() {
    let world = World::new();
    let (mut client, demand) = world.held("/v1/models/one");
    let asked = world.await_event("approval.requested", &demand);
    assert_eq!((asked["signed"].clone(), asked["type"].clone()), (true.into(), "application/json".into()));
    let data = &asked["body"]["data"];
    assert_eq!((data["method"].clone(), data["path"].clone()), ("PUT".into(), "/v1/models/one".into()));
    assert!(!asked.to_string().contains("hidden-credential") && !asked.to_string().contains("secret-body"));
    drop(world.vote("approve", &demand).success());
    assert_eq!(world.await_event("approval.approved", &demand)["body"]["data"]["by"], "lea");
    assert_eq!(client.response("PUT").unwrap().status, 200);
    let (_client, demand) = world.held("/v1/models/two");
    drop(world.vote("reject", &demand).success());
    drop(world.await_event("approval.rejected", &demand));
    let (_client, demand) = world.held("/v1/models/three");
    drop(world.gate.tidegate(&["approvals", "withdraw", &demand]).success());
    drop(world.await_event("approval.withdrawn", &demand));
    let seen = world.seen();
    let mut ids: Vec<&str> = seen.iter().map(|seen| seen["id"].as_str().unwrap()).collect();
    assert!(seen.iter().all(|seen| seen["signed"] == true));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), seen.len(), "each is told once");
    drop(world.gate.tidegate(&["notify", "test", "on-call"]).success());
    assert_eq!(world.gate.tidegate(&["notify", "test", "nobody"]).code(), Some(1));
}

#[test]
fn a_message_that_nobody_took_is_kept_over_a_kill_and_told_again_under_its_first_name() {
    let mut world = World::new();
    world.receive(false);
    let (_client, demand) = world.held("/v1/models/kept");
    eventually("a try", || world.channel()["failures"].as_u64().filter(|failures| *failures > 0));
    world.gate.kill();
    world.receive(true);
    world.gate.start();
    let told = world.await_event("approval.requested", &demand);
    assert_eq!(told["id"], format!("msg_{}_requested", demand.replace('-', "")));
    eventually("taken", || (world.channel()["waiting"] == 0).then_some(()));
}

#[test]
fn what_a_receiver_refuses_for_good_is_listed_and_can_be_sent_again() {
    let world = World::new();
    for status in [400, 302] {
        world.answer(status);
        let path = format!("/v1/models/dead{status}");
        let (_client, demand) = world.held(&path);
        let dead = eventually("a dead message", || {
            let list = world.gate.tidegate(&["--json", "notify", "dead"]).success().json();
            list.as_array()
                .unwrap()
                .iter()
                .find(|dead| dead["body"].as_str().unwrap().contains(&demand))
                .cloned()
        });
        assert!(dead["why"].as_str().unwrap().contains(&status.to_string()), "{dead}");
        let id = dead["id"].as_str().unwrap();
        let before = world.seen().len();
        world.answer(200);
        drop(world.gate.tidegate(&["notify", "retry", id]).success());
        eventually("it is told again", || (world.seen().len() > before).then_some(()));
        eventually("it is gone from the list", || {
            let list = world.gate.tidegate(&["--json", "notify", "dead"]).success().json();
            list.as_array().unwrap().is_empty().then_some(())
        });
        assert_eq!(world.gate.tidegate(&["notify", "retry", id]).code(), Some(1));
        drop(world.vote("reject", &demand).success());
        // Otherwise it would meet the next answer.
        drop(world.await_event("approval.rejected", &demand));
    }
}

#[test]
fn a_requester_whose_demands_a_receiver_refuses_turns_no_safe_mode_on() {
    let world = World::new();
    fs::write(world.folder.join("answer"), "413 poison").unwrap();
    for n in 0..3 {
        // It is held, and not allowed by the safe mode.
        let (_client, demand) = world.held(&format!("/v1/models/poison{n}"));
        eventually("a dead message", || {
            let list = world.gate.tidegate(&["--json", "notify", "dead"]).success().json();
            list.to_string().contains(&demand).then_some(())
        });
        assert_eq!(world.channel()["failing"], false);
    }
    let (_client, demand) = world.held("/v1/models/fine");
    drop(world.await_event("approval.requested", &demand));
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn where_no_approver_can_be_reached_only_what_the_safe_mode_and_the_live_rules_both_allow_runs() {
    let mut world = World::new();
    world.receive(false);
    for _ in 0..2 {
        assert_eq!(world.gate.tidegate(&["notify", "test", "on-call"]).code(), Some(1));
    }
    assert_eq!(world.channel()["failing"], true);
    assert_eq!(world.ask("PUT", "/v1/models/open"), 200);
    let entry = world.gate.entry_of("/v1/models/open");
    assert!(
        entry.intent.reason.contains("SAFE MODE")
            && entry.intent.rules.iter().any(|rule| rule.starts_with("safe-mode/")),
        "{:?}",
        entry.intent
    );
    // The safe mode permits it, and the rules in force forbid it.
    assert_eq!(world.ask("PUT", "/v1/models/frozen"), 403);
    // The rules in force would allow it with approval, and the safe mode does not.
    assert_eq!(world.ask("PUT", "/v1/models/closed"), 503);
    // Its approval does not turn to the safe mode.
    assert_eq!(world.ask("DELETE", "/v1/models/open"), 503);
    assert_eq!(world.upstream.requests().len(), 1);
    world.receive(true);
    drop(world.gate.tidegate(&["notify", "test", "on-call"]).success());
    let (_client, demand) = world.held("/v1/models/back");
    drop(world.await_event("approval.requested", &demand));
    assert_eq!(world.upstream.requests().len(), 1);
}
