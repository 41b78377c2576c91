//! What the kernel programs counted of flows: how many, and how many bytes, by who took them and what they were for. And the
//! enforcer's side of it: taking a flow, so that its bytes are counted as its own.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;

use gateway_ebpf::abi::{
    FLOW_CAME, FLOW_ENDED, FlowCounts, FlowKey, Heartbeat, OPTION_FLOW, OPTION_LEVEL, Passer, Plain, Record,
    STATE_REDIRECTED, Tuple, WAY_INBOUND, WAY_OUTBOUND,
};
use serde::{Deserialize, Serialize};

use super::KernelError;
use super::pins::map_path;
use super::raw::{self, RawMap};
use super::status;

/// How a flow comes to the gate, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By a connect that was rewritten.
    Outbound,
    /// To a protected service.
    Inbound,
    /// Past the gate.
    Past,
}

/// What flows are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// Which enforcer took them; 0: what is counted whoever takes them.
    pub taker: u64,
    /// The number of the target or service (see [`super::row_names`]); 0: none.
    pub row: u32,
    /// [`super::guard_id`] of the guard; 0: none.
    pub guard: u32,
    /// How they come.
    pub way: Way,
}

/// Counts of one lane. They wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Connects on this host that are to come to the gate, or go past it.
    pub dialled: u64,
    /// Those that ended before they came.
    pub never_came: u64,
    /// Connections at the gate's listeners; past the gate: established.
    pub came: u64,
    /// Those of them that were dialled on this host.
    pub came_recorded: u64,
    /// Taken by an enforcer.
    pub taken: u64,
    /// Ended before one took them.
    pub untaken: u64,
    /// Closed by whoever had them.
    pub ended: u64,
    /// Bytes that it read.
    pub read: u64,
    /// Bytes that it wrote.
    pub written: u64,
    /// Bytes that had come and were not read.
    pub unread: u64,
}

/// A connection past the gate, and its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// What it is counted by.
    pub lane: Lane,
    /// Where it went; of one that was accepted only the port.
    pub to: SocketAddr,
    /// Who dialled it, or had it last.
    pub pid: u32,
    /// The name of its thread; not escaped.
    pub command: String,
    /// Its real user id.
    pub uid: u32,
    /// Its cgroup; `None`: not known before the connection ends.
    pub cgroup: Option<u64>,
    /// It was established.
    pub established: bool,
    /// It has ended.
    pub ended: bool,
    /// Bytes read, once it has ended.
    pub read: u64,
    /// Bytes written, once it has ended.
    pub written: u64,
}

/// Everything that was counted, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The counts, read first.
    pub lanes: BTreeMap<Lane, Counted>,
    /// Connects that are on their way between SYN and the gate's listener, read then.
    pub dialling: BTreeMap<Lane, u64>,
    /// The counts once more, read last.
    pub later: BTreeMap<Lane, Counted>,
    /// Whose turn it is: of the enforcers, the last that took charge.
    pub turn: u64,
    /// Flows that found no row.
    pub uncounted: u64,
    /// Who went past the gate, as far as it is remembered.
    pub passed: Vec<Passed>,
}

/// Takes a flow that was just accepted. `None`: the kernel does not count it.
///
/// # Errors
/// Where the socket cannot be asked, or the answer is not one of ours.
pub fn take_flow(socket: impl AsFd) -> io::Result<Option<Lane>> {
    let mut key = FlowKey::ZERO;
    match raw::socket_option(socket.as_fd(), OPTION_LEVEL, OPTION_FLOW, key.bytes_mut()) {
        Ok(length) if length == size_of::<FlowKey>() => Ok(Some(lane(&key))),
        Ok(_) => Err(io::Error::from(io::ErrorKind::InvalidData)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The counts. Opening needs root.
#[derive(Debug)]
pub struct Flows {
    flows: RawMap,
    passers: RawMap,
    tuples: RawMap,
    counts: RawMap,
    heartbeat: RawMap,
}

impl Flows {
    /// Takes hold of what is loaded there.
    ///
    /// # Errors
    /// Where nothing is loaded there, or another version's.
    pub fn open(pins: &Path) -> Result<Self, KernelError> {
        super::pins::config(pins)?;
        let open = |name: &'static str, key, value| {
            RawMap::open(&map_path(pins, name), key, value).map_err(KernelError::map(name))
        };
        Ok(Self {
            flows: open("FLOWS", size_of::<FlowKey>(), size_of::<FlowCounts>())?,
            passers: open("PASSERS", 8, size_of::<Passer>())?,
            tuples: open("TUPLES", size_of::<Tuple>(), size_of::<Record>())?,
            counts: open("COUNTS", 4, 8)?,
            heartbeat: open("HEARTBEAT", 4, size_of::<Heartbeat>())?,
        })
    }

    /// What stands there now. Rows change while they are read: each by itself is of one moment, or nearly.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn read(&self) -> Result<Seen, KernelError> {
        let mut seen = Seen { lanes: self.lanes()?, turn: self.turn()?, ..Seen::default() };
        for record in rows::<Record>(&self.tuples, "TUPLES")? {
            let way = if record.state == STATE_REDIRECTED { Way::Outbound } else { Way::Inbound };
            let lane = Lane { taker: 0, row: record.row, guard: record.guard, way };
            *seen.dialling.entry(lane).or_default() += 1;
        }
        seen.later = self.lanes()?;
        seen.passed = rows::<Passer>(&self.passers, "PASSERS")?.iter().map(passed).collect();
        let counters = status::counters(&self.counts)?;
        let uncounted = counters.iter().find(|(name, _)| *name == "flow_uncounted");
        seen.uncounted = uncounted.map_or(0, |(_, count)| *count);
        Ok(seen)
    }

    fn lanes(&self) -> Result<BTreeMap<Lane, Counted>, KernelError> {
        let mut lanes = BTreeMap::new();
        for key in self.flows.keys().map_err(KernelError::map("FLOWS"))? {
            let found = self.flows.lookup(&key, 1).map_err(KernelError::map("FLOWS"))?;
            if let (Some(key), Some(counts)) = (plain(&key), found.and_then(|bytes| plain(&bytes))) {
                lanes.insert(lane(&key), counted(&counts));
            }
        }
        Ok(lanes)
    }

    fn turn(&self) -> Result<u64, KernelError> {
        let bytes = self.heartbeat.lookup(&0u32.to_ne_bytes(), 1).map_err(KernelError::map("HEARTBEAT"))?;
        Ok(bytes.and_then(|bytes| plain::<Heartbeat>(&bytes)).map_or(0, |heartbeat| heartbeat.turn))
    }

    /// Forgets what enforcers before this turn took: they answer for nothing any more.
    pub(super) fn forget_before(&self, turn: u64) -> io::Result<()> {
        for bytes in self.flows.keys()? {
            let old = plain::<FlowKey>(&bytes).is_some_and(|key| key.taker != 0 && key.taker >> 32 < turn);
            if old {
                self.flows.delete(&bytes)?;
            }
        }
        Ok(())
    }
}

fn rows<T: Plain>(map: &RawMap, name: &'static str) -> Result<Vec<T>, KernelError> {
    let keys = map.keys().map_err(KernelError::map(name))?;
    let values = keys.iter().map(|key| Ok(map.lookup(key, 1)?.and_then(|bytes| plain(&bytes))));
    // One that went meanwhile is no row.
    Ok(values
        .collect::<io::Result<Vec<_>>>()
        .map_err(KernelError::map(name))?
        .into_iter()
        .flatten()
        .collect())
}

fn plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    let mut value = T::ZERO;
    (bytes.len() == size_of::<T>()).then(|| value.bytes_mut().copy_from_slice(bytes))?;
    Some(value)
}

fn lane(key: &FlowKey) -> Lane {
    let way = match key.way {
        WAY_OUTBOUND => Way::Outbound,
        WAY_INBOUND => Way::Inbound,
        _ => Way::Past,
    };
    Lane { taker: key.taker, row: key.row, guard: key.guard, way }
}

fn counted(counts: &FlowCounts) -> Counted {
    let FlowCounts { dialled, never_came, came, came_recorded, taken, untaken, ended, read, written, unread } =
        *counts;
    Counted { dialled, never_came, came, came_recorded, taken, untaken, ended, read, written, unread }
}

fn passed(passer: &Passer) -> Passed {
    let end = passer.comm.iter().position(|byte| *byte == 0).unwrap_or(passer.comm.len());
    Passed {
        lane: lane(&passer.key),
        to: SocketAddr::new(IpAddr::from(passer.address).to_canonical(), passer.port as u16),
        pid: passer.tgid,
        command: String::from_utf8_lossy(&passer.comm[..end]).into_owned(),
        uid: passer.uid,
        cgroup: (passer.cgroup != 0).then_some(passer.cgroup),
        established: passer.state & FLOW_CAME != 0,
        ended: passer.state & FLOW_ENDED != 0,
        read: passer.read,
        written: passer.written,
    }
}
