//! From a cgroup's id to its path, its systemd unit, and whose names in it count.
//!
//! The id is the inode of the cgroup's directory, so a path is believed only if its directory has that inode. A unit is
//! the one the *system* manager made: what a user may create below it is no name.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::container::{self, Contained};

/// Directories looked at when a path must be searched for. Hosts have hundreds.
const DIRECTORIES_MAX: usize = 20_000;
/// Paths remembered.
const PATHS_MAX: usize = 4096;

/// The cgroup v2 tree.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    known: Mutex<HashMap<u64, String>>,
}

impl Cgroups {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), known: Mutex::default() }
    }

    /// The path below the root of the cgroup with this id, `/` first. `hint` is where its process says it is.
    pub(super) fn path(&self, id: u64, hint: Option<String>) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        for path in [known, hint].into_iter().flatten() {
            if self.is(&path, id) {
                self.remember(id, &path);
                return Some(path);
            }
        }
        let path = self.search(id)?;
        self.remember(id, &path);
        Some(path)
    }

    /// The container and the pod of a process in this cgroup; `own` is its `/proc/PID/cgroup`, where older hierarchies stand
    /// beside this tree (hybrid hosts).
    pub(super) fn contained(&self, path: Option<&str>, own: Option<&str>) -> Contained {
        let found = path.map(|path| container::contained(Self::roots_part(&self.root, path)));
        if let Some(found) = found.filter(|found| found.container.is_some()) {
            return found;
        }
        let hybrid = self.root.file_name().is_some_and(|name| name == "unified");
        let Some(beside) = self.root.parent().filter(|_| hybrid) else { return Contained::default() };
        let mut older = older_paths(own.unwrap_or_default())
            .map(|(name, path)| container::contained(Self::roots_part(&beside.join(name), path)));
        older.find(|found| found.container.is_some()).unwrap_or_default()
    }

    /// The leading part of a path whose directories are root's: what a subtree is called that was given to a user, the user
    /// says.
    fn roots_part<'a>(root: &Path, path: &'a str) -> &'a str {
        let mut end = 0;
        for part in path.split('/').skip(1) {
            let next = end + 1 + part.len();
            let directory = root.join(&path[1..next]);
            let is_roots = part != ".."
                && fs::symlink_metadata(directory).is_ok_and(|about| about.is_dir() && about.uid() == 0);
            if !is_roots {
                break;
            }
            end = next;
        }
        if path.contains("/../") { "" } else { &path[..end] }
    }

    fn is(&self, path: &str, id: u64) -> bool {
        let Some(below) = path.strip_prefix('/') else { return false };
        if below.split('/').any(|part| part == "..") {
            return false;
        }
        fs::symlink_metadata(self.root.join(below)).is_ok_and(|meta| meta.is_dir() && meta.ino() == id)
    }

    fn remember(&self, id: u64, path: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= PATHS_MAX {
            known.clear();
        }
        known.insert(id, path.to_owned());
    }

    /// Looks for the directory: its process may have moved on or ended.
    fn search(&self, id: u64) -> Option<String> {
        let mut open = vec![String::from("/")];
        let mut seen = 0;
        while let Some(path) = open.pop() {
            seen += 1;
            if seen > DIRECTORIES_MAX {
                return None;
            }
            if self.is(&path, id) {
                return Some(path);
            }
            let Ok(entries) = fs::read_dir(self.root.join(&path[1..])) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && let Ok(name) = entry.file_name().into_string()
                {
                    open.push(if path == "/" { format!("/{name}") } else { format!("{path}/{name}") });
                }
            }
        }
        None
    }
}

/// The cgroup v2 path in the text of `/proc/PID/cgroup`.
pub(super) fn own_path(text: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .filter(|path| path.starts_with('/'))
        .map(str::to_owned)
}

/// The unit that the system manager made this cgroup for: the first component that is no slice, as systemd itself
/// reads paths. Below a unit its service may have been given the right to make directories of any name.
pub(super) fn unit(path: &str) -> Option<String> {
    let first = path.split('/').filter(|part| !part.is_empty()).find(|part| !is_slice(part))?;
    let name = first.strip_prefix('_').unwrap_or(first);
    let is_unit = name.ends_with(".service") || name.ends_with(".scope");
    (is_unit && container::container_of(name).is_none()).then(|| name.to_owned())
}

fn is_slice(name: &str) -> bool {
    name.ends_with(".slice")
}

/// The hierarchies of version 1 in the text of `/proc/PID/cgroup`: the name of each, and the path in it.
fn older_paths(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let name = controllers.strip_prefix("name=").unwrap_or(controllers);
        let plain = !name.is_empty() && !name.contains('/') && name != "..";
        (plain && path.starts_with('/')).then_some((name, path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_the_one_the_system_manager_made() {
        for (path, expected) in [
            ("/system.slice/react-worker.service", Some("react-worker.service")),
            ("/system.slice/react-worker.service/sub/x.service", Some("react-worker.service")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            ("/_cpu.service", Some("cpu.service")),
            ("/", None),
            ("/system.slice", None),
            ("/tg-test/react-worker.service", None),
        ] {
            assert_eq!(unit(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_directory_that_a_user_may_have_made_is_no_unit() {
        let own = "/user.slice/user-1000.slice/user@1000.service";
        for forged in ["react-worker.service", "app.slice/react-worker.service"] {
            assert_eq!(unit(&format!("{own}/{forged}")).as_deref(), Some("user@1000.service"));
        }
        assert_eq!(unit(&format!("/system.slice/docker-{}.scope", "0".repeat(64))), None);
    }

    #[test]
    fn a_path_counts_as_far_as_its_directories_are_roots() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("docker/x/y");
        fs::create_dir_all(&inner).unwrap();
        let own = fs::metadata(dir.path()).unwrap().uid();
        let expected = if own == 0 { "/docker/x/y" } else { "" };
        assert_eq!(Cgroups::roots_part(dir.path(), "/docker/x/y"), expected);
        if own == 0 {
            std::os::unix::fs::chown(dir.path().join("docker/x"), Some(4711), None).unwrap();
            assert_eq!(Cgroups::roots_part(dir.path(), "/docker/x/y"), "/docker");
        }
        assert_eq!(Cgroups::roots_part(dir.path(), "/docker/../docker/x"), "");
        assert_eq!(Cgroups::roots_part(dir.path(), "/gone"), "");
    }

    #[test]
    fn paths_of_older_hierarchies_are_read_by_their_names() {
        let text = "12:pids:/docker/x\n3:name=systemd:/a\n2:cpu,cpuacct:/b\n1:a/b:/c\n0::/v2\nx\n";
        let found: Vec<_> = older_paths(text).collect();
        assert_eq!(found, [("pids", "/docker/x"), ("systemd", "/a"), ("cpu,cpuacct", "/b")]);
    }

    #[test]
    fn a_path_is_believed_only_if_its_directory_has_the_id() {
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path().join("system.slice/a.service");
        fs::create_dir_all(&unit).unwrap();
        fs::create_dir_all(dir.path().join("system.slice/b.service")).unwrap();
        let id = fs::metadata(&unit).unwrap().ino();
        let cgroups = Cgroups::new(dir.path());
        let wrong = Some("/system.slice/b.service".to_owned());
        assert_eq!(cgroups.path(id, wrong.clone()).as_deref(), Some("/system.slice/a.service"));
        assert_eq!(
            cgroups.path(id, Some("/x/../system.slice/a.service".to_owned())).as_deref(),
            Some("/system.slice/a.service")
        );
        assert_eq!(cgroups.path(u64::MAX, wrong), None);
        fs::remove_dir(&unit).unwrap();
        assert_eq!(cgroups.path(id, None), None, "a cgroup that is gone has no path");
    }
}
