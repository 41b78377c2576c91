//! What a guarded process tries with what is outside of its guard is on record with process, user and guard, in one process and in
//! four; where this kernel runs LSM programs. Where it runs none, it is not refused, and the record tells of no such refusal.

use std::os::unix::net::UnixListener;
use std::sync::{Mutex, PoisonError};

use tidegate::kernel::{self, DEFAULT_PORT, Found};
use tidegate::record::entry::{Event, Refused};
use tidegate::record::frame::Frame;
use tidegate_tests::{Gate, Host, PATIENCE, Seat, built, eventually};

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

/// One gate at a time: on an emulated machine one is slow enough.
static GATES: Mutex<()> = Mutex::new(());

/// As the kernel says it: of a look at another process by the second.
const REFUSED: [&str; 2] = ["Operation not permitted (os error 1)", "Permission denied (os error 13)"];
const ACTOR: &str = "tidegate-actor";

/// Does it there; the process that did it, and what came of it.
fn does(seat: &Seat, words: &[&str]) -> (String, String) {
    let program = built(ACTOR);
    let mut actor = seat.spawn(program.to_str().unwrap(), words);
    assert!(actor.wait(PATIENCE).is_some_and(|status| status.success()), "{words:?}: {}", actor.stderr());
    let answer = eventually("its answer", || actor.stdout().lines().last().map(str::to_owned));
    (format!("{ACTOR}[{}]", actor.pid()), answer)
}

fn told(gate: &Gate) -> Vec<Refused> {
    let lines = gate.record().last(10_000).unwrap().into_iter();
    let of_the_kernel = lines.filter_map(|line| match line.frame {
        Frame::Event(Event::KernelRefused(event)) => Some(event.refusals),
        _ => None,
    });
    of_the_kernel.flatten().collect()
}

fn what_is_tried_is_on_record(host: &Host, gate: &Gate) {
    let kept = kernel::probe().checks.iter().any(|check| check.name == "BPF LSM" && check.found == Found::Ok);
    let (pid, policy) = (gate.pid().to_string(), gate.policies().join("a.toml"));
    let socket = host.folder().join("other.sock");
    let _other = UnixListener::bind(&socket).unwrap();
    let (policy, socket, pins) =
        (policy.to_str().unwrap(), socket.to_str().unwrap(), gate.pins().to_str().unwrap());
    let ways = [
        ("memory", pid.as_str(), "refused_guard_trace", format!("tidegate[{pid}]")),
        ("signal", &pid, "refused_guard_signal", format!("signal {} to tidegate[{pid}]", libc::SIGCONT)),
        ("unix", socket, "refused_guard_unix_socket", socket.to_owned()),
        ("write", policy, "refused_guard_file", "a.toml".to_owned()),
        ("pins", pins, "refused_guard_bpf", "bpf command 7".to_owned()),
    ];
    for (deed, what, reason, about) in &ways {
        let (neighbour, answer) = does(&host.client(), &["deed", "-", deed, what]);
        assert_eq!(answer, "done", "{deed} by a neighbour");
        let (process, answer) = does(&host.agent(), &["deed", "-", deed, what]);
        assert_eq!(REFUSED.iter().any(|how| answer.contains(how)), kept, "{deed}: {answer}");
        if kept {
            let one = eventually(&format!("{deed} in the record"), || {
                told(gate).into_iter().find(|one| one.process.as_ref() == Some(&process))
            });
            assert_eq!((one.reason.as_str(), one.about.as_ref()), (*reason, Some(about)), "{one:?}");
            assert_eq!((one.guard.as_deref(), one.uid, &one.to), (Some("agents"), Some(0), &None), "{one:?}");
            assert_eq!(one.cgroup, Some(format!("/{}.slice/agent", host.name())), "{one:?}");
            let tail = gate.tidegate(&["sessions", "tail"]).success().text();
            assert!(tail.contains(reason) && tail.contains(about) && tail.contains(&process), "{tail}");
        }
        assert!(!told(gate).iter().any(|one| one.process.as_ref() == Some(&neighbour)), "{deed}");
    }
    // What any kernel refuses, and is on record after all of these.
    let (process, _) = does(&host.agent(), &["call", "-", "-", "tcp", &format!("127.0.0.1:{DEFAULT_PORT}")]);
    eventually("a call to the gate's port in the record", || {
        told(gate).into_iter().find(|one| one.process.as_ref() == Some(&process))
    });
    let reasons: Vec<String> = told(gate).into_iter().map(|one| one.reason).collect();
    for (_, _, reason, _) in &ways {
        assert_eq!(reasons.iter().any(|told| told == reason), kept, "{reason}: {reasons:?}");
    }
    drop(gate.tidegate(&["record", "verify"]).success());
}

fn gate_on(host: &Host) -> tidegate_tests::Builder {
    let guard = format!("[[guard]]\nname = \"agents\"\ncgroups = [\"/{}.slice/agent\"]\n", host.name());
    Gate::on(host).policy("a.toml", NOUNS).policy("guard.toml", &guard).policy("a.cedar", RULES)
}

#[test]
fn what_a_guarded_process_tries_outside_of_its_guard_is_on_record() {
    let _alone = GATES.lock().unwrap_or_else(PoisonError::into_inner);
    let host = Host::new();
    let gate = gate_on(&host).start();
    what_is_tried_is_on_record(&host, &gate);
}

#[test]
fn so_is_it_where_the_enforcer_has_no_privilege() {
    let _alone = GATES.lock().unwrap_or_else(PoisonError::into_inner);
    let host = Host::new();
    let gate = gate_on(&host).option_of_run("--user=61344").start();
    what_is_tried_is_on_record(&host, &gate);
}
