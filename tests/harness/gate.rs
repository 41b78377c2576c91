//! The real `tidegate`, on a host of the test's own: its policies, state, pins and admin socket in that host's folder.
//! What it promises is asked of the program itself; nothing here knows its insides.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::message::{Reader, Response};
use crate::process::{Finished, Process};
use crate::{Host, PATIENCE, Seat, Terminal, built, eventually};

/// How long the gate may take to drain before it is killed.
const DRAIN: Duration = Duration::from_secs(15);

/// How long loading may take: on an emulated machine the kernel looks at the programs for half a minute.
const LOADING: Duration = Duration::from_mins(2);

/// A gate, running or not. Stopped and unloaded when dropped.
pub struct Gate {
    seat: Seat,
    settings: Settings,
    process: Option<Process>,
    /// The one before it, if that was killed: a test that fails shows what it said.
    killed: Option<Process>,
}

/// A gate to be.
pub struct Builder {
    seat: Seat,
    settings: Settings,
}

#[derive(Clone)]
struct Settings {
    folder: PathBuf,
    pins: PathBuf,
    cgroup: PathBuf,
    more: Vec<String>,
    /// The program, where it is not the one that was built.
    program: Option<PathBuf>,
    /// Options of `tidegate run` alone, and what runs it.
    run: Vec<String>,
    through: Vec<String>,
}

/// The variable that has every gate run in four processes, the enforcer as this user, recorder and admin as the next ones.
const USER: &str = "TIDEGATE_TEST_USER";

/// Gives a file that a test made to the enforcer's user, where that is another one.
pub fn give_to_enforcer(path: &Path) {
    give(path, 0);
}

/// The same to the recorder's user.
pub fn give_to_recorder(path: &Path) {
    give(path, 1);
}

fn give(path: &Path, next: u32) {
    if let Some(uid) = std::env::var(USER).ok().and_then(|user| user.parse::<u32>().ok()) {
        std::os::unix::fs::chown(path, Some(uid + next), None).expect("tests run as root");
    }
}

impl Gate {
    /// A gate for this host, attached to the host's cgroup and namespace, with no policy yet.
    ///
    /// # Panics
    /// When the host's folder is gone.
    #[must_use]
    pub fn on(host: &Host) -> Builder {
        let settings = Settings {
            folder: host.folder(),
            pins: host.pins().join("gate"),
            cgroup: host.cgroup(),
            more: Vec::new(),
            program: None,
            run: Vec::new(),
            through: Vec::new(),
        };
        for folder in [settings.policies(), settings.state()] {
            fs::create_dir_all(folder).expect("the host's folder is writable");
        }
        Builder { seat: host.seat("gate"), settings }
    }

    /// Where its policy files are.
    #[must_use]
    pub fn policies(&self) -> PathBuf {
        self.settings.policies()
    }

    /// Where its record is.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.settings.state()
    }

    /// Where the bodies of held operations wait.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        let enforcers = self.state().join("enforcer/spool");
        if enforcers.exists() { enforcers } else { self.state().join("spool") }
    }

    /// The keeper's child in this role: `--kept` is the enforcer, `--recording` the recorder, `--admitting` admin.
    #[must_use]
    pub fn child(&self, role: &str) -> u32 {
        let keeper = self.pid();
        let has = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == role.as_bytes())
        };
        eventually(role, || {
            let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(has)
        })
    }

    /// Where its programs, links and maps are pinned.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.settings.pins
    }

    /// Its admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.settings.admin_socket()
    }

    /// The enforcer's process id.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the enforcer is running").pid()
    }

    /// What the enforcer has logged since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |process| process.stdout() + &process.stderr())
    }

    /// Kills the enforcer with -9. The programs stay loaded: the gate is shut.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
            self.killed = Some(process);
        }
    }

    /// Stops the enforcer in an orderly way. The programs stay loaded: the gate is shut.
    ///
    /// # Panics
    /// When it does not end by itself, or not with 0.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let status = process.stop(DRAIN);
            assert!(
                status.success(),
                "the enforcer, asked to stop: {status}\n{}{}",
                process.stdout(),
                process.stderr()
            );
        }
    }

    /// Freezes or thaws the enforcer (SIGSTOP, SIGCONT): alive and deaf.
    pub fn freeze(&mut self, frozen: bool) {
        if let Some(process) = &mut self.process {
            process.signal(if frozen { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Starts the enforcer, and waits until it answers. Loads nothing.
    ///
    /// # Panics
    /// When it ends, or does not answer in time; its log is shown.
    pub fn start(&mut self) {
        self.begin();
        eventually("an answer on the admin socket", || {
            let ended = self.process.as_mut().and_then(Process::ended);
            assert!(
                ended.is_none(),
                "the enforcer did not start: {}\n{}",
                ended.unwrap_or_default(),
                self.log()
            );
            self.try_admin("GET", "/v1/status", "").filter(|answer| answer.status == 200)
        });
    }

    /// Runs `tidegate run` and waits for nothing.
    ///
    /// # Panics
    /// When it runs already, or cannot start.
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "the enforcer is running");
        self.process = Some(Process::start(self.settings.enforcer(&self.seat)));
    }

    /// Stops, then starts.
    ///
    /// # Panics
    /// As both.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Puts a policy file in place, atomically. Does not wait: see [`Gate::await_status`].
    ///
    /// # Panics
    /// When the folder is gone.
    pub fn write_policy(&self, name: &str, text: &str) {
        self.settings.write_policy(name, text);
    }

    /// Removes a policy file.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove_policy(&self, name: &str) {
        fs::remove_file(self.policies().join(name)).expect("the policy file is there");
    }

    /// A request on the admin socket, as root. `None` when nobody answers.
    #[must_use]
    pub fn try_admin(&self, method: &str, path: &str, body: &str) -> Option<Response> {
        let mut stream = UnixStream::connect(self.admin_socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").ok()?;
        Reader::new(&mut stream as &mut dyn Read).response(method).ok()
    }

    /// A request on the admin socket, as root.
    ///
    /// # Panics
    /// When nobody answers.
    #[must_use]
    pub fn admin(&self, method: &str, path: &str, body: &str) -> Response {
        self.try_admin(method, path, body)
            .unwrap_or_else(|| panic!("no answer to {method} {path} on the admin socket"))
    }

    /// What the enforcer says of itself: `GET /v1/status`.
    ///
    /// # Panics
    /// When nobody answers.
    #[must_use]
    pub fn status(&self) -> Value {
        self.admin("GET", "/v1/status", "").json()
    }

    /// Waits until the status is as wanted (a new policy digest, a fault).
    ///
    /// # Panics
    /// When it does not become so in time.
    #[must_use]
    pub fn await_status(&self, awaited: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(awaited, || Some(self.status()).filter(|status| wanted(status)))
    }

    /// Runs `tidegate WORDS...` against this gate, as root in the gate's seat.
    ///
    /// # Panics
    /// When it cannot start, or never ends.
    #[must_use]
    pub fn tidegate(&self, words: &[&str]) -> Finished {
        self.tidegate_at(&self.seat, words)
    }

    /// Runs `tidegate WORDS...` against this gate from another seat, e.g. `host.client().login(1001)`.
    ///
    /// # Panics
    /// When it cannot start, or never ends.
    #[must_use]
    pub fn tidegate_at(&self, seat: &Seat, words: &[&str]) -> Finished {
        Finished::of(self.settings.command(seat, words), PATIENCE)
    }

    /// Runs `tidegate WORDS...` as a person who logged in with this uid (and became root by sudo).
    ///
    /// # Panics
    /// As [`Gate::tidegate`], and where the kernel has no login uids.
    #[must_use]
    pub fn tidegate_as(&self, login: u32, words: &[&str]) -> Finished {
        self.tidegate_at(&self.seat.login(login), words)
    }

    /// Runs `tidegate WORDS...` against this gate with this on its standard input.
    ///
    /// # Panics
    /// When it cannot start, or never ends.
    #[must_use]
    pub fn tidegate_given(&self, input: &str, words: &[&str]) -> Finished {
        let mut given = tempfile::tempfile().expect("a file without a name");
        given.write_all(input.as_bytes()).and_then(|()| given.rewind()).expect("it takes the input");
        let mut command = self.settings.command(&self.seat, words);
        command.stdin(given);
        Finished::of(command, PATIENCE)
    }

    /// Opens `tidegate WORDS...` on a terminal of this seat.
    ///
    /// # Panics
    /// When there is no terminal.
    #[must_use]
    pub fn terminal(&self, seat: &Seat, columns: u16, lines: u16, words: &[&str]) -> Terminal {
        Terminal::open(seat, columns, lines, &self.settings.command(seat, words))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(3));
        }
        // Detaches now what the host's own end would detach with the pins.
        if self.settings.pins.exists() && !std::thread::panicking() {
            drop(self.tidegate(&["unload"]));
        }
    }
}

impl Builder {
    /// With this policy file.
    ///
    /// # Panics
    /// When the host's folder is gone.
    #[must_use]
    pub fn policy(self, name: &str, text: &str) -> Self {
        self.settings.write_policy(name, text);
        self
    }

    /// With the policy files of this folder, and the folders in it.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn policies_of(self, folder: &Path) -> Self {
        copy(folder, &self.settings.policies());
        self
    }

    /// Attached to this cgroup instead: the root for escape tests, which hold [`crate::root_cgroup_lock`].
    #[must_use]
    pub fn cgroup(mut self, cgroup: &Path) -> Self {
        self.settings.cgroup = cgroup.to_owned();
        self
    }

    /// With one more option on every command line: `--metrics-port=9000`.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.settings.more.push(option.to_owned());
        self
    }

    /// With one more option of `tidegate run`: `--record-max-bytes=1000000`.
    #[must_use]
    pub fn option_of_run(mut self, option: &str) -> Self {
        self.settings.run.push(option.to_owned());
        self
    }

    /// Run from this file, a copy of the program that was built.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        fs::copy(built("tidegate"), path).expect("the program can be copied");
        self.settings.program = Some(path.to_owned());
        self
    }

    /// Whose enforcer is started by this command, which gets it as its last arguments and becomes it in the end.
    #[must_use]
    pub fn run_through(mut self, command: &[&str]) -> Self {
        self.settings.through = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The gate as described, neither loaded nor running.
    #[must_use]
    pub fn build(self) -> Gate {
        Gate { seat: self.seat, settings: self.settings, process: None, killed: None }
    }

    /// Loads the programs: the gate is shut.
    ///
    /// # Panics
    /// When `tidegate load` fails.
    #[must_use]
    pub fn load(self) -> Gate {
        let gate = self.build();
        drop(Finished::of(gate.settings.command(&gate.seat, &["load"]), LOADING).success());
        gate
    }

    /// Loads the programs and starts the enforcer.
    ///
    /// # Panics
    /// When either fails; the log is shown.
    #[must_use]
    pub fn start(self) -> Gate {
        let mut gate = self.load();
        gate.start();
        gate
    }
}

impl Settings {
    fn policies(&self) -> PathBuf {
        self.folder.join("policies")
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn admin_socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    fn write_policy(&self, name: &str, text: &str) {
        let (new, place) = (self.folder.join("new-policy-file"), self.policies().join(name));
        let folder = place.parent().expect("a file of the policy folder lies in one");
        let made = fs::create_dir_all(folder);
        let written = made.and_then(|()| fs::write(&new, text)).and_then(|()| fs::rename(&new, &place));
        written.unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    }

    fn enforcer(&self, seat: &Seat) -> std::process::Command {
        let own = self
            .run
            .iter()
            .any(|option| option.starts_with("--user") || option.starts_with("--witness=command"));
        let user = std::env::var(USER).ok().filter(|_| !own).map(|user| format!("--user={user}"));
        let words = std::iter::once("run").chain(self.run.iter().map(String::as_str)).chain(user.as_deref());
        let words: Vec<&str> = words.collect();
        self.through(seat, &self.through, &words)
    }

    fn command(&self, seat: &Seat, words: &[&str]) -> std::process::Command {
        self.through(seat, &[], words)
    }

    fn through(&self, seat: &Seat, before: &[String], words: &[&str]) -> std::process::Command {
        let built = || std::env::var_os("TIDEGATE_BIN").unwrap_or_else(|| OsString::from(built("tidegate")));
        let program = self.program.clone().map_or_else(built, OsString::from);
        let mut command = match before.split_first() {
            Some((first, rest)) => {
                let mut command = seat.command(first);
                command.args(rest).arg(program);
                command
            }
            None => seat.command(program),
        };
        for name in std::env::vars_os().map(|(name, _)| name) {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        command.arg("--policies").arg(self.policies()).arg("--state").arg(self.state());
        command.arg("--pins").arg(&self.pins).arg("--cgroup").arg(&self.cgroup);
        command.arg("--admin-socket").arg(self.admin_socket()).args(&self.more).args(words);
        command
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the host's folder is writable");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())).flatten() {
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &place);
        } else {
            fs::copy(&path, &place).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}
