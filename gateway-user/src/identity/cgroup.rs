//! From a cgroup's id to its path, its systemd unit and its container.
//!
//! The id is the inode of the cgroup's directory, so a path is believed only if its directory has that inode. A unit is
//! the one the *system* manager made: what a user may create below it is no name.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
    (is_unit && container_of(name).is_none()).then(|| name.to_owned())
}

fn is_slice(name: &str) -> bool {
    name.ends_with(".slice")
}

/// The id of the outermost container the path names. Below a user's own manager anybody could have made the name.
pub(super) fn container(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for (place, part) in parts.iter().enumerate() {
        if part.starts_with("user@") && part.ends_with(".service") {
            return None;
        }
        if let Some(id) = container_of(part) {
            return Some(id.to_owned());
        }
        let parent = place.checked_sub(1).and_then(|n| parts.get(n)).copied().unwrap_or_default();
        if is_id(part) && (parent == "docker" || parent.contains("pod") || parent == "actions_job") {
            return Some((*part).to_owned());
        }
    }
    None
}

/// The id in a directory name as container engines make them.
fn container_of(name: &str) -> Option<&str> {
    const ENGINES: [&str; 7] =
        ["docker-", "cri-containerd-", "crio-", "libpod-", "libpod-payload-", "containerd-", "nerdctl-"];
    let id = name.strip_suffix(".scope").unwrap_or(name);
    if let Some((_, id)) = id.rsplit_once(":cri-containerd:") {
        return is_id(id).then_some(id);
    }
    ENGINES.iter().filter_map(|engine| id.strip_prefix(engine)).find(|id| is_id(id))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

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
    fn a_directory_that_a_user_may_have_made_is_no_unit_and_no_container() {
        let own = "/user.slice/user-1000.slice/user@1000.service";
        for forged in
            ["react-worker.service", "app.slice/react-worker.service", &format!("docker-{ID}.scope")]
        {
            assert_eq!(unit(&format!("{own}/{forged}")).as_deref(), Some("user@1000.service"));
            assert_eq!(container(&format!("{own}/{forged}")), None);
        }
    }

    #[test]
    fn containers_are_known_by_how_engines_name_their_directories() {
        for path in [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/docker/{ID}/nested/docker-{}.scope", ID.replace('0', "1")),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods/besteffort/pod1-2/{ID}"),
            format!("/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}"),
        ] {
            assert_eq!(container(&path).as_deref(), Some(ID), "{path}");
        }
        assert_eq!(unit(&format!("/system.slice/docker-{ID}.scope")), None);
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        for path in
            [format!("/{ID}"), format!("/docker/{}", &ID[1..]), format!("/docker-{}G.scope", &ID[1..])]
        {
            assert_eq!(container(&path), None, "{path}");
        }
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
