//! Calls that processes of this host make: a target's addresses are judged by which process calls, and a guarded
//! process reaches nothing else at all. The rest of the host is left alone.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tidegate::operation::Direction;
use tidegate::record::entry::Verdict;
use tidegate_tests::recorded::{fault, status};
use tidegate_tests::{Client, Gate, Host, Seat, Upstream, eventually};

/// A CRM at an address of its own, where a target is declared.
const CRM: [&str; 2] = ["192.0.2.10:80", "[2001:db8::10]:80"];
/// Known by name only.
const NAMED: &str = "192.0.2.20:80";
/// Where a name points that lies.
const ELSEWHERE: &str = "192.0.2.21:80";
/// Nothing says anything of it.
const FREE: [&str; 2] = ["192.0.2.30:80", "[2001:db8::30]:80"];

struct World {
    host: Host,
    gate: Gate,
    crm: [Upstream; 2],
    named: Upstream,
    elsewhere: Upstream,
    free: [Upstream; 2],
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = Host::new();
    for address in CRM.iter().chain(&FREE).chain([&NAMED, &ELSEWHERE]) {
        host.add_address(address.parse::<SocketAddr>().unwrap().ip());
    }
    let nouns = r#"
        [[target]]
        name = "crm"
        direction = "outbound"
        addresses = ["192.0.2.10", "2001:db8::10"]
        ports = [80]

        [[target]]
        name = "named"
        direction = "outbound"
        hosts = ["localhost", "*.localhost"]
        ports = [80, 7070]

        [[guard]]
        name = "agents"
        cgroups = ["/agent"]
        dns = ["192.0.2.53"]

        [[guard]]
        name = "sandbox"
        uids = [5555]

        [[role]]
        name = "worker"
        units = ["react-worker.service"]

        [[role]]
        name = "batch"
        uids = [1500]
        "#;
    let rules = r#"
        permit (principal in Role::"worker", action == Action::"http", resource == Target::"crm");
        permit (principal in Role::"batch", action == Action::"http", resource == Target::"crm")
        when { context.method == "GET" };
        permit (principal, action == Action::"http", resource == Target::"named")
        when { context has guard };
    "#;
    let seat = host.client();
    let crm = CRM.map(|address| Upstream::start(&seat, address));
    let free = FREE.map(|address| Upstream::start(&seat, address));
    let (named, elsewhere) = (Upstream::start(&seat, NAMED), Upstream::start(&seat, ELSEWHERE));
    let gate = Gate::on(&host).policy("a.toml", nouns).policy("a.cedar", rules).start();
    World { host, gate, crm, named, elsewhere, free }
});

fn unique(name: &str) -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!("/{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn dial(seat: &Seat, to: &str) -> Client {
    seat.connect(to.parse().unwrap()).unwrap_or_else(|error| panic!("{to}: {error}"))
}

fn host_of(address: &str) -> String {
    address.strip_suffix(":80").unwrap().to_owned()
}

fn reached(upstream: &Upstream, text: &str) -> bool {
    String::from_utf8_lossy(&upstream.received()).contains(text)
}

fn worker() -> Seat {
    WORLD.host.seat("system.slice/react-worker.service")
}

#[test]
fn the_same_call_is_judged_by_the_process_that_makes_it() {
    for (address, upstream) in CRM.iter().zip(&WORLD.crm) {
        for (seat, expected) in [
            (worker(), 200),
            (WORLD.host.client().uid(1500), 200),
            (WORLD.host.client().uid(1501), 403),
            (WORLD.host.seat("system.slice/other.service"), 403),
        ] {
            let path = unique("crm");
            let mut client = dial(&seat, address);
            assert_eq!(client.peer(), address.parse().unwrap());
            let response = client.get(&host_of(address), &path).unwrap();
            assert_eq!(response.status, expected, "{}", response.text());
            assert_eq!(reached(upstream, &path), expected == 200);
            let entry = WORLD.gate.entry_of(&path);
            assert_eq!(status(&entry), Some(expected));
        }
    }
}

#[test]
fn the_record_names_the_process_its_unit_and_where_it_meant_to_go() {
    let path = unique("who");
    let seat = worker();
    let mut client = dial(&seat, CRM[0]);
    assert_eq!(client.get("192.0.2.10", &path).unwrap().status, 200);
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!(entry.intent.workload.as_deref(), Some("unit:react-worker.service"));
    assert_eq!(entry.intent.target.as_deref(), Some("crm"));
    let session = WORLD
        .gate
        .sessions()
        .into_iter()
        .find(|session| session.summary.opened.session == entry.intent.session);
    let opened = session.unwrap().summary.opened;
    assert_eq!((opened.direction, opened.destination.as_str()), (Direction::Outbound, CRM[0]));
    let workload = opened.workload.unwrap();
    assert_eq!(workload.pid, seat.dialer().pid());
    assert_eq!(workload.unit.as_deref(), Some("react-worker.service"));
    assert!(workload.started > 0 && workload.executable.is_some() && !workload.parents.is_empty());
    assert_eq!(opened.guard, None);
}

#[test]
fn a_method_that_the_role_may_not_is_refused_for_the_same_process() {
    let seat = WORLD.host.client().uid(1500);
    let mut client = dial(&seat, CRM[0]);
    let path = unique("method");
    let response = client.ask(format!("DELETE {path} HTTP/1.1\r\nHost: 192.0.2.10\r\n\r\n")).unwrap();
    assert_eq!(response.status, 403);
    assert!(!reached(&WORLD.crm[0], &path));
    assert_eq!(client.get("192.0.2.10", &unique("method")).unwrap().status, 200);
}

#[test]
fn a_host_that_is_not_the_address_that_was_dialled_is_refused() {
    for host in ["evil.example", "192.0.2.11", "localhost", "192.0.2.10:8080", "[2001:db8::10]"] {
        let path = unique("disagree");
        let mut client = dial(&worker(), CRM[0]);
        let response = client.get(host, &path).unwrap();
        assert_eq!(response.status, 403, "{host}: {}", response.text());
        assert!(!reached(&WORLD.crm[0], &path), "{host}");
        let entry = WORLD.gate.entry_of(&path);
        assert_eq!((entry.intent.verdict, fault(&entry)), (Verdict::Deny, "refused"), "{host}");
    }
}

#[test]
fn an_unguarded_process_reaches_undeclared_destinations_as_before() {
    for (address, upstream) in FREE.iter().zip(&WORLD.free) {
        let path = unique("free");
        let mut client = dial(&WORLD.host.client(), address);
        assert_eq!(client.get(&host_of(address), &path).unwrap().status, 200);
        assert!(reached(upstream, &path));
        assert!(WORLD.gate.entries_of(&path).is_empty(), "it is none of the gate's business");
        let got = upstream.requests().into_iter().find(|request| request.target == path).unwrap();
        assert_eq!(got.headers.len(), 1, "nothing was added: {:?}", got.headers);
    }
}

#[test]
fn a_guarded_process_reaches_no_undeclared_destination_by_tcp_and_each_try_is_recorded() {
    for seat in [WORLD.host.agent(), WORLD.host.seat("agent/below"), WORLD.host.client().uid(5555)] {
        for (address, upstream) in FREE.iter().zip(&WORLD.free) {
            let tries = || denied_opens(address).len();
            let (before, connections) = (tries(), upstream.connections());
            match seat.connect(address.parse().unwrap()) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
                Ok(mut client) => {
                    let answered = client.get(&host_of(address), "/escape");
                    assert!(answered.is_err() || answered.unwrap().status == 403);
                }
            }
            assert_eq!(upstream.connections(), connections, "{address}");
            eventually("one more recorded denial", || (tries() == before + 1).then_some(()));
        }
    }
}

fn denied_opens(address: &str) -> Vec<tidegate::record::read::EntryView> {
    let sessions = WORLD.gate.sessions();
    let there = sessions.into_iter().filter(|session| session.summary.opened.destination == address);
    let entries = there.flat_map(|session| {
        assert!(session.summary.opened.guard.is_some(), "{:?}", session.summary.opened);
        session.entries
    });
    entries.filter(|entry| entry.intent.verdict == Verdict::Deny && entry.closed.is_some()).collect()
}

#[test]
fn a_guarded_process_reaches_no_destination_by_udp() {
    for address in
        ["192.0.2.30:9999", "[2001:db8::30]:9999", "127.0.0.1:9999", "192.0.2.10:80", "192.0.2.30:53"]
    {
        let to: SocketAddr = address.parse().unwrap();
        let receiver = WORLD.host.client().inside(|| std::net::UdpSocket::bind(to)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        for seat in [WORLD.host.agent(), WORLD.host.client().uid(5555)] {
            if let Ok(socket) = seat.dialer().udp(to) {
                socket.send(b"escape").ok();
            }
            let heard = receiver.recv(&mut [0; 16]);
            assert!(heard.is_err(), "{address} heard a guarded process");
        }
        if to.port() == 9999 {
            let socket = WORLD.host.client().dialer().udp(to).unwrap();
            socket.send(b"as before").unwrap();
            assert_eq!(receiver.recv(&mut [0; 16]).unwrap(), 9, "an unguarded process sends as before");
        }
    }
}

#[test]
fn a_guarded_process_may_ask_the_declared_dns_server_and_no_other() {
    WORLD.host.add_address("192.0.2.53".parse().unwrap());
    WORLD.host.add_address("192.0.2.54".parse().unwrap());
    for (address, expected) in [("192.0.2.53:53", true), ("192.0.2.54:53", false), ("192.0.2.53:5353", false)]
    {
        let to: SocketAddr = address.parse().unwrap();
        let receiver = WORLD.host.client().inside(|| std::net::UdpSocket::bind(to)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        if let Ok(socket) = WORLD.host.agent().dialer().udp(to) {
            socket.send(b"query").ok();
        }
        assert_eq!(receiver.recv(&mut [0; 16]).is_ok(), expected, "{address}");
    }
}

#[test]
fn a_guarded_process_reaches_a_target_by_its_declared_address_and_is_judged_there() {
    let path = unique("guarded");
    let mut client = dial(&WORLD.host.agent(), CRM[0]);
    assert_eq!(client.get("192.0.2.10", &path).unwrap().status, 403, "the guard gives no right");
    let seat = WORLD.host.agent().uid(1500);
    let path = unique("guarded");
    let mut client = dial(&seat, CRM[0]);
    assert_eq!(client.get("192.0.2.10", &path).unwrap().status, 200);
    let session = WORLD.gate.entry_of(&path).intent.session;
    let sessions = WORLD.gate.sessions();
    let opened = &sessions.iter().find(|view| view.summary.opened.session == session).unwrap().summary.opened;
    assert_eq!(opened.guard.as_deref(), Some("agents"));
}

#[test]
fn a_guarded_process_reaches_a_named_target_where_name_and_address_agree() {
    let upstream = Upstream::start(&WORLD.host.client(), "127.0.0.1:7070");
    let path = unique("by-name");
    let mut client = dial(&WORLD.host.agent(), "127.0.0.1:7070");
    let response = client.get("localhost:7070", &path).unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(reached(&upstream, &path));
    assert_eq!(WORLD.gate.entry_of(&path).intent.target.as_deref(), Some("named"));
}

#[test]
fn a_name_that_is_not_at_the_dialled_address_is_refused_and_recorded() {
    for (address, upstream) in [(NAMED, &WORLD.named), (ELSEWHERE, &WORLD.elsewhere)] {
        for name in ["localhost", "sub.localhost", "elsewhere.example", "127.0.0.1"] {
            let path = unique("lying");
            let mut client = dial(&WORLD.host.agent(), address);
            let response = client.get(name, &path).unwrap();
            assert_eq!(response.status, 403, "{name}: {}", response.text());
            assert!(!reached(upstream, &path), "{name}");
            assert_eq!(WORLD.gate.entry_of(&path).intent.verdict, Verdict::Deny, "{name}");
        }
    }
}

#[test]
fn a_named_target_gives_an_unguarded_process_no_gate() {
    let path = unique("unguarded-name");
    let mut client = dial(&WORLD.host.client(), NAMED);
    assert_eq!(client.get("localhost", &path).unwrap().status, 200);
    assert!(WORLD.gate.entries_of(&path).is_empty());
}

#[test]
fn a_guarded_process_reaches_neither_the_gates_port_nor_its_loopback_neighbours() {
    let upstream = Upstream::start(&WORLD.host.client(), "127.0.0.1:7171");
    for address in
        ["127.0.0.1:15001", "127.0.0.1:7171", "127.0.0.2:7171", "0.0.0.0:7171", "[::ffff:127.0.0.1]:7171"]
    {
        let to: SocketAddr = address.parse().unwrap();
        if let Ok(mut client) = WORLD.host.agent().connect(to) {
            let answered = client.get(address, "/loop");
            assert!(answered.as_ref().is_err() || answered.unwrap().status >= 400, "{address}");
        }
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn mapped_addresses_are_the_addresses_they_map() {
    let path = unique("mapped");
    let to: SocketAddr = "[::ffff:192.0.2.10]:80".parse().unwrap();
    let mut client = worker().connect(to).unwrap();
    assert_eq!(client.peer(), to, "the client sees what it dialled");
    assert_eq!(client.get("192.0.2.10", &path).unwrap().status, 200);
    assert!(reached(&WORLD.crm[0], &path));
    let path = unique("mapped");
    let mut stranger = WORLD.host.client().uid(1501).connect(to).unwrap();
    assert_eq!(stranger.get("192.0.2.10", &path).unwrap().status, 403);
    assert!(!reached(&WORLD.crm[0], &path));
}

#[test]
fn programs_that_people_use_see_the_peer_they_dialled() {
    let seat = WORLD.host.client().uid(1500);
    for address in CRM {
        let url = format!("http://{}/tool", host_of(address));
        let peer: SocketAddr = address.parse().unwrap();
        let answers = [
            seat.curl(&[&url]),
            seat.requests("GET", &url, &[], ""),
            seat.aiohttp("GET", &url, &[], ""),
            seat.fetch("GET", &url, &[], ""),
        ];
        for answered in answers {
            assert_eq!((answered.status, answered.peer), (200, Some(peer)), "{}", answered.body);
        }
        assert_eq!(seat.wget(&url, &[]).status, 200);
    }
}

#[test]
fn the_agents_own_key_for_an_outside_api_reaches_it_and_no_record() {
    let path = unique("key");
    let mut client = dial(&worker(), CRM[0]);
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 192.0.2.10\r\nAuthorization: Bearer api-secret-abc\r\n\r\n");
    assert_eq!(client.ask(request).unwrap().status, 200);
    assert!(reached(&WORLD.crm[0], "api-secret-abc"));
    assert!(!format!("{:?}", WORLD.gate.entry_of(&path)).contains("api-secret-abc"));
}

#[test]
fn a_directory_that_is_only_called_like_the_unit_gives_no_role() {
    for group in
        ["batch/react-worker.service", "user.slice/user-1000.slice/user@1000.service/react-worker.service"]
    {
        let path = unique("called-like");
        let mut client = dial(&WORLD.host.seat(group), CRM[0]);
        assert_eq!(client.get("192.0.2.10", &path).unwrap().status, 403, "{group}");
        assert!(!reached(&WORLD.crm[0], &path));
    }
}
