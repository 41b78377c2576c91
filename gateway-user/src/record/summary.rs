//! What readers share: loading a commit, walking index rows, what a filter asks of the index. Believes no commit whose own
//! hashes do not hold.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::{Checkpoint, Link, META_CHECKPOINT, META_HEAD, META_LATENESS, examine, meta};
use super::entry::{Event, Intent, Micros, Verdict, Voted};
use super::frame::{About, Commit, Frame};
use super::index::{self, AnyOf, Dimension, Held};
use super::read::{Filter, Line};
use crate::operation::{EntryId, SessionId};
use crate::store::{Snapshot, StoreError};

/// A commit whose own hashes held.
#[derive(Debug)]
pub(super) struct Loaded {
    number: u64,
    /// Bytes of the packed commit.
    pub(super) bytes: usize,
    pub(super) written: Micros,
    first: u64,
    frames: Vec<Frame>,
}

impl Loaded {
    pub(super) fn frame(&self, position: u32) -> Result<&Frame, StoreError> {
        self.frames.get(position as usize).ok_or_else(|| {
            StoreError::damaged(
                "an index row",
                format!("it names event {position} of commit {}", self.number),
            )
        })
    }

    pub(super) fn lines(self) -> Vec<Line> {
        let numbered = self.frames.into_iter().zip(self.first..);
        numbered.map(|(frame, sequence)| Line { sequence, written: self.written, frame }).collect()
    }
}

pub(super) fn load(snapshot: &Snapshot, number: u64) -> Result<Loaded, StoreError> {
    let what = || format!("commit {number}");
    let blob = snapshot.commit(number)?.ok_or_else(|| StoreError::damaged(what(), "it is missing"))?;
    let commit = Commit::parse(&blob).map_err(|detail| StoreError::damaged(what(), detail))?;
    let (written, first) = (commit.written, commit.first);
    let own = Link { number, sequence: first, seal: commit.link, written, bytes: 0 };
    let mut problem = None;
    let (frames, _) = examine(&blob, &own, &mut |found| problem = problem.take().or(Some(found)))
        .map_err(|detail| StoreError::damaged(what(), detail))?;
    match problem {
        Some(problem) => Err(StoreError::damaged("its chain", problem)),
        None => Ok(Loaded {
            number,
            bytes: blob.len(),
            written,
            first,
            frames: frames.into_iter().filter_map(|e| e.frame).collect(),
        }),
    }
}

/// The index rows of one key, ascending, from one commit on: commit and positions.
pub(super) fn rows(
    snapshot: &Snapshot,
    key: Vec<u8>,
    from: u64,
) -> impl Iterator<Item = Result<(u64, Vec<u32>), StoreError>> + '_ {
    let mut next = Some(from);
    std::iter::from_fn(move || {
        let mut at = key.clone();
        at.extend_from_slice(&next?.to_be_bytes());
        match snapshot.index_after(&at) {
            Ok(Some((row, value))) if row.starts_with(&key) && row.len() == key.len() + 8 => {
                let (_, _, number) = index::split(&row)?;
                next = number.checked_add(1);
                Some(index::positions(&value).map(|positions| (number, positions)))
            }
            Ok(_) => None,
            Err(cause) => {
                next = None;
                Some(Err(cause))
            }
        }
    })
}

/// What each commit holds of a session, ascending, from one commit on. The links lead from the last to the first.
pub(super) fn session_rows(
    snapshot: &Snapshot,
    session: SessionId,
    from: u64,
) -> Result<Vec<(u64, Vec<u32>)>, StoreError> {
    let mut found = Vec::new();
    // What lies before is pruned.
    let from = from.max(snapshot.commit_from(0)?.unwrap_or(0));
    let mut next = last_commit(snapshot, session)?;
    while let Some(number) = next.filter(|number| *number >= from) {
        let held = held(snapshot, session, number)?.ok_or_else(|| {
            StoreError::damaged(
                "the index",
                format!("commit {number} must hold something of session {session}"),
            )
        })?;
        next = held.before;
        found.push((number, held.marks));
    }
    found.reverse();
    Ok(found)
}

/// The last commit that holds something of a session: noted when it is over, else in the checkpoint or after it.
fn last_commit(snapshot: &Snapshot, session: SessionId) -> Result<Option<u64>, StoreError> {
    if let Some(over) = rows(snapshot, index::over_key(session), 0).next() {
        return over.map(|(number, _)| Some(number));
    }
    let checkpoint: Checkpoint = meta(snapshot, META_CHECKPOINT)?;
    let head: Link = meta(snapshot, META_HEAD)?;
    for number in (checkpoint.link.number..head.number).rev() {
        if held(snapshot, session, number)?.is_some() {
            return Ok(Some(number));
        }
    }
    Ok(checkpoint.ledger.last_commit(session))
}

pub(super) fn held(snapshot: &Snapshot, session: SessionId, number: u64) -> Result<Option<Held>, StoreError> {
    let Some(row) = snapshot.index(&index::directory_key(number))? else { return Ok(None) };
    Ok(index::directory(&row, number)?.into_iter().find(|held| held.session == session))
}

pub(super) fn intent_of(snapshot: &Snapshot, entry: EntryId) -> Result<Option<(u64, Intent)>, StoreError> {
    for row in rows(snapshot, index::entry_key(entry), 0) {
        let (number, positions) = row?;
        let loaded = load(snapshot, number)?;
        for position in positions {
            if let Frame::Event(Event::Intent(intent)) = loaded.frame(position)? {
                return Ok(Some((number, intent.as_ref().clone())));
            }
        }
    }
    Ok(None)
}

/// Where all events of an entry stand: commits and positions, ascending.
pub(super) fn entry_positions(
    snapshot: &Snapshot,
    entry: EntryId,
    session: SessionId,
) -> Result<BTreeMap<u64, BTreeSet<u32>>, StoreError> {
    let mut found: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    let mut candidates: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for row in rows(snapshot, index::entry_key(entry), 0) {
        let (number, positions) = row?;
        candidates.entry(number).or_default().extend(positions);
    }
    let first = candidates.keys().next().copied().unwrap_or(0);
    for (number, marks) in session_rows(snapshot, session, first)? {
        candidates.entry(number).or_default().extend(marks.iter().map(|mark| mark / 2));
    }
    for (number, positions) in candidates {
        let loaded = load(snapshot, number)?;
        for position in positions {
            if loaded.frame(position)?.about().1 == About::Entry(entry) {
                found.entry(number).or_default().insert(position);
            }
        }
    }
    Ok(found)
}

pub(super) fn votes(snapshot: &Snapshot, entry: EntryId) -> Result<Vec<Voted>, StoreError> {
    let mut votes = Vec::new();
    for row in rows(snapshot, index::entry_key(entry), 0) {
        let (number, positions) = row?;
        let loaded = load(snapshot, number)?;
        for position in positions {
            if let Frame::Event(Event::Voted(vote)) = loaded.frame(position)? {
                votes.push(vote.clone());
            }
        }
    }
    Ok(votes)
}

pub(super) fn conditions(snapshot: &Snapshot, filter: &Filter) -> Result<Vec<AnyOf>, StoreError> {
    let mut all = Vec::new();
    if let Some(user) = &filter.user {
        all.push(AnyOf(user_keys(snapshot, user)?));
    }
    if let Some(workload) = &filter.workload {
        let names = ["unit:", "container:", "uid:"].iter().map(|prefix| format!("{prefix}{workload}"));
        let names = names.chain([workload.clone()]);
        all.push(AnyOf(names.map(|name| index::key(Dimension::Workload, &name)).collect()));
    }
    if let Some(target) = &filter.target {
        all.push(AnyOf(vec![index::key(Dimension::Target, target)]));
    }
    if let Some(kind) = &filter.kind {
        all.push(AnyOf(vec![index::key(Dimension::Kind, kind)]));
    }
    if let Some(verdict) = filter.verdict {
        all.push(AnyOf(vec![index::key(Dimension::Verdict, verdict.name())]));
    }
    if let Some(would) = filter.would.and_then(Verdict::would_name) {
        all.push(AnyOf(vec![index::key(Dimension::Verdict, would)]));
    }
    if all.is_empty() {
        all.push(AnyOf(vec![index::key(Dimension::Opened, "")]));
    }
    Ok(all)
}

/// The keys a user's name may stand for: itself, or any provider's subject of that name.
///
/// Users stand in the index by the length of their key and then by provider, so the providers of one length are found by
/// leaping from each to the next, however many users they have.
pub(super) fn user_keys(snapshot: &Snapshot, name: &str) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut keys = vec![index::key(Dimension::User, name)];
    if name.starts_with("user:") {
        return Ok(keys);
    }
    for provider_bytes in 1..=index::VALUE_BYTES_MAX {
        let bytes = "user:/".len() + provider_bytes + name.len();
        if bytes > index::VALUE_BYTES_MAX {
            break;
        }
        let mut from = vec![Dimension::User as u8, bytes as u8];
        while let Some((row, _)) = snapshot.index_after(&from)? {
            let Some((dimension, value, _)) = index::split(&row) else { break };
            if dimension != Dimension::User as u8 || value.len() != bytes {
                break;
            }
            let provider = value.strip_prefix(b"user:").and_then(|rest| rest.get(..=provider_bytes));
            let next = match provider {
                Some([provider @ .., b'/']) if !provider.contains(&b'/') => {
                    let provider = String::from_utf8_lossy(provider);
                    keys.push(index::key(Dimension::User, &format!("user:{provider}/{name}")));
                    [b"user:", provider.as_bytes(), b"/\xff"].concat()
                }
                // Another length of provider, or no key of a user: past this one.
                _ => [value, b"\xff"].concat(),
            };
            from.truncate(2);
            from.extend(next);
        }
    }
    Ok(keys)
}

/// The last commit that can hold an event from before `until`; `None` where none can.
pub(super) fn last_before(snapshot: &Snapshot, until: Option<Micros>) -> Result<Option<u64>, StoreError> {
    let Some(until) = until else { return Ok(Some(u64::MAX)) };
    let lateness: Micros = meta(snapshot, META_LATENESS)?;
    let second = until.saturating_add(lateness).div_euclid(1_000_000).saturating_add(1);
    Ok(snapshot.commit_at(second)?.map_or(Some(u64::MAX), |later| later.checked_sub(1)))
}
