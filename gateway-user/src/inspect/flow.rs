//! One captured connection: both directions put together, screened as the gate screens them, each request judged, each
//! answer masked into nothing. Holds the requests that wait for their answers, within a bound.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::message::{Handler, Length, Messages};
use super::packet::Packet;
use super::stream::{Seen as Went, Stream};
use super::verdict::{Judged, Judging};
use crate::limits::PIPELINED_MAX;
use crate::mask::{Packing, Plan, Unpacker};
use crate::wire::http1::{Framing, Screen, Seen};

/// One operation of a captured connection, and what would become of it.
#[derive(Debug, Clone, Serialize)]
pub struct Operation {
    /// When its head was whole.
    pub at: Timestamp,
    /// What the gate would say.
    #[serde(flatten)]
    pub judged: Judged,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// The status of its answer; none where none was captured whole.
    pub status: Option<u16>,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Values that masks would hide in the answer, by mask.
    pub masks: Vec<(String, u64)>,
    /// Why the answer could not be passed on, where masks cannot be applied to it.
    pub unmaskable: Option<String>,
    /// Whether request and answer were captured to their ends.
    pub whole: bool,
}

/// A connection, as it is reported.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The side that asks.
    pub client: SocketAddr,
    /// The side that answers.
    pub server: SocketAddr,
    /// When its first packet was captured.
    pub at: Timestamp,
    /// Its operations.
    pub operations: Vec<Operation>,
    /// What the client's bytes went through.
    pub request_stream: Went,
    /// What the server's bytes went through.
    pub response_stream: Went,
    /// What was not looked at, and why.
    pub skipped: Vec<String>,
}

/// One connection being followed.
pub(super) struct Flow {
    report: Report,
    up: Stream,
    down: Stream,
    screen: Screen,
    asks: Messages,
    answers: Messages,
    waiting: VecDeque<Waiting>,
    over: bool,
}

struct Waiting {
    operation: Operation,
    masker: Option<Plan>,
    is_head: bool,
    stream: Option<Unpacker>,
    asked: bool,
}

impl Flow {
    pub(super) fn new(client: SocketAddr, server: SocketAddr, at: Timestamp) -> Self {
        let report = Report {
            client,
            server,
            at,
            operations: Vec::new(),
            request_stream: Went::default(),
            response_stream: Went::default(),
            skipped: Vec::new(),
        };
        let (up, down) = (Stream::default(), Stream::default());
        let (asks, answers) = (Messages::default(), Messages::default());
        Self {
            report,
            up,
            down,
            screen: Screen::default(),
            asks,
            answers,
            waiting: VecDeque::new(),
            over: false,
        }
    }

    /// Bytes held because something before them is missing.
    pub(super) fn held(&self) -> usize {
        self.up.held() + self.down.held()
    }

    /// Whether both directions ended.
    pub(super) fn is_over(&self) -> bool {
        self.over || (self.up.is_over() && self.down.is_over())
    }

    pub(super) fn take(&mut self, packet: &Packet<'_>, at: Timestamp, judging: &Judging<'_>) {
        let mut bytes = Vec::new();
        if packet.from == self.report.client {
            self.up.take(&packet.segment, &mut bytes);
            self.ask(&bytes, at, judging);
        } else {
            self.down.take(&packet.segment, &mut bytes);
            let mut answering = Answering { waiting: &mut self.waiting, done: &mut self.report.operations };
            self.answers.push(&bytes, &mut answering);
        }
        self.over |= packet.reset;
    }

    fn ask(&mut self, mut bytes: &[u8], at: Timestamp, judging: &Judging<'_>) {
        while !bytes.is_empty() {
            let mut passed = Vec::new();
            let taken = self.screen.push(bytes, &mut passed);
            bytes = &bytes[taken..];
            let mut asking = Asking {
                screen: &mut self.screen,
                waiting: &mut self.waiting,
                at,
                client: self.report.client,
                server: self.report.server,
                judging,
            };
            self.asks.push(&passed, &mut asking);
            if let Some(Seen::Fault(fault, line)) = self.screen.next_seen() {
                let judged = Judged::refused(&line, fault.reason);
                self.report.operations.push(operation(at, judged));
                return;
            }
            if taken == 0 {
                return;
            }
        }
    }

    /// The capture, or the connection, ended.
    pub(super) fn finish(mut self) -> Report {
        let mut answering = Answering { waiting: &mut self.waiting, done: &mut self.report.operations };
        let _ = self.answers.finish(&mut answering);
        let mut skipped = std::mem::take(&mut self.report.skipped);
        for (side, stream, messages) in
            [("requests", &self.up, &self.asks), ("answers", &self.down, &self.answers)]
        {
            if let Some((at, bytes)) = stream.gap() {
                skipped.push(format!(
                    "{side} after byte {at}: {bytes} bytes are not in the capture, and {} after them were not read",
                    stream.held()
                ));
            }
            if let Some(why) = messages.broken() {
                skipped.push(format!("{side}: the rest is no HTTP/1.1: {why}"));
            }
            if stream.seen.dropped > 0 {
                skipped
                    .push(format!("{side}: {} bytes too far ahead or before the first", stream.seen.dropped));
            }
            if stream.seen.conflicting > 0 {
                let count = stream.seen.conflicting;
                skipped.push(format!(
                    "{side}: {count} bytes were sent twice and differently; the first were read"
                ));
            }
            if stream.seen.midstream {
                skipped.push(format!("{side} before the capture began"));
            }
        }
        self.report.operations.extend(self.waiting.into_iter().map(|waiting| waiting.operation));
        self.report.operations.sort_by_key(|operation| operation.at);
        (self.report.request_stream, self.report.response_stream) = (self.up.seen, self.down.seen);
        self.report.skipped = skipped;
        self.report
    }
}

fn operation(at: Timestamp, judged: Judged) -> Operation {
    Operation {
        at,
        judged,
        request_bytes: 0,
        status: None,
        response_bytes: 0,
        masks: Vec::new(),
        unmaskable: None,
        whole: false,
    }
}

struct Asking<'a, 'j> {
    screen: &'a mut Screen,
    waiting: &'a mut VecDeque<Waiting>,
    at: Timestamp,
    client: SocketAddr,
    server: SocketAddr,
    judging: &'a Judging<'j>,
}

impl Handler for Asking<'_, '_> {
    fn head(&mut self, _: &[u8]) -> Result<Length, String> {
        let Some(Seen::Head(head)) = self.screen.next_seen() else {
            return Err("the screen let through what it did not read".into());
        };
        if self.waiting.len() >= PIPELINED_MAX * 4 {
            return Err("too many requests wait for an answer that was not captured".into());
        }
        let length = match head.framing {
            Framing::Length(length) => Length::Bytes(length),
            Framing::Chunked => Length::Chunked,
        };
        let is_head = head.method == "HEAD";
        let (judged, masker) = self.judging.judge(*head, self.client, self.server, self.at);
        let operation = operation(self.at, judged);
        self.waiting.push_back(Waiting { operation, masker, is_head, stream: None, asked: false });
        Ok(length)
    }

    fn body(&mut self, bytes: &[u8]) {
        if let Some(waiting) = self.waiting.back_mut() {
            waiting.operation.request_bytes += bytes.len() as u64;
        }
    }

    fn end(&mut self) {
        if let Some(waiting) = self.waiting.back_mut() {
            waiting.asked = true;
        }
    }
}

struct Answering<'a> {
    waiting: &'a mut VecDeque<Waiting>,
    done: &'a mut Vec<Operation>,
}

impl Handler for Answering<'_> {
    fn head(&mut self, head: &[u8]) -> Result<Length, String> {
        let head = Head::read(head)?;
        let waiting = self.waiting.front_mut().ok_or("an answer without a request")?;
        if (100..200).contains(&head.status) {
            return if head.status == 101 {
                Err("it changes to another protocol".into())
            } else {
                Ok(Length::Interim)
            };
        }
        waiting.operation.status = Some(head.status);
        let bodiless = waiting.is_head || matches!(head.status, 204 | 304);
        let length = if bodiless { Length::Bytes(0) } else { head.length };
        if let Some(plan) = waiting.masker.as_ref().filter(|_| length != Length::Bytes(0)) {
            waiting.stream = Some(plan.unpack(&head.packing));
        }
        Ok(length)
    }

    fn body(&mut self, bytes: &[u8]) {
        let Some(waiting) = self.waiting.front_mut() else { return };
        waiting.operation.response_bytes += bytes.len() as u64;
        let Some(stream) = &mut waiting.stream else { return };
        stream.give(Bytes::copy_from_slice(bytes));
        let mut shown = Vec::new();
        loop {
            shown.clear();
            match stream.take(&mut shown) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    waiting.operation.unmaskable = Some(error.to_string());
                    waiting.stream = None;
                    return;
                }
            }
        }
    }

    fn end(&mut self) {
        let Some(mut waiting) = self.waiting.pop_front() else { return };
        if let Some(mut stream) = waiting.stream {
            match stream.finish(&mut Vec::new()) {
                Ok(hits) => waiting.operation.masks = hits.masks,
                Err(error) => waiting.operation.unmaskable = Some(error.to_string()),
            }
        }
        waiting.operation.whole = waiting.asked;
        self.done.push(waiting.operation);
    }
}

/// What of an answer's head says how it goes on.
struct Head {
    status: u16,
    length: Length,
    packing: Packing,
}

impl Head {
    fn read(head: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status =
            line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
        let status =
            status.filter(|status| (100..600).contains(status)).ok_or("an answer begins with no status")?;
        let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        let all = |name: &'static str| {
            let of = fields.iter().filter(move |(known, _)| known.trim().eq_ignore_ascii_case(name));
            of.map(|(_, value)| value.trim()).collect::<Vec<_>>()
        };
        let length = match (all("transfer-encoding")[..].len(), all("content-length").as_slice()) {
            (0, []) => Length::ToEnd,
            (0, [first, rest @ ..]) if rest.iter().all(|other| other == first) => {
                Length::Bytes(first.parse().map_err(|_| "an answer's Content-Length is no number")?)
            }
            (1, []) if all("transfer-encoding")[0].eq_ignore_ascii_case("chunked") => Length::Chunked,
            _ => return Err("an answer's length has more than one reading".into()),
        };
        Ok(Self {
            status,
            length,
            packing: Packing::of(fields.iter().map(|(name, value)| (name.trim(), value.trim().as_bytes()))),
        })
    }
}
