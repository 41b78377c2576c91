//! Who may vote, and how often: nobody on their own request, one human once, nobody as somebody else.

use super::*;

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
    let root_login = Account { uid: 0, login_uid: Some(0) };
    assert!(matches!(room.cast(id, root_login, true).await, Err(VoteError::SharedAccount)));
    assert!(matches!(room.vote(id, 1004, true).await, Err(VoteError::NotApprover { .. })));
    assert!(matches!(room.vote(id, 1004, false).await, Err(VoteError::NotApprover { .. })));
    assert!(room.disk.said().is_empty());
}

#[tokio::test]
async fn sudo_votes_as_the_login_and_whoever_is_two_accounts_votes_as_neither() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let id = waiting.demand();
    room.cast(id, Account { uid: 0, login_uid: Some(1002) }, true).await.unwrap();
    assert_eq!(room.desk.show(id).unwrap().voters(), ["bob"]);
    let refused = |told| matches!(told, Err(VoteError::TwoAccounts { .. }));
    let dan_as_cat = Account { uid: 1003, login_uid: Some(1004) };
    assert!(refused(room.cast(id, dan_as_cat, true).await));
    // A service may say once, with no privilege, that anybody logged in there.
    let service_as_cat = Account { uid: 65534, login_uid: Some(1003) };
    assert!(refused(room.cast(id, service_as_cat, true).await));
    assert_eq!(room.desk.show(id).unwrap().voters(), ["bob"]);
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
    let Place::Wait(waiting) = room.place(draft).await.unwrap() else { panic!() };
    let id = waiting.demand();
    let Standing::Open(shares) = room.vote(id, 1003, true).await.unwrap() else { panic!() };
    let have: Vec<_> = shares.iter().map(|share| (share.approval.as_str(), share.voters.len())).collect();
    assert_eq!(have, [("bobs", 0), ("leads", 1)]);
    assert_eq!(room.vote(id, 1002, true).await.unwrap(), Standing::Approved);
}
