//! The line between the process that enforces and the one that writes the record, where they are two: a stream of
//! frames, each a length and a message. What the enforcer can ask is to append, and to read what it needs to go on; it
//! cannot change or remove what is written, nor say what is the writer's own to say, nor that a human did something for
//! which there is no warrant (`vouch`).
//!
//! Appends are answered in the order they were sent, as they become durable; one answer stands for all that one commit
//! took. When the line breaks, whoever waits is refused, and what an enforcer left open is closed in the record.
//!
//! Messages have no version: both ends are the keeper's own program, which starts both, and an upgrade ends both. What
//! comes is decoded, judged, and encoded again by the writer; the bytes that came are not kept, for one message may be
//! spelt in more than one way.

pub mod claims;
mod client;
mod server;
mod state;
#[cfg(test)]
mod tests;
pub mod vouch;

use std::io::{self, Read};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::client::Connect;
pub(super) use self::client::Line;
pub use self::server::fail;
pub(super) use self::server::serve;
use super::entry::{Event, Intent, Micros, SessionOpened};
use super::frame::encode_onto;
use super::journal::StateOp;
use super::ledger::NotOpen;
use super::operations::Recorded;
use super::{RecordError, Row, Stats, Upkept};
use crate::limits::RECORD_FRAME_BYTES_MAX;

/// What the enforcer asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// Take these, in one commit.
    Append {
        /// Changes of the small state.
        state: Vec<StateOp>,
        /// Events.
        events: Vec<Event>,
        /// Microseconds that the commit may wait for others.
        patience: u32,
    },
    /// What could not be handed over, now that it can.
    Owed {
        /// Since when.
        since: Micros,
        /// Ends of entries and sessions.
        ends: Vec<Event>,
        /// Flows that were refused.
        flows: u64,
        /// Operations that were.
        operations: u64,
    },
    /// Every key of the small state that starts with this.
    Scan(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Recorded operations, the newest first.
    Operations {
        /// Its answers carry this number.
        number: u64,
        /// Not before.
        since: Option<Micros>,
        /// At most so many.
        limit: u64,
        /// No longer than so many milliseconds.
        within: Option<u32>,
    },
}

/// What the recorder says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Said {
    /// The record is open. Comes first.
    Opened,
    /// It cannot be opened, for this reason. Comes first, and last.
    Failed(String),
    /// So many appends that were not answered yet are durable.
    Written(u64),
    /// The next append that was not answered yet is refused.
    Refused(Refusal),
    /// Some of the rows that were asked for; `true`: the last of them.
    Rows(Vec<Row>, bool),
    /// They cannot be read.
    NoRows(String),
    /// Some of the operations that were asked for under this number.
    Operations(u64, Vec<(Intent, SessionOpened)>),
    /// That was all of them; `true`: a bound was reached.
    Looked(u64, Result<bool, String>),
    /// How the record is. Comes by itself.
    Vitals(Box<Vitals>),
}

/// Why an append is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its subject is not open.
    NotOpen(String),
    /// So many events wait already.
    Full(u64),
    /// The recorder is stopping.
    Closed,
    /// No human was heard to do what an event says that one did.
    Unvouched,
    /// Something else.
    Unavailable(String),
}

/// How the record is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Why it cannot be written, if that is so.
    pub down: Option<String>,
    /// What was written.
    pub stats: Stats,
    /// Its upkeep.
    pub upkeep: Upkept,
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::NotOpen(NotOpen(what)) => Self::NotOpen(what),
            RecordError::Full { waiting } => Self::Full(waiting as u64),
            RecordError::Closed => Self::Closed,
            RecordError::Unvouched => Self::Unvouched,
            RecordError::Unavailable(why) => Self::Unavailable(why.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<Refusal> for RecordError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOpen(what) => Self::NotOpen(NotOpen(what)),
            Refusal::Full(waiting) => Self::Full { waiting: usize::try_from(waiting).unwrap_or(usize::MAX) },
            Refusal::Closed => Self::Closed,
            Refusal::Unvouched => Self::Unvouched,
            Refusal::Unavailable(why) => Self::Unavailable(why.into()),
        }
    }
}

fn recorded((intent, opened): (Intent, SessionOpened)) -> Recorded {
    Recorded { intent, opened: Arc::new(opened) }
}

/// A message that is longer than any may be, or none.
#[derive(Debug, thiserror::Error)]
#[error("the line to the record carries something that is no message")]
pub struct Garbled;

/// A message as a frame.
///
/// # Errors
/// It is longer than [`RECORD_FRAME_BYTES_MAX`].
pub fn pack(message: &impl Serialize) -> Result<Vec<u8>, Garbled> {
    let mut frame = Vec::new();
    pack_onto(&mut frame, message)?;
    Ok(frame)
}

/// A message as a frame, behind what is there.
///
/// # Errors
/// It is longer than [`RECORD_FRAME_BYTES_MAX`]; nothing was added then.
fn pack_onto(frames: &mut Vec<u8>, message: &impl Serialize) -> Result<(), Garbled> {
    let start = frames.len();
    frames.extend_from_slice(&[0; 4]);
    let packed = encode_onto(frames, message);
    let length = frames.len() - start - 4;
    let word = u32::try_from(length).ok().filter(|_| packed.is_ok() && length <= RECORD_FRAME_BYTES_MAX);
    let Some(word) = word else {
        frames.truncate(start);
        return Err(Garbled);
    };
    frames[start..start + 4].copy_from_slice(&word.to_le_bytes());
    Ok(())
}

/// Bytes of a line as they come, cut into messages. Keeps no more than one message and one read.
#[derive(Debug, Default)]
pub struct Frames {
    /// What came lies between `next` and `end`; before it is what was read already, behind it room.
    bytes: Vec<u8>,
    /// Where the next frame begins.
    next: usize,
    end: usize,
}

impl Frames {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Takes what comes, at least so many bytes at once where they are there. Gives how many came; 0 at the end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn fill(&mut self, mut from: impl Read, at_once: usize) -> io::Result<usize> {
        let read = from.read(self.room(at_once))?;
        self.end += read;
        Ok(read)
    }

    /// Room for at least so many bytes more.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.next == self.end {
            (self.next, self.end) = (0, 0);
        }
        if self.bytes.len() - self.end < bytes {
            self.bytes.copy_within(self.next..self.end, 0);
            (self.next, self.end) = (0, self.end - self.next);
            if self.bytes.len() - self.end < bytes {
                self.bytes.resize(self.end + bytes, 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// What came is no message: too long, cut off, or followed by something. The line is of no use then.
    pub fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Garbled> {
        let came = &self.bytes[self.next..self.end];
        let Some((length, rest)) = came.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > RECORD_FRAME_BYTES_MAX {
            return Err(Garbled);
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        match postcard::take_from_bytes(frame) {
            Ok((message, [])) => {
                self.next += 4 + length;
                Ok(Some(message))
            }
            _ => Err(Garbled),
        }
    }
}
