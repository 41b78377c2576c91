//! Packets by hand, from the transport header on or with all of it.

use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddr};

use super::stream::octets6;
use crate::Aim;
use crate::sys::{self, sockaddr};

const SENT: &str = "sent";
const FROM_PORT: u16 = 40_000;

/// A SYN with something to say.
fn segment(port: u16, token: &str) -> Vec<u8> {
    let mut segment = FROM_PORT.to_be_bytes().to_vec();
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(token.as_bytes());
    segment
}

/// A datagram without a checksum.
pub(crate) fn datagram(port: u16, token: &str) -> Vec<u8> {
    let mut datagram = FROM_PORT.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + token.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(token.as_bytes());
    datagram
}

/// An IPv4 packet. `fragment`: the offset in eights, and 0x2000 where more follow.
pub(crate) fn packet4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!((folded & 0xffff) as u16 + (folded >> 16) as u16)).to_be_bytes());
    packet.extend(payload);
    packet
}

/// The destination, which these attempts have in IPv4.
pub(crate) fn v4(of: SocketAddr) -> Result<Ipv4Addr> {
    match of {
        SocketAddr::V4(v4) => Ok(*v4.ip()),
        SocketAddr::V6(_) => Err(Error::other("an IPv4 address is wanted")),
    }
}

fn nowhere(to: SocketAddr) -> Vec<u8> {
    sockaddr(SocketAddr::new(to.ip(), 0))
}

fn throw(aim: &Aim, family: i32, protocol: i32, to: SocketAddr, bytes: &[&[u8]]) -> Result<String> {
    let socket = sys::socket(family, libc::SOCK_RAW, protocol)?;
    aim.pause();
    for bytes in bytes {
        sys::send_to(&socket, bytes, &nowhere(to), 0)?;
    }
    Ok(SENT.to_owned())
}

pub(crate) fn tcp(aim: &Aim) -> Result<String> {
    throw(aim, libc::AF_INET, 6, aim.to(), &[&segment(aim.to().port(), aim.token())])
}

pub(crate) fn header(aim: &Aim) -> Result<String> {
    let segment = segment(aim.to().port(), aim.token());
    let packet = packet4(v4(aim.address("from"))?, v4(aim.to())?, 6, 0, &segment);
    throw(aim, libc::AF_INET, libc::IPPROTO_RAW, aim.to(), &[&packet])
}

/// The second fragment has no ports, and all of the token.
pub(crate) fn fragments(aim: &Aim) -> Result<String> {
    let (from, to) = (v4(aim.address("from"))?, v4(aim.to())?);
    let datagram = datagram(aim.to().port(), aim.token());
    let first = packet4(from, to, 17, 0x2000, &datagram[..8]);
    let second = packet4(from, to, 17, 1, &datagram[8..]);
    throw(aim, libc::AF_INET, libc::IPPROTO_RAW, aim.to(), &[&first, &second])
}

/// To another port than the destination's own, inside a packet for the destination.
pub(crate) fn ip_in_ip(aim: &Aim) -> Result<String> {
    let (from, to) = (v4(aim.address("from"))?, v4(aim.to())?);
    let inner = packet4(from, to, 17, 0, &datagram(aim.to().port(), aim.token()));
    let packet = packet4(from, to, 4, 0, &inner);
    throw(aim, libc::AF_INET, libc::IPPROTO_RAW, aim.to(), &[&packet])
}

pub(crate) fn tcp6(aim: &Aim) -> Result<String> {
    throw(aim, libc::AF_INET6, 6, aim.to6(), &[&segment(aim.to6().port(), aim.token())])
}

/// Hop-by-hop and destination options, then the datagram.
pub(crate) fn extension(aim: &Aim) -> Result<String> {
    let datagram = datagram(aim.to6().port(), aim.token());
    let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
    payload.extend(&datagram);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([0, 64]);
    packet.extend(octets6(aim.address("from6")));
    packet.extend(octets6(aim.to6()));
    packet.extend(&payload);
    throw(aim, libc::AF_INET6, libc::IPPROTO_RAW, aim.to6(), &[&packet])
}
