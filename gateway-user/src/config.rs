//! Where things are on this host, resolved once from options, environment and defaults. Reads nothing else later:
//! no part of the gate looks at the environment behind the operator's back.

use std::path::{Path, PathBuf};

/// Where policy files are when nobody says otherwise.
pub const POLICIES: &str = "/etc/tidegate/policies";
/// Where the record, keys and last good policy are.
pub const STATE: &str = "/var/lib/tidegate";
/// Where programs, links and maps are pinned.
pub const PINS: &str = "/sys/fs/bpf/tidegate";
/// The network namespace whose inbound traffic is steered.
pub const NETNS: &str = "/proc/self/ns/net";
/// The gate's own TCP port, for redirected outbound flows.
pub const PORT: u16 = 15001;
/// The admin socket.
pub const ADMIN_SOCKET: &str = "/run/tidegate/admin.sock";
/// Where cgroup v2 is mounted on a host of our time, if `/proc/mounts` names no such mount.
const CGROUP: &str = "/sys/fs/cgroup";

/// The resolved settings of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory of policy files.
    pub policies: PathBuf,
    /// Directory of the record, keys and the last good policy.
    pub state: PathBuf,
    /// Directory below a BPF file system for what stays loaded.
    pub pins: PathBuf,
    /// Directory of the cgroup v2 the programs are attached to.
    pub cgroup: PathBuf,
    /// Path of the network namespace whose inbound traffic is steered.
    pub netns: PathBuf,
    /// Watch only sockets of `netns`, although processes of other namespaces are in `cgroup` too.
    pub only_netns: bool,
    /// Interfaces by which frames of packet sockets may leave; empty: every one that is up.
    pub uplinks: Vec<String>,
    /// The gate's own TCP port.
    pub port: u16,
    /// Path of the admin socket.
    pub admin_socket: PathBuf,
    /// Loopback port that serves metrics only, if wanted.
    pub metrics_port: Option<u16>,
    /// Log filter (`info`, `tidegate=debug`); without it `RUST_LOG`, then `info`.
    pub log: Option<String>,
    /// File of the keys that bodies are encrypted with, where it is not below the state directory.
    pub record_key: Option<PathBuf>,
    /// File of the key that credentials are sealed with, where it is not in the vault.
    pub vault_key: Option<PathBuf>,
    /// Where systemd puts the credentials of this service, if it does.
    pub credentials: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policies: POLICIES.into(),
            state: STATE.into(),
            pins: PINS.into(),
            cgroup: cgroup_root(),
            netns: NETNS.into(),
            only_netns: false,
            uplinks: Vec::new(),
            port: PORT,
            admin_socket: ADMIN_SOCKET.into(),
            metrics_port: None,
            log: None,
            record_key: None,
            vault_key: None,
            credentials: None,
        }
    }
}

/// The cgroup v2 mount root of this host. Where `/proc/mounts` names none, the place it usually has: whoever opens
/// it then says that nothing is there.
#[must_use]
pub fn cgroup_root() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    cgroup2_mount(&mounts).unwrap_or_else(|| Path::new(CGROUP).to_owned())
}

/// The first cgroup2 mount in text of the form of `/proc/mounts`.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(unescape(place)))
    })
}

/// Undoes the octal escapes of `/proc/mounts` (`\040` is a space).
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_also_on_a_hybrid_host() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_host_without_cgroup2_gives_no_mount() {
        assert_eq!(cgroup2_mount("cgroup /sys/fs/cgroup cgroup rw 0 0\nbroken\n"), None);
    }

    #[test]
    fn escaped_spaces_in_a_mount_path_are_undone_and_nothing_else() {
        assert_eq!(unescape(r"/mnt/a\040b"), "/mnt/a b");
        assert_eq!(unescape(r"/mnt/a\9b\04"), r"/mnt/a\9b\04");
    }
}
