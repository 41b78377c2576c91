//! The durable state that the desk needs, in three words: put, remove, scan. And the one thing it tells the record.
//!
//! The desk moves nothing before the ledger has it.

use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;

use crate::operation::{DemandId, EntryId};

/// Resolves when what was asked is on disk. Dropping it takes nothing back.
pub type Durable = Pin<Box<dyn Future<Output = Result<(), LedgerError>> + Send>>;

/// The record's state could not be written or read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the record cannot keep this approval: {0}; nothing has changed")]
pub struct LedgerError(pub String);

/// A vote as the record keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CastVote {
    /// On which demand.
    pub demand: DemandId,
    /// On which entry.
    pub entry: EntryId,
    /// When.
    pub at: Timestamp,
    /// The `[[person]]` who voted.
    pub person: String,
    /// For or against.
    pub approve: bool,
    /// What they said, masked.
    pub comment: Option<String>,
}

/// Durable state under keys, and a journal. Writes take effect in the order of the calls and never block the caller.
pub trait Ledger: Send + Sync {
    /// Keeps these bytes under this key, in place of what was there.
    fn put(&self, key: &str, bytes: Vec<u8>) -> Durable;
    /// Forgets what is under this key.
    fn remove(&self, key: &str) -> Durable;
    /// Everything under keys that start so, in the order of the keys.
    ///
    /// # Errors
    /// The state cannot be read.
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError>;
    /// Writes a vote to the journal and, in the same commit, what it makes of its demand: these bytes under this key, or
    /// nothing. Both become durable, or neither.
    fn voted(&self, vote: CastVote, key: &str, demand: Option<Vec<u8>>) -> Durable;
}
