//! What the kernel refused, and what was cut, and nobody has recorded yet: alike refusals as one, a bounded number of different ones, and the
//! number of all others. However long nobody records, and however many come, it takes the same room and loses no count.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::GUARD;
use crate::identity::holders::{Places, program};
use crate::kernel::{self, Denial, Gate};
use crate::limits::{KERNEL_REFUSED_TEXT_BYTES_MAX, KERNEL_REFUSED_TOLD_MAX};
use crate::policy::Shelf;
use crate::record::entry::{Event, KernelRefused, Micros, Refused, SocketsDestroyed};

/// The kernel's counter of what the ring had no room for.
const LOST: &str = "event_lost";

/// Cuts that wait to be recorded. With so many waiting nothing more is cut, and the egress hook drops its packets.
const CUTS_MAX: usize = 16;

/// Refusals and cuts on their way to the record.
#[derive(Debug)]
pub struct Refusals {
    gate: Arc<Gate>,
    /// For the names of guards.
    shelf: Shelf,
    places: Places,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    cuts: VecDeque<SocketsDestroyed>,
    /// What was handed out last, until somebody says that it is recorded.
    handed: Option<(u64, Box<Event>)>,
    /// The number of the last one that was handed out.
    last: u64,
    /// What the last one said of those that are lost.
    lost: u64,
}

/// Refusals that are not handed out yet.
#[derive(Debug, Default)]
struct Batch {
    refusals: Vec<Refused>,
    /// Where in there each stands.
    known: HashMap<Denial, usize>,
    /// The path and unit of each cgroup, once found: looking for one that is gone is work.
    found: HashMap<u64, (Option<String>, Option<String>)>,
    left_out: u64,
}

impl Refusals {
    /// Nothing was refused yet. `cgroups` is the cgroup v2 root.
    #[must_use]
    pub fn new(gate: Arc<Gate>, shelf: Shelf, cgroups: &Path) -> Self {
        Self { gate, shelf, places: Places::new(cgroups), waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one in. Looks at `/proc` and the cgroup tree where it is like none that waits and there is room: keep it off the
    /// async threads.
    pub fn take(&self, denial: &Denial) {
        let age = i64::try_from(denial.age().as_micros()).unwrap_or(i64::MAX);
        let at = jiff::Timestamp::now().as_microsecond().saturating_sub(age);
        self.waiting().batch.take(denial, at, |found| self.described(denial, at, found));
    }

    /// What is to be recorded next, with its number: the same again until it is asked with that number, which says that it is
    /// recorded. A recorder that failed in between has it twice, never not at all.
    pub fn next(&self, recorded: Option<u64>) -> Option<(u64, Box<Event>)> {
        let counters = self.gate.counters().unwrap_or_default();
        let lost = counters.iter().find(|(name, _)| *name == LOST).map(|(_, count)| *count);
        self.waiting().next(recorded, lost, jiff::Timestamp::now().as_microsecond())
    }

    /// Takes in what was cut.
    pub(super) fn cut(&self, cut: SocketsDestroyed) {
        self.waiting().cuts.push_back(cut);
    }

    /// Whether so many cuts wait that no more should be made.
    pub(super) fn has_no_room_for_a_cut(&self) -> bool {
        self.waiting().cuts.len() >= CUTS_MAX
    }

    fn described(
        &self,
        denial: &Denial,
        at: Micros,
        found: &mut HashMap<u64, (Option<String>, Option<String>)>,
    ) -> Refused {
        let set = self.shelf.current();
        let names = set.guards().iter().map(|guard| guard.name.as_str()).chain([GUARD]);
        let guard = names.into_iter().find(|name| kernel::guard_id(name) == denial.guard);
        let (cgroup, unit) = match denial.cgroup {
            0 => (None, None),
            cgroup => found.entry(cgroup).or_insert_with(|| self.places.of(cgroup)).clone(),
        };
        let nowhere = denial.to.ip().is_unspecified() && denial.to.port() == 0;
        Refused {
            reason: denial.reason.to_owned(),
            to: (denial.about.is_none() && !nowhere).then(|| denial.to.to_string()),
            about: denial.about.as_ref().map(|about| bounded(&about.escape_debug().to_string())),
            protocol: protocol(denial.protocol),
            process: (denial.tgid != 0)
                .then(|| format!("{}[{}]", denial.command.escape_debug(), denial.tgid)),
            executable: program(denial.tgid, denial.at).as_deref().map(bounded),
            unit: unit.as_deref().map(bounded),
            cgroup: cgroup.as_deref().map(bounded),
            uid: (denial.cgroup != 0).then_some(denial.uid),
            guard: guard.map(bounded),
            first: at,
            last: at,
            times: 1,
        }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        let refusals = self.waiting().not_recorded();
        if refusals > 0 {
            tracing::error!(refusals, "refusals of the kernel that nobody has recorded");
        }
    }
}

impl Waiting {
    fn next(&mut self, recorded: Option<u64>, lost: Option<u64>, at: Micros) -> Option<(u64, Box<Event>)> {
        if self.handed.as_ref().is_some_and(|(number, _)| Some(*number) == recorded) {
            self.handed = None;
        }
        if self.handed.is_none() {
            let cut = self.cuts.pop_front().map(Event::SocketsDestroyed);
            let event = cut.or_else(|| self.refused(lost, at))?;
            self.last += 1;
            self.handed = Some((self.last, Box::new(event)));
        }
        self.handed.clone()
    }

    /// All that was refused since this was asked last.
    fn refused(&mut self, lost: Option<u64>, at: Micros) -> Option<Event> {
        let lost = lost.unwrap_or(self.lost);
        if self.batch.refusals.is_empty() && lost == self.lost {
            return None;
        }
        let Batch { refusals, left_out, .. } = std::mem::take(&mut self.batch);
        self.lost = lost;
        Some(Event::KernelRefused(KernelRefused { at, refusals, left_out, lost_so_far: lost }))
    }

    /// How many wait, those included that were handed out and may be recorded.
    fn not_recorded(&self) -> u64 {
        let handed = match self.handed.as_ref().map(|(_, event)| &**event) {
            Some(Event::KernelRefused(event)) => count(&event.refusals, event.left_out),
            _ => 0,
        };
        handed + count(&self.batch.refusals, self.batch.left_out)
    }
}

impl Batch {
    fn take(
        &mut self,
        denial: &Denial,
        at: Micros,
        described: impl FnOnce(&mut HashMap<u64, (Option<String>, Option<String>)>) -> Refused,
    ) {
        let alike = Denial { at: 0, ..denial.clone() };
        if let Some(known) = self.known.get(&alike).and_then(|index| self.refusals.get_mut(*index)) {
            known.times += 1;
            known.last = known.last.max(at);
        } else if self.refusals.len() < KERNEL_REFUSED_TOLD_MAX {
            self.known.insert(alike, self.refusals.len());
            self.refusals.push(described(&mut self.found));
        } else {
            self.left_out += 1;
        }
    }
}

fn count(refusals: &[Refused], left_out: u64) -> u64 {
    refusals.iter().map(|one| one.times).sum::<u64>() + left_out
}

/// The protocol's name, where people know it by one.
fn protocol(number: u16) -> Option<String> {
    let name = match number {
        0 => return None,
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        58 => "icmpv6",
        132 => "sctp",
        136 => "udplite",
        262 => "mptcp",
        other => return Some(other.to_string()),
    };
    Some(name.to_owned())
}

/// The beginning of a text that is too long, which then ends in `…`.
pub(super) fn bounded(text: &str) -> String {
    match text.len() <= KERNEL_REFUSED_TEXT_BYTES_MAX {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(KERNEL_REFUSED_TEXT_BYTES_MAX)]),
    }
}

#[cfg(test)]
mod tests;
