//! Where the demo plays: two hosts of its own and everybody on them. Runs their commands and shows them. What it makes
//! is gone when it is dropped; were it killed, its watcher takes it away.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write, pipe};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::leftovers;
use super::screen::Screen;
use crate::place;

/// A command of the demo that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something awaited.
const LOOK: Duration = Duration::from_millis(10);
/// The script that runs commands as somebody, with places for this demo's names.
const AS: &str = include_str!("as.sh");
/// What both hosts call each other.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n192.0.2.1 react.example\n192.0.2.10 crm.example\n\
                     192.0.2.66 collector.example\n2001:db8::66 collector.example\n";
/// Where mallory's mail arrives; mallory may empty it.
const COLLECTED: &str = "collected.log";
/// User id of mallory, and of the group that may talk to the gate's admin socket. The script knows them, too.
const MALLORY: u32 = 61666;
const STAFF: u32 = 61000;

/// Who types a command, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The operator, on the gate's host.
    Root,
    /// A person on that host.
    Ada,
    /// Another.
    Bo,
    /// Somebody whom no policy knows.
    Eve,
    /// The agent's unit: its user in its cgroup.
    Agent,
    /// The agent's user outside the agent's unit.
    Impostor,
    /// Ada on another host.
    Laptop,
    /// The CRM's host.
    Crm,
    /// The attacker's host.
    Mallory,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Ada => "ada",
            Self::Bo => "bo",
            Self::Eve => "eve",
            Self::Agent => "agent",
            Self::Impostor => "impostor",
            Self::Laptop => "laptop",
            Self::Crm => "crm",
            Self::Mallory => "mallory",
        }
    }

    fn prompt(self) -> String {
        match self {
            Self::Root => "root#".to_owned(),
            Self::Laptop => "ada@laptop$".to_owned(),
            _ => format!("{}$", self.name()),
        }
    }
}

/// What a command printed, on both outputs in one, and how it ended.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) code: Option<i32>,
}

impl Said {
    pub(super) fn has(&self, part: &str) -> bool {
        self.text.contains(part)
    }
}

/// A command that has not ended.
pub(super) struct Running {
    child: Child,
    text: JoinHandle<String>,
    title: String,
}

/// The hosts, and everything that runs on them.
pub(super) struct Stage {
    pub(super) screen: Screen,
    name: String,
    cgroup_root: PathBuf,
    interrupted: Arc<AtomicBool>,
    watcher: Child,
    gate: Option<Child>,
    services: Vec<Child>,
    checks: usize,
    removed: bool,
}

impl Stage {
    /// Sets everything up. Leaves nothing behind when that fails.
    pub(super) fn set_up(screen: Screen, program: &Path, interrupted: Arc<AtomicBool>) -> Result<Self> {
        let name = format!("{}{}", leftovers::PREFIX, std::process::id());
        let cgroup_root = leftovers::cgroup_root()?;
        leftovers::remove(&name);
        let watcher = Command::new(std::env::current_exe().context("the running program has a path")?)
            .args(["demo", "--watch", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the watcher")?;
        let mut stage = Self {
            screen,
            name,
            cgroup_root,
            interrupted,
            watcher,
            gate: None,
            services: Vec::new(),
            checks: 0,
            removed: false,
        };
        stage.make_folder(program)?;
        stage.make_cgroups()?;
        stage.make_hosts()?;
        stage.start_services()?;
        Ok(stage)
    }

    /// The demo's folder.
    pub(super) fn folder(&self) -> PathBuf {
        leftovers::folder(&self.name)
    }

    /// How many promises were checked.
    pub(super) fn checks(&self) -> usize {
        self.checks
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Shows a command and runs it to its end.
    pub(super) fn types(&self, who: Who, command: &str) -> Result<Said> {
        let running = self.starts(who, command)?;
        self.finishes(running)
    }

    /// Shows a command and starts it, as in another terminal.
    pub(super) fn starts(&self, who: Who, command: &str) -> Result<Running> {
        self.screen.command(&who.prompt(), command)?;
        self.spawn(who, command)
    }

    /// Waits for the end of a command and shows what it printed.
    pub(super) fn finishes(&self, running: Running) -> Result<Said> {
        let said = self.wait(running)?;
        self.screen.output(&said.text)?;
        Ok(said)
    }

    /// Runs a command without showing it.
    pub(super) fn quietly(&self, who: Who, command: &str) -> Result<Said> {
        let running = self.spawn(who, command)?;
        self.wait(running)
    }

    /// Checks a promise and says that it was kept.
    pub(super) fn check(&mut self, promise: &str, kept: bool) -> Result<()> {
        ensure!(kept, "not as it should be: {promise}");
        self.checks += 1;
        self.screen.kept(promise)
    }

    /// Waits for an answer, at most so long.
    pub(super) fn eventually<T>(
        &self,
        awaited: &str,
        mut ask: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            self.go_on()?;
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            ensure!(start.elapsed() < PATIENCE, "waited {} s in vain for {awaited}", PATIENCE.as_secs());
            thread::sleep(LOOK);
        }
    }

    /// Lets some time pass.
    pub(super) fn pause(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.go_on()?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits for Enter or an interrupt; both are as good.
    pub(super) fn await_enter(&self) -> Result<()> {
        let pressed = Arc::new(AtomicBool::new(false));
        let press = pressed.clone();
        thread::spawn(move || {
            std::io::stdin().lines().next();
            press.store(true, Ordering::Relaxed);
        });
        while !pressed.load(Ordering::Relaxed) && !self.is_interrupted() {
            thread::sleep(LOOK);
        }
        self.interrupted.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Starts the enforcer, and waits until it answers.
    pub(super) fn start_gate(&mut self) -> Result<()> {
        self.screen.command("root#", "tidegate run >> gate.log 2>&1 &")?;
        let mut gate = self.command(Who::Root, "exec tidegate run >> gate.log 2>&1").spawn()?;
        let socket = self.folder().join("run/admin.sock");
        self.eventually("the enforcer", || {
            if let Some(status) = gate.try_wait()? {
                bail!("the enforcer did not start: {status}");
            }
            Ok(UnixStream::connect(&socket).ok())
        })?;
        self.gate = Some(gate);
        Ok(())
    }

    /// Sends the enforcer a signal by `kill`, and waits for its end.
    pub(super) fn kill_gate(&mut self, signal: &str) -> Result<()> {
        let mut gate = self.gate.take().context("the enforcer is running")?;
        self.types(Who::Root, &format!("kill -{signal} {}", gate.id()))?;
        self.eventually("the enforcer's end", || Ok(gate.try_wait()?))?;
        Ok(())
    }

    /// What the enforcer and the sample services have logged, when something went wrong.
    pub(super) fn show_logs(&self, error: &anyhow::Error) {
        eprintln!("\ndemo: {error:#}");
        for log in ["gate.log", "react.log", "crm.log", COLLECTED] {
            let text = fs::read_to_string(self.folder().join(log)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- the end of {log}");
            lines.iter().skip(lines.len().saturating_sub(20)).for_each(|line| eprintln!("{line}"));
        }
    }

    /// Removes everything. Gives what could not be removed.
    pub(super) fn tear_down(mut self) -> Vec<String> {
        self.remove()
    }

    fn remove(&mut self) -> Vec<String> {
        if self.removed {
            return Vec::new();
        }
        self.removed = true;
        let left = leftovers::remove(&self.name);
        for child in self.services.iter_mut().chain(&mut self.gate) {
            child.wait().ok();
        }
        if let Some(mut line) = self.watcher.stdin.take() {
            // One that was killed has nothing to be told.
            line.write_all(b"removed").ok();
        }
        self.watcher.wait().ok();
        left
    }

    fn go_on(&self) -> Result<()> {
        if self.is_interrupted() { bail!("stopped") } else { Ok(()) }
    }

    fn command(&self, who: Who, command: &str) -> Command {
        let mut line = Command::new(self.folder().join("as"));
        line.args([who.name(), "bash", "-c", command]).stdin(Stdio::null()).process_group(0);
        line
    }

    fn spawn(&self, who: Who, command: &str) -> Result<Running> {
        let (mut reader, writer) = pipe().context("no pipe")?;
        let mut line = self.command(who, command);
        let child = line.stdout(writer.try_clone()?).stderr(writer).spawn().context("cannot start `as`")?;
        // The command keeps the ends that write; while it is there, the text does not end.
        drop(line);
        let text = thread::spawn(move || {
            let mut bytes = Vec::new();
            // What cannot be read is missing in the text, and a check says so.
            reader.read_to_end(&mut bytes).ok();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Running { child, text, title: command.to_owned() })
    }

    fn wait(&self, mut running: Running) -> Result<Said> {
        let awaited = format!("the end of `{}`", running.title);
        let status = self.eventually(&awaited, || Ok(running.child.try_wait()?));
        if status.is_err() {
            running.child.kill().ok();
        }
        let code = status?.code();
        let Ok(text) = running.text.join() else { bail!("cannot read what `{}` printed", running.title) };
        Ok(Said { text, code })
    }

    fn make_folder(&self, program: &Path) -> Result<()> {
        let folder = self.folder();
        for part in ["", "bin", "policies", "services", "run"] {
            let path = folder.join(part);
            fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        chown(folder.join("run"), None, Some(STAFF)).context("cannot give the staff a folder")?;
        copy_executable(program, &folder.join("bin/tidegate"))?;
        copy_files(&place::root().join("policies/demo"), &folder.join("policies"))?;
        copy_files(&place::root().join("tests/react"), &folder.join("services"))?;
        let names = [
            ("@NAME@", self.name.clone()),
            ("@FOLDER@", folder.display().to_string()),
            ("@CGROUP@", self.cgroup_root.display().to_string()),
            ("@PINS@", leftovers::pins(&self.name).display().to_string()),
        ];
        let script = names.iter().fold(AS.to_owned(), |script, (place, name)| script.replace(place, name));
        write(&folder.join("as"), &script, 0o755)?;
        write(&folder.join("hosts"), HOSTS, 0o644)?;
        write(&folder.join(COLLECTED), "", 0o644)?;
        chown(folder.join(COLLECTED), Some(MALLORY), None).context("cannot give mallory a file")?;
        Ok(())
    }

    fn make_cgroups(&self) -> Result<()> {
        let slice = format!("{}{}", self.name, leftovers::SLICE);
        let inside = ["gate", "desk", "react-agent.service"].map(|group| format!("{slice}/{group}"));
        for group in [slice, format!("{}{}", self.name, leftovers::FAR)].into_iter().chain(inside) {
            let path = self.cgroup_root.join(group);
            fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        }
        Ok(())
    }

    fn make_hosts(&self) -> Result<()> {
        mount_bpffs()?;
        let (near, far) = (self.name.as_str(), format!("{}{}", self.name, leftovers::FAR));
        for host in [near, &far] {
            ip(&["netns", "add", host])?;
            ip(&["-n", host, "link", "set", "lo", "up"])?;
        }
        ip(&["-n", near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &far])?;
        let addresses = [
            (near, "192.0.2.1/24"),
            (near, "2001:db8::1/64"),
            (&far, "192.0.2.2/24"),
            (&far, "192.0.2.10/24"),
            (&far, "192.0.2.66/24"),
            (&far, "2001:db8::66/64"),
        ];
        for (host, address) in addresses {
            let nodad = address.contains(':').then_some("nodad");
            ip(&["-n", host, "address", "add", address, "dev", "cable"]
                .into_iter()
                .chain(nodad)
                .collect::<Vec<_>>())?;
        }
        for host in [near, &far] {
            ip(&["-n", host, "link", "set", "cable", "up"])?;
        }
        Ok(())
    }

    fn start_services(&mut self) -> Result<()> {
        let services = [
            (Who::Crm, "crm_api.py", "crm.log", "crm.log"),
            (Who::Agent, "react_service.py", "react.log", "react.log"),
            (Who::Mallory, "collector.py", COLLECTED, "collector.log"),
        ];
        for (who, service, out, err) in services {
            let open = |log| File::options().append(true).create(true).open(self.folder().join(log));
            let mut line = self.command(who, &format!("exec /usr/bin/python3 services/{service}"));
            let started = line.stdout(open(out)?).stderr(open(err)?).spawn();
            self.services.push(started.with_context(|| format!("cannot start {service}"))?);
            let log = self.folder().join(err);
            self.eventually(service, || Ok(fs::read_to_string(&log)?.contains("listening").then_some(())))
                .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for left in self.remove() {
            eprintln!("demo: this stays behind: {left}");
        }
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

fn copy_executable(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(to, Permissions::from_mode(0o755))?)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            let place = to.join(name);
            fs::copy(&path, &place).with_context(|| format!("cannot copy {}", path.display()))?;
            fs::set_permissions(&place, Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output().context("cannot run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}`: {}", words.join(" "), said.trim());
    Ok(())
}

/// systemd mounts it at boot. Where nobody has, it is mounted, and stays: an empty file system of the kernel.
fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc is not mounted")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(leftovers::BPFFS)) {
        return Ok(());
    }
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf", leftovers::BPFFS]).status();
    ensure!(mounted.is_ok_and(|status| status.success()), "cannot mount {}", leftovers::BPFFS);
    Ok(())
}
