//! Frames that a packet socket writes: past every cgroup hook, and stopped where they leave. Every way is first shown to be
//! open when nothing is loaded.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod kernel_support;

use std::net::SocketAddr;

use kernel_support::calls::{self, Sniffer};
use kernel_support::{PORT, World};
use tidegate::kernel;

/// Every frame that ends at a target's port, by whatever its bytes look like.
const WAYS: &[&str] = &["frame", "frame-vlan", "frame-posing", "frame-extended", "frame-udp"];

/// Frames from a process in this cgroup and under this uid.
fn frames(world: &World, cgroup: &str, uid: &str, pairs: &[(&str, SocketAddr)]) -> Vec<String> {
    let addresses: Vec<String> = pairs.iter().map(|(_, to)| to.to_string()).collect();
    let mut arguments = vec!["call", cgroup, uid];
    for ((how, _), address) in pairs.iter().zip(&addresses) {
        arguments.extend([*how, address]);
    }
    world.lines(&arguments)
}

#[test]
fn no_frame_by_hand_reaches_a_target() {
    let world = World::new();
    let to = [world.there(PORT), world.there6(PORT)];
    let sniffer = world.beyond(Sniffer::open);
    sniffer.await_one(to[0], || drop(world.call("frame", to[0])));
    for how in WAYS {
        for to in to {
            assert_eq!(world.call(how, to), "sent");
            assert_ne!(sniffer.count(to), 0, "a control: {how} {to} arrives when nothing is loaded");
        }
    }
    world.load(&world.target());
    for how in WAYS {
        for to in to {
            let answer = world.call(how, to);
            assert_eq!(sniffer.count(to), 0, "{how} {to}: {answer}");
        }
    }
    let answers = frames(&world, "-", "raw:61112", &[("frame", to[0]), ("frame", to[1])]);
    assert_eq!((sniffer.count(to[0]), sniffer.count(to[1])), (0, 0), "{answers:?}");
    assert_eq!(world.counter("dropped_target_frame"), 11);
    assert_eq!(world.counter("dropped_unreadable_frame"), 1, "the options of a hand-written IPv4 header");
    // What a sniffer here cannot tell from other frames: two tags, and a packet inside of MPLS.
    let unreadable = world.counter("dropped_unreadable_frame");
    world.call("frame-vlan-twice", to[0]);
    assert_eq!(world.counter("dropped_target_frame"), 12);
    world.call("frame-mpls", to[0]);
    assert_eq!(world.counter("dropped_unreadable_frame"), unreadable + 1);
    kernel::unload(&world.pins()).unwrap();
    world.call("frame", to[0]);
    assert_ne!(sniffer.count(to[0]), 0, "unloaded, it is open again");
}

#[test]
fn a_guarded_process_writes_no_frame_to_anybody() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    let to = [world.there(9), world.there6(9)];
    let sniffer = world.beyond(Sniffer::open);
    sniffer.await_one(to[0], || drop(world.call("frame", to[0])));
    let calls = [("frame", to[0]), ("frame", to[1])];
    let by = [(cgroup.to_str().unwrap().to_owned(), "-"), ("-".to_owned(), "raw:61111")];
    for (cgroup, uid) in &by {
        assert_eq!(frames(&world, cgroup, uid, &calls), ["sent", "sent"]);
        assert!(sniffer.count(to[0]) + sniffer.count(to[1]) >= 1, "a control: it is open before the load");
        while sniffer.count(to[0]) + sniffer.count(to[1]) != 0 {}
    }
    world.load(&world.guard(vec![cgroup.clone()], vec![61_111], vec![]));
    for (cgroup, uid) in &by {
        let answers = frames(&world, cgroup, uid, &calls);
        let arrived = (sniffer.count(to[0]), sniffer.count(to[1]));
        assert_eq!(arrived, (0, 0), "{cgroup} {uid}: {answers:?}");
    }
    assert_eq!(world.counter("dropped_guard_frame"), 4);
    frames(&world, "-", "raw:61112", &calls[..1]);
    assert_ne!(sniffer.count(to[0]), 0, "a neighbour's frames are nobody's business");
}

#[test]
fn a_packet_socket_of_a_guarded_process_is_refused_when_made_or_the_posture_says_that_it_is_not() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    let call = [("frame", world.there(9))];
    assert_eq!(frames(&world, cgroup.to_str().unwrap(), "-", &call), ["sent"], "a control");
    let table = world.guard(vec![cgroup.clone()], vec![], vec![]);
    let report = kernel::load(&world.place(), &table).unwrap();
    let status = kernel::status(&world.pins()).unwrap();
    let probe = kernel::probe();
    let posture = probe.checks.iter().find(|check| check.name == "BPF LSM").unwrap();
    let answers = frames(&world, cgroup.to_str().unwrap(), "-", &call);
    match report.no_lsm {
        None => {
            assert!(
                status.lsm.iter().all(|program| program.id.is_some()) && posture.found == kernel::Found::Ok,
                "{posture:?}"
            );
            assert!(answers[0].contains("Operation not permitted"), "{answers:?}");
            assert_ne!(world.counter("refused_guard_socket"), 0);
        }
        Some(why) => {
            assert!(!why.is_empty() && posture.found != kernel::Found::Ok, "{why}: {posture:?}");
            assert!(posture.means.contains("CAP_NET_RAW"), "{posture:?}");
        }
    }
    assert_eq!(frames(&world, "-", "-", &call), ["sent"], "a neighbour's is nobody's business");
}

#[test]
fn ordinary_traffic_of_others_leaves_and_neighbours_are_found() {
    let mut world = World::new();
    let (target, other, other6) = (world.there(PORT), world.there(PORT + 1), world.there6(PORT + 1));
    for at in [target, other, other6] {
        world.real_server(at);
    }
    world.load(&world.target());
    world.gate("forward");
    for _ in 0..2 {
        for to in [target, other, other6] {
            assert_eq!(world.call("tcp", to), "real", "{to}");
        }
        assert_eq!(world.call("udp", other), "sent");
        world.forget_neighbours();
    }
    let away = world.here(7000);
    world.real_service(away);
    assert_eq!(world.beyond(|| calls::outcome("tcp", &away.to_string())), "real");
    assert_eq!((world.counter("dropped_target_frame"), world.counter("dropped_unreadable_frame")), (0, 0));
}

#[test]
fn an_interface_that_comes_later_is_looked_at_too() {
    let world = World::new();
    let to = world.there(PORT);
    world.load(&world.target());
    world.add_uplink("tgmore");
    let sniffer = world.beyond(Sniffer::open);
    let send = || world.inside(|| drop(calls::frame("frame", "tgmore", to)));
    sniffer.await_one(to, send);
    let gate = kernel::Gate::adopt(&world.pins()).unwrap();
    gate.follow_uplinks(&world.place()).unwrap();
    send();
    assert_eq!(sniffer.count(to), 0);
    let uplinks = world.inside(|| kernel::status(&world.pins()).unwrap().uplinks);
    let seen: Vec<_> = uplinks.iter().map(|one| (one.interface.as_str(), one.program.is_some())).collect();
    assert!(seen.contains(&("tgin", true)) && seen.contains(&("tgmore", true)), "{seen:?}");
    let mut place = world.place();
    place.uplinks = vec!["tgin".to_owned()];
    gate.follow_uplinks(&place).unwrap();
    sniffer.await_one(to, send);
}
