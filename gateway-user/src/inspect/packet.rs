//! One captured packet down to its TCP segment: Ethernet with VLANs, Linux cooked v1 and v2, loopback, raw IP; IPv4 and
//! IPv6 with extension headers. No I/O. Says why it passes a packet over.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::Linktype;
use pcap_parser::data::{PacketData, get_packetdata};

use super::stream::Segment;

/// A segment and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// From.
    pub from: SocketAddr,
    /// To.
    pub to: SocketAddr,
    /// The segment.
    pub segment: Segment<'a>,
    /// It acknowledges something: with a SYN, it is the server's.
    pub ack: bool,
    /// It breaks the connection.
    pub reset: bool,
}

/// Why a packet was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// A link type that is not read here.
    LinkType,
    /// No IP in it, such as ARP.
    NoIp,
    /// IP, but no TCP.
    NoTcp,
    /// A part of a fragmented IP packet.
    Fragment,
    /// Its headers contradict themselves, or end early.
    Malformed,
    /// The capture holds only the beginning of it.
    CutShort,
}

/// LINKTYPE_LOOP: as NULL, in network byte order.
const LOOP: Linktype = Linktype(108);

/// Reads one packet; `original` is its length on the wire.
///
/// # Errors
/// A [`Skip`] where it has no whole TCP segment.
pub fn read(link: Linktype, bytes: &[u8], original: usize) -> Result<Packet<'_>, Skip> {
    if bytes.len() < original {
        return Err(Skip::CutShort);
    }
    let sliced = match get_packetdata(bytes, link, bytes.len()) {
        Some(PacketData::L2(frame)) => LaxSlicedPacket::from_ethernet(frame).map_err(|_| Skip::Malformed)?,
        Some(PacketData::L3(kind, packet)) => LaxSlicedPacket::from_ether_type(EtherType(kind), packet),
        Some(PacketData::L4(..)) => return Err(Skip::NoTcp),
        _ if link == LOOP => {
            let packet = bytes.get(4..).ok_or(Skip::Malformed)?;
            LaxSlicedPacket::from_ip(packet).map_err(|_| Skip::Malformed)?
        }
        Some(PacketData::Unsupported(_)) => return Err(Skip::LinkType),
        None => return Err(Skip::Malformed),
    };
    let (from, to) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr()))
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr()))
        }
        Some(LaxNetSlice::Arp(_)) => return Err(Skip::NoIp),
        None if sliced.stop_err.is_some() => return Err(Skip::Malformed),
        None => return Err(Skip::NoIp),
    };
    let payload = sliced.net.as_ref().and_then(LaxNetSlice::ip_payload_ref).ok_or(Skip::NoIp)?;
    if payload.fragmented {
        return Err(Skip::Fragment);
    }
    if payload.incomplete {
        return Err(Skip::CutShort);
    }
    let tcp = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp,
        Some(_) => return Err(Skip::NoTcp),
        None if sliced.stop_err.is_some() => return Err(Skip::Malformed),
        None => return Err(Skip::NoTcp),
    };
    let segment =
        Segment { sequence: tcp.sequence_number(), syn: tcp.syn(), fin: tcp.fin(), bytes: tcp.payload() };
    Ok(Packet {
        from: SocketAddr::new(from.to_canonical(), tcp.source_port()),
        to: SocketAddr::new(to.to_canonical(), tcp.destination_port()),
        segment,
        ack: tcp.ack(),
        reset: tcp.rst(),
    })
}
