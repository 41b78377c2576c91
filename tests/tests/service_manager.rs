//! What a service manager hears (sd_notify(3)): ready of an open gate, alive of one that beats, and from nobody but the keeper.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_tests::{Builder, Gate, Host, Upstream, eventually};

const NOUNS: &str =
    "[[target]]\nname = \"api\"\ndirection = \"outbound\"\naddresses = [\"127.0.0.1\"]\nports = [7001]\n";
const RULES: &str = "permit (principal, action == Action::\"http\", resource == Target::\"api\");\n";
const HOST: &str = "127.0.0.1:7001";
/// An account that nobody else has.
const USER: &str = "--user=61236";
/// Between two beats there is a second; a loaded machine may take longer.
const SILENCE: Duration = Duration::from_secs(8);

/// Stands in for systemd.
struct Manager(UnixDatagram, String);

impl Manager {
    fn new(host: &Host) -> Self {
        let path = host.folder().join("manager.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket, path.display().to_string())
    }

    /// Everything that has come since the last look.
    fn heard(&self) -> String {
        let (mut all, mut bytes) = (String::new(), [0; 4096]);
        while let Ok(length) = self.0.recv(&mut bytes) {
            all += &String::from_utf8_lossy(&bytes[..length]);
            all.push('\n');
        }
        all
    }

    fn hears(&self, word: &str) -> String {
        let mut all = String::new();
        eventually(word, || {
            all += &self.heard();
            all.contains(word).then(|| all.clone())
        })
    }
}

fn gate(host: &Host, manager: &Manager) -> Builder {
    let socket = format!("NOTIFY_SOCKET={}", manager.1);
    Gate::on(host).policy("a.toml", NOUNS).policy("a.cedar", RULES).option_of_run(USER).run_through(&[
        "env",
        &socket,
        "WATCHDOG_USEC=90000000",
    ])
}

fn signal(process: u32, what: Signal) {
    kill_process(Pid::from_raw(i32::try_from(process).unwrap()).unwrap(), what).unwrap();
}

#[test]
fn ready_and_alive_are_said_of_a_gate_that_is_open_and_no_more_of_one_that_hangs() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), HOST);
    let manager = Manager::new(&host);
    let mut gate = gate(&host, &manager).start();
    assert!(manager.hears("READY=1").contains("STATUS=the gate is open"));
    manager.hears("WATCHDOG=1\n");
    let enforcer = gate.child("--kept");
    let environment = fs::read(format!("/proc/{enforcer}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");

    signal(enforcer, Signal::STOP);
    // What was on its way has come.
    std::thread::sleep(Duration::from_secs(2));
    manager.heard();
    let begun = Instant::now();
    while begun.elapsed() < SILENCE {
        let heard = manager.heard();
        assert!(!heard.contains("WATCHDOG=1"), "the keeper lives, the gate does not: {heard}");
        std::thread::sleep(Duration::from_millis(100));
    }
    signal(enforcer, Signal::CONT);
    manager.hears("WATCHDOG=1\n");
    gate.stop();
    assert!(manager.heard().contains("STOPPING=1"));
}

#[test]
fn a_gate_that_cannot_open_is_never_said_to_be_ready() {
    let host = Host::new();
    let manager = Manager::new(&host);
    let mut gate = gate(&host, &manager).start();
    manager.hears("READY=1");
    // Where the record should be there is something else: the keeper stands, and no enforcer gets as far as its doors.
    gate.stop();
    manager.heard();
    let state = gate.state();
    fs::write(state.join("record/record.redb"), "in the way").unwrap();
    gate.begin();
    let mut heard = manager.hears("STATUS=the enforcer ended");
    std::thread::sleep(Duration::from_secs(3));
    heard += &manager.heard();
    assert!(!heard.contains("READY=1") && !heard.contains("WATCHDOG=1"), "{heard}\n{}", gate.log());
    gate.kill();
}

#[test]
fn an_upgrade_is_a_reload_of_the_same_process() {
    let host = Host::new();
    let _upstream = Upstream::start(&host.client(), HOST);
    let manager = Manager::new(&host);
    let gate = gate(&host, &manager).start();
    let pid = gate.pid();
    manager.hears("READY=1");
    drop(gate.tidegate(&["upgrade"]).success());
    let heard = manager.hears("READY=1");
    assert!(heard.find("RELOADING=1").unwrap() < heard.find("READY=1").unwrap(), "{heard}");
    assert!(!heard.contains("STOPPING=1") && !heard.contains("MAINPID="), "{heard}");
    assert_eq!(gate.pid(), pid);
    manager.hears("WATCHDOG=1\n");
}
