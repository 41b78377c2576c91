//! Strings of a JSON body: names and values, at once where they fit, through a window where they do not.
//!
//! Lets no part of a string go before its escapes and characters are whole and its finds are decided.

use super::{Expect, Frame, Json, Long, Tape, Token};
use crate::limits::MASK_HOLD_BACK_BYTES_MAX;
use crate::mask::MaskError;
use crate::mask::escape::{self, Piece};
use crate::mask::find::named;
use crate::mask::look::Look;
use crate::mask::scalar::Content;
use crate::mask::window::{Counts, Hidden, Window};

impl Json {
    pub(super) fn string(
        &mut self,
        tape: &mut Tape<'_>,
        at: usize,
        is_name: bool,
    ) -> Result<Token, MaskError> {
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
        if !content.is_plain() {
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

    pub(super) fn too_long(&self, at: usize, what: &'static str) -> MaskError {
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
        let escaped = content.is_escaped();
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
        let escaped = content.is_escaped();
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
    pub(super) fn named_style(&self, text: &[u8], counts: &mut Counts) -> Option<Look> {
        let detector = named(&self.name, text, self.plan.set)?;
        let rule = self.plan.rule(detector)?;
        counts.found(detector.into(), &rule.names);
        Some(rule.look)
    }

    /// Writes a string of the style in the place of `bytes[at..end]`.
    pub(super) fn replace(&self, tape: &mut Tape<'_>, at: usize, end: usize, hidden: &Hidden) {
        tape.pass(at);
        hidden.write_value(&self.plan, tape.out);
        tape.passed = end;
    }

    /// Hides what detectors find in the string between the quotes at `at` and `end`.
    fn search(&mut self, tape: &mut Tape<'_>, at: usize, end: usize, content: &Content) {
        let inside = &tape.bytes[at + 1..end];
        let set = self.plan.set;
        let named = self.is_named();
        let name: &[u8] = if named { &self.name } else { b"" };
        if !content.is_escaped() {
            let worth = content.worth(set, inside.len(), self.plan.least_digits());
            if worth.is_empty() {
                return;
            }
            self.plan.find(inside, 0, worth, false, name, &mut self.spans);
            if self.spans.is_empty() {
                return;
            }
            self.window.clear();
            self.window.push(inside);
        } else if set.is_empty() {
            return;
        }
        tape.pass(at + 1);
        self.window.set_name(name);
        self.window.drain(&self.plan, set, false, tape.out, tape.counts);
        tape.passed = end;
    }

    /// Whether what is read is the value of a member, whose name says what it is.
    pub(super) fn is_named(&self) -> bool {
        self.expect != Expect::Colon && matches!(self.frames.last(), Some(Frame::Object))
    }

    fn begin_long(&mut self, tape: &mut Tape<'_>, at: usize) -> Token {
        let style = self.begin_value(tape.counts);
        self.window.clear();
        if self.is_named() {
            self.window.set_name(&self.name);
        }
        if self.muted.is_some() {
            self.long = Some(Long::Muted);
        } else {
            // What is dropped loses its quotes, too.
            tape.pass(if style.is_some_and(Look::is_drop) { at } else { at + 1 });
            self.long = Some(style.map_or(Long::Searched, |style| Long::Hidden(Hidden::new(style))));
        }
        Token::Ends(at + 1)
    }

    /// More of a long string: lets go what is decided, up to its closing quote if that has come.
    pub(super) fn more_of_string(&mut self, tape: &mut Tape<'_>, at: &mut usize) -> Result<Token, MaskError> {
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
            Some(Long::Hidden(hidden)) if hidden.is_dropped() => {
                hidden.write_value(&self.plan, tape.out);
                tape.passed = *at + 1;
            }
            Some(Long::Hidden(hidden)) => {
                hidden.write(&self.plan, true, tape.out);
                tape.passed = *at;
            }
            Some(Long::Searched) => tape.passed = *at,
            Some(Long::Muted) | None => {}
        }
        self.after_value();
        Ok(Token::Ends(*at + 1))
    }
}

fn take(window: &mut Window, piece: Piece<'_>) {
    match piece {
        Piece::Plain(text) => window.push(text),
        Piece::Escaped { text, raw } => window.push_escaped(text, raw),
    }
}
