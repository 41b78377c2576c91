//! The rows about the whole store. No hash covers them, so each must be what the chain itself demands; a row that
//! nothing writes is named, too.

use super::super::chain::{
    Checkpoint, FORMAT, Link, META_CHECKPOINT, META_FORMAT, META_LATENESS, META_ROWS, META_STORE, meta,
};
use super::super::entry::Micros;
use super::{PROBLEMS_SHOWN, Walk};
use crate::store::{Snapshot, StoreError};

/// A checkpoint row, and whether the walk came to its point.
pub(super) struct Watched {
    row: Checkpoint,
    met: bool,
}

impl Walk<'_> {
    /// Takes up the checkpoint row of a new snapshot. A running enforcer writes it only ahead of the walk, which has
    /// come no further than the end of an older snapshot.
    pub(super) fn watch(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        match meta(snapshot, META_CHECKPOINT) {
            Ok(row) if self.checkpoint.as_ref().is_some_and(|watched| watched.row == row) => {}
            Ok(row) => self.checkpoint = Some(Watched { row, met: false }),
            // Named when the walk ends.
            Err(StoreError::Damaged { .. }) => self.checkpoint = None,
            Err(other) => return Err(other),
        }
        self.at_checkpoint();
        Ok(())
    }

    /// Compares the checkpoint row with the point the walk is at, where that is the one it names.
    pub(super) fn at_checkpoint(&mut self) {
        let Some(watched) = self.checkpoint.as_mut() else { return };
        if !self.sound || watched.met || watched.row.link.number != self.link.number {
            return;
        }
        watched.met = true;
        if watched.row.link != self.link || watched.row.ledger != self.ledger {
            self.report.say(Some(self.link.number), "its checkpoint row does not fit the chain there");
        }
    }

    /// Checks what can be said of the rows at the end of the walk.
    pub(super) fn whole(&mut self, snapshot: &Snapshot, head: &Link) -> Result<(), StoreError> {
        if let Some(format) = self.row::<u32>(meta(snapshot, META_FORMAT))?
            && format != FORMAT
        {
            self.report.say(None, format!("its format row says {format}, and the chain has layout {FORMAT}"));
        }
        if snapshot.meta(META_STORE)?.is_none() {
            self.report.say(None, "its store row is missing");
        }
        for name in snapshot.meta_names(META_ROWS.len() + PROBLEMS_SHOWN)? {
            if !META_ROWS.contains(&name.as_str()) {
                self.report
                    .say(None, format!("there is a row {name:?} about the store, and nothing writes it"));
            }
        }
        if self.row::<Checkpoint>(meta(snapshot, META_CHECKPOINT))?.is_some() {
            self.checkpoint_met(head);
        }
        let lateness = self.row::<Micros>(meta(snapshot, META_LATENESS))?;
        if let Some(lateness) = lateness.filter(|lateness| self.sound && *lateness != self.lateness) {
            let must = self.lateness;
            self.report
                .say(None, format!("its lateness row says {lateness} microseconds where {must} must be"));
        }
        Ok(())
    }

    fn checkpoint_met(&mut self, head: &Link) {
        let Some(Watched { row, met }) = &self.checkpoint else { return };
        let what = match row.link.number {
            beyond if beyond > head.number => "lies beyond the end of the chain",
            0 if head.number > 0 => "lies before the first commit, which writes one",
            before if before < self.base.link.number => "lies before the beginning of the record",
            _ if !met && self.sound => "names a point that the chain had passed when it was written",
            _ => return,
        };
        self.report.say(None, format!("its checkpoint row {what}"));
    }

    /// A row, or `None` after saying what is wrong with it.
    pub(super) fn row<T>(&mut self, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(row) => Ok(Some(row)),
            Err(damage @ StoreError::Damaged { .. }) => {
                self.report.say(None, damage);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }
}
