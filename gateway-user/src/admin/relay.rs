//! The line between admin, the process that operators talk to, and the enforcer: verbs one way, what became of them the
//! other. A frame is its length, four bytes, and the message. Neither end waits for ever, and what is no message ends the line.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::verb::{
    Doing, Gate, OUTCOME_BYTES_MAX, Outcome, Refusal, Verb, pack_outcome, pack_verb, unpack_outcome,
    unpack_verb,
};
use crate::limits::{ADMIN_CONNECTIONS_MAX, VERB_BYTES_MAX, VERB_TIMEOUT};
use crate::record::line::vouch::{NotVouched, Voucher};
use crate::record::warrant::Deed;

/// How long a verb waits for an enforcer, or a recorder, that is being started.
const LINE_AWAITED: Duration = Duration::from_secs(5);

/// Does the verbs that come over this line, until its other end is gone.
///
/// # Errors
/// The line broke, or carried something that is no verb.
pub async fn serve(line: UnixStream, gate: Arc<dyn Gate>) -> io::Result<()> {
    let (mut reading, writing) = line.into_split();
    let writing = Arc::new(tokio::sync::Mutex::new(writing));
    let rooms = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    // What still runs when the line is gone is not told to anybody; what it does goes on to its end.
    let mut doing = JoinSet::new();
    loop {
        while doing.try_join_next().is_some() {}
        let room = Arc::clone(&rooms).acquire_owned().await.map_err(io::Error::other)?;
        let Some(bytes) = frame(&mut reading, VERB_BYTES_MAX).await? else { return Ok(()) };
        let garbled = || io::Error::new(io::ErrorKind::InvalidData, "admin said something that is no verb");
        let (number, verb) = unpack_verb(&bytes).ok_or_else(garbled)?;
        let (gate, writing) = (Arc::clone(&gate), Arc::clone(&writing));
        doing.spawn(async move {
            let outcome = gate.perform(verb).await;
            let packed = pack_outcome(number, &outcome).or_else(|error| {
                let too_long = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
                pack_outcome(number, &Err(too_long))
            });
            if let Ok(packed) = packed
                && let Err(error) = send(&mut *writing.lock().await, &packed).await
            {
                tracing::debug!(%error, "an answer did not reach admin");
            }
            drop(room);
        });
    }
}

/// The next frame; `None` where the other end is gone.
async fn frame(reading: &mut OwnedReadHalf, max: usize) -> io::Result<Option<Vec<u8>>> {
    let length = match reading.read_u32_le().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length as usize > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than any may be"));
    }
    let mut bytes = Vec::new();
    // Room is made as it comes: a length is only a claim.
    reading.take(length.into()).read_to_end(&mut bytes).await?;
    Ok((bytes.len() == length as usize).then_some(bytes))
}

async fn send(writing: &mut OwnedWriteHalf, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    writing.write_all(&length.to_le_bytes()).await?;
    writing.write_all(message).await
}

/// The gate behind lines to enforcer and recorder, which come and go.
#[derive(Debug, Clone)]
pub struct Relay(Arc<Lines>);

#[derive(Debug)]
struct Lines {
    enforcer: watch::Sender<Option<Arc<Far>>>,
    recorder: watch::Sender<Option<Arc<Voucher>>>,
    /// The line to the recorder is of no use any more.
    broken: Arc<Notify>,
    /// Verbs under way, also of callers that have left.
    rooms: Arc<Semaphore>,
}

impl Default for Relay {
    fn default() -> Self {
        Self(Arc::new(Lines {
            enforcer: watch::Sender::new(None),
            recorder: watch::Sender::new(None),
            broken: Arc::default(),
            rooms: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)),
        }))
    }
}

impl Relay {
    /// From here on that is the enforcer; `None` until it is gone. Needs a tokio runtime.
    pub fn enforcer(&self, line: UnixStream) {
        let (reading, writing) = line.into_split();
        let (out, to_send) = mpsc::channel(ADMIN_CONNECTIONS_MAX);
        let far = Arc::new(Far {
            out,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            gone: CancellationToken::new(),
        });
        tokio::spawn(send_all(writing, to_send));
        let (hearing, relay) = (Arc::clone(&far), self.clone());
        // In its place before it is heard: it may end at once.
        self.0.enforcer.send_replace(Some(far));
        tokio::spawn(async move {
            hearing.hear(reading).await;
            relay.0.enforcer.send_if_modified(|now| {
                let ended = now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &hearing));
                if ended {
                    *now = None;
                }
                ended
            });
            hearing.gone.cancel();
        });
    }

    /// From here on warrants go there.
    pub fn recorder(&self, line: Voucher) {
        self.0.recorder.send_replace(Some(Arc::new(line)));
    }

    /// Told when another line to the recorder is needed.
    #[must_use]
    pub fn broken(&self) -> Arc<Notify> {
        Arc::clone(&self.0.broken)
    }

    async fn perform(self, verb: Verb) -> Outcome {
        let until = Instant::now() + VERB_TIMEOUT;
        let nobody = "no enforcer runs just now; nothing was done, ask again in a moment";
        let far = there(&self.0.enforcer).await.ok_or_else(|| Refusal::unavailable(nobody))?;
        let warrant = match verb.deed() {
            Some(deed) => Some(self.vouch(deed, until).await?),
            None => None,
        };
        let outcome = far.ask(&verb, until).await;
        if let Some((recorder, number)) = warrant {
            // Used or not: from here on the enforcer has nothing to show for it. Whoever asked need not wait for that.
            tokio::task::spawn_blocking(move || recorder.lapse(number));
        }
        outcome
    }

    /// Tells the recorder what the enforcer is about to be asked for; the next one, where this one is gone.
    async fn vouch(&self, deed: Deed, until: Instant) -> Result<(Arc<Voucher>, u64), Refusal> {
        let failed = |why: &str| {
            Refusal::unavailable(format!(
                "the recorder cannot be told of it ({why}); nothing was done, ask again"
            ))
        };
        let mut why = "there is none".to_owned();
        for _ in 0..2 {
            let recorder = there(&self.0.recorder).await.ok_or_else(|| failed(&why))?;
            let (telling, deed) = (Arc::clone(&recorder), deed.clone());
            let told = tokio::task::spawn_blocking(move || telling.deposit(deed, until)).await;
            match told.map_err(|error| failed(&error.to_string()))? {
                Ok(number) => return Ok((recorder, number)),
                Err(NotVouched::Refused(refused)) => return Err(failed(&refused)),
                Err(NotVouched::Broken(error)) => {
                    why = error.to_string();
                    self.forget(&recorder);
                }
            }
        }
        Err(failed(&why))
    }

    /// That line to the recorder is of no use any more: another one is to come.
    fn forget(&self, recorder: &Arc<Voucher>) {
        self.0.recorder.send_if_modified(|now| {
            let was = now.take_if(|now| Arc::ptr_eq(now, recorder)).is_some();
            if was {
                self.0.broken.notify_one();
            }
            was
        });
    }
}

impl Gate for Relay {
    fn perform(self: Arc<Self>, verb: Verb) -> Doing {
        let relay = Self::clone(&self);
        Box::pin(async move {
            let rooms = Arc::clone(&relay.0.rooms);
            let Ok(room) = rooms.try_acquire_owned() else {
                return Err(Refusal::unavailable("too much is asked at once; ask again in a moment"));
            };
            // Goes on to its end also when the caller leaves: a warrant lapses when its verb is done.
            let done = tokio::spawn(async move {
                let outcome = relay.perform(verb).await;
                drop(room);
                outcome
            })
            .await;
            done.unwrap_or_else(|error| Err(Refusal::unavailable(error.to_string())))
        })
    }
}

/// What is there, or comes in time.
async fn there<T>(line: &watch::Sender<Option<Arc<T>>>) -> Option<Arc<T>> {
    let mut now = line.subscribe();
    let come = tokio::time::timeout(LINE_AWAITED, now.wait_for(Option::is_some)).await;
    come.ok()?.ok()?.clone()
}

/// One enforcer, at the other end.
#[derive(Debug)]
struct Far {
    out: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Box<Outcome>>>>,
    next: AtomicU64,
    gone: CancellationToken,
}

impl Far {
    async fn ask(&self, verb: &Verb, until: Instant) -> Outcome {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let too_long =
            |error: super::verb::TooLong| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string());
        let packed = pack_verb(number, verb).map_err(too_long)?;
        let (answer, answered) = oneshot::channel();
        self.waiting().insert(number, answer);
        let asked = async {
            self.out.send(packed).await.ok()?;
            tokio::select! {
                answered = answered => answered.ok(),
                () = self.gone.cancelled() => None,
            }
        };
        let outcome = tokio::time::timeout_at(until.into(), asked).await;
        self.waiting().remove(&number);
        match outcome {
            Ok(Some(outcome)) => *outcome,
            Ok(None) => Err(Refusal::unavailable(
                "the enforcer ended before it answered; see what it did, then ask again",
            )),
            Err(_) => {
                let late =
                    "the enforcer has not answered in time; it may yet do it: look, before you ask again";
                Err(Refusal::unavailable(late))
            }
        }
    }

    /// Hands outcomes to those who asked, until the enforcer is gone.
    async fn hear(&self, mut reading: OwnedReadHalf) {
        loop {
            let outcome = match frame(&mut reading, OUTCOME_BYTES_MAX).await {
                Ok(Some(bytes)) => unpack_outcome(&bytes),
                Ok(None) => return,
                Err(error) => return tracing::error!(%error, "the line to the enforcer"),
            };
            let Some((number, outcome)) = outcome else {
                return tracing::error!(
                    "the enforcer said something that is no answer; nothing more is asked"
                );
            };
            let asked = self.waiting().remove(&number);
            // Who no longer waits has dropped the other end.
            drop(asked.map(|asked| asked.send(Box::new(outcome))));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Box<Outcome>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one message after the other, each whole, until nobody has any or nobody hears.
async fn send_all(mut writing: OwnedWriteHalf, mut messages: mpsc::Receiver<Vec<u8>>) {
    while let Some(message) = messages.recv().await {
        if let Err(error) = send(&mut writing, &message).await {
            return tracing::debug!(%error, "a verb did not reach the enforcer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::verb::Answer;
    use crate::record::line::vouch;
    use crate::record::warrant::Warrants;

    /// Answers with what it was asked, as text; remembers it.
    #[derive(Default)]
    struct Echo(Mutex<Vec<Verb>>);

    impl Gate for Echo {
        fn perform(self: Arc<Self>, verb: Verb) -> Doing {
            let said = format!("{verb:?}");
            self.0.lock().unwrap().push(verb);
            Box::pin(std::future::ready(Ok(Answer::Metrics(said))))
        }
    }

    fn text(outcome: Outcome) -> String {
        match outcome {
            Ok(Answer::Metrics(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(relay: &Relay, verb: Verb) -> Outcome {
        Gate::perform(Arc::new(relay.clone()), verb).await
    }

    fn lift() -> Verb {
        Verb::Lift { subject: "uid:7".parse().unwrap(), by: "root".into() }
    }

    #[tokio::test]
    async fn each_verb_gets_its_own_answer_also_by_way_of_the_next_enforcer() {
        let (relay, gate) = (Relay::default(), Arc::new(Echo::default()));
        for _ in 0..2 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let serving = tokio::spawn(serve(theirs, gate.clone()));
            relay.enforcer(ours);
            let asked = (0..40).map(|n| {
                let relay = relay.clone();
                tokio::spawn(async move { (n, text(ask(&relay, Verb::Test(format!("c{n}"))).await)) })
            });
            for asked in asked.collect::<Vec<_>>() {
                let (n, said) = asked.await.unwrap();
                assert_eq!(said, format!("Test(\"c{n}\")"));
            }
            serving.abort();
        }
    }

    #[tokio::test]
    async fn an_enforcer_that_goes_or_says_something_else_leaves_nobody_waiting() {
        let relay = Relay::default();
        for garbage in [&[0xff; 64][..], &[9, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, b'x'], &[]] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            relay.enforcer(ours);
            let (relay, begun) = (relay.clone(), std::time::Instant::now());
            let asked = tokio::spawn(async move { ask(&relay, Verb::Status).await });
            // It has been asked.
            theirs.read_u32_le().await.unwrap();
            theirs.write_all(garbage).await.unwrap();
            if garbage.is_empty() {
                drop(theirs);
            }
            let refusal = asked.await.unwrap().unwrap_err();
            assert!(refusal.is(StatusCode::SERVICE_UNAVAILABLE) && begun.elapsed() < VERB_TIMEOUT);
        }
    }

    #[tokio::test]
    async fn what_is_no_verb_ends_the_line_and_nothing_is_done() {
        for garbage in [&[0xff; 64][..], &[9, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xff]] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let gate = Arc::new(Echo::default());
            ours.write_all(garbage).await.unwrap();
            assert!(serve(theirs, gate.clone()).await.is_err());
            assert!(gate.0.lock().unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn what_a_human_does_is_vouched_for_first_or_not_done() {
        let (relay, gate) = (Relay::default(), Arc::new(Echo::default()));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = tokio::spawn(serve(theirs, gate.clone()));
        relay.enforcer(ours);
        // A recorder that is gone.
        let (line, _) = std::os::unix::net::UnixStream::pair().unwrap();
        relay.recorder(Voucher::over(line).unwrap());
        let refusal = ask(&relay, lift()).await.unwrap_err();
        assert!(refusal.is(StatusCode::SERVICE_UNAVAILABLE), "{refusal:?}");
        assert!(gate.0.lock().unwrap().is_empty(), "the enforcer was not asked");
        // What no human is named for is none of its business.
        assert_eq!(text(ask(&relay, Verb::Blocks).await), "Blocks");
        let (line, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let warrants = Arc::new(Warrants::default());
        let known = Arc::clone(&warrants);
        let taking = std::thread::spawn(move || vouch::take(&theirs, &known));
        relay.recorder(Voucher::over(line).unwrap());
        assert!(text(ask(&relay, lift()).await).starts_with("Lift"));
        serving.abort();
        drop(relay);
        tokio::task::spawn_blocking(move || taking.join()).await.unwrap().unwrap().unwrap();
        let at = 1;
        let lifted = crate::record::entry::Unblocked { at, subject: "uid:7".into(), by: "root".into() };
        let lifted = crate::record::entry::Event::Unblocked(lifted);
        assert!(!warrants.cover(&[lifted]), "it lapsed with its verb");
    }
}
