//! Unix sockets in sock_diag(7): which there are, what each is bound to, and which two belong together.
//!
//! What is beyond the bound is left out and said to be so; what is cut short is refused.

use std::fmt;

use super::{Attributes, BY_FAMILY, Broken, DUMP, Step, message, walk, word};

/// `AF_UNIX`.
pub const FAMILY: u8 = 1;
/// Sockets in one list. A busy desktop has two thousand; this is some 10 MB.
pub const LISTED_MAX: usize = 64 * 1024;
/// Bytes of a name: `sun_path`.
const NAME_BYTES_MAX: usize = 108;

const SOCKET_BYTES: usize = 16;
/// `UDIAG_SHOW_NAME`.
const SHOW_NAME: u32 = 1;
/// `UDIAG_SHOW_PEER`.
const SHOW_PEER: u32 = 4;
/// `UDIAG_SHOW_ICONS`.
const SHOW_WAITING: u32 = 8;
const NAME: u16 = 0;
const PEER: u16 = 2;
const WAITING: u16 = 3;
/// `TCP_LISTEN`, as a bit.
const LISTENING: u32 = 1 << 10;

/// One Unix socket. An accepted one has the name of the listener; one that is not accepted yet is in no list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unix {
    /// Inode of its file.
    pub inode: u32,
    /// The inode of the one it is connected to; 0: that is not accepted yet, or closed.
    pub peer: Option<u32>,
    /// What it is bound to.
    pub name: Option<Name>,
    /// The inodes of those that wait to be accepted by it, where that was asked for.
    pub waiting: Vec<u32>,
}

/// What a Unix socket is bound to: a path as its server wrote it, or an abstract name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// Whether this text means it: a path, or `@` and an abstract name.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        match (self.0.split_first(), text.strip_prefix('@')) {
            (Some((0, own)), Some(name)) => own == name.as_bytes(),
            _ => self.0 == text.as_bytes(),
        }
    }

    /// As the kernel has it: no path begins with a zero byte.
    fn taken(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > NAME_BYTES_MAX + 1 {
            return None;
        }
        let end = match bytes.first() {
            Some(0) => bytes.len(),
            _ => bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()),
        };
        Some(Self(bytes[..end].to_vec()))
    }
}

impl fmt::Display for Name {
    /// As a text, not escaped; what is none is replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, name) = match self.0.split_first() {
            Some((0, name)) => ("@", name),
            _ => ("", self.0.as_slice()),
        };
        write!(f, "{mark}{}", String::from_utf8_lossy(name))
    }
}

/// A list as it is read.
#[derive(Debug, Default)]
pub struct Listing {
    /// The sockets, at most [`LISTED_MAX`].
    pub sockets: Vec<Unix>,
    /// There are more.
    pub is_cut: bool,
}

impl Listing {
    /// Takes the sockets out of one datagram.
    ///
    /// # Errors
    /// It is cut short or of another shape.
    pub fn take(&mut self, datagram: &[u8]) -> Result<Step, Broken> {
        walk(datagram, |body| {
            let socket = socket(body)?;
            match self.sockets.len() < LISTED_MAX {
                true => self.sockets.push(socket),
                false => self.is_cut = true,
            }
            Some(())
        })
    }
}

/// Asks for all Unix sockets of the caller's network namespace, with their names and peers.
#[must_use]
pub fn list_request() -> Vec<u8> {
    request(u32::MAX, SHOW_NAME | SHOW_PEER)
}

/// Asks for the listeners among them, with their names and whom each has not accepted yet. A question of its own: the kernel
/// ends a list early where that is more than fits into a message.
#[must_use]
pub fn waiting_request() -> Vec<u8> {
    request(LISTENING, SHOW_NAME | SHOW_WAITING)
}

fn request(states: u32, shown: u32) -> Vec<u8> {
    let mut body = vec![FAMILY, 0, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(0u32.to_ne_bytes());
    body.extend(shown.to_ne_bytes());
    body.extend([0; 8]);
    message(BY_FAMILY, DUMP, &body)
}

fn socket(body: &[u8]) -> Option<Unix> {
    (*body.first()? == FAMILY).then_some(())?;
    let mut socket = Unix { inode: word(body, 4)?, peer: None, name: None, waiting: Vec::new() };
    for attribute in Attributes(body.get(SOCKET_BYTES..)?) {
        match attribute? {
            (NAME, value) => socket.name = Some(Name::taken(value)?).filter(|name| !name.0.is_empty()),
            (PEER, value) => socket.peer = Some(word(value, 0)?),
            (WAITING, value) => {
                socket.waiting = value.chunks_exact(4).filter_map(|one| word(one, 0)).collect();
            }
            _ => {}
        }
    }
    Some(socket)
}

/// The name that this text means, for tests of who looks at names.
#[cfg(test)]
pub(crate) fn sample(text: &str) -> Name {
    match text.strip_prefix('@') {
        Some(name) => Name([b"\0", name.as_bytes()].concat()),
        None => Name(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::DONE;
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Socket 7, connected to 8.
    fn row(name: &[u8]) -> Vec<u8> {
        let mut body = vec![FAMILY, 1, 1, 0];
        body.extend(7u32.to_ne_bytes());
        body.extend([0; 8]);
        body.extend(attribute(NAME, name));
        body.extend(attribute(PEER, &8u32.to_ne_bytes()));
        body.extend(attribute(WAITING, &[9u32, 10].map(u32::to_ne_bytes).concat()));
        body.extend(attribute(6, &[0]));
        message(BY_FAMILY, 2, &body)
    }

    fn listed(datagram: &[u8]) -> Result<Vec<Unix>, Broken> {
        let mut listing = Listing::default();
        listing.take(datagram).map(|_| listing.sockets)
    }

    #[test]
    fn a_socket_is_read_with_its_name_and_its_peer() {
        let two = [row(b"/run/x.sock\0"), row(b"\0bus\0x")].concat();
        let sockets = listed(&two).unwrap();
        let (path, named) = (sockets[0].name.as_ref().unwrap(), sockets[1].name.as_ref().unwrap());
        assert_eq!((sockets[0].inode, sockets[0].peer), (7, Some(8)));
        assert_eq!(sockets[0].waiting, [9, 10]);
        assert!(path.is("/run/x.sock") && !path.is("@/run/x.sock") && !path.is("/run/x.soc"));
        assert!(named.is("@bus\0x") && !named.is("bus\0x") && !named.is("@bus"));
        assert_eq!((path.to_string(), named.to_string()), ("/run/x.sock".into(), "@bus\0x".into()));
        let mut listing = Listing::default();
        assert_eq!(listing.take(&message(DONE, 2, &[0; 4])), Ok(Step::Done));
    }

    #[test]
    fn half_a_message_another_family_and_a_name_that_is_too_long_are_refused() {
        let whole = row(b"/run/x.sock\0");
        for cut in 1..whole.len() {
            assert_eq!(listed(&whole[..cut]), Err(Broken), "{cut}");
        }
        let mut other = whole;
        other[16] = 2;
        assert_eq!(listed(&other), Err(Broken));
        assert!(listed(&row(&[b'x'; NAME_BYTES_MAX + 1])).is_ok(), "at the bound, with its end");
        assert_eq!(listed(&row(&[b'x'; NAME_BYTES_MAX + 2])), Err(Broken));
        assert_eq!(listed(&row(b"")).unwrap()[0].name, None);
    }

    #[test]
    fn a_list_beyond_its_bound_is_cut_and_says_so() {
        let mut listing = Listing::default();
        listing.take(&row(b"/run/x.sock\0")).unwrap();
        let one = listing.sockets[0].clone();
        listing.sockets.resize(LISTED_MAX - 1, one);
        listing.take(&row(b"/run/x.sock\0")).unwrap();
        assert_eq!((listing.sockets.len(), listing.is_cut), (LISTED_MAX, false), "at the bound");
        listing.take(&row(b"/run/x.sock\0")).unwrap();
        assert_eq!((listing.sockets.len(), listing.is_cut), (LISTED_MAX, true), "one more");
    }
}
