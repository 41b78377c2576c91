//! What the kernel counted beside what the enforcer says: pure, so that every kind of gap can be tested.
//!
//! Both go on counting while they are looked at. So the kernel is read between two accounts of the enforcer, twice itself, and a
//! gap is only what no order of events between the looks explains. Refuses to explain by guessing: what has no named reason is
//! unexplained.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Account, Told};
use crate::kernel::{Counted, FlowsSeen, Lane, Passed, Way};

/// What rows and guards are called, by their numbers.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Targets and services.
    pub rows: BTreeMap<u32, String>,
    /// Guards.
    pub guards: BTreeMap<u32, String>,
    /// Units or cgroups, by the cgroup's number.
    pub cgroups: BTreeMap<u64, String>,
}

/// Why something is a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The connect hook did not see them.
    PastTheHook,
    /// They came to a protected service, and another process than the enforcer had them.
    ServedByAnother,
    /// They were dialled, and nothing more is known of them.
    Astray,
    /// They came, and were not dialled.
    Undialled,
    /// They came, and the enforcer does not take them.
    NotTaken,
    /// The kernel counted more than the enforcer.
    NotRecorded,
    /// The enforcer counted more than the kernel.
    NotCounted,
}

impl Why {
    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::PastTheHook => "went past the connect hook",
            Self::ServedByAnother => "came to the service, and the enforcer did not have them",
            Self::Astray => "were dialled, and neither came to the gate nor ended as far as the kernel saw",
            Self::Undialled => "came to the gate, and were not dialled as far as the kernel saw",
            Self::NotTaken => "came to the gate, and nobody takes them",
            Self::NotRecorded => "the kernel counted more than the enforcer decoded and recorded",
            Self::NotCounted => "the enforcer decoded more than the kernel counted",
        }
    }
}

/// What is unexplained, of one target and guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The target or service. `None`: no target, a guarded process's.
    pub target: Option<String>,
    /// The guard.
    pub guard: Option<String>,
    /// How they should have come.
    pub way: Way,
    /// Why it is a gap.
    pub why: Why,
    /// Flows too many on one side.
    pub flows: u64,
    /// Bytes too many on one side, both directions together. Of flows that are still open they are not known yet.
    pub bytes: u64,
    /// Whose they were, as far as the kernel remembers.
    pub processes: Vec<Process>,
}

/// Whose a connection was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// The name of its thread; not escaped.
    pub command: String,
    /// Its real user id.
    pub uid: u32,
    /// Its unit or cgroup, where it closed the connection itself.
    pub cgroup: Option<String>,
    /// Where it went; of one that was accepted only the port.
    pub to: String,
    /// It was established.
    pub established: bool,
    /// Its bytes, both ways, once it has ended.
    pub bytes: Option<u64>,
}

/// The flows of one target and guard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The target or service. `None`: no target, a guarded process's.
    pub target: Option<String>,
    /// The guard.
    pub guard: Option<String>,
    /// Outbound, inbound.
    pub way: Option<Way>,
    /// Connects on this host that are to come to the gate.
    pub dialled: u64,
    /// Refused by the kernel, or given up by the client, before they came.
    pub never_came: u64,
    /// Connections at the gate's listeners.
    pub came: u64,
    /// Those of them that ended before an enforcer took them.
    pub untaken: u64,
    /// Those that wait for it now.
    pub waiting: u64,
    /// Taken by enforcers before this one, which cannot be asked any more.
    pub earlier: u64,
    /// Taken by the enforcer.
    pub taken: u64,
    /// Those of them that are open.
    pub open: u64,
    /// Sessions in the record, of those that have ended.
    pub recorded: u64,
    /// Refused by the enforcer before they became sessions, by why.
    pub refused: BTreeMap<String, u64>,
    /// Bytes that the kernel gave to the enforcer, and that it decoded.
    pub read: u64,
    /// Bytes that the enforcer wrote.
    pub written: u64,
    /// Bytes that came and that nobody read: the connection was cut.
    pub unread: u64,
}

/// The comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// Whether there was an enforcer to compare with.
    pub compared: bool,
    /// The flows of every target and guard.
    pub lanes: Vec<Flows>,
    /// What has no explanation.
    pub gaps: Vec<Gap>,
    /// Flows in `gaps`.
    pub unexplained_flows: u64,
    /// Bytes in `gaps`.
    pub unexplained_bytes: u64,
    /// Flows that the kernel had no room to count.
    pub uncounted: u64,
}

impl Reconciled {
    /// Whether everything is explained.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.gaps.is_empty() && self.uncounted == 0
    }

    /// Whether another look could find less: what went past stays.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.gaps.iter().all(|gap| matches!(gap.why, Why::PastTheHook | Why::ServedByAnother))
    }

    /// What of this is still so in a later look: what was under way between two counts is not.
    #[must_use]
    pub fn still(&self, later: Self) -> Self {
        let key = |gap: &Gap| (gap.target.clone(), gap.guard.clone(), gap.way, gap.why);
        let known: BTreeMap<_, _> = self.gaps.iter().map(|gap| (key(gap), (gap.flows, gap.bytes))).collect();
        let taken = |of: &Self, gap: &Gap| {
            let is = |lane: &&Flows| {
                (&lane.target, &lane.guard, lane.way) == (&gap.target, &gap.guard, Some(gap.way))
            };
            of.lanes.iter().find(is).map(|lane| lane.taken)
        };
        let gaps = later.gaps.iter().filter_map(|gap| {
            let (flows, bytes) = known.get(&key(gap))?;
            // A queue from which flows are taken is no gap, however many wait in it.
            let moves = gap.why == Why::NotTaken && taken(self, gap) != taken(&later, gap);
            let gap = Gap { flows: gap.flows.min(*flows), bytes: gap.bytes.min(*bytes), ..gap.clone() };
            (!moves && (gap.flows, gap.bytes) != (0, 0)).then_some(gap)
        });
        Self { gaps: gaps.collect(), ..later }.summed()
    }

    fn summed(mut self) -> Self {
        self.unexplained_flows = self.gaps.iter().map(|gap| gap.flows).sum();
        self.unexplained_bytes = self.gaps.iter().map(|gap| gap.bytes).sum();
        self
    }
}

/// By how much the kernel has more than the later account (positive), or the earlier account more than the kernel (negative).
fn off((first, later): (u64, u64), (before, after): (u64, u64)) -> i64 {
    let (more, less) = (first.wrapping_sub(after) as i64, later.wrapping_sub(before) as i64);
    if more > 0 { more } else { less.min(0) }
}

/// Lays the kernel's counts beside the enforcer's, which were asked before and after; `None`: there is no enforcer.
#[must_use]
pub fn compare(seen: &FlowsSeen, told: Option<(&Account, &Account)>, names: &Names) -> Reconciled {
    let mut found =
        Reconciled { compared: told.is_some(), uncounted: seen.uncounted, ..Reconciled::default() };
    let bases: BTreeSet<Lane> = seen
        .later
        .keys()
        .chain(told.into_iter().flat_map(|(before, _)| before.iter().filter_map(|(lane, _)| lane.as_ref())))
        .map(|lane| Lane { taker: 0, ..*lane })
        .collect();
    for base in bases {
        let mut gaps = Gaps { base, names, seen, found: Vec::new() };
        let of = |lanes: &BTreeMap<Lane, Counted>| lanes.get(&base).copied().unwrap_or_default();
        let (first, later) = (of(&seen.lanes), of(&seen.later));
        if base.way == Way::Past {
            gaps.add(Why::PastTheHook, later.dialled, later.read.wrapping_add(later.written));
        } else {
            let mut flows = gaps.under_way(first, later);
            if let Some((before, after)) = told {
                gaps.enforcer(before, after, &mut flows);
            }
            found.lanes.push(flows);
        }
        found.gaps.append(&mut gaps.found);
    }
    let strangers = told.and_then(|(before, _)| before.iter().find(|(lane, _)| lane.is_none()));
    if let Some((_, stranger)) = strangers {
        let nothing = Lane { taker: 0, row: 0, guard: 0, way: Way::Inbound };
        let mut gaps = Gaps { base: nothing, names, seen, found: Vec::new() };
        gaps.add(Why::NotCounted, stranger.taken, stranger.read + stranger.written);
        found.gaps.append(&mut gaps.found);
    }
    found.summed()
}

/// The gaps of one target and guard.
struct Gaps<'a> {
    base: Lane,
    names: &'a Names,
    seen: &'a FlowsSeen,
    found: Vec<Gap>,
}

impl Gaps<'_> {
    fn add(&mut self, why: Why, flows: u64, bytes: u64) {
        if (flows, bytes) == (0, 0) {
            return;
        }
        let whose = matches!(why, Why::PastTheHook | Why::ServedByAnother);
        let processes = self.seen.passed.iter().filter(|one| whose && one.lane == self.base);
        let processes = processes.map(|one| self.process(one));
        self.found.push(Gap {
            target: self.target(),
            guard: self.guard(),
            way: self.base.way,
            why,
            flows,
            bytes,
            processes: processes.collect(),
        });
    }

    fn process(&self, one: &Passed) -> Process {
        let cgroup = |id| self.names.cgroups.get(&id).cloned().unwrap_or_else(|| format!("cgroup {id}"));
        Process {
            pid: one.pid,
            command: one.command.clone(),
            uid: one.uid,
            cgroup: one.cgroup.map(cgroup),
            to: if one.to.ip().is_unspecified() {
                format!("port {}", one.to.port())
            } else {
                one.to.to_string()
            },
            established: one.established,
            bytes: one.ended.then_some(one.read.wrapping_add(one.written)),
        }
    }

    fn target(&self) -> Option<String> {
        named(&self.names.rows, self.base.row, "target")
    }

    fn guard(&self) -> Option<String> {
        named(&self.names.guards, self.base.guard, "guard")
    }

    /// The way to the enforcer: what was dialled comes or ends, and what came is taken or ends.
    fn under_way(&mut self, first: Counted, later: Counted) -> Flows {
        let out = |counts: &Counted| counts.came_recorded.wrapping_add(counts.never_came);
        let dialling = self.seen.dialling.get(&self.base).copied().unwrap_or_default();
        // At the moment between the two looks, at least and at most so many were under way.
        let least = first.dialled.wrapping_sub(out(&later)) as i64;
        let most = later.dialled.wrapping_sub(out(&first)) as i64;
        let (astray, undialled) = (least - dialling as i64, dialling as i64 - most);
        self.add(Why::Astray, astray.max(0) as u64, 0);
        self.add(Why::Undialled, undialled.max(0) as u64, 0);
        self.add(Why::ServedByAnother, later.ended, later.read.wrapping_add(later.written));
        let gone = later.taken.wrapping_add(later.untaken).wrapping_add(later.ended);
        let waiting = later.came.wrapping_sub(gone) as i64;
        self.add(Why::NotTaken, waiting.max(0) as u64, 0);
        self.add(Why::NotCounted, waiting.min(0).unsigned_abs(), 0);
        Flows {
            target: self.target(),
            guard: self.guard(),
            way: Some(self.base.way),
            dialled: later.dialled,
            never_came: later.never_came,
            came: later.came,
            untaken: later.untaken,
            waiting: waiting.max(0) as u64,
            earlier: later.taken,
            ..Flows::default()
        }
    }

    /// What enforcers took, beside what this one says of it.
    fn enforcer(&mut self, before: &Account, after: &Account, flows: &mut Flows) {
        let mine = |lane: &Lane| Lane { taker: 0, ..*lane } == self.base && lane.taker != 0;
        let takers: BTreeSet<Lane> = self
            .seen
            .later
            .keys()
            .filter(|lane| mine(lane) && lane.taker >> 32 >= self.seen.turn)
            .copied()
            .chain(before.iter().filter_map(|(lane, _)| *lane).filter(mine))
            .collect();
        for lane in takers {
            let of = |lanes: &BTreeMap<Lane, Counted>| lanes.get(&lane).copied().unwrap_or_default();
            let says = |account: &Account| {
                let found = account.iter().find(|(of, _)| *of == Some(lane));
                found.map_or_else(Told::default, |(_, told)| told.clone())
            };
            let (first, later, before, after) =
                (of(&self.seen.lanes), of(&self.seen.later), says(before), says(after));
            let taken = off((first.taken, later.taken), (before.taken, after.taken));
            let ended = off((first.ended, later.ended), (before.ended, after.ended));
            let read = off((first.read, later.read), (before.read, after.read));
            let written = off((first.written, later.written), (before.written, after.written));
            let bytes = |side: fn(i64) -> bool| {
                [read, written].into_iter().filter(|off| side(*off)).map(i64::unsigned_abs).sum()
            };
            let flow = |side: fn(i64) -> bool| {
                [taken, ended].into_iter().filter(|off| side(*off)).map(i64::unsigned_abs).max()
            };
            self.add(Why::NotRecorded, flow(|off| off > 0).unwrap_or(0), bytes(|off| off > 0));
            self.add(Why::NotCounted, flow(|off| off < 0).unwrap_or(0), bytes(|off| off < 0));
            flows.earlier = flows.earlier.wrapping_sub(later.taken);
            flows.taken += after.taken;
            flows.open += after.taken.saturating_sub(after.ended);
            flows.recorded += after.recorded;
            for (why, count) in after.refused {
                *flows.refused.entry(why).or_default() += count;
            }
            flows.read += after.read;
            flows.written += after.written;
            flows.unread = flows.unread.wrapping_add(later.unread);
        }
    }
}

fn named(names: &BTreeMap<u32, String>, number: u32, kind: &str) -> Option<String> {
    (number != 0).then(|| names.get(&number).cloned().unwrap_or_else(|| format!("{kind} {number}")))
}

#[cfg(test)]
mod tests;
