//! The policy changes under a demand: votes under another rule, role or quorum release nothing.

use super::*;

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
    let refused = room.place(room.draft(&ann, "y")).await;
    assert!(matches!(refused, Err(DeskError::NoApproval(name)) if name == "leads"));
    let mut none = room.draft(&ann, "z");
    none.approvals.clear();
    assert!(room.place(none).await.is_err());
    room.desk.recheck(&room.set).await;
    assert!(matches!(waiting.outcome().await, Outcome::Superseded));
}
