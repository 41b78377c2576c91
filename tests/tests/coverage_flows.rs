//! Every flow and every byte that the kernel gave to the gate is one that the enforcer decoded and recorded, whatever clients do;
//! and what went past the gate is named with its target, its bytes and its process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_tests::host::HOST4;
use tidegate_tests::{Gate, Host, Process, Seat, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["127.0.0.1", "::1"]
ports = [7001]

[[target]]
name = "service"
direction = "inbound"
ports = [8080]
require = "peer"

[[person]]
name = "lea"
uid = 1002

[[approval]]
name = "lead"
approvers = ["lea"]
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"crm") unless { context.segments.contains("no") };
permit (principal, action == Action::"http", resource == Target::"service") unless { context.segments.contains("no") };
@id("held") @approval("lead")
forbid (principal, action == Action::"http", resource == Target::"crm") when { context.segments.contains("held") };
"#;

/// Clients of every kind, one after the other in each thread; says how many connects there were.
const LOAD: &str = r#"
import socket, struct, sys, threading
address, port, total, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 8
host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
def get(path, extra="", method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode()
def answer(client):
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return data
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    length = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while length and len(body) < length[0]:
        more = client.recv(65536)
        if not more:
            break
        body += more
    return data
def rest(client):
    while client.recv(65536):
        pass
def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
def once(client, kind):
    if kind == 0:
        for turn in range(3):
            client.sendall(get(f"/kept/{turn}"))
            answer(client)
    elif kind == 1:
        client.sendall(get("/post", "Content-Length: 5000\r\n", "POST") + b"x" * 5000)
        answer(client)
    elif kind == 2:
        client.sendall(get("/no"))
        answer(client)
    elif kind == 3:
        client.sendall(b"\x16\x03\x01\x00\xff garbage \r\n\r\n\0" * 50)
        rest(client)
    elif kind == 4:
        client.sendall(get("/half")[:20])
        reset(client)
    elif kind == 5:
        reset(client)
    elif kind == 6:
        pass
    elif kind == 7:
        client.sendall(get("/upload", "Content-Length: 100000\r\n", "POST") + b"x" * 30000)
        reset(client)
    elif kind == 8:
        client.sendall(get("/left"))
        reset(client)
    elif kind == 9:
        client.sendall(get("/closing", "Connection: close\r\n"))
        rest(client)
    elif kind == 10:
        client.sendall(get("/shut"))
        client.shutdown(socket.SHUT_WR)
        rest(client)
    elif kind == 11:
        client.sendall(get("/no", "Content-Length: 60000\r\n", "POST") + b"x" * 60000)
        answer(client)
    elif kind == 12:
        client.sendall(get("/held"))
        client.settimeout(0.02)
        try:
            client.recv(1)
        except TimeoutError:
            pass
        reset(client)
    elif kind == 13:
        client.sendall(get("/one") + get("/two") + get("/no"))
        answer(client)
made = [0] * threads
def work(me):
    for turn in range(total // threads):
        try:
            with socket.create_connection((address, port), 60) as client:
                made[me] += 1
                # Few are held: each waits for people.
                kind = (turn + me) % 14
                once(client, 6 if kind == 12 and turn > 100 else kind)
        except OSError:
            pass
workers = [threading.Thread(target=work, args=(me,)) for me in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(sum(made))
"#;

/// A server that answers whatever comes.
const SERVER: &str = r#"
import socket, sys, threading
family = socket.AF_INET6
listener = socket.create_server(("::", int(sys.argv[1])), family=family, dualstack_ipv6=True, backlog=4096)
def serve(peer):
    data = b""
    try:
        while more := peer.recv(65536):
            data += more
            while b"\r\n\r\n" in data:
                head, data = data.split(b"\r\n\r\n", 1)
                length = [int(l.split(b":")[1]) for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:")]
                left = length[0] if length else 0
                while len(data) < left:
                    more = peer.recv(65536)
                    if not more:
                        return
                    data += more
                data = data[left:]
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"y" * 20000)
    except OSError:
        pass
    finally:
        peer.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

const CRM: &str = "127.0.0.1:7001";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn server(seat: &Seat, port: u16) -> Process {
    let process = seat.spawn("/usr/bin/python3", &["-c", SERVER, &port.to_string()]);
    seat.await_listening(port);
    process
}

fn guard(host: &Host) -> String {
    format!("[[guard]]\nname = \"agents\"\ncgroups = [\"/{}.slice/agent\"]\n", host.name())
}

fn coverage(gate: &Gate) -> (Option<i32>, Value) {
    let told = gate.tidegate(&["coverage", "--json"]);
    let flows = told.json()["flows"].clone();
    (told.code(), flows)
}

fn unexplained(flows: &Value) -> (u64, u64) {
    (flows["unexplained_flows"].as_u64().unwrap(), flows["unexplained_bytes"].as_u64().unwrap())
}

fn sum(flows: &Value, of: &str) -> u64 {
    flows["lanes"].as_array().unwrap().iter().map(|lane| lane[of].as_u64().unwrap()).sum()
}

/// Runs the load and gives how many connections its clients had.
fn load(host: &Host, total: usize) -> u64 {
    let (service, own) = (HOST4.to_string(), total / 5);
    let loads = [
        (host.client(), "127.0.0.1", "7001"),
        (host.client(), "::1", "7001"),
        (host.agent(), "127.0.0.1", "7001"),
        (host.client(), service.as_str(), "8080"),
        (host.remote(), service.as_str(), "8080"),
    ];
    let running: Vec<Process> = loads
        .iter()
        .map(|(seat, address, port)| {
            seat.spawn("/usr/bin/python3", &["-c", LOAD, address, port, &own.to_string()])
        })
        .collect();
    let made = running.into_iter().map(|mut process| {
        let ended = process.wait(Duration::from_secs(3600)).expect("the load ends");
        assert!(ended.success(), "{}", process.stderr());
        eventually("what it says", || process.stdout().trim().parse::<u64>().ok())
    });
    made.sum()
}

#[test]
fn after_a_mixed_load_every_flow_and_byte_is_explained() {
    let total = if std::env::var_os("TIDEGATE_FULL").is_some() { 100_000 } else { 3_000 };
    let host = Host::with_remote();
    let _servers = [server(&host.seat("crm"), 7001), server(&host.seat("service"), 8080)];
    let gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("guard.toml", &guard(&host))
        .policy("a.cedar", RULES)
        .start();
    let began = Instant::now();
    let made = load(&host, total);
    let took = began.elapsed();
    // Sessions that nobody waits for end by themselves.
    let flows = eventually("the end of all flows", || {
        let (_, flows) = coverage(&gate);
        (sum(&flows, "open") == 0 || unexplained(&flows) != (0, 0)).then_some(flows)
    });
    println!("{made} flows in {took:?}: {flows:#}");
    assert_eq!(unexplained(&flows), (0, 0), "{flows:#}");
    let told = gate.tidegate(&["coverage"]).success().text();
    assert!(told.contains("0 unexplained flows and 0 unexplained bytes"), "{told}");
    // It is not zero because nothing was counted.
    assert!(made >= total as u64 * 9 / 10, "{made}");
    assert!(sum(&flows, "came") >= made, "{made} in {flows:#}");
    assert_eq!(sum(&flows, "recorded"), sum(&flows, "taken"), "{flows:#}");
    assert!(sum(&flows, "read") > made * 100 && sum(&flows, "written") > made * 1000, "{flows:#}");
    assert!(sum(&flows, "unread") > 0, "some uploads were cut: {flows:#}");
    let lane = |target: &str, guard: Option<&str>| {
        let is = |lane: &&Value| lane["target"] == target && lane["guard"].as_str() == guard;
        flows["lanes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(is)
            .map(|lane| lane["recorded"].as_u64().unwrap())
            .sum::<u64>()
    };
    for (target, guard) in [("crm", None), ("crm", Some("agents")), ("service", None)] {
        assert!(lane(target, guard) >= total as u64 / 5 * 9 / 10, "{target} {guard:?} in {flows:#}");
    }
}

#[test]
fn a_dead_gate_and_a_new_one_leave_nothing_unexplained() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), CRM);
    let mut gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    let mut kept = host.client().connect(at(CRM)).unwrap();
    assert_eq!(kept.get(CRM, "/before").unwrap().status, 200);
    gate.kill();
    for _ in 0..5 {
        assert!(host.client().connect(at(CRM)).is_err());
    }
    let (code, flows) = coverage(&gate);
    assert_eq!(
        (code, unexplained(&flows), flows["compared"].as_bool()),
        (Some(0), (0, 0), Some(false)),
        "{flows:#}"
    );
    assert_eq!(sum(&flows, "never_came"), 5, "{flows:#}");
    gate.start();
    let mut anew = host.client().connect(at(CRM)).unwrap();
    assert_eq!(anew.get(CRM, "/after").unwrap().status, 200);
    let (code, flows) = coverage(&gate);
    assert_eq!(
        (code, unexplained(&flows), flows["compared"].as_bool()),
        (Some(0), (0, 0), Some(true)),
        "{flows:#}"
    );
    assert_eq!((sum(&flows, "earlier"), sum(&flows, "taken"), sum(&flows, "open")), (1, 1, 1), "{flows:#}");
}

#[test]
fn with_an_enforcer_without_privilege_the_counts_are_compared_as_well() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), CRM);
    let gate =
        Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).option_of_run("--user=1804").start();
    for _ in 0..20 {
        let mut client = host.client().connect(at(CRM)).unwrap();
        assert_eq!(client.get(CRM, "/kept").unwrap().status, 200);
    }
    let flows = eventually("the end of all flows", || {
        let (code, flows) = coverage(&gate);
        assert_eq!((code, unexplained(&flows)), (Some(0), (0, 0)), "{flows:#}");
        (sum(&flows, "open") == 0).then_some(flows)
    });
    assert_eq!((flows["compared"].as_bool(), sum(&flows, "recorded")), (Some(true), 20), "{flows:#}");
    assert!(sum(&flows, "read") > 0, "{flows:#}");
}

/// Detaches a hook as root can.
fn detach(gate: &Gate, hooks: &[&str]) {
    // The enforcer looks for older connections twice when it starts; what goes past the gate here comes later.
    std::thread::sleep(Duration::from_secs(3));
    for hook in hooks {
        std::fs::remove_file(gate.pins().join("links").join(hook)).unwrap();
    }
}

const ASK: &str = r#"
import os, socket, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
host = sys.argv[1] + ":" + sys.argv[2]
client.sendall(f"GET /past HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
got = 0
while got < 20000 and (more := client.recv(65536)):
    got += len(more)
assert got >= 20000, got
client.close()
print(os.getpid())
"#;

#[test]
fn who_went_past_a_detached_connect_hook_is_named_with_target_guard_bytes_and_process_also_after_its_end() {
    let host = Host::new();
    let _server = server(&host.seat("crm"), 7001);
    let gate = Gate::on(&host)
        .policy("a.toml", NOUNS)
        .policy("guard.toml", &guard(&host))
        .policy("a.cedar", RULES)
        .start();
    // The control: through the gate it is no gap.
    drop(host.agent().python(ASK, &["127.0.0.1", "7001"]).success());
    let (code, flows) = coverage(&gate);
    assert_eq!((code, unexplained(&flows)), (Some(0), (0, 0)), "{flows:#}");

    detach(&gate, &["tg_connect4", "tg_egress"]);
    let pid = eventually("a connection past the gate", || {
        let asked = host.agent().python(ASK, &["127.0.0.1", "7001"]).success();
        (coverage(&gate).1["unexplained_flows"] != 0).then(|| asked.text().trim().parse::<u64>().unwrap())
    });
    let (code, flows) = coverage(&gate);
    assert_eq!(code, Some(1));
    let gap = &flows["gaps"][0];
    assert_eq!((gap["target"].as_str(), gap["guard"].as_str()), (Some("crm"), Some("agents")), "{flows:#}");
    assert_eq!((gap["why"].as_str(), gap["flows"].as_u64()), (Some("past-the-hook"), Some(1)), "{flows:#}");
    let sent = "GET /past HTTP/1.1\r\nHost: 127.0.0.1:7001\r\n\r\n".len() as u64;
    let back = "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n".len() as u64 + 20_000;
    let bytes = gap["bytes"].as_u64().unwrap();
    assert_eq!(bytes, sent + back, "to the byte what it read and wrote: {flows:#}");
    let process = &gap["processes"][0];
    assert_eq!(
        (process["pid"].as_u64(), process["command"].as_str()),
        (Some(pid), Some("python3")),
        "{flows:#}"
    );
    assert_eq!(process["cgroup"], format!("/{}.slice/agent", host.name()), "{flows:#}");
    let text = gate.tidegate(&["coverage"]).text();
    let line =
        format!("target crm, guard agents, past the gate: 1 flows, {bytes} bytes went past the connect hook");
    assert!(text.contains(&line) && text.contains(&format!("python3[{pid}]")), "{text}");

    drop(gate.tidegate(&["load"]).success());
    let (code, flows) = coverage(&gate);
    assert_eq!(
        (code, unexplained(&flows)),
        (Some(1), (1, bytes)),
        "what is over is not forgotten: {flows:#}"
    );
}

#[test]
fn a_service_that_answers_past_a_detached_sk_lookup_hook_is_named_with_its_bytes_and_process() {
    let host = Host::with_remote();
    let service = server(&host.seat("service"), 8080);
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    drop(host.remote().python(ASK, &[&HOST4.to_string(), "8080"]).success());
    let (code, flows) = coverage(&gate);
    assert_eq!((code, unexplained(&flows)), (Some(0), (0, 0)), "{flows:#}");
    detach(&gate, &["tg_steer"]);
    let flows = eventually("a connection past the gate", || {
        drop(host.remote().python(ASK, &[&HOST4.to_string(), "8080"]).success());
        let (code, flows) = coverage(&gate);
        let served = |gap: &&Value| gap["why"] == "served-by-another";
        let found = flows["gaps"].as_array().unwrap().iter().find(served).cloned();
        found.inspect(|_| assert_eq!(code, Some(1)))
    });
    assert_eq!(flows["target"], "service", "{flows:#}");
    assert!(flows["bytes"].as_u64().unwrap() > 20_000, "{flows:#}");
    assert_eq!(flows["processes"][0]["pid"].as_u64(), Some(u64::from(service.pid())), "{flows:#}");
}

/// Takes the gate's listener out of its process, as root can, and answers the next connection itself.
const THIEF: &str = r#"
import ctypes, os, socket, sys
pid = int(sys.argv[1])
syscall = ctypes.CDLL(None, use_errno=True).syscall
gate = os.pidfd_open(pid)
for number in os.listdir(f"/proc/{pid}/fd"):
    if not os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
        continue
    taken = socket.socket(fileno=syscall(438, gate, int(number), 0))
    if taken.family == socket.AF_INET and taken.getsockname()[0] == "127.0.0.1":
        break
print("ready", flush=True)
taken.setblocking(True)
client = taken.accept()[0]
client.recv(65536)
client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
client.recv(1)
client.close()
"#;

#[test]
fn a_process_that_takes_a_flow_in_the_enforcers_place_is_named() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), CRM);
    let mut gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    gate.freeze(true);
    let mut thief = host.seat("thief").spawn("/usr/bin/python3", &["-c", THIEF, &gate.pid().to_string()]);
    thief.await_text("ready");
    let mut client = host.client().connect(at(CRM)).unwrap();
    assert_eq!(client.get(CRM, "/stolen").unwrap().body, b"no");
    drop(client);
    assert!(thief.wait(Duration::from_secs(10)).unwrap().success(), "{}", thief.stderr());
    gate.freeze(false);
    let (code, flows) = coverage(&gate);
    let gap = &flows["gaps"][0];
    assert_eq!((code, gap["why"].as_str()), (Some(1), Some("served-by-another")), "{flows:#}");
    assert_eq!((gap["target"].as_str(), gap["flows"].as_u64()), (Some("crm"), Some(1)), "{flows:#}");
    assert_eq!(gap["processes"][0]["pid"].as_u64(), Some(u64::from(thief.pid())), "{flows:#}");
}

#[test]
fn what_the_kernel_could_not_count_is_a_gap_as_well() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), CRM);
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
    detach(&gate, &["tg_release"]);
    let mut client = host.client().connect(at(CRM)).unwrap();
    assert_eq!(client.get(CRM, "/uncounted").unwrap().status, 200);
    drop(client);
    let flows = eventually("its end", || {
        let (_, flows) = coverage(&gate);
        (sum(&flows, "open") == 0).then_some(flows)
    });
    let gap = &flows["gaps"][0];
    assert_eq!((gap["why"].as_str(), gap["flows"].as_u64()), (Some("not-counted"), Some(1)), "{flows:#}");
    assert!(gap["bytes"].as_u64().unwrap() > 0, "{flows:#}");
}
