//! A demand: one exact operation that waits for humans, as they are shown it. Refuses nothing by itself; `quorum`
//! weighs votes on it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::operation::{DemandId, EntryId, SessionId, Sha256, Subject};

/// What the judge hands in to have an operation held. Everything shown has been masked before.
#[derive(Debug)]
pub struct DemandDraft<'a> {
    /// The entry that is held.
    pub entry: EntryId,
    /// The session it happens in.
    pub session: SessionId,
    /// Who asks.
    pub subject: &'a Subject,
    /// The guard that holds the asking process, if one does.
    pub guard: Option<&'a str>,
    /// Why, in the requester's words, masked.
    pub reason: Option<String>,
    /// The target.
    pub target: String,
    /// The declared `[[operation]]`s it is.
    pub operations: Vec<String>,
    /// Names the exact operation ([`super::Key::digest`]).
    pub digest: Sha256,
    /// The rules that ask for it, `file#id`.
    pub rules: Vec<String>,
    /// What the rules say to people.
    pub message: Option<String>,
    /// Names of the `[[approval]]`s that are needed, all of them.
    pub approvals: Vec<String>,
    /// The operation as approvers see it.
    pub shown: Shown,
}

/// A held operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Its name.
    pub id: DemandId,
    /// The entry that was held first; a retry has an entry of its own.
    pub entry: EntryId,
    /// The session of that entry.
    pub session: SessionId,
    /// Who asks.
    pub asker: Asker,
    /// Why, in the requester's words, masked.
    pub reason: Option<String>,
    /// The target.
    pub target: String,
    /// The declared `[[operation]]`s it is.
    pub operations: Vec<String>,
    /// Names the exact operation.
    pub digest: Sha256,
    /// The rules that ask for it, `file#id`.
    pub rules: Vec<String>,
    /// Digest of the text of those rules when they asked.
    pub basis: Sha256,
    /// What the rules say to people.
    pub message: Option<String>,
    /// Names of the `[[approval]]`s that are needed, all of them; sorted, each once.
    pub approvals: Vec<String>,
    /// Seconds that approval opens a window for, as its approvers were told; `None`: it is for one run.
    pub window: Option<u64>,
    /// Whether its client was told to ask again, and does not wait.
    pub retry: bool,
    /// When it was held.
    pub created: Timestamp,
    /// When it ends without an answer.
    pub expires: Timestamp,
    /// The operation as approvers see it.
    pub shown: Shown,
    /// Votes for it, in order. A vote against ends it.
    pub votes: Vec<Vote>,
    /// Where it stands.
    pub state: State,
}

/// Where a demand stands. What ended otherwise is no longer kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for votes.
    Pending,
    /// Approved: one grant, for one use.
    Granted {
        /// The grant ends unused then.
        until: Timestamp,
    },
    /// Approved for a window: whatever the same subject asks under the same rules on the same target.
    Window {
        /// The window ends then.
        until: Timestamp,
    },
    /// Rejected, and its client has not come back to hear it.
    Rejected {
        /// Nobody needs to remember it any longer.
        until: Timestamp,
        /// Who.
        by: String,
        /// What they said, masked.
        comment: Option<String>,
    },
}

/// A vote for a demand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The `[[person]]`.
    pub person: String,
    /// When.
    pub at: Timestamp,
    /// Digest of the policy set in force then.
    pub policy: Sha256,
    /// Whether it is for one run, also where approval would open a window.
    pub once: bool,
    /// What they said, masked.
    pub comment: Option<String>,
}

/// Who asks, as far as approvers and the rule "never by the requester" need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The stable name ([`Subject::key`]).
    pub key: String,
    /// Provider and subject of the user.
    pub user: Option<(String, String)>,
    /// The address the flow came from, `ip:port`.
    pub peer: String,
    /// The process, for local flows.
    pub process: Option<Process>,
    /// The guard that holds the process.
    pub guard: Option<String>,
}

/// The process that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The workload's stable name.
    pub key: String,
    /// Process id.
    pub pid: u32,
    /// Its user id.
    pub uid: u32,
    /// The user id it logged in with.
    pub login_uid: Option<u32>,
    /// The kernel's short name of it.
    pub command: String,
    /// Path of its program.
    pub executable: Option<String>,
    /// Its unit, and the slices that hold it.
    pub units: Vec<String>,
    /// Its container.
    pub container: Option<String>,
}

impl Asker {
    /// Who asks, by what is known of the flow.
    #[must_use]
    pub fn of(subject: &Subject, guard: Option<&str>) -> Self {
        let process = subject.workload.as_ref().map(|workload| Process {
            key: workload.key(),
            pid: workload.pid,
            uid: workload.uid,
            login_uid: workload.login_uid,
            command: workload.command.clone(),
            executable: workload.executable.as_ref().map(|executable| executable.path.clone()),
            units: workload.units().map(str::to_owned).collect(),
            container: workload.container.clone(),
        });
        Self {
            key: subject.key(),
            user: subject.user.as_ref().map(|user| (user.provider.clone(), user.subject.clone())),
            peer: subject.peer.to_string(),
            process,
            guard: guard.map(str::to_owned),
        }
    }
}

/// An operation as approvers see it, masked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Method; `open` for a connection.
    pub method: String,
    /// Host, or address and port.
    pub host: String,
    /// Where it goes: host or address, and port.
    pub to: String,
    /// Path; empty for a connection.
    pub path: String,
    /// Query, without `?`.
    pub query: Option<String>,
    /// Header fields in order.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Option<ShownBody>,
}

/// A body as approvers see it. In a kept demand its text is empty: that lies sealed in the spool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownBody {
    /// Its length in bytes as it will be forwarded.
    pub bytes: u64,
    /// Bytes of the whole text.
    pub length: u64,
    /// Where `text` begins in the whole.
    pub offset: u64,
    /// The masked text or a part of it, or base64 of the masked bytes where it is no text.
    pub text: String,
    /// Whether `text` is base64.
    pub base64: bool,
}

impl Shown {
    /// Roughly the memory it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        let fields: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let body = self.body.as_ref().map_or(0, |body| usize::try_from(body.length).unwrap_or(usize::MAX));
        self.method.len()
            + self.host.len()
            + self.to.len()
            + self.path.len()
            + self.query.as_ref().map_or(0, String::len)
            + fields
            + body
    }

    /// Takes the body's text out.
    pub(super) fn take_text(&mut self) -> Option<String> {
        self.body.as_mut().map(|body| std::mem::take(&mut body.text))
    }
}

impl ShownBody {
    /// A whole text, masked: as such, or as base64 where it is none.
    #[must_use]
    pub fn of(bytes: u64, masked: Vec<u8>) -> Self {
        let (text, base64) = match String::from_utf8(masked) {
            Ok(text) => (text, false),
            Err(bytes) => (data_encoding::BASE64.encode(bytes.as_bytes()), true),
        };
        Self { bytes, length: text.len() as u64, offset: 0, text, base64 }
    }

    /// The part of a whole text from `offset` on, at most `limit` bytes, cut between characters.
    #[must_use]
    pub fn page(&self, offset: u64, limit: usize) -> Self {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.text.len());
        let start = self.text.ceil_char_boundary(start);
        let end = self.text.floor_char_boundary(start.saturating_add(limit).min(self.text.len())).max(start);
        Self { offset: start as u64, text: self.text[start..end].to_owned(), ..self.clone() }
    }
}

impl Demand {
    /// Whether it, or its grant, has run out.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.deadline()
    }

    /// When it, or its grant, runs out.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        match &self.state {
            State::Pending => self.expires,
            State::Granted { until } | State::Window { until } | State::Rejected { until, .. } => *until,
        }
    }

    /// Whether it is approved, once or for a window.
    #[must_use]
    pub fn is_approved(&self) -> bool {
        matches!(self.state, State::Granted { .. } | State::Window { .. })
    }

    /// What the window that it is, or would open, is for: the same subject, target, rules and approvals.
    pub(super) fn has_same_window(&self, other: &Self) -> bool {
        self.asker.key == other.asker.key && self.is_under_same_rules(other)
    }

    /// Whether the same rules hold both, on the same target, for the same approvals.
    pub(super) fn is_under_same_rules(&self, other: &Self) -> bool {
        self.target == other.target && self.basis == other.basis && self.approvals == other.approvals
    }

    /// Names of those who voted for it.
    #[must_use]
    pub fn voters(&self) -> Vec<String> {
        self.votes.iter().map(|vote| vote.person.clone()).collect()
    }
}
