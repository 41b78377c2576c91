//! Goes through many sessions without holding many: which sessions a filter means, and what happened in one of them, in
//! order. Holds the operations of a session that run at the same time, and never a body.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use super::RecordError;
use super::entry::{Event, Micros, SessionClosed, SessionOpened, Verdict};
use super::frame::{About, Frame, KeptBody};
use super::index::{self, AnyOf, Dimension};
use super::journal::store_name;
use super::read::{EntryView, Filter, Reader};
use super::summary::{conditions, intent_of, last_before, load, session_rows, votes};
use crate::operation::{EntryId, SessionId};
use crate::store::Snapshot;

const VERDICTS: [Verdict; 4] = [Verdict::Allow, Verdict::Hold, Verdict::Deny, Verdict::Refuse];

/// What a walk through a session comes by.
#[derive(Debug)]
pub enum Passed<'a> {
    /// The session's beginning. Always first.
    Opened(&'a SessionOpened),
    /// One operation, whole, as it ended; or as far as it came, where the record ends before it does.
    Entry(Box<EntryView>),
    /// The session's end.
    Closed(&'a SessionClosed),
}

impl Filter {
    /// Whether one and the same judgement of this operation meets every condition. The limit is none.
    #[must_use]
    pub fn admits(&self, entry: &EntryView) -> bool {
        let intent = &entry.intent;
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let user = intent.user.as_ref().map(crate::operation::User::key);
        let subject = intent.user.as_ref().map(|user| user.subject.as_str());
        let user = is(&self.user, user.as_deref()) || is(&self.user, subject);
        let workload = intent.workload.as_deref();
        let bare = workload.and_then(|key| key.split_once(':')).map(|(_, name)| name);
        let workload = is(&self.workload, workload) || is(&self.workload, bare);
        let target = is(&self.target, intent.target.as_deref()) && is(&self.kind, Some(&intent.kind));
        let would = self.would.is_none_or(|wanted| intent.would == Some(wanted));
        let given = entry.decided.iter().map(|decided| (decided.verdict, decided.at));
        let given = given.chain([(intent.verdict, intent.at)]);
        user && workload
            && target
            && would
            && given.into_iter().any(|(verdict, at)| self.admits_verdict(verdict, at))
    }

    fn admits_verdict(&self, verdict: Verdict, at: Micros) -> bool {
        self.verdict.is_none_or(|wanted| wanted == verdict)
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
    }
}

impl Reader {
    /// Sessions with something that matches, newest first, at most `most`, and whether there are more. The filter's
    /// own limit is not looked at.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn sessions_with(&self, filter: &Filter, most: usize) -> Result<(Vec<SessionId>, bool), RecordError> {
        let snapshot = self.store.snapshot()?;
        let is_set =
            [&filter.user, &filter.workload, &filter.target, &filter.kind].iter().any(|set| set.is_some());
        let conditions = match is_set || filter.verdict.is_some() || filter.would.is_some() {
            true => conditions(&snapshot, filter)?,
            // Every operation has a verdict. A session without one holds nothing to go through.
            false => {
                vec![AnyOf(VERDICTS.map(|verdict| index::key(Dimension::Verdict, verdict.name())).into())]
            }
        };
        let Some(bound) = last_before(&snapshot, filter.until)? else { return Ok((Vec::new(), false)) };
        let mut search = index::Search::new(&snapshot, conditions, bound);
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        while let Some((number, positions)) = search.next_match()? {
            let loaded = load(&snapshot, number)?;
            if filter.since.is_some_and(|since| loaded.written < since) {
                break;
            }
            for position in positions {
                let frame = loaded.frame(position)?;
                let within = |at: Micros| {
                    filter.since.is_none_or(|since| at >= since)
                        && filter.until.is_none_or(|until| at < until)
                };
                if !frame.at().is_some_and(within) {
                    continue;
                }
                let Some(session) = session_of(&snapshot, frame)? else { continue };
                if !seen.insert(session) {
                    continue;
                }
                if found.len() >= most {
                    return Ok((found, true));
                }
                found.push(session);
            }
        }
        Ok((found, false))
    }

    /// Hands everything that is recorded about a session to `visit`, in order and with the time it was written, until it
    /// has seen enough. Gives whether there is such a session.
    ///
    /// # Errors
    /// As [`Reader::list`], and whatever `visit` gives.
    pub fn frames<E: From<RecordError>>(
        &self,
        session: SessionId,
        mut visit: impl FnMut(Micros, &Frame) -> Result<ControlFlow<()>, E>,
    ) -> Result<bool, E> {
        let snapshot = self.store.snapshot().map_err(RecordError::from)?;
        let rows = session_rows(&snapshot, session, 0).map_err(RecordError::from)?;
        let is_there = !rows.is_empty();
        for (number, marks) in rows {
            let loaded = load(&snapshot, number).map_err(RecordError::from)?;
            for mark in marks {
                let frame = loaded.frame(mark / 2).map_err(RecordError::from)?;
                if visit(loaded.written, frame)?.is_break() {
                    return Ok(is_there);
                }
            }
        }
        Ok(is_there)
    }

    /// The recorded bytes of one stretch of a body, checked against their digest.
    ///
    /// # Errors
    /// They are no longer kept, sealed with a key that is not here, or not those that were recorded.
    pub fn stretch(&self, body: &KeptBody) -> Result<Vec<u8>, RecordError> {
        let snapshot = self.store.snapshot()?;
        Ok(self.bodies.read(&snapshot, &store_name(&snapshot)?, &body.placed)?)
    }

    /// Hands a session's beginning, each of its operations and its end to `visit`, until it has seen enough. Gives
    /// whether there is such a session.
    ///
    /// # Errors
    /// As [`Reader::frames`].
    pub fn walk<E: From<RecordError>>(
        &self,
        session: SessionId,
        mut visit: impl FnMut(Passed<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<bool, E> {
        let snapshot = self.store.snapshot().map_err(RecordError::from)?;
        let mut open: BTreeMap<EntryId, EntryView> = BTreeMap::new();
        let mut over = false;
        let is_there = self.frames(session, |_, frame| {
            let flow = match (frame, frame.about().1) {
                (Frame::Event(Event::SessionOpened(opened)), _) => visit(Passed::Opened(opened))?,
                (Frame::Event(Event::SessionClosed(closed)), _) => visit(Passed::Closed(closed))?,
                (Frame::Event(Event::Intent(intent)), About::Entry(entry)) => {
                    let votes = votes(&snapshot, entry).map_err(RecordError::from)?;
                    open.insert(entry, EntryView::of(intent.as_ref().clone(), votes));
                    ControlFlow::Continue(())
                }
                (frame, About::Entry(entry)) => {
                    let Some(view) = open.get_mut(&entry) else { return Ok(ControlFlow::Continue(())) };
                    view.take(frame);
                    match view.closed.is_some().then(|| open.remove(&entry)).flatten() {
                        Some(whole) => visit(Passed::Entry(Box::new(whole)))?,
                        None => ControlFlow::Continue(()),
                    }
                }
                _ => ControlFlow::Continue(()),
            };
            over |= flow.is_break();
            Ok::<_, E>(flow)
        })?;
        for (_, view) in open {
            if over || visit(Passed::Entry(Box::new(view)))?.is_break() {
                break;
            }
        }
        Ok(is_there)
    }
}

fn session_of(snapshot: &Snapshot, frame: &Frame) -> Result<Option<SessionId>, RecordError> {
    Ok(match frame {
        Frame::Event(Event::SessionOpened(opened)) => Some(opened.session),
        Frame::Event(Event::Intent(intent)) => Some(intent.session),
        Frame::Event(Event::Decided(decided)) => {
            intent_of(snapshot, decided.entry)?.map(|(_, intent)| intent.session)
        }
        _ => None,
    })
}
