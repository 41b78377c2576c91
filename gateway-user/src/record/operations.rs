//! Recorded operations, newest first, each with what was known of its flow: for whoever judges them again. Looks at no
//! more than it was told to, and never reads a body.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::entry::{Event, Intent, Micros, SessionOpened};
use super::frame::Frame;
use super::index::{self, AnyOf, Dimension};
use super::read::Reader;
use super::summary::{load, session_rows};
use super::{Hand, RecordError, Recorder};
use crate::operation::SessionId;
use crate::store::Snapshot;

/// Openings of sessions kept while operations are walked: those of busy connections come again and again.
const OPENINGS_KEPT_MAX: usize = 10_000;

/// A recorded operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// What was asked, and the verdict.
    pub intent: Intent,
    /// The flow it was asked on.
    pub opened: Arc<SessionOpened>,
}

/// How far to look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Not before.
    pub since: Option<Micros>,
    /// At most so many operations.
    pub limit: usize,
    /// No longer than until then.
    pub ends: Option<Instant>,
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Everything there is was seen.
    Whole,
    /// A bound was reached, or whoever looked had enough.
    CutShort,
}

impl Reader {
    /// Gives every recorded operation in these bounds to `take`, the newest first, until that says `false`.
    ///
    /// # Errors
    /// The record is damaged or unreadable.
    pub fn operations(
        &self,
        look: Look,
        take: &mut dyn FnMut(Recorded) -> bool,
    ) -> Result<Looked, RecordError> {
        walk(&self.store.snapshot()?, look, take)
    }
}

impl Recorder {
    /// As [`Reader::operations`], for the enforcer itself. Blocks for reads.
    ///
    /// # Errors
    /// As there; or the record is not open now.
    pub fn operations(
        &self,
        look: Look,
        take: &mut dyn FnMut(Recorded) -> bool,
    ) -> Result<Looked, RecordError> {
        match &*self.0 {
            Hand::Own(writer) => walk(&writer.snapshot()?, look, take),
            Hand::Far(line) => line.operations(look, take),
        }
    }
}

impl Reader {
    /// Gives every event of the gate itself in these bounds to `take`, the newest first, until that says `false`.
    ///
    /// # Errors
    /// The record is damaged or unreadable.
    pub fn gate_events(
        &self,
        look: Look,
        take: &mut dyn FnMut(&Event) -> bool,
    ) -> Result<Looked, RecordError> {
        let snapshot = self.store.snapshot()?;
        let gate = vec![AnyOf(vec![index::key(Dimension::Gate, "")])];
        let mut search = index::Search::new(&snapshot, gate, u64::MAX);
        let mut left = look.limit;
        while let Some((number, positions)) = search.next_match()? {
            let loaded = load(&snapshot, number)?;
            if look.since.is_some_and(|since| loaded.written < since) {
                break;
            }
            for position in positions {
                let Frame::Event(event) = loaded.frame(position)? else { continue };
                if look.since.is_some_and(|since| event.at().is_none_or(|at| at < since)) {
                    continue;
                }
                if left == 0 || !take(event) {
                    return Ok(Looked::CutShort);
                }
                left -= 1;
            }
        }
        Ok(Looked::Whole)
    }
}

fn walk(
    snapshot: &Snapshot,
    look: Look,
    take: &mut dyn FnMut(Recorded) -> bool,
) -> Result<Looked, RecordError> {
    let operations = vec![AnyOf(vec![index::key(Dimension::Kind, "http")])];
    let mut openings = HashMap::new();
    let mut left = look.limit;
    let mut search = index::Search::new(snapshot, operations, u64::MAX);
    while let Some((number, positions)) = search.next_match()? {
        let loaded = load(snapshot, number)?;
        if look.since.is_some_and(|since| loaded.written < since) {
            break;
        }
        for position in positions {
            let Frame::Event(Event::Intent(intent)) = loaded.frame(position)? else { continue };
            if look.since.is_some_and(|since| intent.at < since) {
                continue;
            }
            if left == 0 || look.ends.is_some_and(|ends| Instant::now() >= ends) {
                return Ok(Looked::CutShort);
            }
            left -= 1;
            let Some(opened) = opening(snapshot, intent.session, &mut openings)? else { continue };
            if !take(Recorded { intent: intent.as_ref().clone(), opened }) {
                return Ok(Looked::CutShort);
            }
        }
    }
    Ok(Looked::Whole)
}

fn opening(
    snapshot: &Snapshot,
    session: SessionId,
    kept: &mut HashMap<SessionId, Arc<SessionOpened>>,
) -> Result<Option<Arc<SessionOpened>>, RecordError> {
    if let Some(known) = kept.get(&session) {
        return Ok(Some(Arc::clone(known)));
    }
    let Some((number, marks)) = session_rows(snapshot, session, 0)?.into_iter().next() else {
        return Ok(None);
    };
    let loaded = load(snapshot, number)?;
    for mark in marks {
        if let Frame::Event(Event::SessionOpened(opened)) = loaded.frame(mark / 2)? {
            let opened = Arc::new(opened.clone());
            if kept.len() >= OPENINGS_KEPT_MAX {
                kept.clear();
            }
            kept.insert(session, Arc::clone(&opened));
            return Ok(Some(opened));
        }
    }
    Ok(None)
}
