//! The desk at its bounds: refused there, and not before.

use super::*;
use crate::approval::{Listener, News, Row};

#[tokio::test]
async fn one_subject_cannot_fill_the_desk() {
    let room = Room::new();
    let ann = user("ann");
    for n in 0..DEMANDS_PER_SUBJECT_MAX {
        let _ = room.hold(&ann, &n.to_string()).await;
    }
    let refused = room.place(room.draft(&ann, "more")).await;
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
    let refused = room.place(room.draft(&ann, "y")).await;
    assert!(matches!(refused, Err(DeskError::SubjectFull(_))));
    room.vote(fits, 1002, false).await.unwrap();
    let over = format!("{most}x");
    assert!(matches!(room.place(room.draft(&ann, &over)).await, Err(DeskError::SubjectFull(_))));
}

#[tokio::test]
async fn the_desk_is_full_at_its_bound_and_not_before() {
    let room = Room::new();
    for n in 0..DEMANDS_MAX {
        let subject = user(&format!("u{}", n / DEMANDS_PER_SUBJECT_MAX));
        let mut draft = room.draft(&subject, &n.to_string());
        draft.shown.body = None;
        let _ = room.place(draft).await.unwrap();
    }
    let eve = user("eve");
    assert!(matches!(room.place(room.draft(&eve, "x")).await, Err(DeskError::Full)));
}

#[tokio::test]
async fn a_comment_is_bounded() {
    let room = Room::new();
    let waiting = room.hold(&user("ann"), "x").await;
    let set: Arc<dyn Electorate> = Arc::new(room.set.clone());
    let say = |length| {
        room.desk.vote(
            waiting.demand(),
            account(1002),
            Ballot { approve: true, comment: Some("c".repeat(length)), ..Ballot::default() },
            Arc::clone(&set),
        )
    };
    assert!(matches!(say(COMMENT_BYTES_MAX + 1).await, Err(VoteError::LongComment)));
    say(COMMENT_BYTES_MAX).await.unwrap();
}

#[test]
fn a_grant_of_endless_length_does_not_overflow() {
    assert_eq!(quorum::end_of(Timestamp::UNIX_EPOCH, SignedDuration::MAX), Timestamp::MAX);
}

/// Hears of every turn.
#[derive(Default)]
struct Heard(Mutex<Vec<(&'static str, DemandId)>>);

impl Listener for Heard {
    fn rows(&self, news: &News<'_>) -> Vec<Row> {
        self.0.lock().unwrap().push((news.turn.name(), news.demand.id));
        Vec::new()
    }

    fn kept(&self, _rows: Vec<Row>) {}
}

#[tokio::test]
async fn what_ran_out_on_a_quiet_desk_or_a_stopped_one_is_told_once_and_its_body_is_gone() {
    for stopped in [false, true] {
        let (mut room, heard) = (Room::new(), Arc::new(Heard::default()));
        room.desk = listened(&room, &heard);
        let id = room.hold(&user("ann"), "a body").await.demand();
        room.desk.sweep().await;
        assert_eq!((room.desk.held(), room.spooled()), (1, 2), "not before its time");
        room.pass(600);
        if stopped {
            room.desk = listened(&room, &heard);
            assert_eq!(room.spooled(), 0);
        }
        assert!(room.desk.list().is_empty() && room.desk.show(id).is_none());
        room.desk.sweep().await;
        room.desk.sweep().await;
        assert_eq!(*heard.0.lock().unwrap(), [("requested", id), ("expired", id)]);
        assert_eq!((room.desk.held(), room.disk.keys(), room.spooled()), (0, 0, 0));
    }
}

fn listened(room: &Room, heard: &Arc<Heard>) -> Desk {
    let listener = Arc::clone(heard) as Arc<dyn Listener>;
    open_with(&room.disk, &room.seconds, &room.state, &room.keys, listener)
}
