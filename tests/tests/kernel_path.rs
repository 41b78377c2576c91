//! The path of a connection through the real programs on the real kernel: redirected or steered, identified, shown the peer
//! it dialled.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod kernel_support;

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;

use kernel_support::calls::{self, mapped};
use kernel_support::{PORT, World, is_gate_answer};
use tidegate::kernel::{Block, Gate, KernelLog, Options, Own, Table, TargetRow};

#[test]
fn a_connect_to_a_target_reaches_the_gate_with_its_destination_and_its_process() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    for to in [world.there(PORT), world.there6(PORT), mapped(world.there(PORT))] {
        let answer = world.call("tcp", to);
        assert!(is_gate_answer(&answer, "out", to, std::process::id()), "{to}: {answer}");
    }
    assert_eq!(world.counter("redirected"), 3);
    assert_eq!(world.counter("handed_over"), 3);
}

#[test]
fn twenty_thousand_connects_from_four_threads_are_all_known() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    let to = [world.there(PORT).to_string(), world.there6(PORT).to_string()];
    assert_eq!(world.lines(&["flood", "4", "5000", &to[0], &to[1]]), ["right 20000 wrong 0 refused 0"]);
    assert_eq!(world.counter("handed_over"), 20_000);
    assert_eq!(world.counter("record_missing"), 0);
    // A socket that is still closing takes its row with it as it ends.
    let mut left = world.fill("TUPLES");
    for _ in 0..100 {
        if left == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        left = world.fill("TUPLES");
    }
    assert_eq!(left, 0);
}

#[test]
fn the_record_names_the_program_its_start_and_its_user() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    let answer = world.call("tcp", world.there(PORT));
    let words: Vec<&str> = answer.split(' ').collect();
    let executable = std::fs::metadata("/proc/self/exe").unwrap();
    assert_eq!(words[3], "0", "uid");
    assert_eq!(words[4], "0", "no guard");
    assert_eq!(words[5], executable.ino().to_string());
    assert_eq!(words[6], executable.dev().to_string());
    let started: u64 = words[7].parse().unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
    assert_eq!(started / 10_000_000, ticks, "in hundredths of a second");
    let login = std::fs::read_to_string("/proc/self/loginuid").unwrap();
    assert_eq!(words[8], if login == "4294967295" { "None".to_owned() } else { format!("As({login})") });
}

#[test]
fn the_client_sees_the_peer_it_dialled() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    for to in [world.there(PORT), world.there6(PORT), mapped(world.there(PORT))] {
        let peer = world.inside(|| TcpStream::connect(to).unwrap().peer_addr().unwrap());
        assert_eq!(peer, to);
    }
}

#[test]
fn a_clients_own_end_answers_no_record() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    let client = world.inside(|| TcpStream::connect(world.there(PORT)).unwrap());
    assert_eq!(
        tidegate::kernel::identify(&client).unwrap(),
        None,
        "the client's own end is no proof of anything"
    );
    assert_eq!(calls::original_destination(&client), None);
}

#[test]
fn ports_and_blocks_of_a_table_are_matched_exactly() {
    let mut world = World::new();
    let there = world.there(0).ip();
    let wide = Block { address: there, prefix: 24 };
    let rows = vec![
        TargetRow { name: "target".into(), blocks: vec![wide], ports: vec![80] },
        TargetRow { name: "target".into(), blocks: vec![Block::from(there)], ports: vec![443, 8443] },
    ];
    world.load(&Table { targets: rows, ..Table::default() });
    world.gate("reply");
    for port in [80, 443, 8443] {
        let to = world.there(port);
        let answer = world.call("tcp", to);
        assert!(is_gate_answer(&answer, "out", to, std::process::id()), "{to}: {answer}");
    }
    let beside = world.there(81);
    world.real_server(beside);
    assert_eq!(world.call("tcp", beside), "real");
}

#[test]
fn a_published_table_replaces_the_one_before() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    world.real_server(world.there(PORT));
    let gate = Gate::adopt(&world.pins()).unwrap();
    let mut table = world.target();
    table.targets[0].ports = vec![81];
    let published = gate.publish(&table).unwrap();
    assert_eq!((published.targets, world.fill("TARGETS")), (2, 2));
    assert_eq!(world.call("tcp", world.there(PORT)), "real");
    let to = world.there(81);
    assert!(is_gate_answer(&world.call("tcp", to), "out", to, std::process::id()));
}

#[test]
fn a_protected_service_is_reached_through_the_gate_from_beyond_and_from_here() {
    let mut world = World::new();
    let (v4, v6): (SocketAddr, SocketAddr) = (world.here(PORT), world.here6(PORT));
    let loopback: SocketAddr = format!("127.0.0.1:{PORT}").parse().unwrap();
    world.real_service(format!("[::]:{PORT}").parse().unwrap());
    world.load(&world.service());
    world.gate("reply");
    for to in [v4, v6] {
        let answer = world.beyond(|| calls::outcome("tcp", &to.to_string()));
        assert_eq!(answer, format!("in {to} nobody"), "a remote client has no process");
    }
    for to in [v4, v6, loopback, mapped(v4)] {
        let answer = world.call("tcp", to);
        assert!(is_gate_answer(&answer, "in", to, std::process::id()), "{to}: {answer}");
    }
    assert_eq!(world.fill("TUPLES"), 0);
}

#[test]
fn the_gate_itself_reaches_the_real_service_without_capabilities() {
    let mut world = World::new();
    let to = world.here(PORT);
    world.real_service(to);
    world.load(&world.service());
    world.gate("forward-as-nobody");
    assert_eq!(world.beyond(|| calls::outcome("tcp", &to.to_string())), "real");
    assert_eq!(world.call("tcp", to), "real");
    assert_eq!(world.counter("steer_exempt"), 2);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!((world.fill("ALLOWED"), world.fill("TUPLES")), (0, 0));
}

#[test]
fn a_service_on_every_address_is_met_on_every_address() {
    let mut world = World::new();
    world.load(&world.service_everywhere());
    world.gate("reply");
    for to in [world.here(PORT), world.here6(PORT), format!("[::1]:{PORT}").parse().unwrap()] {
        let answer = world.call("tcp", to);
        assert!(is_gate_answer(&answer, "in", to, std::process::id()), "{to}: {answer}");
    }
}

#[test]
fn an_address_the_programs_were_not_told_of_is_steered_without_a_record_until_they_are() {
    let mut world = World::new();
    world.load(&world.service_everywhere());
    world.gate("reply");
    world.add_address("198.51.100.9/32");
    let to = SocketAddr::from(([198, 51, 100, 9], PORT));
    assert_eq!(world.call("tcp", to), format!("in {to} nobody"), "the enforcer refuses that: it is local");
    let gate = Gate::adopt(&world.pins()).unwrap();
    let mut told = Own::default();
    assert!(gate.tell_own(&mut told).is_err(), "another namespace's addresses are none of its");
    world.inside(|| gate.tell_own(&mut told)).unwrap();
    let answer = world.call("tcp", to);
    assert!(is_gate_answer(&answer, "in", to, std::process::id()), "{answer}");
}

#[test]
fn a_connection_to_a_service_older_than_the_load_carries_no_more_answers() {
    let mut world = World::new();
    let to = world.here(PORT);
    world.echo_service(to);
    let old = world.beyond(|| TcpStream::connect(to).unwrap());
    assert_eq!(calls::echo(&old, b"before"), Some(b"before".to_vec()));
    world.load(&world.service());
    world.gate("reply");
    assert_eq!(calls::echo(&old, b"after"), None);
    assert_ne!(world.counter("dropped_stale_packet"), 0);
}

#[test]
fn a_service_protected_while_running_answers_on_new_connections_only() {
    let mut world = World::new();
    let to = world.here(PORT);
    world.echo_service(to);
    world.load(&Table::default());
    world.gate("reply");
    let old = world.beyond(|| TcpStream::connect(to).unwrap());
    assert_eq!(calls::echo(&old, b"before"), Some(b"before".to_vec()));
    Gate::adopt(&world.pins()).unwrap().publish(&world.service()).unwrap();
    assert_eq!(calls::echo(&old, b"after"), None);
    assert_eq!(world.beyond(|| calls::outcome("tcp", &to.to_string())), format!("in {to} nobody"));
}

#[test]
fn the_programs_log_where_they_were_asked_to() {
    let world = World::new();
    let options = Options { log: true, ..Options::default() };
    tidegate::kernel::load_with(&world.place(), &world.target(), &options).unwrap();
    let mut log = KernelLog::open(&world.pins()).unwrap();
    assert!(!calls::is_readable(&log));
    assert!(world.call("udp", world.there(PORT)).starts_with("refused"));
    assert!(calls::is_readable(&log), "one line waits");
    log.pass_on();
    assert!(!calls::is_readable(&log), "it was taken");
    world.load(&world.target());
    let log = KernelLog::open(&world.pins()).unwrap();
    assert!(world.call("udp", world.there(PORT)).starts_with("refused"));
    assert!(!calls::is_readable(&log), "a load without logging is silent");
}

#[test]
fn without_rights_the_probe_says_what_it_could_not_find_out() {
    let world = World::new();
    let lines = world.lines(&["probe", "65534"]);
    let found = |name: &str| lines.iter().find(|line| line.starts_with(name)).unwrap().clone();
    assert_eq!(found("kernel:"), "kernel: Ok");
    assert_eq!(found("rights:"), "rights: Unknown");
    assert_eq!(found("inbound steering (sk_lookup):"), "inbound steering (sk_lookup): Unknown");
    assert!(lines.iter().all(|line| !line.ends_with("Missing")), "{lines:?}");
}

#[test]
fn hooks_in_a_cgroup_of_their_own_leave_the_rest_alone() {
    let mut world = World::new();
    let cgroup = world.cgroup("all");
    let to = world.there(PORT);
    world.real_server(to);
    let mut place = world.place();
    place.cgroup = cgroup.clone();
    tidegate::kernel::load(&place, &world.target()).unwrap();
    assert_eq!(world.call("tcp", to), "real", "this process is not in that cgroup");
    world.gate_in("reply", &cgroup);
    let lines = world.lines(&["call", cgroup.to_str().unwrap(), "-", "tcp", &to.to_string()]);
    assert!(lines[0].starts_with(&format!("out {to} ")), "{lines:?}");
}
