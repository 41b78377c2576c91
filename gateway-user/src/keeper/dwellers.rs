//! Who lives in which network namespace: the processes of guards and of protected services, found from the cgroup tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::guarded::{self, everybody, real_uid};
use crate::kernel::Table;
use crate::limits::SPACE_PROCESSES_MAX;

/// Why a namespace is somebody's business, and a process in it by which it can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dweller {
    pub(super) pid: u32,
    /// It runs a protected service.
    pub(super) services: bool,
}

/// Every namespace but `home` with a process of the table's guards or services, by its inode.
pub(super) fn find(table: &Table, home: u64) -> BTreeMap<u64, Dweller> {
    let mut search = Search { home, found: BTreeMap::new(), left: SPACE_PROCESSES_MAX };
    for cgroup in &table.service_cgroups {
        search.below(cgroup, true);
    }
    for cgroup in table.guards.iter().flat_map(|guard| &guard.cgroups) {
        search.below(cgroup, false);
    }
    let uids: BTreeSet<u32> = table.guards.iter().flat_map(|guard| guard.uids.iter().copied()).collect();
    if !uids.is_empty() {
        for pid in everybody() {
            // The namespace is asked first: nearly all are at home.
            if namespace(pid).is_some_and(|inode| inode != home)
                && real_uid(pid).is_some_and(|uid| uids.contains(&uid))
            {
                search.meet(pid, false);
            }
        }
    }
    if search.left == 0 {
        tracing::error!(
            "more processes are guarded than are looked at; network namespaces of the rest are not served"
        );
    }
    search.found
}

/// The namespaces of all processes. `None`: they cannot be listed, so none may be taken for empty.
pub(super) fn inhabited() -> Option<BTreeSet<u64>> {
    fs::read_dir("/proc").ok()?;
    Some(everybody().into_iter().filter_map(namespace).collect())
}

struct Search {
    home: u64,
    found: BTreeMap<u64, Dweller>,
    left: usize,
}

impl Search {
    fn meet(&mut self, pid: u32, services: bool) {
        let Some(inode) = namespace(pid).filter(|inode| *inode != self.home) else { return };
        let dweller = self.found.entry(inode).or_insert(Dweller { pid, services });
        dweller.services |= services;
    }

    fn below(&mut self, cgroup: &Path, services: bool) {
        guarded::below(
            cgroup,
            |_| true,
            |pid| {
                if self.left == 0 {
                    return false;
                }
                self.left -= 1;
                self.meet(pid, services);
                true
            },
        );
    }
}

/// The inode of a process's network namespace; `None`: it is gone, or dead and not buried yet.
pub(super) fn namespace(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|about| about.ino())
}

/// The open network namespace of a process, if it is the one that was found.
pub(super) fn open(pid: u32, inode: u64) -> io::Result<fs::File> {
    let file = fs::File::open(format!("/proc/{pid}/ns/net"))?;
    match file.metadata()?.ino() == inode {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::kernel::GuardRow;

    #[test]
    fn processes_are_found_by_their_cgroup_and_by_their_user_and_those_at_home_are_not() {
        let own = namespace(std::process::id()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("a/b");
        fs::create_dir_all(&nested).unwrap();
        fs::write(nested.join("cgroup.procs"), format!("{}\n0\nx\n", std::process::id())).unwrap();
        let by_cgroup = |services: bool| {
            let cgroup = vec![directory.path().to_owned()];
            match services {
                true => Table { service_cgroups: cgroup, ..Table::default() },
                false => Table { guards: vec![guard(cgroup, vec![])], ..Table::default() },
            }
        };
        for services in [true, false] {
            let found = find(&by_cgroup(services), 0);
            assert_eq!(found.get(&own), Some(&Dweller { pid: std::process::id(), services }));
            assert!(find(&by_cgroup(services), own).is_empty(), "at home");
        }
        let uid = real_uid(std::process::id()).unwrap();
        let by_uid = |uid| Table { guards: vec![guard(vec![], vec![uid])], ..Table::default() };
        assert!(find(&by_uid(uid), 0).contains_key(&own));
        assert!(find(&by_uid(u32::MAX - 7), 0).is_empty());
        assert!(inhabited().unwrap().contains(&own));
    }

    fn guard(cgroups: Vec<PathBuf>, uids: Vec<u32>) -> GuardRow {
        GuardRow { name: "agent".into(), cgroups, uids, ..GuardRow::default() }
    }
}
