//! JSON under masks: a scanner that passes every byte on as it came, except the values it hides.
//!
//! Reads RFC 8259 strictly, as a sequence of values, each string either at once or, when it is long, through a window.
//! What is not JSON, nests too deep, or ends too soon is an error and goes no further.

mod strings;

use std::sync::Arc;

use super::MaskError;
use super::find::{CARD_DIGITS_MIN, Span};
use super::look::{Look, strictest};
use super::path::{Edge, Trail};
use super::plan::{Compiled, Rule};
use super::scalar::{Content, is_card_number, is_number};
use super::window::{Counts, Hidden, Window};
use crate::limits::{JSON_DEPTH_MAX, MASK_HOLD_BACK_BYTES_MAX};
use crate::policy::nouns::{Detector, Style};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[derive(Debug)]
enum Frame {
    Object,
    /// With the index of the next element.
    Array(u64),
}

/// What may come next, apart from white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A value of the sequence, or its end.
    Document,
    Value,
    ElementOrEnd,
    NameOrEnd,
    Name,
    Colon,
    CommaOrEnd,
}

/// A string of which the end has not come, longer than may be held.
#[derive(Debug)]
enum Long {
    /// Inside a hidden container.
    Muted,
    /// Hidden as a whole.
    Hidden(Hidden),
    /// Searched.
    Searched,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Json {
    plan: Arc<Compiled>,
    frames: Vec<Frame>,
    trail: Trail,
    expect: Expect,
    /// The style of the member's value that comes next, if it is to be hidden.
    hide: Option<Look>,
    /// Depth of the container that is being hidden.
    muted: Option<usize>,
    /// The last member name, decoded.
    name: Vec<u8>,
    long: Option<Long>,
    /// A token that is not complete.
    pending: Vec<u8>,
    /// How far that token is known to be free of its end, and what it holds so far.
    seen: Content,
    /// Bytes of the body before the ones at hand.
    offset: u64,
    window: Window,
    spans: Vec<Span>,
    hit: Vec<usize>,
}

/// The bytes at hand: what has been read of them is passed on in one piece, as late as possible.
struct Tape<'a> {
    bytes: &'a [u8],
    passed: usize,
    last: bool,
    out: &'a mut Vec<u8>,
    counts: &'a mut Counts,
}

impl Tape<'_> {
    /// Passes on everything before `to`.
    fn pass(&mut self, to: usize) {
        self.out.extend_from_slice(&self.bytes[self.passed..to]);
        self.passed = to;
    }
}

/// How a token ends: at this offset, or not within the bytes at hand.
enum Token {
    Ends(usize),
    Unfinished,
}

impl Json {
    pub(super) fn new(plan: Arc<Compiled>) -> Self {
        Self {
            plan,
            frames: Vec::new(),
            trail: Trail::default(),
            expect: Expect::Document,
            hide: None,
            muted: None,
            name: Vec::new(),
            long: None,
            pending: Vec::new(),
            seen: Content::default(),
            offset: 0,
            window: Window::for_json(),
            spans: Vec::new(),
            hit: Vec::new(),
        }
    }

    /// Takes the next bytes; appends to `out` what is certain.
    pub(super) fn push(
        &mut self,
        chunk: &[u8],
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Result<(), MaskError> {
        if self.pending.is_empty() {
            let read = self.run(chunk, false, out, counts)?;
            self.pending.extend_from_slice(&chunk[read..]);
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.extend_from_slice(chunk);
        let read = self.run(&bytes, false, out, counts)?;
        bytes.drain(..read);
        self.pending = bytes;
        Ok(())
    }

    /// The body is complete.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        let bytes = std::mem::take(&mut self.pending);
        let read = self.run(&bytes, true, out, counts)?;
        if read < bytes.len() || self.long.is_some() || self.expect != Expect::Document {
            return Err(MaskError::Truncated { at: self.offset + (bytes.len() - read) as u64 });
        }
        Ok(())
    }

    /// Reads as many whole tokens as there are; gives the bytes read.
    fn run(
        &mut self,
        bytes: &[u8],
        last: bool,
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Result<usize, MaskError> {
        let mut tape = Tape { bytes, passed: 0, last, out, counts };
        let mut at = 0;
        if self.offset == 0 && bytes.first() == Some(&BYTE_ORDER_MARK[0]) {
            if bytes.len() < BYTE_ORDER_MARK.len() && !last {
                return Ok(0);
            }
            if bytes.starts_with(BYTE_ORDER_MARK) {
                at = BYTE_ORDER_MARK.len();
            }
        }
        loop {
            let token = if self.long.is_some() {
                self.more_of_string(&mut tape, &mut at)?
            } else {
                self.token(&mut tape, &mut at)?
            };
            match token {
                Token::Ends(end) => at = end,
                Token::Unfinished => break,
            }
        }
        if self.muted.is_none() && self.long.is_none() {
            tape.pass(at);
        }
        self.offset += at as u64;
        Ok(at)
    }

    /// Reads the token after the white space at `at`, which moves to its start.
    fn token(&mut self, tape: &mut Tape<'_>, at: &mut usize) -> Result<Token, MaskError> {
        let bytes = tape.bytes;
        while bytes.get(*at).is_some_and(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')) {
            *at += 1;
        }
        let Some(&byte) = bytes.get(*at) else { return Ok(Token::Unfinished) };
        let start = *at;
        let value = matches!(self.expect, Expect::Document | Expect::Value | Expect::ElementOrEnd);
        match (byte, self.expect) {
            (b'"', Expect::Name | Expect::NameOrEnd) => self.string(tape, start, true),
            (b'"', _) if value => self.string(tape, start, false),
            (b'{' | b'[', _) if value => self.open(tape, start, byte == b'{'),
            (b'}', Expect::NameOrEnd) | (b']', Expect::ElementOrEnd) => Ok(self.close(tape, start)),
            (b'}' | b']', Expect::CommaOrEnd) => {
                if matches!(self.frames.last(), Some(Frame::Object)) != (byte == b'}') {
                    return Err(self.wrong(start, "a bracket that closes the wrong container"));
                }
                Ok(self.close(tape, start))
            }
            (b',', Expect::CommaOrEnd) => {
                let object = matches!(self.frames.last(), Some(Frame::Object));
                self.expect = if object { Expect::Name } else { Expect::Value };
                Ok(Token::Ends(start + 1))
            }
            (b':', Expect::Colon) => {
                self.expect = Expect::Value;
                Ok(Token::Ends(start + 1))
            }
            (b'-' | b'0'..=b'9', _) if value => self.number(tape, start),
            (b't' | b'f' | b'n', _) if value => self.literal(tape, start, byte),
            // RFC 7464 puts one in front of each value of a sequence.
            (0x1E, Expect::Document) => Ok(Token::Ends(start + 1)),
            _ => Err(self.wrong(start, self.expected())),
        }
    }

    fn expected(&self) -> &'static str {
        match self.expect {
            Expect::Document => "something that starts no JSON value",
            Expect::Value => "something else than a value",
            Expect::ElementOrEnd => "something else than an element or the end of an array",
            Expect::NameOrEnd => "something else than a member or the end of an object",
            Expect::Name => "something else than a member's name",
            Expect::Colon => "something else than the colon after a name",
            Expect::CommaOrEnd => "something else than a comma or a closing bracket",
        }
    }

    fn wrong(&self, at: usize, what: &'static str) -> MaskError {
        MaskError::NotJson { at: self.offset + at as u64, what }
    }

    /// A value begins: whether it is to be hidden, and how. Asked once per value.
    fn begin_value(&mut self, counts: &mut Counts) -> Option<Look> {
        if self.muted.is_some() {
            return None;
        }
        let plan = Arc::clone(&self.plan);
        self.hit.clear();
        let mut style = None;
        match self.frames.last_mut() {
            Some(Frame::Object) => return self.hide.take(),
            Some(Frame::Array(next)) => {
                let index = *next;
                *next += 1;
                if plan.paths.is_empty() {
                    return None;
                }
                let hit = &mut self.hit;
                self.trail.child(&plan.paths, Edge::Index(index), |rule| join(&mut style, hit, rule));
            }
            None => {
                if let Some(rule) = self.trail.begin(&plan.paths) {
                    join(&mut style, &mut self.hit, rule);
                }
            }
        }
        counts.add(&self.hit);
        style
    }

    /// A member's name is known: settles whether its value is to be hidden.
    fn begin_member(&mut self, name: &[u8], counts: &mut Counts) {
        let plan = Arc::clone(&self.plan);
        self.hit.clear();
        let mut style = None;
        if plan.has_keys()
            && let Some(rule) = plan.key(name)
        {
            join(&mut style, &mut self.hit, rule);
        }
        if !plan.paths.is_empty() {
            let hit = &mut self.hit;
            self.trail.child(&plan.paths, Edge::Member(name), |rule| join(&mut style, hit, rule));
        }
        counts.add(&self.hit);
        self.hide = style;
    }

    fn after_value(&mut self) {
        self.expect = if self.frames.is_empty() { Expect::Document } else { Expect::CommaOrEnd };
    }

    fn open(&mut self, tape: &mut Tape<'_>, at: usize, object: bool) -> Result<Token, MaskError> {
        if self.frames.len() == JSON_DEPTH_MAX {
            return Err(MaskError::TooDeep { at: self.offset + at as u64 });
        }
        if let Some(style) = self.begin_value(tape.counts) {
            tape.pass(at);
            // A container has no last four characters to show, and no text to hash.
            Hidden::new(style.at_most(Style::Stars)).write_value(&self.plan, tape.out);
            self.muted = Some(self.frames.len());
        } else if self.muted.is_none() {
            self.trail.enter();
        }
        self.frames.push(if object { Frame::Object } else { Frame::Array(0) });
        self.expect = if object { Expect::NameOrEnd } else { Expect::ElementOrEnd };
        Ok(Token::Ends(at + 1))
    }

    fn close(&mut self, tape: &mut Tape<'_>, at: usize) -> Token {
        self.frames.pop();
        match self.muted {
            None => self.trail.leave(),
            Some(depth) if depth == self.frames.len() => {
                self.muted = None;
                tape.passed = at + 1;
            }
            Some(_) => {}
        }
        self.after_value();
        Token::Ends(at + 1)
    }

    fn number(&mut self, tape: &mut Tape<'_>, at: usize) -> Result<Token, MaskError> {
        let rest = &tape.bytes[at..];
        let long = rest.iter().position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        let text = &rest[..long.unwrap_or(rest.len())];
        if text.len() > MASK_HOLD_BACK_BYTES_MAX {
            return Err(self.too_long(at, "number"));
        }
        if long.is_none() && !tape.last {
            return Ok(Token::Unfinished);
        }
        if !is_number(text) {
            return Err(self.wrong(at, "a wrong number"));
        }
        let end = at + text.len();
        self.must_part(tape, end)?;
        let style = self.begin_value(tape.counts);
        self.after_value();
        if self.muted.is_none() {
            let style = style.or_else(|| self.found_number(text, tape.counts));
            if let Some(style) = style {
                let mut hidden = Hidden::new(style);
                hidden.take(text);
                self.replace(tape, at, end, &hidden);
            }
        }
        Ok(Token::Ends(end))
    }

    /// The style of a number that a detector finds: a card written as a number, or a value known by its name.
    fn found_number(&mut self, text: &[u8], counts: &mut Counts) -> Option<Look> {
        let set = self.plan.set;
        if set.has(Detector::Card) && text.len() >= CARD_DIGITS_MIN && is_card_number(text) {
            let rule = self.plan.rule(Detector::Card)?;
            counts.found(Detector::Card.into(), &rule.names);
            return Some(rule.look);
        }
        if !self.is_named() {
            return None;
        }
        self.named_style(text, counts).or_else(|| self.found_in_number(text, counts))
    }

    /// The style of a number that a rule by expression finds whole under its member's name: `"phone": 2125550123`.
    fn found_in_number(&mut self, text: &[u8], counts: &mut Counts) -> Option<Look> {
        let set = self.plan.set.patterns();
        if set.is_empty() || text.len() < self.plan.least_digits() {
            return None;
        }
        self.plan.find(text, 0, set, false, &self.name, &mut self.spans);
        let whole = self.spans.iter().find(|span| span.start == 0 && span.end == text.len())?;
        let rule = self.plan.rule(whole.detector)?;
        counts.found(whole.detector, &rule.names);
        Some(rule.look)
    }

    fn literal(&mut self, tape: &mut Tape<'_>, at: usize, first: u8) -> Result<Token, MaskError> {
        let word: &[u8] = match first {
            b't' => b"true",
            b'f' => b"false",
            _ => b"null",
        };
        let rest = &tape.bytes[at..];
        if !rest.starts_with(word) {
            if word.starts_with(rest) && !tape.last {
                return Ok(Token::Unfinished);
            }
            return Err(self.wrong(at, "a word that is no JSON value"));
        }
        let end = at + word.len();
        if end == tape.bytes.len() && !tape.last {
            return Ok(Token::Unfinished);
        }
        self.must_part(tape, end)?;
        let style = self.begin_value(tape.counts);
        self.after_value();
        if let Some(style) = style {
            self.replace(tape, at, end, &Hidden::new(style.at_most(Style::Stars)));
        }
        Ok(Token::Ends(end))
    }

    /// After a number or a word something must stand that cannot be part of it.
    fn must_part(&self, tape: &Tape<'_>, at: usize) -> Result<(), MaskError> {
        match tape.bytes.get(at) {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | b']' | b'}' | 0x1E) => Ok(()),
            Some(_) => Err(self.wrong(at, "something that runs into the value before it")),
        }
    }
}

fn join(style: &mut Option<Look>, names: &mut Vec<usize>, rule: &Rule) {
    *style = Some(style.map_or(rule.look, |style| strictest(style, rule.look)));
    for &name in &rule.names {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}
