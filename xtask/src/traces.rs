//! What a test could leave on the machine: pins, namespaces, cgroups, interfaces, mounts, processes, folders. Looks
//! before and after; blames nothing that was there before, nor what belongs to a test process that is still alive.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place;

const PINS: &str = "/sys/fs/bpf";
/// What the kernel itself puts into each BPF file system (CONFIG_BPF_PRELOAD).
const PRELOADED: [&str; 2] = ["maps.debug", "progs.debug"];

/// Everything there is now, by kind and name.
pub(crate) fn now() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut traces = BTreeSet::new();
    add(&mut traces, "network namespace", names("/run/netns"));
    add(&mut traces, "pin", below(Path::new(PINS), 3));
    add(&mut traces, "interface", names("/sys/class/net"));
    add(
        &mut traces,
        "folder",
        names(std::env::temp_dir()).into_iter().filter(|name| is_ours(name)).collect(),
    );
    for point in mount_points(&mounts, |kind| kind == "cgroup2") {
        add(&mut traces, "cgroup", below(Path::new(&point), 2));
    }
    // iproute2 makes /run/netns a mount of its own the first time; that is how it works, and stays.
    add(
        &mut traces,
        "mount",
        mount_points(&mounts, |_| true)
            .into_iter()
            .filter(|point| !point.starts_with("/run/netns"))
            .collect(),
    );
    add(&mut traces, "process", processes());
    traces
}

/// What is there now and was not before, unless its test is still running (another checkout's, say).
pub(crate) fn left_since(before: &BTreeSet<String>) -> BTreeSet<String> {
    new(before, &now())
}

fn new(before: &BTreeSet<String>, after: &BTreeSet<String>) -> BTreeSet<String> {
    after.difference(before).filter(|trace| !is_of_a_living_test(trace)).cloned().collect()
}

/// Unmounts the BPF file system if the tests mounted it and nothing is pinned in it.
pub(crate) fn tidy_mounts(before: &BTreeSet<String>) {
    let trace = format!("mount {PINS}");
    if !before.contains(&trace) && now().contains(&trace) && holds_nothing_of_ours(&names(PINS)) {
        // If it stays, `left_since` names it.
        as_root(&["umount", PINS]);
    }
}

fn holds_nothing_of_ours(pins: &[String]) -> bool {
    pins.iter().all(|pin| PRELOADED.contains(&pin.as_str()))
}

fn add(traces: &mut BTreeSet<String>, kind: &str, found: Vec<String>) {
    traces.extend(found.into_iter().map(|name| format!("{kind} {name}")));
}

fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Paths below a folder; for cgroups their folders only, which is all that one can make there.
fn below(folder: &Path, depth: usize) -> Vec<String> {
    let is_cgroup = folder.join("cgroup.procs").exists();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for entry in entries {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder || !is_cgroup {
            found.push(entry.path().display().to_string());
        }
        if is_folder && depth > 1 {
            found.extend(below(&entry.path(), depth - 1));
        }
    }
    found
}

fn mount_points(mounts: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let columns = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    columns
        .filter(|columns| columns.len() > 2 && wanted(columns[2]))
        .map(|columns| columns[1].to_owned())
        .collect()
}

/// Programs of ours that run: anything built here, except this one.
fn processes() -> Vec<String> {
    let own = std::env::current_exe().unwrap_or_default();
    let built = place::cargo_target();
    let running = names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let programs = running
        .filter_map(|pid| Some((fs::read_link(PathBuf::from("/proc").join(&pid).join("exe")).ok()?, pid)));
    let ours = programs.filter(|(program, _)| program.starts_with(&built) && *program != own);
    ours.map(|(program, pid)| format!("{pid} {}", program.display())).collect()
}

/// Kills with -9 whatever was started below this process, the youngest generation first; not the process itself.
pub(crate) fn kill_below(pid: u32) {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(children(parent));
        next += 1;
    }
    for pid in found.iter().skip(1).rev() {
        // One that has ended meanwhile is as good as killed.
        as_root(&["kill", "-KILL", &pid.to_string()]);
    }
}

fn as_root(words: &[&str]) {
    let mut line = place::privileged().unwrap_or_default();
    line.extend(words.iter().map(|&word| word.to_owned()));
    Command::new(&line[0]).args(&line[1..]).status().ok();
}

fn children(parent: u32) -> Vec<u32> {
    let tasks = PathBuf::from("/proc").join(parent.to_string()).join("task");
    let lists = names(&tasks).into_iter().map(|task| tasks.join(task).join("children"));
    let texts: Vec<String> = lists.filter_map(|list| fs::read_to_string(list).ok()).collect();
    texts.iter().flat_map(|text| text.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether a name is one that test hosts get: `tgPID-N`, or `tgPID-N-remote`.
fn is_ours(name: &str) -> bool {
    owner(name).is_some()
}

fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix("tg")?.split_once('-')?;
    rest.starts_with(|digit: char| digit.is_ascii_digit()).then(|| pid.parse().ok())?
}

fn is_of_a_living_test(trace: &str) -> bool {
    let mut owners = trace.split(['/', ' ']).filter_map(owner);
    owners.any(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_test_left_is_named() {
        assert!(!is_of_a_living_test("pin /sys/fs/bpf/tg99999999-1/gate"));
        assert!(!is_of_a_living_test("interface veth0"));
    }

    #[test]
    fn what_a_living_test_uses_is_not_blamed() {
        let own = std::process::id();
        assert!(is_of_a_living_test(&format!("cgroup /sys/fs/cgroup/unified/tg{own}-3/agent")));
        assert!(is_of_a_living_test(&format!("network namespace tg{own}-3-remote")));
    }

    #[test]
    fn only_names_of_test_hosts_are_taken_for_theirs() {
        assert!(is_ours("tg12-1") && is_ours("tg12-1-remote"));
        assert!(!is_ours("tgx-1") && !is_ours("tg12-notes") && !is_ours("tg") && !is_ours("other"));
    }

    #[test]
    fn what_the_kernel_pins_by_itself_is_not_a_tests() {
        assert!(holds_nothing_of_ours(&["maps.debug".to_owned(), "progs.debug".to_owned()]));
        assert!(!holds_nothing_of_ours(&["maps.debug".to_owned(), "tg1-1".to_owned()]));
    }

    #[test]
    fn only_what_is_new_is_blamed() {
        let before = BTreeSet::from(["pin /sys/fs/bpf/old".to_owned()]);
        let living = format!("pin /sys/fs/bpf/tg{}-1", std::process::id());
        let after = BTreeSet::from(["pin /sys/fs/bpf/old".to_owned(), "interface veth0".to_owned(), living]);
        assert_eq!(new(&before, &after), BTreeSet::from(["interface veth0".to_owned()]));
    }

    #[test]
    fn what_a_host_makes_is_seen() {
        let folder = std::env::temp_dir().join(format!("tg{}-1", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let seen = now().contains(&format!("folder tg{}-1", std::process::id()));
        fs::remove_dir(&folder).unwrap();
        assert!(seen);
    }
}
