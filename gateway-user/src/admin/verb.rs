//! What the operators' door can have done, one verb each: to look, and a few acts in somebody's name. Nothing else reaches what
//! enforces, whoever answers at the door.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::coverage::Coverage;
use super::view::{
    Announced, BlockView, ChannelView, DeadView, DemandView, Ended, PriorView, Problem, QueueView, Reload,
    Resent, SignalsView, Status, Tested, Voted,
};
use crate::approval::{Account, Caller};
use crate::block::Subject;
use crate::limits::VERB_BYTES_MAX;
use crate::operation::DemandId;
use crate::record::Recorder;
use crate::record::warrant::Deed;
use crate::tally;

/// The Content-Type of OpenMetrics text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Bytes of an answer. Ten thousand demands without their bodies, or one with the largest.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What an answer is wrapped in.
const WRAPPING_BYTES: usize = 1024;

/// One thing to be done, by whom the door found entitled to it. Words of people are masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// How is everything?
    Status,
    /// Rates, surges, the use of rules.
    Signals,
    /// What reaches past the gate?
    Coverage,
    /// What the enforcer says of the flows that it took.
    Account,
    /// The counters, as OpenMetrics text.
    Metrics,
    /// Read the policy directory again.
    Reload,
    /// What waits for people.
    Demands,
    /// What each subject has waiting.
    Queues,
    /// One demand in full.
    Demand {
        /// Which.
        id: DemandId,
        /// Where its body is to begin.
        offset: u64,
        /// How much of it at most.
        limit: u64,
    },
    /// The last approved one of its kind.
    Prior(DemandId),
    /// Vote.
    Vote(VoteCast),
    /// Take a demand, a grant or a window back.
    CallOff {
        /// Which.
        id: DemandId,
        /// After it was approved.
        revoke: bool,
        /// Who.
        caller: Caller,
        /// Their name.
        by: String,
    },
    /// The blocks in force.
    Blocks,
    /// Block.
    Block {
        /// Whom or what.
        subject: Subject,
        /// Who blocks.
        by: String,
        /// Why.
        reason: String,
        /// When it ends by itself.
        until: Option<Timestamp>,
    },
    /// Lift a block.
    Lift {
        /// Of whom or what.
        subject: Subject,
        /// Who lifts it.
        by: String,
    },
    /// Write down that somebody is about to read the record.
    Announce(Reading),
    /// How each channel does.
    Channels,
    /// Messages that nobody took.
    Dead,
    /// Try one of them again.
    Retry(String),
    /// Have a channel tried.
    Test(String),
}

/// A vote of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteCast {
    /// On which demand.
    pub id: DemandId,
    /// The account it came from.
    pub account: Account,
    /// The `[[person]]`.
    pub person: String,
    /// For or against.
    pub approve: bool,
    /// For one run only.
    pub once: bool,
    /// What they say with it.
    pub comment: Option<String>,
}

/// A reading of the record, and who reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The effective user id.
    pub uid: u32,
    /// The user id of the login.
    pub login_uid: Option<u32>,
    /// The `[[person]]`.
    pub person: Option<String>,
    /// The command.
    pub command: String,
    /// What of it.
    pub about: String,
}

impl Verb {
    /// What a human does by it, as the record will say.
    #[must_use]
    pub fn deed(&self) -> Option<Deed> {
        match self {
            Self::Vote(vote) => Some(Deed::Voted {
                demand: vote.id,
                person: vote.person.clone(),
                approve: vote.approve,
                comment: vote.comment.clone(),
            }),
            Self::CallOff { id, by, .. } => Some(Deed::CalledOff { demand: *id, by: by.clone() }),
            Self::Block { subject, by, reason, until } => Some(Deed::Blocked {
                subject: subject.to_string(),
                by: by.clone(),
                reason: reason.clone(),
                until: until.map(Timestamp::as_microsecond),
            }),
            Self::Lift { subject, by } => {
                Some(Deed::Unblocked { subject: subject.to_string(), by: by.clone() })
            }
            Self::Announce(reading) => Some(Deed::Read {
                uid: reading.uid,
                login_uid: reading.login_uid,
                person: reading.person.clone(),
                command: reading.command.clone(),
                about: reading.about.clone(),
            }),
            Self::Status
            | Self::Signals
            | Self::Coverage
            | Self::Account
            | Self::Metrics
            | Self::Reload
            | Self::Demands
            | Self::Queues
            | Self::Demand { .. }
            | Self::Prior(_)
            | Self::Blocks
            | Self::Channels
            | Self::Dead
            | Self::Retry(_)
            | Self::Test(_) => None,
        }
    }
}

/// What a verb brings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its view says")]
pub enum Answer {
    Status(Box<Status>),
    Signals(Box<SignalsView>),
    Coverage(Box<Coverage>),
    Account(tally::Account),
    Metrics(String),
    Reload(Reload),
    Demands(Vec<DemandView>),
    Queues(Vec<QueueView>),
    Demand(Box<DemandView>),
    Prior(Option<Box<PriorView>>),
    Voted(Voted),
    Ended(Ended),
    Blocks(Vec<BlockView>),
    Block(BlockView),
    Announced(Announced),
    Channels(Vec<ChannelView>),
    Dead(Vec<DeadView>),
    Resent(Resent),
    Tested(Tested),
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Status(view) => Json(view).into_response(),
            Self::Signals(view) => Json(view).into_response(),
            Self::Coverage(view) => Json(view).into_response(),
            Self::Account(view) => Json(view).into_response(),
            Self::Metrics(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
            Self::Reload(view) => Json(view).into_response(),
            Self::Demands(view) => Json(view).into_response(),
            Self::Queues(view) => Json(view).into_response(),
            Self::Demand(view) => Json(view).into_response(),
            Self::Prior(view) => Json(view).into_response(),
            Self::Voted(view) => Json(view).into_response(),
            Self::Ended(view) => Json(view).into_response(),
            Self::Blocks(view) => Json(view).into_response(),
            Self::Block(view) => Json(view).into_response(),
            Self::Announced(view) => Json(view).into_response(),
            Self::Channels(view) => Json(view).into_response(),
            Self::Dead(view) => Json(view).into_response(),
            Self::Resent(view) => Json(view).into_response(),
            Self::Tested(view) => Json(view).into_response(),
        }
    }
}

/// An error on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    status: u16,
    detail: String,
}

impl Refusal {
    /// With this status, and what is wrong and what to do.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status: status.as_u16(), detail: detail.into() }
    }

    /// Not now.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(super) fn is(&self, status: StatusCode) -> bool {
        self.status == status.as_u16()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).ok();
        // A refusal that says that all is well is none of ours.
        let status = status.filter(|status| status.is_client_error() || status.is_server_error());
        let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
        let title = status.canonical_reason().unwrap_or("Refused").to_owned();
        let problem = Problem { title, status: status.as_u16(), detail: self.detail };
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem)).into_response()
    }
}

/// What becomes of a verb.
pub type Outcome = Result<Answer, Refusal>;
/// A verb that is being done.
pub type Doing = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Where verbs are done: here, or in another process.
pub trait Gate: Send + Sync {
    /// Does it. What has begun goes on to its end also when this is dropped.
    fn perform(self: Arc<Self>, verb: Verb) -> Doing;

    /// The record that takes orders here, and the state directory; `None` where that is another process.
    fn record(&self) -> Option<(Recorder, PathBuf)> {
        None
    }
}

/// A verb under a number, as it goes over a line.
///
/// # Errors
/// It would be longer than [`VERB_BYTES_MAX`].
pub fn pack_verb(number: u64, verb: &Verb) -> Result<Vec<u8>, TooLong> {
    let packed = postcard::to_extend(verb, number.to_le_bytes().to_vec()).map_err(|_| TooLong)?;
    if packed.len() > VERB_BYTES_MAX { Err(TooLong) } else { Ok(packed) }
}

/// A verb as it came. `None` where it is none: too long, cut off, or followed by something.
#[must_use]
pub fn unpack_verb(bytes: &[u8]) -> Option<(u64, Verb)> {
    let (number, rest) = bytes.split_first_chunk::<8>().filter(|_| bytes.len() <= VERB_BYTES_MAX)?;
    let (verb, left) = postcard::take_from_bytes(rest).ok()?;
    left.is_empty().then(|| (u64::from_le_bytes(*number), verb))
}

/// What became of the verb under this number. In JSON, which views are made for.
///
/// # Errors
/// It would be longer than any answer may be.
pub fn pack_outcome(number: u64, outcome: &Outcome) -> Result<Vec<u8>, TooLong> {
    let mut packed = number.to_le_bytes().to_vec();
    serde_json::to_writer(&mut packed, outcome).map_err(|_| TooLong)?;
    if packed.len() > OUTCOME_BYTES_MAX { Err(TooLong) } else { Ok(packed) }
}

/// Bytes of what became of a verb.
pub const OUTCOME_BYTES_MAX: usize = ANSWER_BYTES_MAX + WRAPPING_BYTES;

/// An outcome as it came. `None` where it is none.
#[must_use]
pub fn unpack_outcome(bytes: &[u8]) -> Option<(u64, Outcome)> {
    let (number, rest) = bytes.split_first_chunk::<8>().filter(|_| bytes.len() <= OUTCOME_BYTES_MAX)?;
    Some((u64::from_le_bytes(*number), serde_json::from_slice(rest).ok()?))
}

/// A message that is longer than any may be.
#[derive(Debug, thiserror::Error)]
#[error("this is more than goes over the line to the enforcer")]
pub struct TooLong;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_arrives_as_it_was_sent_and_nothing_else_is_one() {
        let caller = Caller { uid: 7, account: None, operator: true, free: true };
        let subject: Subject = "uid:7".parse().unwrap();
        let until = Some(Timestamp::UNIX_EPOCH);
        let (by, reason) = ("root".to_owned(), "why".to_owned());
        let account = Account { uid: 7, login_uid: Some(7) };
        let (id, comment) = (DemandId::now(), Some("fine".to_owned()));
        let person = "ann".to_owned();
        let verbs = [
            Verb::Status,
            Verb::Demand { id, offset: 1, limit: u64::MAX },
            Verb::Vote(VoteCast { id, account, person, approve: true, once: false, comment }),
            Verb::CallOff { id, revoke: true, caller, by: by.clone() },
            Verb::Block { subject: subject.clone(), by: by.clone(), reason, until },
            Verb::Lift { subject, by },
            Verb::Retry("x".into()),
        ];
        for verb in verbs {
            let packed = pack_verb(9, &verb).unwrap();
            for end in 0..packed.len() {
                assert_eq!(unpack_verb(&packed[..end]), None, "{verb:?} cut at {end}");
            }
            let longer = [&packed[..], &[0]].concat();
            assert_eq!(unpack_verb(&longer), None);
            assert_eq!(unpack_verb(&packed), Some((9, verb)));
        }
        assert!(pack_verb(1, &Verb::Retry("x".repeat(VERB_BYTES_MAX))).is_err());
        assert_eq!(unpack_verb(&vec![0; VERB_BYTES_MAX + 1]), None);
    }

    #[test]
    fn a_view_with_fields_left_out_and_flattened_arrives_whole() {
        let block = BlockView {
            subject: "uid:7".into(),
            since: Timestamp::UNIX_EPOCH,
            by: "root".into(),
            reason: String::new(),
            until: None,
            note: None,
        };
        let signals = SignalsView { signals: crate::signals::Signals::new(0).0.view(1), unused: Vec::new() };
        for answer in [Answer::Block(block), Answer::Signals(Box::new(signals)), Answer::Prior(None)] {
            let as_json = serde_json::to_value(&answer).unwrap();
            let (number, outcome) = unpack_outcome(&pack_outcome(3, &Ok(answer)).unwrap()).unwrap();
            assert_eq!((number, serde_json::to_value(outcome.unwrap()).unwrap()), (3, as_json));
        }
        let refusal = Err(Refusal::new(StatusCode::CONFLICT, "twice"));
        let (_, outcome) = unpack_outcome(&pack_outcome(1, &refusal).unwrap()).unwrap();
        assert_eq!(outcome.unwrap_err(), Refusal::new(StatusCode::CONFLICT, "twice"));
        assert!(unpack_outcome(b"12345678{}").is_none());
    }

    #[test]
    fn a_refusal_is_never_a_success() {
        for status in [0, 100, 200, 302, 600] {
            let response = Refusal { status, detail: String::new() }.into_response();
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{status}");
        }
    }
}
