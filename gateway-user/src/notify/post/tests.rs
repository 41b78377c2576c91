//! The outbox with channels that take, refuse and hang. What one subject asks takes no channel from another.

use super::*;
use crate::approval::{Asker, Demand, Durable, Shown, State, Turn};
use crate::notify::Delivery;
use crate::operation::{DemandId, EntryId, SessionId, Sha256};

/// A ledger that forgets at its end.
#[derive(Default)]
struct Paper(Mutex<BTreeMap<String, Vec<u8>>>);

impl Ledger for Paper {
    fn write(&self, change: Change) -> Durable {
        let mut rows = self.0.lock().unwrap();
        rows.extend(change.put);
        change.remove.iter().for_each(|key| drop(rows.remove(key)));
        Box::pin(std::future::ready(Ok(())))
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        let rows = self.0.lock().unwrap();
        let below = rows.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(below.map(|(key, bytes)| (key.clone(), bytes.clone())).collect())
    }
}

type Answers = fn(&Message) -> Result<(), Undelivered>;

/// What the receivers answer; every message that reached them.
struct Receivers {
    answers: Mutex<Answers>,
    seen: Mutex<Vec<Message>>,
}

struct Lines(Arc<Receivers>);

impl Channels for Lines {
    fn of_approval(&self, approval: &str) -> Vec<String> {
        vec![approval.to_owned()]
    }

    fn channel(&self, _name: &str) -> Option<Box<dyn Channel>> {
        Some(Box::new(Self(Arc::clone(&self.0))))
    }

    fn names(&self) -> Vec<String> {
        vec!["one".into(), "two".into()]
    }
}

impl Channel for Lines {
    fn deliver<'a>(&'a self, message: &'a Message, _at: Timestamp) -> Delivery<'a> {
        self.0.seen.lock().unwrap().push(message.clone());
        let answer = self.0.answers.lock().unwrap()(message);
        Box::pin(std::future::ready(answer))
    }
}

struct Office {
    post: Post,
    receivers: Arc<Receivers>,
    seconds: Arc<std::sync::atomic::AtomicI64>,
}

impl Office {
    fn new(answers: Answers) -> Self {
        let receivers = Arc::new(Receivers { answers: Mutex::new(answers), seen: Mutex::default() });
        let seconds = Arc::new(std::sync::atomic::AtomicI64::new(1_000_000));
        let running = Arc::clone(&seconds);
        let clock: Clock = Arc::new(move || {
            Timestamp::from_second(running.load(std::sync::atomic::Ordering::SeqCst)).unwrap()
        });
        let lines = Box::new(Lines(Arc::clone(&receivers)));
        let post = Post::open(Arc::new(Paper::default()), clock, lines).unwrap();
        Self { post, receivers, seconds }
    }

    fn answer(&self, answers: Answers) {
        *self.receivers.answers.lock().unwrap() = answers;
    }

    fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, std::sync::atomic::Ordering::SeqCst);
    }

    /// Somebody asks; the channel `approval` is to be told. Gives whether there was room to.
    fn ask(&self, subject: &str, approval: &str, path: &str) -> bool {
        let demand = demand(subject, approval, path);
        let news = News { turn: Turn::Requested, demand: &demand, by: None, comment: None };
        let rows = self.post.rows(&news);
        let room = !rows.is_empty();
        self.post.kept(rows);
        room
    }

    /// Sends what is due now.
    async fn send(&self) -> Vec<Message> {
        let due = self.post.take_due();
        for message in due.clone() {
            self.post.attempt(message).await;
        }
        due
    }

    fn state(&self, name: &str) -> ChannelState {
        self.post.states().into_iter().find(|state| state.name == name).unwrap()
    }
}

fn demand(subject: &str, approval: &str, path: &str) -> Demand {
    Demand {
        id: DemandId::now(),
        entry: EntryId::now(),
        session: SessionId::now(),
        asker: Asker {
            key: subject.into(),
            user: None,
            peer: "127.0.0.1:1".into(),
            process: None,
            guard: None,
        },
        reason: None,
        target: "t".into(),
        operations: Vec::new(),
        digest: Sha256::default(),
        rules: Vec::new(),
        basis: Sha256::default(),
        message: None,
        approvals: vec![approval.into()],
        window: None,
        retry: false,
        created: Timestamp::UNIX_EPOCH,
        expires: Timestamp::MAX,
        shown: Shown { path: path.into(), ..Shown::default() },
        votes: Vec::new(),
        state: State::Pending,
    }
}

fn takes(_: &Message) -> Result<(), Undelivered> {
    Ok(())
}

fn refuses(_: &Message) -> Result<(), Undelivered> {
    Err(Undelivered::Later("the receiver answered 503".into()))
}

fn refuses_poison(message: &Message) -> Result<(), Undelivered> {
    match message.body.contains("poison") {
        true if message.body.contains("later") => Err(Undelivered::Later("the receiver answered 500".into())),
        true => Err(Undelivered::Never("the receiver answered 413".into())),
        false => Ok(()),
    }
}

#[tokio::test]
async fn a_requester_whose_messages_are_refused_for_what_they_say_takes_no_channel_down() {
    let office = Office::new(refuses_poison);
    for path in ["/poison", "/poison/later", "/poison", "/poison/later"] {
        office.ask("user:corp/eve", "one", path);
        assert!(!office.send().await.is_empty());
        assert!(!office.post.is_unavailable("one"), "{path}");
    }
    assert!(office.state("one").fault.unwrap().contains("500"), "operators see why all the same");
    office.ask("user:corp/ann", "one", "/fine");
    drop(office.send().await);
    assert!(office.receivers.seen.lock().unwrap().iter().any(|message| message.body.contains("/fine")));
}

#[tokio::test]
async fn a_channel_that_takes_nothing_fails_whatever_it_was_sent() {
    let office = Office::new(refuses);
    for n in 0..NOTIFY_FAILURES {
        assert!(!office.post.is_unavailable("one"), "{n}");
        office.ask("user:corp/ann", "one", "/x");
        drop(office.send().await);
    }
    assert!(office.post.is_unavailable("one"));
    assert!(!office.post.is_unavailable("two"), "another is not judged by it");
}

#[tokio::test]
async fn a_channel_that_works_again_is_found_out_while_its_messages_wait_and_they_are_told_at_once() {
    let office = Office::new(refuses);
    office.ask("user:corp/ann", "one", "/x");
    // Until the next try is further off than the next test. The seventh wait is at most 154 s, the eighth at least 204.
    for _ in 0..7 {
        drop(office.send().await);
        office.pass(160);
    }
    drop(office.send().await);
    let waits = office.post.inside().queue.values().next().unwrap().next;
    assert!(waits > later(office.post.now(), NOTIFY_PROBE * 2) && office.post.is_unavailable("one"));
    office.answer(takes);
    assert!(office.send().await.is_empty(), "it was tried just now");
    office.pass(31);
    let probed = office.send().await;
    assert!(probed.len() == 1 && probed[0].is_test(), "{probed:?}");
    assert!(!office.post.is_unavailable("one"));
    let told = office.send().await;
    assert!(told.len() == 1 && !told[0].is_test(), "{told:?}");
    assert_eq!(office.state("one").waiting, 0);
}

#[tokio::test]
async fn the_many_messages_of_one_subject_and_of_a_slow_channel_leave_room_for_others() {
    let office = Office::new(takes);
    for n in 0..NOTIFY_QUEUE_PER_SUBJECT_MAX {
        assert!(office.ask("user:corp/eve", "one", "/x"), "{n}");
    }
    assert!(!office.ask("user:corp/eve", "one", "/x") && office.post.lost() == 1);
    assert!(office.ask("user:corp/ann", "one", "/x"), "another subject");
    assert!(office.ask("user:corp/eve", "two", "/x"), "another channel");
    let mut subjects = 0;
    while office.ask(&format!("peer:{}", subjects / 100), "one", "/x") {
        subjects += 1;
    }
    assert_eq!(office.state("one").waiting, NOTIFY_QUEUE_MAX);
    assert!(office.ask("user:corp/ann", "two", "/x"), "a full channel fills no other");
}

#[tokio::test]
async fn a_subject_is_told_of_before_the_second_message_of_one_that_floods() {
    let office = Office::new(takes);
    for _ in 0..50 {
        office.ask("user:corp/eve", "one", "/x");
    }
    office.ask("user:corp/ann", "one", "/x");
    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(office.send().await.into_iter().map(|message| message.subject));
    }
    assert_eq!(order, ["user:corp/eve", "user:corp/ann", "user:corp/eve"]);
}
