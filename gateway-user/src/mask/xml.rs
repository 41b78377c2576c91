//! XML under masks by field: the content of an element and the value of an attribute are hidden by its name, with or
//! without its prefix.
//!
//! Refuses what two readers could take for different documents: a DOCTYPE with declarations of its own, an encoding that
//! is none of ASCII's supersets, tags that do not match or are too long.

use std::sync::Arc;

use super::MaskError;
use super::escape::{self, Piece};
use super::plan::{Compiled, Rule};
use super::stream::Format;
use super::text::{Coding, Text, write_hidden};
use super::window::{Counts, Hidden};
use crate::limits::{JSON_DEPTH_MAX, MASK_HOLD_BACK_BYTES_MAX};

/// Bytes of an element's name. Longer ones are no names.
const NAME_BYTES_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Xml {
    plan: Arc<Compiled>,
    text: Text,
    state: State,
    /// A tag that is not whole, or the end of a comment that is not yet one.
    held: Vec<u8>,
    open: Vec<Vec<u8>>,
    /// The depth of the element whose content is hidden, and what stands for it.
    hidden: Option<(usize, Hidden)>,
    offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After `<`.
    Tag,
    Comment,
    Cdata,
}

impl Xml {
    pub(super) fn new(plan: Arc<Compiled>) -> Self {
        let text = Text::new(plan.set, Coding::Entities);
        Self { plan, text, state: State::Text, held: Vec::new(), open: Vec::new(), hidden: None, offset: 0 }
    }

    fn wrong(&self, what: &'static str) -> MaskError {
        MaskError::Unreadable { kind: "XML", at: self.offset, what }
    }

    /// Text of the document, escaped or not.
    fn content(&mut self, raw: &[u8], out: &mut Vec<u8>, counts: &mut Counts) {
        match &mut self.hidden {
            // Its last characters would be those of its markup as well, so none of them is shown.
            Some(_) => {}
            None => self.text.push(&self.plan, raw, out, counts),
        }
    }

    fn end_text(&mut self, out: &mut Vec<u8>, counts: &mut Counts) {
        if self.hidden.is_none() {
            self.text.end(&self.plan, out, counts);
        }
    }

    fn write(&self, raw: &[u8], out: &mut Vec<u8>) {
        if self.hidden.is_none() {
            out.extend_from_slice(raw);
        }
    }

    /// One step on `rest`; gives how much of it was read. What is not whole stays in `held`.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<usize, MaskError> {
        match self.state {
            State::Text => {
                let end = rest.iter().position(|&b| b == b'<');
                self.content(&rest[..end.unwrap_or(rest.len())], out, counts);
                if let Some(end) = end {
                    self.end_text(out, counts);
                    self.held.push(b'<');
                    self.state = State::Tag;
                    return Ok(end + 1);
                }
                Ok(rest.len())
            }
            State::Comment => Ok(self.until(b"-->", rest, out, counts)),
            State::Cdata => Ok(self.until(b"]]>", rest, out, counts)),
            State::Tag => self.tag(rest, out, counts),
        }
    }

    /// Bytes up to `end`, searched as they are.
    fn until(&mut self, end: &[u8], rest: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> usize {
        let stop = rest.iter().position(|&b| b == b'>');
        let (inside, long) = stop.map_or((rest, rest.len()), |at| (&rest[..=at], at + 1));
        self.held.extend_from_slice(inside);
        let whole = stop.is_some() && self.held.ends_with(end);
        let keep = if whole || stop.is_none() { end.len() } else { 0 };
        let free = self.held.len().saturating_sub(keep);
        let text: Vec<u8> = self.held.drain(..free).collect();
        self.content(&text, out, counts);
        if whole {
            self.end_text(out, counts);
            self.write(end, out);
            self.held.clear();
            self.text.set_coding(Coding::Entities);
            self.state = State::Text;
        }
        long
    }

    fn tag(&mut self, rest: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<usize, MaskError> {
        for (at, &byte) in rest.iter().enumerate() {
            self.held.push(byte);
            for (start, state) in [(&b"<!--"[..], State::Comment), (b"<![CDATA[", State::Cdata)] {
                if self.held == start {
                    self.write(start, out);
                    self.held.clear();
                    self.text.set_coding(Coding::Bare);
                    self.state = state;
                    return Ok(at + 1);
                }
            }
            if self.held.len() > MASK_HOLD_BACK_BYTES_MAX {
                return Err(self.wrong("a tag that is too long"));
            }
            if byte == b'[' && self.held.starts_with(b"<!D") {
                return Err(self.wrong("a DOCTYPE with declarations of its own"));
            }
            if byte == b'>' && is_whole(&self.held) {
                let tag = std::mem::take(&mut self.held);
                self.state = State::Text;
                self.whole_tag(&tag, out, counts)?;
                return Ok(at + 1);
            }
        }
        Ok(rest.len())
    }

    fn whole_tag(&mut self, tag: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        match tag.get(1) {
            Some(b'?') => {
                self.declaration(tag)?;
                self.searched(tag, Coding::Bare, out, counts);
                Ok(())
            }
            Some(b'!') if tag.starts_with(b"<!DOCTYPE") => {
                self.write(tag, out);
                Ok(())
            }
            Some(b'/') => self.close(tag, out),
            Some(b'!') => Err(self.wrong("a declaration that is not known")),
            _ => self.open(tag, out, counts),
        }
    }

    fn searched(&mut self, raw: &[u8], coding: Coding, out: &mut Vec<u8>, counts: &mut Counts) {
        if self.hidden.is_none() {
            self.text.set_coding(coding);
            self.text.push(&self.plan, raw, out, counts);
            self.text.end(&self.plan, out, counts);
            self.text.set_coding(Coding::Entities);
        }
    }

    /// An XML declaration may name an encoding, which must be one in which ASCII is itself.
    fn declaration(&self, tag: &[u8]) -> Result<(), MaskError> {
        let text = String::from_utf8_lossy(tag);
        let Some((_, named)) = text.split_once("encoding").filter(|_| text.starts_with("<?xml ")) else {
            return Ok(());
        };
        let label: String = named
            .chars()
            .skip_while(|c| " =\"'\t\r\n".contains(*c))
            .take_while(|c| !"\"'?".contains(*c))
            .collect();
        let encoding = encoding_rs::Encoding::for_label_no_replacement(label.as_bytes());
        match encoding {
            // The body is UTF-8 by now whatever it was; the declaration may still say what it was.
            Some(known) if known.is_ascii_compatible() || known.name().starts_with("UTF-16") => Ok(()),
            _ => Err(MaskError::Encoding(label.chars().take(32).collect())),
        }
    }

    fn close(&mut self, tag: &[u8], out: &mut Vec<u8>) -> Result<(), MaskError> {
        let name = tag[2..tag.len() - 1].trim_ascii_end();
        if self.open.pop().as_deref() != Some(name) {
            return Err(self.wrong("an end tag that matches no start tag"));
        }
        if let Some((depth, hidden)) = self.hidden.take() {
            if depth == self.open.len() {
                write_hidden(&self.plan, &hidden, Coding::Entities, out);
            } else {
                self.hidden = Some((depth, hidden));
            }
        }
        self.write(tag, out);
        Ok(())
    }

    fn open(&mut self, tag: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        let inside = &tag[1..tag.len() - 1];
        let (inside, empty) = inside.strip_suffix(b"/").map_or((inside, false), |inside| (inside, true));
        let long = inside.iter().position(u8::is_ascii_whitespace).unwrap_or(inside.len());
        let (name, attributes) = inside.split_at(long);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.iter().any(|b| b"<>&\"'=".contains(b)) {
            return Err(self.wrong("a wrong name of an element"));
        }
        self.write(b"<", out);
        self.write(name, out);
        self.attributes(attributes, out, counts)?;
        self.write(if empty { b"/>" } else { b">" }, out);
        if empty {
            return Ok(());
        }
        if self.open.len() == JSON_DEPTH_MAX {
            return Err(self.wrong("elements nested too deep"));
        }
        if self.hidden.is_none()
            && let Some(rule) = named(&self.plan, name)
        {
            counts.add(&rule.names);
            self.hidden = Some((self.open.len(), Hidden::new(rule.look.as_stars())));
        }
        self.open.push(name.to_vec());
        Ok(())
    }

    fn attributes(
        &mut self,
        mut rest: &[u8],
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Result<(), MaskError> {
        let plan = Arc::clone(&self.plan);
        loop {
            let blank = rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
            self.write(&rest[..blank], out);
            rest = &rest[blank..];
            if rest.is_empty() {
                return Ok(());
            }
            let Some(equals) = rest.iter().position(|&b| b == b'=') else {
                return Err(self.wrong("an attribute without a value"));
            };
            let name = rest[..equals].trim_ascii_end();
            let quote =
                rest[equals + 1..].iter().position(|b| !b.is_ascii_whitespace()).map(|n| equals + 1 + n);
            let Some(start) = quote.filter(|&at| b"\"'".contains(&rest[at])) else {
                return Err(self.wrong("an attribute without quotes"));
            };
            let Some(end) = rest[start + 1..].iter().position(|&b| b == rest[start]).map(|n| start + 1 + n)
            else {
                return Err(self.wrong("an attribute without an end"));
            };
            if name.is_empty() || name.iter().any(|b| b.is_ascii_whitespace() || b"<>&\"'".contains(b)) {
                return Err(self.wrong("a wrong name of an attribute"));
            }
            self.write(&rest[..=start], out);
            let value = &rest[start + 1..end];
            match named(&plan, name).filter(|_| self.hidden.is_none()) {
                Some(rule) => {
                    counts.add(&rule.names);
                    let mut hidden = Hidden::new(rule.look);
                    escape::entities(value, true, false, |piece| match piece {
                        Piece::Plain(text) | Piece::Escaped { text, .. } => hidden.take(text),
                    });
                    write_hidden(&plan, &hidden, Coding::Entities, out);
                }
                None => self.searched(value, Coding::Entities, out, counts),
            }
            self.write(&rest[end..=end], out);
            rest = &rest[end + 1..];
        }
    }
}

/// The rule for an element or attribute, by its whole name or the one behind its prefix.
fn named<'p>(plan: &'p Compiled, name: &[u8]) -> Option<&'p Rule> {
    let local = name.iter().rposition(|&b| b == b':').map_or(name, |at| &name[at + 1..]);
    plan.key(name).or_else(|| plan.key(local))
}

/// Whether a tag ends with its `>`, and that does not stand in quotes. Instructions end with `?>`.
fn is_whole(tag: &[u8]) -> bool {
    if tag.starts_with(b"<?") {
        return tag.len() > 3 && tag.ends_with(b"?>");
    }
    let mut quote = None;
    for &byte in tag {
        match quote {
            Some(open) if byte == open => quote = None,
            None if b"\"'".contains(&byte) => quote = Some(byte),
            _ => {}
        }
    }
    quote.is_none()
}

impl Format for Xml {
    fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        self.text.check(chunk)?;
        let mut at = 0;
        while at < chunk.len() {
            let read = self.step(&chunk[at..], out, counts)?;
            self.offset += read as u64;
            at += read;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        if self.state != State::Text || !self.open.is_empty() {
            return Err(self.wrong("its end before its last end tag"));
        }
        self.end_text(out, counts);
        Ok(())
    }
}
