//! The desk under a clock and a ledger of the test's own: what may not be approved, used twice or lost is refused.

mod bounds;
mod changes;
mod outcomes;
mod races;
mod votes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::Notify;

use super::super::{
    Account, Ballot, CalledOff, CastVote, Outcome, Said, Shown, ShownBody, Standing, VoteError,
};
use super::*;
use crate::limits::{COMMENT_BYTES_MAX, DEMAND_BYTES_PER_SUBJECT_MAX, DEMANDS_MAX, DEMANDS_PER_SUBJECT_MAX};
use crate::operation::{EntryId, SessionId, Sha256, Subject, User, Workload};
use crate::policy::nouns::{Approval, Person};
use crate::store::keyring::{Keyring, Ring};

/// A disk that outlives the desk, can fail, and can be made to wait.
#[derive(Default)]
struct Disk {
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
    votes: Mutex<Vec<CastVote>>,
    called_off: Mutex<Vec<CalledOff>>,
    broken: AtomicBool,
    slow: AtomicBool,
    go_on: Arc<Notify>,
}

impl Disk {
    fn change(&self, change: impl FnOnce()) -> Durable {
        if self.broken.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(LedgerError("the disk is full".into()))));
        }
        change();
        let go_on = self.slow.load(Ordering::SeqCst).then(|| Arc::clone(&self.go_on));
        Box::pin(async move {
            if let Some(go_on) = go_on {
                go_on.notified().await;
            }
            Ok(())
        })
    }

    fn keys(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    fn said(&self) -> Vec<(String, bool)> {
        self.votes.lock().unwrap().iter().map(|vote| (vote.person.clone(), vote.approve)).collect()
    }
}

impl Ledger for Disk {
    fn write(&self, change: Change) -> Durable {
        self.change(|| {
            let mut kept = self.kept.lock().unwrap();
            kept.extend(change.put);
            change.remove.iter().for_each(|key| drop(kept.remove(key)));
            match change.said {
                Some(Said::Voted(vote)) => self.votes.lock().unwrap().push(vote),
                Some(Said::CalledOff(off)) => self.called_off.lock().unwrap().push(off),
                None => {}
            }
        })
    }
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        let kept = self.kept.lock().unwrap();
        Ok(kept
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}

#[derive(Clone)]
struct Set {
    persons: Vec<Person>,
    approvals: Vec<Approval>,
    rule: &'static str,
}

impl Electorate for Set {
    fn digest(&self) -> Sha256 {
        Sha256::of(self.rule.as_bytes())
    }
    fn persons(&self) -> &[Person] {
        &self.persons
    }
    fn approval(&self, name: &str) -> Option<&Approval> {
        self.approvals.iter().find(|approval| approval.name == name)
    }
    fn rule(&self, id: &str) -> Option<Sha256> {
        (id == "a.cedar#models").then(|| Sha256::of(self.rule.as_bytes()))
    }
}

fn person(name: &str, uid: u32, roles: &[&str]) -> Person {
    Person {
        name: name.into(),
        subjects: vec![("corp".into(), name.into())],
        uid: Some(uid),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        owns: Vec::new(),
    }
}

fn approval(name: &str, approvers: &[&str], needed: u32) -> Approval {
    let approvers = approvers.iter().map(|name| (*name).to_owned()).collect();
    Approval {
        name: name.into(),
        approvers,
        needed,
        timeout: Duration::from_secs(600),
        ..Approval::default()
    }
}

/// ann, bob and cat lead; dan does not. Two leads are needed.
fn set() -> Set {
    Set {
        persons: vec![
            person("ann", 1001, &["lead"]),
            person("bob", 1002, &["lead"]),
            person("cat", 1003, &["lead"]),
            person("dan", 1004, &["dev"]),
        ],
        approvals: vec![approval("leads", &["lead"], 2), approval("bobs", &["bob"], 1)],
        rule: "forbid",
    }
}

fn account(uid: u32) -> Account {
    Account { uid, login_uid: None }
}

fn user(name: &str) -> Subject {
    let user = User {
        provider: "corp".into(),
        subject: name.into(),
        groups: Vec::new(),
        expires: 0,
        proof: crate::operation::Proof::default(),
    };
    Subject { user: Some(user), workload: None, peer: "192.0.2.1:1".parse().unwrap() }
}

fn workload(uid: u32, login_uid: Option<u32>) -> Subject {
    let workload = Workload {
        pid: 1,
        started: 1,
        uid,
        login_uid,
        command: "agent".into(),
        cgroup: None,
        unit: None,
        container: None,
        image: None,
        pod: None,
        executable: None,
        parents: Vec::new(),
    };
    Subject { user: None, workload: Some(Arc::new(workload)), peer: "127.0.0.1:1".parse().unwrap() }
}

struct Room {
    disk: Arc<Disk>,
    state: tempfile::TempDir,
    keys: Keyring,
    seconds: Arc<AtomicI64>,
    desk: Desk,
    set: Set,
}

impl Room {
    fn new() -> Self {
        let (disk, seconds) = (Arc::new(Disk::default()), Arc::new(AtomicI64::new(1_000_000)));
        let (state, keys) =
            (tempfile::tempdir().unwrap(), Keyring::in_memory(Ring::default().grown().unwrap()));
        let desk = open(&disk, &seconds, &state, &keys);
        Self { disk, state, keys, seconds, desk, set: set() }
    }

    fn restart(&mut self) {
        self.desk = open(&self.disk, &self.seconds, &self.state, &self.keys);
    }

    fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    fn draft<'a>(&self, subject: &'a Subject, body: &str) -> DemandDraft<'a> {
        DemandDraft {
            entry: EntryId::now(),
            session: SessionId::now(),
            subject,
            guard: None,
            reason: None,
            operations: vec!["update".into()],
            target: "react".into(),
            digest: Sha256::of(format!("{}{body}", subject.key()).as_bytes()),
            rules: vec!["a.cedar#models".into()],
            message: None,
            approvals: vec!["leads".into()],
            shown: Shown {
                method: "PUT".into(),
                body: (!body.is_empty()).then(|| ShownBody::of(body.len() as u64, body.into())),
                ..Shown::default()
            },
        }
    }

    async fn hold(&self, subject: &Subject, body: &str) -> Waiting {
        match self.place(self.draft(subject, body)).await.unwrap() {
            Place::Wait(waiting) => waiting,
            other => panic!("{other:?}"),
        }
    }

    async fn place(&self, draft: DemandDraft<'_>) -> Result<Place, DeskError> {
        self.desk.hold(draft, Arc::new(self.set.clone())).await
    }

    fn spooled(&self) -> usize {
        std::fs::read_dir(self.state.path().join(crate::approval::SPOOL)).unwrap().count()
    }

    async fn vote(&self, id: DemandId, uid: u32, approve: bool) -> Result<Standing, VoteError> {
        self.cast(id, account(uid), approve).await
    }

    async fn cast(&self, id: DemandId, account: Account, approve: bool) -> Result<Standing, VoteError> {
        let ballot = Ballot { approve, ..Ballot::default() };
        self.desk.vote(id, account, ballot, Arc::new(self.set.clone())).await
    }

    async fn approve_fully(&self, id: DemandId) {
        self.vote(id, 1002, true).await.unwrap();
        assert_eq!(self.vote(id, 1003, true).await.unwrap(), Standing::Approved);
    }
}

fn open(disk: &Arc<Disk>, seconds: &Arc<AtomicI64>, state: &tempfile::TempDir, keys: &Keyring) -> Desk {
    open_with(disk, seconds, state, keys, Arc::new(()))
}

fn open_with(
    disk: &Arc<Disk>,
    seconds: &Arc<AtomicI64>,
    state: &tempfile::TempDir,
    keys: &Keyring,
    listener: Arc<dyn Listener>,
) -> Desk {
    let seconds = Arc::clone(seconds);
    let clock: Clock = Arc::new(move || Timestamp::from_second(seconds.load(Ordering::SeqCst)).unwrap());
    let spool = Spool::open(state.path(), keys.clone()).unwrap();
    Desk::open(Parts { ledger: Arc::clone(disk) as Arc<dyn Ledger>, clock, spool, listener }).unwrap()
}

fn approved(outcome: Outcome) -> super::super::Approved {
    match outcome {
        Outcome::Approved(approved) => approved,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_distinct_leads_release_it_once() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    assert!(matches!(room.vote(id, 1002, true).await.unwrap(), Standing::Open(_)));
    assert_eq!(room.vote(id, 1003, true).await.unwrap(), Standing::Approved);
    let approved = approved(waiting.outcome().await);
    assert_eq!(approved.by(), ["bob", "cat"]);
    assert_eq!(approved.approvals(), ["leads"]);
    approved.spend(&room.set).await.unwrap();
    assert_eq!(room.disk.keys(), 0);
    assert_eq!(room.disk.said(), [("bob".into(), true), ("cat".into(), true)]);
}

#[tokio::test]
async fn a_second_use_needs_a_second_approval() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let first = waiting.demand();
    room.approve_fully(first).await;
    approved(waiting.outcome().await).spend(&room.set).await.unwrap();
    let again = room.hold(&user("ann"), "x").await;
    assert_ne!(again.demand(), first);
    assert!(room.desk.show(again.demand()).unwrap().votes.is_empty());
}

#[tokio::test]
async fn a_changed_body_finds_no_grant() {
    let room = Room::new();
    let first = room.hold(&user("ann"), "x").await;
    let id = first.demand();
    drop(first);
    room.approve_fully(id).await;
    for other in [room.hold(&user("ann"), "y").await, room.hold(&user("eve"), "x").await] {
        assert_ne!(other.demand(), id);
        assert_eq!(room.desk.show(other.demand()).unwrap().state, State::Pending);
    }
    assert_eq!(room.hold(&user("ann"), "x").await.demand(), id);
}

#[tokio::test]
async fn any_approver_ends_it_with_no() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.vote(id, 1002, true).await.unwrap();
    let set = Arc::new(room.set.clone());
    let ballot = Ballot { comment: Some("not today".into()), ..Ballot::default() };
    let no = room.desk.vote(id, account(1003), ballot, set).await;
    assert_eq!(no.unwrap(), Standing::Rejected);
    let Outcome::Rejected { by, comment } = waiting.outcome().await else { panic!() };
    assert_eq!((by.as_str(), comment.as_deref()), ("cat", Some("not today")));
    assert!(matches!(room.vote(id, 1002, true).await, Err(VoteError::Unknown(_))));
    assert_eq!(room.disk.keys(), 0);
}

#[tokio::test]
async fn a_no_after_the_yes_takes_an_unused_grant_away() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.approve_fully(id).await;
    assert!(matches!(room.vote(id, 1002, true).await, Err(VoteError::Approved)));
    let approved = approved(waiting.outcome().await);
    assert_eq!(room.vote(id, 1003, false).await.unwrap(), Standing::Rejected);
    assert!(matches!(approved.spend(&room.set).await, Err(DeskError::Gone)));
}

#[tokio::test]
async fn nobody_approves_what_has_expired() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.pass(599);
    room.vote(id, 1002, true).await.unwrap();
    room.pass(1);
    assert!(matches!(room.vote(id, 1003, true).await, Err(VoteError::Expired)));
    assert!(matches!(waiting.outcome().await, Outcome::Expired));
    assert!(room.desk.list().is_empty());
    assert_eq!(room.disk.keys(), 0);
}

#[tokio::test]
async fn one_who_waits_hears_of_the_expiry_without_any_vote() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let outcome = tokio::spawn(waiting.outcome());
    room.pass(600);
    let outcome = tokio::time::timeout(Duration::from_secs(5), outcome).await.unwrap().unwrap();
    assert!(matches!(outcome, Outcome::Expired));
}

#[tokio::test]
async fn a_demand_expires_at_its_time_also_across_a_restart() {
    let mut room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let (id, expires) = (waiting.demand(), waiting.expires());
    drop(waiting);
    room.pass(599);
    room.restart();
    assert_eq!(room.desk.show(id).unwrap().expires, expires);
    room.pass(1);
    assert!(room.desk.show(id).is_none());
    room.restart();
    assert!(room.desk.show(id).is_none());
    room.desk.sweep().await;
    assert_eq!((room.desk.held(), room.disk.keys()), (0, 0));
}

#[tokio::test]
async fn demands_votes_and_grants_survive_a_restart_and_a_used_grant_does_not_return() {
    let mut room = Room::new();
    let id = room.hold(&user("ann"), "x").await.demand();
    room.vote(id, 1002, true).await.unwrap();
    room.restart();
    assert_eq!(room.desk.show(id).unwrap().voters(), ["bob"]);
    assert!(matches!(room.vote(id, 1002, true).await, Err(VoteError::AlreadyVoted(_))));
    assert_eq!(room.vote(id, 1003, true).await.unwrap(), Standing::Approved);
    room.restart();
    let waiting = room.hold(&user("ann"), "x").await;
    assert_eq!(waiting.demand(), id);
    approved(waiting.outcome().await).spend(&room.set).await.unwrap();
    room.restart();
    assert_ne!(room.hold(&user("ann"), "x").await.demand(), id);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_demand() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    let waits = tokio::spawn(waiting.outcome());
    tokio::task::yield_now().await;
    waits.abort();
    let _ = waits.await;
    room.approve_fully(id).await;
    let retry = room.hold(&user("ann"), "x").await;
    assert_eq!(retry.demand(), id);
    approved(retry.outcome().await).spend(&room.set).await.unwrap();
}

#[tokio::test]
async fn a_promise_that_is_dropped_stays_banked() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.approve_fully(id).await;
    drop(approved(waiting.outcome().await));
    assert_eq!(room.hold(&user("ann"), "x").await.demand(), id);
}

#[tokio::test]
async fn a_banked_grant_runs_out() {
    let room = Room::new();
    let id = room.hold(&user("ann"), "x").await.demand();
    room.pass(500);
    room.approve_fully(id).await;
    room.pass(599);
    let waiting = room.hold(&user("ann"), "x").await;
    assert_eq!(waiting.demand(), id);
    let late = approved(waiting.outcome().await);
    room.pass(1);
    assert!(matches!(late.spend(&room.set).await, Err(DeskError::Gone)));
    assert_ne!(room.hold(&user("ann"), "x").await.demand(), id);
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_but_neither_shown_nor_used() {
    let mut room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let (key, bytes) = room.disk.scan(PREFIX).unwrap().remove(0);
    drop(waiting);
    let mut kept = room.disk.kept.lock().unwrap();
    kept.insert(key.clone(), bytes[..bytes.len() / 2].to_vec());
    kept.insert(format!("{PREFIX}{}", DemandId::now()), bytes);
    drop(kept);
    room.restart();
    assert_eq!((room.desk.held(), room.disk.keys()), (0, 2));
}
