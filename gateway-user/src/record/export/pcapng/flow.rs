//! One made-up TCP connection: a handshake, segments that are acknowledged, and an end. Every number in it is as a
//! reader that checks would want it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement};

use super::blocks::Blocks;
use crate::operation::{SessionId, Sha256};
use crate::record::entry::Micros;

/// What an Ethernet frame leaves for a segment: 1500 bytes without IP and TCP headers.
const SEGMENT_BYTES_V4: usize = 1460;
const SEGMENT_BYTES_V6: usize = 1440;
/// Segments after which the other side acknowledges. Well within the window.
const ACKNOWLEDGE_EVERY: usize = 16;
const WINDOW: u16 = u16::MAX;
const HOPS: u8 = 64;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From client to server.
    Up,
    /// Back.
    Down,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    syn: bool,
    fin: bool,
    reset: bool,
    push: bool,
}

pub(super) struct Flow {
    client: SocketAddr,
    server: SocketAddr,
    segment: usize,
    /// The next sequence number of each side.
    up: u32,
    down: u32,
    /// When the last packet was, so that none is before it.
    at: Micros,
}

impl Flow {
    /// A connection that begins at this moment. The sequence numbers come from the session's id, so that an export of
    /// the same record is the same file.
    pub(super) fn new(session: SessionId, client: SocketAddr, server: SocketAddr, at: Micros) -> Self {
        let (client, server) = match (client.is_ipv4(), server.is_ipv4()) {
            (true, false) => (mapped(client), server),
            (false, true) => (client, mapped(server)),
            _ => (client, server),
        };
        let Sha256(seed) = Sha256::of(session.0.as_bytes());
        let number = |at: usize| u32::from_be_bytes([seed[at], seed[at + 1], seed[at + 2], seed[at + 3]]);
        let segment = if client.is_ipv4() { SEGMENT_BYTES_V4 } else { SEGMENT_BYTES_V6 };
        Self { client, server, segment, up: number(0), down: number(4), at }
    }

    /// The handshake.
    pub(super) fn open(&mut self, blocks: &mut Blocks<'_>, comment: &str) -> io::Result<()> {
        let syn = Flags { syn: true, ..Flags::default() };
        self.packet(blocks, Way::Up, syn, &[], comment)?;
        self.packet(blocks, Way::Down, syn, &[], "")?;
        self.packet(blocks, Way::Up, Flags::default(), &[], "")
    }

    /// What comes next is not before this moment.
    pub(super) fn until(&mut self, at: Micros) {
        self.at = self.at.max(at);
    }

    /// Sends these bytes, and has them acknowledged. Without a byte it is a bare acknowledgement with a comment.
    pub(super) fn send(
        &mut self,
        blocks: &mut Blocks<'_>,
        way: Way,
        bytes: &[u8],
        comment: &str,
    ) -> io::Result<()> {
        if bytes.is_empty() {
            return self.packet(blocks, way, Flags::default(), &[], comment);
        }
        let back = if way == Way::Up { Way::Down } else { Way::Up };
        let count = bytes.len().div_ceil(self.segment);
        for (number, segment) in bytes.chunks(self.segment).enumerate() {
            let last = number + 1 == count;
            let comment = if number == 0 { comment } else { "" };
            self.packet(blocks, way, Flags { push: last, ..Flags::default() }, segment, comment)?;
            if last || (number + 1).is_multiple_of(ACKNOWLEDGE_EVERY) {
                self.packet(blocks, back, Flags::default(), &[], "")?;
            }
        }
        Ok(())
    }

    /// The client closes, the server too.
    pub(super) fn finish(&mut self, blocks: &mut Blocks<'_>, comment: &str) -> io::Result<()> {
        let fin = Flags { fin: true, ..Flags::default() };
        self.packet(blocks, Way::Up, fin, &[], comment)?;
        self.packet(blocks, Way::Down, fin, &[], "")?;
        self.packet(blocks, Way::Up, Flags::default(), &[], "")
    }

    /// It breaks.
    pub(super) fn reset(&mut self, blocks: &mut Blocks<'_>, comment: &str) -> io::Result<()> {
        self.packet(blocks, Way::Up, Flags { reset: true, ..Flags::default() }, &[], comment)
    }

    fn packet(
        &mut self,
        blocks: &mut Blocks<'_>,
        way: Way,
        flags: Flags,
        payload: &[u8],
        comment: &str,
    ) -> io::Result<()> {
        let (from, to, number, other) = match way {
            Way::Up => (self.client, self.server, &mut self.up, self.down),
            Way::Down => (self.server, self.client, &mut self.down, self.up),
        };
        let mut header = TcpHeader::new(from.port(), to.port(), *number, WINDOW);
        (header.syn, header.fin, header.rst, header.psh) = (flags.syn, flags.fin, flags.reset, flags.push);
        if !(flags.syn && way == Way::Up) {
            (header.ack, header.acknowledgment_number) = (true, other);
        }
        if flags.syn {
            let size = TcpOptionElement::MaximumSegmentSize(self.segment as u16);
            header.set_options(&[size]).map_err(|cause| io::Error::other(format!("{cause:?}")))?;
        }
        *number = number.wrapping_add(payload.len() as u32 + u32::from(flags.syn) + u32::from(flags.fin));
        let packet: PacketBuilderStep<TcpHeader> = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), HOPS).tcp_header(header)
            }
            (from, to) => PacketBuilder::ipv6(six(from).octets(), six(to).octets(), HOPS).tcp_header(header),
        };
        let mut bytes = Vec::with_capacity(packet.size(payload.len()));
        packet.write(&mut bytes, payload).map_err(io::Error::other)?;
        self.at += 1;
        blocks.packet(self.at, &bytes, comment)
    }
}

fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(six(address.ip()).into(), address.port())
}
