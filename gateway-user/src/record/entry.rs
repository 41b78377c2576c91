//! What the record says: one [`Event`] per thing that happened, chained in the order it was written.
//!
//! Everything here has already been masked by whoever made it (promise 6): an event never holds a credential, a
//! token, or a value that a mask or a detector finds.

mod gate;
mod refused;

pub use gate::{
    Blocked, DestroyedSocket, FileChange, FileChanged, Interrupted, Kept, PolicyChanged, PolicyWeighed,
    RecordRead, SocketsDestroyed, Started, Surged, Unblocked, Upkeep, Widened,
};
pub use refused::{KernelRefused, Refused};

use serde::{Deserialize, Serialize};

use crate::operation::{DemandId, Direction, EntryId, SessionId, Sha256, User, Workload};
use crate::wire::coding::Codings;

/// Microseconds since the Unix epoch.
pub type Micros = i64;

/// One thing that happened. The journal writes events in order and chains them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A flow was accepted.
    SessionOpened(SessionOpened),
    /// An operation was judged, and this is what is about to happen. Durable before anything is forwarded.
    Intent(Box<Intent>),
    /// The judge's later word on an operation that was held: released, rejected, expired or withdrawn.
    Decided(Decided),
    /// The upstream's response head came.
    Responded(Responded),
    /// A stretch of a body, masked, in order.
    Body(BodyStretch),
    /// The operation is over. Exactly one per entry.
    EntryClosed(EntryClosed),
    /// The flow is over. Exactly one per session.
    SessionClosed(SessionClosed),
    /// A human voted on a demand.
    Voted(Voted),
    /// Another policy set is in force, or a reload was refused.
    PolicyChanged(PolicyChanged),
    /// The enforcer started, or took over a record that an earlier one left open.
    Started(Started),
    /// The record could not be written for a while, and everything was refused.
    Interrupted(Interrupted),
    /// A held operation is known whole and lies before people.
    Demanded(Demanded),
    /// Somebody is about to read what the record holds.
    RecordRead(RecordRead),
    /// A demand, a grant or a window was taken back.
    CalledOff(CalledOff),
    /// An operator blocked somebody or something.
    Blocked(Blocked),
    /// A block was lifted, or its time ran out.
    Unblocked(Unblocked),
    /// What a change of policy widens: recorded operations and cases, judged by both sets.
    PolicyWeighed(PolicyWeighed),
    /// Something was done to the record itself.
    Kept(Kept),
    /// Far more of something than is usual.
    Surged(Surged),
    /// Sockets that were older than what protects their peers were destroyed.
    SocketsDestroyed(SocketsDestroyed),
    /// The kernel programs refused something, or saw what nobody decided.
    KernelRefused(KernelRefused),
    /// An operation is about to be given a credential.
    CredentialClaimed(CredentialClaimed),
}

impl Event {
    /// When it happened. A stretch of a body says no time of its own.
    #[must_use]
    pub fn at(&self) -> Option<Micros> {
        Some(match self {
            Self::SessionOpened(event) => event.at,
            Self::Intent(event) => event.at,
            Self::Decided(event) => event.at,
            Self::Responded(event) => event.at,
            Self::Body(_) => return None,
            Self::EntryClosed(event) => event.at,
            Self::SessionClosed(event) => event.at,
            Self::Voted(event) => event.at,
            Self::PolicyChanged(event) => event.at,
            Self::Started(event) => event.at,
            Self::Interrupted(event) => event.at,
            Self::Demanded(event) => event.at,
            Self::RecordRead(event) => event.at,
            Self::CalledOff(event) => event.at,
            Self::Blocked(event) => event.at,
            Self::Unblocked(event) => event.at,
            Self::PolicyWeighed(event) => event.at,
            Self::Kept(event) => event.at,
            Self::Surged(event) => event.at,
            Self::SocketsDestroyed(event) => event.at,
            Self::KernelRefused(event) => event.at,
            Self::CredentialClaimed(event) => event.at,
        })
    }

    /// Whether it begins an entry or a session, of which more will have to be written.
    #[must_use]
    pub fn is_beginning(&self) -> bool {
        matches!(self, Self::SessionOpened(_) | Self::Intent(_))
    }

    /// Whether it ends an entry or a session. An end is never given up while its beginning stands in the record.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::EntryClosed(_) | Self::SessionClosed(_))
    }

    /// Whether it is the writer's own to say: that it began, or was interrupted, or what it did to the record itself.
    #[must_use]
    pub fn is_writers_own(&self) -> bool {
        matches!(self, Self::Started(_) | Self::Interrupted(_) | Self::Kept(_))
    }

    /// About how many bytes it takes in memory and in the record.
    #[must_use]
    pub fn weight(&self) -> usize {
        const BASE: usize = 256;
        BASE + match self {
            Self::Intent(event) => {
                let texts = event.operations.iter().chain(&event.rules).map(String::len).sum::<usize>();
                let groups = event.user.iter().flat_map(|user| &user.groups).map(|group| group.len() + 16);
                let claims = event.user.iter().flat_map(|user| &user.proof.claims);
                let claims = claims.map(|(path, values)| {
                    path.len() + 32 + values.iter().map(|value| value.len() + 16).sum::<usize>()
                });
                event.head.weight()
                    + texts
                    + event.reason.len()
                    + groups.sum::<usize>()
                    + claims.sum::<usize>()
            }
            Self::Responded(event) => event.head.weight(),
            Self::Body(event) => event.bytes.len(),
            Self::SessionOpened(event) => event.workload.as_ref().map_or(0, |workload| {
                let paths = workload.parents.iter().filter_map(|parent| parent.executable.as_ref());
                512 + workload.parents.len() * 128 + paths.map(|program| program.path.len()).sum::<usize>()
            }),
            Self::EntryClosed(event) => {
                let masks = event.masks.iter().map(|(name, _)| name.len() + 16);
                masks.chain(event.rewrites.iter().map(|name| name.len() + 16)).sum()
            }
            Self::Decided(event) => event.reason.len(),
            Self::Voted(event) => event.comment.as_ref().map_or(0, String::len),
            Self::CalledOff(event) => event.by.len(),
            Self::RecordRead(event) => event.command.len() + event.about.len(),
            Self::PolicyChanged(event) => {
                let files = event.files.iter().map(|file| file.name.len() + 160);
                event.refused.as_ref().map_or(0, String::len) + files.sum::<usize>()
            }
            Self::Blocked(event) => event.subject.len() + event.by.len() + event.reason.len(),
            Self::Unblocked(event) => event.subject.len() + event.by.len(),
            Self::Surged(event) => {
                event.target.len() + event.name.len() + event.subject.as_ref().map_or(0, String::len)
            }
            Self::SocketsDestroyed(event) => event.sockets.iter().map(DestroyedSocket::weight).sum(),
            Self::KernelRefused(event) => event.refusals.iter().map(Refused::weight).sum(),
            Self::CredentialClaimed(event) => event.target.len() + event.credential.len(),
            Self::PolicyWeighed(event) => event.widened.iter().map(Widened::weight).sum(),
            Self::SessionClosed(_)
            | Self::Started(_)
            | Self::Interrupted(_)
            | Self::Demanded(_)
            | Self::Kept(_) => 0,
        }
    }
}

/// A flow was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionOpened {
    /// The session.
    pub session: SessionId,
    /// When.
    pub at: Micros,
    /// The way across the gate.
    pub direction: Direction,
    /// The client's address, `ip:port`.
    pub peer: String,
    /// Where the client meant to go, `ip:port`.
    pub destination: String,
    /// The process, for local flows.
    pub workload: Option<Workload>,
    /// The guard that holds the process, if one does.
    pub guard: Option<String>,
    /// The target, where the destination alone names it.
    pub target: Option<String>,
}

/// The judge's word, as the record and the operator see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Waits for a human.
    Hold,
    /// Refused by a rule, or for want of one.
    Deny,
    /// Refused before it could be judged: malformed, unauthenticated, out of bounds.
    Refuse,
}

impl Verdict {
    /// The name in indexes of what would have been the verdict on an observed target; `None` where it is the same.
    #[must_use]
    pub fn would_name(self) -> Option<&'static str> {
        match self {
            Self::Allow => None,
            Self::Hold => Some("would-hold"),
            Self::Deny => Some("would-deny"),
            Self::Refuse => Some("would-refuse"),
        }
    }

    /// Its name in indexes and filters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Hold => "hold",
            Self::Deny => "deny",
            Self::Refuse => "refuse",
        }
    }
}

/// An operation, its verdict, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The entry.
    pub entry: EntryId,
    /// The session it happened in.
    pub session: SessionId,
    /// When it was judged.
    pub at: Micros,
    /// The target, where one is known.
    pub target: Option<String>,
    /// The kind of operation: `open`, `http`.
    pub kind: String,
    /// The declared `[[operation]]`s it is, if the target declares any.
    pub operations: Vec<String>,
    /// The user who asks.
    pub user: Option<User>,
    /// The asking workload's key ([`Workload::key`]); the whole workload stands in the session.
    pub workload: Option<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// On a target that is only observed, the verdict it would have been; what is counted as masked was then only found.
    pub would: Option<Verdict>,
    /// Ids of the rules that decided, `file#id`.
    pub rules: Vec<String>,
    /// Why, in words for the operator.
    pub reason: String,
    /// Digest of the policy set that judged.
    pub policy: Option<Sha256>,
    /// The request line and header fields, masked.
    pub head: Head,
}

/// A message head, masked: first line, then fields in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Request line (`GET /v1/runs HTTP/1.1`) or status line.
    pub line: String,
    /// Header fields, name and value, as they were ordered.
    pub fields: Vec<(String, String)>,
}

/// What a held operation waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demanded {
    /// The entry that is held.
    pub entry: EntryId,
    /// When its whole body was known.
    pub at: Micros,
    /// The demand; several entries wait for the same one where an operation is tried again.
    pub demand: DemandId,
    /// Digest of the exact operation, body included.
    pub digest: Sha256,
}

/// The end of a hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// The entry that was held.
    pub entry: EntryId,
    /// When.
    pub at: Micros,
    /// [`Verdict::Allow`] when released, else [`Verdict::Deny`].
    pub verdict: Verdict,
    /// Who approved or rejected, or what ended it.
    pub reason: String,
    /// Digest of the policy set that judged again.
    pub policy: Option<Sha256>,
}

impl Head {
    fn weight(&self) -> usize {
        self.line.len() + self.fields.iter().map(|(name, value)| name.len() + value.len() + 48).sum::<usize>()
    }
}

/// An operation is about to be given a credential of the vault. Durable before it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialClaimed {
    /// The entry.
    pub entry: EntryId,
    /// When.
    pub at: Micros,
    /// The target that it is sent to.
    pub target: String,
    /// Its name in the vault.
    pub credential: String,
}

/// A response head, masked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Responded {
    /// The entry.
    pub entry: EntryId,
    /// When.
    pub at: Micros,
    /// Status code.
    pub status: u16,
    /// Status line and fields as the client got them, masked.
    pub head: Head,
}

/// Which body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// What the client sent.
    Request,
    /// What the client received.
    Response,
}

/// A stretch of a body, masked, at most [`crate::limits::BODY_STRETCH_BYTES`] long. The journal moves the bytes to a
/// segment file and chains their digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BodyStretch {
    /// The entry.
    pub entry: EntryId,
    /// Which of its bodies.
    pub side: Side,
    /// The masked bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// How one body ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyEnd {
    /// Bytes that went over the wire.
    pub bytes: u64,
    /// Masked bytes kept in the record.
    pub recorded: u64,
    /// Set where the record stops short: the offset it is truncated at.
    pub truncated_at: Option<u64>,
    /// Values hidden by masks, from the client or from the target.
    pub masked: u64,
    /// The content codings it came in, which the record has undone.
    pub decoded: Codings,
    /// Why the record stops short.
    pub gap: Option<Gap>,
}

/// Why the record stops short of the end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gap {
    /// It is longer than the record keeps.
    Size,
    /// Its content coding cannot be undone, or was damaged, or ended too early.
    Coding,
    /// Its character encoding cannot be read.
    Charset,
    /// It is not the kind of content it says it is, so that nobody knows what in it must be hidden.
    Content,
}

impl Gap {
    /// It, for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Size => "it is longer than the record keeps",
            Self::Coding => "its content coding could not be undone",
            Self::Charset => "its character encoding could not be read",
            Self::Content => "it could not be read as what it says it is",
        }
    }
}

/// How something ended, and whose fault it was if it broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// As it should.
    Finished,
    /// Refused; the client was told.
    Refused(String),
    /// The client left or broke the protocol.
    ByClient(String),
    /// The upstream refused, hung, or broke the protocol.
    ByUpstream(String),
    /// The gate itself failed, was killed, or was drained.
    ByGate(String),
}

/// The end of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryClosed {
    /// The entry.
    pub entry: EntryId,
    /// When.
    pub at: Micros,
    /// The status the client got, if it got one.
    pub status: Option<u16>,
    /// The request body.
    pub request: BodyEnd,
    /// The response body.
    pub response: BodyEnd,
    /// Values hidden, by mask name.
    pub masks: Vec<(String, u64)>,
    /// How it ended.
    pub ending: Ending,
    /// The `[[rewrite]]`s that changed the request or the answer.
    pub rewrites: Vec<String>,
}

/// The end of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionClosed {
    /// The session.
    pub session: SessionId,
    /// When.
    pub at: Micros,
    /// Operations it carried.
    pub entries: u64,
    /// How it ended.
    pub ending: Ending,
}

/// A vote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Voted {
    /// On which demand.
    pub demand: DemandId,
    /// On which entry.
    pub entry: EntryId,
    /// When.
    pub at: Micros,
    /// The `[[person]]` who voted.
    pub person: String,
    /// For or against.
    pub approve: bool,
    /// What they said, masked.
    pub comment: Option<String>,
}

/// The end of a demand, a grant or a window by somebody's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalledOff {
    /// Which demand.
    pub demand: DemandId,
    /// On which entry.
    pub entry: EntryId,
    /// When.
    pub at: Micros,
    /// Who: a `[[person]]`, or the account `uid N`.
    pub by: String,
    /// Whether it was approved already: a grant or a window was revoked.
    pub revoked: bool,
}
