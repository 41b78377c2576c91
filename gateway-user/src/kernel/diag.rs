//! The messages of sock_diag(7): which sockets there are, and the order to destroy one. Bytes in, values out, no I/O.
//!
//! Nothing is read beyond the message that says it; what is cut short or of another shape is refused, never guessed.

pub mod unix;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// `AF_INET`.
pub const FAMILY_V4: u8 = 2;
/// `AF_INET6`.
pub const FAMILY_V6: u8 = 10;
/// Sockets in one list. A busy host has tens of thousands; this is some 100 MB.
pub const LISTED_MAX: usize = 256 * 1024;

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ACKNOWLEDGED: u16 = 0x5;
const HEADER_BYTES: usize = 16;
const SOCKET_BYTES: usize = 72;
const ID_BYTES: usize = 48;
const ASK_STORAGES: u16 = 2;
const ASK_MAP: u16 = 1;
const HAS_STORAGES: u16 = 20;
const HAS_CGROUP: u16 = 21;
const STORAGE: u16 = 1;
const STORAGE_MAP: u16 = 2;
const STORAGE_VALUE: u16 = 3;
/// Attributes carry their flags in the upper two bits.
const ATTRIBUTE: u16 = 0x3fff;

/// One socket, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `FAMILY_*`.
    pub family: u8,
    /// `TCP_*` states; connected UDP is "established".
    pub state: u8,
    /// Its own address; mapped IPv4 as IPv4.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// Who owns it.
    pub uid: u32,
    /// Inode of its file; 0: no process holds it any more.
    pub inode: u32,
    /// The kernel's own name of it, for an order that must meet no other.
    pub id: [u8; ID_BYTES],
    /// Cgroup it was made in; `None` where the kernel does not say.
    pub cgroup: Option<u64>,
    /// What the asked maps keep on it: map id and value.
    pub storages: Vec<(u32, Vec<u8>)>,
}

impl Listed {
    /// What the map of this id keeps on it.
    #[must_use]
    pub fn storage(&self, map: u32) -> Option<&[u8]> {
        self.storages.iter().find(|(id, _)| *id == map).map(|(_, value)| value.as_slice())
    }
}

/// What came after the last socket of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More datagrams follow.
    More,
    /// That was all, or the order was carried out.
    Done,
    /// The kernel refused, with this error number.
    Refused(i32),
}

/// The bytes are no answer of sock_diag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the kernel's list of sockets is cut short, too long, or of another shape")
    }
}

impl std::error::Error for Broken {}

/// Asks for all sockets of a family and protocol in these states (bit n: state n), with what these maps (descriptors)
/// keep on each.
#[must_use]
pub fn list_request(family: u8, protocol: u8, states: u32, maps: &[u32]) -> Vec<u8> {
    let mut body = request_body(family, protocol, states, &[0; ID_BYTES]);
    if !maps.is_empty() {
        body.extend(((4 + 8 * maps.len()) as u16).to_ne_bytes());
        body.extend(ASK_STORAGES.to_ne_bytes());
        for map in maps {
            body.extend(8u16.to_ne_bytes());
            body.extend(ASK_MAP.to_ne_bytes());
            body.extend(map.to_ne_bytes());
        }
    }
    message(BY_FAMILY, DUMP, &body)
}

/// Orders this very socket destroyed; another one at the same addresses is not meant.
#[must_use]
pub fn destroy_request(protocol: u8, socket: &Listed) -> Vec<u8> {
    message(DESTROY, ACKNOWLEDGED, &request_body(socket.family, protocol, u32::MAX, &socket.id))
}

fn request_body(family: u8, protocol: u8, states: u32, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut body = vec![family, protocol, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Takes the sockets out of one datagram.
///
/// # Errors
/// It is cut short or of another shape, or the list would grow beyond [`LISTED_MAX`].
pub fn take(datagram: &[u8], into: &mut Vec<Listed>) -> Result<Step, Broken> {
    walk(datagram, |body| {
        (into.len() < LISTED_MAX).then_some(())?;
        socket(body).map(|socket| into.push(socket))
    })
}

/// Shows each socket of one datagram to somebody who takes it or, with `None`, does not.
fn walk(mut datagram: &[u8], mut take: impl FnMut(&[u8]) -> Option<()>) -> Result<Step, Broken> {
    while !datagram.is_empty() {
        let length = word(datagram, 0).ok_or(Broken)? as usize;
        let message = datagram.get(..length).ok_or(Broken)?;
        let body = message.get(HEADER_BYTES..).ok_or(Broken)?;
        match short(message, 4).ok_or(Broken)? {
            DONE | ERROR => {
                // Both say 0, or a negative error number.
                return match word(body, 0).ok_or(Broken)?.cast_signed() {
                    0 => Ok(Step::Done),
                    number => Ok(Step::Refused(number.saturating_neg())),
                };
            }
            BY_FAMILY => take(body).ok_or(Broken)?,
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Step::More)
}

fn socket(body: &[u8]) -> Option<Listed> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let id: [u8; ID_BYTES] = *body.get(4..)?.first_chunk()?;
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = id.get(at..)?;
        match family {
            FAMILY_V4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
            FAMILY_V6 => Some(IpAddr::from(*bytes.first_chunk::<16>()?).to_canonical()),
            _ => None,
        }
    };
    let port = |at: usize| Some(u16::from_be_bytes(*id.get(at..)?.first_chunk()?));
    let mut listed = Listed {
        family,
        state,
        local: SocketAddr::new(address(4)?, port(0)?),
        remote: SocketAddr::new(address(20)?, port(2)?),
        uid: word(body, 64)?,
        inode: word(body, 68)?,
        id,
        cgroup: None,
        storages: Vec::new(),
    };
    for attribute in Attributes(body.get(SOCKET_BYTES..)?) {
        match attribute? {
            (HAS_CGROUP, value) => listed.cgroup = Some(u64::from_ne_bytes(*value.first_chunk()?)),
            (HAS_STORAGES, value) => storages(value, &mut listed.storages)?,
            _ => {}
        }
    }
    Some(listed)
}

fn storages(all: &[u8], into: &mut Vec<(u32, Vec<u8>)>) -> Option<()> {
    for storage in Attributes(all) {
        let (STORAGE, storage) = storage? else { continue };
        let (mut map, mut kept) = (None, None);
        for part in Attributes(storage) {
            match part? {
                (STORAGE_MAP, value) => map = Some(word(value, 0)?),
                (STORAGE_VALUE, value) => kept = Some(value.to_vec()),
                _ => {}
            }
        }
        into.push((map?, kept?));
    }
    Some(())
}

/// Attributes one after the other; ends with `None` inside where the bytes are none.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        let taken = short(all, 0).map(usize::from).and_then(|length| {
            let value = all.get(4..length)?;
            self.0 = all.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((short(all, 2)? & ATTRIBUTE, value))
        });
        Some(taken)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// 10.0.0.1:1000 -> 10.0.0.2:443 of uid 7, with a cgroup and what map 9 keeps.
    fn sample() -> Vec<u8> {
        let mut body = vec![FAMILY_V4, 1, 0, 0];
        body.extend(1000u16.to_be_bytes());
        body.extend(443u16.to_be_bytes());
        for last in [1, 2] {
            body.extend([10, 0, 0, last]);
            body.extend([0; 12]);
        }
        body.extend([0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0]);
        body.extend([0; 12]);
        body.extend(7u32.to_ne_bytes());
        body.extend(4321u32.to_ne_bytes());
        body.extend(attribute(8, &[0]));
        body.extend(attribute(HAS_CGROUP, &77u64.to_ne_bytes()));
        let kept = [attribute(STORAGE_MAP, &9u32.to_ne_bytes()), attribute(STORAGE_VALUE, b"kept")].concat();
        body.extend(attribute(HAS_STORAGES | 0x8000, &attribute(STORAGE, &kept)));
        message(BY_FAMILY, 2, &body)
    }

    #[test]
    fn a_socket_is_read_with_its_owner_its_cgroup_and_what_is_kept_on_it() {
        let mut sockets = Vec::new();
        assert_eq!(take(&[sample(), sample()].concat(), &mut sockets), Ok(Step::More));
        assert_eq!(take(&message(DONE, 2, &[0; 4]), &mut sockets), Ok(Step::Done));
        assert_eq!(sockets.len(), 2);
        let socket = &sockets[1];
        assert_eq!(
            (socket.local.to_string(), socket.remote.to_string()),
            ("10.0.0.1:1000".into(), "10.0.0.2:443".into())
        );
        assert_eq!((socket.uid, socket.inode, socket.cgroup, socket.state), (7, 4321, Some(77), 1));
        assert_eq!((socket.storage(9), socket.storage(8)), (Some(&b"kept"[..]), None));
    }

    #[test]
    fn half_a_message_is_refused_at_every_byte() {
        let whole = sample();
        for cut in 1..whole.len() {
            let mut sockets = Vec::new();
            assert_eq!(take(&whole[..cut], &mut sockets), Err(Broken), "{cut}");
            assert_eq!(sockets, []);
        }
    }

    #[test]
    fn an_attribute_that_says_it_is_longer_or_shorter_than_it_can_be_is_refused() {
        let whole = sample();
        let first = HEADER_BYTES + SOCKET_BYTES;
        for length in [0u16, 1, 3, 200, u16::MAX] {
            let mut bytes = whole.clone();
            bytes[first..first + 2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(take(&bytes, &mut Vec::new()), Err(Broken), "{length}");
        }
    }

    #[test]
    fn a_family_that_is_not_ours_is_refused_and_the_kernels_refusal_is_said() {
        let mut bytes = sample();
        bytes[HEADER_BYTES] = 1;
        assert_eq!(take(&bytes, &mut Vec::new()), Err(Broken));
        let refused = message(ERROR, 0, &(-95i32).to_ne_bytes());
        assert_eq!(take(&refused, &mut Vec::new()), Ok(Step::Refused(95)));
    }

    #[test]
    fn the_list_ends_at_its_bound() {
        let one = sample();
        let mut sockets = Vec::new();
        take(&one, &mut sockets).unwrap();
        let socket = sockets[0].clone();
        sockets.resize(LISTED_MAX - 1, socket);
        assert_eq!(take(&one, &mut sockets), Ok(Step::More), "at the bound");
        assert_eq!(take(&one, &mut sockets), Err(Broken), "one more");
    }

    #[test]
    fn an_order_to_destroy_names_the_very_socket() {
        let mut sockets = Vec::new();
        take(&sample(), &mut sockets).unwrap();
        let order = destroy_request(6, &sockets[0]);
        assert_eq!(order.len(), HEADER_BYTES + 8 + ID_BYTES);
        assert_eq!(short(&order, 4), Some(DESTROY));
        assert_eq!(order[HEADER_BYTES + 8..], sockets[0].id);
    }
}
