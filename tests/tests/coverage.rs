//! Nothing that is protected is reached past the gate unseen: connections older than their protection are cut and
//! recorded with their process, and nothing else is.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tidegate::record::entry::{DestroyedSocket, Event, SocketsDestroyed};
use tidegate::record::frame::Frame;
use tidegate_tests::host::HOST4;
use tidegate_tests::{Client, Gate, Host, Process, Seat, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[target]]
name = "service"
direction = "inbound"
ports = [8080]
require = "peer"
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"crm");
permit (principal, action == Action::"http", resource == Target::"service");
"#;

const LATER: &str = r#"
[[target]]
name = "billing"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7002]
"#;

/// Answers every connection with what it says.
const ECHO: &str = r#"
import socket, sys, threading
listener = socket.create_server(("", int(sys.argv[1])))
def serve(peer):
    try:
        while data := peer.recv(4096):
            peer.sendall(data)
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

const CRM: &str = "127.0.0.1:7001";
const BILLING: &str = "127.0.0.1:7002";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn echo(seat: &Seat, port: u16) -> Process {
    let process = seat.spawn("/usr/bin/python3", &["-c", ECHO, &port.to_string()]);
    seat.await_listening(port);
    process
}

fn works(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"hello"
}

/// What a waiting read says, at once.
fn ends_by(client: &Client) -> ErrorKind {
    let mut stream = client.stream();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    match stream.read(&mut [0; 1]) {
        Ok(count) => panic!("the connection still says {count} bytes"),
        Err(error) => error.kind(),
    }
}

fn entries(gate: &Gate) -> Vec<SocketsDestroyed> {
    let lines = gate.record().last(10_000).unwrap().into_iter();
    lines
        .filter_map(|line| match line.frame {
            Frame::Event(Event::SocketsDestroyed(event)) => Some(event),
            _ => None,
        })
        .collect()
}

/// Every socket that the record says was cut, once it says so of this many.
fn cut(gate: &Gate, count: usize) -> Vec<DestroyedSocket> {
    eventually("the record of what was cut", || {
        let found: Vec<_> = entries(gate).into_iter().flat_map(|entry| entry.sockets).collect();
        (found.len() >= count).then_some(found)
    })
}

#[test]
fn connections_older_than_the_gate_are_cut_when_it_starts_and_recorded_with_their_process() {
    let host = Host::with_remote();
    let upstreams = [CRM, BILLING].map(|address| Upstream::start(&host.client(), address));
    let (_service, _ssh) = (echo(&host.seat("service"), 8080), echo(&host.seat("ssh"), 2222));
    let mut old = host.client().connect(at(CRM)).unwrap();
    assert_eq!(old.get("127.0.0.1", "/before").unwrap().status, 200);
    let datagrams = host.client().dialer().udp(at(CRM)).unwrap();
    let mut guarded = host.agent().connect(at(BILLING)).unwrap();
    assert_eq!(guarded.get("127.0.0.1", "/before").unwrap().status, 200);
    let mut elsewhere = host.client().connect(at(BILLING)).unwrap();
    let mut served = host.remote().connect((HOST4, 8080).into()).unwrap();
    let ssh = host.remote().connect((HOST4, 2222).into()).unwrap();
    assert!(works(served.stream()) && works(ssh.stream()));

    let guard = format!("[[guard]]\nname = \"agents\"\ncgroups = [\"/{}.slice/agent\"]\n", host.name());
    let gate =
        Gate::on(&host).policy("a.toml", NOUNS).policy("guard.toml", &guard).policy("a.cedar", RULES).start();

    let sockets = cut(&gate, 4);
    assert_eq!(ends_by(&old), ErrorKind::ConnectionAborted);
    assert_eq!(ends_by(&guarded), ErrorKind::ConnectionAborted);
    drop(served.send("hello"));
    assert_eq!(ends_by(&served), ErrorKind::ConnectionReset);
    assert_eq!(datagrams.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert!(works(ssh.stream()), "an inbound connection to an unprotected port stays");
    assert_eq!(
        elsewhere.get("127.0.0.1", "/after").unwrap().status,
        200,
        "so does an unguarded one elsewhere"
    );
    assert_eq!(upstreams[0].requests().len(), 1);

    assert_eq!(sockets.len(), 4, "{sockets:?}");
    let one = |protocol: &str, target: Option<&str>| {
        let fits = |one: &&DestroyedSocket| one.protocol == protocol && one.target.as_deref() == target;
        sockets.iter().find(fits).unwrap_or_else(|| panic!("{protocol} {target:?} in {sockets:?}"))
    };
    let tcp = one("tcp", Some("crm"));
    assert_eq!((tcp.remote.as_str(), tcp.uid, tcp.failed.as_deref()), (CRM, 0, None));
    let me = format!("[{}]", std::process::id());
    assert!(tcp.process.as_ref().is_some_and(|process| process.ends_with(&me)), "{tcp:?}");
    assert_eq!(tcp.cgroup, Some(format!("/{}.slice/client", host.name())));
    assert_eq!(one("udp", Some("crm")).remote, CRM);
    assert_eq!(one("tcp", None).guard.as_deref(), Some("agents"));
    let service = one("tcp", Some("service"));
    assert!(service.process.as_ref().is_some_and(|process| process.starts_with("python3")), "{service:?}");
    let told = gate.tidegate(&["sessions", "tail"]).success().text();
    assert!(told.contains("older than their protection"), "{told}");
}

#[test]
fn an_entry_names_a_hundred_sockets_and_counts_the_rest() {
    const OPEN: &str = r#"
import socket
every = [socket.create_connection(("127.0.0.1", 7001)) for _ in range(105)]
print("open", flush=True)
ended = 0
for one in every:
    try:
        one.recv(1)
    except ConnectionAbortedError:
        ended += 1
print("ended", ended, flush=True)
"#;
    let host = Host::new();
    let _crm = echo(&host.seat("crm"), 7001);
    let clients = host.client().spawn("/usr/bin/python3", &["-c", OPEN]);
    eventually("the connections", || clients.stdout().contains("open").then_some(()));
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    assert_eq!(cut(&gate, 100).len(), 100);
    assert_eq!(entries(&gate).iter().map(|entry| entry.left_out).collect::<Vec<_>>(), [5]);
    eventually("the end of all of them", || clients.stdout().contains("ended 105").then_some(()));
}

#[test]
fn a_connection_is_cut_when_its_destination_becomes_a_target_and_what_came_through_the_gate_stays() {
    let host = Host::new();
    let upstreams = [CRM, BILLING].map(|address| Upstream::start(&host.client(), address));
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    let mut through = host.client().connect(at(CRM)).unwrap();
    assert_eq!(through.get(CRM, "/before").unwrap().status, 200);
    let mut past = host.client().connect(at(BILLING)).unwrap();
    assert_eq!(past.get("127.0.0.1", "/before").unwrap().status, 200);

    gate.write_policy("later.toml", LATER);
    let sockets = cut(&gate, 1);
    assert_eq!(ends_by(&past), ErrorKind::ConnectionAborted);
    assert_eq!((sockets.len(), sockets[0].target.as_deref()), (1, Some("billing")));
    assert_eq!(through.get(CRM, "/after").unwrap().status, 200);
    assert_eq!(upstreams[0].connections(), 1, "the gate's own connection to the target stays too");
}

#[test]
fn a_restart_cuts_nothing_that_a_change_did_not() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), BILLING);
    let mut gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    let mut elsewhere = host.client().connect(at(BILLING)).unwrap();
    gate.restart();
    gate.write_policy("later.toml", LATER);
    let sockets = cut(&gate, 1);
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    assert_eq!(ends_by(&elsewhere), ErrorKind::ConnectionAborted);
    assert!(elsewhere.get("127.0.0.1", "/after").is_err());
}

#[test]
fn with_every_hook_in_place_and_nobody_past_the_gate_coverage_says_so() {
    let host = Host::new();
    let _upstreams = [CRM, BILLING].map(|address| Upstream::start(&host.client(), address));
    let mut gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    let mut through = host.client().connect(at(CRM)).unwrap();
    assert_eq!(through.get(CRM, "/open").unwrap().status, 200);
    let mut elsewhere = host.client().connect(at(BILLING)).unwrap();
    assert_eq!(elsewhere.get("127.0.0.1", "/open").unwrap().status, 200);
    let told = gate.tidegate(&["coverage", "--json"]).success().json();
    assert_eq!(told["hooks_missing"].as_array().unwrap().len(), 0, "{told}");
    assert_eq!(
        (told["past"].as_array().map(Vec::len), told["unseen"].as_u64()),
        (Some(0), Some(0)),
        "{told}"
    );
    let seen = gate.admin("GET", "/v1/coverage", "");
    assert_eq!((seen.status, seen.json()["past"].as_array().map(Vec::len)), (200, Some(0)));
    assert!(gate.tidegate(&["doctor"]).text().contains("all 15"));
    gate.kill();
    assert!(gate.tidegate(&["coverage"]).success().text().contains("all 15 hooks are attached"));
}

/// Detaches these hooks as root can: by the pin, or by the link itself, the pin standing.
fn detach(gate: &Gate, hooks: &[&str], by_pin: bool) {
    // The enforcer looks for older connections twice when it starts; what goes past the gate here comes later.
    std::thread::sleep(Duration::from_secs(3));
    for hook in hooks {
        let pin = gate.pins().join("links").join(hook);
        if by_pin {
            std::fs::remove_file(pin).unwrap();
        } else {
            let pin = pin.display().to_string();
            let done = std::process::Command::new("/usr/sbin/bpftool")
                .args(["link", "detach", "pinned", &pin])
                .status();
            assert!(done.unwrap().success());
        }
    }
}

fn names_what_goes_past(by_pin: bool, hooks: &[&str]) {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), CRM);
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    detach(&gate, hooks, by_pin);
    let mut past = eventually("a connection past the gate", || host.client().connect(at(CRM)).ok());
    let request = "GET /past HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Real-IP: 1.1.1.1\r\n\r\n";
    assert_eq!(past.ask(request).unwrap().status, 200);
    assert!(upstream.requests()[0].header("x-real-ip").is_some(), "it did go past the gate");

    let told = gate.tidegate(&["coverage", "--json"]);
    assert_eq!(told.code(), Some(1));
    let told = told.json();
    let missing: Vec<&str> =
        told["hooks_missing"].as_array().unwrap().iter().filter_map(|hook| hook.as_str()).collect();
    assert_eq!(missing, hooks);
    let sockets = told["past"].as_array().unwrap();
    assert_eq!(sockets.len(), 1, "{told}");
    assert_eq!((sockets[0]["remote"].as_str(), sockets[0]["target"].as_str()), (Some(CRM), Some("crm")));
    assert!(
        sockets[0]["process"].as_str().unwrap().ends_with(&format!("[{}]", std::process::id())),
        "{told}"
    );
    let text = gate.tidegate(&["coverage"]).text();
    assert!(text.contains(CRM) && text.contains(hooks[0]), "{text}");
    let doctor = gate.tidegate(&["doctor"]);
    assert_eq!(doctor.code(), Some(1));
    assert!(doctor.text().contains(&format!("missing: {}", hooks.join(", "))), "{}", doctor.text());

    drop(gate.tidegate(&["load"]).success());
    assert_eq!(ends_by(&past), ErrorKind::ConnectionAborted, "once the hooks are back it is cut");
    assert_eq!(cut(&gate, 1).len(), 1);
    let told = gate.tidegate(&["coverage"]);
    let text = told.text();
    assert!(
        text.contains("all 15 hooks are attached") && text.contains("no connection reaches past"),
        "{text}"
    );
    assert!(
        text.contains("1 connections went past the connect hook"),
        "what is over is not forgotten: {text}"
    );
    assert_eq!(told.code(), Some(1));
}

#[test]
fn hooks_whose_pins_root_removed_are_named_and_so_is_who_went_past_them() {
    names_what_goes_past(true, &["tg_connect4", "tg_egress"]);
}

#[test]
fn hooks_that_root_detached_under_their_pins_are_named_and_so_is_who_went_past_them() {
    names_what_goes_past(false, &["tg_connect4", "tg_egress"]);
}

#[test]
fn with_the_connect_hook_alone_detached_a_connection_to_a_target_comes_nowhere_and_is_named() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), CRM);
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    detach(&gate, &["tg_connect4"], true);
    std::thread::scope(|scope| {
        let seat = host.client();
        let dialling = scope.spawn(move || {
            let program =
                "import socket, sys\ns = socket.socket()\ns.settimeout(4)\ns.connect(('127.0.0.1', 7001))";
            seat.python(program, &[]).code()
        });
        let told = eventually("the one who dials", || {
            let told = gate.tidegate(&["coverage", "--json"]);
            (told.code() == Some(1) && told.json()["past"][0]["remote"] == CRM).then(|| told.json())
        });
        assert!(told["past"][0]["process"].as_str().unwrap().starts_with("python3["), "{told}");
        assert_ne!(dialling.join().unwrap(), Some(0));
    });
    assert_eq!(upstream.connections(), 0, "the egress hook stands");
    let told = gate.tidegate(&["coverage", "--json"]);
    assert_eq!(told.code(), Some(1), "what is over is not forgotten");
    assert_eq!(
        (told.json()["past"].as_array().map(Vec::len), told.json()["unseen"].as_u64()),
        (Some(0), Some(1))
    );
    let line = eventually("a line in the log", || {
        gate.log().lines().find(|line| line.contains("went past the connect hook")).map(str::to_owned)
    });
    assert!(line.contains("python3") && line.contains(CRM), "{line}");
}
