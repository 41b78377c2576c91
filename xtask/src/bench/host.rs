//! A host for the measurement: a network namespace, cgroups, pins and a folder on the real disk. Everything in it goes
//! when it is dropped; what a killed run left goes at the next start, or at the next test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail};

use crate::place;

const NETNS: &str = "/run/netns";
const PINS: &str = "/sys/fs/bpf";

/// Linux counts processor time for user space in hundredths of a second, whatever the kernel's own tick.
const TICK: Duration = Duration::from_millis(10);

/// Two cores: one for what is measured, one for all that surrounds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    /// Load generator and upstream.
    pub(super) around: usize,
    /// The proxy.
    pub(super) proxy: usize,
}

/// The host.
pub(super) struct Host {
    name: String,
    cores: Cores,
}

/// A program on the host, in a cgroup of its own. Killed when dropped.
pub(super) struct Program {
    title: String,
    cgroup: PathBuf,
    child: Child,
    log: PathBuf,
}

/// Processor time and memory of everything in one cgroup.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) cpu: Duration,
    pub(super) resident_kib: u64,
}

impl Host {
    /// Makes one. Needs root.
    pub(super) fn new() -> Result<Self> {
        fs::create_dir_all(folders())?;
        remove_stale();
        let host = Self { name: format!("tg{}-1", std::process::id()), cores: Cores::of_this_machine()? };
        ip(&["netns", "add", &host.name])?;
        ip(&["-n", &host.name, "link", "set", "lo", "up"])?;
        if !fs::read_to_string("/proc/self/mounts")?.lines().any(|line| line.split(' ').nth(1) == Some(PINS))
        {
            bail!("there is no BPF file system at {PINS}: mount -t bpf bpf {PINS}");
        }
        fs::create_dir(host.pins())?;
        fs::create_dir(host.folder())?;
        Ok(host)
    }

    /// Its folder.
    pub(super) fn folder(&self) -> PathBuf {
        folders().join(&self.name)
    }

    /// Where its programs may be pinned.
    pub(super) fn pins(&self) -> PathBuf {
        Path::new(PINS).join(&self.name)
    }

    /// The cores that its programs run on.
    pub(super) fn cores(&self) -> Cores {
        self.cores
    }

    /// A cgroup of this name, made if need be. `a/b` nests.
    pub(super) fn cgroup(&self, group: &str) -> Result<PathBuf> {
        let path = cgroup_root()?.join(&self.name).join(group);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A command that will run in this namespace, in this cgroup, on this core.
    pub(super) fn command(&self, group: &str, core: usize, words: &[&str]) -> Result<Command> {
        let place =
            r#"echo $$ > "$0/cgroup.procs" && exec nsenter --net="$1" taskset --cpu-list "$2" "${@:3}""#;
        let mut command = Command::new("bash");
        command.args(["-c", place]).arg(self.cgroup(group)?).arg(Path::new(NETNS).join(&self.name));
        command.arg(core.to_string()).args(words).stdin(Stdio::null()).current_dir(self.folder());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    /// Runs a command to its end; gives what it wrote to standard output.
    pub(super) fn run(&self, group: &str, core: usize, words: &[&str]) -> Result<String> {
        let output = self.command(group, core, words)?.output()?;
        let title = words.join(" ");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{title}`: {}\n{}{said}", output.status, String::from_utf8_lossy(&output.stdout));
        }
        String::from_utf8(output.stdout).with_context(|| format!("what `{title}` wrote is no text"))
    }

    /// Starts a program that stays.
    pub(super) fn start(&self, group: &str, core: usize, words: &[&str]) -> Result<Program> {
        let log = self.folder().join(format!("{}.log", group.replace('/', "-")));
        let file = File::create(&log)?;
        let mut command = self.command(group, core, words)?;
        let child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Program { title: words.join(" "), cgroup: self.cgroup(group)?, child, log })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

impl Cores {
    fn of_this_machine() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let cores = list.map(core_list).unwrap_or_default();
        let (first, last) = (cores.first().copied(), cores.last().copied());
        let (Some(around), Some(proxy)) = (first, last) else { bail!("no processor core is allowed to us") };
        Ok(Self { around, proxy })
    }
}

/// Reads `0-3,8`.
fn core_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

impl Program {
    /// Waits until it is ready.
    pub(super) fn await_ready(&mut self, ready: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > Duration::from_secs(30) {
                let how = ended.map_or("is not ready after 30 s".to_owned(), |status| status.to_string());
                bail!("`{}` {how}\n{}", self.title, fs::read_to_string(&self.log).unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it and its children have used so far, and hold now.
    pub(super) fn usage(&self) -> Result<Usage> {
        let processes = fs::read_to_string(self.cgroup.join("cgroup.procs"))?;
        let mut sum = Usage::default();
        for process in processes.lines() {
            let folder = Path::new("/proc").join(process);
            let (cpu, resident) =
                (fs::read_to_string(folder.join("stat"))?, fs::read_to_string(folder.join("status"))?);
            sum.cpu += cpu_time(&cpu).context("/proc/PID/stat has no times")?;
            sum.resident_kib += resident_kib(&resident).context("/proc/PID/status has no VmRSS")?;
        }
        if sum.resident_kib == 0 {
            bail!("`{}` has ended\n{}", self.title, fs::read_to_string(&self.log).unwrap_or_default());
        }
        Ok(sum)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.child.wait();
    }
}

/// User and system time of all threads, from `/proc/PID/stat`.
fn cpu_time(stat: &str) -> Option<Duration> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(TICK * (user + system))
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Where hosts have their folders: beside what is built, so not on a tmpfs.
fn folders() -> PathBuf {
    place::cargo_target().join("bench")
}

fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let of_cgroup2 = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let point = of_cgroup2.and_then(|line| line.split(' ').nth(1));
    Ok(point.context("cgroup v2 is not mounted, and the gate needs it")?.into())
}

fn ip(words: &[&str]) -> Result<()> {
    let status =
        Command::new("ip").args(words).stdin(Stdio::null()).status().context("iproute2 is missing")?;
    if status.success() { Ok(()) } else { bail!("`ip {}`: {status}", words.join(" ")) }
}

/// Removes what measurements left whose process is gone.
fn remove_stale() {
    for entry in fs::read_dir(folders()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix("tg").and_then(|rest| rest.strip_suffix("-1"));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    if let Ok(cgroup) = cgroup_root().map(|root| root.join(name)) {
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        remove_folders(&Path::new(PINS).join(name), true);
        remove_folders(&cgroup, false);
    }
    if Path::new(NETNS).join(name).exists()
        && let Err(error) = ip(&["netns", "delete", name])
    {
        eprintln!("left behind: {error:#}");
    }
    if let Err(error) = fs::remove_dir_all(folders().join(name))
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("left behind: {}: {error}", folders().join(name).display());
    }
}

/// Removes folders, leaves first; the files in them too where that can be done (pins), not in a cgroup. The kernel may
/// need a moment until the last exiting process has let go.
fn remove_folders(folder: &Path, files: bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_folders(&entry.path(), files);
        } else if files {
            let _ = fs::remove_file(entry.path());
        }
    }
    let start = Instant::now();
    while let Err(error) = fs::remove_dir(folder) {
        if error.kind() == io::ErrorKind::NotFound {
            return;
        }
        if start.elapsed() > Duration::from_secs(5) {
            return eprintln!("left behind: {}: {error}", folder.display());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_blanks_and_brackets_shifts_no_time() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194304 9 0 0 0 150 25 3 4 20 0 1 0 55 1 1";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1750)));
        assert_eq!(cpu_time("7 (cut"), None);
    }

    #[test]
    fn memory_is_read_in_kibibytes_and_not_guessed() {
        assert_eq!(resident_kib("VmPeak:\t 9 kB\nVmRSS:\t   2048 kB\n"), Some(2048));
        assert_eq!(resident_kib("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn cores_are_listed_in_any_form() {
        assert_eq!(core_list("\t0-2,5\n"), [0, 1, 2, 5]);
        assert!(core_list("\tnone").is_empty());
    }
}
