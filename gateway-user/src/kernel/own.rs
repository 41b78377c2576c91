//! The addresses that are a network namespace's own: the local routes of all its tables, which are what the kernel itself asks when it
//! decides where a connect ends. Read whole or not at all.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::netlink::{self, Question};
use super::{Block, KernelError, sockets};

const GET_ROUTE: u16 = 26;
const NEW_ROUTE: u16 = 24;
/// Also those of VRFs, and of `ip route add local ... table N`.
const ANY_TABLE: u8 = 0;
const TYPE_LOCAL: u8 = 2;
const ATTRIBUTE_DESTINATION: u16 = 1;
const ROUTE_BYTES: usize = 12;
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;

/// The own addresses of the namespace at this path.
pub(super) fn addresses(netns: &Path) -> Result<Vec<Block>, KernelError> {
    sockets::inside(netns, addresses_here)
}

/// The own addresses of the caller's namespace, in order.
pub(super) fn addresses_here() -> io::Result<Vec<Block>> {
    let body = |family| [family, 0, 0, 0, ANY_TABLE, 0, 0, TYPE_LOCAL, 0, 0, 0, 0];
    let question = Question { ask: GET_ROUTE, answer: NEW_ROUTE };
    let mut blocks =
        netlink::dump(question, &[&body(FAMILY_V4), &body(FAMILY_V6)], route).map_err(|error| {
            io::Error::new(error.kind(), format!("its own addresses cannot be read: {error}"))
        })?;
    blocks.sort_unstable_by_key(|block| (block.address, block.prefix));
    blocks.dedup();
    Ok(blocks)
}

/// One route; inside, `None` where it is none of ours.
fn route(body: &[u8]) -> Option<Option<Block>> {
    let (family, prefix, kind) = (*body.first()?, *body.get(1)?, *body.get(7)?);
    if kind != TYPE_LOCAL || !matches!(family, FAMILY_V4 | FAMILY_V6) {
        return Some(None);
    }
    let mut address = if family == FAMILY_V4 { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) };
    for attribute in netlink::attributes(body.get(ROUTE_BYTES..)?) {
        let (kind, value) = attribute?;
        if kind == ATTRIBUTE_DESTINATION {
            address = match family {
                FAMILY_V4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
            };
        }
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

#[cfg(test)]
mod tests {
    use super::super::netlink::{DONE, DUMP_CHANGED, HEADER_BYTES, Step};
    use super::*;

    const ERROR: u16 = 2;

    fn take(messages: &[u8], blocks: &mut Vec<Block>) -> io::Result<Step> {
        netlink::take(messages, NEW_ROUTE, route, blocks)
    }

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
