//! Loaded, started, killed, restarted, upgraded, unloaded: in every state the gate is open for what is judged or shut for
//! everything, and never a way past it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate::kernel;
use tidegate_tests::host::{HOST4, HOST6};
use tidegate_tests::recorded::fault;
use tidegate_tests::{Answer, Client, Gate, Host, Process, StopOnDrop, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["192.0.2.10", "2001:db8::10"]
ports = [80]

[[target]]
name = "service"
direction = "inbound"
ports = [8080]
require = "peer"
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"api");
permit (principal, action == Action::"http", resource == Target::"service");
"#;

const API: [&str; 2] = ["192.0.2.10:80", "[2001:db8::10]:80"];

struct World {
    host: Host,
    gate: Gate,
    api: [Upstream; 2],
    service: Upstream,
}

impl World {
    fn new() -> Self {
        let host = Host::with_remote();
        for address in API {
            host.add_address(address.parse::<SocketAddr>().unwrap().ip());
        }
        let api = API.map(|address| Upstream::start(&host.client(), address));
        let service = Upstream::start(&host.client(), "[::]:8080");
        let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start();
        Self { host, gate, api, service }
    }

    fn connect(&self) -> Client {
        self.host.client().connect(API[0].parse().unwrap()).unwrap()
    }

    fn reached(&self) -> usize {
        self.api.iter().chain([&self.service]).map(|upstream| upstream.requests().len()).sum()
    }

    fn works(&self) {
        for address in API {
            let mut client = self.host.client().connect(address.parse().unwrap()).unwrap();
            let host = address.strip_suffix(":80").unwrap();
            assert_eq!(client.get(host, "/works").unwrap().status, 200, "{address}");
        }
        for address in [SocketAddr::from((HOST4, 8080)), SocketAddr::from((HOST6, 8080))] {
            let mut client = self.host.remote().connect(address).unwrap();
            assert_eq!(client.get("service", "/works").unwrap().status, 200, "{address}");
        }
    }

    /// Every protected connect is refused, at once.
    fn is_shut(&self) {
        let before = self.reached();
        let local = self.host.client();
        let remote = self.host.remote();
        let service4 = SocketAddr::from((HOST4, 8080));
        let service6 = SocketAddr::from((HOST6, 8080));
        let loopback = "127.0.0.1:8080".parse().unwrap();
        let loopback6 = "[::1]:8080".parse().unwrap();
        let tries = API.map(|address| (&local, address.parse().unwrap())).into_iter().chain([
            (&local, service4),
            (&local, service6),
            (&local, loopback),
            (&local, loopback6),
            (&remote, service4),
            (&remote, service6),
        ]);
        for (seat, address) in tries {
            let start = Instant::now();
            let error = seat.connect(address).err().unwrap_or_else(|| panic!("{address} is open"));
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}: {error}");
            assert!(start.elapsed() < Duration::from_secs(3), "{address}: not at once");
        }
        assert_eq!(self.reached(), before);
    }
}

/// What is pinned, below the pin folder.
fn pins(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.insert(entry.path());
        if entry.path().is_dir() {
            found.extend(pins(&entry.path()));
        }
    }
    found
}

#[test]
fn loaded_and_not_started_is_shut() {
    let mut world = World::new();
    world.works();
    world.gate.stop();
    world.is_shut();
    world.gate.start();
    world.works();
}

#[test]
fn killed_is_shut_at_once_and_started_again_it_works_with_the_same_pins() {
    let mut world = World::new();
    let mut open = world.connect();
    assert_eq!(open.get("192.0.2.10", "/open").unwrap().status, 200);
    let before = pins(world.gate.pins());
    assert!(!before.is_empty());
    world.gate.kill();
    world.is_shut();
    assert!(open.get("192.0.2.10", "/open").is_err(), "a connection does not outlive its gate");
    assert_eq!(pins(world.gate.pins()), before);
    world.gate.start();
    world.works();
    assert_eq!(pins(world.gate.pins()), before, "re-adopted, not loaded anew");
}

#[test]
fn a_frozen_gate_lets_nothing_through() {
    let mut world = World::new();
    world.gate.freeze(true);
    let before = world.reached();
    let mut client = world.connect();
    client.set_patience(Duration::from_secs(1));
    assert!(client.get("192.0.2.10", "/frozen").is_err());
    assert_eq!(world.reached(), before);
    world.gate.freeze(false);
    client.set_patience(Duration::from_secs(20));
    assert_eq!(client.response("GET").unwrap().status, 200, "thawed, it answers what waited");
}

#[test]
fn a_gate_that_stays_frozen_is_shut_at_once_says_so_and_opens_by_itself() {
    let mut world = World::new();
    // Of the kernel itself: a frozen enforcer answers no command.
    let heartbeat = |world: &World| kernel::status(world.gate.pins()).unwrap().heartbeat;
    let shown = world.gate.tidegate(&["status"]).success().text();
    assert!(shown.contains("heartbeat 0.") || shown.contains("heartbeat 1."), "{shown}");
    world.gate.freeze(true);
    eventually("the end of its heartbeat", || (!heartbeat(&world).alive).then_some(()));
    world.is_shut();
    let doctor = kernel::heartbeat_check(world.gate.pins());
    assert!(doctor.found == kernel::Found::Reduced && doctor.means.contains("killed or hangs"), "{doctor:?}");
    world.gate.freeze(false);
    eventually("its heartbeat", || heartbeat(&world).alive.then_some(()));
    world.works();
    world.gate.stop();
    assert_eq!(heartbeat(&world).age_ms, None, "stopped in order, it is gone at once");
    world.is_shut();
}

#[test]
fn no_kill_restart_or_upgrade_opens_a_window() {
    let mut world = World::new();
    let (stop, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (seat, to) = (world.host.client(), API[0].parse().unwrap());
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = tries.fetch_add(1, Ordering::Relaxed);
                // Only a request through the gate loses this field.
                let request =
                    format!("GET /try/{number}. HTTP/1.1\r\nHost: 192.0.2.10\r\nX-Real-IP: 1.1.1.1\r\n\r\n");
                if let Ok(mut client) = seat.connect(to) {
                    client.set_patience(Duration::from_secs(5));
                    client.ask(request).ok();
                }
            }
        });
        let stopping = StopOnDrop(&stop);
        for _ in 0..3 {
            world.gate.kill();
            std::thread::sleep(Duration::from_millis(100));
            // An upgrade: the programs are replaced in place, dead or alive.
            drop(world.gate.tidegate(&["load"]).success());
            world.gate.start();
            drop(world.gate.tidegate(&["load"]).success());
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(stopping);
        load.join().unwrap();
    });
    let passed = world.api[0].requests();
    assert!(passed.len() > 10, "{} of {tries:?} went through the gate", passed.len());
    let bypassed: Vec<_> = passed.iter().filter(|request| request.header("x-real-ip").is_some()).collect();
    assert!(bypassed.is_empty(), "{} requests went past the gate: {:?}", bypassed.len(), bypassed[0]);
}

#[test]
fn loading_over_a_running_gate_changes_nothing_for_its_connections() {
    let world = World::new();
    let mut client = world.connect();
    assert_eq!(client.get("192.0.2.10", "/before").unwrap().status, 200);
    let before = pins(world.gate.pins());
    for _ in 0..2 {
        drop(world.gate.tidegate(&["load"]).success());
        assert_eq!(client.get("192.0.2.10", "/after").unwrap().status, 200);
        world.works();
    }
    assert_eq!(pins(world.gate.pins()), before);
}

#[test]
fn unloaded_nothing_is_left_and_everything_is_as_it_was() {
    let mut world = World::new();
    world.gate.stop();
    drop(world.gate.tidegate(&["unload"]).success());
    assert_eq!(pins(world.gate.pins()), BTreeSet::new());
    for (address, upstream) in API.iter().zip(&world.api) {
        let mut client = world.host.client().connect(address.parse().unwrap()).unwrap();
        assert_eq!(client.get("whoever", "/direct").unwrap().status, 200);
        assert!(upstream.requests().iter().any(|request| request.target == "/direct"));
    }
    let mut client = world.host.remote().connect((HOST4, 8080).into()).unwrap();
    assert_eq!(client.get("whoever", "/direct").unwrap().status, 200);
    assert!(world.gate.entries_of("/direct").is_empty());
    let again = world.gate.tidegate(&["unload"]).success().text();
    assert!(again.contains("nothing is loaded"), "{again}");
    let again = world.gate.tidegate(&["--json", "unload"]).success().json();
    assert_eq!((again["links"].as_u64(), again["maps"].as_u64()), (Some(0), Some(0)));
    drop(world.gate.tidegate(&["load"]).success());
    world.is_shut();
}

#[test]
fn unloading_what_may_not_be_looked_at_is_not_unloading_nothing() {
    let mut world = World::new();
    world.gate.stop();
    let nobody = world.host.seat("gate").uid(65534);
    let refused = world.gate.tidegate_at(&nobody, &["unload"]);
    assert_eq!(refused.code(), Some(3), "{}", refused.text());
    assert!(!pins(world.gate.pins()).is_empty());
    world.is_shut();
}

#[test]
fn an_enforcer_without_programs_says_so_or_loads_them_and_never_runs_blind() {
    let host = Host::new();
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).build();
    let mut command = tidegate_tests::Seat::command(&host.seat("gate"), tidegate_tests::built("tidegate"));
    command.args(["--policies"]).arg(gate.policies()).arg("--state").arg(gate.state());
    command.arg("--pins").arg(gate.pins()).arg("--cgroup").arg(host.cgroup());
    command.arg("--admin-socket").arg(gate.admin_socket()).arg("run");
    let mut process = Process::start(command);
    let ended = eventually("a word", || {
        let up = gate.try_admin("GET", "/v1/status", "").is_some();
        process.ended().map(Some).or_else(|| up.then_some(None))
    });
    match ended {
        Some(status) => {
            assert_eq!(status.code(), Some(3));
            assert!(process.stderr().contains("load"), "{}", process.stderr());
        }
        None => assert!(!pins(gate.pins()).is_empty(), "it runs, so the programs are there"),
    }
    process.stop(Duration::from_secs(15));
}

#[test]
fn asked_to_stop_it_finishes_what_has_begun_and_takes_nothing_new() {
    let mut world = World::new();
    let answer =
        Answer::chunked(200, &[]).chunk("one").pause(Duration::from_secs(3)).chunk("two").last_chunk(&[]);
    world.api[0].next(answer);
    let mut client = world.connect();
    let mut idle = world.connect();
    client.send("GET /long HTTP/1.1\r\nHost: 192.0.2.10\r\n\r\n").unwrap();
    let _ = world.api[0].await_requests(1);
    let before = world.reached();
    let pid = rustix::process::Pid::from_raw(i32::try_from(world.gate.pid()).unwrap()).unwrap();
    // The gate is the harness's own child and not reaped yet, so the id is still its own.
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    eventually("new connects to be refused", || {
        world
            .host
            .client()
            .connect(API[0].parse().unwrap())
            .err()
            .map(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(idle.is_closed_within(Duration::from_secs(10)));
    let response = client.response("GET").unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "onetwo"));
    world.gate.stop();
    world.is_shut();
    assert_eq!(world.reached(), before);
    assert_eq!(fault(&world.gate.entry_of("/long")), "nobody");
    assert!(
        world.gate.sessions().iter().all(|session| session.summary.closed.is_some()),
        "every session is closed"
    );
}

#[test]
fn what_outlasts_the_drain_is_cut_off_and_recorded_as_the_gates_doing() {
    let mut world = World::new();
    world.api[0].next(Answer::silence());
    let mut client = world.connect();
    client.send("GET /endless HTTP/1.1\r\nHost: 192.0.2.10\r\n\r\n").unwrap();
    let _ = world.api[0].await_requests(1);
    let start = Instant::now();
    world.gate.stop();
    assert!(start.elapsed() < tidegate::limits::DRAIN_TIMEOUT + Duration::from_secs(4));
    assert_eq!(fault(&world.gate.entry_of("/endless")), "gate");
    assert!(client.response("GET").is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
}

#[test]
fn nobody_takes_the_gates_port_while_it_is_dead() {
    let mut world = World::new();
    world.gate.kill();
    let fake = |seat: &tidegate_tests::Seat, address: &str| {
        let program = "import socket, sys\nhost, port = sys.argv[1], 15001\n\
                       family = socket.AF_INET6 if ':' in host else socket.AF_INET\n\
                       s = socket.socket(family)\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                       s.bind((host, port))\ns.listen()\nprint('listening', flush=True)\ns.accept()\nprint('caught', flush=True)\n";
        seat.spawn("/usr/bin/python3", &["-c", program, address])
    };
    for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
        let mut listener = fake(&world.host.seat("elsewhere"), address);
        listener.wait(Duration::from_secs(2));
        world.is_shut();
        assert!(!listener.stdout().contains("caught"), "{address}: a fake gate got a connection");
    }
    world.gate.start();
    world.works();
}

#[test]
fn a_second_enforcer_is_refused_and_the_first_unharmed() {
    let world = World::new();
    let second = world.gate.tidegate(&["run"]);
    assert_eq!(second.code(), Some(3), "{}{}", second.text(), second.errors());
    world.works();
}

#[test]
fn a_user_without_privilege_is_told_what_is_missing() {
    let host = Host::new();
    let gate = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES).build();
    let loaded = gate.tidegate_at(&host.seat("gate").uid(65534), &["load"]);
    assert_eq!(loaded.code(), Some(3));
    let said = loaded.errors();
    assert!(said.contains("root") || said.contains("CAP_BPF") || said.contains("sudo"), "{said}");
    assert_eq!(pins(gate.pins()), BTreeSet::new());
}

#[test]
fn a_load_that_cannot_be_done_leaves_nothing_half_loaded() {
    let host = Host::new();
    let upstream = Upstream::start(&host.client(), "127.0.0.1:80");
    let gate = Gate::on(&host).policy("a.toml", NOUNS).cgroup(Path::new("/nonexistent")).build();
    let loaded = gate.tidegate(&["load"]);
    assert_eq!(loaded.code(), Some(3), "{}", loaded.text());
    assert!(loaded.errors().contains("/nonexistent"), "{}", loaded.errors());
    assert_eq!(host.client().curl(&["http://127.0.0.1/"]).status, 200);
    drop(upstream);
}

#[test]
fn a_gate_without_file_descriptors_unguards_nobody() {
    let host = Host::new();
    host.add_address("192.0.2.30".parse().unwrap());
    let agents = format!("guarded-{}.slice", std::process::id());
    let free = Upstream::start(&host.client(), "192.0.2.30:80");
    let nouns = format!("[[guard]]\nname = \"agents\"\nunits = [\"{agents}\"]\n");
    let agent = host.seat(&agents);
    // The dialer's start makes the slice.
    assert!(agent.dialer().pid() > 0);
    let gate = Gate::on(&host).policy("guard.toml", &nouns).policy("none.cedar", "").start();
    let pid = rustix::process::Pid::from_raw(i32::try_from(gate.pid()).unwrap()).unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", gate.pid())).unwrap().count() as u64;
    let narrow = rustix::process::Rlimit { current: Some(open), maximum: Some(open) };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, narrow).unwrap();
    // Twice as long as it takes to look for the guarded units again.
    std::thread::sleep(Duration::from_secs(2));
    if let Ok(mut client) = agent.connect("192.0.2.30:80".parse().unwrap()) {
        let answered = client.get("192.0.2.30", "/");
        assert!(answered.is_err() || answered.unwrap().status == 403);
    }
    assert_eq!(free.connections(), 0, "an undeclared destination was reached");
}
