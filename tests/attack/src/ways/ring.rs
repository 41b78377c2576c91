//! io_uring: calls that no system call of the caller makes. One ring, one submission at a time.

use std::io::{Error, Result};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::Aim;
use crate::sys::{self, Shared, sockaddr};

const SENDMSG: u8 = 9;
const CONNECT: u8 = 16;
const SETUP_SQPOLL: u32 = 2;
/// Wakes the polling thread; also: waits for completions.
const ENTER_GETEVENTS: u64 = 1;
const ENTER_WAKEUP: u64 = 2;

struct Ring {
    fd: OwnedFd,
    polled: bool,
    parameters: [u32; 30],
    queues: Shared,
    entries: Shared,
}

impl Ring {
    fn new(polled: bool) -> Result<Self> {
        let mut parameters = [0u32; 30];
        if polled {
            parameters[2] = SETUP_SQPOLL;
            parameters[4] = 1000;
        }
        let setup = [4, parameters.as_mut_ptr() as u64, 0, 0, 0, 0];
        let fd = sys::owned(sys::call(libc::SYS_io_uring_setup, setup)?)?;
        // Both rings in one mapping (since 5.4).
        let queues = Shared::map(Some(&fd), 4096, 0)?;
        let entries = Shared::map(Some(&fd), 4096, 0x1000_0000)?;
        Ok(Self { fd, polled, parameters, queues, entries })
    }

    /// Offsets of the submission queue: head, tail, mask, entries, flags, dropped, array.
    fn submission(&self, index: usize) -> usize {
        self.parameters[10 + index] as usize
    }

    /// Offsets of the completion queue: head, tail, mask, entries, overflow, completions.
    fn completion(&self, index: usize) -> usize {
        self.parameters[20 + index] as usize
    }

    /// Submits one entry and waits for what came of it.
    fn submit(&mut self, entry: [u8; 64]) -> Result<i32> {
        let tail = self.queues.get(self.submission(1));
        let slot = tail & self.queues.get(self.submission(2));
        self.entries.put(slot as usize * 64, &entry);
        let array = self.submission(6) + slot as usize * 4;
        self.queues.put(array, &slot.to_ne_bytes());
        let place = self.submission(1);
        self.queues.put(place, &(tail + 1).to_ne_bytes());
        let flags = if self.polled { ENTER_GETEVENTS | ENTER_WAKEUP } else { ENTER_GETEVENTS };
        let head = self.queues.get(self.completion(0));
        sys::call(libc::SYS_io_uring_enter, [self.fd.as_raw_fd() as u64, 1, 1, flags, 0, 0])?;
        let at = self.completion(5) + (head & self.queues.get(self.completion(2))) as usize * 16;
        let result = self.queues.get(at + 8) as i32;
        let place = self.completion(0);
        self.queues.put(place, &(head + 1).to_ne_bytes());
        if result < 0 { Err(Error::from_raw_os_error(-result)) } else { Ok(result) }
    }
}

fn entry(operation: u8, fd: &OwnedFd, address: u64, length: u32, offset: u64) -> [u8; 64] {
    let mut entry = [0; 64];
    entry[0] = operation;
    entry[4..8].copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
    entry[8..16].copy_from_slice(&offset.to_ne_bytes());
    entry[16..24].copy_from_slice(&address.to_ne_bytes());
    entry[24..28].copy_from_slice(&length.to_ne_bytes());
    entry
}

pub(crate) fn connect(aim: &Aim, polled: bool) -> Result<String> {
    let mut ring = Ring::new(polled)?;
    let to: SocketAddr = aim.to();
    let (socket, address) = (sys::stream(to)?, sockaddr(to));
    // The length of the address stands where other calls have an offset.
    ring.submit(entry(CONNECT, &socket, address.as_ptr() as u64, 0, address.len() as u64))?;
    sys::talk(&socket, aim.token())
}

pub(crate) fn sendmsg(aim: &Aim) -> Result<String> {
    let mut ring = Ring::new(false)?;
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let (mut token, mut to) = (aim.token().as_bytes().to_vec(), sockaddr(aim.to()));
    let mut vector = libc::iovec { iov_base: token.as_mut_ptr().cast(), iov_len: token.len() };
    // SAFETY: all zeros are a valid empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = to.as_mut_ptr().cast();
    message.msg_namelen = to.len() as u32;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    ring.submit(entry(SENDMSG, &socket, &raw const message as u64, 1, 0))?;
    Ok("sent".to_owned())
}
