//! Reads the record beside the running enforcer: lists by index, shows whole sessions, follows commits. Changes
//! nothing, and shows no commit whose hashes do not hold.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::chain::{Link, META_LATENESS, examine, meta};
use super::entry::{
    Decided, Ending, EntryClosed, Event, Intent, Micros, Responded, SessionClosed, SessionOpened, Side,
    Verdict, Voted,
};
use super::frame::{Commit, Frame};
use super::index::{self, AnyOf, Dimension};
use super::{DIRECTORY, RecordError};
use crate::operation::{EntryId, SessionId};
use crate::store::disk::{Disk, Folder};
use crate::store::{Bodies, Placed, ReadStore, Snapshot, StoreError};

/// Users looked through for a bare name.
const USERS_MAX: usize = 100_000;

/// Which sessions to list. Every condition that is set must hold for one and the same operation.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// A user's key, or the subject alone.
    pub user: Option<String>,
    /// A workload's key, or the unit, container or uid alone.
    pub workload: Option<String>,
    /// A target's name.
    pub target: Option<String>,
    /// A kind of operation.
    pub kind: Option<String>,
    /// A verdict.
    pub verdict: Option<Verdict>,
    /// Not before.
    pub since: Option<Micros>,
    /// Before.
    pub until: Option<Micros>,
    /// At most so many sessions.
    pub limit: usize,
}

/// A session in one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The session.
    #[serde(flatten)]
    pub opened: SessionOpened,
    /// The user of its first operation that had one.
    pub user: Option<String>,
    /// Its workload's key.
    pub workload_key: Option<String>,
    /// Operations in it.
    pub entries: u64,
    /// How many times each verdict was given, holds and what became of them counted each.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Its end; none while it runs.
    pub closed: Option<SessionClosed>,
}

/// All that is recorded of one session.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionView {
    /// In one line.
    pub summary: Summary,
    /// Its operations, in order.
    pub entries: Vec<EntryView>,
}

/// All that is recorded of one operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntryView {
    /// What was about to happen, and the verdict.
    pub intent: Intent,
    /// What became of a hold.
    pub decided: Vec<Decided>,
    /// Votes on it.
    pub votes: Vec<Voted>,
    /// Response heads.
    pub responded: Vec<Responded>,
    /// Stretches of its bodies, in order.
    pub stretches: Vec<Stretch>,
    /// Its end; none while it runs.
    pub closed: Option<EntryClosed>,
}

/// A stretch of a body, as the record refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// Which body.
    pub side: Side,
    /// Where its bytes are.
    #[serde(flatten)]
    pub placed: Placed,
}

impl EntryView {
    /// How it ended, if it did.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        self.closed.as_ref().map(|closed| &closed.ending)
    }
}

/// One event as it stands in the chain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its number, counted from the first of the store.
    pub sequence: u64,
    /// When its commit was written.
    pub written: Micros,
    /// What it says.
    pub frame: Frame,
}

/// The record, open for reading.
#[derive(Debug)]
pub struct Reader {
    pub(super) store: ReadStore,
    pub(super) bodies: Bodies,
}

impl Reader {
    /// Opens the record below this state directory. Works beside the running enforcer, after a clean end, and after a
    /// kill.
    ///
    /// # Errors
    /// There is none; it is damaged; no permission.
    pub fn open(state: &Path) -> Result<Self, RecordError> {
        Self::open_on(Arc::new(Folder::at(&state.join(DIRECTORY))))
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>) -> Result<Self, RecordError> {
        Ok(Self { store: ReadStore::open(disk.as_ref())?, bodies: Bodies::of(disk) })
    }

    /// Whether the enforcer was killed and has not started since. This reader follows no commits then, and keeps an
    /// enforcer from starting: drop it soon.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.store.is_recovered()
    }

    /// Sessions that match, newest first.
    ///
    /// # Errors
    /// The record is damaged or unreadable; so for every method here.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Summary>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let conditions = conditions(&snapshot, filter)?;
        let Some(mut bound) = last_before(&snapshot, filter.until)? else { return Ok(Vec::new()) };
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        'search: while let Some((number, positions)) = index::search(&snapshot, &conditions, bound)? {
            let loaded = load(&snapshot, number)?;
            if filter.since.is_some_and(|since| loaded.written < since) {
                break;
            }
            for position in positions {
                let frame = loaded.frame(position)?;
                let outside = |at: Micros| {
                    filter.since.is_some_and(|since| at < since)
                        || filter.until.is_some_and(|until| at >= until)
                };
                if frame.at().is_none_or(outside) {
                    continue;
                }
                let Some(session) = self.session_of(&snapshot, frame)? else { continue };
                if seen.insert(session) {
                    found.extend(summary(&snapshot, session)?);
                }
                if found.len() >= filter.limit {
                    break 'search;
                }
            }
            let Some(next) = number.checked_sub(1) else { break };
            bound = next;
        }
        found.sort_by(|a, b| (b.opened.at, b.opened.session).cmp(&(a.opened.at, a.opened.session)));
        Ok(found)
    }

    fn session_of(&self, snapshot: &Snapshot, frame: &Frame) -> Result<Option<SessionId>, RecordError> {
        Ok(match frame {
            Frame::Event(Event::SessionOpened(opened)) => Some(opened.session),
            Frame::Event(Event::Intent(intent)) => Some(intent.session),
            Frame::Event(Event::Decided(decided)) => {
                intent_of(snapshot, decided.entry)?.map(|(_, intent)| intent.session)
            }
            _ => None,
        })
    }

    /// One session, whole.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn session(&self, session: SessionId) -> Result<Option<SessionView>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let Some(summary) = summary(&snapshot, session)? else { return Ok(None) };
        let mut entries: Vec<EntryView> = Vec::new();
        let mut at = BTreeMap::new();
        for row in rows(&snapshot, index::session_key(session), 0) {
            let (number, marks) = row?;
            let loaded = load(&snapshot, number)?;
            for mark in marks {
                let frame = loaded.frame(mark / 2)?;
                if let Frame::Event(Event::Intent(intent)) = frame {
                    at.insert(intent.entry, entries.len());
                    entries.push(EntryView::of(intent.as_ref().clone(), votes(&snapshot, intent.entry)?));
                } else if let Some(view) = entry_of(frame).and_then(|entry| at.get(&entry)) {
                    entries[*view].take(frame);
                }
            }
        }
        Ok(Some(SessionView { summary, entries }))
    }

    /// One entry, whole.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn entry(&self, entry: EntryId) -> Result<Option<EntryView>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let Some((first, intent)) = intent_of(&snapshot, entry)? else { return Ok(None) };
        let mut view = EntryView::of(intent, votes(&snapshot, entry)?);
        for row in rows(&snapshot, index::session_key(view.intent.session), first) {
            let (number, marks) = row?;
            let loaded = load(&snapshot, number)?;
            for mark in marks {
                let frame = loaded.frame(mark / 2)?;
                if entry_of(frame) == Some(entry) {
                    view.take(frame);
                }
            }
            if view.closed.is_some() {
                break;
            }
        }
        Ok(Some(view))
    }

    /// The recorded bytes of one body, checked against their digests.
    ///
    /// # Errors
    /// They are missing or not those that were recorded.
    pub fn body(&self, entry: &EntryView, side: Side) -> Result<Vec<u8>, RecordError> {
        let mut bytes = Vec::new();
        for stretch in entry.stretches.iter().filter(|stretch| stretch.side == side) {
            bytes.extend(self.bodies.read(&stretch.placed)?);
        }
        Ok(bytes)
    }

    /// The number of the next commit: where [`Reader::follow`] starts to see only what is new.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn end(&self) -> Result<u64, RecordError> {
        Ok(self.store.snapshot()?.last_commit()?.map_or(0, |last| last + 1))
    }

    /// The last `count` events, oldest first.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn last(&self, count: usize) -> Result<Vec<Line>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let mut lines = Vec::new();
        let mut next = snapshot.last_commit()?;
        while let Some(number) = next.filter(|_| lines.len() < count) {
            let mut loaded = load(&snapshot, number)?.lines();
            loaded.append(&mut lines);
            lines = loaded;
            next = number.checked_sub(1);
        }
        Ok(lines.split_off(lines.len().saturating_sub(count)))
    }

    /// What one commit says, and the number to ask for next; `None` while it is not written yet.
    ///
    /// # Errors
    /// As [`Reader::list`].
    pub fn follow(&self, from: u64) -> Result<Option<(Vec<Line>, u64)>, RecordError> {
        let snapshot = self.store.snapshot()?;
        let Some(number) = snapshot.commit_from(from)? else { return Ok(None) };
        Ok(Some((load(&snapshot, number)?.lines(), number + 1)))
    }
}

impl EntryView {
    fn of(intent: Intent, votes: Vec<Voted>) -> Self {
        Self {
            intent,
            decided: Vec::new(),
            votes,
            responded: Vec::new(),
            stretches: Vec::new(),
            closed: None,
        }
    }

    fn take(&mut self, frame: &Frame) {
        match frame {
            Frame::Event(Event::Decided(event)) => self.decided.push(event.clone()),
            Frame::Event(Event::Responded(event)) => self.responded.push(event.clone()),
            Frame::Event(Event::EntryClosed(event)) => self.closed = Some(event.clone()),
            Frame::Body(body) => self.stretches.push(Stretch { side: body.side, placed: body.placed }),
            _ => {}
        }
    }
}

fn entry_of(frame: &Frame) -> Option<EntryId> {
    match frame.about() {
        (_, super::frame::About::Entry(entry)) => Some(entry),
        _ => None,
    }
}

/// A commit whose own hashes held.
struct Loaded {
    number: u64,
    written: Micros,
    first: u64,
    frames: Vec<Frame>,
}

impl Loaded {
    fn frame(&self, position: u32) -> Result<&Frame, StoreError> {
        self.frames.get(position as usize).ok_or_else(|| {
            StoreError::damaged(
                "an index row",
                format!("it names event {position} of commit {}", self.number),
            )
        })
    }

    fn lines(self) -> Vec<Line> {
        let numbered = self.frames.into_iter().zip(self.first..);
        numbered.map(|(frame, sequence)| Line { sequence, written: self.written, frame }).collect()
    }
}

fn load(snapshot: &Snapshot, number: u64) -> Result<Loaded, StoreError> {
    let what = || format!("commit {number}");
    let blob = snapshot.commit(number)?.ok_or_else(|| StoreError::damaged(what(), "it is missing"))?;
    let commit = Commit::parse(&blob).map_err(|detail| StoreError::damaged(what(), detail))?;
    let (written, first) = (commit.written, commit.first);
    let own = Link { number, sequence: first, seal: commit.link, written };
    let mut problem = None;
    let (frames, _) = examine(&blob, &own, &mut |found| problem = problem.take().or(Some(found)))
        .map_err(|detail| StoreError::damaged(what(), detail))?;
    match problem {
        Some(problem) => Err(StoreError::damaged("its chain", problem)),
        None => Ok(Loaded {
            number,
            written,
            first,
            frames: frames.into_iter().filter_map(|e| e.frame).collect(),
        }),
    }
}

/// The index rows of one key, ascending, from one commit on: commit and positions.
fn rows(
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

fn intent_of(snapshot: &Snapshot, entry: EntryId) -> Result<Option<(u64, Intent)>, StoreError> {
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

fn votes(snapshot: &Snapshot, entry: EntryId) -> Result<Vec<Voted>, StoreError> {
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

/// A session in one line. Counts come from index rows; only its first, first judged and last commits are read.
fn summary(snapshot: &Snapshot, session: SessionId) -> Result<Option<Summary>, StoreError> {
    let mut whole: Option<Summary> = None;
    let mut last = None;
    for row in rows(snapshot, index::session_key(session), 0) {
        let (number, marks) = row?;
        let intents: Vec<u32> = marks.iter().filter(|mark| *mark % 2 == 1).map(|mark| mark / 2).collect();
        let unjudged = whole.as_ref().is_none_or(|found| found.entries == 0);
        if whole.is_none() || (unjudged && !intents.is_empty()) {
            let loaded = load(snapshot, number)?;
            for mark in &marks {
                begin(&mut whole, loaded.frame(mark / 2)?);
            }
        }
        if let Some(found) = &mut whole {
            found.entries += intents.len() as u64;
            count_verdicts(snapshot, number, &marks, &mut found.verdicts)?;
        }
        last = marks.last().map(|mark| (number, mark / 2)).or(last);
    }
    if let (Some(found), Some((number, position))) = (&mut whole, last)
        && let Frame::Event(Event::SessionClosed(closed)) = load(snapshot, number)?.frame(position)?
    {
        found.closed = Some(closed.clone());
    }
    Ok(whole)
}

fn begin(whole: &mut Option<Summary>, frame: &Frame) {
    match (frame, whole) {
        (Frame::Event(Event::SessionOpened(opened)), whole @ None) => {
            let workload_key = opened.workload.as_ref().map(crate::operation::Workload::key);
            *whole = Some(Summary {
                opened: opened.clone(),
                user: None,
                workload_key,
                entries: 0,
                verdicts: BTreeMap::new(),
                closed: None,
            });
        }
        (Frame::Event(Event::Intent(intent)), Some(found)) => {
            if found.user.is_none() {
                found.user = intent.user.as_ref().map(crate::operation::User::key);
            }
            if found.opened.target.is_none() {
                found.opened.target.clone_from(&intent.target);
            }
            if found.workload_key.is_none() {
                found.workload_key.clone_from(&intent.workload);
            }
        }
        _ => {}
    }
}

fn count_verdicts(
    snapshot: &Snapshot,
    number: u64,
    marks: &[u32],
    verdicts: &mut BTreeMap<&'static str, u64>,
) -> Result<(), StoreError> {
    let mine: HashSet<u32> = marks.iter().map(|mark| mark / 2).collect();
    for verdict in [Verdict::Allow, Verdict::Hold, Verdict::Deny, Verdict::Refuse] {
        let mut key = index::key(Dimension::Verdict, verdict.name());
        key.extend_from_slice(&number.to_be_bytes());
        let Some(row) = snapshot.index(&key)? else { continue };
        let given = index::positions(&row)?.iter().filter(|position| mine.contains(position)).count();
        if given > 0 {
            *verdicts.entry(verdict.name()).or_default() += given as u64;
        }
    }
    Ok(())
}

fn conditions(snapshot: &Snapshot, filter: &Filter) -> Result<Vec<AnyOf>, StoreError> {
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
    if all.is_empty() {
        all.push(AnyOf(vec![index::key(Dimension::Opened, "")]));
    }
    Ok(all)
}

/// The keys a user's name may stand for: itself, or any provider's subject of that name.
fn user_keys(snapshot: &Snapshot, name: &str) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut keys = vec![index::key(Dimension::User, name)];
    if !name.starts_with("user:") {
        let ending = format!("/{name}");
        let users = index::values(snapshot, Dimension::User, USERS_MAX)?.into_iter();
        keys.extend(
            users.filter(|user| user.ends_with(&ending)).map(|user| index::key(Dimension::User, &user)),
        );
    }
    Ok(keys)
}

/// The last commit that can hold an event from before `until`; `None` where none can.
fn last_before(snapshot: &Snapshot, until: Option<Micros>) -> Result<Option<u64>, StoreError> {
    let Some(until) = until else { return Ok(Some(u64::MAX)) };
    let lateness: Micros = meta(snapshot, META_LATENESS)?;
    let second = until.saturating_add(lateness).div_euclid(1_000_000).saturating_add(1);
    Ok(snapshot.commit_at(second)?.map_or(Some(u64::MAX), |later| later.checked_sub(1)))
}
