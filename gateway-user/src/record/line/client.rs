//! The enforcer's end: hands over without blocking, in batches, and gives each answer to whom it is for. Finds the next
//! recorder when one is gone. Bounded as the writer's own queue is; what does not fit is refused at once.

use std::io::{self, Write};
use std::mem;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::state::{Seen, State, Waiting};
use super::{Ask, Frames, Said, pack, pack_onto};
use crate::limits;
use crate::record::desk::{Answer, now, weigh};
use crate::record::entry::Event;
use crate::record::journal::StateOp;
use crate::record::operations::{Look, Looked, Recorded};
use crate::record::{Health, RecordError, Row, Stats, Upkept};

/// Gives a line to a recorder. Blocks.
pub type Connect = Box<dyn Fn() -> io::Result<UnixStream> + Send + Sync>;

/// How often a recorder is looked for, and how often it is asked whether it still answers.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a sender looks whether more is handed over at the moment.
const GATHERED: usize = 8;
/// What a frame has beside what it carries: lengths and a time.
const FRAME_ROOM: usize = 64;
/// Bytes that a sender's buffers keep between two writes: what a crowd hands over at once.
const KEPT_BYTES: usize = 1024 * 1024;
/// Parts of an answer that wait for who asked. One that is behind by more has given up, and is told so by the silence.
const PARTS_MAX: usize = 4096;
/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// What a recorder that answers at all says by then: it notices a disk that hangs by itself.
const SILENCE_MAX: Duration = limits::COMMIT_TIMEOUT.saturating_add(Duration::from_secs(2));

/// A handle on the line. Dropping it hands over what waits and ends its threads.
#[derive(Debug)]
pub(in crate::record) struct Line(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to send, or the line shall end.
    work: Condvar,
    /// The line has ended.
    done: Condvar,
    connect: Connect,
    /// One look at a time.
    looking: Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared(..)")
    }
}

impl Line {
    /// Opens the record behind this line. Blocks until it is open.
    pub(in crate::record) fn open(connect: Connect) -> Result<Self, RecordError> {
        let first = greet(&connect, &|| false)?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            connect,
            looking: Mutex::default(),
        });
        let mine = Arc::clone(&shared);
        let started = thread::Builder::new().name("record-line".to_owned()).spawn(move || mine.run(first));
        started.map_err(|error| RecordError::Unavailable(error.to_string().into()))?;
        Ok(Self(shared))
    }

    pub(in crate::record) fn append(
        &self,
        state: Vec<StateOp>,
        events: Vec<Event>,
        patience: Duration,
    ) -> Result<oneshot::Receiver<Answer>, RecordError> {
        let bytes = weigh(&state, &events)?;
        let count = state.len() + events.len();
        let patience = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
        // Packed before the lock: who hands over at the same time does not wait for it.
        let ask = Ask::Append { state, events, patience };
        // It takes no more than it weighs, but for the frame about it.
        let mut frame = Vec::with_capacity(bytes + FRAME_ROOM);
        let packed = pack_onto(&mut frame, &ask).map_err(|_| too_large(bytes));
        let Ask::Append { events, .. } = ask else { return Err(RecordError::Closed) };
        let mut line = self.0.state();
        if let Err(refusal) = packed.and_then(|()| line.refusal(&events, count, bytes).map_or(Ok(()), Err)) {
            line.refused += count as u64;
            if line.owing.flows + line.owing.operations == 0 && line.owing.ends.is_empty() {
                line.since = now();
            }
            line.owing.lose(events);
            return Err(refusal);
        }
        let (waiter, receiver) = oneshot::channel();
        line.waiting.push_back(Waiting {
            waiter,
            events: count,
            bytes,
            flows: count_of(&events, |event| matches!(event, Event::SessionOpened(_))),
            operations: count_of(&events, |event| matches!(event, Event::Intent(_))),
            sent: Instant::now(),
        });
        line.queued_events += count;
        line.queued_bytes += bytes;
        line.send(&frame, &self.0.work);
        Ok(receiver)
    }

    pub(in crate::record) fn scan(&self, prefix: &[u8]) -> Result<Vec<Row>, RecordError> {
        let (answer, answered) = mpsc::sync_channel(PARTS_MAX);
        {
            let mut line = self.0.state();
            line.is_up()?;
            line.scans.push_back(answer);
            let frame = pack(&Ask::Scan(prefix.to_vec())).map_err(|_| too_large(prefix.len()))?;
            line.send(&frame, &self.0.work);
        }
        let mut rows = Vec::new();
        loop {
            let part = answered.recv_timeout(SILENCE_MAX).map_err(|_| silent())?;
            let (some, last) = part.map_err(|why| RecordError::Unavailable(why.into()))?;
            rows.extend(some);
            if last {
                return Ok(rows);
            }
        }
    }

    pub(in crate::record) fn operations(
        &self,
        look: Look,
        take: &mut dyn FnMut(Recorded) -> bool,
    ) -> Result<Looked, RecordError> {
        let _alone = self.0.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, answered) = mpsc::sync_channel(PARTS_MAX);
        {
            let mut line = self.0.state();
            line.is_up()?;
            line.looks += 1;
            let number = line.looks;
            line.look = Some((number, answer));
            let within = look.ends.map(|ends| ends.saturating_duration_since(Instant::now()));
            let ask = Ask::Operations {
                number,
                since: look.since,
                limit: look.limit as u64,
                within: within.map(|within| u32::try_from(within.as_millis()).unwrap_or(u32::MAX)),
            };
            let frame = pack(&ask).map_err(|_| too_large(0))?;
            line.send(&frame, &self.0.work);
        }
        let looked = loop {
            match answered.recv_timeout(limits::WEIGHING_TIMEOUT + SILENCE_MAX).map_err(|_| silent()) {
                Err(error) => break Err(error),
                Ok(Seen::Some(some)) => {
                    if !some.into_iter().all(&mut *take) {
                        break Ok(Looked::CutShort);
                    }
                }
                Ok(Seen::Over(Ok(short))) => break Ok(if short { Looked::CutShort } else { Looked::Whole }),
                Ok(Seen::Over(Err(why))) => break Err(RecordError::Unavailable(why.into())),
            }
        };
        self.0.state().look = None;
        looked
    }

    pub(in crate::record) fn health(&self) -> Health {
        let line = self.0.state();
        let vital = || line.vitals.down.as_deref().map(Arc::from);
        line.down.clone().or_else(vital).map_or(Health::Up, Health::Down)
    }

    pub(in crate::record) fn stats(&self) -> Stats {
        let line = self.0.state();
        let told = line.vitals.stats;
        Stats { waiting: line.queued_events as u64, refused: told.refused + line.refused, ..told }
    }

    pub(in crate::record) fn upkeep(&self) -> Upkept {
        self.0.state().vitals.upkeep.clone()
    }

    /// Hands over what waits, and waits for the record to be closed; at most [`limits::COMMIT_TIMEOUT`].
    pub(in crate::record) fn close(&self) {
        let mut line = self.0.state();
        line.closing = true;
        self.0.work.notify_all();
        let bound = Instant::now() + limits::COMMIT_TIMEOUT;
        while !line.closed {
            let Some(left) = bound.checked_duration_since(Instant::now()) else { break };
            line = self.0.done.wait_timeout(line, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}

fn count_of(events: &[Event], which: impl Fn(&Event) -> bool) -> u64 {
    events.iter().filter(|event| which(event)).count() as u64
}

fn too_large(bytes: usize) -> RecordError {
    RecordError::TooLarge { what: "an append", bytes, max: limits::RECORD_FRAME_BYTES_MAX }
}

fn silent() -> RecordError {
    RecordError::Unavailable("the recorder does not answer".into())
}

/// A line to a recorder that has opened the record.
fn greet(connect: &Connect, is_over: &dyn Fn() -> bool) -> Result<(UnixStream, Frames), RecordError> {
    let failed = |error: io::Error| RecordError::Unavailable(format!("no recorder: {error}").into());
    let stream = connect().map_err(failed)?;
    stream.set_read_timeout(Some(LOOK_EVERY)).map_err(failed)?;
    let mut frames = Frames::default();
    loop {
        match frames.message().map_err(|error| failed(io::Error::other(error)))? {
            Some(Said::Opened) => break,
            Some(Said::Failed(why)) => return Err(RecordError::Unavailable(why.into())),
            Some(_) => return Err(failed(io::ErrorKind::InvalidData.into())),
            None if is_over() => return Err(RecordError::Closed),
            None => match frames.fill(&stream, READ_BYTES) {
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                // It opens the record, which may be large.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(failed(error)),
            },
        }
    }
    Ok((stream, frames))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line after the other, until it is closed.
    fn run(self: Arc<Self>, first: (UnixStream, Frames)) {
        let mut next = Some(first);
        while let Some((stream, frames)) = next.take() {
            let line = self.state().line;
            let sending = stream.try_clone().and_then(|stream| {
                let mine = Arc::clone(&self);
                let sender = thread::Builder::new().name("record-send".to_owned());
                sender.spawn(move || mine.send(stream, line))
            });
            match sending {
                Ok(sending) => {
                    self.hear(&stream, frames);
                    drop(stream.shutdown(Shutdown::Both));
                    self.cut();
                    drop(sending.join());
                }
                Err(error) => error!(%error, "the record cannot be written to"),
            }
            next = self.again();
        }
        let mut line = self.state();
        line.closed = true;
        line.go_down(&"it is closed".into());
        self.done.notify_all();
    }

    /// This line is gone: all that was sent over it, and was not answered.
    fn cut(&self) {
        let mut line = self.state();
        line.line += 1;
        if !line.closing {
            line.go_down(&"the recorder is gone".into());
        }
        line.given_up = 0;
        line.out.clear();
        line.scans.clear();
        // Whatever was open is closed in the record by the next one.
        line.owing.ends.clear();
        self.work.notify_all();
    }

    /// The next recorder. `None` when the line shall end.
    fn again(&self) -> Option<(UnixStream, Frames)> {
        let mut told: Option<String> = None;
        loop {
            if self.state().closing {
                return None;
            }
            match greet(&self.connect, &|| self.state().closing) {
                Ok(next) => {
                    let mut line = self.state();
                    line.down = None;
                    line.owing.ends.clear();
                    info!(
                        flows = line.owing.flows,
                        operations = line.owing.operations,
                        "the record is written again"
                    );
                    return Some(next);
                }
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        warn!(%error, "there is no recorder yet");
                        told = Some(error);
                    }
                }
            }
            let line = self.state();
            drop(self.work.wait_timeout(line, LOOK_EVERY));
        }
    }

    /// Sends what waits, until this is no longer the line, or it shall end.
    fn send(&self, mut stream: UnixStream, line: u64) {
        let mut frames = Vec::new();
        loop {
            frames.clear();
            frames.shrink_to(KEPT_BYTES);
            {
                let mut state = self.state();
                loop {
                    if state.line != line {
                        return;
                    }
                    if !state.out.is_empty() {
                        break self.gathered(state, &mut frames);
                    }
                    if state.down.is_none() && state.owed(&mut frames) {
                        break;
                    }
                    if state.closing {
                        // The recorder reads to the end, answers all of it, and closes the record.
                        drop(stream.shutdown(Shutdown::Write));
                        return;
                    }
                    let waited = self.work.wait_timeout(state, LOOK_EVERY);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
            if stream.write_all(&frames).is_err() {
                // Who hears finds out, too.
                return;
            }
        }
    }

    /// All that is to be sent: those who were answered together hand over together, so a few moments bring many of them.
    fn gathered<'s>(&'s self, mut state: MutexGuard<'s, State>, frames: &mut Vec<u8>) {
        for _ in 0..GATHERED {
            let before = state.out.len();
            drop(state);
            thread::yield_now();
            state = self.state();
            if state.out.len() == before {
                break;
            }
        }
        mem::swap(&mut state.out, frames);
    }

    /// Gives answers to whom they are for, until the line is gone.
    fn hear(&self, stream: &UnixStream, mut frames: Frames) {
        let mut durable = Vec::new();
        loop {
            loop {
                match frames.message::<Said>() {
                    Ok(Some(Said::Written(count))) => {
                        self.state().written(count, &mut durable);
                        // Not under the lock: who is woken hands over the next.
                        durable.drain(..).for_each(|waiter| drop(waiter.send(Ok(()))));
                    }
                    Ok(Some(said)) => self.state().heard(said),
                    Ok(None) => break,
                    Err(error) => return error!(%error, "the recorder is not understood"),
                }
            }
            match frames.fill(stream, READ_BYTES) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
            let mut line = self.state();
            if line.waiting.front().is_some_and(|first| first.sent.elapsed() > SILENCE_MAX) {
                line.go_down(&format!("the recorder has not answered for {SILENCE_MAX:?}").into());
            }
        }
    }
}
