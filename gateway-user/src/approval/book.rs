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
    /// An approver said no.
    Rejected {
        /// Who.
        by: String,
        /// What they said.
        comment: Option<String>,
    },
    /// Nobody answered in time.
    Expired,
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
    deadlines: BTreeSet<(Timestamp, DemandId)>,
    loads: HashMap<String, Load>,
    bytes: usize,
    tickets: u64,
}

impl Book {
    /// Takes a new demand in, if the bounds allow one more.
    pub(super) fn admit(&mut self, demand: Demand) -> Result<(), Full> {
        let weight = demand.shown.weight();
        if self.demands.len() >= DEMANDS_MAX || self.bytes + weight > DEMAND_BYTES_MAX {
            return Err(Full::Gate);
        }
        let load = self.loads.get(&demand.asker.key);
        let (demands, bytes) = load.map_or((0, 0), |load| (load.demands, load.bytes));
        if demands >= DEMANDS_PER_SUBJECT_MAX || bytes + weight > DEMAND_BYTES_PER_SUBJECT_MAX {
            return Err(Full::Subject);
        }
        self.restore(demand);
        Ok(())
    }

    /// Takes a demand in that was admitted before.
    pub(super) fn restore(&mut self, demand: Demand) {
        let weight = demand.shown.weight();
        let load = self.loads.entry(demand.asker.key.clone()).or_default();
        load.demands += 1;
        load.bytes += weight;
        self.bytes += weight;
        self.deadlines.insert((demand.deadline(), demand.id));
        self.by_digest.entry(demand.digest).or_default().push(demand.id);
        self.demands.insert(demand.id, Kept { demand: Arc::new(demand), weight, seat: None });
    }

    /// Puts a demand with another vote or state in the place of the one with the same id. The seat stays; who sits
    /// there hears of a grant.
    pub(super) fn replace(&mut self, demand: Demand) {
        if let Some(kept) = self.demands.get_mut(&demand.id) {
            self.deadlines.remove(&(kept.demand.deadline(), demand.id));
            self.deadlines.insert((demand.deadline(), demand.id));
            kept.demand = Arc::new(demand);
            kept.tell_grant();
        }
    }

    /// Ends a demand: forgets it, and tells who waits.
    pub(super) fn end(&mut self, id: DemandId, word: Word) -> Option<Arc<Demand>> {
        let kept = self.demands.remove(&id)?;
        self.bytes -= kept.weight;
        self.deadlines.remove(&(kept.demand.deadline(), id));
        let asker = &kept.demand.asker.key;
        if let Some(load) = self.loads.get_mut(asker) {
            load.demands -= 1;
            load.bytes -= kept.weight;
            if load.demands == 0 {
                self.loads.remove(asker);
            }
        }
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
        let mut free: Vec<_> = ids
            .iter()
            .filter_map(|id| self.demands.get(id))
            .filter(|kept| kept.seat.is_none())
            .map(|kept| Arc::clone(&kept.demand))
            .collect();
        free.sort_by_key(|demand| (demand.state == State::Pending, demand.id));
        free
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
        if matches!(self.demand.state, State::Granted { .. })
            && let Some(sender) = self.seat.as_mut().and_then(|seat| seat.word.take())
        {
            // Who waited may have left; the grant stays banked.
            let _ = sender.send(Word::Approved);
        }
    }
}
