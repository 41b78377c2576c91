//! One body on its way: chunks in, masked bytes out.
//!
//! After an error nothing more is let go, whatever is pushed.

use super::charset::{Charset, Reader};
use super::escape;
use super::find::Set;
use super::json::Json;
use super::plan::{Compiled, Plan};
use super::window::{Counts, Window};
use super::{MaskError, Media};
use crate::limits::MASK_HOLD_BACK_BYTES_MAX;
use std::sync::Arc;

/// Masks one body.
#[derive(Debug)]
pub struct Stream {
    plan: Arc<Compiled>,
    reader: Reader,
    state: State,
    counts: Counts,
}

#[derive(Debug)]
enum State {
    /// Nothing is to be hidden.
    Clear,
    /// Not called JSON, and only JSON will do: the first character decides.
    Sniff(Vec<u8>),
    Json(Box<Json>),
    Text(Box<Text>),
    Failed(MaskError),
}

/// How many values were hidden, by the name of the mask (or of the detector, for what no mask names).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hits(pub Vec<(String, u64)>);

impl Hits {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

impl Stream {
    pub(super) fn new(plan: &Plan, media: Media, charset: &Charset) -> Self {
        let compiled = Arc::clone(&plan.0);
        let set = compiled.set;
        // Bytes of any kind may begin as a byte order mark does.
        let reader = if media == Media::Opaque { Reader::Passing } else { Reader::of(charset) };
        let state = match media {
            _ if plan.is_empty() => State::Clear,
            Media::Json => State::Json(Box::new(Json::new(Arc::clone(&compiled)))),
            _ if compiled.has_fields() => State::Sniff(Vec::new()),
            Media::Text => State::Text(Box::new(Text::new(set, Coding::Backslash))),
            Media::Form => State::Text(Box::new(Text::new(set, Coding::Percent))),
            Media::Opaque => State::Text(Box::new(Text::new(set.binary(), Coding::Backslash))),
        };
        let reader = if plan.is_empty() { Reader::Passing } else { reader };
        Self { plan: compiled, reader, state, counts: Counts::default() }
    }

    /// Takes the next bytes of the body and appends to `out` what is certain. Fails where the body cannot be masked;
    /// what `out` got before is clean.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), MaskError> {
        let result = match self.reader {
            Reader::Passing => self.advance(chunk, out),
            _ => self.read(chunk, false, out),
        };
        if let Err(error) = &result {
            self.state = State::Failed(error.clone());
        }
        result
    }

    /// Reads the bytes in their encoding first.
    fn read(&mut self, chunk: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), MaskError> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        let mut text = Vec::new();
        if self.reader.read(chunk, last, &mut text)? {
            self.advance(&text, out)
        } else {
            self.advance(chunk, out)
        }
    }

    fn advance(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), MaskError> {
        match &mut self.state {
            State::Clear => {
                out.extend_from_slice(chunk);
                Ok(())
            }
            State::Failed(error) => Err(error.clone()),
            State::Json(json) => json.push(chunk, out, &mut self.counts),
            State::Text(text) => text.push(&self.plan, chunk, out, &mut self.counts),
            State::Sniff(held) => {
                held.extend_from_slice(chunk);
                let body = held.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(held);
                match body.iter().find(|b| !b" \t\r\n".contains(b)) {
                    Some(b'{' | b'[') => {}
                    // The first bytes of a byte order mark.
                    Some(0xEF) if b"\xEF\xBB\xBF".starts_with(body) => return Ok(()),
                    None if held.len() <= MASK_HOLD_BACK_BYTES_MAX => return Ok(()),
                    _ => return Err(MaskError::NoFields),
                }
                let held = std::mem::take(held);
                let mut json = Box::new(Json::new(Arc::clone(&self.plan)));
                let result = json.push(&held, out, &mut self.counts);
                self.state = State::Json(json);
                result
            }
        }
    }

    /// The body is complete: appends what was held back, and tells what was hidden. A body without one byte is fine
    /// under any mask.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<Hits, MaskError> {
        if let Err(error) = self.read(&[], true, out) {
            self.state = State::Failed(error);
        }
        let state = std::mem::replace(&mut self.state, State::Clear);
        let result = match state {
            State::Clear => Ok(()),
            State::Failed(error) => Err(error),
            State::Json(mut json) => json.finish(out, &mut self.counts),
            State::Text(mut text) => text.finish(&self.plan, out, &mut self.counts),
            State::Sniff(held) if held.iter().all(u8::is_ascii_whitespace) => {
                out.extend_from_slice(&held);
                Ok(())
            }
            State::Sniff(_) => Err(MaskError::NoFields),
        };
        if let Err(error) = &result {
            self.state = State::Failed(error.clone());
        }
        result.map(|()| self.hits())
    }

    /// What was hidden so far.
    #[must_use]
    pub fn hits(&self) -> Hits {
        let named = self.plan.names.iter().zip(&self.counts.0);
        let mut hits: Vec<(String, u64)> = Vec::new();
        for (name, &count) in named.filter(|(_, count)| **count > 0) {
            match hits.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += count,
                None => hits.push((name.clone(), count)),
            }
        }
        Hits(hits)
    }
}

/// How characters may be written in a body that is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// With JSON's escapes, as in logs and in JSON that is called text.
    Backslash,
    /// As forms write them.
    Percent,
}

/// A body that is not JSON, under detectors.
#[derive(Debug)]
struct Text {
    set: Set,
    coding: Coding,
    window: Window,
    /// The beginning of an escape.
    pending: Vec<u8>,
    started: bool,
}

impl Text {
    fn new(set: Set, coding: Coding) -> Self {
        Self { set, coding, window: Window::default(), pending: Vec::new(), started: false }
    }

    fn push(
        &mut self,
        plan: &Compiled,
        chunk: &[u8],
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Result<(), MaskError> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.check(chunk)?;
        if self.pending.is_empty() {
            let read = self.read(chunk, false);
            self.pending.extend_from_slice(&chunk[read..]);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(chunk);
            let read = self.read(&pending, false);
            pending.drain(..read);
            self.pending = pending;
        }
        self.window.drain(plan, self.set, true, out, counts);
        Ok(())
    }

    /// UTF-16 and UTF-32 give themselves away by a byte order mark or by zero bytes, which text has no use for.
    fn check(&mut self, chunk: &[u8]) -> Result<(), MaskError> {
        if self.set.is_binary() {
            return Ok(());
        }
        let marked = !self.started && matches!(chunk.first(), Some(0xFE | 0xFF));
        self.started = true;
        if marked || chunk.contains(&0) {
            return Err(MaskError::Encoding("it looks like UTF-16 or UTF-32".to_owned()));
        }
        Ok(())
    }

    fn read(&mut self, raw: &[u8], last: bool) -> usize {
        let window = &mut self.window;
        let take = |piece: escape::Piece<'_>| match piece {
            escape::Piece::Plain(text) => window.push(text),
            escape::Piece::Escaped { text, raw } => window.push_escaped(text, raw),
        };
        match self.coding {
            Coding::Backslash => escape::lenient(raw, last, take),
            Coding::Percent => escape::percent(raw, last, take),
        }
    }

    fn finish(&mut self, plan: &Compiled, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        let pending = std::mem::take(&mut self.pending);
        self.read(&pending, true);
        self.window.drain(plan, self.set, false, out, counts);
        Ok(())
    }
}
