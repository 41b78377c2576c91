//! Who holds sockets that no hook saw, and where they were made: by what `/proc` shows now.
//!
//! A socket that several processes hold is named by one of them. What nobody holds has no name.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use super::cgroup::{self, Cgroups};
use super::proc::{Process, ticks};

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name, escaped.
    pub command: String,
}

/// Finds a process for each of these sockets, by the inodes of their files. Reads every process's descriptors: for rare
/// moments only.
#[must_use]
pub fn holders(inodes: &HashSet<u64>) -> HashMap<u64, Holder> {
    let mut found = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        if found.len() == inodes.len() {
            break;
        }
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let held = descriptors.filter_map(|descriptor| socket_inode(&fs::read_link(descriptor.path()).ok()?));
        let held: Vec<u64> = held.filter(|inode| inodes.contains(inode)).collect();
        if held.is_empty() {
            continue;
        }
        let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let holder = Holder { pid, command: command.trim_end().escape_debug().to_string() };
        found.extend(held.into_iter().map(|inode| (inode, holder.clone())));
    }
    found
}

/// The program of a process that had started by then, in nanoseconds since boot; `None`: it is gone, its number means another
/// by now, or its program's path leads elsewhere. It may have become another program since.
#[must_use]
pub fn program(pid: u32, by: u64) -> Option<String> {
    let process = Process::open(pid)?;
    (process.stat()?.started <= ticks(by)).then_some(())?;
    let (_, device, inode) = process.program()?;
    process.program_path(device, inode)
}

/// The inode in `socket:[123]`.
fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The cgroup tree, for names.
#[derive(Debug)]
pub struct Places(Cgroups);

impl Places {
    /// `cgroup_root` is where cgroup v2 is mounted.
    #[must_use]
    pub fn new(cgroup_root: &Path) -> Self {
        Self(Cgroups::new(cgroup_root))
    }

    /// The path and the unit of a cgroup.
    #[must_use]
    pub fn of(&self, cgroup: u64) -> (Option<String>, Option<String>) {
        let path = self.0.path(cgroup, None);
        let unit = path.as_deref().and_then(cgroup::unit);
        (path, unit)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_socket_is_found_with_the_process_that_holds_it_and_a_closed_one_is_not() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
        let wanted = HashSet::from([inode]);
        assert_eq!(holders(&wanted).get(&inode).map(|holder| holder.pid), Some(std::process::id()));
        drop(socket);
        assert_eq!(holders(&wanted), HashMap::new());
    }

    #[test]
    fn a_program_is_told_of_a_process_that_had_started_by_then_and_of_no_later_one() {
        let own = std::process::id();
        let path = std::env::current_exe().unwrap();
        assert_eq!(program(own, u64::MAX), Some(path.to_str().unwrap().to_owned()));
        assert_eq!(program(own, 0), None, "its number meant another process then");
    }
}
