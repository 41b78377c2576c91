//! Which processes are guarded, and by which guard: by the innermost cgroup that a guard names, else by the user, as the kernel
//! programs see it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::kernel::{GuardRow, Table};
use crate::limits::SPACE_PROCESSES_MAX;

/// The processes of these guards, each once, with its guard; at most as many as are looked at.
pub(super) fn find(table: &Table, counts: impl Fn(&GuardRow) -> bool) -> HashMap<u32, &str> {
    let guards: Vec<&GuardRow> = table.guards.iter().filter(|guard| counts(guard)).collect();
    let mut found = HashMap::new();
    for guard in &guards {
        for cgroup in &guard.cgroups {
            let is_anothers = |directory: &Path| {
                guards.iter().any(|other| {
                    other.name != guard.name && other.cgroups.iter().any(|cgroup| cgroup == directory)
                })
            };
            below(
                cgroup,
                |directory| directory == cgroup || !is_anothers(directory),
                |pid| {
                    found.entry(pid).or_insert(guard.name.as_str());
                    found.len() < SPACE_PROCESSES_MAX
                },
            );
        }
    }
    let by_uid: HashMap<u32, &str> =
        guards.iter().flat_map(|guard| guard.uids.iter().map(|uid| (*uid, guard.name.as_str()))).collect();
    if !by_uid.is_empty() {
        let others: Vec<u32> = everybody().into_iter().filter(|pid| !found.contains_key(pid)).collect();
        let guarded = |pid: u32| Some((pid, *by_uid.get(&real_uid(pid)?)?));
        let room = SPACE_PROCESSES_MAX.saturating_sub(found.len());
        found.extend(others.into_iter().filter_map(guarded).take(room));
    }
    found
}

/// Meets the processes of a cgroup and of every one below it, those left out that do not belong, until told to stop. What is
/// gone meanwhile is passed over.
pub(super) fn below(cgroup: &Path, belongs: impl Fn(&Path) -> bool, mut meet: impl FnMut(u32) -> bool) {
    let mut open: Vec<PathBuf> = vec![cgroup.to_owned()];
    while let Some(directory) = open.pop() {
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        if !processes.lines().filter_map(|line| line.parse().ok()).all(&mut meet) {
            return;
        }
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(below.map(|entry| entry.path()).filter(|directory| belongs(directory)));
    }
}

pub(super) fn everybody() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(super) fn real_uid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(name: &str, cgroups: &[PathBuf], uids: &[u32]) -> GuardRow {
        let (cgroups, uids) = (cgroups.to_vec(), uids.to_vec());
        GuardRow { name: name.into(), cgroups, uids, ..GuardRow::default() }
    }

    #[test]
    fn the_innermost_cgroup_decides_then_the_user() {
        let directory = tempfile::tempdir().unwrap();
        let (outer, inner) = (directory.path().join("outer"), directory.path().join("outer/a/inner"));
        fs::create_dir_all(inner.join("b")).unwrap();
        fs::write(outer.join("cgroup.procs"), "4000001\n0\nx\n").unwrap();
        fs::write(inner.join("cgroup.procs"), "4000002\n").unwrap();
        fs::write(inner.join("b/cgroup.procs"), "4000003\n").unwrap();
        let own = real_uid(std::process::id()).unwrap();
        let guards = vec![
            guard("outer", std::slice::from_ref(&outer), &[]),
            guard("inner", std::slice::from_ref(&inner), &[]),
            guard("user", &[], &[own]),
        ];
        let table = Table { guards, ..Table::default() };
        let found = find(&table, |_| true);
        let by = |pid: u32| found.get(&pid).copied();
        assert_eq!(
            (by(4_000_001), by(4_000_002), by(4_000_003)),
            (Some("outer"), Some("inner"), Some("inner"))
        );
        assert_eq!(by(std::process::id()), Some("user"));
        assert!(!find(&table, |guard| guard.name != "user").contains_key(&std::process::id()));
        assert!(find(&Table::default(), |_| true).is_empty());
    }
}
