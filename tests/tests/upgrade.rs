//! `tidegate upgrade`: another program goes on in the place of the running one. Nobody is refused meanwhile, nobody gets past, and
//! a program that would not do is never begun.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_tests::{Answer, Builder, Gate, Host, StopOnDrop, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[person]]
name = "ann"
uid = 1701

[[approval]]
name = "ops"
approvers = ["ann"]
timeout = "10m"
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"api");
forbid (principal, action == Action::"http", resource == Target::"api") when { context.segments.contains("denied") };
@approval("ops")
forbid (principal, action == Action::"http", resource == Target::"api") when { context.segments.contains("held") };
"#;

const HOST: &str = "127.0.0.1:7001";
/// An account that nobody else has.
const USER: &str = "--user=61235";

fn gate_on(host: &Host) -> Builder {
    Gate::on(host).policy("a.toml", NOUNS).policy("a.cedar", RULES)
}

/// What clients met during upgrades.
#[derive(Default)]
struct Met {
    answered: AtomicUsize,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Between two connects of one client.
const EVERY: Duration = Duration::from_millis(250);

/// Four connections a second, each with one request; more where it is late, until it is no longer.
fn load(host: &Host, met: &Met, name: usize) {
    let seat = host.client();
    let (mut number, mut due) = (0, Instant::now());
    while !met.stop.load(Ordering::Relaxed) {
        number += 1;
        due += EVERY;
        let path = format!("/load/{name}/{number}");
        let asked = seat.connect(HOST.parse().unwrap()).and_then(|mut client| client.get(HOST, &path));
        match asked {
            Ok(answer) if answer.status == 200 => drop(met.answered.fetch_add(1, Ordering::Relaxed)),
            Ok(answer) => {
                met.failed.lock().unwrap().push(format!("{path}: {} {}", answer.status, answer.text()))
            }
            Err(error) => met.failed.lock().unwrap().push(format!("{path}: {error}")),
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn upgrades_under_load(host: &Host, gate: &Gate, upstream: &Upstream) {
    let (rounds, clients) = if std::env::var_os("TIDEGATE_FULL").is_some() { (20, 125) } else { (4, 25) };
    let (met, pid, begun) = (Met::default(), gate.pid(), Instant::now());
    thread::scope(|scope| {
        let stop = StopOnDrop(&met.stop);
        for name in 0..clients {
            scope.spawn({
                let met = &met;
                move || load(host, met, name)
            });
        }
        for round in 0..rounds {
            let before = met.answered.load(Ordering::Relaxed);
            eventually("answers", || (met.answered.load(Ordering::Relaxed) > before + 20).then_some(()));
            let said = gate.tidegate(&["upgrade"]).success();
            assert!(said.text().contains("goes on"), "round {round}: {}", said.text());
        }
        drop(stop);
    });
    println!(
        "{:.0} connects a second",
        met.answered.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
    );
    let failed = met.failed.into_inner().unwrap();
    let answered = met.answered.load(Ordering::Relaxed);
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), failed.len() + answered);
    assert_eq!(gate.pid(), pid, "it is the same process to whoever watches it");
    // None got past: each that came there is on record.
    let recorded: std::collections::HashSet<String> = gate
        .entries()
        .into_iter()
        .filter_map(|entry| Some(entry.intent.head.line.split(' ').nth(1)?.to_owned()))
        .collect();
    let there = upstream.requests();
    assert_eq!(there.len(), answered);
    assert!(there.iter().all(|request| recorded.contains(&request.target)));
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn upgrades_under_load_refuse_nobody_and_let_nobody_past() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    upgrades_under_load(&host, &gate, &upstream);
}

#[test]
fn upgrades_of_keeper_and_enforcer_refuse_nobody_and_let_nobody_past() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).option_of_run(USER).start();
    upgrades_under_load(&host, &gate, &upstream);
}

#[test]
fn an_upgrade_starts_each_process_anew_with_the_new_program() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), HOST);
    let program = host.folder().join("installed");
    let gate = gate_on(&host).option_of_run(USER).program(&program).start();
    let roles = ["--kept", "--recording", "--admitting"];
    let runs = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    let before = roles.map(|role| gate.child(role));
    let next = host.folder().join("next");
    fs::copy(&program, &next).unwrap();
    fs::rename(&next, &program).unwrap();
    let new = fs::metadata(&program).unwrap().ino();
    assert!(before.iter().all(|pid| runs(*pid) != new));
    drop(gate.tidegate(&["upgrade"]).success());
    for (role, before) in roles.into_iter().zip(before) {
        let now = gate.child(role);
        assert!(now != before && runs(now) == new, "{role}");
    }
    assert_eq!(runs(gate.pid()), new);
    assert_eq!(
        gate.admin("POST", "/v1/blocks", r#"{"subject":"uid:61999"}"#).status,
        200,
        "it still takes orders"
    );
}

#[test]
fn a_hold_that_outlives_the_drain_ends_with_503_and_its_demand_stays() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    let mut held = host.client().connect(HOST.parse().unwrap()).unwrap();
    held.set_patience(Duration::from_secs(60));
    held.send(format!("GET /held HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).unwrap();
    let waiting = || {
        let listed = gate.tidegate(&["--json", "approvals", "list"]).success().json();
        listed.as_array().or_else(|| listed["demands"].as_array()).map_or(0, Vec::len)
    };
    eventually("the demand", || (waiting() == 1).then_some(()));
    drop(gate.tidegate(&["upgrade"]).success());
    assert_eq!(held.response("GET").unwrap().status, 503);
    assert_eq!(waiting(), 1, "the demand is still there to be decided");
    assert!(upstream.requests().is_empty());
}

#[test]
fn what_has_begun_ends_well_before_the_next_program_goes_on() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    upstream.next(Answer::json(r#"{"slow":true}"#).pause(Duration::from_secs(1)));
    let mut slow = host.client().connect(HOST.parse().unwrap()).unwrap();
    slow.send(format!("GET /slow HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).unwrap();
    let _ = upstream.await_requests(1);
    drop(gate.tidegate(&["upgrade"]).success());
    assert_eq!(slow.response("GET").unwrap().status, 200);
}

#[test]
fn a_program_that_does_not_run_or_does_not_take_the_policy_is_not_begun() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let program = host.folder().join("installed");
    let _gate = gate_on(&host).program(&program).start();
    let answers =
        |path: &str| host.client().connect(HOST.parse().unwrap()).unwrap().get(HOST, path).unwrap().status;
    let replace = |text: &str| {
        let new = host.folder().join("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &program).unwrap();
    };
    for (text, why) in
        [("no program", "goes on as it was"), ("#!/bin/sh\necho not me >&2; exit 1\n", "not me")]
    {
        replace(text);
        // Asked by a program that is whole.
        let said = Gate::on(&host).build().tidegate(&["upgrade"]);
        assert!(said.code() == Some(3) && said.errors().contains(why), "{}", said.errors());
        assert_eq!(answers("/still"), 200);
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_program_that_cannot_adopt_what_is_loaded_is_not_begun() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), HOST);
    let gate = gate_on(&host).start();
    // The control: what is loaded now, it can.
    drop(gate.tidegate(&["upgrade"]).success());
    let map = gate.pins().join("maps/CONFIG");
    let bpftool = |words: &[&str]| {
        let mut command = std::process::Command::new("/usr/sbin/bpftool");
        let done =
            command.args(["-j", "map", words[0], "pinned"]).arg(&map).args(&words[1..]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        done.stdout
    };
    let dumped: serde_json::Value = serde_json::from_slice(&bpftool(&["dump"])).unwrap();
    let config = dumped[0]["value"].as_array().unwrap().iter().map(|byte| byte.as_str().unwrap());
    // The layout's number comes first.
    let other: Vec<&str> = std::iter::once("0x63").chain(config.skip(1)).collect();
    bpftool(&[&["update", "key", "0", "0", "0", "0", "value"][..], &other].concat());
    let said = gate.tidegate(&["upgrade"]);
    assert!(said.code() == Some(3) && said.errors().contains("layout 99"), "{}", said.errors());
    let mut client = host.client().connect(HOST.parse().unwrap()).unwrap();
    assert_eq!(client.get(HOST, "/still").unwrap().status, 200);
    assert_eq!(upstream.requests().len(), 1);
    let own = gateway_ebpf::abi::ABI.to_string();
    let own: Vec<&str> = std::iter::once(own.as_str()).chain(other.into_iter().skip(1)).collect();
    bpftool(&[&["update", "key", "0", "0", "0", "0", "value"][..], &own].concat());
}

#[test]
fn nobody_but_root_upgrades() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    let said = gate.tidegate_at(&host.client().uid(1702), &["upgrade"]);
    assert_ne!(said.code(), Some(0), "{}", said.text());
    let status = gate.status();
    assert!(status["uptime_seconds"].as_u64().is_some());
}
