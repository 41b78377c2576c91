//! `tidegate run --user`: what reads bytes of the network has no privilege, and gains none when it is taken over. The gate works
//! as it does in one process, and falls shut when either of the two ends.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use tidegate_tests::{Answer, Builder, Client, Gate, Host, Upstream, built, eventually};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[mask]]
name = "cards"
targets = ["api"]
on = "response"
find = ["card"]
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"api");
forbid (principal, action == Action::"http", resource == Target::"api") when { context.segments.contains("denied") };
"#;

const HOST: &str = "127.0.0.1:7001";
/// An account that nobody else has. It needs no name.
const USER: u32 = 61_234;

fn gate_on(host: &Host) -> Builder {
    Gate::on(host).policy("a.toml", NOUNS).policy("a.cedar", RULES).option_of_run("--user=61234")
}

fn dial(host: &Host) -> std::io::Result<Client> {
    host.client().connect(HOST.parse().unwrap())
}

/// The enforcer of a keeper.
fn enforcer_of(gate: &Gate) -> u32 {
    let keeper = gate.pid();
    eventually("the enforcer", || {
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    })
}

/// What `/proc/PID/status` says under this name.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_enforcer_has_its_own_user_and_no_capability_and_can_get_none() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    let enforcer = enforcer_of(&gate);
    assert_eq!(status(enforcer, "Uid"), format!("{USER} {USER} {USER} {USER}"));
    assert_eq!(status(enforcer, "Gid"), format!("{USER} {USER} {USER} {USER}"));
    assert_eq!(status(enforcer, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(enforcer, set), "0000000000000000", "{set}");
    }
    assert_eq!((status(enforcer, "NoNewPrivs").as_str(), status(enforcer, "Seccomp").as_str()), ("1", "2"));
    // The keeper is what it was, and its own things are beside the enforcer's.
    assert_eq!(status(gate.pid(), "Uid"), "0 0 0 0");
    assert_eq!(fs::metadata(gate.state()).unwrap().uid(), USER);
    assert_eq!(fs::metadata(gate.state().with_extension("keeper")).unwrap().uid(), 0);
}

#[test]
fn it_lets_through_masks_denies_and_records_who_asked() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    upstream.next(Answer::json(r#"{"card":"4111 1111 1111 1111"}"#));
    let mut client = dial(&host).unwrap();
    let answer = client.get(HOST, "/fine").unwrap();
    assert_eq!((answer.status, answer.text().contains("4111")), (200, false), "{}", answer.text());
    assert_eq!(client.get(HOST, "/denied").unwrap().status, 403);
    assert_eq!(upstream.requests().len(), 1, "a denied request sends no byte upstream");
    drop(host.client().run("curl", &["-s", "http://127.0.0.1:7001/by-curl"]).success());
    let entry = gate.entry_of("/by-curl");
    let workload = gate.session_of(&entry).summary.opened.workload.unwrap();
    assert_eq!(workload.command, "curl");
    assert!(workload.executable.is_some(), "the keeper looked it up: {workload:?}");
    let counted = eventually("the kernel's counters", || {
        gate.status()["kernel"]["redirected"].as_u64().filter(|count| *count > 0)
    });
    assert!(counted > 0);
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn a_new_policy_reaches_the_kernel_and_a_broken_one_changes_nothing() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), "127.0.0.1:7002");
    let gate = gate_on(&host).start();
    let straight = |path: &str| {
        let mut client = host.client().connect("127.0.0.1:7002".parse().unwrap()).unwrap();
        client.get("127.0.0.1:7002", path).unwrap().status
    };
    assert_eq!(straight("/free"), 200, "no target yet");
    gate.write_policy("b.toml", "[[target]]\nname = \"other\"\ndirection = \"outbound\"\naddresses = [\"127.0.0.1\"]\nports = [7002]\n");
    eventually("the new target in the kernel", || (straight("/held") == 403).then_some(()));
    let before = gate.status()["policy"]["digest"].clone();
    gate.write_policy("c.cedar", "permit (");
    let _ = gate.await_status("the fault", |status| status["policy"]["fault"].is_string());
    assert_eq!(gate.status()["policy"]["digest"], before);
    assert_eq!(straight("/still"), 403);
    assert!(upstream.requests().iter().all(|request| request.target != "/still"));
}

#[test]
fn what_was_in_force_is_kept_for_a_start_with_a_broken_directory() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let mut gate = gate_on(&host).start();
    let later = "forbid (principal, action == Action::\"http\", resource == Target::\"api\") when { context.segments.contains(\"later\") };";
    gate.write_policy("b.cedar", later);
    let refused =
        || dial(&host).and_then(|mut client| client.get(HOST, "/later")).ok().filter(|a| a.status == 403);
    drop(eventually("the later policy", refused));
    gate.stop();
    gate.write_policy("c.cedar", "permit (");
    gate.start();
    // Kept by the enforcer, for what it judges by, and by the keeper, for the kernel's tables.
    let before = upstream.requests().len();
    assert_eq!(dial(&host).unwrap().get(HOST, "/later").unwrap().status, 403);
    assert_eq!(upstream.requests().len(), before);
    assert_eq!(dial(&host).unwrap().get(HOST, "/fine").unwrap().status, 200);
    assert!(gate.status()["policy"]["fault"].is_string());
}

#[test]
fn a_killed_enforcer_leaves_the_gate_shut_and_the_next_one_opens_it() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    for round in 0..3 {
        let enforcer = enforcer_of(&gate);
        let pid = rustix::process::Pid::from_raw(i32::try_from(enforcer).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let mut refused = 0;
        let path = format!("/after/{round}");
        eventually("an answer of the next enforcer", || match dial(&host) {
            Ok(mut client) => client.get(HOST, &path).ok().filter(|answer| answer.status == 200),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                refused += 1;
                None
            }
        });
        assert!(refused > 0, "the gate was shut in between");
        assert_ne!(enforcer_of(&gate), enforcer);
    }
    assert!(upstream.requests().iter().all(|request| gate.entries_of(&request.target).len() == 1));
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn an_enforcer_does_not_outlive_its_keeper() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let mut gate = gate_on(&host).start();
    let enforcer = enforcer_of(&gate);
    gate.kill();
    eventually("the end of the enforcer", || {
        let stat = fs::read_to_string(format!("/proc/{enforcer}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    eventually("a shut gate", || {
        let refused = std::io::ErrorKind::ConnectionRefused;
        dial(&host).err().filter(|error| error.kind() == refused).map(drop)
    });
    assert!(upstream.requests().is_empty());
    gate.start();
    assert_eq!(dial(&host).unwrap().get(HOST, "/again").unwrap().status, 200);
}

#[test]
fn an_enforcer_that_is_taken_over_gets_nothing_that_policy_does_not_declare() {
    let host = Host::new();
    let target = Upstream::start(&host.client(), HOST);
    let elsewhere = Upstream::start(&host.client(), "127.0.0.1:7999");
    let captive = built("tidegate-captive");
    let mut gate = gate_on(&host).run_through(&[captive.to_str().unwrap()]).build();
    gate.begin();
    let said = eventually("the captive's report", || {
        let text = fs::read_to_string(gate.state().join("captive.jsonl")).ok()?;
        text.contains("the end").then_some(text)
    });
    let said: BTreeMap<String, Option<String>> = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["attempt"].as_str().unwrap().to_owned(), line["error"].as_str().map(str::to_owned)))
        .collect();
    // What it can do is what it is there for; these are the controls.
    let possible = [
        "write its own state",
        "connect a socket of the keeper's where it is for",
        "be told the counters",
        "call unshare(2) before it is confined",
        "the end",
    ];
    for (attempt, error) in &said {
        assert_eq!(error.is_none(), possible.contains(&attempt.as_str()), "{attempt}: {error:?}");
    }
    assert!(said.len() >= 21, "{said:#?}");
    assert!(elsewhere.requests().is_empty() && elsewhere.connections() == 0, "nothing came there");
    assert!(target.requests().is_empty(), "no request came to the target");
}

#[test]
fn the_enforcer_is_not_run_as_root_nor_as_nobody_at_all() {
    let host = Host::new();
    for (user, why) in [("--user=root", "is root"), ("--user=no-such-account", "is no user of this host")] {
        let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).build();
        let said = gate.tidegate(&["run", user]);
        assert!(!said.status.success() && said.errors().contains(why), "{}", said.errors());
    }
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).build();
    let said = gate.tidegate(&["run", "--user=61234", "--witness=command:/bin/true"]);
    assert!(!said.status.success() && said.errors().contains("start no program"), "{}", said.errors());
}
