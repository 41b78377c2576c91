//! What the admin socket answers, as both of its ends read it. Digests and ids are text; nothing in here is unmasked.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::approval::{
    Asker, Demand, Electorate, Prior, Queue, Share, Shown, ShownBody, State, Vote, owners,
};
use crate::block::Block;
use crate::limits::{LISTED_TEXT_BYTES_MAX, LISTED_UNITS_MAX};
use crate::notify::{ChannelState, Dead, Message};
use crate::policy::Notice;
use crate::record::Upkept;
use crate::signals::{Broad, View};

/// How the gate is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the enforcer that runs.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The policy.
    pub policy: PolicyStatus,
    /// The record.
    pub record: RecordStatus,
    /// Flows being served now.
    pub sessions_open: u64,
    /// Operations held, and approvals not yet used.
    pub demands_held: u64,
    /// Blocks in force.
    #[serde(default)]
    pub blocks: u64,
    /// Surges noticed in the last hour.
    #[serde(default)]
    pub surges: u64,
    /// The kernel's counters.
    pub kernel: BTreeMap<String, u64>,
}

/// How the policy is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Digest of the set in force.
    pub digest: String,
    /// Why the directory as it is now is not in force; absent when it is.
    pub fault: Option<String>,
    /// Recorded operations and cases that the set in force lets through further than the one before it; absent where it has
    /// not been weighed.
    #[serde(default)]
    pub widens: Option<u64>,
    /// What has ended in the set in force, and what will.
    #[serde(default)]
    pub notices: Vec<Notice>,
}

/// How the record is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordStatus {
    /// Whether it can be written.
    pub up: bool,
    /// Why not.
    pub fault: Option<String>,
    /// Commits since the start.
    pub commits: u64,
    /// Events and changes of state written since the start.
    pub events: u64,
    /// What was done to it itself, its space, its checkpoints and witnesses.
    pub upkeep: Upkept,
    /// Events refused since the start.
    pub refused: u64,
    /// Events waiting for the disk now.
    pub waiting: u64,
    /// Entries that an earlier enforcer had left open.
    pub recovered: u64,
}

/// What the events of the last hour add up to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignalsView {
    /// Rates, surges, live sessions and the use of rules.
    #[serde(flatten)]
    pub signals: View,
    /// Permits that allowed nothing since the gate started.
    pub unused: Vec<Broad>,
}

/// What a reload of the policy did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// `same`, `changed` or `refused`.
    pub result: String,
    /// Digest of the set in force now.
    pub digest: String,
    /// What is wrong with the new files, where they were refused.
    pub problems: Option<String>,
}

/// What to block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockAsked {
    /// Whom or what: `user:PROVIDER/SUBJECT`, `unit:…`, `container:…`, `uid:…`, `target:…`.
    pub subject: String,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it ends by itself.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// What to unblock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnblockAsked {
    /// Whom or what, as it was blocked.
    pub subject: String,
}

/// A block in force, or one that was just lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    /// Whom or what.
    pub subject: String,
    /// Since when.
    pub since: Timestamp,
    /// Who blocked.
    pub by: String,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// What whoever blocked should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl From<&Block> for BlockView {
    fn from(block: &Block) -> Self {
        Self {
            subject: block.subject.to_string(),
            since: block.since,
            by: block.by.clone(),
            reason: block.reason.clone(),
            until: block.until,
            note: None,
        }
    }
}

/// A held operation. Lists leave out header fields and body, and of long texts they have the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandView {
    /// Its id, for `show`, `approve` and `reject`.
    pub id: String,
    /// The entry that was held.
    pub entry: String,
    /// The session of that entry.
    pub session: String,
    /// `pending`; `granted`: approved and not used yet; `window`: approved for a while; `rejected`: its client has yet to
    /// hear it.
    pub state: String,
    /// What approval gives.
    pub grant: GrantView,
    /// Whether its client waits, or was told to ask again.
    pub hold: String,
    /// Who asks.
    pub asker: Asker,
    /// Persons who own the asking process, and so cannot vote.
    pub owners: Vec<String>,
    /// Why, in the requester's words, masked.
    pub reason: Option<String>,
    /// The target.
    pub target: String,
    /// The declared operations it is.
    pub operations: Vec<String>,
    /// Digest of the exact operation.
    pub digest: String,
    /// The rules that ask for it.
    pub rules: Vec<String>,
    /// What the rules say to people.
    pub message: Option<String>,
    /// What is needed, and how far each has come.
    pub approvals: Vec<ShareView>,
    /// When it was held.
    pub created: Timestamp,
    /// When it, or its grant, ends.
    pub ends: Timestamp,
    /// Seconds until then.
    pub seconds_left: i64,
    /// The operation, masked.
    pub operation: Shown,
    /// Votes for it.
    pub votes: Vec<VoteView>,
}

/// What approval gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// `once`: one run of exactly this; `window`: everything the same subject asks under the same rules on this target.
    pub kind: String,
    /// Seconds that a window lasts.
    pub seconds: Option<u64>,
}

/// The last approved demand of the same kind: same target, operations and rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorView {
    /// The demand it was.
    pub id: String,
    /// The entry it was about.
    pub entry: String,
    /// Who asked.
    pub asker: String,
    /// When it was approved.
    pub at: Timestamp,
    /// Who approved it.
    pub by: Vec<String>,
    /// The operation, masked, whole.
    pub operation: Shown,
}

/// What one subject has at the desk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// The subject.
    pub subject: String,
    /// Its demands, unused grants and windows.
    pub demands: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How many more it asked for and was refused, since it last had none.
    pub refused: u64,
}

/// A demand, a grant or a window that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The demand.
    pub id: String,
    /// Who took it back.
    pub by: String,
}

/// How one channel does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelView {
    /// The `[[notify]]`.
    pub name: String,
    /// Whether nobody can be reached through it, as far as is known.
    pub failing: bool,
    /// Messages that wait for it.
    pub waiting: usize,
    /// Tries that failed since the last one that did not.
    pub failures: u32,
    /// When a message was taken last, since the gate started.
    pub taken: Option<Timestamp>,
    /// Why the last try failed, where it did.
    pub fault: Option<String>,
}

/// A message that nobody took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadView {
    /// Its id, for `retry`.
    pub id: String,
    /// The `[[notify]]` it was for.
    pub channel: String,
    /// The kind of event.
    pub event: String,
    /// When it came to be.
    pub created: Timestamp,
    /// When it was given up.
    pub at: Timestamp,
    /// Why.
    pub why: String,
    /// What it says, masked: JSON as text.
    pub body: String,
}

/// What was put back from the list of the dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resent {
    /// The id that was given.
    pub id: String,
    /// Messages of that id, one for each channel.
    pub messages: usize,
}

/// A channel took a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// The `[[notify]]`.
    pub channel: String,
}

impl From<ChannelState> for ChannelView {
    fn from(state: ChannelState) -> Self {
        let failing = state.is_failing();
        let ChannelState { name, waiting, failures, taken, tried: _, fault } = state;
        Self { name, failing, waiting, failures, taken, fault }
    }
}

impl From<Dead> for DeadView {
    fn from(dead: Dead) -> Self {
        let Dead { message, at, why } = dead;
        let Message { id, channel, event, subject: _, body, created, attempts: _, next: _ } = message;
        Self { id, channel, event, created, at, why, body }
    }
}

/// How far one `[[approval]]` has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareView {
    /// Its name.
    pub approval: String,
    /// Distinct persons needed; absent where the policy that asked has changed: the demand is void.
    pub needed: Option<u32>,
    /// Who has voted and counts.
    pub voters: Vec<String>,
}

/// A vote for a demand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteView {
    /// The `[[person]]`.
    pub person: String,
    /// When.
    pub at: Timestamp,
    /// Whether it is for one run only.
    pub once: bool,
    /// What they said, masked.
    pub comment: Option<String>,
}

/// What a voter sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BallotView {
    /// What they say with it.
    #[serde(default)]
    pub comment: Option<String>,
    /// For one run only, also where approval would open a window.
    #[serde(default)]
    pub once: bool,
}

/// What became of a vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voted {
    /// The demand.
    pub id: String,
    /// Who voted, as the policy names them.
    pub person: String,
    /// `open`, `approved` or `rejected`.
    pub standing: String,
    /// What is still needed, where it is open.
    pub approvals: Vec<ShareView>,
}

/// An error (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The status in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong and what to do.
    pub detail: String,
}

/// A reading of the record, announced before it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadingView {
    /// The command: `sessions show`.
    pub command: String,
    /// Ids and filters as they were given.
    pub about: String,
}

/// The announcement is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// When, in microseconds since the Unix epoch.
    pub at: i64,
}

impl DemandView {
    /// The whole demand, counted by this set.
    pub(super) fn whole(demand: &Demand, shares: &[Share], people: &dyn Electorate, now: Timestamp) -> Self {
        let state = match demand.state {
            State::Pending => "pending",
            State::Granted { .. } => "granted",
            State::Window { .. } => "window",
            State::Rejected { .. } => "rejected",
        };
        let once = demand.votes.iter().any(|vote| vote.once);
        let seconds = demand.window.filter(|_| !once);
        let unknown = |name: &String| ShareView { approval: name.clone(), needed: None, voters: Vec::new() };
        let approvals = match shares.is_empty() {
            true => demand.approvals.iter().map(unknown).collect(),
            false => shares.iter().map(ShareView::from).collect(),
        };
        Self {
            id: demand.id.to_string(),
            entry: demand.entry.to_string(),
            session: demand.session.to_string(),
            state: state.into(),
            grant: GrantView { kind: if seconds.is_some() { "window" } else { "once" }.into(), seconds },
            hold: if demand.retry { "retry" } else { "wait" }.into(),
            asker: demand.asker.clone(),
            owners: owners(&demand.asker, people).into_iter().map(|person| person.name.clone()).collect(),
            reason: demand.reason.clone(),
            target: demand.target.clone(),
            operations: demand.operations.clone(),
            digest: demand.digest.to_string(),
            rules: demand.rules.clone(),
            message: demand.message.clone(),
            approvals,
            created: demand.created,
            ends: demand.deadline(),
            seconds_left: demand.deadline().duration_since(now).as_secs().max(0),
            operation: demand.shown.clone(),
            votes: demand.votes.iter().map(VoteView::from).collect(),
        }
    }

    /// Without header fields and body, and with only the beginning of what whoever asks has said.
    pub(super) fn brief(demand: &Demand, shares: &[Share], people: &dyn Electorate, now: Timestamp) -> Self {
        let shown = &demand.shown;
        let head = Shown {
            method: beginning(&shown.method),
            host: beginning(&shown.host),
            to: beginning(&shown.to),
            path: beginning(&shown.path),
            query: shown.query.as_deref().map(beginning),
            ..Shown::default()
        };
        let mut asker = demand.asker.clone();
        asker.key = beginning(&asker.key);
        asker.user = asker.user.map(|(provider, subject)| (beginning(&provider), beginning(&subject)));
        if let Some(process) = &mut asker.process {
            process.key = beginning(&process.key);
            process.executable = process.executable.as_deref().map(beginning);
            process.units.truncate(LISTED_UNITS_MAX);
            process.units.iter_mut().for_each(|unit| *unit = beginning(unit));
        }
        let reason = demand.reason.as_deref().map(beginning);
        let mut votes = demand.votes.clone();
        votes.iter_mut().for_each(|vote| vote.comment = vote.comment.as_deref().map(beginning));
        Self::whole(&Demand { shown: head, asker, reason, votes, ..demand.clone() }, shares, people, now)
    }

    /// The same with this body.
    pub(super) fn with_body(mut self, body: Option<ShownBody>) -> Self {
        self.operation.body = body;
        self
    }
}

/// The beginning of a text in a list; what is longer ends in `…`.
fn beginning(text: &str) -> String {
    match text.len() <= LISTED_TEXT_BYTES_MAX {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(LISTED_TEXT_BYTES_MAX)]),
    }
}

impl From<&Prior> for PriorView {
    fn from(prior: &Prior) -> Self {
        Self {
            id: prior.demand.to_string(),
            entry: prior.entry.to_string(),
            asker: prior.asker.clone(),
            at: prior.at,
            by: prior.by.clone(),
            operation: prior.shown.clone(),
        }
    }
}

impl From<Queue> for QueueView {
    fn from(queue: Queue) -> Self {
        let Queue { subject, demands, bytes, refused } = queue;
        Self { subject, demands, bytes, refused }
    }
}

impl From<&Share> for ShareView {
    fn from(share: &Share) -> Self {
        Self { approval: share.approval.clone(), needed: Some(share.needed), voters: share.voters.clone() }
    }
}

impl From<&Vote> for VoteView {
    fn from(vote: &Vote) -> Self {
        Self { person: vote.person.clone(), at: vote.at, once: vote.once, comment: vote.comment.clone() }
    }
}

/// What an operator wants done to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RecordOrder {
    /// Remove what is older than so many seconds.
    Prune {
        /// How old.
        older_than: u64,
        /// Only bodies.
        bodies_only: bool,
    },
    /// Seal with a new generation of the key.
    Rekey,
    /// Forget old generations that nothing is sealed with.
    ForgetKeys,
    /// Sign with a new key.
    RotateSigningKey,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::verb::ANSWER_BYTES_MAX;
    use crate::approval::Process;
    use crate::limits::DEMANDS_MAX;
    use crate::operation::{DemandId, EntryId, SessionId, Sha256};

    struct Nobody;

    impl Electorate for Nobody {
        fn digest(&self) -> Sha256 {
            Sha256::default()
        }
        fn persons(&self) -> &[crate::policy::nouns::Person] {
            &[]
        }
        fn approval(&self, _name: &str) -> Option<&crate::policy::nouns::Approval> {
            None
        }
        fn rule(&self, _id: &str) -> Option<Sha256> {
            None
        }
    }

    #[test]
    fn a_list_of_as_many_demands_as_there_may_be_is_an_answer_that_a_client_takes() {
        let long = || "\u{e9}".repeat(16 << 10);
        let process = Process {
            key: long(),
            pid: u32::MAX,
            uid: u32::MAX,
            login_uid: Some(u32::MAX),
            command: "fifteen bytes..".into(),
            executable: Some(long()),
            units: vec![long(); 64],
            container: Some("0".repeat(64)),
        };
        let vote = Vote {
            person: "ann".into(),
            at: Timestamp::MAX,
            policy: Sha256::default(),
            once: false,
            comment: Some(long()),
        };
        let demand = Demand {
            id: DemandId::now(),
            entry: EntryId::now(),
            session: SessionId::now(),
            asker: Asker {
                key: long(),
                user: Some((long(), long())),
                peer: "[2001:db8::1]:65535".into(),
                process: Some(process),
                guard: Some("agents".into()),
            },
            reason: Some(long()),
            target: "react".into(),
            operations: vec!["update".into()],
            digest: Sha256::default(),
            rules: vec!["a.cedar#models".into()],
            basis: Sha256::default(),
            message: Some("needs a lead".into()),
            approvals: vec!["leads".into()],
            window: None,
            retry: false,
            created: Timestamp::MAX,
            expires: Timestamp::MAX,
            shown: Shown {
                method: long(),
                host: long(),
                to: long(),
                path: long(),
                query: Some(long()),
                headers: vec![(long(), long())],
                body: Some(ShownBody::of(2, b"{}".to_vec())),
            },
            votes: vec![vote; 3],
            state: State::Pending,
        };
        let view = DemandView::brief(&demand, &[], &Nobody, Timestamp::UNIX_EPOCH);
        assert!(view.operation.path.ends_with('…') && view.operation.path.starts_with("\u{e9}\u{e9}"));
        assert!(view.operation.headers.is_empty() && view.operation.body.is_none());
        let listed = serde_json::to_string(&view).unwrap().len();
        assert!(listed * DEMANDS_MAX <= ANSWER_BYTES_MAX, "{listed}");
        let whole = DemandView::whole(&demand, &[], &Nobody, Timestamp::UNIX_EPOCH);
        assert_eq!(whole.operation.path, long(), "one by one each is shown whole");
    }
}
