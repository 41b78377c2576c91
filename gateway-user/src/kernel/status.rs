//! What is loaded right now, read from the kernel and not from memory: programs, links, how full the maps are, counters.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gateway_ebpf::abi::{
    BlockKey, COUNTERS, Config, DnsKey, FlowCounts, FlowKey, InodeKey, Record, Space, Tuple, UnixKey,
};
use serde::Serialize;

use super::KernelError;
use super::heartbeat::{self, Pulse};
use super::links::{HOOKS, Hook, To};
use super::lsm;
use super::pins::{self, cgroup2_root, link_path, map_path};
use super::raw::{self, RawMap};
use super::spaces::{self, SpaceStatus};
use super::uplinks::{self, Uplink};

/// The names of all counters, in the order in which [`super::Gate::counters`] gives them.
pub fn counter_names() -> impl Iterator<Item = &'static str> {
    COUNTERS.iter().map(|(_, name)| *name)
}

/// Everything about one load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Where it is pinned.
    pub pins: PathBuf,
    /// Layout version of its maps.
    pub abi: u32,
    /// The gate's port.
    pub port: u16,
    /// Directory of the cgroup it is attached to; `None`: it is gone.
    pub cgroup: Option<PathBuf>,
    /// Number of the network namespace it serves (`net:[N]`).
    pub netns_inode: u64,
    /// Whether it watches only that namespace.
    pub only_netns: bool,
    /// Process id of the last gate that took its port; 0: none yet. It may be dead.
    pub gate: u32,
    /// The gate's sign of life.
    pub heartbeat: Pulse,
    /// Every program that should be there.
    pub programs: Vec<ProgramStatus>,
    /// The programs that keep guarded processes from what is outside of their guard; without an id where this kernel runs none.
    pub lsm: Vec<ProgramStatus>,
    /// Every interface that is up, and whether frames of packet sockets are looked at there. Empty where the caller is in
    /// another namespace.
    pub uplinks: Vec<Uplink>,
    /// The other network namespaces: those where the gate listens, and those where it is wanted and does not.
    pub spaces: Vec<SpaceStatus>,
    /// How full the maps are.
    pub maps: Vec<MapFill>,
    /// Every counter.
    pub counters: BTreeMap<&'static str, u64>,
}

/// One program and its link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramStatus {
    /// Its name.
    pub name: &'static str,
    /// Its id in the kernel; `None`: it is not attached, which is a hole.
    pub id: Option<u32>,
    /// Its link's id.
    pub link: Option<u32>,
    /// "cgroup", "netns", or "host": every process.
    pub attached_to: &'static str,
    /// How often it ran, and for how many nanoseconds in all, where `kernel.bpf_stats_enabled` is 1.
    pub runs: Option<(u64, u64)>,
}

/// How full one map is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapFill {
    /// Its name.
    pub name: &'static str,
    /// Entries it holds.
    pub entries: usize,
    /// Entries it can hold.
    pub max: u32,
}

/// The maps whose fill matters, with the sizes of their keys and values.
const FILLED: &[(&str, usize, usize)] = &[
    ("TARGETS", size_of::<BlockKey>(), 4),
    ("SERVICES", size_of::<BlockKey>(), 4),
    ("OWN", size_of::<BlockKey>(), 4),
    ("SPACES", 8, size_of::<Space>()),
    ("GUARDS", 4, 4),
    ("GUARD_CGROUPS", 8, 4),
    ("GUARD_UIDS", 4, 4),
    ("DNS", size_of::<DnsKey>(), 4),
    ("UNIX_ALLOWED", size_of::<UnixKey>(), 4),
    ("SEALED", size_of::<InodeKey>(), 4),
    ("TUPLES", size_of::<Tuple>(), size_of::<Record>()),
    ("ALLOWED", size_of::<Tuple>(), 4),
    ("FLOWS", size_of::<FlowKey>(), size_of::<FlowCounts>()),
];

/// Cgroup directories looked at to find the one attached to. The tree of a busy host has a few thousand.
const CGROUPS_MAX: usize = 100_000;

/// Reads all of it.
///
/// # Errors
/// Where nothing is loaded there, another version's, or it may not be read.
pub fn status(pins: &Path) -> Result<Status, KernelError> {
    let (config, here) = (pins::config(pins)?, Path::new("/proc/thread-self/ns/net"));
    let open = |name: &'static str, key, value| {
        RawMap::open(&map_path(pins, name), key, value).map_err(KernelError::map(name))
    };
    let gate = open("GATE", 4, 4)?.lookup(&0u32.to_ne_bytes(), 1).map_err(KernelError::map("GATE"))?;
    let maps = FILLED
        .iter()
        .map(|(name, key, value)| {
            let map = open(name, *key, *value)?;
            let entries = map.keys().map_err(KernelError::map(name))?.len();
            Ok(MapFill { name, entries, max: map.max() })
        })
        .collect::<Result<_, KernelError>>()?;
    Ok(Status {
        pins: pins.to_path_buf(),
        abi: config.abi,
        port: config.gate_port,
        cgroup: cgroup_of(config.cgroup),
        netns_inode: config.netns_inode,
        only_netns: config.flags & gateway_ebpf::abi::FLAG_ONLY_NETNS != 0,
        gate: gate.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes),
        heartbeat: heartbeat::pulse(pins)?,
        programs: HOOKS.iter().map(|hook| program(pins, hook, &config)).collect(),
        lsm: lsm::attached(pins),
        uplinks: match pins::inode(here)? == config.netns_inode {
            true => uplinks::uplinks(pins).map_err(KernelError::file(here))?,
            false => Vec::new(),
        },
        spaces: spaces::spaces(pins)?,
        maps,
        counters: counters(&open("COUNTS", 4, 8)?)?.into_iter().collect(),
    })
}

/// Every program that should be there, and where it is.
///
/// # Errors
/// Where nothing is loaded there, another version's, or it may not be read.
pub fn hooks(pins: &Path) -> Result<Vec<ProgramStatus>, KernelError> {
    let config = pins::config(pins)?;
    Ok(HOOKS.iter().map(|hook| program(pins, hook, &config)).collect())
}

/// A program that cannot be asked about counts as not attached.
fn program(pins: &Path, hook: &Hook, config: &Config) -> ProgramStatus {
    let (name, attached_to) = (
        hook.program,
        match hook.to {
            To::Cgroup => "cgroup",
            To::Netns => "netns",
        },
    );
    let found = raw::get(&link_path(pins, name)).and_then(|link| {
        let link: raw::Info<32> = raw::info(link.as_fd())?;
        let program: raw::Info<216> = raw::info(raw::program_by_id(link.word(8))?.as_fd())?;
        // A cgroup or namespace that was removed takes its attachment along, and so does a detachment; the link then
        // names nothing. Another link that somebody pinned in this one's stead names another place or program.
        let attached = match hook.to {
            To::Cgroup => (link.long(16), link.word(24)) == (config.cgroup, hook.attach_type),
            To::Netns => (u64::from(link.word(16)), link.word(20)) == (config.netns_inode, hook.attach_type),
        };
        let attached = attached && program.text(64, 16) == name.as_bytes();
        Ok((link.word(4), link.word(8), attached, (program.long(200), program.long(192))))
    });
    match found {
        Ok((link, id, true, runs)) => {
            let runs = (runs.0 != 0).then_some(runs);
            ProgramStatus { name, id: Some(id), link: Some(link), attached_to, runs }
        }
        Ok((link, _, false, _)) => {
            ProgramStatus { name, id: None, link: Some(link), attached_to, runs: None }
        }
        Err(_) => ProgramStatus { name, id: None, link: None, attached_to, runs: None },
    }
}

/// Sums every counter over the processors.
pub(super) fn counters(counts: &RawMap) -> Result<Vec<(&'static str, u64)>, KernelError> {
    let cpus =
        aya::util::nr_cpus().map_err(|(path, source)| KernelError::File { path: path.into(), source })?;
    COUNTERS
        .iter()
        .map(|(counter, name)| {
            let key = (*counter as u32).to_ne_bytes();
            let values = counts.lookup(&key, cpus).map_err(KernelError::map("COUNTS"))?.unwrap_or_default();
            let sum = values
                .chunks_exact(8)
                .filter_map(|value| value.try_into().ok())
                .map(u64::from_ne_bytes)
                .sum();
            Ok((*name, sum))
        })
        .collect()
}

/// The directory of a cgroup id.
fn cgroup_of(id: u64) -> Option<PathBuf> {
    let mut open = vec![cgroup2_root().ok()?];
    let mut looked = 0;
    while let Some(path) = open.pop() {
        looked += 1;
        if looked > CGROUPS_MAX {
            return None;
        }
        if fs::metadata(&path).is_ok_and(|about| about.ino() == id) {
            return Some(path);
        }
        let below = fs::read_dir(&path).into_iter().flatten().flatten();
        open.extend(
            below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    None
}
