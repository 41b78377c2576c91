//! What the enforcer's end of a line knows: what is to be sent, who waits, and whether the recorder answers.

use std::collections::VecDeque;
use std::mem;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar};
use std::time::Instant;

use tracing::{error, info};

use super::{Ask, Said, Vitals, pack_onto, recorded};
use crate::limits;
use crate::record::desk::{Answer, Waiter, now};
use crate::record::entry::{Event, Micros};
use crate::record::operations::Recorded;
use crate::record::owing::Owing;
use crate::record::{RecordError, Row};

/// Ends that one frame carries; each may have as many bytes as an event has.
const OWED_AT_ONCE: usize = limits::RECORD_FRAME_BYTES_MAX / limits::EVENT_BYTES_MAX / 2;

/// An append that is not answered.
pub(super) struct Waiting {
    pub(super) waiter: Waiter,
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) flows: u64,
    pub(super) operations: u64,
    pub(super) sent: Instant,
}

#[derive(Default)]
pub(super) struct State {
    /// Which line this is; counts.
    pub(super) line: u64,
    /// Frames to send.
    pub(super) out: Vec<u8>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) queued_events: usize,
    pub(super) queued_bytes: usize,
    /// Appends that were given up while the recorder was silent, and may be answered yet.
    pub(super) given_up: u64,
    pub(super) down: Option<Arc<str>>,
    /// Since when it is down.
    pub(super) since: Micros,
    pub(super) owing: Owing,
    pub(super) refused: u64,
    pub(super) vitals: Vitals,
    pub(super) scans: VecDeque<SyncSender<Part>>,
    pub(super) look: Option<(u64, SyncSender<Seen>)>,
    pub(super) looks: u64,
    pub(super) closing: bool,
    pub(super) closed: bool,
}

/// Some rows, and whether they are the last; or why there are none.
pub(super) type Part = Result<(Vec<Row>, bool), String>;

pub(super) enum Seen {
    Some(Vec<Recorded>),
    Over(Result<bool, String>),
}

impl State {
    pub(super) fn is_up(&self) -> Result<(), RecordError> {
        match &self.down {
            _ if self.closing => Err(RecordError::Closed),
            Some(why) => Err(RecordError::Unavailable(Arc::clone(why))),
            None => Ok(()),
        }
    }

    pub(super) fn refusal(&self, events: &[Event], count: usize, bytes: usize) -> Option<RecordError> {
        // What begins is not even sent where the record has said that it takes nothing new.
        let told = self.vitals.down.as_ref().filter(|_| events.iter().any(Event::is_beginning));
        let told = told.map(|why| RecordError::Unavailable(why.as_str().into()));
        let full = self.queued_events + count > limits::JOURNAL_QUEUE_MAX
            || self.queued_bytes + bytes > limits::JOURNAL_QUEUE_BYTES_MAX;
        let full = full.then_some(RecordError::Full { waiting: self.queued_events });
        self.is_up().err().or(told).or(full)
    }

    pub(super) fn send(&mut self, frame: &[u8], work: &Condvar) {
        // A sender that is sending looks again by itself.
        if self.out.is_empty() {
            work.notify_one();
        }
        self.out.extend_from_slice(frame);
    }

    fn answer(&mut self, answer: Answer) {
        // Who no longer waits has dropped the other end.
        drop(self.answered().map(|waiter| waiter.send(answer)));
    }

    /// Whom the next answer is for. Nobody: it was given up.
    fn answered(&mut self) -> Option<Waiter> {
        let mut waiter = None;
        if self.given_up > 0 {
            self.given_up -= 1;
        } else if let Some(waiting) = self.waiting.pop_front() {
            self.queued_events -= waiting.events;
            self.queued_bytes -= waiting.bytes;
            waiter = Some(waiting.waiter);
        }
        if self.given_up == 0 && self.down.take().is_some() {
            info!("the recorder answers again");
        }
        waiter
    }

    /// Whose appends are durable when so many are.
    pub(super) fn written(&mut self, count: u64, durable: &mut Vec<Waiter>) {
        let count = count.min(limits::JOURNAL_QUEUE_MAX as u64 * 2);
        durable.extend((0..count).filter_map(|_| self.answered()));
    }

    /// Refuses everything from now on, and whoever waits.
    pub(super) fn go_down(&mut self, reason: &Arc<str>) {
        if self.down.replace(Arc::clone(reason)).is_none() {
            self.since = now();
            error!(%reason, "the record cannot be written; nothing is forwarded until it can");
        }
        for waiting in mem::take(&mut self.waiting) {
            self.owing.flows += waiting.flows;
            self.owing.operations += waiting.operations;
            self.refused += waiting.events as u64;
            self.given_up += 1;
            drop(waiting.waiter.send(Err(RecordError::Unavailable(Arc::clone(reason)))));
        }
        (self.queued_events, self.queued_bytes) = (0, 0);
        // Their rows may come yet, and are nobody else's.
        self.scans.iter_mut().for_each(|asked| *asked = mpsc::sync_channel(1).0);
        self.look = None;
    }

    /// What could not be handed over, as a frame; nothing of it is told again. False: nothing is owed.
    pub(super) fn owed(&mut self, frames: &mut Vec<u8>) -> bool {
        let owing = &mut self.owing;
        if owing.flows + owing.operations == 0 && owing.ends.is_empty() {
            return false;
        }
        owing.refused.clear();
        let some = owing.ends.len().min(OWED_AT_ONCE);
        let ask = Ask::Owed {
            since: self.since,
            ends: owing.ends.drain(..some).collect(),
            flows: mem::take(&mut owing.flows),
            operations: mem::take(&mut owing.operations),
        };
        pack_onto(frames, &ask).is_ok()
    }

    /// Gives what the recorder said to whom it is for; that appends are durable, [`State::written`].
    pub(super) fn heard(&mut self, said: Said) {
        match said {
            Said::Refused(why) => self.answer(Err(why.into())),
            Said::Rows(rows, last) => match last {
                true => drop(self.scans.pop_front().map(|asked| asked.try_send(Ok((rows, true))))),
                false => drop(self.scans.front().map(|asked| asked.try_send(Ok((rows, false))))),
            },
            Said::NoRows(why) => drop(self.scans.pop_front().map(|asked| asked.try_send(Err(why)))),
            Said::Operations(number, some) => {
                let seen = Seen::Some(some.into_iter().map(recorded).collect());
                drop(
                    self.look.as_ref().filter(|(asked, _)| *asked == number).map(|(_, to)| to.try_send(seen)),
                );
            }
            Said::Looked(number, how) => {
                let asked = self.look.take_if(|(asked, _)| *asked == number);
                drop(asked.map(|(_, to)| to.try_send(Seen::Over(how))));
            }
            Said::Vitals(vitals) => self.vitals = *vitals,
            Said::Opened | Said::Failed(_) | Said::Written(_) => {}
        }
    }
}
