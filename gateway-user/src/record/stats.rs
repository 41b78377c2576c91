//! The record in figures. Reads rows and counts, no commits but the first and the last.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::chain::{Base, Checkpoint, Link, META_BASE, META_CHECKPOINT, META_HEAD, meta};
use super::entry::Micros;
use super::frame::Commit;
use super::head::SignedHead;
use super::index::{self, Dimension};
use super::journal::store_name;
use super::read::Reader;
use super::retention::{Removed, before};
use super::{RecordError, now};
use crate::operation::Sha256;
use crate::store::disk::Access;
use crate::store::keyring::generation_of;
use crate::store::{SegmentRow, Snapshot, StoreError};

/// Targets that are counted one by one.
const TARGETS_SHOWN: usize = 100;

/// The record in figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// The store's random name.
    pub store: Sha256,
    /// The first commit that is left, and the next to be written.
    pub first_commit: u64,
    /// The number of the next commit.
    pub next_commit: u64,
    /// Events and changes of state that are left.
    pub events: u64,
    /// Bytes of the commits that are left.
    pub commit_bytes: u64,
    /// Bytes of the database file.
    pub database_bytes: u64,
    /// When the oldest commit that is left was written.
    pub oldest: Option<Micros>,
    /// When the newest was.
    pub newest: Option<Micros>,
    /// Index rows.
    pub index_rows: u64,
    /// Keys of the small state.
    pub state_keys: u64,
    /// Bodies by lane: a target, or empty for all without an age of their own.
    pub lanes: BTreeMap<String, LaneFigures>,
    /// Commits in which something of a target stands.
    pub targets: BTreeMap<String, u64>,
    /// Generations of the key, and how many segments each seals.
    pub generations: BTreeMap<u32, u64>,
    /// Signed checkpoints.
    pub checkpoints: u64,
    /// The last of them.
    pub signed: Option<SignedHead>,
    /// The key that signs.
    pub signing_key: Option<String>,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// Bytes of its file system.
    pub total_bytes: u64,
}

/// One lane of bodies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LaneFigures {
    /// Segments.
    pub segments: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// When the oldest was begun.
    pub oldest: Option<Micros>,
}

impl Reader {
    /// The record in figures.
    ///
    /// # Errors
    /// The record is damaged or unreadable.
    pub fn figures(&self) -> Result<Figures, RecordError> {
        let snapshot = self.store.snapshot()?;
        let (base, head): (Base, Link) = (meta(&snapshot, META_BASE)?, meta(&snapshot, META_HEAD)?);
        let [_, index_rows, _, state_keys] = snapshot.counts()?;
        let [_, checkpoints, _] = snapshot.upkeep_counts()?;
        let io = StoreError::io("ask for the free space of the record");
        let space = self.disk.space().map_err(io)?;
        let mut figures = Figures {
            store: store_name(&snapshot)?,
            first_commit: base.link.number,
            next_commit: head.number,
            events: head.sequence - base.link.sequence,
            commit_bytes: head.bytes - base.link.bytes,
            database_bytes: self.disk.database_bytes().map_err(StoreError::io("measure the database"))?,
            oldest: written(&snapshot, base.link.number)?,
            newest: head.number.checked_sub(1).and(Some(head.written)),
            index_rows,
            state_keys,
            checkpoints,
            signed: self.signed_head()?,
            signing_key: super::head::listed(&snapshot)?.last().map(|key| key.public.clone()),
            free_bytes: space.free,
            total_bytes: space.total,
            ..Figures::default()
        };
        for (number, row) in snapshot.segments()? {
            let row = SegmentRow::read(number, &row)?;
            *figures.generations.entry(generation_of(&row.key).unwrap_or(0)).or_default() += 1;
            let lane = figures.lanes.entry(row.lane).or_default();
            lane.segments += 1;
            lane.bytes += self.segment_bytes(number);
            lane.oldest = lane.oldest.or(Some(row.born));
        }
        for target in index::values(&snapshot, Dimension::Target, TARGETS_SHOWN)? {
            let commits = snapshot.index_count(&index::key(Dimension::Target, &target))?;
            figures.targets.insert(target, commits);
        }
        Ok(figures)
    }

    fn segment_bytes(&self, number: u32) -> u64 {
        self.disk.segment(number, Access::Read).and_then(|file| file.len()).unwrap_or(0)
    }

    /// What would go, were everything removed that is older; changes nothing.
    ///
    /// # Errors
    /// The record is damaged or unreadable.
    pub fn prunable(&self, older_than: Duration, bodies_only: bool) -> Result<Removed, RecordError> {
        let snapshot = self.store.snapshot()?;
        let (base, head): (Base, Link) = (meta(&snapshot, META_BASE)?, meta(&snapshot, META_HEAD)?);
        let recovery: Checkpoint = meta(&snapshot, META_CHECKPOINT)?;
        let cutoff = before(now(), older_than);
        let mut removed = Removed::default();
        if !bodies_only {
            let second = cutoff.div_euclid(1_000_000);
            let end = snapshot.commit_at(second)?.unwrap_or(u64::MAX).min(recovery.link.number);
            removed.commits = end.saturating_sub(base.link.number);
            if removed.commits > 0 {
                let first = match snapshot.commit(end)? {
                    Some(blob) => {
                        Commit::parse(&blob)
                            .map_err(|detail| StoreError::damaged(format!("commit {end}"), detail))?
                            .first
                    }
                    None => head.sequence,
                };
                removed.events = first - base.link.sequence;
            }
        }
        let mut later: BTreeMap<String, Micros> = BTreeMap::new();
        for (number, row) in snapshot.segments()?.into_iter().rev() {
            let row = SegmentRow::read(number, &row)?;
            let last = later.insert(row.lane, row.born).unwrap_or(head.written);
            if last < cutoff {
                removed.segments += 1;
                removed.body_bytes += self.segment_bytes(number);
            }
        }
        Ok(removed)
    }
}

fn written(snapshot: &Snapshot, number: u64) -> Result<Option<Micros>, StoreError> {
    let Some(blob) = snapshot.commit(number)? else { return Ok(None) };
    let commit = Commit::parse(&blob);
    Ok(Some(commit.map_err(|detail| StoreError::damaged(format!("commit {number}"), detail))?.written))
}
