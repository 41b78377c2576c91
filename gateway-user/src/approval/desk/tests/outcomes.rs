//! What approval gives: one run, or a window for the same subject under the same rules; what a retry hears; and what
//! somebody takes back.

use super::*;
use crate::policy::nouns::{Hold, Owned};

fn window(room: &mut Room, seconds: u64) {
    room.set.approvals[0].window = Some(Duration::from_secs(seconds));
}

fn retry(room: &mut Room) {
    room.set.approvals[0].hold = Hold::Retry;
}

async fn demand_of(place: Result<Place, DeskError>) -> DemandId {
    match place.unwrap() {
        Place::Retry { demand, .. } => demand,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn approved_for_a_window_covers_the_same_subject_and_rules_and_nobody_else() {
    let mut room = Room::new();
    window(&mut room, 3600);
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    assert_eq!(room.desk.show(id).unwrap().window, Some(3600), "the demand says so to those who approve it");
    room.approve_fully(id).await;
    let first = approved(waiting.outcome().await);
    assert!(first.window().is_some());
    first.spend(&room.set).await.unwrap();
    for body in ["y", "z"] {
        let again = room.hold(&user("ann"), body).await;
        assert_eq!(again.demand(), id, "the use is recorded under the window");
        approved(again.outcome().await).spend(&room.set).await.unwrap();
    }
    let ann = user("ann");
    let mut elsewhere = room.draft(&ann, "x");
    elsewhere.target = "crm".into();
    let mut other = room.draft(&ann, "x");
    other.approvals = vec!["leads".into(), "bobs".into()];
    for draft in [elsewhere, other] {
        let Place::Wait(waiting) = room.place(draft).await.unwrap() else { panic!() };
        assert_ne!(waiting.demand(), id);
    }
    assert_ne!(room.hold(&user("eve"), "x").await.demand(), id);
}

#[tokio::test]
async fn a_window_is_durable_and_ends_at_its_time() {
    let mut room = Room::new();
    window(&mut room, 3600);
    let id = room.hold(&user("ann"), "x").await.demand();
    room.approve_fully(id).await;
    assert_eq!(room.spooled(), 0, "a window needs no body");
    room.restart();
    room.pass(3599);
    let last = room.hold(&user("ann"), "y").await;
    assert_eq!(last.demand(), id);
    let late = approved(last.outcome().await);
    room.pass(1);
    assert!(matches!(late.spend(&room.set).await, Err(DeskError::Gone)));
    assert_ne!(room.hold(&user("ann"), "y").await.demand(), id);
}

#[tokio::test]
async fn a_window_ends_with_the_rules_that_asked_for_it() {
    let mut room = Room::new();
    window(&mut room, 3600);
    let id = room.hold(&user("ann"), "x").await.demand();
    room.approve_fully(id).await;
    let promise = approved(room.hold(&user("ann"), "y").await.outcome().await);
    room.set.rule = "forbid when more";
    assert!(matches!(promise.spend(&room.set).await, Err(DeskError::Superseded)));
    room.desk.recheck(&room.set).await;
    assert!(room.desk.show(id).is_none());
}

#[tokio::test]
async fn what_waits_is_released_by_a_window_that_covers_it() {
    let mut room = Room::new();
    window(&mut room, 3600);
    let (one, two) = (room.hold(&user("ann"), "x").await, room.hold(&user("ann"), "y").await);
    let id = one.demand();
    room.approve_fully(id).await;
    let released = approved(two.outcome().await);
    assert_eq!(released.demand(), id);
    released.spend(&room.set).await.unwrap();
    approved(one.outcome().await).spend(&room.set).await.unwrap();
}

#[tokio::test]
async fn one_approver_who_says_once_keeps_it_to_one_run() {
    let mut room = Room::new();
    window(&mut room, 3600);
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    let set: Arc<dyn Electorate> = Arc::new(room.set.clone());
    let ballot = Ballot { approve: true, once: true, comment: None };
    room.desk.vote(id, account(1002), ballot, set).await.unwrap();
    room.vote(id, 1003, true).await.unwrap();
    let approved = approved(waiting.outcome().await);
    assert_eq!(approved.window(), None);
    approved.spend(&room.set).await.unwrap();
    assert_ne!(room.hold(&user("ann"), "x").await.demand(), id);
}

#[tokio::test]
async fn a_window_is_never_longer_than_its_approvers_were_told() {
    let mut room = Room::new();
    window(&mut room, 60);
    let id = room.hold(&user("ann"), "x").await.demand();
    window(&mut room, 3600);
    room.approve_fully(id).await;
    room.pass(60);
    assert_ne!(room.hold(&user("ann"), "y").await.demand(), id);
    let mut room = Room::new();
    let id = room.hold(&user("ann"), "x").await.demand();
    window(&mut room, 3600);
    room.approve_fully(id).await;
    assert!(matches!(room.desk.show(id).unwrap().state, State::Granted { .. }), "they were told: once");
}

#[tokio::test]
async fn a_window_does_not_serve_a_flow_that_one_of_its_approvers_is_behind() {
    let mut room = Room::new();
    window(&mut room, 3600);
    let id = room.hold(&user("ann"), "x").await.demand();
    room.approve_fully(id).await;
    let mut by_bob = user("ann");
    by_bob.workload = workload(1002, None).workload;
    assert_ne!(room.hold(&by_bob, "y").await.demand(), id);
    assert_eq!(room.hold(&user("ann"), "y").await.demand(), id);
}

#[tokio::test]
async fn a_retry_is_told_its_demand_and_goes_on_once_when_it_is_approved() {
    let mut room = Room::new();
    retry(&mut room);
    let ann = user("ann");
    let id = demand_of(room.place(room.draft(&ann, "x")).await).await;
    assert_eq!(demand_of(room.place(room.draft(&ann, "x")).await).await, id, "no second demand for the same");
    room.restart();
    room.approve_fully(id).await;
    approved(room.hold(&ann, "x").await.outcome().await).spend(&room.set).await.unwrap();
    assert_ne!(demand_of(room.place(room.draft(&ann, "x")).await).await, id);
}

#[tokio::test]
async fn concurrent_retries_need_one_grant_each() {
    let mut room = Room::new();
    retry(&mut room);
    let ann = user("ann");
    let id = demand_of(room.place(room.draft(&ann, "x")).await).await;
    room.approve_fully(id).await;
    let one = approved(room.hold(&ann, "x").await.outcome().await);
    let second = demand_of(room.place(room.draft(&ann, "x")).await).await;
    assert_ne!(second, id, "the grant is promised to the first");
    one.spend(&room.set).await.unwrap();
    assert_eq!(demand_of(room.place(room.draft(&ann, "x")).await).await, second);
}

#[tokio::test]
async fn a_window_that_was_rejected_covers_nothing_and_keeps_nobody_from_asking_anew() {
    let mut room = Room::new();
    retry(&mut room);
    window(&mut room, 3600);
    let ann = user("ann");
    let id = demand_of(room.place(room.draft(&ann, "x")).await).await;
    room.approve_fully(id).await;
    assert_eq!(room.hold(&ann, "covered").await.demand(), id);
    assert_eq!(room.vote(id, 1003, false).await.unwrap(), Standing::Rejected);
    let other = demand_of(room.place(room.draft(&ann, "y")).await).await;
    assert_ne!(other, id, "people are asked about the next one");
    assert!(
        matches!(room.place(room.draft(&ann, "x")).await.unwrap(), Place::Rejected { demand, .. } if demand == id)
    );
    room.restart();
    assert_eq!(demand_of(room.place(room.draft(&ann, "y")).await).await, other);
}

#[tokio::test]
async fn a_retry_hears_a_rejection_and_does_not_ask_people_again() {
    let mut room = Room::new();
    retry(&mut room);
    let ann = user("ann");
    let id = demand_of(room.place(room.draft(&ann, "x")).await).await;
    room.vote(id, 1002, false).await.unwrap();
    assert_eq!(room.spooled(), 0);
    room.restart();
    for _ in 0..2 {
        let Place::Rejected { demand, by, .. } = room.place(room.draft(&ann, "x")).await.unwrap() else {
            panic!()
        };
        assert_eq!((demand, by.as_str()), (id, "bob"));
    }
    assert!(room.desk.list().is_empty(), "nobody is asked about what was decided");
    assert!(matches!(room.vote(id, 1003, true).await, Err(VoteError::Rejected)));
    room.pass(600);
    assert_ne!(demand_of(room.place(room.draft(&ann, "x")).await).await, id);
}

#[tokio::test]
async fn an_approval_that_wants_to_know_why_counts_no_silent_vote() {
    let mut room = Room::new();
    room.set.approvals[0].comment_required = true;
    let id = room.hold(&user("ann"), "x").await.demand();
    for approve in [true, false] {
        assert!(
            matches!(room.vote(id, 1002, approve).await, Err(VoteError::NoComment(name)) if name == "leads")
        );
    }
    let ballot = Ballot { approve: true, comment: Some("checked".into()), ..Ballot::default() };
    room.desk.vote(id, account(1002), ballot, Arc::new(room.set.clone())).await.unwrap();
}

#[tokio::test]
async fn the_owner_of_a_process_cannot_vote_on_what_it_asks() {
    let mut room = Room::new();
    let asks = |unit: Option<&str>, cgroup: Option<&str>, container: Option<&str>| {
        let mut subject = workload(4711, None);
        let mut process = (**subject.workload.as_ref().unwrap()).clone();
        process.unit = unit.map(str::to_owned);
        process.cgroup = cgroup.map(str::to_owned);
        process.container = container.map(str::to_owned);
        subject.workload = Some(Arc::new(process));
        subject
    };
    let id = "0123456789abcdef";
    for (owned, subject) in [
        (Owned::Unit("worker.service".into()), asks(Some("worker.service"), None, None)),
        (Owned::Unit("agents.slice".into()), asks(Some("w.service"), Some("/agents.slice/w.service"), None)),
        (Owned::Container("0123456789ab".into()), asks(None, None, Some(id))),
        (Owned::Uid(4711), asks(None, None, None)),
    ] {
        room.set.persons[1].owns = vec![owned.clone()];
        let demand = room.hold(&subject, "x").await.demand();
        for approve in [true, false] {
            let refused = room.vote(demand, 1002, approve).await;
            assert!(matches!(refused, Err(VoteError::OwnRequest(name)) if name == "bob"), "{owned:?}");
        }
        room.vote(demand, 1003, false).await.unwrap();
    }
    let subject = workload(4711, None);
    let mut guarded = room.draft(&subject, "g");
    guarded.guard = Some("agents");
    room.set.persons[1].owns = vec![Owned::Guard("agents".into())];
    let Place::Wait(waiting) = room.place(guarded).await.unwrap() else { panic!() };
    assert!(matches!(room.vote(waiting.demand(), 1002, true).await, Err(VoteError::OwnRequest(_))));
    let free = room.hold(&workload(4712, None), "f").await;
    room.vote(free.demand(), 1002, true).await.unwrap();
}

#[tokio::test]
async fn roles_and_persons_of_one_quorum_are_distinct_humans() {
    let mut room = Room::new();
    room.set.approvals[0] = approval("leads", &["bob", "lead"], 2);
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    assert!(matches!(room.vote(id, 1002, true).await.unwrap(), Standing::Open(_)), "bob is one, twice named");
    assert!(matches!(room.vote(id, 1002, true).await, Err(VoteError::AlreadyVoted(_))));
    assert_eq!(room.vote(id, 1003, true).await.unwrap(), Standing::Approved);
}

fn caller(uid: u32) -> Caller {
    Caller { uid, account: Some(account(uid)), operator: uid == 0, free: true }
}

async fn call_off(room: &Room, id: DemandId, uid: u32, revoke: bool) -> Result<String, VoteError> {
    room.desk.call_off(id, revoke, caller(uid), Arc::new(room.set.clone())).await
}

#[tokio::test]
async fn a_demand_is_withdrawn_by_its_requester_and_operators_only_and_recorded() {
    let room = Room::new();
    for (asker, allowed, by) in
        [(user("ann"), 1001, "ann"), (workload(4711, None), 4711, "uid 4711"), (user("ann"), 0, "uid 0")]
    {
        let waiting = room.hold(&asker, "x").await;
        let id = waiting.demand();
        for stranger in [1002, 1004, 4242] {
            assert!(
                matches!(call_off(&room, id, stranger, false).await, Err(VoteError::NotYours(_))),
                "{stranger}"
            );
        }
        assert_eq!(call_off(&room, id, allowed, false).await.unwrap(), by);
        assert!(matches!(waiting.outcome().await, Outcome::CalledOff { by: said } if said == by));
        assert!(matches!(room.vote(id, 1002, true).await, Err(VoteError::Unknown(_))));
        let last = room.disk.called_off.lock().unwrap().last().unwrap().clone();
        assert_eq!((last.demand, last.by.as_str(), last.revoked), (id, by, false));
    }
    assert_eq!((room.disk.keys(), room.spooled()), (0, 0));
}

#[tokio::test]
async fn a_guarded_process_takes_back_what_it_asked_itself_and_nothing_else() {
    let mut room = Room::new();
    room.set.approvals[0].window = None;
    let guarded = |uid: u32| Caller { free: false, ..caller(uid) };
    let of_ann = room.hold(&user("ann"), "x").await;
    for uid in [0, 1001, 4711] {
        let tried =
            room.desk.call_off(of_ann.demand(), false, guarded(uid), Arc::new(room.set.clone())).await;
        assert!(matches!(tried, Err(VoteError::NotYours(_))), "{uid}");
    }
    room.approve_fully(of_ann.demand()).await;
    for uid in [0, 1001, 1002, 1003] {
        let tried = room.desk.call_off(of_ann.demand(), true, guarded(uid), Arc::new(room.set.clone())).await;
        assert!(matches!(tried, Err(VoteError::NotYours(_))), "{uid}");
    }
    let own = room.hold(&workload(4711, None), "y").await;
    room.desk.call_off(own.demand(), false, guarded(4711), Arc::new(room.set.clone())).await.unwrap();
}

#[tokio::test]
async fn a_grant_and_a_window_are_revoked_by_an_approver_and_give_nothing_any_more() {
    let mut room = Room::new();
    for seconds in [None, Some(3600)] {
        room.set.approvals[0].window = seconds.map(Duration::from_secs);
        let waiting = room.hold(&user("ann"), "x").await;
        let id = waiting.demand();
        assert!(
            matches!(call_off(&room, id, 1003, true).await, Err(VoteError::NotYours(_))),
            "nothing to revoke yet"
        );
        room.approve_fully(id).await;
        let promise = approved(waiting.outcome().await);
        for stranger in [1004, 4242] {
            assert!(matches!(call_off(&room, id, stranger, true).await, Err(VoteError::NotYours(_))));
        }
        call_off(&room, id, 1003, true).await.unwrap();
        assert!(matches!(promise.spend(&room.set).await, Err(DeskError::Gone)));
        assert_ne!(room.hold(&user("ann"), "x").await.demand(), id);
        assert!(room.disk.called_off.lock().unwrap().last().unwrap().revoked);
    }
}

#[tokio::test]
async fn the_many_of_one_subject_do_not_stand_before_the_one_of_another() {
    let room = Room::new();
    for n in 0..DEMANDS_PER_SUBJECT_MAX {
        let _ = room.hold(&user("ann"), &n.to_string()).await;
    }
    for _ in 0..7 {
        let ann = user("ann");
        assert!(room.place(room.draft(&ann, "more")).await.is_err());
    }
    let other = room.hold(&user("eve"), "x").await.demand();
    assert_eq!(room.desk.list().iter().position(|demand| demand.id == other), Some(1));
    let queue = &room.desk.queues()[0];
    assert_eq!((queue.subject.as_str(), queue.refused), ("user:corp/ann", 7));
    assert_eq!(room.desk.refused(), 7);
}

#[tokio::test]
async fn a_body_is_sealed_while_its_demand_is_open_and_gone_with_it() {
    let mut room = Room::new();
    let waiting = room.hold(&user("ann"), "a body that is long enough to be found").await;
    let id = waiting.demand();
    let rows = room.disk.scan(PREFIX).unwrap();
    assert!(!rows.iter().any(|(_, bytes)| bytes.windows(6).any(|part| part == b"a body")));
    assert_eq!(room.spooled(), 2);
    room.restart();
    let demand = room.desk.show(id).unwrap();
    let body = room.desk.body(&demand).unwrap().unwrap();
    assert_eq!((body.text.as_str(), body.length), ("a body that is long enough to be found", 38));
    assert_eq!(body.page(2, 4).text, "body");
    room.vote(id, 1002, false).await.unwrap();
    assert_eq!(room.spooled(), 0);
    let spent = room.hold(&user("ann"), "once").await;
    room.approve_fully(spent.demand()).await;
    assert_eq!(room.spooled(), 2, "it can be looked at until it runs");
    approved(spent.outcome().await).spend(&room.set).await.unwrap();
    let _ = room.hold(&user("ann"), "expires").await;
    room.pass(600);
    room.desk.sweep().await;
    assert_eq!(room.spooled(), 0);
}

#[tokio::test]
async fn what_a_kill_left_in_the_spool_is_swept_and_a_demand_without_its_body_is_void() {
    let mut room = Room::new();
    let id = room.hold(&user("ann"), "x").await.demand();
    let orphan = room.hold(&user("ann"), "y").await.demand();
    // As if the kill had come between the spool and the row.
    room.disk.kept.lock().unwrap().remove(&key_of(orphan));
    room.restart();
    assert_eq!((room.spooled(), room.desk.held()), (2, 1));
    let spool = room.state.path().join(crate::approval::SPOOL);
    std::fs::remove_file(spool.join(format!("{id}.body"))).unwrap();
    room.restart();
    assert_eq!((room.spooled(), room.desk.held(), room.disk.keys()), (0, 0, 0));
}

#[tokio::test]
async fn the_last_approved_demand_of_a_kind_is_there_to_compare_with() {
    let room = Room::new();
    let first = room.hold(&user("ann"), "first").await;
    assert!(room.desk.prior(&room.desk.show(first.demand()).unwrap()).is_none());
    room.approve_fully(first.demand()).await;
    let second = room.hold(&user("eve"), "second").await;
    let prior = room.desk.prior(&room.desk.show(second.demand()).unwrap()).unwrap();
    assert_eq!(prior.demand, first.demand());
    assert_eq!(prior.shown.body.as_ref().unwrap().text, "first");
    assert_eq!(prior.by, ["bob", "cat"]);
}
