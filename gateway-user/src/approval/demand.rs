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
    /// The target.
    pub target: String,
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
    /// The target.
    pub target: String,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for votes.
    Pending,
    /// Approved: one grant, for one use.
    Granted {
        /// The grant ends unused then.
        until: Timestamp,
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
}

impl From<&Subject> for Asker {
    fn from(subject: &Subject) -> Self {
        let process = subject.workload.as_ref().map(|workload| Process {
            key: workload.key(),
            pid: workload.pid,
            uid: workload.uid,
            login_uid: workload.login_uid,
            command: workload.command.clone(),
            executable: workload.executable.as_ref().map(|executable| executable.path.clone()),
        });
        Self {
            key: subject.key(),
            user: subject.user.as_ref().map(|user| (user.provider.clone(), user.subject.clone())),
            peer: subject.peer.to_string(),
            process,
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
    /// Path; empty for a connection.
    pub path: String,
    /// Query, without `?`.
    pub query: Option<String>,
    /// Header fields in order.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Option<ShownBody>,
}

/// A body as approvers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownBody {
    /// Its length in bytes as it will be forwarded.
    pub bytes: u64,
    /// The masked text, or base64 of the masked bytes where it is no text.
    pub text: String,
    /// Whether `text` is base64.
    pub base64: bool,
}

impl Shown {
    /// Roughly the memory it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        let fields: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let body = self.body.as_ref().map_or(0, |body| body.text.len());
        self.method.len()
            + self.host.len()
            + self.path.len()
            + self.query.as_ref().map_or(0, String::len)
            + fields
            + body
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
        match self.state {
            State::Pending => self.expires,
            State::Granted { until } => until,
        }
    }

    /// Names of those who voted for it.
    #[must_use]
    pub fn voters(&self) -> Vec<String> {
        self.votes.iter().map(|vote| vote.person.clone()).collect()
    }
}
