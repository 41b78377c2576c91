//! Questions to the kernel's routing tables, answered whole or not at all.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::raw;

/// A dump that changed while it was read is read again, this often.
const TRIES: usize = 3;
/// The kernel answers from memory; a second is for ever.
const PATIENCE: Duration = Duration::from_secs(1);
/// The kernel packs no dump into larger datagrams.
const DATAGRAM_BYTES: usize = 32 * 1024;

const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
pub(super) const DUMP_CHANGED: u16 = 0x10;
pub(super) const HEADER_BYTES: usize = 16;

/// Reads one answer's body: `None`, it is broken; inside, `None` where it is not what is looked for.
pub(super) type Read<T> = fn(&[u8]) -> Option<Option<T>>;

/// A kind of question, and of its answers.
#[derive(Clone, Copy)]
pub(super) struct Question {
    pub(super) ask: u16,
    pub(super) answer: u16,
}

/// Everything that the bodies ask for, in the caller's network namespace.
pub(super) fn dump<T>(question: Question, bodies: &[&[u8]], read: Read<T>) -> io::Result<Vec<T>> {
    let mut found = dump_once(question, bodies, read);
    for _ in 1..TRIES {
        match &found {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                found = dump_once(question, bodies, read);
            }
            _ => break,
        }
    }
    found
}

fn dump_once<T>(question: Question, bodies: &[&[u8]], read: Read<T>) -> io::Result<Vec<T>> {
    // No protocol number is NETLINK_ROUTE.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    raw::netlink_strict(socket.as_fd())?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let mut found = Vec::new();
    for body in bodies {
        ask(&socket, question, body, read, &mut found)?;
    }
    Ok(found)
}

fn ask<T>(
    socket: &OwnedFd,
    question: Question,
    body: &[u8],
    read: Read<T>,
    found: &mut Vec<T>,
) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
    request.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    request.extend(question.ask.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    rustix::net::send(socket, &request, SendFlags::empty())?;
    let mut datagram = vec![0; DATAGRAM_BYTES];
    let mut step = Step::More;
    while step == Step::More {
        let (_, length) = rustix::net::recv(socket, &mut datagram[..], RecvFlags::TRUNC)?;
        let messages = datagram.get(..length).ok_or(io::ErrorKind::InvalidData)?;
        step = take(messages, question.answer, read, found)?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    More,
    Done,
}

/// Takes the answers out of one datagram.
pub(super) fn take<T>(
    mut messages: &[u8],
    answer: u16,
    read: Read<T>,
    found: &mut Vec<T>,
) -> io::Result<Step> {
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
            kind if kind == answer => found.extend(read(body).ok_or_else(broken)?),
            _ => {}
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Step::More)
}

/// The attributes of an answer, by kind. Ends with an error where one is broken.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let one = short(bytes, 0).map(usize::from).and_then(|length| {
            let (kind, value) = (short(bytes, 2)?, bytes.get(4..length)?);
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        });
        if one.is_none() {
            bytes = &[];
        }
        Some(one)
    })
}

pub(super) fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
