//! Lists sessions by index, a page at a time. Reads no commit to answer what index rows say, and ends in time: what it has
//! not looked at by then, the next page does.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::RecordError;
use super::chain::{META_LATENESS, meta};
use super::entry::Micros;
use super::index::{Search, Step};
use super::read::{Filter, Reader, Summary};
use super::story::Stories;
use super::summary::{conditions, last_before};
use crate::limits::LIST_ROWS_MIN;
use crate::operation::SessionId;
use crate::store::{Snapshot, StoreError};

/// A place in the record from which a list goes on to what is older: before this event of this commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    commit: u64,
    position: u32,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.commit, self.position)
    }
}

impl std::str::FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('.').and_then(|(commit, position)| {
            Some(Self { commit: commit.parse().ok()?, position: position.parse().ok()? })
        });
        parts.ok_or_else(|| "it is two numbers with a dot between, as the page before gave it".to_owned())
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Sessions, the one that was opened last first.
    pub sessions: Vec<Summary>,
    /// Where older ones may be found; `None` where there are none. A session with something that matches on both sides of
    /// it stands on both pages.
    pub next: Option<Cursor>,
    /// It ended because its time was over, not because it was full.
    pub in_time: bool,
}

impl Reader {
    /// Sessions that match, newest first: those with the newest matches, at most the filter's limit.
    ///
    /// # Errors
    /// The record is damaged or unreadable; so for every method here.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Summary>, RecordError> {
        Ok(self.page(filter, None, Duration::MAX)?.sessions)
    }

    /// As [`Reader::list`], of what is before a place in the record. Ends after this time, though never before it has
    /// found one or looked at [`LIST_ROWS_MIN`] rows.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn page(&self, filter: &Filter, before: Option<Cursor>, time: Duration) -> Result<Page, RecordError> {
        let begun = Instant::now();
        let snapshot = self.store.snapshot()?;
        let mut page = Page { sessions: Vec::new(), next: None, in_time: false };
        let Some(last) = last_before(&snapshot, filter.until)? else { return Ok(page) };
        let Some(start) = before.map_or(Some(last), |before| Some(last.min(before.start()?))) else {
            return Ok(page);
        };
        let times = Times::of(&snapshot, filter)?;
        let mut stories = Stories::of(&snapshot);
        let mut search = Search::new(&snapshot, conditions(&snapshot, filter)?, start);
        let (mut seen, mut looked) = (HashSet::new(), 0_u64);
        'search: loop {
            let (number, positions) = match search.step()? {
                Step::Match(number, positions) => (number, positions),
                Step::Miss(number) => (number, Vec::new()),
                Step::End => break,
            };
            if number < times.first {
                break;
            }
            for (position, session) in matching(&stories, number, &positions)? {
                let is_passed = before.is_some_and(|b| b.commit == number && position >= b.position);
                if is_passed || seen.contains(&session) || !times.admit(&mut stories, number, position)? {
                    continue;
                }
                if page.sessions.len() >= filter.limit {
                    page.next = Some(Cursor { commit: number, position: position + 1 });
                    break 'search;
                }
                seen.insert(session);
                page.sessions.extend(stories.summary(session)?);
                if !page.sessions.is_empty() && begun.elapsed() >= time {
                    (page.next, page.in_time) = (Some(Cursor { commit: number, position }), true);
                    break 'search;
                }
            }
            looked += 1;
            if looked >= LIST_ROWS_MIN && begun.elapsed() >= time {
                let next =
                    search.bound().map(|bound| Cursor { commit: bound.saturating_add(1), position: 0 });
                (page.next, page.in_time) = (next, next.is_some());
                break;
            }
        }
        page.sessions.sort_by_key(|found| std::cmp::Reverse((found.opened.at, found.opened.session)));
        Ok(page)
    }
}

impl Cursor {
    /// The newest commit that has something before it.
    fn start(self) -> Option<u64> {
        if self.position > 0 { Some(self.commit) } else { self.commit.checked_sub(1) }
    }
}

/// The sessions of these events of a commit, the last event first.
fn matching(
    stories: &Stories<'_>,
    number: u64,
    positions: &[u32],
) -> Result<Vec<(u32, SessionId)>, StoreError> {
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::with_capacity(positions.len());
    for held in stories.sessions(number)? {
        let events = held.marks.iter().map(|mark| mark / 2);
        let events = events.filter(|event| positions.binary_search(event).is_ok());
        found.extend(events.map(|event| (event, held.session)));
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found)
}

/// Which commits a filter's times mean.
struct Times {
    since: Option<Micros>,
    until: Option<Micros>,
    /// The first commit that can hold such an event.
    first: u64,
    /// From this commit on all events are late enough, and before that one all are early enough.
    late: u64,
    early: u64,
}

impl Times {
    fn of(snapshot: &Snapshot, filter: &Filter) -> Result<Self, StoreError> {
        let lateness: Micros = meta(snapshot, META_LATENESS)?;
        let from = |at: Micros| snapshot.commit_at(at.div_euclid(1_000_000));
        let mut times = Self { since: filter.since, until: filter.until, first: 0, late: 0, early: u64::MAX };
        if let Some(since) = filter.since {
            times.first = from(since)?.unwrap_or(u64::MAX);
            times.late = from(since.saturating_add(lateness).saturating_add(1_000_000))?.unwrap_or(u64::MAX);
        }
        if let Some(until) = filter.until {
            times.early = from(until)?.unwrap_or(u64::MAX);
        }
        Ok(times)
    }

    /// Whether this event happened in the filter's time. Reads the commit only where the index leaves that open.
    fn admit(&self, stories: &mut Stories<'_>, number: u64, position: u32) -> Result<bool, StoreError> {
        if number >= self.late && number < self.early {
            return Ok(true);
        }
        let at = stories.page(number)?.0.frame(position)?.at();
        Ok(at.is_some_and(|at| {
            self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
        }))
    }
}
