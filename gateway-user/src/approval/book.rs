//! The demands that are open, in memory: found by id and by operation, each with at most one flow waiting on it.
//! Refuses more than its bounds, per subject and in all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::demand::{Demand, State};
use crate::limits::{DEMAND_BYTES_MAX, DEMAND_BYTES_PER_SUBJECT_MAX, DEMANDS_MAX, DEMANDS_PER_SUBJECT_MAX};
use crate::operation::{DemandId, Sha256};

/// What ends a wait.
#[derive(Debug)]
pub(super) enum Word {
    /// The quorums are met; a grant is banked.
    Approved,
    /// A window was opened that covers it.
    Covered(DemandId),
    /// An approver said no.
    Rejected {
        /// Who.
        by: String,
        /// What they said.
        comment: Option<String>,
    },
    /// Nobody answered in time.
    Expired,
    /// Somebody took it back.
    CalledOff {
        /// Who.
        by: String,
    },
    /// The rules that asked have changed.
    Superseded,
}

/// A demand with the flow that waits on it, if one does.
#[derive(Debug)]
struct Kept {
    demand: Arc<Demand>,
    weight: usize,
    seat: Option<Seat>,
}

/// The place of the one flow that waits. It stays taken until that flow gives it up, also after the word was given:
/// nobody else may spend what this flow was promised.
#[derive(Debug)]
struct Seat {
    ticket: u64,
    word: Option<oneshot::Sender<Word>>,
}

#[derive(Debug, Default)]
struct Load {
    demands: usize,
    bytes: usize,
    refused: u64,
}

/// What one subject has at the desk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The subject's stable name.
    pub subject: String,
    /// Its demands, grants and windows.
    pub demands: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How many more it asked for, and was refused for want of room, since it last had none.
    pub refused: u64,
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// That of the asking subject.
    Subject,
    /// That of the gate.
    Gate,
}

/// All open demands.
#[derive(Debug, Default)]
pub(super) struct Book {
    demands: BTreeMap<DemandId, Kept>,
    by_digest: HashMap<Sha256, Vec<DemandId>>,
    windows: BTreeSet<DemandId>,
    deadlines: BTreeSet<(Timestamp, DemandId)>,
    loads: HashMap<String, Load>,
    /// Demands, and room kept for some.
    places: usize,
    bytes: usize,
    refused: u64,
    tickets: u64,
}

impl Book {
    /// Keeps room for a new demand, if the bounds allow one more.
    pub(super) fn reserve(&mut self, demand: &Demand) -> Result<(), Full> {
        let weight = demand.shown.weight();
        let load = self.loads.get_mut(&demand.asker.key);
        let (demands, bytes) = load.as_ref().map_or((0, 0), |load| (load.demands, load.bytes));
        let subject = demands >= DEMANDS_PER_SUBJECT_MAX || bytes + weight > DEMAND_BYTES_PER_SUBJECT_MAX;
        let gate = self.places >= DEMANDS_MAX || self.bytes + weight > DEMAND_BYTES_MAX;
        if subject || gate {
            self.refused += 1;
            if let Some(load) = load {
                load.refused += 1;
            }
            return Err(if subject { Full::Subject } else { Full::Gate });
        }
        self.load(&demand.asker.key, weight);
        Ok(())
    }

    /// Gives up the room of a demand that did not come to be.
    pub(super) fn unreserve(&mut self, demand: &Demand) {
        self.unload(&demand.asker.key, demand.shown.weight());
    }

    /// Takes a demand in that was admitted before.
    pub(super) fn restore(&mut self, demand: Demand) {
        self.load(&demand.asker.key, demand.shown.weight());
        self.insert(demand);
    }

    fn load(&mut self, subject: &str, weight: usize) {
        let load = self.loads.entry(subject.to_owned()).or_default();
        load.demands += 1;
        load.bytes += weight;
        self.places += 1;
        self.bytes += weight;
    }

    fn unload(&mut self, subject: &str, weight: usize) {
        self.places -= 1;
        self.bytes -= weight;
        if let Some(load) = self.loads.get_mut(subject) {
            load.demands -= 1;
            load.bytes -= weight;
            if load.demands == 0 {
                self.loads.remove(subject);
            }
        }
    }

    /// Takes a demand in that has its room.
    pub(super) fn insert(&mut self, demand: Demand) {
        let weight = demand.shown.weight();
        self.deadlines.insert((demand.deadline(), demand.id));
        self.by_digest.entry(demand.digest).or_default().push(demand.id);
        if matches!(demand.state, State::Window { .. }) {
            self.windows.insert(demand.id);
        }
        self.demands.insert(demand.id, Kept { demand: Arc::new(demand), weight, seat: None });
    }

    /// Puts a demand with another vote or state in the place of the one with the same id. The seat stays; who sits
    /// there hears of a grant.
    pub(super) fn replace(&mut self, demand: Demand) {
        if let Some(kept) = self.demands.get_mut(&demand.id) {
            self.deadlines.remove(&(kept.demand.deadline(), demand.id));
            self.deadlines.insert((demand.deadline(), demand.id));
            // What a window or a rejection keeps is less than what was shown.
            let weight = demand.shown.weight();
            if let Some(load) = self.loads.get_mut(&demand.asker.key) {
                load.bytes = load.bytes - kept.weight + weight;
            }
            self.bytes = self.bytes - kept.weight + weight;
            kept.weight = weight;
            // A window that was rejected covers nothing any more.
            match demand.state {
                State::Window { .. } => self.windows.insert(demand.id),
                _ => self.windows.remove(&demand.id),
            };
            kept.demand = Arc::new(demand);
            kept.tell_grant();
        }
    }

    /// Ends a demand: forgets it, and tells who waits.
    pub(super) fn end(&mut self, id: DemandId, word: Word) -> Option<Arc<Demand>> {
        let kept = self.demands.remove(&id)?;
        self.unload(&kept.demand.asker.key, kept.weight);
        self.windows.remove(&id);
        self.deadlines.remove(&(kept.demand.deadline(), id));
        if let Some(ids) = self.by_digest.get_mut(&kept.demand.digest) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_digest.remove(&kept.demand.digest);
            }
        }
        if let Some(sender) = kept.seat.and_then(|seat| seat.word) {
            // Who waited may have left; then there is nobody to tell.
            let _ = sender.send(word);
        }
        Some(kept.demand)
    }

    /// One demand.
    pub(super) fn get(&self, id: DemandId) -> Option<Arc<Demand>> {
        self.demands.get(&id).map(|kept| Arc::clone(&kept.demand))
    }

    /// What each subject has, the fullest first.
    pub(super) fn queues(&self) -> Vec<Queue> {
        let queue = |(subject, load): (&String, &Load)| Queue {
            subject: subject.clone(),
            demands: load.demands,
            bytes: load.bytes,
            refused: load.refused,
        };
        let mut queues: Vec<Queue> = self.loads.iter().map(queue).collect();
        queues.sort_by(|a, b| (b.demands, b.refused, &a.subject).cmp(&(a.demands, a.refused, &b.subject)));
        queues
    }

    /// How many demands were refused for want of room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// The open window that covers what is asked, if `fits`.
    pub(super) fn window(&self, asked: &Demand, fits: impl Fn(&Demand) -> bool) -> Option<Arc<Demand>> {
        let windows = self.windows.iter().filter_map(|id| self.demands.get(id)).map(|kept| &kept.demand);
        windows.filter(|demand| demand.has_same_window(asked)).find(|demand| fits(demand)).map(Arc::clone)
    }

    /// Those that wait for people and would be covered by this window.
    pub(super) fn covered_by(&self, window: &Demand) -> Vec<Arc<Demand>> {
        let all = self.demands.values().map(|kept| &kept.demand);
        let covered = all.filter(|demand| demand.state == State::Pending && demand.has_same_window(window));
        covered.map(Arc::clone).collect()
    }

    /// All demands, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Demand>> {
        self.demands.values().map(|kept| Arc::clone(&kept.demand)).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.demands.len()
    }

    /// Those that have run out.
    pub(super) fn over(&self, now: Timestamp) -> Vec<DemandId> {
        self.deadlines.iter().take_while(|(end, _)| *end <= now).map(|(_, id)| *id).collect()
    }

    /// Demands for this exact operation on which nobody waits: grants first, then oldest first.
    pub(super) fn unattended(&self, digest: Sha256) -> Vec<Arc<Demand>> {
        let ids = self.by_digest.get(&digest).map(Vec::as_slice).unwrap_or_default();
        let once = |state: &State| matches!(state, State::Pending | State::Granted { .. });
        let mut free: Vec<_> = ids
            .iter()
            .filter_map(|id| self.demands.get(id))
            .filter(|kept| kept.seat.is_none() && once(&kept.demand.state))
            .map(|kept| Arc::clone(&kept.demand))
            .collect();
        free.sort_by_key(|demand| (demand.state == State::Pending, demand.id));
        free
    }

    /// A rejection of this exact operation that nobody has heard yet, or that is not over.
    pub(super) fn rejection(&self, digest: Sha256) -> Vec<Arc<Demand>> {
        let ids = self.by_digest.get(&digest).map(Vec::as_slice).unwrap_or_default();
        let demands = ids.iter().filter_map(|id| self.demands.get(id)).map(|kept| &kept.demand);
        demands.filter(|demand| matches!(demand.state, State::Rejected { .. })).map(Arc::clone).collect()
    }

    /// Takes the seat of a demand. Gives a ticket to leave with, and where the word will come.
    pub(super) fn sit(&mut self, id: DemandId) -> Option<(u64, oneshot::Receiver<Word>)> {
        let kept = self.demands.get_mut(&id)?;
        if kept.seat.is_some() {
            return None;
        }
        self.tickets += 1;
        let (word, receiver) = oneshot::channel();
        kept.seat = Some(Seat { ticket: self.tickets, word: Some(word) });
        kept.tell_grant();
        Some((self.tickets, receiver))
    }

    /// Gives the seat up, if this ticket holds it.
    pub(super) fn leave(&mut self, id: DemandId, ticket: u64) {
        if let Some(kept) = self.demands.get_mut(&id)
            && kept.seat.as_ref().is_some_and(|seat| seat.ticket == ticket)
        {
            kept.seat = None;
        }
    }
}

impl Kept {
    fn tell_grant(&mut self) {
        if self.demand.is_approved()
            && let Some(sender) = self.seat.as_mut().and_then(|seat| seat.word.take())
        {
            // Who waited may have left; the grant stays banked.
            let _ = sender.send(Word::Approved);
        }
    }
}
