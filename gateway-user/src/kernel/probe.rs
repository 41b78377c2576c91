//! What this kernel can do, for `tidegate doctor`: each need with what was found and what it means. Says what it could not
//! find out instead of guessing, and needs no privilege for the rest.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::ProgramType;
use serde::Serialize;

use super::pins::{cgroup2_root, is_bpffs};
use super::{KernelError, btf, lsm, older, raw, spaces, status, uplinks};

/// How one need is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    /// As it should be.
    Ok,
    /// Works, with less protection.
    Reduced,
    /// Does not work without it.
    Missing,
    /// Could not be found out with the rights we have.
    Unknown,
}

/// One need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is looked at.
    pub name: &'static str,
    /// How it is met.
    pub found: Found,
    /// What was seen.
    pub seen: String,
    /// What that means, and what to do; empty where all is well.
    pub means: String,
}

/// The posture of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Every need, most important first.
    pub checks: Vec<Check>,
}

impl Probe {
    /// The worst finding; `Unknown` is worse than `Reduced` and better than `Missing`.
    #[must_use]
    pub fn worst(&self) -> Found {
        let rank = |found: Found| match found {
            Found::Ok => 0,
            Found::Reduced => 1,
            Found::Unknown => 2,
            Found::Missing => 3,
        };
        self.checks.iter().map(|check| check.found).max_by_key(|found| rank(*found)).unwrap_or(Found::Unknown)
    }
}

/// Oldest kernel that loads every program.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Looks at everything.
#[must_use]
pub fn probe() -> Probe {
    let mut checks = vec![kernel(), types(), cgroup(), bpffs(), rights()];
    checks.extend(programs());
    checks.extend([
        older_sockets(),
        lsm::check(),
        user_namespaces(),
        packet_sockets(),
        unprivileged_bpf(),
        ipv6(),
    ]);
    Probe { checks }
}

/// Whether everything that was loaded there is still attached; `None` where nothing is loaded.
#[must_use]
pub fn attached(pins: &Path) -> Option<Check> {
    let name = "hooks attached";
    let programs = match status::hooks(pins) {
        Ok(programs) => programs,
        Err(KernelError::NotLoaded { .. }) => return None,
        Err(error) => return Some(check(name, Found::Unknown, error.to_string(), "run as root to find out")),
    };
    let missing: Vec<_> =
        programs.iter().filter(|program| program.id.is_none()).map(|one| one.name).collect();
    let seen = match missing.as_slice() {
        [] => return Some(check(name, Found::Ok, format!("all {}", programs.len()), "")),
        missing => format!("missing: {}", missing.join(", ")),
    };
    let means = "what these hooks watch goes past the gate: run `tidegate load` to attach them again, `tidegate coverage` \
                 to see what got by, and find out who detached them";
    Some(check(name, Found::Missing, seen, means))
}

/// Whether the gate listens in every network namespace where it is wanted; `None` where nothing is loaded.
#[must_use]
pub fn spaces_check(pins: &Path) -> Option<Check> {
    let name = "network namespaces";
    let known = match spaces::spaces(pins) {
        Ok(known) => known,
        Err(KernelError::NotLoaded { .. }) => return None,
        Err(error) => return Some(check(name, Found::Unknown, error.to_string(), "run as root to find out")),
    };
    let refused: Vec<String> = known
        .iter()
        .filter_map(|space| space.why.map(|why| format!("net:[{}]: {why}", space.inode)))
        .take(NAMED_MAX)
        .collect();
    if refused.is_empty() {
        return Some(check(name, Found::Ok, format!("the gate's own, and {} others", known.len()), ""));
    }
    let means = "guarded processes there reach nothing, and services there are not protected: `lsns --type net` says whose \
                 they are";
    Some(check(name, Found::Reduced, refused.join("; "), means))
}

/// Namespaces that are named one by one.
const NAMED_MAX: usize = 5;

fn check(name: &'static str, found: Found, seen: impl Into<String>, means: &str) -> Check {
    let means = if found == Found::Ok { String::new() } else { means.to_owned() };
    Check { name, found, seen: seen.into(), means }
}

/// Major and minor number of the running kernel.
pub(super) fn version() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let found = if version() >= KERNEL_MIN { Found::Ok } else { Found::Missing };
    check("kernel", found, release, "6.1 is the oldest kernel the programs load on; boot a newer one")
}

fn types() -> Check {
    match btf::offsets() {
        Ok(_) => check("type information (BTF)", Found::Ok, btf::VMLINUX, ""),
        Err(error) => {
            check("type information (BTF)", Found::Missing, error.to_string(), "nothing can be loaded")
        }
    }
}

fn cgroup() -> Check {
    let name = "cgroup v2";
    match cgroup2_root() {
        Ok(root) if fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok() => {
            check(name, Found::Ok, root.display().to_string(), "")
        }
        Ok(root) => check(
            name,
            Found::Reduced,
            format!("{} (hybrid: controllers are on v1)", root.display()),
            "interception is complete, but services may not have a v2 cgroup of their own: units are then unknown and guards must name uids or cgroups",
        ),
        Err(error) => check(name, Found::Missing, error.to_string(), "the hooks have nothing to attach to"),
    }
}

fn bpffs() -> Check {
    let mounted = is_bpffs(Path::new("/sys/fs/bpf"));
    let exists = Path::new("/sys/fs/bpf").is_dir();
    let (found, seen) = match (mounted, exists) {
        (true, _) => (Found::Ok, "/sys/fs/bpf"),
        (false, true) => (Found::Ok, "not mounted yet; `tidegate load` mounts it"),
        (false, false) => (Found::Missing, "/sys/fs/bpf does not exist"),
    };
    check("bpffs", found, seen, "links cannot be pinned: boot a kernel with CONFIG_BPF_SYSCALL=y")
}

/// Bits of /proc/self/status CapEff.
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

fn rights() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let can = effective & SYS_ADMIN != 0 || effective & (BPF | PERFMON) == BPF | PERFMON;
    if can && effective & NET_ADMIN != 0 {
        return check("rights", Found::Ok, "may load kernel programs", "");
    }
    check(
        "rights",
        Found::Unknown,
        format!("capabilities {effective:#x}"),
        "what follows as \"unknown\" needs root to be found out; so does loading",
    )
}

fn programs() -> Vec<Check> {
    let kinds = [
        ("connect, bind, send hooks", ProgramType::CgroupSockAddr),
        ("socket creation hook", ProgramType::CgroupSock),
        ("packet egress hook", ProgramType::CgroupSkb),
        ("handshake hook (sock_ops)", ProgramType::SockOps),
        ("identity query (getsockopt)", ProgramType::CgroupSockopt),
        ("inbound steering (sk_lookup)", ProgramType::SkLookup),
    ];
    kinds.into_iter().map(|(name, kind)| program(name, kind)).collect()
}

fn program(name: &'static str, kind: ProgramType) -> Check {
    match aya::sys::is_program_supported(kind) {
        Ok(true) => check(name, Found::Ok, "supported", ""),
        Ok(false) => check(
            name,
            Found::Missing,
            "not supported",
            "nothing can be loaded: boot a kernel with CONFIG_CGROUP_BPF=y and CONFIG_INET=y, 6.1 or newer",
        ),
        Err(error) => check(name, Found::Unknown, error.to_string(), "run as root to find out"),
    }
}

fn older_sockets() -> Check {
    let name = "destroying older sockets";
    match older::can_destroy() {
        Ok(true) => check(name, Found::Ok, "supported", ""),
        Ok(false) => check(
            name,
            Found::Reduced,
            "not supported (CONFIG_INET_DIAG_DESTROY)",
            "connections that are older than what protects them are not cut at once: their packets are dropped, and they \
             hang until they time out",
        ),
        Err(error) => check(name, Found::Unknown, error.to_string(), "run as root to find out"),
    }
}

fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn user_namespaces() -> Check {
    let limit = number("/proc/sys/user/max_user_namespaces");
    let debian = number("/proc/sys/kernel/unprivileged_userns_clone");
    let found = if limit == Some(0) || debian == Some(0) { Found::Ok } else { Found::Reduced };
    check(
        "user namespaces",
        found,
        format!("max_user_namespaces {}", limit.map_or("unknown".to_owned(), |limit| limit.to_string())),
        "a guarded process can make a network namespace in which it is root; it reaches nothing from there but itself. Set \
         user.max_user_namespaces=0 if nothing here needs them",
    )
}

fn packet_sockets() -> Check {
    let (seen, means) = match uplinks::supported() {
        true => (
            "frames are looked at where they leave",
            "a process with CAP_NET_RAW gets past that with PACKET_QDISC_BYPASS, and on loopback: run what is guarded \
             without it (systemd: CapabilityBoundingSet=, docker: --cap-drop NET_RAW)",
        ),
        false => (
            "not covered: this kernel has no tcx (6.6)",
            "a process with CAP_NET_RAW can write Ethernet frames past every cgroup hook: run what is guarded without it \
             (systemd: CapabilityBoundingSet=, docker: --cap-drop NET_RAW), or boot a newer kernel",
        ),
    };
    check("AF_PACKET", Found::Reduced, seen, means)
}

fn unprivileged_bpf() -> Check {
    let name = "unprivileged BPF";
    match number("/proc/sys/kernel/unprivileged_bpf_disabled") {
        Some(0) => check(
            name,
            Found::Reduced,
            "allowed",
            "set kernel.unprivileged_bpf_disabled=1: only root should load kernel programs",
        ),
        Some(value) => check(name, Found::Ok, format!("disabled ({value})"), ""),
        None => {
            check(name, Found::Unknown, "kernel.unprivileged_bpf_disabled is not readable", "look as root")
        }
    }
}

fn ipv6() -> Check {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET6, rustix::net::SocketType::STREAM, None);
    match socket {
        Ok(socket) => {
            // Any option will do: it shows that the socket is real.
            let works =
                raw::socket_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE, &mut [0; 4]).is_ok();
            let found = if works { Found::Ok } else { Found::Unknown };
            check("IPv6", found, "available", "the gate listens on IPv4 alone")
        }
        Err(error) => check(
            "IPv6",
            Found::Reduced,
            error.to_string(),
            "the gate listens on IPv4 alone; nobody can use IPv6 either",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_stands_for_the_host() {
        let probe =
            |found: &[Found]| Probe { checks: found.iter().map(|one| check("x", *one, "", "")).collect() };
        assert_eq!(probe(&[Found::Ok, Found::Reduced]).worst(), Found::Reduced);
        assert_eq!(probe(&[Found::Unknown, Found::Reduced]).worst(), Found::Unknown);
        assert_eq!(probe(&[Found::Missing, Found::Unknown]).worst(), Found::Missing);
        assert_eq!(probe(&[]).worst(), Found::Unknown, "nothing looked at is nothing known");
    }

    #[test]
    fn every_reduced_or_missing_finding_says_what_it_means() {
        for check in probe().checks {
            assert_eq!(check.means.is_empty(), check.found == Found::Ok, "{check:?}");
        }
    }
}
