//! The ways round that the hooks stop: each is tried with the real system calls, and a sniffer on the other side of the
//! wire sees that nothing came. Every test first shows that its way is open when nothing is loaded.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]
#![allow(unsafe_code, reason = "descriptor passing has no safe wrapper in the standard library")]

mod kernel_support;

use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use kernel_support::calls::{self, Sniffer};
use kernel_support::{PORT, World, is_gate_answer};

/// Ways that carry something past connect hooks alone.
const NOT_TCP: &[&str] =
    &["udp", "udp-connected", "udp-mapped", "udplite", "udplite-connected", "raw-tcp", "raw-hdrincl"];

fn is_refused(answer: &str) -> bool {
    answer.starts_with("refused")
}

#[test]
fn the_sniffer_sees_every_way_that_is_open_without_the_gate() {
    let world = World::new();
    let to = world.there(PORT);
    let sniffer = world.beyond(Sniffer::open);
    for how in NOT_TCP {
        let answer = world.call(how, to);
        assert_ne!(sniffer.count(to), 0, "{how}: {answer}");
    }
}

#[test]
fn nothing_but_tcp_through_the_gate_leaves_for_a_target() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    let (v4, v6) = (world.there(PORT), world.there6(PORT));
    let sniffer = world.beyond(Sniffer::open);
    for how in NOT_TCP {
        for to in [v4, v6] {
            let answer = world.call(how, to);
            assert_eq!((sniffer.count(v4), sniffer.count(v6)), (0, 0), "{how} {to}: {answer}");
        }
    }
    let open = world.there(PORT + 1);
    assert_eq!(world.call("udp", open), "sent", "another port of the same machine is nobody's business");
    assert_ne!(sniffer.count(open), 0);
}

#[test]
fn every_kind_of_tcp_connect_is_redirected_and_identified() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    let (v4, v6) = (world.there(PORT), world.there6(PORT));
    let sniffer = world.beyond(Sniffer::open);
    for how in ["tcp", "mptcp", "mark", "device", "bind-first", "fast-open", "unspec-reconnect"] {
        for to in [v4, v6] {
            let answer = world.call(how, to);
            assert!(is_gate_answer(&answer, "out", to, std::process::id()), "{how} {to}: {answer}");
            assert_eq!((sniffer.count(v4), sniffer.count(v6)), (0, 0), "{how} {to}");
        }
    }
}

#[test]
fn a_protected_services_port_has_no_side_door_over_udp() {
    let mut world = World::new();
    let (v4, v6, other) = (world.here(PORT), world.here6(PORT), world.here(PORT + 1));
    let peer = world.there(40_000);
    world.inside(|| {
        for at in [v4, v6, other] {
            calls::answer_datagrams(at, 17, None);
            calls::answer_datagrams(at, 136, None);
        }
        calls::answer_datagrams(world.here(PORT + 2), 17, Some(peer));
    });
    // Two bytes from a socket that the server is connected to.
    let known = |world: &World, to: SocketAddr| {
        world.beyond(|| {
            let socket = std::net::UdpSocket::bind(peer).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            socket.send_to(b"in", to).unwrap();
            socket.recv(&mut [0; 16]).is_ok()
        })
    };
    let ask =
        |world: &World, how: &str, to: SocketAddr| world.beyond(|| calls::outcome(how, &to.to_string()));
    let mut table = world.service();
    table.services[0].ports = vec![PORT, PORT + 2];
    assert!((0..20).any(|_| ask(&world, "udp-ask", v4) == "real"), "a new link loses some");
    for how in ["udp-ask", "udplite-ask"] {
        for to in [v4, v6, other] {
            assert_eq!(ask(&world, how, to), "real", "a control: {how} {to} is open before the load");
        }
    }
    assert!(known(&world, world.here(PORT + 2)), "a control: the connected server answers before the load");
    world.load(&table);
    world.gate("reply");
    for how in ["udp-ask", "udplite-ask"] {
        for to in [v4, v6] {
            let (away, here) = (ask(&world, how, to), world.call(how, to));
            assert!(is_refused(&away) && is_refused(&here), "{how} {to}: {away}, {here}");
        }
        assert_eq!(ask(&world, how, other), "real", "another port is nobody's business");
    }
    assert!(ask(&world, "udp-ask", v4).contains("Connection refused"), "at once");
    assert!(!known(&world, world.here(PORT + 2)), "older than the load");
    assert!(world.counter("refused_service_datagram") >= 9);
}

#[test]
fn a_forged_mark_exempts_nobody() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("forward");
    world.real_server(world.there(PORT));
    assert_eq!(world.call("mark", world.there(PORT)), "real", "through the gate, which forwards");
    assert_eq!(world.counter("redirected"), 1);
    assert_eq!(world.counter("exempt_connect"), 1, "the gate's own dial, and only that");
}

#[test]
fn the_gates_port_cannot_be_dialled_by_any_spelling_of_this_host() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    let port = tidegate::kernel::DEFAULT_PORT;
    let spellings =
        ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]"];
    for spelling in spellings {
        for how in ["tcp", "mptcp"] {
            let answer = world.call(how, format!("{spelling}:{port}").parse().unwrap());
            assert!(is_refused(&answer), "{how} {spelling}: {answer}");
        }
    }
    for to in [world.here(port), world.here6(port)] {
        assert!(is_refused(&world.call("tcp", to)), "{to}");
    }
    let from_beyond = world.beyond(|| calls::outcome("tcp", &world.here(port).to_string()));
    assert!(is_refused(&from_beyond), "{from_beyond}");
    assert_eq!(world.counter("handed_over"), 0);
}

#[test]
fn the_inbound_listeners_cannot_be_dialled_directly() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    let port = tidegate::kernel::DEFAULT_PORT;
    for to in [format!("192.0.2.1:{port}"), format!("[100::1]:{port}")] {
        assert!(is_refused(&world.call("tcp", to.parse().unwrap())), "{to}");
    }
}

#[test]
fn nobody_takes_the_gates_port_while_the_gate_is_dead() {
    let mut world = World::new();
    world.load(&world.target());
    let gate = world.gate("reply");
    world.kill(gate);
    let port = tidegate::kernel::DEFAULT_PORT;
    for at in [
        format!("127.0.0.1:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::]:{port}"),
        format!("[::1]:{port}"),
    ] {
        let lines = world.lines(&["fake", &at]);
        assert!(is_refused(&lines[0]), "{at}: {lines:?}");
    }
    assert_eq!(world.counter("refused_gate_port_bound"), 4);
    assert!(is_refused(&world.call("tcp", world.there(PORT))));
}

#[test]
fn a_listener_older_than_the_load_on_the_gates_port_gets_nothing() {
    let world = World::new();
    world.real_server_on_host(tidegate::kernel::DEFAULT_PORT);
    world.load(&world.target());
    let answer = world.call("tcp", world.there(PORT));
    assert!(is_refused(&answer), "{answer}");
    assert_eq!(world.counter("refused_gate_down"), 1);
}

#[test]
fn a_keep_alive_older_than_the_load_carries_no_more_bytes() {
    let mut world = World::new();
    let to = world.there(PORT);
    world.echo_server(to);
    let old = world.inside(|| TcpStream::connect(to).unwrap());
    assert_eq!(calls::echo(&old, b"before"), Some(b"before".to_vec()));
    world.load(&world.target());
    world.gate("reply");
    let sniffer = world.beyond(Sniffer::open);
    assert_eq!(calls::echo(&old, b"after"), None);
    assert_eq!(sniffer.count(to), 0);
    assert_ne!(world.counter("dropped_target_packet"), 0);
}

#[test]
fn no_source_route_carries_a_connect_that_the_gate_shall_have() {
    let mut world = World::new();
    let cgroup = world.cgroup("agent");
    let (target, free) = (world.there(PORT).to_string(), world.there(PORT + 1).to_string());
    let (hop, anywhere) = (world.there(0).ip().to_string(), world.there(0));
    let sniffer = world.beyond(Sniffer::open);
    // The way is open without the gate.
    sniffer.await_one(anywhere, || drop(world.dangle(5, &hop, std::slice::from_ref(&target))));
    let mut table = world.guard(vec![cgroup.clone()], vec![], vec![]);
    table.targets = world.target().targets;
    world.load(&table);
    world.gate("reply");
    let of_anybody = world.dangle(5, &hop, &[target]);
    let of_a_guarded_one = world.dangle_in(&cgroup, 5, &hop, &[free]);
    assert_eq!((of_anybody.begun, of_a_guarded_one.begun, world.counter("redirected")), (5, 5, 10));
    assert_eq!(sniffer.count(anywhere), 0);
    assert_ne!(world.counter("dropped_lost_packet"), 0);
    assert_eq!(world.fill("TUPLES"), 0);
}

#[test]
fn a_connection_to_a_services_port_elsewhere_is_cut_when_that_becomes_a_target() {
    let mut world = World::new();
    let to = world.there(PORT);
    world.echo_server(to);
    let mut table = world.service_everywhere();
    world.load(&table);
    world.gate("reply");
    let old = world.inside(|| TcpStream::connect(to).unwrap());
    assert_eq!(calls::echo(&old, b"before"), Some(b"before".to_vec()), "somebody else's port is left alone");
    table.targets = world.target().targets;
    tidegate::kernel::Gate::adopt(&world.pins()).unwrap().publish(&table).unwrap();
    let sniffer = world.beyond(Sniffer::open);
    assert_eq!(calls::echo(&old, b"after"), None);
    assert_eq!(sniffer.count(to), 0);
    assert_ne!(world.counter("dropped_target_packet"), 0);
}

#[test]
fn entering_another_cgroup_changes_nothing() {
    let mut world = World::new();
    let cgroup = world.cgroup("elsewhere");
    world.load(&world.target());
    world.gate("reply");
    let to = world.there(PORT);
    let lines = world.lines(&["call", cgroup.to_str().unwrap(), "-", "tcp", &to.to_string()]);
    assert!(lines[0].starts_with(&format!("out {to} ")), "{lines:?}");
}

#[test]
fn the_gates_own_cgroup_exempts_nobody() {
    let mut world = World::new();
    let cgroup = world.cgroup("gate");
    world.load(&world.target());
    let gate = world.gate("reply");
    std::fs::write(cgroup.join("cgroup.procs"), world.gate_pid(gate).to_string()).unwrap();
    let to = world.there(PORT);
    let lines = world.lines(&["call", cgroup.to_str().unwrap(), "-", "tcp", &to.to_string()]);
    assert!(lines[0].starts_with(&format!("out {to} ")), "{lines:?}");
}

#[test]
fn a_socket_passed_from_another_process_is_judged_by_who_dials() {
    let mut world = World::new();
    let cgroup = world.cgroup("giver");
    world.load(&world.target());
    world.gate("reply");
    let to: SocketAddr = world.there(PORT);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut giver =
        world.actor(&["give", cgroup.to_str().unwrap()], Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    let socket = calls::receive_socket(&ours);
    giver.wait().unwrap();
    let answer = calls::connect_and_read(socket, to).unwrap();
    assert!(is_gate_answer(&answer, "out", to, std::process::id()), "{answer}");
}

#[test]
fn an_old_record_does_not_outlive_a_disconnect() {
    let mut world = World::new();
    world.load(&world.target());
    world.gate("reply");
    let (target, other) = (world.there(PORT), world.there(PORT + 1));
    world.real_server(other);
    let peer = world.inside(|| {
        let socket = calls::stream_socket(target);
        socket.connect(&target.into()).unwrap();
        calls::disconnect(&socket).unwrap();
        socket.connect(&other.into()).unwrap();
        let stream: TcpStream = socket.into();
        (stream.peer_addr().unwrap(), calls::read_all(stream).unwrap())
    });
    assert_eq!(peer, (other, "real".to_owned()));
    assert_eq!(world.fill("TUPLES"), 0);
}

#[test]
fn a_target_on_loopback_is_met_by_the_unspecified_address_too() {
    let mut world = World::new();
    let blocks = [[127, 0, 0, 1].into(), std::net::IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    world.load(&world.target_at(&blocks));
    world.gate("reply");
    for (dialled, meant) in [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]"), ("[::ffff:0.0.0.0]", "127.0.0.1")] {
        let answer = world.call("tcp", format!("{dialled}:{PORT}").parse().unwrap());
        assert!(answer.starts_with(&format!("out {meant}:{PORT} ")), "{dialled}: {answer}");
    }
}
