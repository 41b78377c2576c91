//! Who may vote, and when votes are enough. Pure: no clock, no lock, no I/O.
//!
//! Refuses the requester, strangers, shared accounts, second votes, and everything about rules that have changed.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::demand::{Asker, Demand, State, Vote};
use super::ledger::{CastVote, LedgerError};
use crate::limits::COMMENT_BYTES_MAX;
use crate::operation::{DemandId, Sha256};
use crate::policy::nouns::{Approval, Owned, Person};

/// What the desk asks of the policy set in force.
pub trait Electorate: Send + Sync {
    /// Digest of the set.
    fn digest(&self) -> Sha256;
    /// Every `[[person]]`.
    fn persons(&self) -> &[Person];
    /// An `[[approval]]` by name.
    fn approval(&self, name: &str) -> Option<&Approval>;
    /// Digest of the text of a rule, by its id `file#id`.
    fn rule(&self, id: &str) -> Option<Sha256>;
}

/// An account of this host at the admin socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its real user id.
    pub uid: u32,
    /// The user id it logged in with, which sudo and su do not change; `None` where the kernel keeps none.
    pub login_uid: Option<u32>,
}

impl Account {
    /// The person behind it: by login for root, so that sudo votes as the login; else only where login and user id are
    /// the same. A process without a login may give itself any, once and without privilege (loginuid, proc(5)), so a
    /// login alone proves nobody; and a user id alone, after su, is not the person who logged in.
    ///
    /// # Errors
    /// The account is shared (root), is not that of the login, or no `[[person]]` or more than one has it.
    pub fn person<'a>(&self, electorate: &'a dyn Electorate) -> Result<&'a Person, VoteError> {
        let uid = match (self.uid, self.login_uid) {
            (uid, None) => uid,
            (0, Some(login)) => login,
            (uid, Some(login)) if uid == login => uid,
            (uid, Some(login)) => return Err(VoteError::TwoAccounts { uid, login }),
        };
        if uid == 0 {
            return Err(VoteError::SharedAccount);
        }
        let mut people = electorate.persons().iter().filter(|person| person.uid == Some(uid));
        match (people.next(), people.next()) {
            (Some(person), None) => Ok(person),
            _ => Err(VoteError::NoPerson(uid)),
        }
    }
}

/// Why a vote does not count.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VoteError {
    /// Nothing of that name waits.
    #[error(
        "no demand {0} waits: it was decided, used, has expired, or never was; see `tidegate approvals list`"
    )]
    Unknown(DemandId),
    /// It ended before the vote.
    #[error("the demand has expired; its requester must ask again")]
    Expired,
    /// It has its votes.
    #[error("the demand is already approved")]
    Approved,
    /// Nobody in particular uses this account.
    #[error("root is a shared account and cannot vote; log in as yourself (sudo then votes as your login)")]
    SharedAccount,
    /// Which of the two is at the keyboard?
    #[error(
        "this is uid {uid}, logged in as uid {login}: vote from your own login, without su (sudo is fine)"
    )]
    TwoAccounts {
        /// Who it acts as.
        uid: u32,
        /// Who it says it logged in as.
        login: u32,
    },
    /// Nobody we know uses this account.
    #[error("uid {0} belongs to no [[person]] of the policy, or to several; declare one with `uid = {0}`")]
    NoPerson(u32),
    /// The requester asks for themselves.
    #[error("{0} is behind this request and cannot vote on it; another approver must")]
    OwnRequest(String),
    /// Somebody else must decide.
    #[error("{person} is no approver of {approvals}")]
    NotApprover {
        /// Who tried.
        person: String,
        /// What is needed.
        approvals: String,
    },
    /// One human, one vote.
    #[error("{0} has voted for this demand before, and counts once; another approver must")]
    AlreadyVoted(String),
    /// The approval wants to know why.
    #[error("{0} wants to know why: vote again with a comment (--comment)")]
    NoComment(String),
    /// Nobody waits any more who could be told.
    #[error("the demand was rejected before")]
    Rejected,
    /// Only a few may take it back.
    #[error("{0}")]
    NotYours(&'static str),
    /// A comment is a paragraph.
    #[error("the comment is longer than {COMMENT_BYTES_MAX} bytes")]
    LongComment,
    /// The rules that asked are no longer those in force.
    #[error(
        "the policy that asked for this approval has changed: the votes are void, the requester must ask again"
    )]
    Superseded,
    /// The record cannot keep it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// How far one `[[approval]]` of a demand has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its name.
    pub approval: String,
    /// Distinct persons needed.
    pub needed: u32,
    /// Who has voted for it and counts today.
    pub voters: Vec<String>,
}

/// Where a demand stands after a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// More votes are needed.
    Open(Vec<Share>),
    /// Every quorum is met.
    Approved,
    /// Somebody said no.
    Rejected,
}

/// What a vote does to a demand.
#[derive(Debug)]
pub(super) enum Weighed {
    /// Counts for it. The demand as it is with the vote; granted if that was the last one missing.
    For(Box<Demand>, CastVote),
    /// Ends it.
    Against(CastVote),
}

/// Digest of the rules that asked, by their ids and texts today.
pub(super) fn basis(rules: &[String], electorate: &dyn Electorate) -> Sha256 {
    let mut text = Vec::new();
    for id in rules {
        text.extend((id.len() as u64).to_be_bytes());
        text.extend(id.as_bytes());
        match electorate.rule(id) {
            Some(digest) => text.extend(digest.0),
            None => text.push(0),
        }
    }
    Sha256::of(&text)
}

/// How far each approval of the demand has come by the set in force.
///
/// # Errors
/// [`VoteError::Superseded`]: a rule that asked has another text now or is gone, or an approval is gone.
pub(super) fn tally(demand: &Demand, electorate: &dyn Electorate) -> Result<Vec<Share>, VoteError> {
    tally_for(demand, &demand.asker, electorate)
}

/// As [`tally`], where somebody asks who is the same subject by name and may have others behind them.
pub(super) fn tally_for(
    demand: &Demand,
    asker: &Asker,
    electorate: &dyn Electorate,
) -> Result<Vec<Share>, VoteError> {
    if basis(&demand.rules, electorate) != demand.basis {
        return Err(VoteError::Superseded);
    }
    let shares = demand.approvals.iter().map(|name| {
        let approval = electorate.approval(name).ok_or(VoteError::Superseded)?;
        let mut voters: Vec<String> = Vec::new();
        for vote in &demand.votes {
            let counts = electorate
                .persons()
                .iter()
                .find(|person| person.name == vote.person)
                .is_some_and(|person| may_approve(person, approval) && !is_behind(person, asker));
            if counts && !voters.contains(&vote.person) {
                voters.push(vote.person.clone());
            }
        }
        Ok(Share { approval: name.clone(), needed: approval.needed.max(1), voters })
    });
    shares.collect()
}

/// Whether every quorum is met.
pub(super) fn is_met(shares: &[Share]) -> bool {
    !shares.is_empty() && shares.iter().all(|share| share.voters.len() >= share.needed as usize)
}

/// How long a grant of this demand lasts: as long as its shortest approval waits.
pub(super) fn shortest(approvals: &[String], electorate: &dyn Electorate) -> Option<SignedDuration> {
    approvals
        .iter()
        .map(|name| electorate.approval(name).map(|approval| approval.timeout))
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .min()
        .map(|timeout| SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX))
}

/// Seconds that approval opens a window for: the shortest of all that are asked for; `None` where one of them gives no
/// more than one run.
pub(super) fn window(approvals: &[String], electorate: &dyn Electorate) -> Option<u64> {
    let windows =
        approvals.iter().map(|name| electorate.approval(name)?.window.map(|window| window.as_secs()));
    windows.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// The end of a stretch of time from now; the end of all time where it is too long.
pub(super) fn end_of(now: Timestamp, length: SignedDuration) -> Timestamp {
    now.checked_add(length).unwrap_or(Timestamp::MAX)
}

/// Weighs one vote. Changes nothing.
pub(super) fn weigh(
    demand: &Demand,
    account: Account,
    ballot: Ballot,
    electorate: &dyn Electorate,
    now: Timestamp,
) -> Result<Weighed, VoteError> {
    if demand.is_over(now) {
        return Err(VoteError::Expired);
    }
    if matches!(demand.state, State::Rejected { .. }) {
        return Err(VoteError::Rejected);
    }
    let person = account.person(electorate)?;
    if is_behind(person, &demand.asker) {
        return Err(VoteError::OwnRequest(person.name.clone()));
    }
    tally(demand, electorate)?;
    let approves =
        |name: &String| electorate.approval(name).is_some_and(|approval| may_approve(person, approval));
    if !demand.approvals.iter().any(approves) {
        let approvals = demand.approvals.join(", ");
        return Err(VoteError::NotApprover { person: person.name.clone(), approvals });
    }
    let wants_comment = |name: &&String| {
        electorate
            .approval(name)
            .is_some_and(|approval| approval.comment_required && may_approve(person, approval))
    };
    let is_silent = ballot.comment.as_ref().is_none_or(|comment| comment.trim().is_empty());
    if let Some(name) = demand.approvals.iter().find(wants_comment).filter(|_| is_silent) {
        return Err(VoteError::NoComment(name.clone()));
    }
    if ballot.comment.as_ref().is_some_and(|comment| comment.len() > COMMENT_BYTES_MAX) {
        return Err(VoteError::LongComment);
    }
    let cast = CastVote {
        demand: demand.id,
        entry: demand.entry,
        at: now,
        person: person.name.clone(),
        approve: ballot.approve,
        comment: ballot.comment,
    };
    if !cast.approve {
        return Ok(Weighed::Against(cast));
    }
    if demand.state != State::Pending {
        return Err(VoteError::Approved);
    }
    if demand.votes.iter().any(|vote| vote.person == person.name) {
        return Err(VoteError::AlreadyVoted(person.name.clone()));
    }
    let mut next = demand.clone();
    let policy = electorate.digest();
    next.votes.push(Vote {
        person: cast.person.clone(),
        at: now,
        policy,
        once: ballot.once,
        comment: cast.comment.clone(),
    });
    grant_if_met(&mut next, electorate, now)?;
    Ok(Weighed::For(Box::new(next), cast))
}

/// Turns a pending demand whose quorums are met into a grant, or a window: never one longer than its approvers were told,
/// and none where one of them said that once is enough.
pub(super) fn grant_if_met(
    demand: &mut Demand,
    electorate: &dyn Electorate,
    now: Timestamp,
) -> Result<(), VoteError> {
    if demand.state == State::Pending && is_met(&tally(demand, electorate)?) {
        let lasts = shortest(&demand.approvals, electorate).ok_or(VoteError::Superseded)?;
        let told = demand.window.filter(|_| !demand.votes.iter().any(|vote| vote.once));
        let window = window(&demand.approvals, electorate).and_then(|today| told.map(|told| told.min(today)));
        demand.state = match window {
            Some(seconds) => {
                let length = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                State::Window { until: end_of(now, length) }
            }
            None => State::Granted { until: end_of(now, lasts) },
        };
    }
    Ok(())
}

/// A vote as it is cast.
#[derive(Debug, Clone, Default)]
pub struct Ballot {
    /// For or against.
    pub approve: bool,
    /// For one run only, also where approval would open a window.
    pub once: bool,
    /// What they say with it, masked.
    pub comment: Option<String>,
}

/// Approvers are named by person or by role.
fn may_approve(person: &Person, approval: &Approval) -> bool {
    approval.approvers.iter().any(|name| *name == person.name || person.roles.contains(name))
}

/// Whether this human is the one who asks: as user, as the account (or login) that the asking process runs under, or as
/// the owner of that process.
pub(super) fn is_behind(person: &Person, asker: &Asker) -> bool {
    let as_user = asker.user.as_ref().is_some_and(|user| person.subjects.contains(user));
    let as_account = asker.process.as_ref().is_some_and(|process| {
        person.uid.is_some() && (person.uid == Some(process.uid) || person.uid == process.login_uid)
    });
    as_user || as_account || person.owns.iter().any(|owned| owns(owned, asker))
}

/// Whether what is owned is the process that asks.
fn owns(owned: &Owned, asker: &Asker) -> bool {
    let Some(process) = &asker.process else { return false };
    match owned {
        Owned::Unit(unit) => process.units.contains(unit),
        Owned::Container(id) => process.container.as_ref().is_some_and(|container| container.starts_with(id)),
        Owned::Uid(uid) => process.uid == *uid,
        Owned::Guard(guard) => asker.guard.as_ref() == Some(guard),
    }
}

/// The persons who own the asking process.
pub fn owners<'a>(asker: &Asker, electorate: &'a dyn Electorate) -> Vec<&'a Person> {
    let persons = electorate.persons().iter();
    persons.filter(|person| person.owns.iter().any(|owned| owns(owned, asker))).collect()
}

/// Whether this person may grant one of the demand's approvals.
pub(super) fn may_decide(person: &Person, demand: &Demand, electorate: &dyn Electorate) -> bool {
    let names = demand.approvals.iter();
    names.filter_map(|name| electorate.approval(name)).any(|approval| may_approve(person, approval))
}
