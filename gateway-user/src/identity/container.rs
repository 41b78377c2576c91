//! From a cgroup's path to the container and the pod that it is, and from a container's id to its image. No names that a user
//! could have given himself: the caller cuts the path where its directories are no longer root's.
//!
//! What a runtime's files do not say is unknown. Nothing is asked of the process itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde_json::Value;

/// Bytes of a runtime's file about one container. A pod with many mounts has some tens of kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of an image's name: a registry's host, a path and a digest.
const IMAGE_BYTES_MAX: usize = 512;
/// Images remembered.
const IMAGES_MAX: usize = 4096;
/// How long an image that was not found is not looked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// Bytes of a machine's name (hostname(7)).
const MACHINE_BYTES_MAX: usize = 64;

/// What a path says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contained {
    /// The container: its id, or a machine's name (systemd-nspawn).
    pub container: Option<String>,
    /// The pod's uid.
    pub pod: Option<String>,
}

/// The outermost container that a cgroup path names, and the pod above it. Below a user's own manager anybody could have made
/// the name.
#[must_use]
pub fn contained(path: &str) -> Contained {
    let mut found = Contained::default();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for (place, part) in parts.iter().enumerate() {
        if part.starts_with("user@") && part.ends_with(".service") {
            return found;
        }
        let parent = place.checked_sub(1).and_then(|n| parts.get(n)).copied().unwrap_or_default();
        if let Some(pod) = pod_of(part).filter(|_| is_kubepods(parts.first().copied())) {
            found.pod.get_or_insert(pod);
        }
        let plain = || {
            let named = parent == "docker" || parent.contains("pod") || parent == "actions_job";
            (is_id(part) && named).then(|| (*part).to_owned())
        };
        let machine = || (parent == "machine.slice").then(|| machine_of(part)).flatten();
        if let Some(id) = container_of(part).map(str::to_owned).or_else(plain).or_else(machine) {
            found.container = Some(id);
            return found;
        }
    }
    found
}

/// The id in a directory name as container engines make them.
pub(super) fn container_of(name: &str) -> Option<&str> {
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

fn is_kubepods(first: Option<&str>) -> bool {
    // containerd without systemd's driver may put the tree below a unit of its own.
    first.is_some_and(|first| {
        first == "kubepods" || first.starts_with("kubepods.slice") || first.ends_with(".slice")
    })
}

/// The pod's uid in a directory name: `pod1-2`, `kubepods-burstable-pod1_2.slice`, and that in front of a runtime's name.
fn pod_of(name: &str) -> Option<String> {
    let name = name.split(':').next().unwrap_or_default();
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.strip_prefix("kubepods-").and_then(|rest| {
            let rest = rest.strip_prefix("burstable-").or(rest.strip_prefix("besteffort-")).unwrap_or(rest);
            rest.strip_prefix("pod")
        }),
        None => name.strip_prefix("pod"),
    }?;
    let uid = uid.replace('_', "-");
    let is_uid = (32..=36).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

/// The name of a machine: `systemd-nspawn@NAME.service`, or the scope that it is registered in, `machine-NAME.scope`.
fn machine_of(name: &str) -> Option<String> {
    let escaped = name
        .strip_prefix("systemd-nspawn@")
        .and_then(|rest| rest.strip_suffix(".service"))
        .or_else(|| name.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope")))?;
    // A virtual machine is no container of this host's kernel.
    let name = escaped.replace("\\x2d", "-");
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let fits = (1..=MACHINE_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain);
    (fits && !name.starts_with("qemu-")).then_some(name)
}

/// A runtime's file about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Docker's `config.v2.json`.
    Docker,
    /// An OCI runtime's `config.json`, with what containerd and CRI-O note in its annotations.
    Bundle,
}

/// The image that such a file names.
#[must_use]
pub fn image_in(kind: Kind, text: &[u8]) -> Option<String> {
    const ANNOTATIONS: [&str; 3] =
        ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName", "nerdctl/image-ref"];
    let about: Value = serde_json::from_slice(text).ok()?;
    let image = match kind {
        Kind::Docker => about.get("Config")?.get("Image")?.as_str()?,
        Kind::Bundle => {
            let annotations = about.get("annotations")?;
            ANNOTATIONS.iter().find_map(|key| annotations.get(key)?.as_str())?
        }
    };
    let fits = (1..=IMAGE_BYTES_MAX).contains(&image.len()) && image.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| image.to_owned())
}

/// Images by container, as the runtimes' own files of this host say it.
#[derive(Debug)]
pub(super) struct Images {
    root: PathBuf,
    known: Mutex<HashMap<String, (Option<String>, Instant)>>,
}

impl Images {
    /// `root` is where the host's files begin.
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), known: Mutex::default() }
    }

    /// The image of the container with this id. `None`: no file that only root can write says so.
    pub(super) fn of(&self, container: &str) -> Option<String> {
        if !is_id(container) {
            return None;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((image, at)) = known.get(container)
            && (image.is_some() || at.elapsed() < UNKNOWN_FOR)
        {
            return image.clone();
        }
        let image = self.look(container);
        if known.len() >= IMAGES_MAX {
            known.clear();
        }
        known.insert(container.to_owned(), (image.clone(), Instant::now()));
        image
    }

    fn look(&self, id: &str) -> Option<String> {
        let places = [
            (Kind::Docker, format!("var/lib/docker/containers/{id}/config.v2.json")),
            (Kind::Bundle, format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/config.json")),
            (Kind::Bundle, format!("run/containerd/io.containerd.runtime.v2.task/default/{id}/config.json")),
            (
                Kind::Bundle,
                format!("var/lib/containers/storage/overlay-containers/{id}/userdata/config.json"),
            ),
        ];
        places.iter().find_map(|(kind, place)| image_in(*kind, &self.read(place)?))
    }

    /// The bytes of a file, where it and its directory are root's alone to write.
    fn read(&self, place: &str) -> Option<Vec<u8>> {
        let path = self.root.join(place);
        let is_roots = |about: &std::fs::Metadata| about.uid() == 0 && about.mode() & 0o022 == 0;
        if !is_roots(&std::fs::symlink_metadata(path.parent()?).ok()?) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(&path, flags, Mode::empty()).ok()?);
        let about = file.metadata().ok()?;
        if !about.is_file() || !is_roots(&about) || about.len() > FILE_BYTES_MAX {
            return None;
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "3f1c8f5e-1111-2222-3333-0123456789ab";

    #[test]
    fn containers_are_known_by_how_engines_name_their_directories() {
        let other = ID.replace('0', "1");
        for path in [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/docker/{ID}/nested/docker-{other}.scope"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods/besteffort/pod1-2/{ID}"),
            format!("/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}"),
        ] {
            assert_eq!(contained(&path).container.as_deref(), Some(ID), "{path}");
        }
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        let own = "/user.slice/user-1000.slice/user@1000.service";
        for path in [
            format!("/{ID}"),
            format!("/docker/{}", &ID[1..]),
            format!("/docker-{}G.scope", &ID[1..]),
            format!("{own}/docker-{ID}.scope"),
            format!("{own}/machine.slice/machine-x.scope"),
            "/system.slice/systemd-nspawn@x.service".to_owned(),
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope".to_owned(),
            "/machine.slice/machine-a b.scope".to_owned(),
        ] {
            assert_eq!(contained(&path), Contained::default(), "{path}");
        }
    }

    #[test]
    fn a_pod_is_known_in_the_trees_of_both_cgroup_drivers_and_nowhere_else() {
        let under = POD.replace('-', "_");
        for path in [
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{ID}.scope"),
            format!("/kubepods/besteffort/pod{POD}/{ID}"),
            format!("/kubepods/pod{POD}/{ID}"),
        ] {
            let found = contained(&path);
            assert_eq!((found.pod.as_deref(), found.container.as_deref()), (Some(POD), Some(ID)), "{path}");
        }
        for path in
            [format!("/docker/{ID}/kubepods/pod{POD}/{ID}"), format!("/x/pod{POD}"), "/kubepods/podx".into()]
        {
            assert_eq!(contained(&path).pod, None, "{path}");
        }
    }

    #[test]
    fn a_machine_is_known_by_its_unit_or_its_scope() {
        for path in [
            "/machine.slice/systemd-nspawn@web\\x2d1.service/payload",
            "/machine.slice/machine-web\\x2d1.scope",
        ] {
            assert_eq!(contained(path).container.as_deref(), Some("web-1"), "{path}");
        }
    }

    #[test]
    fn an_image_is_what_the_runtimes_own_file_names_and_only_if_it_is_a_plain_word() {
        let docker = |image: &str| format!(r#"{{"ID":"x","Config":{{"Image":{image:?}}}}}"#);
        assert_eq!(image_in(Kind::Docker, docker("redis:7").as_bytes()).as_deref(), Some("redis:7"));
        let bundle = r#"{"annotations":{"io.kubernetes.cri.image-name":"registry.example/a@sha256:0"}}"#;
        assert_eq!(image_in(Kind::Bundle, bundle.as_bytes()).as_deref(), Some("registry.example/a@sha256:0"));
        for text in
            [docker(""), docker("a b"), docker(&"x".repeat(513)), "{".into(), "[]".into(), bundle.into()]
        {
            assert_eq!(image_in(Kind::Docker, text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_names_no_image() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("var/lib/docker/containers").join(ID);
        fs::create_dir_all(&place).unwrap();
        let file = place.join("config.v2.json");
        fs::write(&file, r#"{"Config":{"Image":"redis:7"}}"#).unwrap();
        let image = || Images::below(root.path()).of(ID);
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let is_root = fs::metadata(&file).unwrap().uid() == 0;
        mode(&file, 0o600);
        mode(&place, 0o700);
        assert_eq!(image().as_deref(), is_root.then_some("redis:7"));
        mode(&file, 0o620);
        assert_eq!(image(), None);
        mode(&file, 0o600);
        mode(&place, 0o777);
        assert_eq!(image(), None);
        mode(&place, 0o700);
        fs::rename(&file, place.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(place.join("elsewhere"), &file).unwrap();
        assert_eq!(image(), None, "a symlink leads anywhere");
        assert_eq!(Images::below(root.path()).of("../../../etc/passwd"), None);
    }
}
