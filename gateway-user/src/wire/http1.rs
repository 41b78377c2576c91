//! The strict screen in front of the HTTP/1.1 engine: follows heads, bodies and trailers byte by byte and lets
//! through only messages with one reading (RFC 9112). Refuses at the first byte that could be read in two ways, and
//! passes nothing after it.

use std::collections::VecDeque;

use super::fault::Fault;
use super::{field, uri};
use crate::limits::{
    CHUNK_LINE_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, PIPELINED_MAX, REQUEST_LINE_BYTES_MAX,
    TRAILER_BYTES_MAX,
};

/// A request head that has one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Method, as sent.
    pub method: String,
    /// Canonical path, as sent.
    pub path: String,
    /// Query, as sent.
    pub query: Option<String>,
    /// Host, lower case, and the port it names.
    pub authority: uri::Authority,
    /// Minor version: 0 or 1.
    pub minor: u8,
    /// All fields in order, names in their case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// How the body is framed.
    pub framing: Framing,
    /// The client waits for 100 before it sends the body.
    pub expects_continue: bool,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes; 0 is no body.
    Length(u64),
    /// Chunks until the last.
    Chunked,
}

/// What the screen saw, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A head; its body follows.
    Head(Box<RequestHead>),
    /// A message with no single reading. The connection is over for reading.
    Fault(Fault, String),
}

/// Where in the stream of messages the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Head,
    Body(u64),
    ChunkLine,
    ChunkData(u64),
    ChunkEnd { seen_cr: bool },
    Trailer,
    Nothing,
}

/// Follows one client's bytes.
#[derive(Debug)]
pub struct Screen {
    expect: Expect,
    /// The line or head that is not complete yet.
    pending: Vec<u8>,
    /// How far `pending` has been searched for its end.
    searched: usize,
    seen: VecDeque<Seen>,
    /// The fault that ended reading, where it lay inside a body.
    cut: Option<Fault>,
}

impl Default for Screen {
    fn default() -> Self {
        Self { expect: Expect::Head, pending: Vec::new(), searched: 0, seen: VecDeque::new(), cut: None }
    }
}

impl Screen {
    /// Takes bytes from the client, appends what may pass to `passed`, and returns how many bytes of `input` it took:
    /// fewer than given when [`PIPELINED_MAX`] heads wait for an answer.
    pub fn push(&mut self, input: &[u8], passed: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while taken < input.len() && self.expect != Expect::Nothing {
            if self.expect == Expect::Head && self.seen.len() >= PIPELINED_MAX {
                break;
            }
            match self.step(&input[taken..], passed) {
                Ok(step) => taken += step,
                Err(fault) => self.refuse(fault),
            }
        }
        if self.expect == Expect::Nothing { input.len() } else { taken }
    }

    /// The oldest head or fault not taken yet.
    pub fn next_seen(&mut self) -> Option<Seen> {
        self.seen.pop_front()
    }

    /// Heads seen and not taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.seen.len()
    }

    /// Ends reading with a fault from outside the grammar, such as a head that took too long.
    pub fn refuse(&mut self, fault: Fault) {
        let line = self.pending.split(|&b| b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(256)]).trim_end().to_owned();
        if self.expect == Expect::Head {
            self.seen.push_back(Seen::Fault(fault, line));
        } else {
            self.cut = Some(fault);
        }
        self.expect = Expect::Nothing;
        self.pending = Vec::new();
    }

    /// Whether a head has begun and is not complete.
    #[must_use]
    pub fn in_head(&self) -> bool {
        self.expect == Expect::Head && !self.pending.is_empty()
    }

    /// Whether the next byte, if any, begins a new message.
    #[must_use]
    pub fn between_messages(&self) -> bool {
        self.expect == Expect::Head && self.pending.is_empty()
    }

    /// The fault that ended reading inside a body. Such a fault ends that message, and is no message of its own.
    #[must_use]
    pub fn fault_in_body(&self) -> Option<Fault> {
        self.cut.clone()
    }

    /// Whether a fault ended reading.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.expect == Expect::Nothing
    }

    fn step(&mut self, input: &[u8], passed: &mut Vec<u8>) -> Result<usize, Fault> {
        match self.expect {
            Expect::Head => self.head(input, passed),
            Expect::Body(left) => {
                let take = copy(input, left, passed);
                self.expect = match left - take as u64 {
                    0 => Expect::Head,
                    left => Expect::Body(left),
                };
                Ok(take)
            }
            Expect::ChunkLine => self.chunk_line(input, passed),
            Expect::ChunkData(left) => {
                let take = copy(input, left, passed);
                self.expect = match left - take as u64 {
                    0 => Expect::ChunkEnd { seen_cr: false },
                    left => Expect::ChunkData(left),
                };
                Ok(take)
            }
            Expect::ChunkEnd { seen_cr } => {
                self.expect = match (seen_cr, input[0]) {
                    (false, b'\r') => Expect::ChunkEnd { seen_cr: true },
                    (true, b'\n') => Expect::ChunkLine,
                    _ => return Err(Fault::bad("a chunk does not end where its size says")),
                };
                passed.push(input[0]);
                Ok(1)
            }
            Expect::Trailer => self.trailer(input, passed),
            Expect::Nothing => Ok(input.len()),
        }
    }

    fn head(&mut self, input: &[u8], passed: &mut Vec<u8>) -> Result<usize, Fault> {
        // RFC 9112 section 2.2: an empty line before a request is forgiven, and not passed on.
        match (self.pending.as_slice(), input[0]) {
            ([], b'\r') => {
                self.pending.push(b'\r');
                return Ok(1);
            }
            ([b'\r'], b'\n') => {
                self.pending.clear();
                return Ok(1);
            }
            ([b'\r'], _) | ([], b'\n') => return Err(Fault::bad("a line ends without carriage return")),
            _ => {}
        }
        let before = self.pending.len();
        let room = (HEAD_BYTES_MAX + 1).saturating_sub(before);
        self.pending.extend_from_slice(&input[..input.len().min(room)]);
        let end = find(&self.pending, self.searched, b"\r\n\r\n");
        if let Some(end) = end {
            // What follows the head is not of the head: a body may hold bare line feeds.
            self.pending.truncate(end + 4);
        }
        self.check_partial_head()?;
        let Some(end) = end else {
            self.searched = self.pending.len().saturating_sub(3);
            if self.pending.len() > HEAD_BYTES_MAX {
                return Err(Fault::new(431, "the request head is too large"));
            }
            return Ok(self.pending.len() - before);
        };
        if end + 4 > HEAD_BYTES_MAX {
            return Err(Fault::new(431, "the request head is too large"));
        }
        let head = request_head(&self.pending[..end + 2])?;
        passed.extend_from_slice(&self.pending);
        let taken = self.pending.len() - before;
        self.pending.clear();
        self.searched = 0;
        self.expect = match head.framing {
            Framing::Length(0) => Expect::Head,
            Framing::Length(length) => Expect::Body(length),
            Framing::Chunked => Expect::ChunkLine,
        };
        self.seen.push_back(Seen::Head(Box::new(head)));
        Ok(taken)
    }

    /// Refuses early what can never become a request: another protocol's first bytes, and a line without end.
    fn check_partial_head(&self) -> Result<(), Fault> {
        if self.pending.first().is_some_and(|&b| !field::is_token_byte(b)) {
            return Err(Fault::bad("this is not HTTP/1.1"));
        }
        let line = self.pending.iter().position(|&b| b == b'\n').unwrap_or(self.pending.len());
        if line > REQUEST_LINE_BYTES_MAX {
            return Err(Fault::new(414, "the request line is too long"));
        }
        // Another protocol's greeting is told from a request as soon as its first line is whole.
        if line < self.pending.len() && line >= self.searched {
            request_line(self.pending[..line].strip_suffix(b"\r").unwrap_or_default())?;
        }
        let from = self.searched.max(1);
        for at in from..self.pending.len() {
            if self.pending[at] == b'\n' && self.pending[at - 1] != b'\r' {
                return Err(Fault::bad("a line ends without carriage return"));
            }
        }
        Ok(())
    }

    /// Appends `input` up to and including the next LF to `pending`. `None` until the line is complete.
    fn line(&mut self, input: &[u8], max: usize, fault: &Fault) -> Result<(usize, Option<Vec<u8>>), Fault> {
        let end = input.iter().position(|&b| b == b'\n').map_or(input.len(), |at| at + 1);
        if self.pending.len() + end > max {
            return Err(fault.clone());
        }
        self.pending.extend_from_slice(&input[..end]);
        if self.pending.last() != Some(&b'\n') {
            return Ok((end, None));
        }
        if !self.pending.ends_with(b"\r\n") {
            return Err(Fault::bad("a line ends without carriage return"));
        }
        Ok((end, Some(std::mem::take(&mut self.pending))))
    }

    fn chunk_line(&mut self, input: &[u8], passed: &mut Vec<u8>) -> Result<usize, Fault> {
        let long = Fault::bad("a chunk size line is too long");
        let (taken, line) = self.line(input, CHUNK_LINE_BYTES_MAX, &long)?;
        let Some(line) = line else { return Ok(taken) };
        self.expect = match chunk_size(&line[..line.len() - 2])? {
            0 => Expect::Trailer,
            size => Expect::ChunkData(size),
        };
        passed.extend_from_slice(&line);
        Ok(taken)
    }

    /// Trailer lines pass together, when the last is known to be harmless.
    fn trailer(&mut self, input: &[u8], passed: &mut Vec<u8>) -> Result<usize, Fault> {
        let end = input.iter().position(|&b| b == b'\n').map_or(input.len(), |at| at + 1);
        if self.pending.len() + end > TRAILER_BYTES_MAX {
            return Err(Fault::new(431, "the trailer section is too large"));
        }
        self.pending.extend_from_slice(&input[..end]);
        if self.pending.last() != Some(&b'\n') {
            return Ok(end);
        }
        let Some(lines) = self.pending.strip_suffix(b"\r\n") else {
            return Err(Fault::bad("a line ends without carriage return"));
        };
        let done = lines.is_empty() || lines.ends_with(b"\r\n");
        if !done {
            let start = lines.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            let (name, _) = field::line(&lines[start..])?;
            if !field::may_trail(name) {
                return Err(Fault::bad("a trailer has a field that belongs in the head"));
            }
            return Ok(end);
        }
        passed.append(&mut self.pending);
        self.expect = Expect::Head;
        Ok(end)
    }
}

fn copy(input: &[u8], left: u64, passed: &mut Vec<u8>) -> usize {
    let take = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    passed.extend_from_slice(&input[..take]);
    take
}

fn find(bytes: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    bytes.get(from..)?.windows(needle.len()).position(|window| window == needle).map(|at| at + from)
}

/// RFC 9112 section 7.1. Extensions are read over: the engine drops them.
fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    if digits == 0 || digits > 15 {
        return Err(Fault::bad("a chunk size is not a hexadecimal number"));
    }
    let named = extension.trim_ascii_start().strip_prefix(b";").map(<[u8]>::trim_ascii_start);
    if !extension.is_empty()
        && !named.is_some_and(|rest| rest.first().is_some_and(|&b| field::is_token_byte(b)))
    {
        return Err(Fault::bad("a chunk size is not a hexadecimal number with extensions"));
    }
    if extension.iter().any(|&b| b != b'\t' && (b < 0x20 || b == 0x7f)) {
        return Err(Fault::bad("a chunk extension has a control character"));
    }
    let size = std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    size.ok_or(Fault::bad("a chunk size is not a hexadecimal number"))
}

/// Reads a whole head: request line and fields, each line with its CRLF, without the final empty line.
///
/// # Errors
/// A [`Fault`] for every head with no or more than one reading.
pub fn request_head(bytes: &[u8]) -> Result<RequestHead, Fault> {
    let mut lines = bytes.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (method, target, minor) = request_line(lines.next().unwrap_or_default())?;
    let mut fields = Vec::new();
    // The last split is what follows the final CRLF: nothing.
    let mut rest: Vec<&[u8]> = lines.collect();
    rest.pop();
    for line in rest {
        if fields.len() == HEADERS_MAX {
            return Err(Fault::new(431, "the request has too many header fields"));
        }
        let (name, value) = field::line(line)?;
        fields.push((name.to_owned(), value.to_owned()));
    }
    let target = uri::request_target(method, target)?;
    let authority = host(&fields, target.authority)?;
    let framing = framing(&fields, minor)?;
    let expects_continue = expectation(&fields)?;
    for name in ["authorization", "content-type", "content-encoding"] {
        single(&fields, name, Fault::bad("the request has a header twice that may stand once"))?;
    }
    field::connection_options(values(&fields, "connection"))?;
    Ok(RequestHead {
        method: method.to_owned(),
        path: target.path.to_owned(),
        query: target.query.map(str::to_owned),
        authority,
        minor,
        fields,
        framing,
        expects_continue,
    })
}

fn request_line(line: &[u8]) -> Result<(&str, &[u8], u8), Fault> {
    let mut parts = line.split(|&b| b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::bad("the request line is not a method, a target and a version"));
    };
    if !field::is_token(method) {
        return Err(Fault::bad("the method is not a token"));
    }
    let method = std::str::from_utf8(method).map_err(|_| Fault::bad("the method is not a token"))?;
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        other if other.starts_with(b"HTTP/") => return Err(Fault::new(505, "only HTTP/1.1 is spoken here")),
        _ => return Err(Fault::bad("the request line is not a method, a target and a version")),
    };
    Ok((method, target, minor))
}

/// Values of a field by its lower-case name.
pub fn values<'a>(fields: &'a [(String, Vec<u8>)], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice())
}

fn single<'a>(
    fields: &'a [(String, Vec<u8>)],
    name: &'a str,
    twice: Fault,
) -> Result<Option<&'a [u8]>, Fault> {
    let mut all = values(fields, name);
    match (all.next(), all.next()) {
        (first, None) => Ok(first),
        _ => Err(twice),
    }
}

fn host(fields: &[(String, Vec<u8>)], in_target: Option<&str>) -> Result<uri::Authority, Fault> {
    let value = single(fields, "host", Fault::bad("the request has more than one Host"))?
        .ok_or(Fault::bad("the request has no Host"))?;
    let value = std::str::from_utf8(value).map_err(|_| Fault::bad("the Host is not ASCII"))?;
    let authority = uri::authority(value)?;
    match in_target {
        Some(target) if uri::authority(target)? != authority => {
            Err(Fault::bad("the request target and the Host name different hosts"))
        }
        _ => Ok(authority),
    }
}

fn framing(fields: &[(String, Vec<u8>)], minor: u8) -> Result<Framing, Fault> {
    let length =
        single(fields, "content-length", Fault::bad("the request has more than one Content-Length"))?;
    let coding =
        single(fields, "transfer-encoding", Fault::bad("the request has more than one Transfer-Encoding"))?;
    match (length, coding) {
        (Some(_), Some(_)) => Err(Fault::bad("the request has both Content-Length and Transfer-Encoding")),
        (None, Some(_)) if minor == 0 => Err(Fault::bad("HTTP/1.0 has no Transfer-Encoding")),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err(Fault::new(501, "the only Transfer-Encoding spoken here is chunked")),
        (None, None) => Ok(Framing::Length(0)),
        (Some(digits), None) if digits.iter().all(u8::is_ascii_digit) && (1..=18).contains(&digits.len()) => {
            let length = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
            Ok(Framing::Length(length.ok_or(Fault::bad("the Content-Length is not a number"))?))
        }
        (Some(_), None) => Err(Fault::bad("the Content-Length is not a number")),
    }
}

fn expectation(fields: &[(String, Vec<u8>)]) -> Result<bool, Fault> {
    match single(fields, "expect", Fault::new(417, "the request has more than one Expect"))? {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(Fault::new(417, "the only expectation known here is 100-continue")),
    }
}

#[cfg(test)]
mod tests;
