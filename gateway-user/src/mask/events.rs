//! Server-sent events: each event is masked as the JSON or the text it carries, and the text that a language model
//! sends piece by piece is searched as the one text a reader puts together.
//!
//! An event waits until what it adds to such a text is decided, and the events behind it wait with it. Refuses an event,
//! or a queue of waiting ones, that is longer than its bound.

mod deltas;

use std::collections::VecDeque;
use std::sync::Arc;

use self::deltas::{Texts, TooMany};
use super::MaskError;
use super::json::Json;
use super::plan::Compiled;
use super::stream::Format;
use super::text::{Coding, Text};
use super::window::Counts;
use crate::limits::{EVENT_STREAM_HELD_BYTES_MAX, SSE_EVENT_BYTES_MAX};

/// See the module.
#[derive(Debug)]
pub(super) struct Events {
    plan: Arc<Compiled>,
    /// An event that is not whole.
    held: Vec<u8>,
    /// How far it is known to be free of its end, and whether a line ended right there.
    scanned: usize,
    /// Whole events that wait for their texts, or behind one that does.
    queue: VecDeque<Event>,
    queued: usize,
    texts: Texts,
    offset: u64,
}

/// One event: its lines as they came, and what its pieces of text became.
#[derive(Debug)]
struct Event {
    raw: Vec<u8>,
    number: u64,
}

impl Events {
    pub(super) fn new(plan: Arc<Compiled>) -> Self {
        Self {
            plan,
            held: Vec::new(),
            scanned: 0,
            queue: VecDeque::new(),
            queued: 0,
            texts: Texts::default(),
            offset: 0,
        }
    }

    fn wrong(&self, what: &'static str) -> MaskError {
        MaskError::Unreadable { kind: "an event stream", at: self.offset, what }
    }

    /// A whole event has come, its empty line included.
    fn arrived(&mut self, raw: Vec<u8>, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        let data = data(&raw);
        if data.is_none() && lines(&raw).all(|(line, _)| line.is_empty() || line.starts_with(b":")) {
            // A comment keeps the line alive; it says nothing, so it need not wait.
            return self.mask(&raw, None, out, counts);
        }
        let added = self.texts.add(&self.plan, data.as_deref().unwrap_or_default(), counts);
        let number = added.map_err(|TooMany| self.wrong("an event with pieces of too many texts"))?;
        self.queued += raw.len();
        self.queue.push_back(Event { raw, number });
        self.let_go(out, counts)?;
        if self.queued > EVENT_STREAM_HELD_BYTES_MAX {
            return Err(self.wrong("more events than may wait for the end of a text"));
        }
        Ok(())
    }

    /// Passes on the events whose texts are decided.
    fn let_go(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        while let Some(event) = self.queue.front()
            && self.texts.is_decided(event.number)
            && let Some(event) = self.queue.pop_front()
        {
            self.queued -= event.raw.len();
            let changed = self.texts.take(event.number);
            self.mask(&event.raw, changed, out, counts)?;
        }
        Ok(())
    }

    /// Masks one event by itself. `changed`: what its data became.
    fn mask(
        &self,
        raw: &[u8],
        changed: Option<Vec<u8>>,
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Result<(), MaskError> {
        let before = data(raw);
        let payload = changed.or_else(|| before.clone());
        let masked = match &payload {
            Some(payload) => Some(self.payload(payload, counts)?),
            None => None,
        };
        let mut written = masked.is_none() || masked == before;
        let keep = written;
        for (line, end) in lines(raw) {
            if !is_data(line) || keep {
                if is_data(line) {
                    out.extend_from_slice(line);
                } else {
                    let mut text = Text::new(self.plan.set, Coding::Backslash);
                    text.push(&self.plan, line, out, counts);
                    text.end(&self.plan, out, counts);
                }
                out.extend_from_slice(end);
                continue;
            }
            if let Some(masked) = masked.as_ref().filter(|_| !std::mem::replace(&mut written, true)) {
                for part in masked.split(|&b| b == b'\n') {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(part);
                    out.extend_from_slice(end);
                }
            }
        }
        Ok(())
    }

    fn payload(&self, payload: &[u8], counts: &mut Counts) -> Result<Vec<u8>, MaskError> {
        let mut masked = Vec::with_capacity(payload.len());
        let start = payload.trim_ascii_start().first();
        if matches!(start, Some(b'{' | b'[')) && payload.trim_ascii() != b"[DONE]" {
            let mut tried = counts.clone();
            let mut json = Json::new(Arc::clone(&self.plan));
            let whole = json
                .push(payload, &mut masked, &mut tried)
                .and_then(|()| json.finish(&mut masked, &mut tried));
            match whole {
                Ok(()) => {
                    *counts = tried;
                    return Ok(masked);
                }
                Err(error) if self.plan.has_fields() => return Err(error),
                Err(_) => masked.clear(),
            }
        } else if self.plan.has_fields() && !matches!(payload.trim_ascii(), b"" | b"[DONE]") {
            return Err(MaskError::NoFields);
        }
        let mut text = Text::new(self.plan.set, Coding::Backslash);
        text.push(&self.plan, payload, &mut masked, counts);
        text.end(&self.plan, &mut masked, counts);
        Ok(masked)
    }
}

impl Format for Events {
    fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        if chunk.contains(&0) {
            return Err(self.wrong("a zero byte"));
        }
        self.held.extend_from_slice(chunk);
        // What is left is moved once, however many events there are.
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while let Some(end) = event_end(rest, &mut self.scanned) {
            let (raw, behind) = rest.split_at(end);
            self.offset += raw.len() as u64;
            self.arrived(raw.to_vec(), out, counts)?;
            rest = behind;
        }
        self.held = rest.to_vec();
        if self.held.len() > SSE_EVENT_BYTES_MAX {
            return Err(self.wrong("an event that is too long"));
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        let raw = std::mem::take(&mut self.held);
        if !raw.is_empty() {
            self.arrived(raw, out, counts)?;
        }
        self.texts.end(&self.plan, counts);
        self.let_go(out, counts)
    }
}

/// Where the first event ends: behind its first empty line. A carriage return at the end may be half a line end.
fn event_end(held: &[u8], scanned: &mut usize) -> Option<usize> {
    let mut at = *scanned;
    while at < held.len() {
        let long = match (held[at], held.get(at + 1)) {
            (b'\n', _) => 1,
            (b'\r', Some(b'\n')) => 2,
            (b'\r', Some(_)) => 1,
            (b'\r', None) => break,
            _ => 0,
        };
        let begins = at == 0 || matches!(held[at - 1], b'\n' | b'\r');
        match long {
            0 => at += 1,
            long if begins => {
                *scanned = 0;
                return Some(at + long);
            }
            long => at += long,
        }
    }
    *scanned = at;
    None
}

/// The lines of an event, each with its end.
fn lines(raw: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let long = rest.iter().position(|b| b"\r\n".contains(b)).unwrap_or(rest.len());
        let end = if rest[long..].starts_with(b"\r\n") { 2 } else { usize::from(long < rest.len()) };
        let (line, end) = (&rest[..long], &rest[long..long + end]);
        rest = &rest[line.len() + end.len()..];
        Some((line, end))
    })
}

fn is_data(line: &[u8]) -> bool {
    let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
    line.strip_prefix(b"data").is_some_and(|rest| rest.is_empty() || rest[0] == b':')
}

/// What an event carries, if anything: the values of its `data` lines, one per line.
fn data(raw: &[u8]) -> Option<Vec<u8>> {
    let mut data: Option<Vec<u8>> = None;
    for (line, _) in lines(raw).filter(|(line, _)| is_data(line)) {
        let value = line.iter().position(|&b| b == b':').map_or(&[][..], |at| &line[at + 1..]);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &mut data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => data = Some(value.to_vec()),
        }
    }
    data
}
