//! The recorder's end: takes what an enforcer hands over, and answers when it is durable. Believes nothing of it that is
//! the writer's own to say, and ends the line at the first thing that is no message.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Ask, Frames, Said, Vitals, pack};
use crate::limits::{self, NAME_BYTES_MAX};
use crate::record::desk::{now, weigh};
use crate::record::entry::{Event, Intent, Micros, SessionOpened};
use crate::record::operations::{Look, Looked};
use crate::record::warrant::{self, Deed, Warrants};
use crate::record::{Durable, Health, RecordError, Recorder, Row};

/// Bytes of one read: what a busy enforcer hands over at once.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of rows, and operations, that one message carries.
const PART_BYTES: usize = 512 * 1024;
const PART_OPERATIONS: usize = 64;
/// How often the enforcer is told how the record is.
const VITALS_EVERY: Duration = Duration::from_millis(200);

/// Serves one enforcer until its end of the line is gone. Blocks; the record is still open afterwards.
///
/// # Errors
/// The line broke, or carried something that is no message.
pub(in crate::record) fn serve(
    recorder: &Recorder,
    stream: &UnixStream,
    warrants: &Arc<Warrants>,
) -> io::Result<()> {
    let mouth = Arc::new(Mouth(Mutex::new(stream.try_clone()?)));
    mouth.say(&Said::Opened)?;
    let (taken, answering) = mpsc::sync_channel(limits::JOURNAL_QUEUE_MAX);
    let (answered, says) = (recorder.clone(), Arc::clone(&mouth));
    let answers = thread::Builder::new().name("record-answer".to_owned());
    let answers = answers.spawn(move || answer(&answered, &says, &answering))?;
    let warrants = Arc::clone(warrants);
    let ear = Ear { recorder: recorder.clone(), mouth, looking: Arc::default(), taken, warrants };
    let heard = ear.listen(stream);
    // All that was handed over is answered, or nobody hears it any more.
    drop(answers.join());
    heard
}

/// Tells an enforcer that the record cannot be opened.
///
/// # Errors
/// It does not hear.
pub fn fail(stream: &UnixStream, why: &str) -> io::Result<()> {
    Mouth(Mutex::new(stream.try_clone()?)).say(&Said::Failed(why.to_owned()))
}

/// What is said, one message at a time.
struct Mouth(Mutex<UnixStream>);

impl Mouth {
    fn say(&self, said: &Said) -> io::Result<()> {
        let frame = pack(said).map_err(io::Error::other)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame)
    }
}

type Taken = Result<Durable, RecordError>;

/// Answers appends in their order, as many at once as are durable. Ends when nobody hands over any more, or nobody hears.
fn answer(recorder: &Recorder, mouth: &Mouth, taken: &Receiver<Taken>) {
    let mut written = 0;
    let mut vitals = Told::default();
    // Who does not hear is gone; what he handed over is written anyway.
    let tell = |written: &mut u64| match std::mem::take(written) {
        0 => {}
        count => drop(mouth.say(&Said::Written(count))),
    };
    loop {
        if vitals.said.is_none_or(|said| said.elapsed() >= VITALS_EVERY) {
            vitals.tell(recorder, mouth);
        }
        let next = match taken.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => return tell(&mut written),
            Err(TryRecvError::Empty) => {
                tell(&mut written);
                match taken.recv_timeout(VITALS_EVERY) {
                    Ok(next) => next,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let outcome = next.and_then(|mut durable| {
            let mut now = durable.now();
            if now.is_none() && written > 0 {
                // The writer is at it: one commit is one answer.
                thread::yield_now();
                now = durable.now();
            }
            now.unwrap_or_else(|| {
                tell(&mut written);
                durable.wait()
            })
        });
        match outcome {
            Ok(()) => written += 1,
            Err(error) => {
                tell(&mut written);
                if matches!(error, RecordError::Unavailable(_)) {
                    // Known before the next append is made, where that comes after this answer.
                    vitals.tell(recorder, mouth);
                }
                drop(mouth.say(&Said::Refused(error.into())));
            }
        }
    }
}

/// What the enforcer was told of how the record is.
#[derive(Default)]
struct Told {
    said: Option<Instant>,
    vitals: Option<Vitals>,
}

impl Told {
    fn tell(&mut self, recorder: &Recorder, mouth: &Mouth) {
        self.said = Some(Instant::now());
        let vitals = vitals_of(recorder);
        if self.vitals.as_ref() != Some(&vitals) {
            drop(mouth.say(&Said::Vitals(Box::new(vitals.clone()))));
            self.vitals = Some(vitals);
        }
    }
}

fn vitals_of(recorder: &Recorder) -> Vitals {
    let down = match recorder.health() {
        Health::Up => None,
        Health::Down(why) => Some(why.to_string()),
    };
    Vitals { down, stats: recorder.stats(), upkeep: recorder.upkeep() }
}

/// How far the time of an event may be from the recorder's own. A commit is never written before what it holds happened, so a
/// time far ahead would stay for good; a clock may be set back meanwhile, or a year on.
const AHEAD_MAX: Micros = 24 * 3600 * 1_000_000;
const BEHIND_MAX: Micros = 400 * AHEAD_MAX;

/// How far the time of what a human did may be from the recorder's own: it was vouched for within the last minute.
const DEED_WITHIN: Micros = 5 * 60 * 1_000_000;

/// Why an enforcer may not have these recorded, if that is so.
fn unfit(events: &[Event]) -> Option<&'static str> {
    let now = now();
    let times = now.saturating_sub(BEHIND_MAX)..=now.saturating_add(AHEAD_MAX);
    if events.iter().any(Event::is_writers_own) {
        return Some("this is the recorder's own to say");
    }
    let done_now = now.saturating_sub(DEED_WITHIN)..=now.saturating_add(DEED_WITHIN);
    let mut deeds = events.iter().filter(|event| Deed::of(event).is_some()).filter_map(Event::at);
    if deeds.any(|at| !done_now.contains(&at)) {
        return Some("what a human did is of another time");
    }
    let named = |event: &Event| match event {
        Event::CredentialClaimed(claim) => claim.target.len().max(claim.credential.len()),
        _ => 0,
    };
    if events.iter().any(|event| named(event) > NAME_BYTES_MAX) {
        return Some("no target and no credential has so long a name");
    }
    let untimely = events.iter().filter_map(Event::at).any(|at| !times.contains(&at));
    untimely.then_some("an event is of another time")
}

/// What is heard.
struct Ear {
    recorder: Recorder,
    mouth: Arc<Mouth>,
    /// Whether a look at operations is under way.
    looking: Arc<AtomicBool>,
    taken: SyncSender<Taken>,
    /// What humans had done.
    warrants: Arc<Warrants>,
}

impl Ear {
    fn listen(self, stream: &UnixStream) -> io::Result<()> {
        let mut frames = Frames::default();
        loop {
            match frames.fill(stream, READ_BYTES) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            while let Some(ask) = frames.message::<Ask>().map_err(io::Error::other)? {
                self.heard(ask)?;
            }
        }
    }

    fn heard(&self, ask: Ask) -> io::Result<()> {
        match ask {
            Ask::Append { state, events, patience } => {
                // No longer than any caller has: who waits for ever keeps the next enforcer waiting.
                let patience = Duration::from_micros(patience.into()).min(limits::COMMIT_PATIENCE);
                let taken = match unfit(&events) {
                    Some(why) => Err(RecordError::Unavailable(why.into())),
                    None if !warrant::says_its_blocks(&state, &events) || !self.warrants.cover(&events) => {
                        tracing::error!(
                            "the enforcer says that a human did what none was heard to do; it is not recorded"
                        );
                        Err(RecordError::Unvouched)
                    }
                    None => self.recorder.append_within(state, events, patience),
                };
                // Nobody answers any more: nobody hears either.
                self.taken.send(taken).map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
            Ask::Owed { since, ends, flows, operations } => {
                let ends: Vec<Event> = ends.into_iter().filter(Event::is_end).collect();
                if let Some(why) = unfit(&ends) {
                    return Err(io::Error::other(why));
                }
                weigh(&[], &ends).map_err(io::Error::other)?;
                self.recorder.owe(since.min(now()), ends, (flows, operations));
                Ok(())
            }
            Ask::Scan(prefix) => match self.recorder.scan(&prefix) {
                Ok(rows) => self.rows(rows),
                Err(error) => self.mouth.say(&Said::NoRows(error.to_string())),
            },
            Ask::Operations { number, since, limit, within } => {
                let ends = within.map(|within| Instant::now() + Duration::from_millis(within.into()));
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                self.look(number, Look { since, limit, ends })
            }
        }
    }

    fn rows(&self, rows: Vec<Row>) -> io::Result<()> {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for row in rows {
            bytes += row.0.len() + row.1.len();
            part.push(row);
            if bytes > PART_BYTES {
                self.mouth.say(&Said::Rows(std::mem::take(&mut part), false))?;
                bytes = 0;
            }
        }
        self.mouth.say(&Said::Rows(part, true))
    }

    /// On a thread of its own: it may take long, and appends come meanwhile. One at a time.
    fn look(&self, number: u64, look: Look) -> io::Result<()> {
        if self.looking.swap(true, Ordering::AcqRel) {
            return self.mouth.say(&Said::Looked(number, Err("another look is under way".to_owned())));
        }
        let (recorder, mouth, looking) =
            (self.recorder.clone(), Arc::clone(&self.mouth), Arc::clone(&self.looking));
        let started = thread::Builder::new().name("record-look".to_owned()).spawn(move || {
            let mut part: Vec<(Intent, SessionOpened)> = Vec::new();
            let looked = recorder.operations(look, &mut |recorded| {
                part.push((recorded.intent, recorded.opened.as_ref().clone()));
                part.len() < PART_OPERATIONS
                    || mouth.say(&Said::Operations(number, std::mem::take(&mut part))).is_ok()
            });
            drop(mouth.say(&Said::Operations(number, part)));
            let how = looked.map(|looked| looked == Looked::CutShort).map_err(|error| error.to_string());
            looking.store(false, Ordering::Release);
            drop(mouth.say(&Said::Looked(number, how)));
        });
        started.map(drop)
    }
}
