//! The durable state that the desk needs, in two words: write, scan. And what it tells the record.
//!
//! The desk moves nothing before the ledger has it.

use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;

use crate::operation::{DemandId, EntryId};

/// Resolves when what was asked is on disk. Dropping it takes nothing back.
pub type Durable = Pin<Box<dyn Future<Output = Result<(), LedgerError>> + Send>>;

/// A key and what is kept under it.
pub type Row = (String, Vec<u8>);

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

/// A demand, a grant or a window that somebody took back, as the record keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalledOff {
    /// Which demand.
    pub demand: DemandId,
    /// On which entry.
    pub entry: EntryId,
    /// When.
    pub at: Timestamp,
    /// Who: a `[[person]]`, or `uid 1000`.
    pub by: String,
    /// It was approved already.
    pub revoked: bool,
}

/// What the journal is told together with a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Somebody voted.
    Voted(CastVote),
    /// Somebody took it back.
    CalledOff(CalledOff),
}

/// What becomes durable together, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Kept under their keys, in place of what was there.
    pub put: Vec<Row>,
    /// Keys that are forgotten.
    pub remove: Vec<String>,
    /// What the journal is told.
    pub said: Option<Said>,
}

/// Durable state under keys, and a journal. Writes take effect in the order of the calls and never block the caller.
pub trait Ledger: Send + Sync {
    /// Makes a change, whole or not at all.
    fn write(&self, change: Change) -> Durable;
    /// Everything under keys that start so, in the order of the keys.
    ///
    /// # Errors
    /// The state cannot be read.
    fn scan(&self, prefix: &str) -> Result<Vec<Row>, LedgerError>;
}
