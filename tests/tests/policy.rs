//! Policy files while the gate runs: dropped in, they reach the next request of a live connection; broken, they change
//! nothing and are loud; and without any good set the gate stays shut.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;
use tidegate::record::entry::{Event, Verdict};
use tidegate::record::frame::Frame;
use tidegate_tests::{Client, Gate, Host, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]
"#;

const RULES: &str = r#"permit (principal, action == Action::"http", resource == Target::"api");
"#;

const DENY: &str = r#"@id("dropped") @message("closed for today")
forbid (principal, action == Action::"http", resource == Target::"api");
"#;

const BROKEN: &str =
    "// a comment\npermit (principal, action == Action::\"htttp\", resource == Target::\"api\");\n";

const HOST: &str = "127.0.0.1:7001";

struct World {
    host: Host,
    gate: Gate,
    upstream: Upstream,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let upstream = Upstream::start(&host.client(), HOST);
        let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
        Self { host, gate, upstream }
    }

    fn client(&self) -> Client {
        self.host.client().connect(HOST.parse().unwrap()).unwrap()
    }

    fn get(&self, path: &str) -> u16 {
        self.client().get(HOST, path).unwrap().status
    }

    /// Does something to the files, and waits until another set is in force.
    fn change(&self, act: impl FnOnce(&Gate)) {
        let before = digest(&self.gate.status());
        act(&self.gate);
        let _ = self.gate.await_status("another set", |status| digest(status) != before);
    }

    /// Does something to the files that must be refused, and waits until that is said.
    fn spoil(&self, act: impl FnOnce(&Gate)) -> Value {
        let before = digest(&self.gate.status());
        act(&self.gate);
        let status = self.gate.await_status("a fault", |status| !fault(status).is_empty());
        assert_eq!(digest(&status), before, "the old set stays");
        status
    }
}

fn digest(status: &Value) -> String {
    status["policy"]["digest"].as_str().unwrap_or_else(|| panic!("no digest in {status}")).to_owned()
}

fn fault(status: &Value) -> String {
    status["policy"]["fault"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_dropped_in_file_denies_the_next_request_on_the_same_connection_and_its_removal_allows_again() {
    let world = World::new();
    let mut client = world.client();
    assert_eq!(client.get(HOST, "/1").unwrap().status, 200);
    world.change(|gate| gate.write_policy("team.cedar", DENY));
    let response = client.get(HOST, "/2").unwrap();
    assert_eq!((response.status, response.json()["detail"].clone()), (403, "closed for today".into()));
    world.change(|gate| gate.remove_policy("team.cedar"));
    assert_eq!(client.get(HOST, "/3").unwrap().status, 200);
    let paths: Vec<String> = world.upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(paths, ["/1", "/3"]);
    let [one, two, three] =
        ["/1", "/2", "/3"].map(|path| world.gate.entry_of(&format!("GET {path} ")).intent);
    assert!(
        one.policy.is_some() && one.policy != two.policy && one.policy == three.policy,
        "each entry says which set judged it"
    );
    assert_eq!((two.verdict, two.rules.as_slice()), (Verdict::Deny, &["team.cedar#dropped".to_owned()][..]));
    assert_eq!(one.session, three.session);
}

#[test]
fn a_broken_file_changes_nothing_and_status_log_metric_and_record_say_what_and_where() {
    let world = World::new();
    let status = world.spoil(|gate| gate.write_policy("team.cedar", BROKEN));
    assert!(fault(&status).contains("team.cedar:2:"), "file, line and column: {}", fault(&status));
    assert_eq!(world.get("/still"), 200);
    assert!(world.gate.log().contains("team.cedar:2:"));
    let shown = world.gate.tidegate(&["status"]);
    assert!(shown.text().contains("team.cedar:2:"), "{}{}", shown.text(), shown.errors());
    let metrics = world.gate.admin("GET", "/metrics", "").text();
    let faulty = metrics
        .lines()
        .any(|line| line.starts_with("tidegate_policy") && line.contains("fault") && line.ends_with(" 1"));
    assert!(faulty, "{metrics}");
    let refused = eventually("the refusal in the record", || {
        world.gate.record().last(100).unwrap().into_iter().find_map(|line| match line.frame {
            Frame::Event(Event::PolicyChanged(changed)) => changed.refused,
            _ => None,
        })
    });
    assert!(refused.contains("team.cedar:2:"), "{refused}");
    // Mended, it is in force, and nobody complains any more.
    world.change(|gate| gate.write_policy("team.cedar", DENY));
    assert_eq!(fault(&world.gate.status()), "");
    assert_eq!(world.get("/mended"), 403);
}

#[test]
fn no_kind_of_broken_file_opens_or_shuts_anything() {
    let world = World::new();
    for (name, text, said) in [
        ("x.cedar", "permit (principal, action, resource)", "x.cedar:1:"),
        (
            "x.cedar",
            "permit (principal, action == Action::\"http\", resource == Target::\"nowhere\");",
            "nowhere",
        ),
        (
            "x.cedar",
            "permit (principal in Role::\"misspelt\", action == Action::\"http\", resource == Target::\"api\");",
            "misspelt",
        ),
        (
            "x.cedar",
            "@approval(\"nobody\") forbid (principal, action == Action::\"http\", resource == Target::\"api\");",
            "nobody",
        ),
        (
            "x.cedar",
            "@secret(\"x\") forbid (principal, action == Action::\"http\", resource == Target::\"api\");",
            "secret",
        ),
        ("x.toml", "[[target]\n", "x.toml:1:"),
        ("x.toml", "[[target]]\nname = \"api\"\ndirection = \"inbound\"\nports = [1]\n", "api"),
        (
            "x.toml",
            "[[target]]\nname = \"two\"\ndirection = \"inbound\"\nports = [8]\ncolour = \"red\"\n",
            "colour",
        ),
        ("x.toml", "[[budget]]\nname = \"b\"\n", "not supported yet"),
        (
            "x.cases.toml",
            "[[case]]\nname = \"c\"\ntarget = \"api\"\nas = { uid = 1 }\nmethod = \"GET\"\npath = \"/\"\nexpect = \"deny\"\n",
            "x.cases.toml:",
        ),
    ] {
        let status = world.spoil(|gate| gate.write_policy(name, text));
        assert!(fault(&status).contains(said), "{name} {text}: {}", fault(&status));
        assert_eq!(world.get("/kept"), 200, "{text}");
        world.gate.remove_policy(name);
        let _ = world.gate.await_status("no fault", |status| fault(status).is_empty());
    }
}

#[test]
fn tls_and_h2_on_a_target_are_refused_when_the_policy_is_loaded() {
    let world = World::new();
    for key in [
        "tls = \"terminate\"",
        "tls = \"passthrough\"",
        "protocol = \"h2\"",
        "protocol = \"https\"",
        "protocol = \"grpc\"",
    ] {
        let text = format!(
            "[[target]]\nname = \"secure\"\ndirection = \"outbound\"\naddresses = [\"192.0.2.1\"]\nports = [443]\n{key}\n"
        );
        let status = world.spoil(|gate| gate.write_policy("tls.toml", &text));
        assert!(
            fault(&status).contains("tls.toml:6:") && fault(&status).contains("not supported yet"),
            "{}",
            fault(&status)
        );
        let checked = world.gate.tidegate(&["policy", "check"]);
        assert_eq!(checked.code(), Some(1), "{}", checked.text());
        world.gate.remove_policy("tls.toml");
        let _ = world.gate.await_status("no fault", |status| fault(status).is_empty());
    }
}

#[test]
fn a_new_target_is_intercepted_and_a_removed_one_is_left_alone() {
    let world = World::new();
    let other = Upstream::start(&world.host.client(), "127.0.0.1:7002");
    // While the kernel still redirects what policy no longer knows, the gate closes the connection.
    let get = |path: &str| {
        let mut client = world.host.client().connect(other.address()).unwrap();
        client.get("127.0.0.1:7002", path).map_or(0, |answer| answer.status)
    };
    assert_eq!(get("/free"), 200);
    assert!(world.gate.entries_of("/free").is_empty());
    let more = "[[target]]\nname = \"other\"\ndirection = \"outbound\"\naddresses = [\"127.0.0.1\"]\nports = [7002]\n";
    world.change(|gate| gate.write_policy("other.toml", more));
    eventually("the kernel's table to follow", || (get("/taken") == 403).then_some(()));
    world.change(|gate| gate.remove_policy("other.toml"));
    eventually("the kernel's table to follow", || (get("/given-back") == 200).then_some(()));
    assert_eq!(world.get("/unharmed"), 200);
}

#[test]
fn a_directory_that_disappears_while_running_changes_nothing_and_is_loud() {
    let world = World::new();
    let kept = world.host.folder().join("kept");
    let status = world.spoil(|gate| fs::rename(gate.policies(), &kept).unwrap());
    assert!(fault(&status).contains("policies"), "{}", fault(&status));
    assert_eq!(world.get("/without"), 200);
    fs::rename(&kept, world.gate.policies()).unwrap();
    let _ = world.gate.await_status("no fault", |status| fault(status).is_empty());
    world.change(|gate| gate.write_policy("team.cedar", DENY));
    assert_eq!(world.get("/again"), 403, "it is followed again");
}

#[test]
fn an_emptied_directory_opens_nothing() {
    let world = World::new();
    let before = world.gate.status();
    world.gate.remove_policy("a.cedar");
    // Whether a directory without rules is refused or in force, it lets nothing new through.
    let _ = world.gate.await_status("a word about it", |status| {
        !fault(status).is_empty() || digest(status) != digest(&before)
    });
    if digest(&world.gate.status()) != digest(&before) {
        assert_eq!(world.get("/empty"), 403);
    }
}

#[test]
fn a_broken_directory_and_no_last_good_set_start_nothing_and_the_gate_stays_shut() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    // Loaded once with a good directory, so that the kernel protects; then state and directory are lost.
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).load();
    gate.write_policy("broken.cedar", BROKEN);
    fs::remove_dir_all(gate.state()).unwrap();
    fs::create_dir(gate.state()).unwrap();
    let started = gate.tidegate(&["run"]);
    assert!(matches!(started.code(), Some(1 | 3)), "{:?}", started.code());
    let said = started.text() + &started.errors();
    assert!(said.contains("broken.cedar:2:") && said.contains("last good"), "{said}");
    let refused = host.client().connect(HOST.parse().unwrap()).err().expect("the gate is shut");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    fs::remove_dir_all(gate.policies()).unwrap();
    let started = gate.tidegate(&["run"]);
    assert!(matches!(started.code(), Some(1 | 3)), "a missing directory: {:?}", started.code());
    let refused = host.client().connect(HOST.parse().unwrap()).err().expect("the gate is shut");
    assert_eq!((refused.kind(), upstream.connections()), (ErrorKind::ConnectionRefused, 0));
}

#[test]
fn a_broken_directory_with_a_last_good_set_starts_with_that_and_says_so_loudly() {
    let mut world = World::new();
    assert_eq!(world.get("/1"), 200);
    world.gate.stop();
    world.gate.write_policy("broken.cedar", BROKEN);
    world.gate.start();
    assert_eq!(world.get("/2"), 200);
    assert!(fault(&world.gate.status()).contains("broken.cedar:2:"));
    assert!(world.gate.log().contains("last good"), "{}", world.gate.log());
    world.gate.stop();
    fs::remove_dir_all(world.gate.policies()).unwrap();
    world.gate.start();
    assert_eq!(world.get("/3"), 200);
    assert!(!fault(&world.gate.status()).is_empty());
}

#[test]
fn a_request_that_has_begun_is_finished_under_the_set_that_judged_it() {
    let world = World::new();
    let answer =
        tidegate_tests::Answer::chunked(200, &[]).chunk("one").pause(Duration::from_secs(2)).chunk("two");
    world.upstream.next(answer.last_chunk(&[]));
    let mut client = world.client();
    client.send(format!("GET /begun HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).unwrap();
    let _ = world.upstream.await_requests(1);
    world.change(|gate| gate.write_policy("team.cedar", DENY));
    let response = client.response("GET").unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "onetwo"));
    assert_eq!(client.get(HOST, "/next").unwrap().status, 403);
}

#[test]
fn check_test_and_explain_say_without_a_gate_what_it_would_do() {
    let host = Host::new();
    let cases = r#"
[[case]]
name = "anyone reads"
target = "api"
as = { uid = 1000 }
method = "GET"
path = "/x"
expect = "allow"
"#;
    let gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("a.cedar", RULES)
        .policy("a.cases.toml", cases)
        .build();
    drop(gate.tidegate(&["policy", "check"]).success());
    drop(gate.tidegate(&["policy", "test"]).success());
    gate.write_policy("team.cedar", DENY);
    let tested = gate.tidegate(&["policy", "test"]);
    assert_eq!(tested.code(), Some(1));
    let said = tested.text() + &tested.errors();
    assert!(said.contains("anyone reads") && said.contains("a.cases.toml:"), "{said}");
    gate.write_policy("team.cedar", BROKEN);
    let checked = gate.tidegate(&["policy", "check"]);
    let said = checked.text() + &checked.errors();
    assert_eq!(checked.code(), Some(1));
    assert!(said.contains("team.cedar:2:") && said.contains("htttp"), "{said}");
    assert!(!gate.state().join("record").exists(), "looking changes nothing");
}
