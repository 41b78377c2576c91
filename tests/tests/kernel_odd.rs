//! Odd ways to call somebody that stood as unclear: each is shown to be open when nothing is loaded, and then that nothing
//! of it arrives, or that it arrives at the gate under the right name.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod kernel_support;

use std::net::SocketAddr;

use kernel_support::calls::Sniffer;
use kernel_support::{PORT, World, is_gate_answer};
use tidegate::kernel::guard_id;

const UNDECLARED: u16 = 9;

/// Packets by hand, of protocols with ports, and a connection without a handshake.
const BY_HAND: &[&str] = &["repair", "raw-extended", "raw-sctp", "raw-dccp", "raw-udplite"];

fn guarded(world: &World, cgroup: &str, how: &str, to: &[SocketAddr]) -> Vec<String> {
    let to: Vec<String> = to.iter().map(ToString::to_string).collect();
    let mut arguments = vec!["call", cgroup, "-"];
    to.iter().for_each(|to| arguments.extend([how, to]));
    world.lines(&arguments)
}

#[test]
fn no_packet_by_hand_and_no_repaired_connection_reaches_a_target() {
    let mut world = World::new();
    let to = [world.there(PORT), world.there6(PORT)];
    let sniffer = world.beyond(Sniffer::open);
    sniffer.await_one(to[0], || drop(world.call("raw-sctp", to[0])));
    sniffer.await_one(to[1], || drop(world.call("raw-sctp", to[1])));
    for how in BY_HAND {
        for to in to {
            let answer = world.call(how, to);
            assert_ne!(sniffer.count(to), 0, "a control: {how} {to}: {answer}");
        }
    }
    world.load(&world.target());
    world.gate("reply");
    for how in BY_HAND {
        for to in to {
            let answer = world.call(how, to);
            assert_eq!(sniffer.count(to), 0, "{how} {to}: {answer}");
        }
    }
}

#[test]
fn no_packet_by_hand_and_no_repaired_connection_leaves_a_guarded_process() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    let name = cgroup.to_str().unwrap().to_owned();
    let to = [world.there(UNDECLARED), world.there6(UNDECLARED)];
    let everything = to.map(|to| SocketAddr::new(to.ip(), 0));
    let sniffer = world.beyond(Sniffer::open);
    sniffer.await_one(everything[0], || drop(world.call("raw-sctp", to[0])));
    sniffer.await_one(everything[1], || drop(world.call("raw-sctp", to[1])));
    for how in BY_HAND {
        let answers = guarded(&world, &name, how, &to);
        let came = sniffer.count(everything[0]) + sniffer.count(everything[1]);
        assert_ne!(came, 0, "a control: {how}: {answers:?}");
        while sniffer.count(everything[0]) + sniffer.count(everything[1]) != 0 {}
    }
    world.load(&world.guard(vec![cgroup], vec![], vec![]));
    world.gate("reply");
    for how in BY_HAND {
        let answers = guarded(&world, &name, how, &to);
        let came = (sniffer.count(everything[0]), sniffer.count(everything[1]));
        assert_eq!(came, (0, 0), "{how}: {answers:?}");
    }
}

#[test]
fn a_connect_by_io_uring_comes_to_the_gate_under_its_callers_name() {
    let mut world = World::new();
    let to = [world.there(PORT), world.there6(PORT)];
    to.iter().for_each(|to| world.real_server(*to));
    for how in ["uring", "uring-polled"] {
        for to in to {
            assert_eq!(world.call(how, to), "real", "a control: {how} {to}");
        }
    }
    world.load(&world.target());
    world.gate("reply");
    for how in ["uring", "uring-polled"] {
        for to in to {
            let answer = world.call(how, to);
            assert!(is_gate_answer(&answer, "out", to, std::process::id()), "{how} {to}: {answer}");
        }
    }
}

#[test]
fn a_guarded_process_comes_to_the_gate_by_io_uring_mptcp_and_a_bound_device_too() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    world.load(&world.guard(vec![cgroup.clone()], vec![], vec![]));
    world.gate("reply");
    let to = [world.there(UNDECLARED), world.there6(UNDECLARED)];
    for how in ["uring", "uring-polled", "mptcp", "device"] {
        for (answer, to) in guarded(&world, cgroup.to_str().unwrap(), how, &to).iter().zip(to) {
            let words: Vec<&str> = answer.split(' ').collect();
            assert_eq!(words[..2], ["out", &to.to_string()], "{how}: {answer}");
            assert_eq!(words[4], guard_id("agent").to_string(), "{how}: {answer}");
        }
    }
}
