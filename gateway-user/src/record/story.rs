//! Sessions in one line each. What a session held is counted while it is written, so that none is walked through to be
//! listed; only its opening, its first operation and its end are read.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use super::chain::{Checkpoint, Link, META_CHECKPOINT, META_HEAD, meta};
use super::entry::Event;
use super::frame::Frame;
use super::index::{self, Dimension, Held};
use super::ledger::{Ledger, Story, VERDICTS};
use super::read::Summary;
use super::summary::{Loaded, load, rows};
use crate::operation::SessionId;
use crate::store::{Snapshot, StoreError};

/// Bytes of commits that are kept to be looked at again: sessions of one time share them.
const LOADED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One commit, and what it holds of each session.
type Page = (Loaded, Vec<Held>);

/// Tells sessions of one state of the store.
pub(super) struct Stories<'a> {
    snapshot: &'a Snapshot,
    recent: OnceCell<Recent>,
    loaded: HashMap<u64, Rc<Page>>,
    loaded_bytes: usize,
}

/// What the index does not say yet of sessions that are open: what was open at the last checkpoint, and the rows since.
struct Recent {
    ledger: Ledger,
    rows: HashMap<SessionId, Vec<(u64, Vec<u32>)>>,
}

impl<'a> Stories<'a> {
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, recent: OnceCell::new(), loaded: HashMap::new(), loaded_bytes: 0 }
    }

    /// A commit, which is kept for a while.
    pub(super) fn page(&mut self, number: u64) -> Result<Rc<Page>, StoreError> {
        if let Some(page) = self.loaded.get(&number) {
            return Ok(Rc::clone(page));
        }
        let loaded = load(self.snapshot, number)?;
        if self.loaded_bytes > LOADED_BYTES_MAX {
            (self.loaded, self.loaded_bytes) = (HashMap::new(), 0);
        }
        self.loaded_bytes += loaded.bytes;
        let page = Rc::new((loaded, self.sessions(number)?));
        self.loaded.insert(number, Rc::clone(&page));
        Ok(page)
    }

    /// What one commit holds of each session.
    pub(super) fn sessions(&self, number: u64) -> Result<Vec<Held>, StoreError> {
        let row = self.snapshot.index(&index::directory_key(number))?;
        row.map_or(Ok(Vec::new()), |row| index::directory(&row, number))
    }

    /// A session in one line; `None` where there is none, or its beginning is pruned.
    pub(super) fn summary(&mut self, session: SessionId) -> Result<Option<Summary>, StoreError> {
        let Some((story, last)) = self.story(session)? else { return Ok(None) };
        if self.snapshot.commit_from(0)?.is_none_or(|first| story.first < first) {
            return Ok(None);
        }
        let mut whole = None;
        let begins = [Some(story.first), story.judged.filter(|judged| *judged != story.first)];
        for number in begins.into_iter().flatten() {
            let page = self.page(number)?;
            for mark in marks(&page, session) {
                begin(&mut whole, page.0.frame(mark / 2)?);
            }
        }
        let Some(mut whole) = whole else { return Ok(None) };
        whole.entries = story.entries;
        let given = VERDICTS.into_iter().zip(story.verdicts).filter(|(_, count)| *count > 0);
        whole.verdicts = given.collect();
        let page = self.page(story.closed.unwrap_or(last))?;
        for mark in marks(&page, session).rev() {
            if let Frame::Event(Event::SessionClosed(closed)) = page.0.frame(mark / 2)? {
                whole.closed = Some(closed.clone());
                break;
            }
        }
        Ok(Some(whole))
    }

    /// Its story, and the last commit that holds something of it.
    fn story(&mut self, session: SessionId) -> Result<Option<(Story, u64)>, StoreError> {
        if let Some(over) = rows(self.snapshot, index::over_key(session), 0).next() {
            let last = over?.0;
            let mut key = index::over_key(session);
            key.extend_from_slice(&last.to_be_bytes());
            let row = self.snapshot.index(&key)?.unwrap_or_default();
            return Ok(Some((index::story(&row, session)?, last)));
        }
        if self.recent.get().is_none() {
            let recent = Recent::of(self)?;
            // Nobody else fills it.
            let _ = self.recent.set(recent);
        }
        let Some(recent) = self.recent.get() else { return Ok(None) };
        let (mut story, mut last) = (recent.ledger.story(session), recent.ledger.last_commit(session));
        for (number, marks) in recent.rows.get(&session).into_iter().flatten() {
            let story = story.get_or_insert(Story { first: *number, ..Story::default() });
            last = Some(*number);
            let intents = marks.iter().filter(|mark| *mark % 2 == 1).count() as u64;
            story.entries += intents;
            if intents > 0 {
                story.judged.get_or_insert(*number);
            }
            count_verdicts(self.snapshot, *number, marks, story)?;
        }
        Ok(story.zip(last))
    }
}

impl Recent {
    fn of(stories: &Stories<'_>) -> Result<Self, StoreError> {
        let checkpoint: Checkpoint = meta(stories.snapshot, META_CHECKPOINT)?;
        let head: Link = meta(stories.snapshot, META_HEAD)?;
        let mut rows: HashMap<SessionId, Vec<(u64, Vec<u32>)>> = HashMap::new();
        for number in checkpoint.link.number..head.number {
            for held in stories.sessions(number)? {
                rows.entry(held.session).or_default().push((number, held.marks));
            }
        }
        Ok(Self { ledger: checkpoint.ledger, rows })
    }
}

/// The marks of one session in a commit, ascending.
fn marks(page: &Page, session: SessionId) -> impl DoubleEndedIterator<Item = u32> {
    page.1.iter().filter(move |held| held.session == session).flat_map(|held| held.marks.iter().copied())
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

/// Adds the verdicts that one commit gives in a session.
fn count_verdicts(
    snapshot: &Snapshot,
    number: u64,
    marks: &[u32],
    story: &mut Story,
) -> Result<(), StoreError> {
    let mine: HashSet<u32> = marks.iter().map(|mark| mark / 2).collect();
    for (name, count) in VERDICTS.iter().zip(&mut story.verdicts) {
        let mut key = index::key(Dimension::Verdict, name);
        key.extend_from_slice(&number.to_be_bytes());
        let Some(row) = snapshot.index(&key)? else { continue };
        let given = index::positions(&row)?.into_iter().filter(|position| mine.contains(position));
        *count += given.count() as u64;
    }
    Ok(())
}
