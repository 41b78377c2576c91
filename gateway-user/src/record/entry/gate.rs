//! Events of the gate itself: its policy, its blocks, its starts, and who read its record.

use serde::{Deserialize, Serialize};

use super::{Micros, Verdict};
use crate::operation::Sha256;
use crate::record::head::ListedKey;

/// A change of policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyChanged {
    /// When.
    pub at: Micros,
    /// The set now in force.
    pub policy: Sha256,
    /// `None` when the new files are in force; else why they are not and the old set stays.
    pub refused: Option<String>,
    /// The set that was in force before, also by an earlier enforcer; `None` where no record says.
    pub before: Option<Sha256>,
    /// The files that differ from those in force before, by name, at most [`crate::limits::POLICY_CHANGES_TOLD_MAX`].
    pub files: Vec<FileChanged>,
    /// How many more differ.
    pub files_left_out: u64,
}

/// What became of a policy file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileChange {
    /// It was not there before.
    Added,
    /// It holds something else.
    Changed,
    /// It is gone.
    Removed,
}

/// A policy file that differs, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChanged {
    /// Its name in the directory.
    pub name: String,
    /// What became of it.
    pub change: FileChange,
    /// The user id that owns it; `None` for one that is gone.
    pub uid: Option<u32>,
    /// The name of that user on this host, where it has one.
    pub owner: Option<String>,
    /// When it was last written, as the file system says.
    pub modified: Option<Micros>,
    /// Digest of what it held before.
    pub before: Option<Sha256>,
    /// Digest of what it holds now.
    pub after: Option<Sha256>,
}

/// What a change of policy widens. Follows its [`PolicyChanged`] when the judging is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyWeighed {
    /// When.
    pub at: Micros,
    /// The set before.
    pub before: Sha256,
    /// The set now in force.
    pub policy: Sha256,
    /// Different recorded operations that were judged by both.
    pub judged: u64,
    /// Different recorded operations that could not be, because the record does not hold all that a rule looks at.
    pub unknown: u64,
    /// Cases of both directories that were judged by both.
    pub cases: u64,
    /// Whether the judging stopped at its bounds, so that there may be more.
    pub cut_short: bool,
    /// What would be let through further than before, at most [`crate::limits::WIDENED_TOLD_MAX`].
    pub widened: Vec<Widened>,
    /// How many more are.
    pub widened_left_out: u64,
}

/// One operation that a change of policy lets through further than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Widened {
    /// Who asks.
    pub subject: String,
    /// The target.
    pub target: String,
    /// The operation: `POST /v1/models/m1`, or the name of the case.
    pub operation: String,
    /// What the set before says.
    pub before: Verdict,
    /// What the set now in force says.
    pub after: Verdict,
    /// The rules that decide now.
    pub rules: Vec<String>,
    /// How many times it was recorded; 0 for a case.
    pub times: u64,
}

impl Widened {
    pub(super) fn weight(&self) -> usize {
        let rules = self.rules.iter().map(|rule| rule.len() + 24).sum::<usize>();
        96 + self.subject.len() + self.target.len() + self.operation.len() + rules
    }
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// When.
    pub at: Micros,
    /// Whom or what: `user:PROVIDER/SUBJECT`, `unit:…`, `container:…`, `uid:…`, `target:…`.
    pub subject: String,
    /// Who blocked.
    pub by: String,
    /// Why; empty where nothing was said. Masked.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<Micros>,
}

/// The end of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unblocked {
    /// When.
    pub at: Micros,
    /// Whom or what.
    pub subject: String,
    /// Who lifted it; empty where its time ran out.
    pub by: String,
}

/// A start of the enforcer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// When.
    pub at: Micros,
    /// Tidegate's version.
    pub version: String,
    /// Entries that an earlier enforcer left open, closed now as broken by the gate.
    pub recovered: u64,
}

/// A time without a record. Nothing was forwarded in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    /// When the record could be written again.
    pub at: Micros,
    /// When the first write failed.
    pub since: Micros,
    /// Why.
    pub reason: String,
    /// Flows that were refused and of which nothing else is recorded.
    pub flows: u64,
    /// Operations that were refused and of which nothing else is recorded.
    pub operations: u64,
}

/// A reading of the record by an operator, announced before the first byte was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRead {
    /// When it was announced.
    pub at: Micros,
    /// The reader's effective user id.
    pub uid: u32,
    /// The user id the reader logged in with, where that is established and there was a login.
    pub login_uid: Option<u32>,
    /// The `[[person]]` behind it, where the policy has one.
    pub person: Option<String>,
    /// The command: `sessions show`.
    pub command: String,
    /// What it was to read: ids and filters as they were given, masked.
    pub about: String,
}

/// Far more of something in one minute than is usual, as it was noticed. Says nothing about whether it was allowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Surged {
    /// When.
    pub at: Micros,
    /// What is counted: `sessions`, `operations`, `masked`, `approvals`.
    pub what: String,
    /// On which target; `-` where none was known.
    pub target: String,
    /// The verdict, the mask, or how holds went.
    pub name: String,
    /// Who made most of it.
    pub subject: Option<String>,
    /// How many there were in that minute when it was noticed.
    pub count: u64,
    /// How many are usual in one minute.
    pub expected: f64,
}

/// Sockets that were older than what protects their peers, at a start or a change of policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketsDestroyed {
    /// When.
    pub at: Micros,
    /// The sockets, at most [`crate::limits::SOCKETS_DESTROYED_TOLD_MAX`].
    pub sockets: Vec<DestroyedSocket>,
    /// How many more were destroyed.
    pub left_out: u64,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyedSocket {
    /// `tcp`, `udp` or `udplite`.
    pub protocol: String,
    /// Its own address, `ip:port`.
    pub local: String,
    /// Its peer's.
    pub remote: String,
    /// Who owned it.
    pub uid: u32,
    /// The process that held it; `None` where none could be found.
    pub process: Option<String>,
    /// The cgroup it was made in, below the root; `None` where that is gone.
    pub cgroup: Option<String>,
    /// The systemd unit of that cgroup.
    pub unit: Option<String>,
    /// The target or service it was connected to.
    pub target: Option<String>,
    /// The guard it belonged to.
    pub guard: Option<String>,
    /// Why it could not stay.
    pub why: String,
    /// Why it could not be destroyed: its packets are dropped. `None`: it was.
    pub failed: Option<String>,
}

impl DestroyedSocket {
    /// About how many bytes its texts take.
    #[must_use]
    pub fn weight(&self) -> usize {
        let maybe = [&self.process, &self.cgroup, &self.unit, &self.target, &self.guard, &self.failed];
        let maybe = maybe.into_iter().flatten().map(String::len).sum::<usize>();
        64 + self.local.len() + self.remote.len() + self.why.len() + maybe
    }
}

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
