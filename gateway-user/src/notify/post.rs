//! The outbox: keeps each message durably until it is taken, tries again within bounds, and lists what nobody took. One
//! channel that hangs keeps no other waiting.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify as Bell;

use super::{Channel, Dead, Message, Undelivered};
use crate::approval::{Change, Clock, Ledger, LedgerError, Listener, News, Row};
use crate::limits::{
    NOTIFY_ATTEMPTS_MAX, NOTIFY_BACKOFF_MAX, NOTIFY_BACKOFF_MIN, NOTIFY_DEAD_MAX, NOTIFY_FAILURES,
    NOTIFY_PROBE, NOTIFY_QUEUE_MAX, NOTIFY_QUEUE_PER_SUBJECT_MAX,
};

const QUEUE: &str = "notify/queue/";
const DEAD: &str = "notify/dead/";
/// First byte of a kept message: the form of the rest.
const FORM: u8 = 2;
/// The longest sleep between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Gives the channels of the policy in force: those of an `[[approval]]`, and one by its name.
pub trait Channels: Send + Sync {
    /// Names of the channels that hear of demands for this approval.
    fn of_approval(&self, approval: &str) -> Vec<String>;
    /// One channel.
    fn channel(&self, name: &str) -> Option<Box<dyn Channel>>;
    /// The names of all.
    fn names(&self) -> Vec<String>;
}

/// Why something asked of the outbox is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PostError {
    /// There is no such channel.
    #[error("no [[notify]] named {0} is in force")]
    NoChannel(String),
    /// There is no such message.
    #[error("no message {0} is on the list of the dead; see `tidegate notify dead`")]
    NoMessage(String),
    /// There is no room.
    #[error(
        "{NOTIFY_QUEUE_MAX} messages wait for {0} already, or {NOTIFY_QUEUE_PER_SUBJECT_MAX} about that subject; see `tidegate notify list`"
    )]
    Full(String),
    /// It was tried, and not taken.
    #[error("{0}")]
    Undelivered(#[from] Undelivered),
    /// It cannot be kept.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// How one channel does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelState {
    /// Its name.
    pub name: String,
    /// Messages that wait for it.
    pub waiting: usize,
    /// Tries that failed since the last one that did not.
    pub failures: u32,
    /// When a message was taken last.
    pub taken: Option<Timestamp>,
    /// When one was last tried in vain.
    pub tried: Option<Timestamp>,
    /// Why the last try failed, where it did.
    pub fault: Option<String>,
}

impl ChannelState {
    /// Whether nobody can be reached through it, as far as is known.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures >= NOTIFY_FAILURES
    }

    /// Whether it is time to find out if it works again.
    fn is_due(&self, now: Timestamp) -> bool {
        self.tried.is_none_or(|tried| later(tried, NOTIFY_PROBE) <= now)
    }
}

#[derive(Debug, Default)]
struct Inside {
    queue: BTreeMap<String, Message>,
    dead: BTreeMap<String, Dead>,
    states: HashMap<String, ChannelState>,
    /// Channels that a message is on its way to.
    busy: HashMap<String, Timestamp>,
    /// When which channel was told of which subject last, counted in messages.
    told: HashMap<(String, String), u64>,
    turns: u64,
    lost: u64,
}

impl Inside {
    /// Whether one more message about this subject may wait for this channel.
    fn has_room(&self, channel: &str, subject: &str) -> bool {
        let waiting = || self.queue.values().filter(|message| message.channel == channel);
        let of_subject = waiting().filter(|message| message.subject == subject).count();
        waiting().count() < NOTIFY_QUEUE_MAX && of_subject < NOTIFY_QUEUE_PER_SUBJECT_MAX
    }

    /// What is due, at most one message of each channel that has none on its way: of the subject that the channel was
    /// told of longest ago, so that the many of one keep no other's waiting.
    fn due(&mut self, now: Timestamp) -> Vec<Message> {
        let mut next: BTreeMap<&str, (u64, &Message)> = BTreeMap::new();
        for message in self.queue.values() {
            if message.next > now || self.busy.contains_key(&message.channel) {
                continue;
            }
            let turn = self.told.get(&(message.channel.clone(), message.subject.clone())).copied();
            let turn = turn.unwrap_or_default();
            let best = next.entry(&message.channel).or_insert((turn, message));
            if turn < best.0 {
                *best = (turn, message);
            }
        }
        let due: Vec<Message> = next.into_values().map(|(_, message)| message.clone()).collect();
        if self.told.len() >= NOTIFY_QUEUE_MAX {
            self.told.clear();
        }
        for message in &due {
            self.turns += 1;
            self.busy.insert(message.channel.clone(), now);
            self.told.insert((message.channel.clone(), message.subject.clone()), self.turns);
        }
        due
    }
}

/// The outbox. Clones share it.
#[derive(Clone)]
pub struct Post(Arc<Inner>);

struct Inner {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    channels: Box<dyn Channels>,
    inside: Mutex<Inside>,
    bell: Bell,
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("waiting", &self.inside().queue.len()).finish_non_exhaustive()
    }
}

impl Post {
    /// Opens the outbox on what an earlier run left.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn open(
        ledger: Arc<dyn Ledger>,
        clock: Clock,
        channels: Box<dyn Channels>,
    ) -> Result<Self, LedgerError> {
        let mut inside = Inside::default();
        for (key, bytes) in ledger.scan(QUEUE)? {
            match decode::<Message>(&bytes) {
                Ok(message) => drop(inside.queue.insert(key, message)),
                Err(error) => tracing::error!(%key, %error, "a kept message cannot be read; it is not sent"),
            }
        }
        for (key, bytes) in ledger.scan(DEAD)? {
            match decode::<Dead>(&bytes) {
                Ok(dead) => drop(inside.dead.insert(key, dead)),
                Err(error) => tracing::error!(%key, %error, "a kept message cannot be read"),
            }
        }
        Ok(Self(Arc::new(Inner { ledger, clock, channels, inside: Mutex::new(inside), bell: Bell::new() })))
    }

    /// Sends what is due until the task is dropped.
    pub async fn work(self) {
        let mut tries = tokio::task::JoinSet::new();
        loop {
            let due = self.take_due();
            for message in due {
                let post = self.clone();
                tries.spawn(async move { post.attempt(message).await });
            }
            tokio::select! {
                () = self.0.bell.notified() => {}
                Some(_) = tries.join_next() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// How each channel does.
    #[must_use]
    pub fn states(&self) -> Vec<ChannelState> {
        let inside = self.inside();
        let state = |name: String| {
            let waiting = inside.queue.values().filter(|message| message.channel == name).count();
            ChannelState { waiting, ..inside.states.get(&name).cloned().unwrap_or_else(|| named(&name)) }
        };
        self.0.channels.names().into_iter().map(state).collect()
    }

    /// Whether nobody can be told of a demand for this approval: it has channels, and all of them fail.
    #[must_use]
    pub fn is_unavailable(&self, approval: &str) -> bool {
        let names = self.0.channels.of_approval(approval);
        let inside = self.inside();
        let failing = |name: &String| inside.states.get(name).is_some_and(ChannelState::is_failing);
        !names.is_empty() && names.iter().all(failing)
    }

    /// What nobody took, the oldest first.
    #[must_use]
    pub fn dead(&self) -> Vec<Dead> {
        let mut dead: Vec<Dead> = self.inside().dead.values().cloned().collect();
        dead.sort_by(|a, b| (a.at, &a.message.id).cmp(&(b.at, &b.message.id)));
        dead
    }

    /// How many messages there was no room for.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.inside().lost
    }

    /// Tries those of this id again, from the list of the dead. Gives how many.
    ///
    /// # Errors
    /// There is none, no room, or it cannot be kept.
    pub async fn retry(&self, id: &str) -> Result<usize, PostError> {
        let now = self.now();
        let found: Vec<(String, Dead)> = {
            let inside = self.inside();
            let found = inside.dead.iter().filter(|(_, dead)| dead.message.id == id);
            found.map(|(key, dead)| (key.clone(), dead.clone())).collect()
        };
        if found.is_empty() {
            return Err(PostError::NoMessage(id.to_owned()));
        }
        for (key, dead) in &found {
            if !self.inside().has_room(&dead.message.channel, &dead.message.subject) {
                return Err(PostError::Full(dead.message.channel.clone()));
            }
            let message = Message { attempts: 0, next: now, ..dead.message.clone() };
            let row = row(&message)?;
            let change = Change { put: vec![row.clone()], remove: vec![key.clone()], said: None };
            self.0.ledger.write(change).await?;
            self.inside().dead.remove(key);
            self.kept(vec![row]);
        }
        Ok(found.len())
    }

    /// Sends a test message at once, and waits for what becomes of it.
    ///
    /// # Errors
    /// There is no such channel, or it was not taken.
    pub async fn test(&self, name: &str) -> Result<(), PostError> {
        let now = self.now();
        let channel = self.0.channels.channel(name).ok_or_else(|| PostError::NoChannel(name.to_owned()))?;
        let outcome = channel.deliver(&Message::test(name, now), now).await;
        self.note(name, &outcome);
        Ok(outcome?)
    }

    /// What is due now, at most one message of each channel that has none on its way; a test for one that fails, also
    /// while its messages wait for another try.
    fn take_due(&self) -> Vec<Message> {
        let now = self.now();
        let mut inside = self.inside();
        let mut due = inside.due(now);
        let Inside { states, busy, .. } = &mut *inside;
        for (name, state) in states.iter().filter(|(_, state)| state.is_failing()) {
            if !busy.contains_key(name) && self.0.channels.names().contains(name) && state.is_due(now) {
                busy.insert(name.clone(), now);
                due.push(Message::test(name, now));
            }
        }
        due
    }

    async fn deliver(&self, message: &Message) -> Result<(), Undelivered> {
        match self.0.channels.channel(&message.channel) {
            Some(channel) => channel.deliver(message, self.now()).await,
            None => Err(Undelivered::Never("the policy has no such [[notify]] any more".into())),
        }
    }

    async fn attempt(&self, mut message: Message) {
        let outcome = self.deliver(&message).await;
        // A message may be refused for what it says, in which whoever asks has a hand. Whether anybody can be reached is
        // judged by one of which every word is ours.
        let judged = match &outcome {
            Err(_) if !message.is_test() => self.deliver(&Message::test(&message.channel, self.now())).await,
            _ => outcome.clone(),
        };
        self.note(&message.channel, &judged);
        if let (Err(why), Ok(())) = (&outcome, &judged) {
            self.inside()
                .states
                .entry(message.channel.clone())
                .and_modify(|state| state.fault = Some(why.to_string()));
        }
        let key = key(&message);
        let kept = self.inside().queue.contains_key(&key);
        let result = match outcome {
            _ if !kept => Ok(()),
            Ok(()) => {
                self.0.ledger.write(Change { remove: vec![key.clone()], ..Change::default() }).await.map(
                    |()| {
                        self.inside().queue.remove(&key);
                    },
                )
            }
            Err(Undelivered::Later(_)) if message.attempts + 1 < NOTIFY_ATTEMPTS_MAX => {
                message.attempts += 1;
                message.next = later(self.now(), backoff(message.attempts));
                self.again(message.clone()).await
            }
            Err(Undelivered::Later(why) | Undelivered::Never(why)) => self.bury(message.clone(), why).await,
        };
        if let Err(error) = result {
            tracing::error!(channel = %message.channel, id = %message.id, %error, "what became of a message could not be kept");
            // It is tried again later, and may be heard twice.
            if let Some(kept) = self.inside().queue.get_mut(&key) {
                kept.next = later(self.now(), NOTIFY_BACKOFF_MAX);
            }
        }
        self.inside().busy.remove(&message.channel);
    }

    async fn again(&self, message: Message) -> Result<(), LedgerError> {
        self.0.ledger.write(Change { put: vec![row(&message)?], ..Change::default() }).await?;
        self.inside().queue.insert(key(&message), message);
        Ok(())
    }

    /// Gives a message up. Of a full list the oldest goes.
    async fn bury(&self, message: Message, why: String) -> Result<(), LedgerError> {
        tracing::error!(channel = %message.channel, id = %message.id, %why, "a message is given up; see `tidegate notify dead`");
        let (from, to) = (key(&message), format!("{DEAD}{}/{}", message.channel, message.id));
        let dead = Dead { message, at: self.now(), why };
        let oldest = {
            let inside = self.inside();
            let full = inside.dead.len() >= NOTIFY_DEAD_MAX && !inside.dead.contains_key(&to);
            full.then(|| inside.dead.iter().min_by_key(|(_, dead)| dead.at).map(|(key, _)| key.clone()))
                .flatten()
        };
        let remove = std::iter::once(from.clone()).chain(oldest.clone()).collect();
        self.0.ledger.write(Change { put: vec![(to.clone(), encode(&dead)?)], remove, said: None }).await?;
        let mut inside = self.inside();
        inside.queue.remove(&from);
        oldest.map(|oldest| inside.dead.remove(&oldest));
        inside.dead.insert(to, dead);
        Ok(())
    }

    fn note(&self, name: &str, outcome: &Result<(), Undelivered>) {
        let now = self.now();
        let mut inside = self.inside();
        let Inside { states, queue, .. } = &mut *inside;
        let state = states.entry(name.to_owned()).or_insert_with(|| named(name));
        match outcome {
            Ok(()) => {
                if state.is_failing() {
                    tracing::info!(channel = %name, "notifications are taken again");
                    // What waited for a channel that did not work need not wait on.
                    let waiting = queue.values_mut().filter(|message| message.channel == name);
                    waiting.for_each(|message| message.next = message.next.min(now));
                }
                (state.failures, state.taken, state.fault) = (0, Some(now), None);
            }
            Err(why) => {
                state.failures = state.failures.saturating_add(1);
                if state.failures == NOTIFY_FAILURES {
                    tracing::error!(channel = %name, %why, "notifications are not taken; approvers may not hear of what waits");
                }
                state.fault = Some(why.to_string());
                state.tried = Some(now);
            }
        }
    }

    fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Post {
    fn rows(&self, news: &News<'_>) -> Vec<Row> {
        let now = self.now();
        let mut names: Vec<String> =
            news.demand.approvals.iter().flat_map(|approval| self.0.channels.of_approval(approval)).collect();
        names.sort();
        names.dedup();
        let mut inside = self.inside();
        names.retain(|name| {
            let room = inside.has_room(name, &news.demand.asker.key);
            if !room {
                inside.lost += 1;
                tracing::error!(demand = %news.demand.id, channel = %name, "too many messages wait; it is not told of this one");
            }
            room
        });
        drop(inside);
        let messages = names.into_iter().map(|name| Message::of(news, &name, now));
        messages.filter_map(|message| row(&message).ok()).collect()
    }

    fn kept(&self, rows: Vec<Row>) {
        let read = |(key, bytes): Row| decode::<Message>(&bytes).ok().map(|message| (key, message));
        self.inside().queue.extend(rows.into_iter().filter_map(read));
        self.0.bell.notify_one();
    }
}

fn named(name: &str) -> ChannelState {
    ChannelState { name: name.to_owned(), ..ChannelState::default() }
}

fn key(message: &Message) -> String {
    format!("{QUEUE}{}/{}", message.channel, message.id)
}

fn row(message: &Message) -> Result<Row, LedgerError> {
    Ok((key(message), encode(message)?))
}

fn encode(what: &impl serde::Serialize) -> Result<Vec<u8>, LedgerError> {
    postcard::to_extend(what, vec![FORM]).map_err(|error| LedgerError(error.to_string()))
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, LedgerError> {
    match bytes {
        [FORM, rest @ ..] => postcard::from_bytes(rest).map_err(|error| LedgerError(error.to_string())),
        _ => Err(LedgerError("it was written by another version".into())),
    }
}

/// Twice as long each time, within the bounds, and a fifth more or less so that not all come at once.
fn backoff(attempts: u32) -> Duration {
    let doubled =
        NOTIFY_BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(NOTIFY_BACKOFF_MAX);
    let mut byte = [0];
    // Without random numbers there is no jitter, and nothing else is lost.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    doubled.mul_f64(0.8 + 0.4 * f64::from(byte[0]) / 255.0)
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
