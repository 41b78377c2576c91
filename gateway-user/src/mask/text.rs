//! Text of any kind under detectors, a stretch at a time, however its characters are escaped.
//!
//! Holds back what could be the start of an escape or of a find, never more.

use super::MaskError;
use super::escape;
use super::find::Set;
use super::plan::Compiled;
use super::window::{Counts, Hidden, Window};

/// How characters may be written in a text that is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// With JSON's escapes, as in logs and in JSON that is called text.
    Backslash,
    /// As forms write them.
    Percent,
    /// As XML writes them.
    Entities,
    /// As XML writes them, or as JSON does inside its scripts.
    Markup,
    /// As they are, but for quotes, which are doubled.
    Quoted,
    /// As they are.
    Bare,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Text {
    set: Set,
    coding: Coding,
    window: Window,
    /// The beginning of an escape.
    pending: Vec<u8>,
    started: bool,
}

impl Text {
    pub(super) fn new(set: Set, coding: Coding) -> Self {
        Self { set, coding, window: Window::default(), pending: Vec::new(), started: false }
    }

    /// Changes how characters are written. Only between two texts.
    pub(super) fn set_coding(&mut self, coding: Coding) {
        self.coding = coding;
    }

    /// Takes more of the text; appends what is certain.
    pub(super) fn push(&mut self, plan: &Compiled, chunk: &[u8], out: &mut Vec<u8>, counts: &mut Counts) {
        if chunk.is_empty() {
            return;
        }
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
    }

    /// The text ends here; another may begin.
    pub(super) fn end(&mut self, plan: &Compiled, out: &mut Vec<u8>, counts: &mut Counts) {
        let pending = std::mem::take(&mut self.pending);
        self.read(&pending, true);
        self.window.drain(plan, self.set, false, out, counts);
    }

    /// UTF-16 and UTF-32 give themselves away by a byte order mark or by zero bytes, which text has no use for.
    pub(super) fn check(&mut self, chunk: &[u8]) -> Result<(), MaskError> {
        if self.set.is_binary() || chunk.is_empty() {
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
            Coding::Entities => escape::entities(raw, last, false, take),
            Coding::Markup => escape::entities(raw, last, true, take),
            Coding::Quoted => escape::doubled(raw, last, take),
            Coding::Bare => {
                window.push(raw);
                raw.len()
            }
        }
    }
}

/// Writes what stands in the place of a hidden value, as this kind of text writes characters.
pub(super) fn write_hidden(plan: &Compiled, hidden: &Hidden, coding: Coding, out: &mut Vec<u8>) {
    let start = out.len();
    hidden.write(plan, false, out);
    if plan.is_labelled() {
        return;
    }
    let plain = |b: u8| match coding {
        Coding::Backslash | Coding::Bare => true,
        Coding::Percent => b.is_ascii_alphanumeric() || b"*-._".contains(&b),
        Coding::Entities | Coding::Markup => !b"<>&\"'".contains(&b),
        Coding::Quoted => b != b'"',
    };
    if out[start..].iter().all(|&b| plain(b)) {
        return;
    }
    let shown = out.split_off(start);
    for b in shown {
        match coding {
            _ if plain(b) => out.push(b),
            Coding::Percent => out.extend_from_slice(format!("%{b:02X}").as_bytes()),
            Coding::Entities | Coding::Markup => out.extend_from_slice(format!("&#{b};").as_bytes()),
            _ => out.extend_from_slice(b"\"\""),
        }
    }
}
