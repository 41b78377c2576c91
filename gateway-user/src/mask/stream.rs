//! One body on its way: chunks in, masked bytes out.
//!
//! After an error nothing more is let go, whatever is pushed.

use std::fmt::Debug;
use std::sync::Arc;

use super::charset::{Charset, Reader};
use super::csv::Csv;
use super::events::Events;
use super::form::Form;
use super::json::Json;
use super::multipart::Multipart;
use super::packing::Packing;
use super::plan::{Compiled, Plan};
use super::text::{Coding, Text};
use super::window::Counts;
use super::xml::Xml;
use super::{MaskError, Media};
use crate::limits::MASK_HOLD_BACK_BYTES_MAX;

/// A kind of content that is masked while it streams.
pub(super) trait Format: Debug + Send {
    /// Takes the next bytes; appends what is certain.
    fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError>;
    /// The body is complete.
    fn finish(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError>;
}

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
    /// Not called JSON, and there are fields to hide: the first character decides.
    Sniff(Vec<u8>, Media),
    Json(Box<Json>),
    Text(Box<Text>),
    Other(Box<dyn Format>),
    Failed(MaskError),
}

/// How many values were hidden.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hits {
    /// By the name of the mask (or of the detector, for what no mask names).
    pub masks: Vec<(String, u64)>,
    /// By the name of the detector that found them; what is hidden by its field is not among them.
    pub detectors: Vec<(String, u64)>,
}

impl Hits {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.masks.iter().map(|(_, count)| count).sum()
    }
}

impl Stream {
    pub(super) fn new(plan: &Plan, media: Media, charset: &Charset) -> Self {
        let compiled = Arc::clone(&plan.0);
        // Bytes of any kind may begin as a byte order mark does, and parts have encodings of their own.
        let raw = plan.is_empty() || matches!(media, Media::Opaque | Media::Multipart(_));
        let reader = if raw { Reader::Passing } else { Reader::of(charset) };
        let state = match media {
            _ if plan.is_empty() => State::Clear,
            Media::Json => State::Json(Box::new(Json::new(Arc::clone(&compiled)))),
            Media::Multipart(boundary) => State::Other(Box::new(Multipart::new(plan.clone(), &boundary))),
            Media::Events => State::Other(Box::new(Events::new(Arc::clone(&compiled)))),
            media if compiled.has_fields() => State::Sniff(Vec::new(), media),
            media => State::Text(Box::new(text(&compiled, &media))),
        };
        Self { plan: compiled, reader, state, counts: Counts::default() }
    }

    /// A part of a body. `leaf`: it is one value, so that there are no fields to look for in it.
    pub(super) fn of_part(plan: &Plan, packing: &Packing, leaf: bool) -> Self {
        // A part that says nothing of itself is text (RFC 7578 section 4.4).
        let media = if leaf { Media::Text } else { packing.media().clone() };
        let mut stream = Self::new(plan, media, packing.charset());
        if leaf && let State::Sniff(_, media) = &stream.state {
            stream.state = State::Text(Box::new(text(&stream.plan, media)));
        }
        stream
    }

    /// As [`Stream::push`], counting where the whole body is counted.
    pub(super) fn push_counted(
        &mut self,
        chunk: &[u8],
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Result<(), MaskError> {
        std::mem::swap(&mut self.counts, counts);
        let pushed = self.push(chunk, out);
        std::mem::swap(&mut self.counts, counts);
        pushed
    }

    /// As [`Stream::finish`], counting where the whole body is counted.
    pub(super) fn finish_counted(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        std::mem::swap(&mut self.counts, counts);
        let finished = self.finish(out);
        std::mem::swap(&mut self.counts, counts);
        finished.map(drop)
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
            State::Text(text) => {
                text.check(chunk)?;
                text.push(&self.plan, chunk, out, &mut self.counts);
                Ok(())
            }
            State::Other(format) => format.push(chunk, out, &mut self.counts),
            State::Sniff(held, _) => {
                held.extend_from_slice(chunk);
                self.sniff(false, out)
            }
        }
    }

    /// Settles what a body with fields to hide is, once its first character is known.
    fn sniff(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), MaskError> {
        let State::Sniff(held, media) = &mut self.state else { return Ok(()) };
        let body = held.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(held);
        let first = body.iter().find(|b| !b" \t\r\n".contains(b)).copied();
        let plan = Arc::clone(&self.plan);
        let state = match (first, &*media) {
            // The first bytes of a byte order mark.
            (Some(0xEF), _) if b"\xEF\xBB\xBF".starts_with(body) && !last => return Ok(()),
            (None, _) if held.len() <= MASK_HOLD_BACK_BYTES_MAX && !last => return Ok(()),
            (None, _) if last => {
                out.append(held);
                self.state = State::Clear;
                return Ok(());
            }
            // Whatever it is called: what looks like JSON is read as JSON by many.
            (Some(b'{' | b'['), _) => State::Json(Box::new(Json::new(plan))),
            // What leads through JSON leads nowhere here.
            _ if plan.has_paths() => return Err(MaskError::NoFields),
            (_, Media::Form) => State::Other(Box::new(Form::new(plan))),
            (_, Media::Csv(mark)) => State::Other(Box::new(Csv::new(plan, *mark))),
            (Some(b'<'), Media::Xml) => State::Other(Box::new(Xml::new(plan))),
            _ => return Err(MaskError::NoFields),
        };
        let held = std::mem::take(held);
        self.state = state;
        self.advance(&held, out)
    }

    /// The body is complete: appends what was held back, and tells what was hidden. A body without one byte is fine
    /// under any mask.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<Hits, MaskError> {
        let last = self.read(&[], true, out).and_then(|()| self.sniff(true, out));
        if let Err(error) = last {
            self.state = State::Failed(error);
        }
        let state = std::mem::replace(&mut self.state, State::Clear);
        let result = match state {
            State::Clear | State::Sniff(..) => Ok(()),
            State::Failed(error) => Err(error),
            State::Json(mut json) => json.finish(out, &mut self.counts),
            State::Text(mut text) => {
                text.end(&self.plan, out, &mut self.counts);
                Ok(())
            }
            State::Other(mut format) => format.finish(out, &mut self.counts),
        };
        if let Err(error) = &result {
            self.state = State::Failed(error.clone());
        }
        result.map(|()| self.hits())
    }

    /// What was hidden so far.
    #[must_use]
    pub fn hits(&self) -> Hits {
        let named = self.plan.names.iter().zip(&self.counts.names);
        let mut masks: Vec<(String, u64)> = Vec::new();
        for (name, &count) in named.filter(|(_, count)| **count > 0) {
            match masks.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += count,
                None => masks.push((name.clone(), count)),
            }
        }
        let slots = self.counts.slots.iter().enumerate().filter(|(_, count)| **count > 0);
        let detectors = slots.map(|(slot, &count)| (self.plan.name_of(slot).to_owned(), count)).collect();
        Hits { masks, detectors }
    }
}

/// A body in which only detectors look.
fn text(plan: &Compiled, media: &Media) -> Text {
    match media {
        Media::Form => Text::new(plan.set, Coding::Percent),
        Media::Xml | Media::Html => Text::new(plan.set, Coding::Markup),
        Media::Opaque => Text::new(plan.set.binary(), Coding::Backslash),
        _ => Text::new(plan.set, Coding::Backslash),
    }
}
