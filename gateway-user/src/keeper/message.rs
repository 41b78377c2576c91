//! What enforcer and keeper say to each other: one message a datagram, a number that ties an answer to its question, then
//! the rest in postcard. No I/O here. Refuses what is too long, or has bytes left over.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Counted;
use crate::admin::Peer;
use crate::credential::Secret;
use crate::identity::process::Facts;
use crate::limits::KEEPER_MESSAGE_BYTES_MAX;
use crate::operation::{Sha256, Workload};
use crate::record::entry::{CredentialClaimed, Event};

/// What the enforcer wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who is this process?
    Resolve(Facts),
    /// A socket that may be connected to this place, and to no other; in the gate's network namespace, or in the one with
    /// this cookie.
    Socket(SocketAddr, Option<u64>),
    /// What changed of the network namespaces that are served, where the enforcer serves the sets of listeners with these
    /// numbers. The answer takes as long as nothing does.
    Space(Vec<u64>),
    /// Whether an address is own in the network namespace with this cookie.
    IsOwn(u64, IpAddr),
    /// The gate's listeners. Until it asks, every connect is refused.
    Listeners,
    /// Open the admin socket: somebody enforces.
    Door,
    /// A line to admin.
    Admin,
    /// The policy directory has changed: read it, and bring the kernel's tables up to date.
    Publish,
    /// What was cut or refused in the kernel and is not recorded yet. What came with this number last is recorded.
    Unrecorded(Option<u64>),
    /// The kernel's counters.
    Counters,
    /// It is alive.
    Beat,
    /// It is open.
    Ready,
    /// A line to the recorder.
    Record,
    /// The credential of an operation whose claim is in the record.
    Release(CredentialClaimed),
}

/// What the keeper brings recorder and admin, with one descriptor each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Errand {
    /// An enforcer's end of a line.
    Enforcer,
    /// To admin: one end of a line to the recorder; to the recorder: the other.
    Warrants,
    /// To the recorder: the keeper's end of a line over which it asks for claims.
    Claims,
    /// Somebody at the admin socket, and who that is.
    Caller(Box<Peer>),
    /// Somebody at the recorder's socket, and whether the keeper lets him give orders: his name, or why not.
    Operator(Result<String, String>),
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The process.
    Workload(Box<Workload>),
    /// One descriptor comes with this.
    Socket,
    /// So many descriptors come with this: those for outbound flows, then those for inbound ones.
    Listeners {
        /// How many of the first kind.
        outbound: u8,
        /// How many of the second.
        inbound: u8,
    },
    /// What changed, if anything did.
    Space(Option<News>),
    /// It is, or not.
    IsOwn(bool),
    /// The digest of the set that the kernel's tables are of now.
    Published(Sha256),
    /// The next of it with its number, if there is any.
    Unrecorded(Option<(u64, Box<Event>)>),
    /// The counters, in the order of their list, and how many other network namespaces there are.
    Counters(Vec<u64>, Counted),
    /// The kernel heard it; or a newer gate has taken over, and it did not.
    Beat(bool),
    /// The credential.
    Released(Secret),
    /// It is done.
    Done,
    /// It is not.
    Refused {
        /// The system's error number, where there is one.
        errno: Option<i32>,
        /// Why, in words.
        why: String,
    },
}

/// What changed of one set of listeners in another network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// The set's number.
    pub set: u64,
    /// It is new; `None`: it is void.
    pub came: Option<Came>,
}

/// A new set, whose descriptors come with the message: those for outbound flows, then those for inbound ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came {
    /// The namespace's cookie.
    pub space: u64,
    /// How many of the first kind.
    pub outbound: u8,
    /// How many of the second.
    pub inbound: u8,
}

impl Answer {
    /// A refusal with the system's reason.
    #[must_use]
    pub fn refused(error: &io::Error) -> Self {
        Self::Refused { errno: error.raw_os_error(), why: error.to_string() }
    }
}

/// A message as it is sent.
///
/// # Errors
/// It would be longer than [`KEEPER_MESSAGE_BYTES_MAX`].
pub fn pack(number: u64, what: &impl Serialize) -> io::Result<Vec<u8>> {
    let packed = postcard::to_extend(what, number.to_le_bytes().to_vec()).map_err(io::Error::other)?;
    match packed.len() > KEEPER_MESSAGE_BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long")),
        false => Ok(packed),
    }
}

/// A message as it came. `None` where it is none: too long, cut off, or followed by something.
#[must_use]
pub fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Option<(u64, T)> {
    if bytes.len() > KEEPER_MESSAGE_BYTES_MAX {
        return None;
    }
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (what, left) = postcard::take_from_bytes(rest).ok()?;
    left.is_empty().then(|| (u64::from_le_bytes(*number), what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent_and_nothing_else_is_one() {
        let asked = Request::Socket("[::1]:443".parse().unwrap(), Some(7));
        let packed = pack(7, &asked).unwrap();
        assert_eq!(unpack::<Request>(&packed), Some((7, asked)));
        for end in 0..packed.len() {
            assert_eq!(unpack::<Request>(&packed[..end]), None, "cut at {end}");
        }
        let mut longer = packed;
        longer.push(0);
        assert_eq!(unpack::<Request>(&longer), None);
        assert_eq!(unpack::<Request>(&[0xff; 64]), None);
    }

    #[test]
    fn a_message_that_is_too_long_is_neither_sent_nor_taken() {
        let why = "x".repeat(KEEPER_MESSAGE_BYTES_MAX);
        assert!(pack(1, &Answer::Refused { errno: None, why }).is_err());
        assert_eq!(unpack::<Answer>(&vec![0; KEEPER_MESSAGE_BYTES_MAX + 1]), None);
    }
}
