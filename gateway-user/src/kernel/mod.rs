//! The privileged acts, behind one narrow door: loading the kernel programs, publishing what they match, listening,
//! marking sockets, and asking the kernel who called.
//!
//! The only module that names aya, and the only one with `unsafe` (in `raw`). Refuses to half-load, to adopt what another
//! version left, and to open a window while it changes anything.

mod btf;
mod confine;
mod denials;
pub mod diag;
mod error;
mod exempt;
mod flows;
mod hand_over;
mod heartbeat;
mod links;
mod load;
mod lsm;
mod netlink;
mod older;
mod own;
mod pins;
mod probe;
mod raw;
mod sealed;
mod sock_diag;
mod sockets;
mod spaces;
mod status;
mod tables;
mod uplinks;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

pub use confine::{Confined, Reach, confine};
pub use denials::{Denial, Denials};
pub use error::KernelError;
pub use exempt::{Exempt, Made};
pub use flows::{Counted, Flows, Lane, Passed, Seen as FlowsSeen, Way, take_flow};
pub use gateway_ebpf::abi::SPACES_MAX;
pub use hand_over::keep_to_this_process;
pub use heartbeat::{Heartbeat, Pulse, heartbeat_check};
pub use load::{KernelLog, LoadReport, Options, UnloadReport, load, load_with, unload};
pub use older::{Older, Watch, Why, destroy};
pub use pins::{cgroup2_root, default_pins};
pub use probe::{Check, Found, Probe, attached, probe, spaces_check};
pub use raw::since_boot;
pub use sealed::seal;
pub use sockets::{Gate, Kind, Listeners, Login, Own, Seen, identify, is_own_address};
pub use spaces::{Space, SpaceStatus, Unserved, spaces};
pub use status::{MapFill, ProgramStatus, Status, counter_names, hooks, status};
pub use tables::{Missing, Published, row_names, unix_sockets};
pub use uplinks::Uplink;

/// The Unix sockets of the network namespace at this path, as many as are looked at.
///
/// # Errors
/// It cannot be entered, or the kernel not be asked.
pub fn list_unix(netns: &Path) -> Result<diag::unix::Listing, KernelError> {
    sockets::inside(netns, || sock_diag::Link::open()?.list_unix())
}

/// The kernel programs, as `cargo xtask build` made them.
pub static OBJECT: &[u8] = include_bytes!(env!("TIDEGATE_BPF_OBJECT"));

/// The port that connects are rewritten to, where nothing else is said.
pub const DEFAULT_PORT: u16 = 15001;

/// Where the programs are attached, and how they are found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Directory in bpffs that holds the pinned maps and links.
    pub pins: PathBuf,
    /// Cgroup v2 directory whose processes are watched. Anything but the root can be left by moving to another cgroup.
    pub cgroup: PathBuf,
    /// Network namespace whose inbound connections are steered, and where the gate listens.
    pub netns: PathBuf,
    /// The gate's port on loopback.
    pub port: u16,
    /// Watch only sockets of `netns`, although processes of other namespaces are in `cgroup` too. For tests.
    pub only_netns: bool,
    /// Interfaces at which frames of packet sockets are looked at. Empty: every one that is up, as they come and go.
    pub uplinks: Vec<String>,
    /// Directories of the gate's own besides the pins: what is guarded changes nothing in them, where this kernel has BPF LSM.
    pub sealed: Vec<PathBuf>,
    /// The same, which it does not read either.
    pub secret: Vec<PathBuf>,
}

impl Place {
    /// The whole host: root cgroup, this namespace, [`DEFAULT_PORT`], pins in `/sys/fs/bpf/tidegate`.
    ///
    /// # Errors
    /// Where no cgroup v2 is mounted.
    pub fn host() -> Result<Self, KernelError> {
        Ok(Self {
            pins: default_pins(),
            cgroup: cgroup2_root()?,
            netns: PathBuf::from("/proc/self/ns/net"),
            port: DEFAULT_PORT,
            only_netns: false,
            uplinks: Vec::new(),
            sealed: Vec::new(),
            secret: Vec::new(),
        })
    }
}

/// Everything the programs match. Plain addresses and ids: names were resolved before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Intercepted for every process.
    pub targets: Vec<TargetRow>,
    /// Whose whole traffic is ours.
    pub guards: Vec<GuardRow>,
    /// Protected services of this host.
    pub services: Vec<ServiceRow>,
    /// Whose connections go straight.
    pub exempts: Vec<ExemptRow>,
    /// Cgroups in whose processes they run, where those are in other network namespaces. Absolute.
    pub service_cgroups: Vec<PathBuf>,
}

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First address; host bits are ignored.
    pub address: IpAddr,
    /// Leading bits that count: at most 32 for IPv4, 128 for IPv6.
    pub prefix: u8,
}

impl From<IpAddr> for Block {
    fn from(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }
}

/// An outbound target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRow {
    /// Its name, by which its flows are counted. Those that share a place are counted together.
    pub name: String,
    /// Where it is. Empty: nowhere by address (guarded processes reach it by name).
    pub blocks: Vec<Block>,
    /// TCP ports.
    pub ports: Vec<u16>,
}

/// A guard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardRow {
    /// Unique name; [`guard_id`] of it is what records carry.
    pub name: String,
    /// Cgroups whose processes, and those of every cgroup below, belong to it: absolute below the cgroup v2 mount, or
    /// relative to it. Those that do not exist are reported by `publish`, and match nothing until it is called again.
    pub cgroups: Vec<PathBuf>,
    /// Real user ids whose processes belong to it, wherever they move.
    pub uids: Vec<u32>,
    /// DNS servers its processes may ask over UDP and TCP.
    pub dns: Vec<SocketAddr>,
    /// Unix sockets of processes outside that its processes may connect to besides those where a host takes logs and
    /// notices, by the name that their server bound: a path, or `@` and an abstract name.
    pub unix_sockets: Vec<String>,
    /// It is the guard over the gate's own processes, which get sockets and commands from the keeper: the rules against
    /// reaching out of a guard are not for them.
    pub own: bool,
}

/// An exemption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExemptRow {
    /// Unique name.
    pub name: String,
    /// Real user ids.
    pub uids: Vec<u32>,
    /// Cgroups one of which a process must be in besides, as those of a guard; `None`: wherever it is.
    pub cgroups: Option<Vec<PathBuf>>,
}

/// A protected service of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRow {
    /// As a target's.
    pub name: String,
    /// Local addresses. Empty: every one.
    pub blocks: Vec<Block>,
    /// TCP ports.
    pub ports: Vec<u16>,
}

/// The number a guard has in the kernel: the same name has the same number for ever, so a record made before a reload or
/// an upgrade is never read as another guard's. Never 0.
#[must_use]
pub fn guard_id(name: &str) -> u32 {
    let digest = crate::operation::Sha256::of(name.as_bytes());
    u32::from_be_bytes([digest.0[0], digest.0[1], digest.0[2], digest.0[3]]).max(1)
}
