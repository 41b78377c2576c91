//! Whom and what an operator has blocked, by name, without any policy file: asked before the policy, and stronger than
//! everything it says. Never forgets a block that it once said was kept, and lifts none that it cannot read.
//!
//! `subject` is what may be named.

mod subject;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::subject::{Asking, Misnamed, Subject};
use crate::limits::{BLOCK_REASON_BYTES_MAX, BLOCKS_MAX};
use crate::record::entry::{Blocked, Event, Unblocked};
use crate::record::warrant::BLOCKS;
use crate::record::{RecordError, Recorder, StateOp};

/// First byte of a kept block: the form of the rest.
const FORM: u8 = 1;

/// One block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Whom or what.
    pub subject: Subject,
    /// Since when.
    pub since: Timestamp,
    /// Who blocked.
    pub by: String,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

impl Block {
    /// Whether its time has run out.
    #[must_use]
    pub fn is_over(&self, at: Timestamp) -> bool {
        self.until.is_some_and(|until| at >= until)
    }
}

/// As the entries of refused operations say it.
impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "blocked by {} at {:.0}", self.by, self.since)?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        write!(f, " ({})", self.subject)
    }
}

/// Why something is not blocked, or not unblocked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlockError {
    /// As many are blocked as may be.
    #[error("{BLOCKS_MAX} blocks are in force, as many as there may be; lift some, or write a rule")]
    Full,
    /// The reason is too long.
    #[error("a reason has at most {BLOCK_REASON_BYTES_MAX} bytes")]
    LongReason,
    /// The end lies in the past.
    #[error("it would have ended already, at {0}")]
    Past(Timestamp),
    /// Nothing to lift.
    #[error("{0} is not blocked; `tidegate blocks` lists what is")]
    Unknown(Subject),
    /// In force, and not on disk.
    #[error(
        "{0} is blocked now, and that could not be kept: {1}; it would end with this enforcer, so block it again"
    )]
    NotKept(Subject, RecordError),
    /// Still in force.
    #[error("{0} stays blocked, because that it is lifted could not be kept: {1}")]
    NotLifted(Subject, RecordError),
}

type Table = HashMap<Subject, Arc<Block>>;

/// The blocks in force. Clones share them.
#[derive(Clone)]
pub struct Blocks(Arc<Inner>);

struct Inner {
    recorder: Recorder,
    table: ArcSwap<Table>,
    /// One change of the table at a time. Readers do not take it.
    changing: Mutex<()>,
    /// One change of what is kept at a time, over its commit.
    turn: tokio::sync::Mutex<()>,
    changed: watch::Sender<()>,
    refused: AtomicU64,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("in_force", &self.len()).finish_non_exhaustive()
    }
}

impl Blocks {
    /// Opens the table on what an earlier run left. A block that cannot be read stays in force, without its words.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn open(recorder: Recorder) -> Result<Self, RecordError> {
        let mut table = Table::new();
        for (key, bytes) in recorder.scan(BLOCKS.as_bytes())? {
            let key = String::from_utf8_lossy(&key).into_owned();
            match key.strip_prefix(BLOCKS).map(str::parse::<Subject>) {
                Some(Ok(subject)) => {
                    let block = decode(&bytes, &subject).unwrap_or_else(|why| {
                        tracing::error!(%subject, %why, "a kept block cannot be read; it stays in force");
                        unreadable(&subject)
                    });
                    table.insert(subject, Arc::new(block));
                }
                _ => tracing::error!(%key, "a kept block names nothing that can be blocked; it is ignored"),
            }
        }
        Ok(Self(Arc::new(Inner {
            recorder,
            table: ArcSwap::from_pointee(table),
            changing: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(()),
            refused: AtomicU64::new(0),
        })))
    }

    /// The block that this asking meets, if one does. Never waits.
    #[must_use]
    pub fn meets(&self, asking: &Asking<'_>) -> Option<Arc<Block>> {
        let table = self.0.table.load();
        if table.is_empty() {
            return None;
        }
        let now = Timestamp::now();
        asking.find(&table, |block| !block.is_over(now)).cloned()
    }

    /// As [`Blocks::meets`], and counts the operation that is refused by it.
    #[must_use]
    pub fn refuses(&self, asking: &Asking<'_>) -> Option<Arc<Block>> {
        let found = self.meets(asking)?;
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    /// Tells every later change. When a change is told, [`Blocks::meets`] already knows it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Blocks, at once; returns when that is on disk. What was blocked already is blocked by the new words.
    ///
    /// # Errors
    /// See [`BlockError`]. After [`BlockError::NotKept`] it is in force all the same.
    pub async fn block(&self, block: Block) -> Result<Arc<Block>, BlockError> {
        if block.reason.len() > BLOCK_REASON_BYTES_MAX {
            return Err(BlockError::LongReason);
        }
        if let Some(until) = block.until.filter(|until| *until <= block.since) {
            return Err(BlockError::Past(until));
        }
        let _turn = self.0.turn.lock().await;
        let (subject, block) = (block.subject.clone(), Arc::new(block));
        {
            let _one = self.changing();
            let mut table = Table::clone(&self.0.table.load());
            if table.len() >= BLOCKS_MAX && !table.contains_key(&subject) {
                return Err(BlockError::Full);
            }
            table.insert(subject.clone(), Arc::clone(&block));
            self.put_in_force(table);
        }
        let event = Event::Blocked(Blocked {
            at: block.since.as_microsecond(),
            subject: subject.to_string(),
            by: block.by.clone(),
            reason: block.reason.clone(),
            until: block.until.map(|until| until.as_microsecond()),
        });
        let put = StateOp::Put(key_of(&subject), encode(&block));
        self.write(put, event).await.map_err(|error| BlockError::NotKept(subject, error))?;
        Ok(block)
    }

    /// Lifts a block; it ends when that is on disk.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub async fn unblock(&self, subject: &Subject, by: &str) -> Result<Arc<Block>, BlockError> {
        let _turn = self.0.turn.lock().await;
        let block = self.0.table.load().get(subject).cloned();
        let block = block.ok_or_else(|| BlockError::Unknown(subject.clone()))?;
        self.lift(subject, by).await.map_err(|error| BlockError::NotLifted(subject.clone(), error))?;
        Ok(block)
    }

    /// Forgets the blocks whose time has run out; each is an event. They refuse nothing any more in any case.
    pub async fn sweep(&self) {
        let _turn = self.0.turn.lock().await;
        let now = Timestamp::now();
        let over: Vec<Subject> = {
            let table = self.0.table.load();
            table.values().filter(|block| block.is_over(now)).map(|block| block.subject.clone()).collect()
        };
        for subject in over {
            if let Err(error) = self.lift(&subject, "").await {
                return tracing::warn!(%subject, %error, "a block is over and stays listed; trying again");
            }
            tracing::info!(%subject, "a block has run out");
        }
    }

    /// Those in force, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Block>> {
        let now = Timestamp::now();
        let mut all: Vec<_> =
            self.0.table.load().values().filter(|block| !block.is_over(now)).cloned().collect();
        all.sort_by(|a, b| (a.since, &a.subject).cmp(&(b.since, &b.subject)));
        all
    }

    /// How many are in force.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Operations refused by a block since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    async fn lift(&self, subject: &Subject, by: &str) -> Result<(), RecordError> {
        let at = Timestamp::now().as_microsecond();
        let event = Event::Unblocked(Unblocked { at, subject: subject.to_string(), by: by.to_owned() });
        self.write(StateOp::Remove(key_of(subject)), event).await?;
        let _one = self.changing();
        let mut table = Table::clone(&self.0.table.load());
        table.remove(subject);
        self.put_in_force(table);
        Ok(())
    }

    async fn write(&self, state: StateOp, event: Event) -> Result<(), RecordError> {
        self.0.recorder.append_with(vec![state], vec![event])?.await
    }

    fn put_in_force(&self, table: Table) {
        self.0.table.store(Arc::new(table));
        self.0.changed.send_replace(());
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(subject: &Subject) -> Vec<u8> {
    format!("{BLOCKS}{subject}").into_bytes()
}

/// What is kept of a block. Times are microseconds.
#[derive(Serialize, Deserialize)]
struct Kept {
    since: i64,
    by: String,
    reason: String,
    until: Option<i64>,
}

#[expect(clippy::expect_used, reason = "plain strings and integers always encode")]
fn encode(block: &Block) -> Vec<u8> {
    let kept = Kept {
        since: block.since.as_microsecond(),
        by: block.by.clone(),
        reason: block.reason.clone(),
        until: block.until.map(Timestamp::as_microsecond),
    };
    postcard::to_extend(&kept, vec![FORM]).expect("strings and integers encode")
}

fn decode(bytes: &[u8], subject: &Subject) -> Result<Block, String> {
    let [FORM, kept @ ..] = bytes else { return Err("it was written by another version".into()) };
    let kept: Kept = postcard::from_bytes(kept).map_err(|error| error.to_string())?;
    let moment = |at| Timestamp::from_microsecond(at).map_err(|error| error.to_string());
    Ok(Block {
        subject: subject.clone(),
        since: moment(kept.since)?,
        by: kept.by,
        reason: kept.reason,
        until: kept.until.map(moment).transpose()?,
    })
}

/// A block whose words are lost: it ends when somebody lifts it.
fn unreadable(subject: &Subject) -> Block {
    Block {
        subject: subject.clone(),
        since: Timestamp::UNIX_EPOCH,
        by: "somebody".into(),
        reason: "what was kept of this block cannot be read".into(),
        until: None,
    }
}
