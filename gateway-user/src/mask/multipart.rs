//! A multipart body (RFC 2046, RFC 7578): each part is masked as the kind of content it is, or hidden whole by its name.
//!
//! Refuses a body without its last boundary, parts in a transfer encoding, parts in parts, and part heads that are too
//! long or have two readings.

use super::escape::Piece;
use super::packing::Packing;
use super::plan::Plan;
use super::stream::{Format, Stream};
use super::text::{Coding, Text, write_hidden};
use super::window::{Counts, Hidden};
use super::{MaskError, Media, escape};
use crate::limits::{MASK_HOLD_BACK_BYTES_MAX, MULTIPART_PARTS_MAX};

/// See the module.
#[derive(Debug)]
pub(super) struct Multipart {
    plan: Plan,
    /// `--` and the boundary.
    dash: Vec<u8>,
    state: State,
    /// What cannot be told yet: the start of a boundary, or a part's head.
    held: Vec<u8>,
    parts: usize,
    offset: u64,
}

#[derive(Debug)]
enum State {
    /// Before the first boundary.
    Preamble,
    /// After a boundary, before the end of its line.
    Boundary,
    Head,
    Body(Part),
    /// After the last boundary.
    Over,
}

#[derive(Debug)]
enum Part {
    /// Hidden whole; JSON stays JSON.
    Hidden(Hidden, bool),
    Masked(Box<Stream>),
}

impl Multipart {
    pub(super) fn new(plan: Plan, boundary: &[u8]) -> Self {
        let dash = [b"--", boundary].concat();
        Self { plan, dash, state: State::Preamble, held: Vec::new(), parts: 0, offset: 0 }
    }

    fn wrong(&self, what: &'static str) -> MaskError {
        MaskError::Unreadable { kind: "multipart", at: self.offset, what }
    }

    /// One step on what is held; gives whether another may follow.
    fn step(&mut self, last: bool, out: &mut Vec<u8>, counts: &mut Counts) -> Result<bool, MaskError> {
        match &mut self.state {
            State::Preamble => {
                if self.dash.len() == 2 {
                    return Err(self.wrong("no boundary in its Content-Type"));
                }
                if self.held.len() < self.dash.len() && !last {
                    return Ok(false);
                }
                if !self.held.starts_with(&self.dash) {
                    return Err(self.wrong("something else than its boundary at its start"));
                }
                self.drop_held(self.dash.len());
                out.extend_from_slice(&self.dash);
                self.state = State::Boundary;
                Ok(true)
            }
            State::Boundary => self.boundary(last, out),
            State::Head => self.head(last, out, counts),
            State::Body(_) => self.body(last, out, counts),
            State::Over => {
                // What may follow the last boundary is a line end; readers throw away more, so nobody needs it.
                let rest = std::mem::take(&mut self.held);
                if rest.iter().any(|b| !b"\r\n".contains(b)) {
                    return Err(self.wrong("something after its last boundary"));
                }
                out.extend_from_slice(&rest);
                Ok(false)
            }
        }
    }

    fn boundary(&mut self, last: bool, out: &mut Vec<u8>) -> Result<bool, MaskError> {
        if self.held.starts_with(b"--") {
            self.drop_held(2);
            out.extend_from_slice(b"--");
            self.state = State::Over;
            return Ok(true);
        }
        let blank = self.held.iter().take_while(|b| b" \t".contains(b)).count();
        match &self.held[blank..] {
            [b'\r', b'\n', ..] => {
                self.drop_held(blank + 2);
                out.extend_from_slice(b"\r\n");
                self.state = State::Head;
                self.parts += 1;
                if self.parts > MULTIPART_PARTS_MAX {
                    return Err(self.wrong("too many parts"));
                }
                Ok(true)
            }
            [] | [b'\r' | b'-'] if !last && blank <= MASK_HOLD_BACK_BYTES_MAX => Ok(false),
            [] | [b'\r' | b'-'] if last => Err(self.wrong("its end before its last boundary")),
            _ => Err(self.wrong("something else than a line end after a boundary")),
        }
    }

    fn head(&mut self, last: bool, out: &mut Vec<u8>, counts: &mut Counts) -> Result<bool, MaskError> {
        // A part without fields begins with the empty line.
        let end = if self.held.starts_with(b"\r\n") {
            Some(2)
        } else {
            self.held.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
        };
        let Some(end) = end else {
            if last {
                return Err(self.wrong("its end in the head of a part"));
            }
            if self.held.len() > MASK_HOLD_BACK_BYTES_MAX {
                return Err(self.wrong("a head of a part that is too long"));
            }
            return Ok(false);
        };
        let head: Vec<u8> = self.held[..end].to_vec();
        self.drop_held(end);
        let part = self.part(&head, out, counts)?;
        self.state = State::Body(part);
        Ok(true)
    }

    /// Reads a part's head and passes it on, what detectors find in it hidden.
    fn part(&mut self, head: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<Part, MaskError> {
        let (mut name, mut file, mut kind, mut seen) = (None, false, None, [false; 2]);
        let mut shown = Text::new(self.plan.0.set, Coding::Bare);
        for line in head.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
            if line.is_empty() {
                continue;
            }
            let Ok(text) = std::str::from_utf8(line) else {
                return Err(self.wrong("a head of a part that is not UTF-8"));
            };
            let Some((field, value)) = text.split_once(':') else {
                return Err(self.wrong("a line without a colon in the head of a part"));
            };
            let (field, value) = (field.to_ascii_lowercase(), value.trim());
            match field.as_str() {
                "content-disposition" if !std::mem::replace(&mut seen[0], true) => {
                    (name, file) =
                        disposition(value).ok_or_else(|| self.wrong("a name with two readings"))?;
                }
                "content-type" if !std::mem::replace(&mut seen[1], true) => kind = Some(value.to_owned()),
                "content-disposition" | "content-type" => {
                    return Err(self.wrong("a field twice in the head of a part"));
                }
                "content-transfer-encoding"
                    if !["7bit", "8bit", "binary"].iter().any(|known| known.eq_ignore_ascii_case(value)) =>
                {
                    return Err(self.wrong("a part in a transfer encoding"));
                }
                "content-encoding" => return Err(self.wrong("a part in a content coding")),
                "content-length" | "content-md5" | "content-digest" => continue,
                _ => {}
            }
            // What is read in another encoding is written in UTF-8.
            let named = (field == "content-type").then(|| Packing::new(Some(value), []));
            let renamed = named.as_ref().and_then(Packing::renamed).map(|to| format!("Content-Type: {to}"));
            shown.push(&self.plan.0, renamed.as_deref().map_or(line, str::as_bytes), out, counts);
            shown.end(&self.plan.0, out, counts);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        let packing = Packing::new(kind.as_deref(), []);
        let json = packing.media() == &Media::Json;
        if let Some(rule) = name.as_deref().and_then(|name| self.plan.0.key_within(name)) {
            counts.add(&rule.names);
            let look = if json { rule.look.as_stars() } else { rule.look };
            return Ok(Part::Hidden(Hidden::new(look), json));
        }
        if matches!(packing.media(), Media::Multipart(_)) {
            return Err(self.wrong("a multipart body in a part"));
        }
        // A field of a form is a value, whose name was all there is to ask; a file may have names inside.
        let leaf = !file && matches!(packing.media(), Media::Text | Media::Opaque);
        Ok(Part::Masked(Box::new(Stream::of_part(&self.plan, &packing, leaf))))
    }

    fn body(&mut self, last: bool, out: &mut Vec<u8>, counts: &mut Counts) -> Result<bool, MaskError> {
        let end = [b"\r\n", self.dash.as_slice()].concat();
        // A part without a byte ends with the empty line of its head.
        let found = self.held.windows(end.len()).position(|window| window == end);
        let certain = match found {
            Some(at) => at,
            None if last => return Err(self.wrong("its end before its last boundary")),
            None => {
                let tail = (1..end.len().min(self.held.len() + 1))
                    .rev()
                    .find(|&long| end.starts_with(&self.held[self.held.len() - long..]));
                self.held.len() - tail.unwrap_or(0)
            }
        };
        let content: Vec<u8> = self.held[..certain].to_vec();
        self.drop_held(certain);
        let State::Body(part) = &mut self.state else { return Ok(false) };
        match part {
            Part::Hidden(hidden, _) => hidden.take(&content),
            Part::Masked(stream) => stream.push_counted(&content, out, counts)?,
        }
        if found.is_none() {
            return Ok(false);
        }
        match part {
            Part::Hidden(hidden, false) => write_hidden(&self.plan.0, hidden, Coding::Bare, out),
            Part::Hidden(hidden, true) => hidden.write_value(&self.plan.0, out),
            Part::Masked(stream) => stream.finish_counted(out, counts)?,
        }
        self.drop_held(end.len());
        out.extend_from_slice(&end);
        self.state = State::Boundary;
        Ok(true)
    }

    fn drop_held(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        self.offset += bytes as u64;
    }
}

impl Format for Multipart {
    fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.held.extend_from_slice(chunk);
        while self.step(false, out, counts)? {}
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), MaskError> {
        if matches!(self.state, State::Preamble) && self.held.is_empty() {
            return Ok(());
        }
        while self.step(true, out, counts)? {}
        Ok(())
    }
}

/// The name in a Content-Disposition, and whether there is a file name; `None` where it can be read in two ways.
fn disposition(value: &str) -> Option<(Option<String>, bool)> {
    let (mut name, mut file) = (None, false);
    let mut rest = value.split_once(';').map_or("", |(_, rest)| rest);
    while !rest.trim().is_empty() {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (text, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted_text(quoted)?,
            None => {
                let (text, left) = after.split_once(';').unwrap_or((after, ""));
                (text.trim().to_owned(), left)
            }
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "name" if name.is_none() => name = Some(percent(&text)?),
            "name" | "name*" => return None,
            "filename" | "filename*" => file = true,
            _ => {}
        }
        rest = left;
    }
    Some((name, file))
}

/// Reads up to the closing quote; gives the text and what follows the next semicolon.
fn quoted_text(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                // Some readers take the backslash for itself: both would have to be looked for.
                if c != '"' && c != '\\' {
                    text.push('\\');
                }
                text.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => {
                let after = quoted[at + 1..].trim_start();
                return match after.strip_prefix(';') {
                    Some(left) => Some((text, left)),
                    None if after.is_empty() => Some((text, "")),
                    None => None,
                };
            }
            _ => text.push(c),
        }
    }
    None
}

/// Browsers write quotes and line ends in names as percent escapes.
fn percent(text: &str) -> Option<String> {
    let mut name = Vec::new();
    escape::percent(text.as_bytes(), true, |piece| match piece {
        Piece::Escaped { raw: b"+", .. } => name.push(b'+'),
        Piece::Plain(text) | Piece::Escaped { text, .. } => name.extend_from_slice(text),
    });
    String::from_utf8(name).ok()
}
