//! What was done to the record itself, as events of it. A tombstone says what is gone, and never less than went.

use serde::{Deserialize, Serialize};

use super::entry::Micros;
use super::head::ListedKey;
use crate::operation::Sha256;

/// Something that was done to the record itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// When.
    pub at: Micros,
    /// Who had it done: `uid 0`, `retention`, `the enforcer`.
    pub by: String,
    /// What.
    pub what: Upkeep,
}

/// What is done to a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upkeep {
    /// Checkpoints are signed with this key from now on.
    SigningKey(ListedKey),
    /// The keys of the segments are sealed with another generation.
    Rekeyed {
        /// The generation.
        generation: u32,
        /// How many segments.
        segments: u64,
    },
    /// Bodies are gone: the tombstone of their segments.
    Shed {
        /// Their lane: a target, or empty for the bodies of all targets without one.
        lane: String,
        /// The segments.
        segments: Vec<u32>,
        /// Bytes in them.
        bytes: u64,
        /// Why.
        why: String,
    },
    /// Commits are gone from the front: their tombstone.
    Pruned {
        /// The first that is gone.
        from: u64,
        /// The first that is left.
        to: u64,
        /// Events in them.
        events: u64,
        /// Digest of the row that the record begins with now.
        base: Sha256,
        /// Why.
        why: String,
    },
}
