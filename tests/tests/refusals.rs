//! What the kernel refuses is on record: with process, user and guard, in one process and in four, also where nobody enforced
//! when it was refused. Who is refused in a loop does not fill the record.

use std::net::SocketAddr;

use rustix::process::Signal;
use tidegate::kernel::DEFAULT_PORT;
use tidegate::limits::KERNEL_REFUSED_TOLD_MAX;
use tidegate::record::entry::{Event, KernelRefused, Refused};
use tidegate::record::frame::Frame;
use tidegate_tests::{Builder, Finished, Gate, Host, Seat, eventually};

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"crm");
"#;

/// Connects to each address given, or sends a datagram there, as often as the first argument says. Tells its process id, and
/// how often it was refused.
const CALL: &str = r#"
import os, socket, sys
times, how = int(sys.argv[1]), sys.argv[2]
refused = 0
for at in sys.argv[3:]:
    for _ in range(times):
        host, _, port = at.rpartition(":")
        first, _, last = port.partition("-")
        for port in range(int(first), int(last or first) + 1):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM if how == "tcp" else socket.SOCK_DGRAM) as s:
                try:
                    s.connect((host, port)) if how == "tcp" else s.sendto(b"out", (host, port))
                except PermissionError:
                    refused += 1
print(os.getpid(), refused)
"#;

/// A SYN to this port by hand: no hook sees a call, only the packet.
const RAW: &str = r#"
import socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as s:
    s.sendto(struct.pack("!HHIIHHHH", 40000, int(sys.argv[1]), 1, 0, 0x5002, 1024, 0, 0), ("127.0.0.1", 0))
"#;

const UID: u32 = 61_050;

fn gate_on(host: &Host) -> Builder {
    let guard = format!("[[guard]]\nname = \"agents\"\ncgroups = [\"/{}.slice/agent\"]\n", host.name());
    Gate::on(host).policy("a.toml", NOUNS).policy("guard.toml", &guard).policy("a.cedar", RULES)
}

fn gates_port() -> String {
    SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)).to_string()
}

/// Calls, and gives the process and how often it was refused.
fn call(seat: &Seat, times: u64, how: &str, to: &str) -> (String, u64) {
    let said = said(seat.python(CALL, &[&times.to_string(), how, to]));
    let (pid, refused) = said.trim().split_once(' ').unwrap();
    (format!("python3[{pid}]"), refused.parse().unwrap())
}

fn said(finished: Finished) -> String {
    finished.success().text()
}

fn entries(gate: &Gate) -> Vec<KernelRefused> {
    let lines = gate.record().last(10_000).unwrap().into_iter();
    lines
        .filter_map(|line| match line.frame {
            Frame::Event(Event::KernelRefused(event)) => Some(event),
            _ => None,
        })
        .collect()
}

/// What the record says of this process.
fn told(gate: &Gate, process: &str) -> Refused {
    eventually(&format!("{process} in the record"), || {
        let all = entries(gate).into_iter().flat_map(|entry| entry.refusals);
        all.into_iter().find(|one| one.process.as_deref() == Some(process))
    })
}

/// How many refusals the record knows of, in whatever detail.
fn counted(entries: &[KernelRefused]) -> u64 {
    let told = |entry: &KernelRefused| entry.refusals.iter().map(|one| one.times).sum::<u64>();
    let lost = entries.last().map_or(0, |entry| entry.lost_so_far);
    entries.iter().map(|entry| told(entry) + entry.left_out).sum::<u64>() + lost
}

fn whoever_dials_the_gates_port_is_on_record(host: &Host, gate: &Gate) {
    for (seat, uid, guard) in [
        (host.client().uid(UID), UID, None),
        (host.client(), 0, None),
        (host.agent().uid(UID), UID, Some("agents")),
    ] {
        let (process, refused) = call(&seat, 1, "tcp", &gates_port());
        assert_eq!(refused, 1);
        let one = told(gate, &process);
        assert_eq!(one.reason, "refused_gate_port_dialled", "{one:?}");
        assert_eq!((one.to.clone(), one.about.clone()), (Some(gates_port()), None), "{one:?}");
        assert_eq!((one.protocol.as_deref(), one.uid, one.times), (Some("tcp"), Some(uid), 1), "{one:?}");
        assert_eq!(one.guard.as_deref(), guard, "{one:?}");
        let group = if guard.is_some() { "agent" } else { "client" };
        assert_eq!(one.cgroup, Some(format!("/{}.slice/{group}", host.name())), "{one:?}");
    }
    let told = gate.tidegate(&["sessions", "tail"]).success().text();
    assert!(told.contains("refused_gate_port_dialled") && told.contains(&gates_port()), "{told}");
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn a_direct_connect_to_the_gates_port_is_refused_and_on_record_with_process_and_user() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    whoever_dials_the_gates_port_is_on_record(&host, &gate);
}

#[test]
fn so_it_is_where_the_enforcer_has_no_privilege() {
    let host = Host::new();
    let gate = gate_on(&host).option_of_run("--user=61244").start();
    whoever_dials_the_gates_port_is_on_record(&host, &gate);
}

#[test]
fn a_datagram_of_a_guarded_process_is_on_record_with_its_guard_and_its_program() {
    const STAYS: &str = r#"
import socket, time
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", 9))
except PermissionError:
    time.sleep(60)
"#;
    let host = Host::new();
    let gate = gate_on(&host).start();
    let agent = host.agent().spawn("/usr/bin/python3", &["-c", STAYS]);
    let one = told(&gate, &format!("python3[{}]", agent.pid()));
    assert_eq!((one.reason.as_str(), one.protocol.as_deref()), ("refused_guard_datagram", Some("udp")));
    assert_eq!((one.to.as_deref(), one.guard.as_deref()), (Some("127.0.0.1:9"), Some("agents")));
    let program = std::fs::canonicalize("/usr/bin/python3").unwrap();
    assert_eq!(one.executable.as_deref(), program.to_str(), "it still runs");
}

#[test]
fn a_packet_that_no_process_is_known_of_is_on_record_without_one() {
    let host = Host::new();
    let gate = gate_on(&host).start();
    assert!(!host.client().python(RAW, &["7001"]).status.success());
    let one = eventually("the packet in the record", || {
        let mut all = entries(&gate).into_iter().flat_map(|entry| entry.refusals);
        all.find(|one| one.reason == "dropped_target_packet")
    });
    assert_eq!((one.to.as_deref(), one.protocol.as_deref()), (Some("127.0.0.1:7001"), Some("tcp")));
    assert_eq!((one.process, one.uid, one.cgroup, one.executable), (None, None, None, None));
}

#[test]
fn ten_thousand_refusals_in_a_loop_are_few_small_entries_whose_counts_add_up() {
    const TIMES: u64 = 10_000;
    let host = Host::new();
    let gate = gate_on(&host).start();
    let begun = std::time::Instant::now();
    let (process, refused) = call(&host.client(), TIMES, "tcp", &gates_port());
    assert_eq!(refused, TIMES);
    let entries = eventually("all of them in the record", || {
        Some(entries(&gate)).filter(|entries| counted(entries) >= TIMES)
    });
    assert_eq!(counted(&entries), TIMES, "{entries:?}");
    let seconds = begun.elapsed().as_secs() + 2;
    assert!(entries.len() as u64 <= seconds, "{} entries in {seconds} seconds", entries.len());
    for entry in &entries {
        let alike: Vec<_> = entry.refusals.iter().map(|one| one.process.clone()).collect();
        assert_eq!(alike, [Some(process.clone())], "one process is refused one thing");
    }
}

#[test]
fn of_more_different_refusals_than_an_entry_tells_the_rest_is_a_number() {
    const PORTS: u64 = 2_000;
    let host = Host::new();
    let gate = gate_on(&host).start();
    let (_, refused) = call(&host.agent(), 1, "udp", "127.0.0.1:1-2000");
    assert_eq!(refused, PORTS);
    let entries = eventually("all of them in the record", || {
        Some(entries(&gate)).filter(|entries| counted(entries) >= PORTS)
    });
    assert_eq!(counted(&entries), PORTS);
    assert!(entries.iter().all(|entry| entry.refusals.len() <= KERNEL_REFUSED_TOLD_MAX));
    assert!(entries.iter().any(|entry| entry.left_out > 0));
    let told = gate.tidegate(&["sessions", "tail"]).success().text();
    assert!(told.contains("that the entry leaves out"), "{told}");
}

#[test]
fn what_was_refused_while_nobody_enforced_is_on_record_with_its_time_once_somebody_does() {
    let host = Host::new();
    let mut gate = gate_on(&host).start();
    gate.kill();
    let before = jiff::Timestamp::now().as_microsecond();
    let (process, _) = call(&host.client().uid(UID), 3, "tcp", &gates_port());
    let after = jiff::Timestamp::now().as_microsecond();
    gate.start();
    let one = told(&gate, &process);
    assert_eq!((one.times, one.uid), (3, Some(UID)));
    // The two clocks are read one after the other.
    let apart = 100_000;
    assert!(one.first >= before - apart && one.last <= after + apart, "{before} {one:?} {after}");
}

#[test]
fn an_enforcer_that_is_killed_takes_no_refusal_with_it_and_the_next_one_records_them_once() {
    let host = Host::new();
    let gate = gate_on(&host).option_of_run("--user=61247").start();
    let killed = gate.child("--kept");
    let pid = rustix::process::Pid::from_raw(killed.cast_signed()).unwrap();
    // Stopped, it takes nothing from the keeper any more.
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let (process, refused) = call(&host.client(), 50, "tcp", &gates_port());
    assert_eq!(refused, 50);
    std::thread::sleep(std::time::Duration::from_secs(2));
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    let one = told(&gate, &process);
    assert_eq!(one.times, 50);
    let all = entries(&gate).into_iter().flat_map(|entry| entry.refusals);
    let times = all.filter(|one| one.process.as_ref() == Some(&process)).map(|one| one.times);
    assert_eq!(times.collect::<Vec<_>>(), [50]);
}

#[test]
fn what_was_refused_in_the_last_moment_is_recorded_before_the_gate_ends() {
    for user in [None, Some("--user=61250")] {
        let host = Host::new();
        let mut gate = user.into_iter().fold(gate_on(&host), Builder::option_of_run).start();
        let (process, _) = call(&host.client(), 1, "tcp", &gates_port());
        // It was taken from the kernel; the entry of this second is not written yet.
        eventually("the refusal in the log", || {
            gate.log().contains("refused_gate_port_dialled").then_some(())
        });
        gate.stop();
        let all = entries(&gate).into_iter().flat_map(|entry| entry.refusals);
        let of_it = all.filter(|one| one.process.as_ref() == Some(&process)).count();
        assert_eq!(of_it, 1, "{user:?}: {}", gate.log());
    }
}
