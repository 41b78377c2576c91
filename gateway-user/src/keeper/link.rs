//! The line between keeper and enforcer: a pair of SOCK_SEQPACKET sockets, each message whole or not at all, with
//! descriptors beside it. Never blocks a thread.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::limits::KEEPER_MESSAGE_BYTES_MAX;

/// Descriptors that one message may carry: the listeners, four of them.
const DESCRIPTORS_MAX: usize = 4;

/// One end.
#[derive(Debug)]
pub(super) struct Link(UnixDatagram);

/// A message as it came.
pub(super) type Arrived = (Vec<u8>, Vec<OwnedFd>);

/// Both ends: one for the keeper, one to give to its child.
pub(super) fn pair() -> io::Result<(Link, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Link::over(ours)?, theirs))
}

impl Link {
    /// Over a socket that is there. Needs a tokio runtime.
    pub(super) fn over(socket: OwnedFd) -> io::Result<Self> {
        if rustix::net::sockopt::socket_type(&socket)? != SocketType::SEQPACKET {
            let why = "this is no line to a keeper: `tidegate run --user` starts this process itself";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        // As good for packets that know their peer: what is read and written is written out below.
        Ok(Self(UnixDatagram::from_std(socket.into())?))
    }

    /// Sends one message.
    pub(super) async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = || {
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut room);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            sendmsg(self.0.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Says nothing more, and hears nothing more: the other end finds out.
    pub(super) fn close(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    /// The next message; `None` where the other end is gone.
    pub(super) async fn receive(&self) -> io::Result<Option<Arrived>> {
        let receive = || {
            // One more than a message may have: a longer one is seen to be longer.
            let mut bytes = vec![0; KEEPER_MESSAGE_BYTES_MAX + 1];
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut room);
            let received = recvmsg(
                self.0.as_fd(),
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            let descriptors = control.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(found) => found.collect(),
                _ => Vec::new(),
            });
            let descriptors = descriptors.collect();
            bytes.truncate(received.bytes);
            Ok((bytes, descriptors))
        };
        let arrived = self.0.async_io(Interest::READABLE, receive).await;
        match arrived {
            Ok((bytes, _)) if bytes.is_empty() => Ok(None),
            Ok(arrived) => Ok(Some(arrived)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}
