//! What the trials do to the machine, and see of it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Emulated processors are slow, and there is other work.
const PATIENCE: Duration = Duration::from_secs(90);
/// The cgroup of the demo's agent, in the slice that the package guards.
pub(crate) const AGENT: &str = "/sys/fs/cgroup/agents.slice/react-agent.service";
pub(crate) const POLICIES: &str = "/etc/tidegate/policies";
/// The request that the demo's policy allows, and one that it denies.
pub(crate) const READ: &str = "http://crm.example:8800/v1/customers/42";

/// How a command ended, and everything it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl Said {
    /// It must have worked.
    pub(crate) fn success(self) -> String {
        assert!(self.ok, "{}", self.text);
        self.text
    }
}

/// Runs a line of shell.
pub(crate) fn run(line: &str) -> Said {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Said { ok: output.status.success(), text: format!("{line}\n{text}") }
}

/// Its standard output alone, without the line's end.
pub(crate) fn read(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Waits until that gives something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// One property of a unit.
pub(crate) fn property(unit: &str, name: &str) -> String {
    read(&format!("systemctl show --value --property={name} {unit}"))
}

/// The same as a number.
pub(crate) fn number(unit: &str, name: &str) -> u64 {
    let value = property(unit, name);
    value.parse().unwrap_or_else(|_| panic!("{unit}: {name} is {value:?}"))
}

/// What curl says of a request by the demo's agent: the status (`000`: no connection), a space, the body.
pub(crate) fn agent(arguments: &str) -> String {
    fs::create_dir_all(AGENT).unwrap();
    curl(&format!("echo $$ >{AGENT}/cgroup.procs && "), arguments)
}

/// The same by a process that nothing guards.
pub(crate) fn anybody(arguments: &str) -> String {
    curl("", arguments)
}

fn curl(before: &str, arguments: &str) -> String {
    let body = "/tmp/trial-body";
    let _ = fs::remove_file(body);
    // The shell that goes where the agent is becomes curl. An upgrade takes half a minute on a processor that is emulated.
    let status = read(&format!(
        "{before}exec curl --silent --max-time 60 --output {body} --write-out '%{{http_code}}' {arguments}"
    ));
    format!("{status} {}", fs::read_to_string(body).unwrap_or_default())
}

/// Waits for the gate to be open, and for the demo's policy to be in force.
pub(crate) fn until_enforced() {
    eventually("the demo's policy in force", || agent(READ).starts_with("200").then_some(()));
}

/// The process that systemd watches, and that of its children which reads the network.
pub(crate) fn keeper_and_enforcer() -> (u64, u64) {
    let keeper = number("tidegate.service", "MainPID");
    let child = eventually("an enforcer", || {
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().filter_map(|child| child.parse().ok()).find(|child: &u64| {
            fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.ends_with(b"--kept\0"))
        })
    });
    (keeper, child)
}

/// How many sessions with the demo's target are on record.
pub(crate) fn on_record() -> usize {
    run("tidegate sessions list --limit 1000").success().matches(" crm ").count()
}

/// Owner, group and mode, and the path.
pub(crate) fn about(path: &str) -> String {
    assert!(Path::new(path).exists(), "{path} is not there");
    read(&format!("stat --format='%U:%G %a' {path}"))
}
