//! Other network namespaces: the gate listens in each that runs guarded processes or protected services, as they come and go;
//! elsewhere what belongs to the gate is refused. Nobody in one is taken for somebody in another.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::operation::Direction;
use tidegate_tests::recorded::status;
use tidegate_tests::{Builder, Client, Gate, Host, Seat, Space, Upstream, eventually};

/// Where the API is, on the host.
const API: &str = "192.0.2.10:80";
/// Where one is in each namespace.
const NEAR: &str = "192.0.2.50:80";
/// Nothing declares it.
const FREE: &str = "192.0.2.30:80";
/// Where the service in a namespace listens.
const SERVICE: u16 = 8070;

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["192.0.2.10", "192.0.2.50"]
ports = [80]

[[target]]
name = "shop"
direction = "inbound"
ports = [8070]
require = "peer"
cgroups = ["/NAME.slice/shop"]

[[guard]]
name = "agents"
cgroups = ["/NAME.slice/agent"]
"#;

/// Gets a credential.
const VAULTED: &str = "192.0.2.60:80";
const CREDENTIAL: &str = r#"
[[target]]
name = "vaulted"
direction = "outbound"
addresses = ["192.0.2.60"]
ports = [80]

[[credential]]
name = "crm"
targets = ["vaulted"]
"#;
const CREDENTIAL_RULE: &str =
    r#"permit (principal, action == Action::"http", resource == Target::"vaulted");"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"api");
forbid (principal, action == Action::"http", resource == Target::"api") when { context.segments.contains("denied") };
permit (principal, action == Action::"http", resource == Target::"shop");
forbid (principal, action == Action::"http", resource == Target::"shop") when { context.segments.contains("denied") };
"#;

fn host() -> Host {
    let host = Host::new();
    for address in [API, FREE] {
        host.add_address(address.parse::<SocketAddr>().unwrap().ip());
    }
    host
}

fn gate_on(host: &Host) -> Builder {
    Gate::on(host).policy("a.toml", &NOUNS.replace("NAME", host.name())).policy("a.cedar", RULES)
}

struct World {
    host: Host,
    gate: Gate,
    api: Upstream,
    free: Upstream,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = host();
    let (api, free) = (Upstream::start(&host.client(), API), Upstream::start(&host.client(), FREE));
    let gate = gate_on(&host).start();
    World { host, gate, api, free }
});

/// A number that no other test of this file has.
fn number() -> u8 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap()
}

/// What `tidegate status` says of the namespace with this inode.
fn listed(gate: &Gate, inode: u64) -> Option<Value> {
    let said = gate.tidegate(&["--json", "status"]).json();
    said["kernel"]["spaces"].as_array().unwrap().iter().find(|space| space["inode"] == inode).cloned()
}

fn served(gate: &Gate, space: &Space) {
    eventually("a listener in the namespace", || {
        listed(gate, space.inode()).filter(|space| space["served"] == true)
    });
}

fn refused_because(gate: &Gate, space: &Space, why: &str) {
    eventually(&format!("`{why}`"), || {
        listed(gate, space.inode()).filter(|space| space["served"] == false && space["why"] == why)
    });
}

/// Dials as a new process of this seat, which has its connection as long as it lives.
fn dial(seat: &Seat, to: &str) -> std::io::Result<Client> {
    std::mem::forget(seat.clone());
    seat.connect(to.parse().unwrap())
}

fn reached(upstream: &Upstream, text: &str) -> bool {
    String::from_utf8_lossy(&upstream.received()).contains(text)
}

#[test]
fn a_guarded_process_in_a_namespace_of_its_own_is_judged_and_recorded_like_any_other() {
    let World { host, gate, api, free } = &*WORLD;
    let space = host.space("agent", number());
    served(gate, &space);
    let seat = space.seat(host, "agent");
    let mut client = dial(&seat, API).unwrap();
    assert_eq!(client.peer(), API.parse().unwrap());
    for (path, expected) in [("/space-allowed", 200), ("/space-denied/denied", 403)] {
        assert_eq!(client.get("192.0.2.10", path).unwrap().status, expected, "{path}");
        assert_eq!(reached(api, path), expected == 200, "{path}");
        let entry = gate.entry_of(path);
        assert_eq!(status(&entry), Some(expected));
        let opened = gate.session_of(&entry).summary.opened;
        assert_eq!((opened.direction, opened.destination.as_str()), (Direction::Outbound, API));
        assert_eq!(opened.guard.as_deref(), Some("agents"));
        assert_eq!(opened.workload.unwrap().pid, seat.dialer().pid());
    }
    // What nothing declares is denied there as it is at home, and not by a refusal to connect.
    for seat in [&seat, &host.agent()] {
        let answer = dial(seat, FREE).unwrap().get("192.0.2.30", "/space-undeclared");
        assert!(answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    assert!(!reached(free, "/space-undeclared"));
}

#[test]
fn the_gate_dials_from_the_namespace_that_the_flow_came_from() {
    let World { host, gate, .. } = &*WORLD;
    let spaces = [number(), number()].map(|number| host.space("agent", number));
    let near: Vec<Upstream> = spaces
        .iter()
        .map(|space| {
            space.ip(&["address", "add", "192.0.2.50/32", "dev", "lo"]);
            served(gate, space);
            Upstream::start(&space.seat(host, "client"), NEAR)
        })
        .collect();
    for (at, space) in spaces.iter().enumerate() {
        let path = format!("/near-{at}");
        let mut client = dial(&space.seat(host, "agent"), NEAR).unwrap();
        assert_eq!(client.get("192.0.2.50", &path).unwrap().status, 200);
        assert!(reached(&near[at], &path) && !reached(&near[1 - at], &path), "{path}");
    }
    // At home nobody has that address: what the gate cannot reach from there is an error like any other.
    let mut client = dial(&host.agent(), NEAR).unwrap();
    let answer = client.get("192.0.2.50", "/near-nowhere").unwrap();
    assert!([502, 504].contains(&answer.status), "{}", answer.status);
}

#[test]
fn a_credential_goes_to_the_target_and_not_to_who_answers_at_its_address_in_the_callers_namespace() {
    let host = host();
    host.add_address("192.0.2.60".parse().unwrap());
    let real = Upstream::start(&host.client(), VAULTED);
    let gate = gate_on(&host).policy("b.toml", CREDENTIAL).policy("b.cedar", CREDENTIAL_RULE).start();
    drop(gate.tidegate_given("plum-harbour-92-oak\n", &["credential", "set", "crm"]).success());
    let space = host.space("agent", 1);
    space.ip(&["address", "add", "192.0.2.60/32", "dev", "lo"]);
    served(&gate, &space);
    let false_one = Upstream::start(&space.seat(&host, "client"), VAULTED);
    let mut client = dial(&space.seat(&host, "agent"), VAULTED).unwrap();
    assert_eq!(client.get("192.0.2.60", "/vaulted").unwrap().status, 200);
    assert!(reached(&real, "/vaulted"), "as the gate's own namespace sees it");
    assert_eq!((false_one.connections(), false_one.received().len()), (0, 0));
    let sent = real.requests().pop().unwrap();
    assert_eq!(sent.header("authorization"), Some("Bearer plum-harbour-92-oak"));
}

#[test]
fn the_same_four_addresses_in_two_namespaces_are_two_callers() {
    let World { host, gate, .. } = &*WORLD;
    let spaces = [number(), number()].map(|number| host.space("agent", number));
    spaces.iter().for_each(|space| served(gate, space));
    let seats =
        [space_seat(&spaces[0], "agent/one"), space_seat(&spaces[1], "agent/two"), host.seat("agent/three")];
    for round in 0..20 {
        let from: SocketAddr = format!("127.0.0.1:{}", 41_000 + round).parse().unwrap();
        let clients: Vec<_> = std::thread::scope(|scope| {
            let dialling: Vec<_> = seats
                .iter()
                .map(|seat| scope.spawn(move || seat.connect_from(from, API.parse().unwrap()).unwrap()))
                .collect();
            dialling.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for (at, mut client) in clients.into_iter().enumerate() {
            let path = format!("/twin-{round}-{at}");
            assert_eq!(client.stream().local_addr().unwrap(), from);
            assert_eq!(client.get("192.0.2.10", &path).unwrap().status, 200);
            let opened = gate.session_of(&gate.entry_of(&path)).summary.opened;
            let workload = opened.workload.unwrap();
            assert_eq!(workload.pid, seats[at].dialer().pid(), "{path}");
            assert!(workload.cgroup.unwrap().ends_with(["one", "two", "three"][at]), "{path}");
        }
    }
}

fn space_seat(space: &Space, group: &str) -> Seat {
    space.seat(&WORLD.host, group)
}

#[test]
fn a_namespace_whose_loopback_is_down_is_refused_until_it_is_up() {
    let World { host, gate, .. } = &*WORLD;
    let space = host.bare_space("agent", number());
    refused_because(gate, &space, "loopback-down");
    let seat = space.seat(host, "agent");
    let refused = dial(&seat, API).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    space.loopback_up();
    served(gate, &space);
    // Listened to, and on the way to nowhere: the gate is asked, and the target is out of its reach from there.
    let mut client = dial(&seat, API).unwrap();
    assert_eq!(client.get("192.0.2.10", "/no-way").unwrap().status, 502);
}

#[test]
fn who_has_the_gates_port_in_its_namespace_fools_nobody() {
    let World { host, gate, .. } = &*WORLD;
    // In no guard's cgroup yet: nobody has looked at it.
    let space = host.space("client", number());
    space.ip(&["address", "add", "192.0.2.50/32", "dev", "lo"]);
    let seat = space.seat(host, "client");
    // Nobody may bind the port, and whoever comes to it unbound has it all the same: the kernel chose it.
    let bound = seat.python("import socket; socket.socket().bind(('127.0.0.1', 15001))", &[]);
    assert!(bound.code() != Some(0) && bound.errors().contains("PermissionError"), "{}", bound.errors());
    // Outside of the namespaces of guards the sysctl is the namespace's own.
    let listen = "import socket, time\n\
        open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('15001 15001')\n\
        s = socket.socket(); s.listen(); print(s.getsockname()[1], flush=True)\n\
        s.settimeout(20)\n\
        try:\n  c, _ = s.accept(); c.sendall(b'HTTP/1.1 200 Fooled\\r\\nContent-Length: 0\\r\\n\\r\\n'); print('somebody came', flush=True)\n\
        except TimeoutError: pass\n\
        time.sleep(60)";
    let mut fake = seat.spawn("python3", &["-c", listen]);
    fake.await_text("15001");
    // A control: where nothing is rewritten it does answer.
    let refused = dial(&seat, API).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "a target's caller is refused");
    let agent = space.seat(host, "agent");
    let refused = dial(&agent, API).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    refused_because(gate, &space, "port-taken");
    let refused = dial(&agent, FREE).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    assert!(!fake.stdout().contains("somebody came"));
}

#[test]
fn a_namespace_that_an_unprivileged_user_owns_is_refused_whatever_he_is_root_of_there() {
    let World { host, gate, api, .. } = &*WORLD;
    let seat = host.agent().uid(4711);
    // Root in there, with the target's address its own, and a server at it that would get what was meant for the target.
    let script = "ip link set lo up; ip address add 192.0.2.10/32 dev lo; echo up; exec python3 -c '\n\
        import socket, time\n\
        s = socket.socket(); s.bind((\"192.0.2.10\", 80)); s.listen()\n\
        for _ in range(20):\n\
        \tc = socket.socket(); c.settimeout(5)\n\
        \ttry: c.connect((\"192.0.2.10\", 80)); print(\"connected\", flush=True)\n\
        \texcept OSError as e: print(\"refused\", e.errno, flush=True)\n\
        \tc.close(); time.sleep(0.2)\n\
        print(\"done\", flush=True); time.sleep(60)'";
    let mut agent = seat.spawn("unshare", &["--user", "--map-root-user", "--net", "sh", "-c", script]);
    agent.await_text("done");
    let said = agent.stdout();
    assert!(said.contains("refused 1") && !said.contains("connected"), "{said}");
    let inode =
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(format!("/proc/{}/ns/net", agent.pid())).unwrap());
    let listed = eventually("a word of the namespace", || listed(gate, inode));
    assert_eq!((listed["served"].as_bool(), listed["why"].as_str()), (Some(false), Some("other-owner")));
    assert!(!reached(api, "fooled"));
    // The control: who is nobody's business may do it.
    let free = "ip link set lo up; ip address add 192.0.2.30/32 dev lo; exec python3 -c '\n\
        import socket\n\
        s = socket.socket(); s.bind((\"192.0.2.30\", 80)); s.listen()\n\
        socket.create_connection((\"192.0.2.30\", 80)); print(\"connected\")'";
    let user = host.client().uid(4711);
    let finished = user.run("unshare", &["--user", "--map-root-user", "--net", "sh", "-c", free]);
    assert!(finished.success().text().contains("connected"));
}

#[test]
fn the_listeners_go_with_the_last_guarded_process_and_the_namespace_with_them() {
    let World { host, gate, .. } = &*WORLD;
    let number = number();
    let space = host.space("agent", number);
    served(gate, &space);
    let seat = space.seat(host, "client");
    assert!(seat.is_listening(15001));
    let inode = space.inode();
    // Somebody else still lives there: the namespace stays, and is nobody's business any more.
    let mut other = seat.spawn("sleep", &["60"]);
    eventually("the other one to have moved in", || {
        use std::os::unix::fs::MetadataExt;
        let about = fs::metadata(format!("/proc/{}/ns/net", other.pid())).ok()?;
        (about.ino() == inode).then_some(())
    });
    let held = fs::File::open(format!("/proc/{}/ns/net", other.pid())).unwrap();
    space.end();
    eventually("no word of the namespace", || listed(gate, inode).is_none().then_some(()));
    assert!(!Space::is_gone(host, number));
    let held_seat = Seat::at(std::path::Path::new(&format!("/proc/{}/ns/net", other.pid())), &seat);
    assert!(!held_seat.is_listening(15001), "the listeners are gone");
    drop((held, held_seat));
    other.kill();
    eventually("the namespace to be gone", || Space::is_gone(host, number).then_some(()));
}

#[test]
fn a_service_in_a_namespace_of_its_own_is_protected_there() {
    let World { host, gate, .. } = &*WORLD;
    let number = number();
    let space = host.space("shop", number);
    served(gate, &space);
    let service = Upstream::start(&space.seat(host, "shop"), &format!("0.0.0.0:{SERVICE}"));
    let near = format!("127.0.0.1:{SERVICE}");
    let far = format!("10.78.{number}.2:{SERVICE}");
    let beside = space.seat(host, "client");
    let other = host.space("agent", self::number());
    for (name, seat, to) in
        [("beside", &beside, &near), ("own", &beside, &far), ("host", &host.client(), &far)]
    {
        let mut client = dial(seat, to).unwrap();
        for (path, expected) in
            [(format!("/{name}-{number}"), 200), (format!("/{name}-{number}/denied"), 403)]
        {
            assert_eq!(client.get("shop", &path).unwrap().status, expected, "{path}");
            assert_eq!(reached(&service, &path), expected == 200, "{path}");
            let opened = gate.session_of(&gate.entry_of(&path)).summary.opened;
            assert_eq!(opened.direction, Direction::Inbound);
            // Who is on the host is another host to a service in here.
            assert_eq!(opened.workload.is_some(), name != "host", "{path}");
        }
    }
    // Where no service runs its port is anybody's.
    served(gate, &other);
    let plain = Upstream::start(&other.seat(host, "client"), &near);
    let mut client = dial(&other.seat(host, "client"), &near).unwrap();
    assert_eq!(client.get("shop", "/plain/denied").unwrap().status, 200);
    assert!(reached(&plain, "/plain/denied"));
}

#[test]
fn a_dead_gate_is_a_refusal_in_every_namespace_and_the_next_one_serves_them_again() {
    let host = host();
    let _api = Upstream::start(&host.client(), API);
    let mut gate = gate_on(&host).start();
    let agents = host.space("agent", number());
    let shop = host.space("shop", number());
    served(&gate, &agents);
    served(&gate, &shop);
    let service = Upstream::start(&shop.seat(&host, "shop"), &format!("0.0.0.0:{SERVICE}"));
    let seat = agents.seat(&host, "agent");
    let beside = shop.seat(&host, "client");
    let near = format!("127.0.0.1:{SERVICE}");
    assert_eq!(dial(&seat, API).unwrap().get("192.0.2.10", "/before").unwrap().status, 200);
    assert_eq!(dial(&beside, &near).unwrap().get("shop", "/before").unwrap().status, 200);
    gate.kill();
    for (seat, to) in [(&seat, API), (&beside, near.as_str())] {
        eventually("a refusal", || {
            let refused = dial(seat, to).err()?;
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}: {refused}");
            Some(())
        });
    }
    let before = service.received().len();
    gate.start();
    eventually("the namespaces to be served again", || {
        let mut client = dial(&seat, API).ok()?;
        assert_eq!(client.get("192.0.2.10", "/after").ok()?.status, 200);
        Some(())
    });
    eventually("the service to be served again", || {
        let mut client = dial(&beside, &near).ok()?;
        assert_eq!(client.get("shop", "/after/denied").ok()?.status, 403);
        Some(())
    });
    assert_eq!(service.received().len(), before, "nobody went past");
    // Gone while no gate was there to see it: nothing of it is left.
    let short = host.space("agent", number());
    served(&gate, &short);
    gate.kill();
    let inode = short.inode();
    short.end();
    gate.start();
    eventually("no word of the namespace", || listed(&gate, inode).is_none().then_some(()));
}

#[test]
fn an_upgrade_serves_them_again() {
    let host = host();
    let _api = Upstream::start(&host.client(), API);
    let gate = gate_on(&host).start();
    let space = host.space("agent", number());
    served(&gate, &space);
    let seat = space.seat(&host, "agent");
    assert_eq!(dial(&seat, API).unwrap().get("192.0.2.10", "/before").unwrap().status, 200);
    drop(gate.tidegate(&["upgrade"]).success());
    eventually("the namespace to be served by the next program", || {
        let mut client = dial(&seat, API).ok()?;
        assert_eq!(client.get("192.0.2.10", "/after").ok()?.status, 200);
        Some(())
    });
}

/// An id as container engines make them.
const CONTAINER: &str = "5ace5ace5ace5ace5ace5ace5ace5ace5ace5ace5ace5ace5ace5ace5ace5ace";

/// What runs in the container: a request to the API for each path, and the status of each answer.
const ASK: &str = r#"
import socket, sys, time
for path in sys.argv[1:]:
    while True:
        try:
            s = socket.create_connection(("192.0.2.10", 80), 10)
            break
        except PermissionError:
            # Nobody listens there yet.
            time.sleep(0.05)
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: 192.0.2.10\r\nConnection: close\r\n\r\n".encode())
    print(path, s.recv(4096).split(b" ")[1].decode(), flush=True)
"#;

/// A bundle of an OCI runtime: the host's own programs, read-only, in namespaces of the container's own.
fn bundle(host: &Host, cgroup: &str, hook: &str, args: &[&str]) -> std::path::PathBuf {
    let bundle = host.folder().join("bundle");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    let bind = |place: &str| serde_json::json!({ "destination": place, "source": place, "type": "bind", "options": ["rbind", "ro"] });
    let mut mounts: Vec<Value> = ["/usr", "/lib", "/lib64", "/bin"].into_iter().map(bind).collect();
    mounts.push(serde_json::json!({ "destination": "/proc", "type": "proc", "source": "proc" }));
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
        },
        "root": { "path": "rootfs", "readonly": false },
        "mounts": mounts,
        "hooks": { "createRuntime": [{ "path": hook }] },
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "network" }, { "type": "uts" }],
        },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    bundle
}

/// What an engine does for a container's network: a cable from the host's namespace, an address and a way out.
fn network_hook(host: &Host, number: u8) -> String {
    use std::os::unix::fs::PermissionsExt;
    let script = host.folder().join("network-hook");
    let (name, cable) = (host.name(), format!("c{number}"));
    let text = format!(
        "#!/bin/sh -e\n\
         pid=$(python3 -c 'import json,sys; print(json.load(sys.stdin)[\"pid\"])')\n\
         ip -n {name} link add {cable} type veth peer name eth0 netns $pid\n\
         ip -n {name} address add 10.79.{number}.1/24 dev {cable}\n\
         ip -n {name} link set {cable} up\n\
         in=\"nsenter --net=/proc/$pid/ns/net ip\"\n\
         $in link set lo up\n\
         $in address add 10.79.{number}.2/24 dev eth0\n\
         $in link set eth0 up\n\
         $in route add default via 10.79.{number}.1\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script.display().to_string()
}

/// Removes what the runtime leaves in the older hierarchies of a hybrid host: the directories above its own.
fn remove_older(cgroup: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        if hierarchy.file_name() != "unified" {
            for directory in std::path::Path::new(cgroup).ancestors().filter(|one| one.parent().is_some()) {
                fs::remove_dir(hierarchy.path().join(directory)).ok();
            }
        }
    }
}

#[test]
fn a_container_of_a_real_runtime_is_judged_and_recorded_under_its_id() {
    let World { host, gate, api, .. } = &*WORLD;
    let number = number();
    let hook = network_hook(host, number);
    let args = ["/usr/bin/python3", "-c", ASK, "/oci-allowed", "/oci-denied/denied"];
    // The runtime makes its container's cgroup itself, as an engine tells it to.
    let cgroup = format!("{}.slice/agent/docker/{CONTAINER}", host.name());
    let bundle = bundle(host, &format!("/{cgroup}"), &hook, &args);
    let state = host.folder().join("oci");
    let (state, bundle) = (state.display().to_string(), bundle.display().to_string());
    let words = ["--root", &state, "run", "--bundle", &bundle, host.name()];
    let said = host.client().run("runc", &words);
    remove_older(&cgroup);
    let said = said.success().text();
    assert!(said.contains("/oci-allowed 200") && said.contains("/oci-denied/denied 403"), "{said}");
    assert!(reached(api, "/oci-allowed") && !reached(api, "/oci-denied"));
    for path in ["/oci-allowed", "/oci-denied/denied"] {
        let opened = gate.session_of(&gate.entry_of(path)).summary.opened;
        let workload = opened.workload.unwrap();
        assert_eq!(workload.container.as_deref(), Some(CONTAINER), "{:?}", workload.cgroup);
        assert_eq!(workload.key(), format!("container:{CONTAINER}"));
        assert_eq!((workload.image, workload.pod), (None, None), "no runtime's file says more of it");
    }
    let session = gate.session_of(&gate.entry_of("/oci-allowed")).summary.opened.session.to_string();
    let shown = gate.tidegate(&["sessions", "show", &session]).success().text();
    assert!(shown.contains(CONTAINER), "{shown}");
}

#[test]
fn a_container_that_somebody_only_named_in_a_cgroup_of_his_own_is_not_believed() {
    let World { host, gate, .. } = &*WORLD;
    let forged = format!("agent/delegated/docker/{CONTAINER}");
    let seat = host.seat(&forged);
    // A control: as long as the directories are root's, they count.
    let ask = |path: &str| {
        let mut client = dial(&Seat::at(&host.netns(), &seat), API).unwrap();
        assert_eq!(client.get("192.0.2.10", path).unwrap().status, 200);
        gate.session_of(&gate.entry_of(path)).summary.opened.workload.unwrap()
    };
    assert_eq!(ask("/roots-name").container.as_deref(), Some(CONTAINER));
    let delegated = host.cgroup().join("agent/delegated");
    for below in ["", "docker", &format!("docker/{CONTAINER}")] {
        std::os::unix::fs::chown(delegated.join(below), Some(4711), Some(4711)).unwrap();
    }
    let workload = ask("/users-name");
    assert_eq!((workload.container, workload.uid), (None, 0));
    assert!(workload.cgroup.unwrap().ends_with(CONTAINER), "where it is, is known");
}

#[test]
fn rules_see_a_pod_and_an_image_and_are_wrong_about_neither_when_they_are_unknown() {
    let World { host, .. } = &*WORLD;
    let policies = host.folder().join("rules");
    fs::create_dir_all(&policies).unwrap();
    fs::write(policies.join("a.toml"), NOUNS.replace("NAME", host.name())).unwrap();
    let rules = r#"
        permit (principal is Workload, action == Action::"http", resource == Target::"api")
        when { principal has image && principal.image like "registry.example/*" && principal has pod };
    "#;
    fs::write(policies.join("a.cedar"), rules).unwrap();
    let cases = |expected: &str, who: &str| {
        format!(
            "[[case]]\nname = \"{expected} {}\"\nas = {{ uid = 1{who} }}\ntarget = \"api\"\nmethod = \"GET\"\npath = \"/\"\nexpect = \"{expected}\"\n",
            who.len()
        )
    };
    let image = r#", image = "registry.example/agent:1""#;
    let pod = r#", pod = "3f1c8f5e-1111-2222-3333-0123456789ab""#;
    let text = [
        cases("allow", &format!("{image}{pod}")),
        cases("deny", image),
        cases("deny", pod),
        cases("deny", &format!(", image = \"elsewhere.example/agent:1\"{pod}")),
    ];
    fs::write(policies.join("a.cases.toml"), text.concat()).unwrap();
    let directory = policies.display().to_string();
    let seat = host.client();
    let tidegate = tidegate_tests::built("tidegate").display().to_string();
    let said = seat.run(&tidegate, &["policy", "test", &directory]);
    assert_eq!(said.code(), Some(0), "{}{}", said.text(), said.errors());
}

#[test]
fn past_the_bound_a_namespace_is_refused_until_another_one_goes() {
    let most = tidegate::kernel::SPACES_MAX as usize;
    let host = host();
    let _api = Upstream::start(&host.client(), API);
    let gate = gate_on(&host).start();
    let script =
        "for n in $(seq $1); do unshare --net sh -c 'ip link set lo up; exec sleep 600' & done; wait";
    let agents = host.agent().spawn("sh", &["-c", script, "sh", &(most + 1).to_string()]);
    let spaces =
        || gate.tidegate(&["--json", "status"]).json()["kernel"]["spaces"].as_array().unwrap().clone();
    let began = Instant::now();
    let counted = || {
        let spaces = spaces();
        let served = spaces.iter().filter(|space| space["served"] == true).count();
        let why: Vec<_> =
            spaces.iter().filter_map(|space| space["why"].as_str().map(str::to_owned)).collect();
        (served, why)
    };
    while counted() != (most, vec!["too-many".to_owned()]) {
        assert!(began.elapsed() < BUSY, "{:?}\n{}", counted(), gate.log());
        std::thread::sleep(Duration::from_millis(500));
    }
    let refused =
        spaces().into_iter().find(|space| space["served"] == false).unwrap()["inode"].as_u64().unwrap();
    let at = |inode: u64| sleepers(&host).into_iter().find(|(_, other)| *other == inode).unwrap().0;
    let seat = Seat::at(std::path::Path::new(&format!("/proc/{}/ns/net", at(refused))), &host.agent());
    let answer = seat.connect(API.parse().unwrap()).err().unwrap();
    assert_eq!(answer.kind(), ErrorKind::PermissionDenied, "{answer}");
    // Another one ends: its place is the next one's.
    let (other, _) = sleepers(&host).into_iter().find(|(_, inode)| *inode != refused).unwrap();
    drop(host.client().run("kill", &["-9", &other.to_string()]).success());
    while counted() != (most, Vec::new()) {
        assert!(began.elapsed() < BUSY, "{:?}", counted());
        std::thread::sleep(Duration::from_millis(500));
    }
    // Nothing leads out of it, so the gate cannot reach the target, and says so.
    let mut client = seat.connect(API.parse().unwrap()).unwrap();
    assert_eq!(client.get("192.0.2.10", "/its-turn").unwrap().status, 502);
    drop(agents);
}

/// How long so many namespaces may take on a busy machine.
const BUSY: Duration = Duration::from_secs(400);

/// The processes of the agent's cgroup that have a namespace of their own, with its inode.
fn sleepers(host: &Host) -> Vec<(u32, u64)> {
    use std::os::unix::fs::MetadataExt;
    let home = fs::metadata(host.netns()).unwrap().ino();
    let all = fs::read_to_string(host.agent().cgroup().join("cgroup.procs")).unwrap();
    all.lines()
        .filter_map(|pid| {
            let inode = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
            (inode != home).then_some((pid.parse().ok()?, inode))
        })
        .collect()
}
