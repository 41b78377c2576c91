//! The last approved demand of each kind, for approvers to compare a new one with. In memory only: what was approved is in
//! the record; a body is in no file after its demand is over.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

use super::demand::{Demand, Shown};
use crate::limits::{PRIOR_BYTES_MAX, PRIORS_MAX};
use crate::operation::{DemandId, EntryId};

/// What was approved last of a kind: the same operations on the same target, held by the same rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prior {
    /// The demand it was.
    pub demand: DemandId,
    /// The entry it was about.
    pub entry: EntryId,
    /// Who asked.
    pub asker: String,
    /// When it was approved.
    pub at: Timestamp,
    /// Who approved it.
    pub by: Vec<String>,
    /// The operation, masked, with its whole body.
    pub shown: Shown,
}

#[derive(Debug, PartialEq, Eq)]
struct Kind {
    target: String,
    operations: Vec<String>,
    rules: Vec<String>,
}

impl Kind {
    fn of(demand: &Demand) -> Self {
        Self {
            target: demand.target.clone(),
            operations: demand.operations.clone(),
            rules: demand.rules.clone(),
        }
    }
}

/// Those that are remembered, the latest last. Never more than the bounds.
#[derive(Debug, Default)]
pub(super) struct Priors {
    kept: VecDeque<(Kind, Arc<Prior>)>,
    bytes: usize,
}

impl Priors {
    /// Remembers a demand that was approved, in the place of the one before it.
    pub(super) fn remember(&mut self, demand: &Demand, shown: Shown, at: Timestamp) {
        let kind = Kind::of(demand);
        if let Some(index) = self.kept.iter().position(|(other, _)| *other == kind) {
            self.drop_at(index);
        }
        let prior = Prior {
            demand: demand.id,
            entry: demand.entry,
            asker: demand.asker.key.clone(),
            at,
            by: demand.voters(),
            shown,
        };
        self.bytes += prior.shown.weight();
        self.kept.push_back((kind, Arc::new(prior)));
        while self.kept.len() > PRIORS_MAX || self.bytes > PRIOR_BYTES_MAX {
            self.drop_at(0);
        }
    }

    /// The last one like this.
    pub(super) fn like(&self, demand: &Demand) -> Option<Arc<Prior>> {
        let kind = Kind::of(demand);
        self.kept.iter().find(|(other, _)| *other == kind).map(|(_, prior)| Arc::clone(prior))
    }

    fn drop_at(&mut self, index: usize) {
        if let Some((_, prior)) = self.kept.remove(index) {
            self.bytes -= prior.shown.weight();
        }
    }
}
