//! Where things are to be found: index keys, and search by any combination of them. Never reads a commit to answer
//! what its index rows say.
//!
//! An index row stands for one value in one commit and lists the positions of its frames there, so a busy commit
//! costs as many rows as it has different values, not as it has records.

use std::collections::BTreeMap;

use crate::operation::{EntryId, SessionId, Sha256};
use crate::store::{Snapshot, StoreError};

/// Bytes of a value in an index key. A longer one stands as its digest.
const VALUE_BYTES_MAX: usize = 200;

/// What an index is by. The number stands in the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Dimension {
    /// Entry: its intent, and votes on it.
    Entry = 1,
    /// Session: everything in it. Positions are doubled, plus one for intents.
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
}

/// A key without its commit number, and what to add to the doubled position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    key: Vec<u8>,
    session: bool,
    intent: bool,
}

impl Place {
    /// Under this value.
    #[must_use]
    pub fn of(dimension: Dimension, value: &str) -> Self {
        Self { key: key(dimension, value), session: false, intent: false }
    }

    /// Under this session.
    #[must_use]
    pub fn session(session: SessionId, intent: bool) -> Self {
        Self { key: raw_key(Dimension::Session, session.0.as_bytes()), session: true, intent }
    }

    /// Under this entry.
    #[must_use]
    pub fn entry(entry: EntryId) -> Self {
        Self { key: raw_key(Dimension::Entry, entry.0.as_bytes()), session: false, intent: false }
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

/// The key of a session, without commit number.
#[must_use]
pub fn session_key(session: SessionId) -> Vec<u8> {
    raw_key(Dimension::Session, session.0.as_bytes())
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
}

impl Rows {
    /// Puts the frame at this position under these places.
    pub fn add(&mut self, position: u32, places: &mut Vec<Place>) {
        for place in places.drain(..) {
            let mark = if place.session { position * 2 + u32::from(place.intent) } else { position };
            self.rows.entry(place.key).or_default().push(mark);
        }
    }

    /// The rows, in key order.
    pub fn finish(&mut self, commit: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = std::mem::take(&mut self.rows).into_iter();
        rows.map(|(mut key, positions)| {
            key.extend_from_slice(&commit.to_be_bytes());
            let mut value = Vec::with_capacity(positions.len() * 2);
            positions.iter().for_each(|position| put_varint(&mut value, *position));
            (key, value)
        })
        .collect()
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The positions of one row.
///
/// # Errors
/// The row is damaged.
pub fn positions(row: &[u8]) -> Result<Vec<u32>, StoreError> {
    let mut out = Vec::new();
    let (mut value, mut shift) = (0u32, 0);
    for byte in row {
        if shift > 28 {
            return Err(StoreError::damaged("an index row", "a position is too long"));
        }
        value |= u32::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            out.push(value);
            (value, shift) = (0, 0);
        }
    }
    if shift == 0 { Ok(out) } else { Err(StoreError::damaged("an index row", "it ends inside a position")) }
}

/// One condition of a search: frames under any of these keys.
#[derive(Debug, Clone)]
pub struct AnyOf(pub Vec<Vec<u8>>);

impl AnyOf {
    /// The last commit up to `bound` that has such a frame, and their positions.
    fn seek(&self, snapshot: &Snapshot, bound: u64) -> Result<Option<(u64, Vec<u32>)>, StoreError> {
        let mut best: Option<(u64, Vec<u32>)> = None;
        for key in &self.0 {
            let Some((row, value)) = snapshot.index_before(&at(key, 0), &at(key, bound))? else { continue };
            let Some((_, _, commit)) = split(&row) else { continue };
            let found = positions(&value)?;
            match &mut best {
                Some((last, all)) if *last == commit => all.extend(found),
                Some((last, _)) if *last > commit => {}
                _ => best = Some((commit, found)),
            }
        }
        Ok(best)
    }
}

fn at(key: &[u8], commit: u64) -> Vec<u8> {
    let mut row = key.to_vec();
    row.extend_from_slice(&commit.to_be_bytes());
    row
}

/// The last commit up to `bound` that has frames under all conditions, and their positions, last first. Leaps: the
/// rarest condition decides how many rows are read.
///
/// # Errors
/// The index is damaged or unreadable.
pub fn search(
    snapshot: &Snapshot,
    all: &[AnyOf],
    mut bound: u64,
) -> Result<Option<(u64, Vec<u32>)>, StoreError> {
    'leap: loop {
        let mut common: Option<Vec<u32>> = None;
        for (at, condition) in all.iter().enumerate() {
            let Some((commit, mut found)) = condition.seek(snapshot, bound)? else { return Ok(None) };
            if commit < bound && at > 0 {
                bound = commit;
                continue 'leap;
            }
            bound = commit;
            found.sort_unstable();
            found.dedup();
            common = Some(match common {
                Some(common) => {
                    common.into_iter().filter(|position| found.binary_search(position).is_ok()).collect()
                }
                None => found,
            });
        }
        match common {
            Some(mut positions) if !positions.is_empty() => {
                positions.reverse();
                return Ok(Some((bound, positions)));
            }
            Some(_) if bound > 0 => bound -= 1,
            _ => return Ok(None),
        }
    }
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
