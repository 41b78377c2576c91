//! What the kernel programs refused, as the record tells it: alike refusals as one with a number, and never without the
//! number of those that it does not tell.

use serde::{Deserialize, Serialize};

use super::Micros;

/// What the kernel programs refused since the entry before, about a second's worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRefused {
    /// When it was told.
    pub at: Micros,
    /// The refusals, at most [`crate::limits::KERNEL_REFUSED_TOLD_MAX`], in the order in which each was new.
    pub refusals: Vec<Refused>,
    /// How many more there were, all different from these.
    pub left_out: u64,
    /// How many were refused since the programs were loaded of which nothing else is known: the kernel had no room to tell
    /// of them. Each entry says it anew.
    pub lost_so_far: u64,
}

/// One of them, or many that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The kernel's counter of it: `refused_gate_port_dialled`. `unseen` was not refused: nobody decided.
    pub reason: String,
    /// Where it wanted to go, `ip:port`; `None` where that is no address.
    pub to: Option<String>,
    /// What was wanted, in words, where that is no address.
    pub about: Option<String>,
    /// `tcp`, `udp`, …, or the protocol's number; `None` where there is none.
    pub protocol: Option<String>,
    /// The process, `curl[812]`; `None` for a packet, whose process is not known.
    pub process: Option<String>,
    /// Its program, where it was still to be found.
    pub executable: Option<String>,
    /// The systemd unit of its cgroup.
    pub unit: Option<String>,
    /// Its cgroup, below the root; `None` where that was gone.
    pub cgroup: Option<String>,
    /// Whose process it was.
    pub uid: Option<u32>,
    /// The guard that held it.
    pub guard: Option<String>,
    /// When the first of them was refused.
    pub first: Micros,
    /// When the last one was.
    pub last: Micros,
    /// How many there were.
    pub times: u64,
}

impl Refused {
    /// About how many bytes its texts take.
    #[must_use]
    pub fn weight(&self) -> usize {
        let maybe = [
            &self.to,
            &self.about,
            &self.protocol,
            &self.process,
            &self.executable,
            &self.unit,
            &self.cgroup,
            &self.guard,
        ];
        96 + self.reason.len() + maybe.into_iter().flatten().map(String::len).sum::<usize>()
    }
}
