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
/// The ones beside it, which recorder and admin get.
const RECORDER: u32 = 61_235;
const ADMIN: u32 = 61_236;
/// What the keeper's children are called on their command lines.
const ENFORCER: &str = "--kept";
const RECORDING: &str = "--recording";
const ADMITTING: &str = "--admitting";

fn gate_on(host: &Host) -> Builder {
    Gate::on(host).policy("a.toml", NOUNS).policy("a.cedar", RULES).option_of_run("--user=61234")
}

fn dial(host: &Host) -> std::io::Result<Client> {
    host.client().connect(HOST.parse().unwrap())
}

/// What `/proc/PID/status` says under this name.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_keepers_children_have_users_of_their_own_and_no_capability() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    for (role, user) in [(ENFORCER, USER), (RECORDING, RECORDER), (ADMITTING, ADMIN)] {
        let child = gate.child(role);
        assert_eq!(status(child, "Uid"), format!("{user} {user} {user} {user}"));
        assert_eq!(status(child, "Gid"), format!("{user} {user} {user} {user}"));
        assert_eq!(status(child, "Groups"), "");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(child, set), "0000000000000000", "{role} {set}");
        }
        assert_eq!((status(child, "NoNewPrivs").as_str(), status(child, "Seccomp").as_str()), ("1", "2"));
    }
    // The keeper is what it was, and each has what is its own.
    assert_eq!(status(gate.pid(), "Uid"), "0 0 0 0");
    let about = |path: &str| fs::metadata(gate.state().join(path)).unwrap();
    for (path, user, mode) in [
        ("", 0, 0o711),
        ("last-good", 0, 0o700),
        ("enforcer", USER, 0o700),
        ("record", RECORDER, 0o700),
        ("keys", RECORDER, 0o700),
    ] {
        assert_eq!((about(path).uid(), about(path).mode() & 0o777), (user, mode), "{path}");
    }
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
        // One that was open when the target came is cut.
        client.get("127.0.0.1:7002", path).map_or(0, |answer| answer.status)
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
        let enforcer = gate.child(ENFORCER);
        kill(enforcer, rustix::process::Signal::KILL);
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
        assert_ne!(gate.child(ENFORCER), enforcer);
    }
    assert!(upstream.requests().iter().all(|request| gate.entries_of(&request.target).len() == 1));
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn an_enforcer_does_not_outlive_its_keeper() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let mut gate = gate_on(&host).start();
    let enforcer = gate.child(ENFORCER);
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
    let credential = "[[credential]]\nname = \"api\"\ntargets = [\"api\"]\n";
    let builder = gate_on(&host).policy("c.toml", credential);
    let mut gate = builder.run_through(&[captive.to_str().unwrap()]).build();
    drop(gate.tidegate_given("plum-harbour-92-oak\n", &["credential", "set", "api"]).success());
    gate.begin();
    let report = |until: &str| -> BTreeMap<String, Option<String>> {
        let said = eventually("the captive's report", || {
            let text = fs::read_to_string(gate.state().join("enforcer/captive.jsonl")).ok()?;
            text.contains(until).then_some(text)
        });
        let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        lines.map(|line| (text(&line["attempt"]).unwrap(), text(&line["error"]))).collect()
    };
    drop(report("the end"));
    // Now a human does want something.
    let wanted = gate.admin("POST", "/v1/blocks", r#"{"subject":"uid:61999"}"#);
    assert_eq!(wanted.status, 200, "{}", wanted.text());
    let said = report("block so once more");
    // What it can do is what it is there for; these are the controls.
    let possible = [
        "write its own state",
        "connect a socket of the keeper's where it is for",
        "be told the counters",
        "have something recorded",
        "get a credential that the record says it gets",
        "call unshare(2) before it is confined",
        "block as the operator wants",
        "the end",
    ];
    for (attempt, error) in &said {
        assert_eq!(error.is_none(), possible.contains(&attempt.as_str()), "{attempt}: {error:?}");
    }
    assert!(said.len() >= 51, "{said:#?}");
    for (attempt, error) in said.iter().filter(|(attempt, _)| attempt.contains(" a person")) {
        let error = error.as_deref().unwrap_or_default();
        assert!(error.contains("the recorder was not told by admin"), "{attempt}: {error}");
    }
    assert!(elsewhere.requests().is_empty() && elsewhere.connections() == 0, "nothing came there");
    assert!(target.requests().is_empty(), "no request came to the target");
    // What it could have recorded is what the operator did, once, and nothing in any other name.
    let told = gate.record().last(1000).unwrap().into_iter();
    let told: Vec<String> = told.map(|line| format!("{:?}", line.frame)).collect();
    let told: Vec<_> =
        told.iter().filter(|line| line.contains("Blocked") || line.contains("\"ann\"")).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("uid:61999") && told[0].contains("\"root\""), "{told:#?}");
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

#[test]
fn nothing_is_forwarded_without_a_recorder_and_the_next_one_goes_on() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    let mut kept = dial(&host).unwrap();
    assert_eq!(kept.get(HOST, "/before").unwrap().status, 200);
    let enforcer = gate.child(ENFORCER);
    for round in 0..3 {
        let recorder = gate.child(RECORDING);
        kill(recorder, rustix::process::Signal::KILL);
        let path = format!("/after/{round}");
        eventually("an answer by way of the next recorder", || {
            let answer = dial(&host).and_then(|mut client| client.get(HOST, &path)).ok()?;
            assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
            (answer.status == 200).then_some(())
        });
        assert_ne!(gate.child(RECORDING), recorder);
    }
    assert_eq!(gate.child(ENFORCER), enforcer, "it lives on");
    // The flow that was open then is over in the record, and forwards nothing more.
    let status = kept.post(HOST, "/on-the-old-flow", "x").map_or(503, |answer| answer.status);
    assert_eq!(status, 503);
    let there = upstream.requests();
    assert!(there.iter().all(|request| request.target != "/on-the-old-flow"));
    assert!(there.iter().all(|request| gate.entries_of(&request.target).len() == 1));
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn a_recorder_that_hangs_lets_nothing_through_and_nobody_wait_for_ever() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    assert_eq!(dial(&host).unwrap().get(HOST, "/before").unwrap().status, 200);
    let recorder = gate.child(RECORDING);
    kill(recorder, rustix::process::Signal::STOP);
    let resumed = Resumed(recorder);
    let answer = dial(&host).and_then(|mut client| client.post(HOST, "/hanging", "x"));
    assert!(answer.map_or(503, |answer| answer.status) == 503, "refused in time");
    // From here on at once.
    assert_eq!(
        dial(&host).and_then(|mut client| client.post(HOST, "/down", "x")).map_or(503, |a| a.status),
        503
    );
    assert_eq!(upstream.requests().len(), 1, "nothing was forwarded");
    assert_eq!(gate.status()["record"]["up"], Value::Bool(false));
    drop(resumed);
    eventually("an answer", || {
        let answer = dial(&host).and_then(|mut client| client.get(HOST, "/again")).ok()?;
        (answer.status == 200).then_some(())
    });
    assert!(gate.entries_of("/hanging").iter().all(|entry| entry.closed.is_some()), "nothing stays open");
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn orders_to_the_record_are_taken_from_root_at_its_own_socket_and_from_nobody_else() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    assert_eq!(dial(&host).unwrap().get(HOST, "/x").unwrap().status, 200);
    let rekeyed = gate.tidegate(&["record", "rekey"]).success().text();
    assert!(rekeyed.contains("generation 2 seals from now on"), "{rekeyed}");
    let keys = gate.tidegate(&["record", "stats"]).success().text();
    assert!(keys.contains("key generation"), "{keys}");
    // Not by way of the admin socket, which the enforcer answers.
    let post = |socket: &str, uid: &str| {
        let socket = gate.admin_socket().with_file_name(socket);
        let words = ["--reuid", uid, "--regid", uid, "--clear-groups", "curl", "-s", "--unix-socket"];
        let words = [
            &words[..],
            &[
                socket.to_str().unwrap(),
                "-d",
                "\"rekey\"",
                "-H",
                "content-type: application/json",
                "http://gate/v1/record/orders",
            ],
        ]
        .concat();
        host.client().run("setpriv", &words).text()
    };
    let admin = gate.admin_socket().file_name().unwrap().to_str().unwrap().to_owned();
    let recorders = admin.replace(".sock", ".record.sock");
    assert!(post(&admin, "0").contains("at its own socket"), "{}", post(&admin, "0"));
    assert!(post(&recorders, "61234").is_empty(), "the enforcer's user may not even connect");
    assert!(post(&recorders, "0").contains("rekeyed"), "root may: {}", post(&recorders, "0"));
}

/// People who may approve, and a rule that asks them: `POST` is held.
const PEOPLE: &str = r#"
[[person]]
name = "ann"
subject = "corp/ann"
uid = 61301
roles = ["lead"]

[[role]]
name = "lead"

[[approval]]
name = "leads"
approvers = ["lead"]
needed = 1
hold = "retry"

[[operation]]
name = "change"
target = "api"
methods = ["POST"]
paths = ["/**"]

[[operation]]
name = "read"
target = "api"
methods = ["GET"]
paths = ["/**"]

[[identity_provider]]
name = "corp"
issuer = "https://id.example"
audience = ["tidegate"]
algorithms = ["ES256"]
jwks = "/nonexistent/jwks.json"
"#;
const HOLD: &str = r#"
permit (principal, action in Action::"request", resource == Target::"api");
forbid (principal, action in Action::"request", resource == Target::"api") when { context.segments.contains("denied") };
@id("change") @approval("leads")
forbid (principal, action == Action::"change", resource == Target::"api");
"#;
const ANN: u32 = 61_301;

/// Has an operation held, approved by ann, and done.
fn held_approved_and_done(host: &Host, gate: &Gate, path: &str) {
    let post = || dial(host).and_then(|mut client| client.post(HOST, path, "x")).ok();
    let held =
        eventually("a demand", || post().filter(|answer| answer.status == 503 || answer.status == 202));
    let demands = || gate.admin("GET", "/v1/approvals", "").json();
    let demand = eventually("the demand in the list", || {
        let id =
            demands().as_array()?.iter().find(|demand| demand["operation"]["path"] == path)?["id"].clone();
        id.as_str().map(str::to_owned)
    });
    let voted = gate.tidegate_as(ANN, &["approvals", "approve", &demand, "--comment", "fine"]);
    assert!(voted.status.success(), "{} {} (held with {})", voted.text(), voted.errors(), held.status);
    drop(eventually("the operation", || post().filter(|answer| answer.status == 200)));
    let votes = gate.record().last(1000).unwrap().into_iter();
    let votes = votes.map(|line| format!("{:?}", line.frame)).filter(|line| line.contains(&demand));
    assert_eq!(votes.filter(|line| line.contains("Voted") && line.contains("\"ann\"")).count(), 1);
}

#[test]
fn without_admin_the_gate_goes_on_and_the_next_one_takes_votes() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).policy("b.toml", PEOPLE).policy("a.cedar", HOLD).start();
    held_approved_and_done(&host, &gate, "/held/0");
    let (enforcer, recorder) = (gate.child(ENFORCER), gate.child(RECORDING));
    for round in 1..4 {
        let admin = gate.child(ADMITTING);
        kill(admin, rustix::process::Signal::KILL);
        assert_eq!(dial(&host).unwrap().get(HOST, &format!("/meanwhile/{round}")).unwrap().status, 200);
        assert_eq!(dial(&host).unwrap().get(HOST, &format!("/denied/{round}")).unwrap().status, 403);
        // Whoever knocks meanwhile waits, or has to knock again.
        eventually("the next one", || gate.try_admin("GET", "/v1/status", "").filter(|a| a.status == 200));
        assert_ne!(gate.child(ADMITTING), admin);
        held_approved_and_done(&host, &gate, &format!("/held/{round}"));
    }
    assert_eq!((gate.child(ENFORCER), gate.child(RECORDING)), (enforcer, recorder), "they live on");
    let admin = gate.child(ADMITTING);
    kill(admin, rustix::process::Signal::STOP);
    assert_eq!(dial(&host).unwrap().get(HOST, "/hanging").unwrap().status, 200);
    assert_eq!(dial(&host).unwrap().get(HOST, "/denied/hanging").unwrap().status, 403);
    eventually("another one", || (gate.child(ADMITTING) != admin).then_some(()));
    held_approved_and_done(&host, &gate, "/held/again");
    // So it does when the recorder, to which it vouches, is another one.
    kill(gate.child(RECORDING), rustix::process::Signal::KILL);
    eventually("the next recorder", || {
        dial(&host).and_then(|mut client| client.get(HOST, "/x")).ok().filter(|answer| answer.status == 200)
    });
    held_approved_and_done(&host, &gate, "/held/recorded");
    assert!(upstream.requests().iter().all(|request| !request.target.starts_with("/denied")));
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn what_cannot_be_recorded_in_a_humans_name_is_not_done() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    let recorder = gate.child(RECORDING);
    kill(recorder, rustix::process::Signal::STOP);
    let resumed = Resumed(recorder);
    let blocked = gate.admin("POST", "/v1/blocks", r#"{"subject":"uid:61999"}"#);
    assert_eq!(blocked.status, 503, "{}", blocked.text());
    assert!(blocked.text().contains("nothing was done"), "{}", blocked.text());
    drop(resumed);
    assert_eq!(gate.admin("GET", "/v1/blocks", "").json().as_array().map(Vec::len), Some(0));
    eventually("a block", || {
        let blocked = gate.admin("POST", "/v1/blocks", r#"{"subject":"uid:61999"}"#);
        (blocked.status == 200).then_some(())
    });
    assert_eq!(gate.admin("GET", "/v1/blocks", "").json()[0]["by"], "root");
}

#[test]
fn a_process_of_the_gates_own_users_is_nobody_at_the_admin_socket() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), HOST);
    // As the package has it: the socket is for a group that the enforcer is in.
    std::os::unix::fs::chown(host.folder(), None, Some(USER)).unwrap();
    fs::set_permissions(host.folder(), std::os::unix::fs::PermissionsExt::from_mode(0o751)).unwrap();
    let gate = gate_on(&host).start();
    let ask = |uid: u32, words: &[&str]| {
        let (uid, gid, socket) = (uid.to_string(), USER.to_string(), gate.admin_socket());
        let as_user = ["--reuid", &uid, "--regid", &gid, "--clear-groups", "curl", "-s"];
        let socket = ["--unix-socket", socket.to_str().unwrap()];
        host.client().run("setpriv", &[&as_user[..], &socket, words].concat()).text()
    };
    let block = ["-d", r#"{"subject":"uid:61999"}"#, "http://gate/v1/blocks"];
    for user in [USER, RECORDER, ADMIN] {
        for words in [&["http://gate/v1/status"][..], &["http://gate/v1/approvals"], &block] {
            let said = ask(user, words);
            assert!(said.contains("\"status\":403"), "uid {user}: {said}");
        }
    }
    assert!(ask(0, &["http://gate/v1/status"]).contains("uptime_seconds"));
    assert!(ask(0, &block).contains("\"by\":\"root\""));
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Lets a stopped process go on when dropped.
struct Resumed(u32);

impl Drop for Resumed {
    fn drop(&mut self) {
        kill(self.0, rustix::process::Signal::CONT);
    }
}
