//! Exemptions: by the user id, and by the cgroup only besides; never by what anybody can put on or enter.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod kernel_support;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;

use kernel_support::calls::{self, Sniffer};
use kernel_support::{PORT, World, is_gate_answer};
use tidegate::kernel::{self, ExemptRow, Table};

const UID: &str = "61200";

/// Two targets, two services, and an exemption of [`UID`].
fn table(world: &World, cgroups: Option<Vec<PathBuf>>) -> Table {
    let exempts = vec![ExemptRow { name: "backup".into(), uids: vec![UID.parse().unwrap()], cgroups }];
    Table { services: world.service().services, exempts, ..world.target() }
}

fn places(world: &World) -> [SocketAddr; 4] {
    [world.there(PORT), world.there6(PORT), world.here(PORT), world.here6(PORT)]
}

/// A world whose targets and services answer "real", with a gate that does not.
fn world(cgroups: impl FnOnce(&mut World) -> Option<Vec<PathBuf>>) -> World {
    let mut world = World::new();
    let cgroups = cgroups(&mut world);
    let [target, target6, service, service6] = places(&world);
    [target, target6].into_iter().for_each(|at| world.real_server(at));
    [service, service6].into_iter().for_each(|at| world.real_service(at));
    world.load(&table(&world, cgroups));
    world.gate("reply");
    world
}

fn called(world: &World, cgroup: &str, uid: &str, how: &str) -> Vec<String> {
    let to = places(world).map(|to| to.to_string());
    let mut arguments = vec!["call", cgroup, uid];
    to.iter().for_each(|to| arguments.extend([how, to]));
    world.lines(&arguments)
}

fn at_the_gate(answers: &[String]) -> bool {
    answers.len() == 4
        && answers[..2].iter().all(|answer| answer.starts_with("out "))
        && answers[2..].iter().all(|answer| answer.starts_with("in "))
}

#[test]
fn an_exempt_user_reaches_targets_and_services_directly_and_nobody_else_does() {
    let world = world(|_| None);
    assert_eq!(called(&world, "-", UID, "tcp"), ["real"; 4]);
    assert_eq!(world.counter("exempted_connect"), 4);
    for (uid, how) in [("61201", "tcp"), ("-", "tcp"), ("-", "mark")] {
        let answers = called(&world, "-", uid, how);
        assert!(at_the_gate(&answers), "{uid} {how}: {answers:?}");
    }
    assert_eq!(called(&world, "-", UID, "mptcp"), ["real"; 4], "MPTCP is TCP");
    let datagrams = called(&world, "-", UID, "udp");
    assert!(datagrams[0].starts_with("refused") && datagrams[1].starts_with("refused"), "{datagrams:?}");
}

#[test]
fn entering_the_units_cgroup_exempts_nobody_and_neither_does_the_uid_outside_of_it() {
    let mut unit = PathBuf::new();
    let world = world(|world| {
        unit = world.cgroup("backup");
        Some(vec![unit.clone()])
    });
    let unit = unit.to_str().unwrap();
    assert_eq!(called(&world, unit, UID, "tcp"), ["real"; 4], "both");
    for (cgroup, uid) in [(unit, "61201"), (unit, "-"), ("-", UID)] {
        let answers = called(&world, cgroup, uid, "tcp");
        assert!(at_the_gate(&answers), "{cgroup} {uid}: {answers:?}");
    }
}

#[test]
fn a_unit_that_is_not_there_exempts_nobody() {
    let world = world(|_| Some(vec![kernel::cgroup2_root().unwrap().join("tg-not-there")]));
    let answers = called(&world, "-", UID, "tcp");
    assert!(at_the_gate(&answers), "{answers:?}");
}

#[test]
fn a_guarded_process_is_not_exempt_whatever_its_uid() {
    let mut cgroup = PathBuf::new();
    let world = world(|world| {
        cgroup = world.cgroup("agent");
        None
    });
    let mut table = table(&world, None);
    table.guards = world.guard(vec![cgroup.clone()], vec![], vec![]).guards;
    kernel::Gate::adopt(&world.pins()).unwrap().publish(&table).unwrap();
    let answers = called(&world, cgroup.to_str().unwrap(), UID, "tcp");
    assert!(answers.iter().all(|answer| answer.starts_with("out ")), "{answers:?}");
    assert_eq!(called(&world, "-", UID, "tcp"), ["real"; 4], "a control: outside of the guard it is exempt");
}

#[test]
fn one_uid_is_not_guarded_and_exempt_at_once() {
    let world = world(|_| None);
    let mut table = table(&world, None);
    table.guards = world.guard(vec![], vec![UID.parse().unwrap()], vec![]).guards;
    let refused = kernel::Gate::adopt(&world.pins()).unwrap().publish(&table).unwrap_err().to_string();
    assert!(refused.contains("backup") && refused.contains(UID), "{refused}");
}

#[test]
fn a_socket_that_an_exempt_process_made_frees_nobody_who_dials_with_it() {
    let mut world = World::new();
    let to = world.there(PORT);
    world.real_server(to);
    let unit = world.cgroup("backup");
    let exempts = vec![ExemptRow { name: "backup".into(), uids: vec![0], cgroups: Some(vec![unit.clone()]) }];
    world.load(&Table { exempts, ..world.target() });
    world.gate("reply");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let unit = unit.to_str().unwrap();
    let mut giver = world.actor(&["give", unit], Stdio::from(OwnedFd::from(theirs)));
    let socket = calls::receive_socket(&ours);
    giver.wait().unwrap();
    let answer = calls::connect_and_read(socket, to).unwrap();
    assert!(is_gate_answer(&answer, "out", to, std::process::id()), "{answer}");
    assert_eq!(world.lines(&["call", unit, "-", "tcp", &to.to_string()]), ["real"], "a control");
}

#[test]
fn a_connection_does_not_outlive_its_exemption() {
    let mut world = World::new();
    let (target, service) = (world.there(PORT), world.here(PORT));
    let unit = world.cgroup("backup");
    world.echo_server(target);
    world.echo_service(service);
    let exempts = vec![ExemptRow { name: "backup".into(), uids: vec![0], cgroups: Some(vec![unit.clone()]) }];
    let table = Table { services: world.service().services, ..world.target() };
    world.load(&Table { exempts, ..table.clone() });
    world.gate("reply");
    let mut keepers = [target, service].map(|to| world.keep_alive(&unit, to));
    for keeper in &mut keepers {
        assert_eq!(keeper.say("before"), "echo before");
    }
    let sniffer = world.beyond(Sniffer::open);
    kernel::Gate::adopt(&world.pins()).unwrap().publish(&table).unwrap();
    for keeper in &mut keepers {
        assert_eq!(keeper.say("after"), "nothing");
    }
    assert_eq!(sniffer.count(target), 0);
    assert!(world.counter("dropped_exemption_over") >= 2, "one of each at least");
    let answers = called(&world, unit.to_str().unwrap(), "-", "tcp");
    assert!(at_the_gate(&answers), "{answers:?}");
}
