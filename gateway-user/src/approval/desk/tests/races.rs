//! Many at once: one grant serves one, one person counts once, and nothing counts before it is durable.

use super::*;

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
                let waiting = match room.place(room.draft(&ann, "x")).await {
                    Ok(Place::Wait(waiting)) => waiting,
                    Ok(other) => panic!("{other:?}"),
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
    let refused = room.place(room.draft(&ann, "y")).await;
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
