//! JSON under masks: a scanner that passes every byte on as it came, except the values it hides.
//!
//! Reads RFC 8259 strictly, as a sequence of values, each string either at once or, when it is long, through a window.
//! What is not JSON, nests too deep, or ends too soon is an error and goes no further.

use std::sync::Arc;

use super::MaskError;
use super::escape::{self, Piece};
use super::find::{
    CARD_DIGITS_MAX, CARD_DIGITS_MIN, SECRET_BYTES_MIN, SSN_DIGITS, Set, Span, find, is_card, named,
};
use super::path::{Edge, Trail};
use super::plan::{Compiled, Rule, strictest};
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
    hide: Option<Style>,
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
    fn begin_value(&mut self, counts: &mut Counts) -> Option<Style> {
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
        if self.begin_value(tape.counts).is_some() {
            tape.pass(at);
            // A container has no last four characters to show.
            tape.out.push(b'"');
            Hidden::new(Style::Stars).write(true, tape.out);
            tape.out.push(b'"');
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

    fn string(&mut self, tape: &mut Tape<'_>, at: usize, is_name: bool) -> Result<Token, MaskError> {
        let mut content = std::mem::take(&mut self.seen);
        let Some(long) = content.scan(&tape.bytes[at + 1..]) else {
            if tape.bytes.len() - at - 1 <= MASK_HOLD_BACK_BYTES_MAX || tape.last {
                self.seen = content;
                return Ok(Token::Unfinished);
            }
            return if is_name { Err(self.too_long(at, "key")) } else { Ok(self.begin_long(tape, at)) };
        };
        let end = at + 1 + long;
        if is_name && long > MASK_HOLD_BACK_BYTES_MAX {
            return Err(self.too_long(at, "key"));
        }
        let inside = &tape.bytes[at + 1..end];
        let escaped = content.flags & BACKSLASH != 0;
        if escaped || content.flags & (CONTROL | WIDE) != 0 {
            let decoded = &mut self.window;
            decoded.clear();
            escape::json(inside, true, |piece| take(decoded, piece))
                .map_err(|bad| self.wrong(at + 1 + bad.at, bad.what))?;
        }
        if is_name {
            self.name(tape, at, end, &content);
        } else {
            self.string_value(tape, at, end, &content);
        }
        Ok(Token::Ends(end + 1))
    }

    fn too_long(&self, at: usize, what: &'static str) -> MaskError {
        MaskError::TooLong { at: self.offset + at as u64, what }
    }

    /// A member's name between the quotes at `at` and `end`. Decoded text of what has escapes is in the window.
    fn name(&mut self, tape: &mut Tape<'_>, at: usize, end: usize, content: &Content) {
        self.expect = Expect::Colon;
        if self.muted.is_some() {
            return;
        }
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        let escaped = content.flags & BACKSLASH != 0;
        name.extend_from_slice(if escaped { self.window.text() } else { &tape.bytes[at + 1..end] });
        if self.plan.has_fields() {
            self.begin_member(&name, tape.counts);
        }
        self.name = name;
        self.search(tape, at, end, content);
    }

    fn string_value(&mut self, tape: &mut Tape<'_>, at: usize, end: usize, content: &Content) {
        let style = self.begin_value(tape.counts);
        self.after_value();
        if self.muted.is_some() {
            return;
        }
        let escaped = content.flags & BACKSLASH != 0;
        let text = if escaped { self.window.text() } else { &tape.bytes[at + 1..end] };
        let in_object = matches!(self.frames.last(), Some(Frame::Object));
        let style = style.or_else(|| if in_object { self.named_style(text, tape.counts) } else { None });
        match style {
            Some(style) => {
                let mut hidden = Hidden::new(style);
                hidden.take(text);
                self.replace(tape, at, end + 1, &hidden);
            }
            None => self.search(tape, at, end, content),
        }
    }

    /// The style of a value that a detector knows by the name of its member.
    fn named_style(&self, text: &[u8], counts: &mut Counts) -> Option<Style> {
        let rule = self.plan.rule(named(&self.name, text, self.plan.set)?)?;
        counts.add(&rule.names);
        Some(rule.style)
    }

    /// Writes a string of the style in the place of `bytes[at..end]`.
    fn replace(&self, tape: &mut Tape<'_>, at: usize, end: usize, hidden: &Hidden) {
        tape.pass(at);
        tape.out.push(b'"');
        hidden.write(true, tape.out);
        tape.out.push(b'"');
        tape.passed = end;
    }

    /// Hides what detectors find in the string between the quotes at `at` and `end`.
    fn search(&mut self, tape: &mut Tape<'_>, at: usize, end: usize, content: &Content) {
        let inside = &tape.bytes[at + 1..end];
        let set = self.plan.set;
        if content.flags & BACKSLASH == 0 {
            let worth = content.worth(set, inside.len());
            if worth.is_empty() {
                return;
            }
            find(inside, 0, worth, false, &mut self.spans);
            if self.spans.is_empty() {
                return;
            }
            self.window.clear();
            self.window.push(inside);
        } else if set.is_empty() {
            return;
        }
        tape.pass(at + 1);
        self.window.drain(&self.plan, set, false, tape.out, tape.counts);
        tape.passed = end;
    }

    fn begin_long(&mut self, tape: &mut Tape<'_>, at: usize) -> Token {
        let style = self.begin_value(tape.counts);
        self.window.clear();
        if self.muted.is_some() {
            self.long = Some(Long::Muted);
        } else {
            tape.pass(at + 1);
            self.long = Some(style.map_or(Long::Searched, |style| Long::Hidden(Hidden::new(style))));
        }
        Token::Ends(at + 1)
    }

    /// More of a long string: lets go what is decided, up to its closing quote if that has come.
    fn more_of_string(&mut self, tape: &mut Tape<'_>, at: &mut usize) -> Result<Token, MaskError> {
        let rest = &tape.bytes[*at..];
        let end = Content::default().scan(rest);
        let inside = &rest[..end.unwrap_or(rest.len())];
        let Some(long) = &mut self.long else { return Ok(Token::Unfinished) };
        let window = &mut self.window;
        let read = escape::json(inside, end.is_some(), |piece| match long {
            Long::Muted => {}
            Long::Hidden(hidden) => match piece {
                Piece::Plain(text) | Piece::Escaped { text, .. } => hidden.take(text),
            },
            Long::Searched => take(window, piece),
        });
        let read = read
            .map_err(|bad| MaskError::NotJson { at: self.offset + (*at + bad.at) as u64, what: bad.what })?;
        *at += read;
        if let Long::Searched = long {
            self.window.drain(&self.plan, self.plan.set, end.is_none(), tape.out, tape.counts);
        }
        if end.is_none() {
            return Ok(Token::Unfinished);
        }
        match self.long.take() {
            Some(Long::Hidden(hidden)) => {
                hidden.write(true, tape.out);
                tape.passed = *at;
            }
            Some(Long::Searched) => tape.passed = *at,
            Some(Long::Muted) | None => {}
        }
        self.after_value();
        Ok(Token::Ends(*at + 1))
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
    fn found_number(&self, text: &[u8], counts: &mut Counts) -> Option<Style> {
        let set = self.plan.set;
        if set.has(Detector::Card) && text.len() >= CARD_DIGITS_MIN && is_card_number(text) {
            let rule = self.plan.rule(Detector::Card)?;
            counts.add(&rule.names);
            return Some(rule.style);
        }
        matches!(self.frames.last(), Some(Frame::Object)).then(|| self.named_style(text, counts))?
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
        if style.is_some() {
            self.replace(tape, at, end, &Hidden::new(Style::Stars));
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

fn take(window: &mut Window, piece: Piece<'_>) {
    match piece {
        Piece::Plain(text) => window.push(text),
        Piece::Escaped { text, raw } => window.push_escaped(text, raw),
    }
}

fn join(style: &mut Option<Style>, names: &mut Vec<usize>, rule: &Rule) {
    *style = Some(style.map_or(rule.style, |style| strictest(style, rule.style)));
    for &name in &rule.names {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

const QUOTE: u8 = 1;
const BACKSLASH: u8 = 2;
const CONTROL: u8 = 4;
const WIDE: u8 = 8;
const AT_SIGN: u8 = 16;
const DIGIT: u8 = 32;

static STRING: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0usize;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'"' => QUOTE,
            b'\\' => BACKSLASH,
            0..=0x1F => CONTROL,
            0x80.. => WIDE,
            b'@' => AT_SIGN,
            b'0'..=b'9' => DIGIT,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// What the inside of a string holds, as far as it was scanned.
#[derive(Debug, Default)]
struct Content {
    scanned: usize,
    flags: u8,
    digits: usize,
}

impl Content {
    /// Goes on to the closing quote; gives its offset. A backslash takes the byte after it along.
    fn scan(&mut self, inside: &[u8]) -> Option<usize> {
        let mut at = self.scanned;
        while let Some(&byte) = inside.get(at) {
            let class = STRING[usize::from(byte)];
            if class & (QUOTE | BACKSLASH) == 0 {
                self.flags |= class;
                self.digits += usize::from(class >> 5);
                at += 1;
                continue;
            }
            if class == QUOTE {
                return Some(at);
            }
            self.flags |= BACKSLASH;
            if at + 1 == inside.len() {
                break;
            }
            at += 2;
        }
        self.scanned = at;
        None
    }

    /// The detectors that could find anything in a string without escapes, `long` bytes of it.
    fn worth(&self, set: Set, long: usize) -> Set {
        let mut worth = set;
        if self.flags & AT_SIGN == 0 {
            worth = worth.without(&[Detector::Email]);
        }
        if self.digits < SSN_DIGITS {
            worth = worth.without(&[Detector::Card, Detector::UsSsn]);
        }
        if long < SECRET_BYTES_MIN {
            worth = worth.without(&[Detector::ApiKey, Detector::Jwt, Detector::PrivateKey]);
        }
        worth
    }
}

/// RFC 8259 section 6.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let long = digits(fraction);
        if long == 0 {
            return false;
        }
        rest = &fraction[long..];
    }
    match rest.split_first() {
        None => true,
        Some((b'e' | b'E', exponent)) => {
            let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent) == exponent.len()
        }
        Some(_) => false,
    }
}

/// Whether a JSON number is a whole number whose digits are a card: 4111111111111111, 4.111111111111111e15.
fn is_card_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mantissa = text.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(text.len());
    let point = text[..mantissa].iter().position(|&b| b == b'.').unwrap_or(mantissa);
    let exponent = match std::str::from_utf8(text.get(mantissa + 1..).unwrap_or_default()) {
        Ok("") => 0,
        Ok(exponent) => exponent.parse::<i32>().unwrap_or(i32::MAX),
        Err(_) => return false,
    };
    let Ok(exponent) = usize::try_from(exponent) else { return false };
    let places = point.saturating_add(exponent);
    if places > CARD_DIGITS_MAX {
        return false;
    }
    let mut digits = [0u8; CARD_DIGITS_MAX];
    let written = text[..mantissa].iter().filter(|b| b.is_ascii_digit()).map(|b| b - b'0');
    for (place, digit) in written.enumerate() {
        match digits.get_mut(place) {
            Some(slot) if place < places => *slot = digit,
            _ if digit != 0 => return false,
            _ => {}
        }
    }
    is_card(&digits[..places])
}
