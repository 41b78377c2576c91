//! Guards: a guarded process reaches nothing but the gate and its DNS, by TCP, UDP or anything else; its neighbours are
//! left alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod kernel_support;

use std::net::SocketAddr;

use kernel_support::calls::{self, Sniffer};
use kernel_support::{PORT, World};
use tidegate::kernel::{self, guard_id};

/// A port that no target names.
const UNDECLARED: u16 = 9;

/// Calls from a process in this cgroup and under this uid.
fn guarded(world: &World, cgroup: &str, uid: &str, pairs: &[(&str, SocketAddr)]) -> Vec<String> {
    let addresses: Vec<String> = pairs.iter().map(|(_, to)| to.to_string()).collect();
    let mut arguments = vec!["call", cgroup, uid];
    for ((how, _), address) in pairs.iter().zip(&addresses) {
        arguments.extend([*how, address]);
    }
    world.lines(&arguments)
}

#[test]
fn all_tcp_of_a_guarded_process_comes_to_the_gate_loopback_included() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    world.load(&world.guard(vec![cgroup.clone()], vec![], vec![]));
    world.gate("reply");
    let to = [
        world.there(UNDECLARED),
        world.there6(UNDECLARED),
        "127.0.0.1:22".parse().unwrap(),
        "[::1]:22".parse().unwrap(),
        world.here(22),
    ];
    let answers = guarded(&world, cgroup.to_str().unwrap(), "-", &to.map(|to| ("tcp", to)));
    for (to, answer) in to.iter().zip(&answers) {
        let words: Vec<&str> = answer.split(' ').collect();
        assert_eq!(&words[..2], ["out", &to.to_string()], "{answer}");
        assert_eq!(words[4], guard_id("agent").to_string(), "{answer}");
    }
    assert_eq!(answers.len(), to.len());
}

#[test]
fn nothing_else_leaves_a_guarded_process() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    world.load(&world.guard(vec![cgroup.clone()], vec![], vec![]));
    world.gate("reply");
    let (v4, v6) = (world.there(UNDECLARED), world.there6(UNDECLARED));
    let sniffer = world.beyond(Sniffer::open);
    let ways = [
        "udp",
        "udp-connected",
        "udp-mapped",
        "udplite",
        "udplite-connected",
        "raw-tcp",
        "raw-hdrincl",
        "icmp",
        "ping",
    ];
    for how in ways {
        let answers = guarded(&world, cgroup.to_str().unwrap(), "-", &[(how, v4), (how, v6)]);
        assert!(answers.iter().all(|answer| answer.starts_with("refused")), "{how}: {answers:?}");
        let anything = |to: SocketAddr| SocketAddr::new(to.ip(), 0);
        assert_eq!((sniffer.count(anything(v4)), sniffer.count(anything(v6))), (0, 0), "{how}");
    }
}

#[test]
fn a_guarded_process_asks_its_own_dns_by_udp_and_tcp_and_no_other() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    let dns = world.there(53);
    world.load(&world.guard(vec![cgroup.clone()], vec![], vec![dns]));
    world.gate("reply");
    world.real_server(dns);
    let sniffer = world.beyond(Sniffer::open);
    let calls = [("udp", dns), ("udp-connected", dns), ("udp-mapped", dns), ("tcp", dns)];
    assert_eq!(guarded(&world, cgroup.to_str().unwrap(), "-", &calls), ["sent", "sent", "sent", "real"]);
    assert!(sniffer.count(dns) >= 4);
    let other = [("udp", world.there(54)), ("udp", world.there6(53)), ("udplite", dns)];
    let answers = guarded(&world, cgroup.to_str().unwrap(), "-", &other);
    assert!(answers.iter().all(|answer| answer.starts_with("refused")), "{answers:?}");
    assert_eq!(sniffer.count(world.there(54)), 0);
}

#[test]
fn without_a_living_gate_a_guarded_process_reaches_not_even_its_dns() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    let dns = world.there(53);
    world.real_server(dns);
    world.load(&world.guard(vec![cgroup.clone()], vec![], vec![dns]));
    let calls = [("udp", dns), ("udp-connected", dns), ("udp-mapped", dns), ("tcp", dns)];
    let sniffer = world.beyond(Sniffer::open);
    let answers = guarded(&world, cgroup.to_str().unwrap(), "-", &calls);
    assert!(answers.iter().all(|answer| answer.starts_with("refused")), "{answers:?}");
    assert!(answers[3].contains("Connection refused"), "{answers:?}");
    assert_eq!((sniffer.count(dns), world.counter("refused_heartbeat")), (0, 3));
    // The gate makes the difference.
    world.gate("reply");
    assert_eq!(guarded(&world, cgroup.to_str().unwrap(), "-", &calls), ["sent", "sent", "sent", "real"]);
}

#[test]
fn a_guarded_process_asks_its_dns_by_no_route_of_its_own() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    let dns = world.there6(53);
    world.load(&world.guard(vec![cgroup.clone()], vec![], vec![dns]));
    world.gate("reply");
    let sniffer = world.beyond(Sniffer::open);
    let everywhere = SocketAddr::new(dns.ip(), 0);
    // A neighbour's way is open.
    sniffer.await_one(everywhere, || assert_eq!(world.call("udp-routed", dns), "sent"));
    let answers = guarded(&world, cgroup.to_str().unwrap(), "-", &[("udp-routed", dns)]);
    assert_eq!(sniffer.count(everywhere), 0, "{answers:?}");
    assert_ne!(world.counter("dropped_unreadable_packet"), 0);
    assert_eq!(guarded(&world, cgroup.to_str().unwrap(), "-", &[("udp", dns)]), ["sent"]);
    assert_ne!(sniffer.count(everywhere), 0);
}

#[test]
fn a_guarded_uid_cannot_leave_by_changing_its_cgroup() {
    let mut world = World::new();
    let elsewhere = world.cgroup("elsewhere");
    world.load(&world.guard(vec![], vec![61_111], vec![]));
    world.gate("reply");
    let to = world.there(UNDECLARED);
    let calls = [("tcp", to), ("udp", to)];
    for cgroup in ["-", elsewhere.to_str().unwrap()] {
        let answers = guarded(&world, cgroup, "61111", &calls);
        assert!(answers[0].starts_with(&format!("out {to} ")), "{answers:?}");
        assert!(answers[1].starts_with("refused"), "{answers:?}");
    }
}

#[test]
fn an_unguarded_neighbour_reaches_what_it_always_reached() {
    let mut world = World::new();
    let (agent, neighbour) = (world.cgroup("agent"), world.cgroup("neighbour"));
    world.load(&world.guard(vec![agent], vec![61_111], vec![]));
    world.gate("reply");
    let to = world.there(PORT);
    world.real_server(to);
    let calls = [("tcp", to), ("udp", to), ("icmp", to)];
    assert_eq!(guarded(&world, neighbour.to_str().unwrap(), "61112", &calls[..2]), ["real", "sent"]);
    assert_eq!(guarded(&world, neighbour.to_str().unwrap(), "-", &calls[2..]), ["sent"]);
}

#[test]
fn a_process_below_a_guarded_cgroup_is_guarded() {
    let mut world = World::new();
    let slice = world.cgroup("slice");
    let unit = world.cgroup_below(&slice, "worker.service");
    world.load(&world.guard(vec![slice], vec![], vec![]));
    world.gate("reply");
    let to = world.there(UNDECLARED);
    let answers = guarded(&world, unit.to_str().unwrap(), "-", &[("tcp", to), ("udp", to)]);
    assert!(answers[0].starts_with(&format!("out {to} ")), "{answers:?}");
    assert!(answers[1].starts_with("refused"), "{answers:?}");
}

#[test]
fn a_connection_older_than_its_guard_carries_no_more_bytes() {
    let mut world = World::new();
    let to = world.there(PORT);
    world.echo_server(to);
    world.load(&kernel::Table::default());
    world.gate("reply");
    let old = world.inside(|| std::net::TcpStream::connect(to).unwrap());
    assert_eq!(calls::echo(&old, b"before"), Some(b"before".to_vec()));
    // Guarding this very test process by uid would guard every other test: guard the socket's owner by a cgroup instead.
    let cgroup = world.cgroup("agent");
    let mut keeper = world.keep_alive(&cgroup, to);
    assert_eq!(keeper.say("before"), "echo before");
    let gate = kernel::Gate::adopt(&world.pins()).unwrap();
    gate.publish(&world.guard(vec![cgroup], vec![], vec![])).unwrap();
    assert_eq!(keeper.say("after"), "nothing");
    assert_eq!(calls::echo(&old, b"after"), Some(b"after".to_vec()), "the unguarded one lives");
}

#[test]
fn a_guarded_server_still_answers_its_callers() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    world.load(&world.guard(vec![cgroup.clone()], vec![], vec![]));
    let at = world.here(7000);
    world.answering_actor(&cgroup, at);
    let answer = world.beyond(|| calls::outcome("tcp", &at.to_string()));
    assert_eq!(answer, "real");
}

#[test]
fn a_lifted_guard_holds_nobody() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    world.load(&world.guard(vec![cgroup.clone()], vec![], vec![]));
    world.gate("reply");
    let gate = kernel::Gate::adopt(&world.pins()).unwrap();
    gate.publish(&kernel::Table::default()).unwrap();
    let answers = guarded(&world, cgroup.to_str().unwrap(), "-", &[("udp", world.there(UNDECLARED))]);
    assert_eq!(answers, ["sent"]);
}

#[test]
fn a_guards_cgroup_that_does_not_exist_is_reported_and_met_by_the_next_publish() {
    let mut world = World::new();
    let path = kernel::cgroup2_root().unwrap().join("tg-not-there");
    world.load(&kernel::Table::default());
    world.gate("reply");
    let gate = kernel::Gate::adopt(&world.pins()).unwrap();
    let published = gate.publish(&world.guard(vec![path.clone()], vec![], vec![])).unwrap();
    assert_eq!(published.missing.len(), 1);
    assert_eq!(published.missing[0].path, path);
    let cgroup = world.cgroup("agent");
    assert!(gate.publish(&world.guard(vec![cgroup.clone()], vec![], vec![])).unwrap().missing.is_empty());
    let to = world.there(UNDECLARED);
    let answers = guarded(&world, cgroup.to_str().unwrap(), "-", &[("tcp", to)]);
    assert!(answers[0].starts_with(&format!("out {to} ")), "{answers:?}");
}
