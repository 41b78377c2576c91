//! The addresses that are a network namespace's own: the local routes of all its tables, which are what the kernel itself asks when it
//! decides where a connect ends. Read whole or not at all.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::{Block, KernelError, raw, sockets};

/// A dump that changed while it was read is read again, this often.
const TRIES: usize = 3;
/// The kernel answers from memory; a second is for ever.
const PATIENCE: Duration = Duration::from_secs(1);
/// The kernel packs no dump into larger datagrams.
const DATAGRAM_BYTES: usize = 32 * 1024;

const GET_ROUTE: u16 = 26;
const NEW_ROUTE: u16 = 24;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const DUMP_CHANGED: u16 = 0x10;
/// Also those of VRFs, and of `ip route add local ... table N`.
const ANY_TABLE: u8 = 0;
const TYPE_LOCAL: u8 = 2;
const ATTRIBUTE_DESTINATION: u16 = 1;
const HEADER_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;

/// The own addresses of the namespace at this path.
pub(super) fn addresses(netns: &Path) -> Result<Vec<Block>, KernelError> {
    sockets::inside(netns, addresses_here)
}

/// The own addresses of the caller's namespace, in order.
pub(super) fn addresses_here() -> io::Result<Vec<Block>> {
    let mut read = dump_both();
    for _ in 1..TRIES {
        match &read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => read = dump_both(),
            _ => break,
        }
    }
    read.map_err(|error| io::Error::new(error.kind(), format!("its own addresses cannot be read: {error}")))
}

fn dump_both() -> io::Result<Vec<Block>> {
    // No protocol number is NETLINK_ROUTE.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    raw::netlink_strict(socket.as_fd())?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let mut blocks = dump(&socket, FAMILY_V4)?;
    blocks.extend(dump(&socket, FAMILY_V6)?);
    blocks.sort_unstable_by_key(|block| (block.address, block.prefix));
    blocks.dedup();
    Ok(blocks)
}

fn dump(socket: &OwnedFd, family: u8) -> io::Result<Vec<Block>> {
    let mut request = Vec::with_capacity(HEADER_BYTES + ROUTE_BYTES);
    request.extend(((HEADER_BYTES + ROUTE_BYTES) as u32).to_ne_bytes());
    request.extend(GET_ROUTE.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, 0, 0, 0, ANY_TABLE, 0, 0, TYPE_LOCAL, 0, 0, 0, 0]);
    rustix::net::send(socket, &request, SendFlags::empty())?;
    let (mut blocks, mut datagram) = (Vec::new(), vec![0; DATAGRAM_BYTES]);
    let mut step = Step::More;
    while step == Step::More {
        let (_, length) = rustix::net::recv(socket, &mut datagram[..], RecvFlags::TRUNC)?;
        let messages = datagram.get(..length).ok_or(io::ErrorKind::InvalidData)?;
        step = take(messages, &mut blocks)?;
    }
    Ok(blocks)
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    Done,
}

/// Takes the routes out of one datagram.
fn take(mut messages: &[u8], blocks: &mut Vec<Block>) -> io::Result<Step> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    while !messages.is_empty() {
        let length = long(messages, 0).ok_or_else(broken)? as usize;
        let message = messages.get(..length).ok_or_else(broken)?;
        let (kind, flags) = (short(message, 4).ok_or_else(broken)?, short(message, 6).ok_or_else(broken)?);
        let body = message.get(HEADER_BYTES..).ok_or_else(broken)?;
        if flags & DUMP_CHANGED != 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match kind {
            DONE | ERROR => {
                // Done says 0, or a negative error number like any error.
                let number = long(body, 0).ok_or_else(broken)?.cast_signed();
                return match number {
                    0 => Ok(Step::Done),
                    // A namespace whose loopback was never up has no local table yet, and so no address.
                    missing if missing == -libc::ENOENT => Ok(Step::Done),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
            NEW_ROUTE => blocks.extend(route(body).ok_or_else(broken)?),
            _ => {}
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Step::More)
}

/// One route; inside, `None` where it is none of ours.
fn route(body: &[u8]) -> Option<Option<Block>> {
    let (family, prefix, kind) = (*body.first()?, *body.get(1)?, *body.get(7)?);
    if kind != TYPE_LOCAL || !matches!(family, FAMILY_V4 | FAMILY_V6) {
        return Some(None);
    }
    let mut address = if family == FAMILY_V4 { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) };
    let mut attributes = body.get(ROUTE_BYTES..)?;
    while !attributes.is_empty() {
        let length = usize::from(short(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if short(attributes, 2)? == ATTRIBUTE_DESTINATION {
            address = match family {
                FAMILY_V4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
            };
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Some(Block { address, prefix }))
}

/// Whether an address lies in a block.
pub(super) fn is_in(block: &Block, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    let ((width, wanted), (other, start)) = (bits(address), bits(block.address));
    let beyond = u32::from(block.prefix).min(width);
    width == other && (wanted ^ start).checked_shr(width - beyond).unwrap_or(0) == 0
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }

    fn local(prefix: u8, table: u8, kind: u8, address: [u8; 4]) -> Vec<u8> {
        let mut body = vec![FAMILY_V4, prefix, 0, 0, table, 0, 0, kind, 0, 0, 0, 0];
        body.extend(8u16.to_ne_bytes());
        body.extend(ATTRIBUTE_DESTINATION.to_ne_bytes());
        body.extend(address);
        body
    }

    #[test]
    fn this_namespace_owns_its_loopback_and_no_documentation_address() {
        let own = addresses_here().unwrap();
        assert!(own.contains(&Block { address: [127, 0, 0, 0].into(), prefix: 8 }), "{own:?}");
        assert!(!own.iter().any(|block| block.address == IpAddr::from([198, 51, 100, 7])), "{own:?}");
    }

    #[test]
    fn local_routes_of_every_table_are_own_and_no_others() {
        let mut blocks = Vec::new();
        let mut datagram = message(NEW_ROUTE, 2, &local(32, 255, TYPE_LOCAL, [10, 0, 0, 1]));
        datagram.extend(message(NEW_ROUTE, 2, &local(32, 255, 3, [10, 0, 0, 255])));
        datagram.extend(message(NEW_ROUTE, 2, &local(24, 254, 1, [10, 0, 0, 0])));
        datagram.extend(message(NEW_ROUTE, 2, &local(32, 7, TYPE_LOCAL, [10, 0, 7, 1])));
        assert_eq!(take(&datagram, &mut blocks).unwrap(), Step::More);
        assert_eq!(take(&message(DONE, 2, &[0; 4]), &mut blocks).unwrap(), Step::Done);
        let own = [[10, 0, 0, 1], [10, 0, 7, 1]];
        assert_eq!(blocks, own.map(|address| Block { address: address.into(), prefix: 32 }));
    }

    #[test]
    fn an_address_lies_in_its_block_and_in_no_other() {
        let block = |text: &str, prefix| Block { address: text.parse().unwrap(), prefix };
        let lies = |block: &Block, text: &str| is_in(block, text.parse().unwrap());
        assert!(lies(&block("127.0.0.0", 8), "127.9.9.9") && !lies(&block("127.0.0.0", 8), "128.0.0.0"));
        assert!(lies(&block("10.0.0.1", 32), "10.0.0.1") && !lies(&block("10.0.0.1", 32), "10.0.0.2"));
        assert!(lies(&block("::", 0), "2001:db8::1") && !lies(&block("::", 0), "10.0.0.1"));
        assert!(lies(&block("fe80::1", 128), "fe80::1") && !lies(&block("fe80::1", 128), "fe80::2"));
    }

    #[test]
    fn half_a_table_is_no_table() {
        let whole = message(NEW_ROUTE, 2, &local(32, 255, TYPE_LOCAL, [10, 0, 0, 1]));
        for cut in 1..whole.len() {
            assert!(take(&whole[..cut], &mut Vec::new()).is_err(), "{cut}");
        }
        let changed = message(DONE, DUMP_CHANGED, &[0; 4]);
        assert_eq!(take(&changed, &mut Vec::new()).unwrap_err().kind(), io::ErrorKind::Interrupted);
        let refused = message(ERROR, 0, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(take(&refused, &mut Vec::new()).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
