//! A form (`application/x-www-form-urlencoded`) under masks by field.
//!
//! A field is hidden by its name, or by any part of a name in brackets: `card[number]` is a `number` and a `card`. Refuses
//! a name that is no UTF-8 or longer than may be held: nobody knows then what it names.

use std::sync::Arc;

use super::MaskError;
use super::escape::{self, Piece};
use super::plan::Compiled;
use super::stream::Format;
use super::text::{Coding, Text, write_hidden};
use super::window::{Counts, Hidden};
use crate::limits::MASK_HOLD_BACK_BYTES_MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Form {
    plan: Arc<Compiled>,
    text: Text,
    state: State,
    offset: u64,
}

#[derive(Debug)]
enum State {
    /// In a name, of which these bytes have come.
    Name(Vec<u8>),
    /// In a value that is searched.
    Value,
    /// In a value that is hidden, with what may be the beginning of an escape.
    Hidden(Hidden, Vec<u8>),
}

impl Form {
    pub(super) fn new(plan: Arc<Compiled>) -> Self {
        let text = Text::new(plan.set, Coding::Percent);
        Self { plan, text, state: State::Name(Vec::new()), offset: 0 }
    }

    /// The name is whole: settles what becomes of its value.
    fn named(&mut self, raw: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<State, MaskError> {
        let mut name = Vec::new();
        escape::percent(raw, true, |piece| match piece {
            Piece::Plain(text) | Piece::Escaped { text, .. } => name.extend_from_slice(text),
        });
        let Ok(name) = std::str::from_utf8(&name) else {
            return Err(self.wrong("a name that is not UTF-8"));
        };
        let Some(rule) = self.plan.key_within(name) else { return Ok(State::Value) };
        counts.add(&rule.names);
        let hidden = Hidden::new(rule.look);
        self.text.end(&self.plan, out, counts);
        Ok(State::Hidden(hidden, Vec::new()))
    }

    fn wrong(&self, what: &'static str) -> MaskError {
        MaskError::Unreadable { kind: "a form", at: self.offset, what }
    }
}

/// Takes more of a hidden value.
fn hide(hidden: &mut Hidden, pending: &mut Vec<u8>, raw: &[u8], last: bool) {
    pending.extend_from_slice(raw);
    let read = escape::percent(pending, last, |piece| match piece {
        Piece::Plain(text) | Piece::Escaped { text, .. } => hidden.take(text),
    });
    pending.drain(..read);
}

impl Format for Form {
    fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        self.text.check(chunk)?;
        let mut rest = chunk;
        while !rest.is_empty() {
            let in_name = matches!(self.state, State::Name(_));
            let mark = rest.iter().position(|&b| b == b'&' || (in_name && b == b'='));
            let (part, after) = rest.split_at(mark.map_or(rest.len(), |at| at + 1));
            let inside = &part[..mark.unwrap_or(part.len())];
            self.offset += part.len() as u64;
            match &mut self.state {
                State::Name(name) => {
                    name.extend_from_slice(inside);
                    if name.len() > MASK_HOLD_BACK_BYTES_MAX {
                        return Err(self.wrong("a name that is too long"));
                    }
                    let name = std::mem::take(name);
                    self.text.push(&self.plan, part, out, counts);
                    self.state = match mark.map(|at| part[at]) {
                        Some(b'=') => self.named(&name, out, counts)?,
                        Some(_) => State::Name(Vec::new()),
                        None => State::Name(name),
                    };
                }
                State::Value => {
                    self.text.push(&self.plan, part, out, counts);
                    if mark.is_some() {
                        self.state = State::Name(Vec::new());
                    }
                }
                State::Hidden(hidden, pending) => {
                    hide(hidden, pending, inside, mark.is_some());
                    if mark.is_some() {
                        write_hidden(&self.plan, hidden, Coding::Percent, out);
                        out.push(b'&');
                        self.state = State::Name(Vec::new());
                    }
                }
            }
            rest = after;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        if let State::Hidden(hidden, pending) = &mut self.state {
            hide(hidden, pending, &[], true);
            write_hidden(&self.plan, hidden, Coding::Percent, out);
        }
        self.text.end(&self.plan, out, counts);
        Ok(())
    }
}
