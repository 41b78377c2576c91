//! Where things are to be found: index keys, and search by any combination of them. Never reads a commit to answer
//! what its index rows say.
//!
//! An index row stands for one value in one commit and lists the positions of its frames there, so a busy commit
//! costs as many rows as it has different values, not as it has records.

use std::collections::BTreeMap;

use super::ledger::{Ledger, Story, VERDICTS};
use crate::operation::{EntryId, SessionId, Sha256};
use crate::store::{IndexRows, Row, Snapshot, StoreError};

/// Bytes of a value in an index key. A longer one stands as its digest.
pub const VALUE_BYTES_MAX: usize = 200;

/// What an index is by. The number stands in the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Dimension {
    /// Entry: its intent, and votes on it.
    Entry = 1,
    /// All sessions of one commit in one row: what it holds of each, and which commit did before.
    Session = 2,
    /// Sessions opened, whichever.
    Opened = 3,
    /// [`crate::operation::User::key`].
    User = 4,
    /// [`crate::operation::Workload::key`].
    Workload = 5,
    /// Target.
    Target = 6,
    /// Kind of operation.
    Kind = 7,
    /// Verdict.
    Verdict = 8,
    /// Events of the gate itself.
    Gate = 9,
    /// Session that is over: its last commit.
    Over = 10,
}

/// Where a frame is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Under this key (without commit number).
    Key(Vec<u8>),
    /// In this session.
    Session(SessionId, /* is an intent */ bool),
}

impl Place {
    /// Under this value.
    #[must_use]
    pub fn of(dimension: Dimension, value: &str) -> Self {
        Self::Key(key(dimension, value))
    }

    /// In this session.
    #[must_use]
    pub fn session(session: SessionId, intent: bool) -> Self {
        Self::Session(session, intent)
    }

    /// Under this entry.
    #[must_use]
    pub fn entry(entry: EntryId) -> Self {
        Self::Key(entry_key(entry))
    }
}

/// The key of a value, without commit number.
#[must_use]
pub fn key(dimension: Dimension, value: &str) -> Vec<u8> {
    if value.len() <= VALUE_BYTES_MAX {
        raw_key(dimension, value.as_bytes())
    } else {
        raw_key(dimension, format!("sha256:{}", Sha256::of(value.as_bytes())).as_bytes())
    }
}

fn raw_key(dimension: Dimension, value: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(value.len() + 10);
    key.push(dimension as u8);
    key.push(value.len() as u8);
    key.extend_from_slice(value);
    key
}

/// The key of an entry, without commit number.
#[must_use]
pub fn entry_key(entry: EntryId) -> Vec<u8> {
    raw_key(Dimension::Entry, entry.0.as_bytes())
}

/// The key of a session that is over, without commit number.
#[must_use]
pub fn over_key(session: SessionId) -> Vec<u8> {
    raw_key(Dimension::Over, session.0.as_bytes())
}

/// The key of the row that names the sessions of one commit.
#[must_use]
pub fn directory_key(commit: u64) -> Vec<u8> {
    at(&raw_key(Dimension::Session, &[]), commit)
}

/// A whole row key, taken apart: dimension byte, value, commit. `None` where it is none.
#[must_use]
pub fn split(row: &[u8]) -> Option<(u8, &[u8], u64)> {
    let (&dimension, rest) = row.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (value, commit) = rest.split_at_checked(usize::from(length))?;
    Some((dimension, value, u64::from_be_bytes(commit.try_into().ok()?)))
}

/// Collects the index rows of one commit.
#[derive(Debug, Default)]
pub struct Rows {
    rows: BTreeMap<Vec<u8>, Vec<u32>>,
    sessions: BTreeMap<SessionId, Vec<u32>>,
}

impl Rows {
    /// Puts the frame at this position under these places.
    pub fn add(&mut self, position: u32, places: &mut Vec<Place>) {
        for place in places.drain(..) {
            match place {
                Place::Key(key) => self.rows.entry(key).or_default().push(position),
                Place::Session(session, intent) => {
                    self.sessions.entry(session).or_default().push(position * 2 + u32::from(intent));
                }
            }
        }
    }

    /// The rows, in key order. Tells the ledger which sessions this commit is about.
    pub fn finish(&mut self, commit: u64, ledger: &mut Ledger) -> Vec<Row> {
        let mut out: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (key, positions) in std::mem::take(&mut self.rows) {
            out.insert(at(&key, commit), packed(&positions));
        }
        let mut directory = Vec::with_capacity(self.sessions.len() * 20);
        for (session, marks) in std::mem::take(&mut self.sessions) {
            let (before, over) = ledger.touch(session, commit);
            directory.extend_from_slice(session.0.as_bytes());
            put_varint(&mut directory, before.map_or(0, |before| commit - before));
            put_varint(&mut directory, marks.len() as u64);
            directory.extend(packed(&marks));
            if let Some(story) = over {
                out.insert(at(&over_key(session), commit), packed_story(&story));
            }
        }
        if !directory.is_empty() {
            out.insert(directory_key(commit), directory);
        }
        out.into_iter().collect()
    }
}

fn packed(positions: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(positions.len() * 2);
    positions.iter().for_each(|position| put_varint(&mut out, u64::from(*position)));
    out
}

/// A story as it stands in the index: all its numbers, each as LEB128. Commits that it may lack are one more than they are.
fn packed_story(story: &Story) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    let some = |commit: Option<u64>| commit.map_or(0, |commit| commit + 1);
    let numbers = [story.first, some(story.judged), some(story.closed), story.entries];
    numbers.into_iter().chain(story.verdicts).for_each(|number| put_varint(&mut out, number));
    out
}

/// Takes apart the row of a session that is over.
///
/// # Errors
/// The row is damaged.
pub fn story(mut row: &[u8], session: SessionId) -> Result<Story, StoreError> {
    let mut next = || {
        let damaged = || {
            StoreError::damaged(format!("the index row for the end of session {session}"), "it ends early")
        };
        take_varint(&mut row).ok_or_else(damaged)
    };
    let (first, judged, closed, entries) = (next()?, next()?, next()?, next()?);
    let mut verdicts = [0; VERDICTS.len()];
    for count in &mut verdicts {
        *count = next()?;
    }
    Ok(Story { first, judged: judged.checked_sub(1), closed: closed.checked_sub(1), entries, verdicts })
}

/// What one commit holds of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The session.
    pub session: SessionId,
    /// The commit that held something of it before.
    pub before: Option<u64>,
    /// Positions, each doubled, plus one for intents.
    pub marks: Vec<u32>,
}

/// Takes apart the row that names the sessions of a commit.
///
/// # Errors
/// The row is damaged.
pub fn directory(row: &[u8], commit: u64) -> Result<Vec<Held>, StoreError> {
    let damaged =
        || StoreError::damaged(format!("the index row for the sessions of commit {commit}"), "it ends early");
    let (mut rest, mut all) = (row, Vec::new());
    while !rest.is_empty() {
        let (id, after) = rest.split_first_chunk::<16>().ok_or_else(damaged)?;
        rest = after;
        let back = take_varint(&mut rest).ok_or_else(damaged)?;
        let count = take_varint(&mut rest).ok_or_else(damaged)?;
        let mut marks = Vec::new();
        for _ in 0..count {
            let mark = take_varint(&mut rest).and_then(|mark| u32::try_from(mark).ok());
            marks.push(mark.ok_or_else(damaged)?);
        }
        let before = if back == 0 { None } else { commit.checked_sub(back) };
        all.push(Held { session: SessionId(uuid::Uuid::from_bytes(*id)), before, marks });
    }
    Ok(all)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The positions of one row.
///
/// # Errors
/// The row is damaged.
pub fn positions(mut row: &[u8]) -> Result<Vec<u32>, StoreError> {
    let mut out = Vec::new();
    while !row.is_empty() {
        let position = take_varint(&mut row).and_then(|position| u32::try_from(position).ok());
        out.push(position.ok_or_else(|| StoreError::damaged("an index row", "it ends inside a position"))?);
    }
    Ok(out)
}

/// One condition of a search: frames under any of these keys.
#[derive(Debug, Clone)]
pub struct AnyOf(pub Vec<Vec<u8>>);

/// Rows that are passed one by one before the next is looked for from the root. What is near lies on the same page.
const STEPS: usize = 4;

/// The rows of one key, last first.
struct KeyRows {
    key: Vec<u8>,
    rows: Option<IndexRows>,
    current: Option<(u64, Vec<u8>)>,
}

impl KeyRows {
    /// The last row up to `bound`, which is never more than it was before.
    fn seek(&mut self, snapshot: &Snapshot, bound: u64) -> Result<Option<&(u64, Vec<u8>)>, StoreError> {
        let is_passed = |current: &Option<(u64, Vec<u8>)>| current.as_ref().is_some_and(|row| row.0 > bound);
        for _ in 0..STEPS {
            let Some(rows) = self.rows.as_mut().filter(|_| is_passed(&self.current)) else { break };
            self.current = Self::next(rows)?;
        }
        if self.rows.is_none() || is_passed(&self.current) {
            let mut rows = snapshot.index_rows(&at(&self.key, 0), &at(&self.key, bound))?;
            self.current = Self::next(&mut rows)?;
            self.rows = Some(rows);
        }
        Ok(self.current.as_ref())
    }

    fn next(rows: &mut IndexRows) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        Ok(rows.last()?.and_then(|(row, value)| Some((split(&row)?.2, value))))
    }
}

/// What one step of a search came by.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// This commit has frames under all conditions, at these positions, ascending.
    Match(u64, Vec<u32>),
    /// No commit after this one has any that was not found.
    Miss(u64),
    /// There are none left.
    End,
}

/// A search from a commit backwards, for frames that are under all conditions. Leaps: the rarest condition decides how
/// many rows are read.
pub struct Search<'a> {
    snapshot: &'a Snapshot,
    conditions: Vec<Vec<KeyRows>>,
    bound: Option<u64>,
}

impl<'a> Search<'a> {
    /// From this commit on, which is the newest.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot, all: Vec<AnyOf>, bound: u64) -> Self {
        let rows = |key| KeyRows { key, rows: None, current: None };
        let conditions = all.into_iter().map(|any| any.0.into_iter().map(rows).collect()).collect();
        Self { snapshot, conditions, bound: Some(bound) }
    }

    /// The newest commit that was not looked at; `None` where all were.
    #[must_use]
    pub fn bound(&self) -> Option<u64> {
        self.bound
    }

    /// One step: a few rows are read, however many there are.
    ///
    /// # Errors
    /// The index is damaged or unreadable.
    pub fn step(&mut self) -> Result<Step, StoreError> {
        let Some(mut common) = self.bound else { return Ok(Step::End) };
        let mut meet = true;
        for (at, any) in self.conditions.iter_mut().enumerate() {
            let mut last = None;
            for key in any {
                last = last.max(key.seek(self.snapshot, common)?.map(|(commit, _)| *commit));
            }
            let Some(last) = last else {
                self.bound = None;
                return Ok(Step::End);
            };
            meet &= at == 0 || last == common;
            common = last;
        }
        if !meet {
            self.bound = Some(common);
            return Ok(Step::Miss(common));
        }
        self.bound = common.checked_sub(1);
        let mut found: Option<Vec<u32>> = None;
        for any in &self.conditions {
            let mut held = Vec::new();
            for (_, value) in any.iter().filter_map(|key| key.current.as_ref()).filter(|row| row.0 == common)
            {
                held.extend(positions(value)?);
            }
            held.sort_unstable();
            held.dedup();
            if let Some(found) = &found {
                held.retain(|position| found.binary_search(position).is_ok());
            }
            let none = held.is_empty();
            found = Some(held);
            if none {
                break;
            }
        }
        match found {
            Some(found) if !found.is_empty() => Ok(Step::Match(common, found)),
            _ => Ok(Step::Miss(common)),
        }
    }

    /// The next commit that matches, however far that is, and its positions, last first.
    ///
    /// # Errors
    /// The index is damaged or unreadable.
    pub fn next_match(&mut self) -> Result<Option<(u64, Vec<u32>)>, StoreError> {
        loop {
            match self.step()? {
                Step::Match(commit, mut positions) => {
                    positions.reverse();
                    return Ok(Some((commit, positions)));
                }
                Step::Miss(_) => {}
                Step::End => return Ok(None),
            }
        }
    }
}

fn at(key: &[u8], commit: u64) -> Vec<u8> {
    let mut row = key.to_vec();
    row.extend_from_slice(&commit.to_be_bytes());
    row
}

/// The different values in one dimension, at most `limit`, by skipping from one to the next.
///
/// # Errors
/// The index is damaged or unreadable.
pub fn values(snapshot: &Snapshot, dimension: Dimension, limit: usize) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    let mut from = vec![dimension as u8];
    while found.len() < limit {
        let Some((row, _)) = snapshot.index_after(&from)? else { break };
        let Some((of, value, _)) = split(&row) else { break };
        if of != dimension as u8 {
            break;
        }
        found.push(String::from_utf8_lossy(value).into_owned());
        from = raw_key(dimension, value);
        from.extend_from_slice(&u64::MAX.to_be_bytes());
        from.push(0);
    }
    Ok(found)
}
