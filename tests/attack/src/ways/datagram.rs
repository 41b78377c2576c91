//! Datagrams: UDP and its relatives, and the two connection protocols nobody expects.

use std::io::Result;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::stream::{as_mapped, octets6};
use crate::Aim;
use crate::sys::{self, sockaddr};

const UDPLITE: i32 = 136;
const SENT: &str = "sent";

fn datagram(to: SocketAddr, protocol: i32) -> Result<OwnedFd> {
    let socket = sys::socket(sys::family(to), libc::SOCK_DGRAM, protocol)?;
    let any: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    sys::bind(&socket, &sockaddr(any))?;
    Ok(socket)
}

fn throw(aim: &Aim, socket: &OwnedFd, to: SocketAddr) -> Result<String> {
    sys::send_to(socket, aim.token().as_bytes(), &sockaddr(to), 0)?;
    Ok(SENT.to_owned())
}

pub(crate) fn send_to(aim: &Aim, to: SocketAddr) -> Result<String> {
    let socket = datagram(to, 0)?;
    aim.pause();
    throw(aim, &socket, to)
}

fn connect_and_send(aim: &Aim, protocol: i32) -> Result<String> {
    let socket = datagram(aim.to(), protocol)?;
    sys::connect(&socket, &sockaddr(aim.to()))?;
    aim.pause();
    sys::send(&socket, aim.token().as_bytes())?;
    Ok(SENT.to_owned())
}

pub(crate) fn connected(aim: &Aim) -> Result<String> {
    connect_and_send(aim, 0)
}

pub(crate) fn mapped(aim: &Aim) -> Result<String> {
    let to = as_mapped(aim.to());
    throw(aim, &datagram(to, 0)?, to)
}

/// IPv4 takes an address without a family for one of its own.
pub(crate) fn unspec(aim: &Aim) -> Result<String> {
    let socket = datagram(aim.to(), 0)?;
    let mut to = sockaddr(aim.to());
    to[..2].copy_from_slice(&(libc::AF_UNSPEC as u16).to_ne_bytes());
    sys::send_to(&socket, aim.token().as_bytes(), &to, 0)?;
    Ok(SENT.to_owned())
}

/// Type 4, one segment left of two: by way of the destination itself, so that the packet's first address is it, too.
pub(crate) fn route_header(aim: &Aim) -> Result<String> {
    const RTHDR: i32 = 57;
    let socket = datagram(aim.to6(), 0)?;
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend([0; 16]);
    header.extend(octets6(aim.to6()));
    sys::set(&socket, libc::IPPROTO_IPV6, RTHDR, &header)?;
    throw(aim, &socket, aim.to6())
}

/// Eight octets of padding as a destination option.
pub(crate) fn options(aim: &Aim) -> Result<String> {
    const DSTOPTS: i32 = 59;
    let socket = datagram(aim.to6(), 0)?;
    sys::set(&socket, libc::IPPROTO_IPV6, DSTOPTS, &[0, 0, 1, 4, 0, 0, 0, 0])?;
    throw(aim, &socket, aim.to6())
}

pub(crate) fn lite(aim: &Aim) -> Result<String> {
    throw(aim, &datagram(aim.to(), UDPLITE)?, aim.to())
}

pub(crate) fn lite_connected(aim: &Aim) -> Result<String> {
    connect_and_send(aim, UDPLITE)
}

pub(crate) fn sctp(aim: &Aim) -> Result<String> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)?;
    sys::connect(&socket, &sockaddr(aim.to()))?;
    sys::talk(&socket, aim.token())
}

pub(crate) fn dccp(aim: &Aim) -> Result<String> {
    const SOL_DCCP: i32 = 269;
    const SERVICE: i32 = 2;
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DCCP, libc::IPPROTO_DCCP)?;
    sys::set(&socket, SOL_DCCP, SERVICE, &42u32.to_be_bytes())?;
    sys::connect(&socket, &sockaddr(aim.to()))?;
    sys::talk(&socket, aim.token())
}
