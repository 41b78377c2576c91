//! Listeners that outlive the program: an upgrade replaces the program of this process, and connections that come meanwhile
//! wait in the queues of the same sockets. Refuses to take what is no listener at the gate's port.

#![expect(unsafe_code, reason = "what a program leaves open, the next one knows by its number alone")]

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use super::sockets::Listeners;

/// The lowest number that is not a standard stream.
const FIRST: i32 = 3;

impl Listeners {
    /// The same sockets, once more.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let copy = |of: &[TcpListener]| of.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>();
        Ok(Self { outbound: copy(&self.outbound)?, inbound: copy(&self.inbound)? })
    }

    /// Lets them outlive the program of this process. Gives the words by which the next one finds them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave(self) -> io::Result<String> {
        let leave = |listeners: Vec<TcpListener>| {
            let numbers = listeners.into_iter().map(|listener| {
                fcntl_setfd(&listener, FdFlags::empty())?;
                Ok(std::os::fd::IntoRawFd::into_raw_fd(listener).to_string())
            });
            numbers.collect::<io::Result<Vec<_>>>().map(|numbers| numbers.join(","))
        };
        Ok(format!("{}:{}", leave(self.outbound)?, leave(self.inbound)?))
    }

    /// Takes what the program before this one left, by its words.
    ///
    /// # Errors
    /// They are no such words, or one of them names something else than a listener at this port.
    pub(super) fn found(words: &str, port: u16) -> io::Result<Self> {
        let (outbound, inbound) = words.split_once(':').ok_or_else(|| wrong("no colon"))?;
        let find = |numbers: &str| {
            let numbers = numbers.split(',').filter(|number| !number.is_empty());
            numbers.map(|number| listener(number, port)).collect::<io::Result<Vec<_>>>()
        };
        Ok(Self { outbound: find(outbound)?, inbound: find(inbound)? })
    }
}

/// Keeps listeners that were left for this process from the programs that it starts, by their words. Before it starts any.
pub fn keep_to_this_process(words: &str) {
    for number in words.split([':', ',']).filter_map(|number| number.parse::<i32>().ok()) {
        if number >= FIRST {
            // SAFETY: borrowed for this one call, which says so where nothing has this number.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
        }
    }
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("--listeners is what an upgrade hands over: {why}"))
}

fn listener(number: &str, port: u16) -> io::Result<TcpListener> {
    let number = number.parse::<i32>().ok().filter(|number| *number >= FIRST);
    let number = number.ok_or_else(|| wrong("not a descriptor"))?;
    // SAFETY: nothing else in this process owns the number: it was left open by the program before, for this one alone,
    // and it is taken once, before anything else is opened by number. Where it is not open, the first call says so.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let flags = match fcntl_getfd(descriptor.as_fd()) {
        Ok(flags) => flags,
        Err(error) => {
            // There is nothing to close.
            std::mem::forget(descriptor);
            return Err(error.into());
        }
    };
    fcntl_setfd(descriptor.as_fd(), flags | FdFlags::CLOEXEC)?;
    let socket = socket2::Socket::from(descriptor);
    let at = socket.local_addr()?.as_socket();
    if !socket.is_listener()? || at.is_none_or(|at| at.port() != port) {
        return Err(wrong(&format!("descriptor {} is no listener at port {port}", socket.as_raw_fd())));
    }
    Ok(socket.into())
}
