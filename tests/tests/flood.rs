//! One who asks ten thousand times takes no more than one may, hides nobody else, and costs no more than a bound.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tidegate::limits::{DEMAND_BYTES_PER_SUBJECT_MAX, DEMANDS_PER_SUBJECT_MAX};
use tidegate_tests::{Client, Gate, Host, Upstream, eventually};

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
name = "leads"
approvers = ["lea"]
timeout = "1h"
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"models");
@approval("leads")
forbid (principal, action == Action::"http", resource == Target::"models");
"#;

const DEMANDS: usize = 10_000;
const FLOODERS: usize = 8;

fn put(path: &str, body: &str) -> String {
    let length = body.len();
    format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:7001\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_flood_of_ten_thousand_demands_hides_no_other_and_stays_within_its_bound() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), "127.0.0.1:7001");
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    let (flooder, other) = (host.client().uid(2001), host.client().uid(2002));
    let before = memory(gate.pid());
    let filling = "x".repeat(4096);
    let mut waiting: Vec<Client> = Vec::new();
    for n in 0..DEMANDS_PER_SUBJECT_MAX {
        let mut client = flooder.connect(upstream.address()).unwrap();
        client.send(put("/flood", &format!("{n} {filling}"))).unwrap();
        waiting.push(client);
    }
    let held = |gate: &Gate| gate.status()["demands_held"].as_u64().unwrap();
    eventually("as many as one may have", || (held(&gate) == DEMANDS_PER_SUBJECT_MAX as u64).then_some(()));
    let (next, refused) = (AtomicUsize::new(DEMANDS_PER_SUBJECT_MAX), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..FLOODERS {
            scope.spawn(|| {
                let mut client = flooder.connect(upstream.address()).unwrap();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= DEMANDS {
                        return;
                    }
                    let answer = client.ask(put("/flood", &format!("{n} {filling}"))).unwrap();
                    assert_eq!(answer.status, 503, "{}", answer.text());
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // In the middle of it somebody else asks, once.
        eventually("the flood", || (refused.load(Ordering::Relaxed) > 500).then_some(()));
        let mut one = other.connect(upstream.address()).unwrap();
        one.send(put("/other", "one")).unwrap();
        let place = eventually("the other's demand", || {
            let list = gate.tidegate(&["--json", "approvals", "list"]).success().json();
            let about = |demand: &Value| demand["operation"]["path"] == "/other";
            list.as_array().unwrap().iter().position(about)
        });
        assert!(place <= 1, "it stands at {place}, behind the flood");
        let list = gate.tidegate(&["--json", "approvals", "list"]).success().json();
        let id = list[place]["id"].as_str().unwrap();
        drop(gate.tidegate_as(1002, &["approvals", "approve", id]).success());
        assert_eq!(one.response("PUT").unwrap().status, 200);
    });
    assert_eq!(refused.load(Ordering::Relaxed), DEMANDS - DEMANDS_PER_SUBJECT_MAX);
    assert_eq!(held(&gate), DEMANDS_PER_SUBJECT_MAX as u64);
    let queues = gate.admin("GET", "/v1/approvals/queues", "").json();
    assert_eq!(
        (queues[0]["subject"].clone(), queues[0]["refused"].clone()),
        ("uid:2001".into(), (DEMANDS - DEMANDS_PER_SUBJECT_MAX).into())
    );
    assert!(queues[0]["bytes"].as_u64().unwrap() <= DEMAND_BYTES_PER_SUBJECT_MAX as u64);
    let spooled = std::fs::read_dir(gate.spool()).unwrap().count();
    assert_eq!(spooled, 2 * DEMANDS_PER_SUBJECT_MAX);
    let grown = memory(gate.pid()).saturating_sub(before);
    // The subject's bound, once on the way in and once at the desk, and what a gate under load takes anyhow.
    let bound = 2 * DEMAND_BYTES_PER_SUBJECT_MAX + 128 * 1024 * 1024;
    assert!(grown < bound, "it grew by {grown} bytes");
    assert_eq!(upstream.requests().iter().filter(|request| request.target == "/flood").count(), 0);
}
