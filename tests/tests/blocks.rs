//! A block stops a user, a unit or a target now: live connections, what waits for approval, everything that is asked
//! next; over restarts, whatever the policy says. Nobody but an operator outside of every guard can make or lift one.

use std::sync::LazyLock;
use std::time::Duration;

use tidegate::record::entry::{Event, Verdict};
use tidegate::record::frame::Frame;
use tidegate_tests::keys::{AUDIENCE, ISSUER};
use tidegate_tests::recorded::fault;
use tidegate_tests::{Answer, Client, Finished, Gate, Host, Keys, PATIENCE, Seat, Upstream, eventually};

const HOST: &str = "127.0.0.1:7001";
const SERVICE: &str = "127.0.0.1:7002";

struct World {
    host: Host,
    gate: Gate,
    upstream: Upstream,
    service: Upstream,
    keys: Keys,
}

fn nouns(host: &Host) -> String {
    let jwks = host.folder().join("keys.json");
    let (name, jwks) = (host.name(), jwks.display());
    format!(
        r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[target]]
name = "service"
direction = "inbound"
ports = [7002]
require = "user"

[[identity_provider]]
name = "corp"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
jwks = "{jwks}"

[[guard]]
name = "agents"
cgroups = ["/{name}.slice/agent"]

[[person]]
name = "rita"
uid = 1001

[[person]]
name = "lea"
uid = 1002

[[approval]]
name = "lead"
approvers = ["lea"]
"#
    )
}

const RULES: &str = r#"
permit (principal, action == Action::"http", resource);
@id("held") @approval("lead")
forbid (principal, action == Action::"http", resource == Target::"api") when { context.segments.contains("held") };
"#;

impl World {
    fn new() -> Self {
        let host = Host::new();
        let keys = Keys::new("one");
        keys.write_jwks(&host.folder().join("keys.json"));
        let upstream = Upstream::start(&host.client(), HOST);
        let service = Upstream::start(&host.seat("service"), SERVICE);
        let gate = Gate::on(&host).policy("a.toml", &nouns(&host)).policy("a.cedar", RULES).start();
        Self { host, gate, upstream, service, keys }
    }

    /// A client in a unit of its own, so that tests can share the gate.
    fn seat(&self, unit: &str) -> Seat {
        let seat = self.host.seat(unit);
        // The process must live as long as its connections; the host's end is its end.
        std::mem::forget(seat.clone());
        seat
    }

    fn client(&self, unit: &str) -> Client {
        self.seat(unit).connect(HOST.parse().unwrap()).unwrap()
    }

    fn get(&self, unit: &str, path: &str) -> u16 {
        self.client(unit).get(HOST, path).unwrap().status
    }

    fn block(&self, words: &[&str]) -> Finished {
        self.gate.tidegate(&[&["block"], words].concat())
    }

    fn unblock(&self, subject: &str) {
        drop(self.gate.tidegate(&["unblock", subject]).success());
    }

    fn user(&self, name: &str, path: &str) -> u16 {
        let token = self.keys.token(name, &[]);
        let mut client = self.seat("callers").connect(SERVICE.parse().unwrap()).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\nAuthorization: Bearer {token}\r\n\r\n");
        client.ask(request).unwrap().status
    }

    fn reached(&self, path: &str) -> usize {
        self.upstream.requests().iter().filter(|request| request.target.contains(path)).count()
    }
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

#[test]
fn a_blocked_unit_is_refused_with_403_and_its_entry_says_by_whom_when_and_why() {
    let world = &WORLD;
    assert_eq!(world.get("one.service", "/one/before"), 200);
    drop(world.block(&["unit:one.service", "--reason", "runs wild"]).success());
    let refused = world.client("one.service").get(HOST, "/one/blocked").unwrap();
    assert_eq!(refused.status, 403);
    assert!(!refused.text().contains("runs wild"), "the reason is for operators: {}", refused.text());
    let entry = world.gate.entry_in(&refused).intent;
    assert_eq!(entry.verdict, Verdict::Deny);
    assert!(
        entry.reason.starts_with("blocked by root at 20") && entry.reason.contains("runs wild"),
        "{}",
        entry.reason
    );
    assert_eq!((world.reached("/one/blocked"), world.get("other.service", "/one/other")), (0, 200));
    world.unblock("unit:one.service");
    assert_eq!(world.get("one.service", "/one/after"), 200);
}

#[test]
fn an_idle_connection_of_a_blocked_unit_is_closed_at_once_and_its_session_says_why() {
    let world = &WORLD;
    let mut idle = world.client("idle.service");
    assert_eq!(idle.get(HOST, "/idle/one").unwrap().status, 200);
    let mut bystander = world.client("bystander.service");
    assert_eq!(bystander.get(HOST, "/bystander/one").unwrap().status, 200);
    drop(world.block(&["unit:idle.service"]).success());
    assert!(idle.is_closed_within(Duration::from_secs(5)));
    assert_eq!(bystander.get(HOST, "/bystander/two").unwrap().status, 200, "others go on");
    let entry = world.gate.entry_of("/idle/one");
    eventually("the end of the session", || {
        let closed = world.gate.session_of(&entry).summary.closed?;
        assert!(format!("{:?}", closed.ending).contains("blocked by root"), "{:?}", closed.ending);
        Some(())
    });
    world.unblock("unit:idle.service");
}

#[test]
fn an_operation_that_has_begun_may_finish_and_one_that_does_not_end_is_cut_off() {
    let world = &WORLD;
    let answer = Answer::chunked(200, &[]).chunk("one").pause(Duration::from_secs(2)).chunk("two");
    world.service.next(answer.last_chunk(&[]));
    let token = world.keys.token("slow", &[]);
    let ask = |path: &str| {
        let mut client = world.seat("callers").connect(SERVICE.parse().unwrap()).unwrap();
        client
            .send(format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\nAuthorization: Bearer {token}\r\n\r\n"))
            .unwrap();
        client
    };
    let mut client = ask("/slow/begun");
    let _ = eventually("the request upstream", || {
        world.service.requests().into_iter().find(|request| request.target == "/slow/begun")
    });
    drop(world.block(&["user:corp/slow"]).success());
    assert_eq!(client.response("GET").unwrap().text(), "onetwo");
    assert!(client.is_closed_within(Duration::from_secs(5)), "and nothing comes after it");
    world.unblock("user:corp/slow");
    let mut endless = Answer::chunked(200, &[]);
    for _ in 0..40 {
        endless = endless.chunk("more").pause(Duration::from_secs(1));
    }
    world.service.next(endless);
    let mut client = ask("/slow/endless");
    let _ = client.exactly(5).unwrap();
    drop(world.block(&["user:corp/slow", "--reason", "enough"]).success());
    client.set_patience(PATIENCE);
    drop(client.to_end());
    let entry = world.gate.entry_of("/slow/endless");
    assert_eq!(fault(&entry), "gate");
    assert!(format!("{:?}", entry.ending()).contains("enough"), "{:?}", entry.ending());
    world.unblock("user:corp/slow");
}

#[test]
fn a_blocked_user_is_refused_whatever_process_is_in_front_and_others_are_not() {
    let world = &WORLD;
    assert_eq!((world.user("eve", "/eve/before"), world.user("ann", "/eve/ann")), (200, 200));
    drop(world.block(&["user:corp/eve", "-m", "account taken over"]).success());
    assert_eq!((world.user("eve", "/eve/blocked"), world.user("ann", "/eve/ann2")), (403, 200));
    assert!(world.service.requests().iter().all(|request| request.target != "/eve/blocked"));
    world.unblock("user:corp/eve");
    assert_eq!(world.user("eve", "/eve/after"), 200);
}

#[test]
fn a_held_operation_of_a_blocked_unit_ends_at_once_and_nobody_can_approve_it_any_more() {
    let world = &WORLD;
    let seat = world.host.seat("holding.service").login(1001);
    let mut client = seat.connect(HOST.parse().unwrap()).unwrap();
    client.send(format!("GET /held/x1 HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).unwrap();
    let listed = || world.gate.tidegate(&["--json", "approvals", "list"]).success().json();
    let demand = eventually("a demand", || {
        let listed = listed();
        let found = listed.as_array()?.iter().find(|demand| demand.to_string().contains("/held/x1"))?;
        Some(found["id"].as_str()?.to_owned())
    });
    drop(world.block(&["unit:holding.service", "--reason", "not now"]).success());
    let answer = client.response("GET").unwrap();
    assert_eq!(answer.status, 403);
    let entry = world.gate.entry_in(&answer);
    assert!(entry.decided.iter().all(|decided| decided.verdict == Verdict::Deny));
    assert!(entry.decided.last().unwrap().reason.contains("not now"), "{:?}", entry.decided);
    assert!(!listed().to_string().contains(&demand));
    let vote = world.gate.tidegate_as(1002, &["approvals", "approve", &demand]);
    assert_eq!(vote.code(), Some(1), "{}", vote.errors());
    assert_eq!(world.reached("/held/x1"), 0);
    world.unblock("unit:holding.service");
}

#[test]
fn a_block_and_its_end_are_listed_counted_and_entries_of_the_record() {
    let world = &WORLD;
    let made = world.block(&["uid:4711", "--until", "2h", "--reason", "card 4111 1111 1111 1111"]).success();
    assert!(made.text().contains("uid:4711"), "{}", made.text());
    let listed = world.gate.tidegate(&["blocks"]).success().text();
    assert!(listed.contains("uid:4711") && listed.contains("root"), "{listed}");
    assert!(!listed.contains("4111"), "what a detector finds is in no reason: {listed}");
    let listed = world.gate.tidegate(&["--json", "blocks"]).success().json();
    let block =
        listed.as_array().unwrap().iter().find(|block| block["subject"] == "uid:4711").unwrap().clone();
    assert!(block["until"].is_string() && block["by"] == "root", "{block}");
    let metrics = world.gate.admin("GET", "/metrics", "").text();
    assert!(metrics.lines().any(|line| line.starts_with("tidegate_blocks ")), "{metrics}");
    assert!(metrics.contains("tidegate_blocked_operations_total"), "{metrics}");
    world.unblock("uid:4711");
    let events = world.gate.record().last(10_000).unwrap();
    let about = |line: &&tidegate::record::read::Line| match &line.frame {
        Frame::Event(Event::Blocked(event)) => event.subject == "uid:4711" && event.until.is_some(),
        Frame::Event(Event::Unblocked(event)) => event.subject == "uid:4711" && event.by == "root",
        _ => false,
    };
    assert_eq!(events.iter().filter(about).count(), 2);
    assert_eq!(world.gate.tidegate(&["unblock", "uid:4711"]).code(), Some(1), "it is not blocked any more");
    drop(world.gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn a_block_ends_by_itself_when_it_said_and_only_then() {
    let world = &WORLD;
    drop(world.block(&["unit:brief.service", "--until", "3s"]).success());
    assert_eq!(world.get("brief.service", "/brief/1"), 403);
    eventually("the end of the block", || (world.get("brief.service", "/brief/2") == 200).then_some(()));
    eventually("its event", || {
        let events = world.gate.record().last(10_000).unwrap();
        events.iter().find_map(|line| match &line.frame {
            Frame::Event(Event::Unblocked(event)) if event.subject == "unit:brief.service" => {
                assert_eq!(event.by, "", "nobody lifted it");
                Some(())
            }
            _ => None,
        })
    });
}

#[test]
fn neither_a_guarded_process_nor_an_ordinary_user_nor_a_person_can_block_or_unblock() {
    let world = &WORLD;
    drop(world.block(&["unit:kept.service"]).success());
    let people =
        [world.host.agent(), world.host.client().uid(1800), world.host.client().uid(1002).login(1002)];
    for seat in people {
        let blocked = world.gate.tidegate_at(&seat, &["block", "unit:victim.service"]);
        assert!(matches!(blocked.code(), Some(1 | 3)), "{:?} {}", blocked.code(), blocked.errors());
        let lifted = world.gate.tidegate_at(&seat, &["unblock", "unit:kept.service"]);
        assert!(matches!(lifted.code(), Some(1 | 3)), "{:?} {}", lifted.code(), lifted.errors());
    }
    assert_eq!(world.get("victim.service", "/victim/1"), 200);
    assert_eq!(world.get("kept.service", "/kept/1"), 403);
    let agent = world.gate.tidegate_at(&world.host.agent(), &["block", "unit:victim.service"]);
    assert!(agent.errors().contains("guard agents"), "{}", agent.errors());
    world.unblock("unit:kept.service");
}

#[test]
fn a_guarded_process_neither_votes_nor_commands_the_gate_whoever_it_runs_as() {
    let world = World::new();
    // As an operator lets people in, and so whatever runs under their uids.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(world.gate.admin_socket(), everybody).unwrap();
    let mut client = world.seat("asking.service").login(1001).connect(HOST.parse().unwrap()).unwrap();
    client.send(format!("GET /held/guarded HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).unwrap();
    let demand = eventually("a demand", || {
        let listed = world.gate.tidegate(&["--json", "approvals", "list"]).success().json();
        Some(listed.as_array()?.first()?["id"].as_str()?.to_owned())
    });
    // An agent under the uid of an approver, and one that is root and gave itself an approver's login.
    let (as_lea, as_root) = (world.host.agent().uid(1002).login(1002), world.host.agent().login(1002));
    for seat in [&as_lea, &as_root] {
        for word in ["approve", "reject", "withdraw"] {
            let tried = world.gate.tidegate_at(seat, &["approvals", word, &demand]);
            assert!(matches!(tried.code(), Some(1 | 3)), "{word}: {:?} {}", tried.code(), tried.text());
            assert!(tried.errors().contains("guard agents"), "{word}: {}", tried.errors());
        }
    }
    for words in [
        &["record", "prune", "--older-than", "1s"][..],
        &["record", "rekey"],
        &["record", "rotate-signing-key"],
        &["notify", "test", "nobody"],
    ] {
        let tried = world.gate.tidegate_at(&as_root, words);
        assert!(matches!(tried.code(), Some(1 | 3)), "{words:?}: {:?} {}", tried.code(), tried.text());
        assert!(tried.errors().contains("guard agents"), "{words:?}: {}", tried.errors());
    }
    let socket = world.gate.admin_socket().display().to_string();
    let reload = ["-s", "-X", "POST", "--unix-socket", &socket, "http://gate/v1/policy/reload"];
    let reload = as_root.run("curl", &reload);
    assert!(reload.text().contains("guard agents"), "{}", reload.text());
    assert_eq!(world.reached("/held/guarded"), 0);
    // The approver's own process, and the operator's, may.
    let lea = world.host.client().uid(1002).login(1002);
    drop(world.gate.tidegate_at(&lea, &["approvals", "approve", &demand]).success());
    assert_eq!(client.response("GET").unwrap().status, 200);
    drop(world.gate.tidegate_as(1002, &["record", "rotate-signing-key"]).success());
    let rotated = world.gate.record().last(10_000).unwrap();
    assert!(rotated.iter().any(|line| format!("{:?}", line.frame).contains("by: \"lea\"")), "by her login");
}

#[test]
fn what_cannot_be_blocked_is_refused_before_anything_is_asked() {
    let world = &WORLD;
    for words in [
        &["agent"][..],
        &["user:eve"],
        &["uid:x"],
        &["unit:agent"],
        &["target:crm", "--until", "2001-01-01"],
        &["target:crm", "--until", "soon"],
    ] {
        assert_eq!(world.block(words).code(), Some(2), "{words:?}");
    }
    for body in ["", "[]", "{}", r#"{"subject":"eve"}"#, r#"{"subject":"uid:1","why":"x"}"#] {
        assert_eq!(world.gate.admin("POST", "/v1/blocks", body).status, 400, "{body}");
    }
    let past = r#"{"subject":"uid:1","until":"2001-01-01T00:00:00Z"}"#;
    assert_eq!(world.gate.admin("POST", "/v1/blocks", past).status, 400);
    let odd = world.block(&["target:nowhere"]).success();
    assert!(odd.errors().contains("no target nowhere"), "{}", odd.errors());
    world.unblock("target:nowhere");
}

#[test]
fn a_block_outlives_restarts_kills_and_a_broken_policy_and_needs_an_enforcer_to_be_made() {
    let mut world = World::new();
    drop(world.block(&["target:api", "--reason", "frozen"]).success());
    drop(world.block(&["unit:gone.service"]).success());
    world.gate.restart();
    assert_eq!((world.get("a.service", "/1"), world.user("ann", "/2")), (403, 200));
    world.gate.kill();
    let down = world.block(&["unit:b.service"]);
    assert_eq!(down.code(), Some(3));
    assert!(down.errors().contains("the gate is shut"), "{}", down.errors());
    world.gate.write_policy("broken.cedar", "permit (");
    world.gate.start();
    assert_eq!(world.get("a.service", "/3"), 403, "kept by the record, whatever the policy is");
    let listed = world.gate.tidegate(&["blocks"]).success().text();
    assert!(
        listed.contains("target:api") && listed.contains("frozen") && listed.contains("gone.service"),
        "{listed}"
    );
    world.unblock("target:api");
    assert_eq!(world.get("a.service", "/4"), 200);
    world.gate.remove_policy("broken.cedar");
    assert_eq!(world.reached("/1") + world.reached("/3"), 0);
}
