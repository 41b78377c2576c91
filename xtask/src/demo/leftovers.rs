//! Takes away what demos made: processes, pins, cgroups, namespaces, folders. Touches only what carries a demo's name,
//! and never what belongs to one that still runs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What every name of the demo starts with; the process id follows.
pub(super) const PREFIX: &str = "tidegate-demo-";
/// What the name of the second host ends with.
pub(super) const FAR: &str = "-far";
/// What the name of the first host's cgroup ends with: what is directly in a slice is named like a unit.
pub(super) const SLICE: &str = ".slice";
/// Where pins can be.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";
/// To the end of killed processes and to the kernel's letting go of their cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// The mount point of cgroup v2.
pub(super) fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc is not mounted")?;
    let mount = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(2) == Some(&"cgroup2")).then(|| fields.get(1).copied())?
    });
    mount.map(PathBuf::from).context("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

pub(super) fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

pub(super) fn pins(name: &str) -> PathBuf {
    Path::new(BPFFS).join(name)
}

pub(super) fn netns(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// Removes everything of one demo. Gives what could not be removed, and why.
pub(super) fn remove(name: &str) -> Vec<String> {
    let mut left = Vec::new();
    let mut note = |what: &Path, outcome: std::io::Result<()>| {
        if let Err(error) = outcome
            && error.kind() != ErrorKind::NotFound
        {
            left.push(format!("{} ({error})", what.display()));
        }
    };
    let hosts = [name.to_owned(), format!("{name}{FAR}")];
    let groups = [format!("{name}{SLICE}"), format!("{name}{FAR}")];
    let cgroups: Vec<PathBuf> =
        cgroup_root().map(|root| groups.iter().map(|group| root.join(group)).collect()).unwrap_or_default();
    for cgroup in &cgroups {
        end_processes(cgroup);
    }
    note(&pins(name), remove_pins(&pins(name)));
    for cgroup in &cgroups {
        note(cgroup, remove_cgroup(cgroup));
    }
    for host in hosts.iter().filter(|host| netns(host).exists()) {
        let deleted = Command::new("ip").args(["netns", "delete", host]).stdin(Stdio::null()).status();
        note(&netns(host), deleted.map(drop));
    }
    note(&folder(name), fs::remove_dir_all(folder(name)));
    left
}

/// Removes what every demo left that no longer runs.
pub(super) fn undo() -> Result<()> {
    let names = names();
    if names.is_empty() {
        eprintln!("demo: nothing was left behind");
    }
    let mut left = Vec::new();
    for name in names {
        if runs(&name) {
            eprintln!("demo: {name} still runs, and is left alone");
        } else {
            eprintln!("demo: removing {name}");
            left.extend(remove(&name));
        }
    }
    if left.is_empty() { Ok(()) } else { bail!("this stays behind: {}", left.join("; ")) }
}

/// Waits until the demo's end of standard input closes. If it has not said that it cleaned up, cleans up for it: it
/// was killed.
pub(super) fn watch(name: &str) -> Result<()> {
    let mut said = String::new();
    std::io::stdin().read_to_string(&mut said).context("cannot wait for the demo's end")?;
    if said.is_empty() && name.starts_with(PREFIX) {
        let left = remove(name);
        eprintln!("\ndemo: {name} was killed; removed what it left. {}", left.join("; "));
    }
    Ok(())
}

/// Every demo of which something is there.
fn names() -> BTreeSet<String> {
    let places =
        [Some(PathBuf::from(NETNS)), Some(BPFFS.into()), cgroup_root().ok(), Some(std::env::temp_dir())];
    let entries = places.iter().flatten().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    entries.filter_map(|entry| name_of(&entry.file_name().to_string_lossy())).collect()
}

/// The demo's name in the name of one of its objects.
fn name_of(object: &str) -> Option<String> {
    let name = object.strip_suffix(FAR).or_else(|| object.strip_suffix(SLICE)).unwrap_or(object);
    let pid = name.strip_prefix(PREFIX)?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.to_owned())
}

fn runs(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).unwrap_or_default();
    let command = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).split('\0').any(|word| word == "demo")
}

fn end_processes(cgroup: &Path) {
    if fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
        return;
    }
    let start = Instant::now();
    let populated =
        || fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|it| it.contains("populated 1"));
    while populated() && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(5));
    }
}

fn remove_pins(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { remove_pins(&path)? } else { fs::remove_file(&path)? }
    }
    fs::remove_dir(folder)
}

/// Leaves first. The kernel may need a moment until the last process that ended has let go.
fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_cgroup(&path)?;
        }
    }
    let start = Instant::now();
    loop {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && start.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_demo_are_its_own() {
        for own in ["tidegate-demo-12", "tidegate-demo-12-far", "tidegate-demo-12.slice"] {
            assert_eq!(name_of(own), Some("tidegate-demo-12".to_owned()), "{own}");
        }
        for other in
            ["tidegate", "tidegate-demo-", "tidegate-demo-x", "tidegate-demo-12-x", "tg12-1", "user.slice"]
        {
            assert_eq!(name_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_that_is_no_demo_does_not_count_as_one_that_runs() {
        assert!(!runs("tidegate-demo-1"));
        assert!(!runs("tidegate-demo-4294967295"));
    }
}
