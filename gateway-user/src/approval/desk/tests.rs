//! The desk under a clock and a ledger of the test's own: what may not be approved, used twice or lost is refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::Notify;

use super::super::{CastVote, Outcome, Shown, ShownBody};
use super::*;
use crate::limits::{COMMENT_BYTES_MAX, DEMAND_BYTES_PER_SUBJECT_MAX, DEMANDS_MAX, DEMANDS_PER_SUBJECT_MAX};
use crate::operation::{EntryId, SessionId, Sha256, Subject, User, Workload};
use crate::policy::nouns::{Approval, Person};

/// A disk that outlives the desk, can fail, and can be made to wait.
#[derive(Default)]
struct Disk {
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
    votes: Mutex<Vec<CastVote>>,
    broken: AtomicBool,
    slow: AtomicBool,
    go_on: Arc<Notify>,
}

impl Disk {
    fn write(&self, change: impl FnOnce()) -> Durable {
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
    fn put(&self, key: &str, bytes: Vec<u8>) -> Durable {
        self.write(|| drop(self.kept.lock().unwrap().insert(key.into(), bytes)))
    }
    fn remove(&self, key: &str) -> Durable {
        self.write(|| drop(self.kept.lock().unwrap().remove(key)))
    }
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        let kept = self.kept.lock().unwrap();
        Ok(kept
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
    fn voted(&self, vote: CastVote, key: &str, demand: Option<Vec<u8>>) -> Durable {
        self.write(|| {
            self.votes.lock().unwrap().push(vote);
            let mut kept = self.kept.lock().unwrap();
            match demand {
                Some(bytes) => drop(kept.insert(key.into(), bytes)),
                None => drop(kept.remove(key)),
            }
        })
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
    }
}

fn approval(name: &str, approvers: &[&str], needed: u32) -> Approval {
    let approvers = approvers.iter().map(|name| (*name).to_owned()).collect();
    Approval { name: name.into(), approvers, needed, timeout: Duration::from_secs(600) }
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
    let user = User { provider: "corp".into(), subject: name.into(), groups: Vec::new(), expires: 0 };
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
        executable: None,
        parents: Vec::new(),
    };
    Subject { user: None, workload: Some(Arc::new(workload)), peer: "127.0.0.1:1".parse().unwrap() }
}

struct Room {
    disk: Arc<Disk>,
    seconds: Arc<AtomicI64>,
    desk: Desk,
    set: Set,
}

impl Room {
    fn new() -> Self {
        let (disk, seconds) = (Arc::new(Disk::default()), Arc::new(AtomicI64::new(1_000_000)));
        let desk = open(&disk, &seconds);
        Self { disk, seconds, desk, set: set() }
    }

    fn restart(&mut self) {
        self.desk = open(&self.disk, &self.seconds);
    }

    fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    fn draft<'a>(&self, subject: &'a Subject, body: &str) -> DemandDraft<'a> {
        DemandDraft {
            entry: EntryId::now(),
            session: SessionId::now(),
            subject,
            target: "react".into(),
            digest: Sha256::of(format!("{}{body}", subject.key()).as_bytes()),
            rules: vec!["a.cedar#models".into()],
            message: None,
            approvals: vec!["leads".into()],
            shown: Shown {
                method: "PUT".into(),
                body: Some(ShownBody { bytes: body.len() as u64, text: body.into(), base64: false }),
                ..Shown::default()
            },
        }
    }

    async fn hold(&self, subject: &Subject, body: &str) -> Waiting {
        self.desk.hold(self.draft(subject, body), &self.set).await.unwrap()
    }

    async fn vote(&self, id: DemandId, uid: u32, approve: bool) -> Result<Standing, VoteError> {
        self.cast(id, account(uid), approve).await
    }

    async fn cast(&self, id: DemandId, account: Account, approve: bool) -> Result<Standing, VoteError> {
        self.desk.vote(id, account, approve, None, Arc::new(self.set.clone())).await
    }

    async fn approve_fully(&self, id: DemandId) {
        self.vote(id, 1002, true).await.unwrap();
        assert_eq!(self.vote(id, 1003, true).await.unwrap(), Standing::Approved);
    }
}

fn open(disk: &Arc<Disk>, seconds: &Arc<AtomicI64>) -> Desk {
    let seconds = Arc::clone(seconds);
    let clock: Clock = Arc::new(move || Timestamp::from_second(seconds.load(Ordering::SeqCst)).unwrap());
    Desk::open(Arc::clone(disk) as Arc<dyn Ledger>, clock).unwrap()
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
async fn the_requester_cannot_vote_as_user_account_or_login() {
    let room = Room::new();
    for asker in [user("bob"), workload(1002, None), workload(0, Some(1002)), workload(1002, Some(77))] {
        let waiting = room.hold(&asker, "x").await;
        for approve in [true, false] {
            let refused = room.vote(waiting.demand(), 1002, approve).await;
            assert!(matches!(refused, Err(VoteError::OwnRequest(name)) if name == "bob"), "{asker:?}");
        }
    }
    assert!(room.disk.said().is_empty());
}

#[tokio::test]
async fn a_user_behind_a_process_excludes_both() {
    let room = Room::new();
    let mut asker = user("bob");
    asker.workload = workload(1003, None).workload;
    let waiting = room.hold(&asker, "x").await;
    for uid in [1002, 1003] {
        let refused = room.vote(waiting.demand(), uid, true).await;
        assert!(matches!(refused, Err(VoteError::OwnRequest(_))), "{uid}");
    }
}

#[tokio::test]
async fn one_person_counts_once() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    room.vote(waiting.demand(), 1002, true).await.unwrap();
    let again = room.cast(waiting.demand(), Account { uid: 0, login_uid: Some(1002) }, true).await;
    assert!(matches!(again, Err(VoteError::AlreadyVoted(name)) if name == "bob"));
    assert_eq!(room.desk.show(waiting.demand()).unwrap().state, State::Pending);
}

#[tokio::test]
async fn strangers_roots_and_bystanders_cannot_vote() {
    let room = Room::new();
    let id = room.hold(&user("ann"), "x").await;
    let id = id.demand();
    assert!(matches!(room.vote(id, 4242, true).await, Err(VoteError::NoPerson(4242))));
    assert!(matches!(room.vote(id, 0, true).await, Err(VoteError::SharedAccount)));
    let root_login = Account { uid: 1002, login_uid: Some(0) };
    assert!(matches!(room.cast(id, root_login, true).await, Err(VoteError::SharedAccount)));
    assert!(matches!(room.vote(id, 1004, true).await, Err(VoteError::NotApprover { .. })));
    assert!(matches!(room.vote(id, 1004, false).await, Err(VoteError::NotApprover { .. })));
    assert!(room.disk.said().is_empty());
}

#[tokio::test]
async fn sudo_and_su_vote_as_the_login_and_not_as_whom_they_became() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.cast(id, Account { uid: 0, login_uid: Some(1002) }, true).await.unwrap();
    assert_eq!(room.desk.show(id).unwrap().voters(), ["bob"]);
    let dan_as_cat = Account { uid: 1003, login_uid: Some(1004) };
    assert!(matches!(room.cast(id, dan_as_cat, true).await, Err(VoteError::NotApprover { .. })));
}

#[tokio::test]
async fn a_uid_that_two_persons_claim_is_nobody() {
    let mut room = Room::new();
    room.set.persons.push(person("bob2", 1002, &["lead"]));
    let waiting = room.hold(&user("ann"), "x").await;
    assert!(matches!(room.vote(waiting.demand(), 1002, true).await, Err(VoteError::NoPerson(1002))));
}

#[tokio::test]
async fn every_named_approval_needs_its_own_quorum() {
    let room = Room::new();
    let ann = user("ann");
    let mut draft = room.draft(&ann, "x");
    draft.approvals = vec!["leads".into(), "bobs".into()];
    let waiting = room.desk.hold(draft, &room.set).await.unwrap();
    let id = waiting.demand();
    let Standing::Open(shares) = room.vote(id, 1003, true).await.unwrap() else { panic!() };
    let have: Vec<_> = shares.iter().map(|share| (share.approval.as_str(), share.voters.len())).collect();
    assert_eq!(have, [("bobs", 0), ("leads", 1)]);
    assert_eq!(room.vote(id, 1002, true).await.unwrap(), Standing::Approved);
}

#[tokio::test]
async fn any_approver_ends_it_with_no() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.vote(id, 1002, true).await.unwrap();
    let set = Arc::new(room.set.clone());
    let no = room.desk.vote(id, account(1003), false, Some("not today".into()), set).await;
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
async fn concurrent_duplicates_need_one_grant_each() {
    let room = Room::new();
    let mut waits = Vec::new();
    for _ in 0..10 {
        waits.push(room.hold(&user("ann"), "x").await);
    }
    let mut ids: Vec<_> = waits.iter().map(Waiting::demand).collect();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    room.approve_fully(ids[3]).await;
    let mut through = 0;
    for waiting in waits {
        if let Ok(outcome) = tokio::time::timeout(Duration::from_millis(20), waiting.outcome()).await {
            approved(outcome).spend(&room.set).await.unwrap();
            through += 1;
        }
    }
    assert_eq!(through, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_racing_retries_share_one_grant_and_one_gets_it() {
    let room = Arc::new(Room::new());
    let id = room.hold(&user("ann"), "x").await.demand();
    room.approve_fully(id).await;
    let tries: Vec<_> = (0..100)
        .map(|_| {
            let room = Arc::clone(&room);
            tokio::spawn(async move {
                let ann = user("ann");
                let waiting = match room.desk.hold(room.draft(&ann, "x"), &room.set).await {
                    Ok(waiting) => waiting,
                    Err(DeskError::SubjectFull(_)) => return 0,
                    Err(error) => panic!("{error}"),
                };
                match tokio::time::timeout(Duration::from_millis(100), waiting.outcome()).await {
                    Ok(Outcome::Approved(approved)) => u32::from(approved.spend(&room.set).await.is_ok()),
                    _ => 0,
                }
            })
        })
        .collect();
    let mut through = 0;
    for one in tries {
        through += one.await.unwrap();
    }
    assert_eq!(through, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_votes_of_one_person_count_once() {
    let room = Arc::new(Room::new());
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    let votes: Vec<_> = (0..20)
        .map(|_| {
            let room = Arc::clone(&room);
            tokio::spawn(async move { room.vote(id, 1002, true).await.is_ok() })
        })
        .collect();
    let mut counted = 0;
    for vote in votes {
        counted += u32::from(vote.await.unwrap());
    }
    assert_eq!(counted, 1);
    assert_eq!(room.desk.show(id).unwrap().state, State::Pending);
}

#[tokio::test]
async fn a_vote_is_durable_before_the_waiter_is_released_and_counts_though_the_voter_left() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.vote(id, 1002, true).await.unwrap();
    room.disk.slow.store(true, Ordering::SeqCst);
    let mut outcome = tokio::spawn(waiting.outcome());
    let voter = tokio::time::timeout(Duration::from_millis(50), room.vote(id, 1003, true)).await;
    assert!(voter.is_err(), "the vote is not durable yet");
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut outcome).await.is_err());
    assert_eq!(room.desk.show(id).unwrap().state, State::Pending);
    room.disk.slow.store(false, Ordering::SeqCst);
    room.disk.go_on.notify_one();
    approved(outcome.await.unwrap()).spend(&room.set).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_holds_nothing_counts_nothing_and_spends_nothing() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.disk.broken.store(true, Ordering::SeqCst);
    let ann = user("ann");
    let refused = room.desk.hold(room.draft(&ann, "y"), &room.set).await;
    assert!(matches!(refused, Err(DeskError::Ledger(_))));
    assert!(matches!(room.vote(id, 1002, true).await, Err(VoteError::Ledger(_))));
    assert!(matches!(room.vote(id, 1003, false).await, Err(VoteError::Ledger(_))));
    assert_eq!(room.desk.held(), 1);
    assert!(room.desk.show(id).unwrap().votes.is_empty());
    room.disk.broken.store(false, Ordering::SeqCst);
    room.approve_fully(id).await;
    let approved = approved(waiting.outcome().await);
    room.disk.broken.store(true, Ordering::SeqCst);
    assert!(matches!(approved.spend(&room.set).await, Err(DeskError::Ledger(_))));
    room.disk.broken.store(false, Ordering::SeqCst);
    assert_ne!(
        room.hold(&user("ann"), "x").await.demand(),
        id,
        "a grant that may be marked used is not used"
    );
}

#[tokio::test]
async fn a_changed_rule_voids_the_votes_and_tells_who_waits() {
    let mut room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.vote(id, 1002, true).await.unwrap();
    room.set.rule = "forbid when more";
    room.desk.recheck(&room.set).await;
    assert!(matches!(waiting.outcome().await, Outcome::Superseded));
    assert!(matches!(room.vote(id, 1003, true).await, Err(VoteError::Unknown(_))));
    let fresh = room.hold(&user("ann"), "x").await;
    assert!(room.desk.show(fresh.demand()).unwrap().votes.is_empty());
}

#[tokio::test]
async fn a_changed_rule_is_noticed_also_before_anyone_rechecks() {
    let mut room = Room::new();
    let voted = room.hold(&user("ann"), "x").await;
    let granted = room.hold(&user("ann"), "y").await;
    room.vote(voted.demand(), 1002, true).await.unwrap();
    room.approve_fully(granted.demand()).await;
    let promise = approved(granted.outcome().await);
    room.set.rule = "forbid when more";
    assert!(matches!(room.vote(voted.demand(), 1003, true).await, Err(VoteError::Superseded)));
    assert!(matches!(promise.spend(&room.set).await, Err(DeskError::Superseded)));
}

#[tokio::test]
async fn an_approver_who_lost_the_role_no_longer_counts() {
    let mut room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.vote(id, 1002, true).await.unwrap();
    room.set.persons[1].roles.clear();
    room.desk.recheck(&room.set).await;
    let Standing::Open(shares) = room.vote(id, 1003, true).await.unwrap() else { panic!() };
    assert_eq!(shares[0].voters, ["cat"]);
    let bank = room.hold(&user("ann"), "y").await.demand();
    room.set = set();
    room.approve_fully(bank).await;
    room.set.persons.remove(1);
    assert_ne!(room.hold(&user("ann"), "y").await.demand(), bank, "a grant on votes that no longer count");
}

#[tokio::test]
async fn a_higher_quorum_is_asked_of_those_who_wait_already_and_a_lower_one_releases_them() {
    let mut room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.vote(id, 1002, true).await.unwrap();
    room.set.approvals[0].needed = 3;
    room.desk.recheck(&room.set).await;
    assert!(matches!(room.vote(id, 1003, true).await.unwrap(), Standing::Open(_)));
    room.set.approvals[0].needed = 2;
    room.desk.recheck(&room.set).await;
    approved(waiting.outcome().await).spend(&room.set).await.unwrap();
}

#[tokio::test]
async fn an_approval_that_no_set_declares_holds_nothing() {
    let mut room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    room.set.approvals.clear();
    let ann = user("ann");
    let refused = room.desk.hold(room.draft(&ann, "y"), &room.set).await;
    assert!(matches!(refused, Err(DeskError::NoApproval(name)) if name == "leads"));
    let mut none = room.draft(&ann, "z");
    none.approvals.clear();
    assert!(room.desk.hold(none, &set()).await.is_err());
    room.desk.recheck(&room.set).await;
    assert!(matches!(waiting.outcome().await, Outcome::Superseded));
}

#[tokio::test]
async fn one_subject_cannot_fill_the_desk() {
    let room = Room::new();
    let ann = user("ann");
    for n in 0..DEMANDS_PER_SUBJECT_MAX {
        let _ = room.hold(&ann, &n.to_string()).await;
    }
    let refused = room.desk.hold(room.draft(&ann, "more"), &room.set).await;
    assert!(matches!(refused, Err(DeskError::SubjectFull(_))));
    let _ = room.hold(&user("bob"), "x").await;
    let first = room.desk.list()[0].id;
    room.vote(first, 1002, false).await.unwrap();
    let _ = room.hold(&ann, "more").await;
}

#[tokio::test]
async fn one_subject_cannot_fill_the_memory() {
    let room = Room::new();
    let ann = user("ann");
    let most = "x".repeat(DEMAND_BYTES_PER_SUBJECT_MAX - "PUT".len());
    let fits = room.hold(&ann, &most).await.demand();
    let refused = room.desk.hold(room.draft(&ann, "y"), &room.set).await;
    assert!(matches!(refused, Err(DeskError::SubjectFull(_))));
    room.vote(fits, 1002, false).await.unwrap();
    let over = format!("{most}x");
    assert!(matches!(
        room.desk.hold(room.draft(&ann, &over), &room.set).await,
        Err(DeskError::SubjectFull(_))
    ));
}

#[tokio::test]
async fn the_desk_is_full_at_its_bound_and_not_before() {
    let room = Room::new();
    for n in 0..DEMANDS_MAX {
        let _ = room.hold(&user(&format!("u{}", n / DEMANDS_PER_SUBJECT_MAX)), &n.to_string()).await;
    }
    let eve = user("eve");
    assert!(matches!(room.desk.hold(room.draft(&eve, "x"), &room.set).await, Err(DeskError::Full)));
}

#[tokio::test]
async fn a_comment_is_bounded() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let set: Arc<dyn Electorate> = Arc::new(room.set.clone());
    let say = |length| {
        room.desk.vote(waiting.demand(), account(1002), true, Some("c".repeat(length)), Arc::clone(&set))
    };
    assert!(matches!(say(COMMENT_BYTES_MAX + 1).await, Err(VoteError::LongComment)));
    say(COMMENT_BYTES_MAX).await.unwrap();
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

#[test]
fn a_grant_of_endless_length_does_not_overflow() {
    assert_eq!(quorum::end_of(Timestamp::UNIX_EPOCH, SignedDuration::MAX), Timestamp::MAX);
}
