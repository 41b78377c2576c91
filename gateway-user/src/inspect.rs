//! What the gate would have said to captured traffic: packets to streams, streams to messages, messages to verdicts.
//! Enforces nothing, writes nothing, and holds no more of a capture than its bounds say.

pub mod capture;
pub mod flow;
pub mod message;
pub mod packet;
pub mod stream;
pub mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::net::SocketAddr;

use serde::Serialize;

use self::capture::{CaptureError, Captured, End};
use self::flow::{Flow, Report};
use self::packet::{Packet, Skip};
use self::verdict::Judging;
use crate::limits::{CAPTURE_FLOWS_MAX, CAPTURE_HELD_BYTES_MAX};

/// What a capture was read to be, beside its connections.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Packets in it.
    pub packets: u64,
    /// Packets that were passed over, by why.
    pub passed_over: BTreeMap<Skip, u64>,
    /// Connections.
    pub connections: u64,
    /// Connections that were let go before their end, because too many were open.
    pub let_go: u64,
    /// Why the capture was not read to its end.
    pub broken: Option<String>,
}

impl Summary {
    /// Whether every packet that can belong to a connection was read, and every connection followed.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let harmless = |skip: &Skip| matches!(skip, Skip::NoIp | Skip::NoTcp);
        self.passed_over.keys().all(harmless) && self.let_go == 0 && self.broken.is_none()
    }
}

/// Addresses of the two ends, in their own order.
type Ends = (SocketAddr, SocketAddr);

struct Inspector<'a> {
    judging: &'a Judging<'a>,
    /// Open connections, and the packet that last belonged to each.
    flows: HashMap<Ends, (Flow, u64)>,
    held: usize,
    summary: Summary,
}

/// Reads a capture, and hands every connection to `tell` as it ends.
///
/// # Errors
/// It is no capture.
pub fn inspect<E>(
    file: impl Read + Send,
    judging: &Judging<'_>,
    mut tell: impl FnMut(Report) -> Result<(), E>,
) -> Result<Result<Summary, E>, CaptureError> {
    let summary = Summary::default();
    let mut inspector = Inspector { judging, flows: HashMap::new(), held: 0, summary };
    let mut failed = None;
    let end = capture::read(file, |captured| {
        for report in inspector.take(captured) {
            failed = failed.take().or(tell(report).err());
        }
    })?;
    if let End::Broken(why) = end {
        inspector.summary.broken = Some(why);
    }
    let mut left: Vec<Report> = inspector.flows.into_values().map(|(flow, _)| flow.finish()).collect();
    left.sort_by_key(|report| report.at);
    for report in left {
        failed = failed.or(tell(report).err());
    }
    Ok(failed.map_or(Ok(inspector.summary), Err))
}

impl Inspector<'_> {
    fn take(&mut self, captured: &Captured<'_>) -> Vec<Report> {
        self.summary.packets += 1;
        let packet = match packet::read(captured.link, captured.bytes, captured.original) {
            Ok(packet) => packet,
            Err(skip) => {
                *self.summary.passed_over.entry(skip).or_default() += 1;
                return Vec::new();
            }
        };
        let ends = if packet.from < packet.to { (packet.from, packet.to) } else { (packet.to, packet.from) };
        let mut ended = Vec::new();
        let begins = packet.segment.syn && !packet.ack;
        if begins && self.flows.get(&ends).is_some_and(|(flow, _)| flow.is_over()) {
            // The same two ports again.
            ended.extend(self.flows.remove(&ends).map(|(flow, _)| flow.finish()));
        }
        if !self.flows.contains_key(&ends) {
            if packet.segment.bytes.is_empty() && !packet.segment.syn {
                // The last words of a connection that is over, or not begun in this capture.
                return ended;
            }
            let (client, server) = self.sides(&packet);
            self.summary.connections += 1;
            self.flows.insert(ends, (Flow::new(client, server, captured.at), 0));
        }
        if let Some((flow, last)) = self.flows.get_mut(&ends) {
            let before = flow.held();
            flow.take(&packet, captured.at, self.judging);
            *last = self.summary.packets;
            self.held = (self.held + flow.held()).saturating_sub(before);
            if flow.is_over() && packet.segment.bytes.is_empty() && !packet.segment.fin {
                self.held = self.held.saturating_sub(flow.held());
                ended.extend(self.flows.remove(&ends).map(|(flow, _)| flow.finish()));
            }
        }
        ended.extend(self.make_room());
        ended
    }

    /// Who asks: by the handshake; in the middle, the side whose port no target has.
    fn sides(&self, packet: &Packet<'_>) -> Ends {
        let begins = packet.segment.syn;
        let knows = |end: SocketAddr| {
            let at = |direction| self.judging.set.target_at(direction, end).is_some();
            at(crate::operation::Direction::Outbound) || at(crate::operation::Direction::Inbound)
        };
        let by_server = if begins { packet.ack } else { knows(packet.from) && !knows(packet.to) };
        if by_server { (packet.to, packet.from) } else { (packet.from, packet.to) }
    }

    /// Lets the connections go that were quiet for longest, where there are too many or they hold too much.
    fn make_room(&mut self) -> Vec<Report> {
        let mut gone = Vec::new();
        if self.flows.len() <= CAPTURE_FLOWS_MAX && self.held <= CAPTURE_HELD_BYTES_MAX {
            return gone;
        }
        let mut quiet: Vec<(u64, Ends)> = self.flows.iter().map(|(ends, (_, last))| (*last, *ends)).collect();
        quiet.sort_unstable();
        // Many at once, so that a capture of nothing but beginnings does not sort for each of them.
        let most = self.flows.len().div_ceil(8);
        for (_, ends) in quiet.into_iter().take(most) {
            let Some((flow, _)) = self.flows.remove(&ends) else { continue };
            self.held = self.held.saturating_sub(flow.held());
            self.summary.let_go += 1;
            gone.push(flow.finish());
        }
        gone
    }
}
