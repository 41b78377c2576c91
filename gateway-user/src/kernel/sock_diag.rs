//! The socket to sock_diag(7), over which the kernel is asked for its sockets. An answer comes whole, or as an error.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use super::diag::unix::{self, Listing};
use super::diag::{self, Broken, Listed, Step};

/// The kernel answers from memory; a list of all sockets of a busy host takes a fraction of this.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel packs no list into larger datagrams.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// A netlink socket to sock_diag.
pub(super) struct Link(OwnedFd);

impl Link {
    pub(super) fn open() -> io::Result<Self> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, Some(netlink::SOCK_DIAG))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    pub(super) fn list(&self, request: &[u8]) -> io::Result<Vec<Listed>> {
        let mut sockets = Vec::new();
        self.ask(request, |datagram| diag::take(datagram, &mut sockets)).map(|()| sockets)
    }

    /// The sockets, and then the listeners among them once more, with whom they have not accepted.
    pub(super) fn list_unix(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for request in [unix::list_request(), unix::waiting_request()] {
            self.ask(&request, |datagram| listing.take(datagram))?;
        }
        Ok(listing)
    }

    pub(super) fn order(&self, request: &[u8]) -> io::Result<()> {
        self.ask(request, |datagram| diag::take(datagram, &mut Vec::new()))
    }

    fn ask(&self, request: &[u8], mut take: impl FnMut(&[u8]) -> Result<Step, Broken>) -> io::Result<()> {
        rustix::net::send(&self.0, request, SendFlags::empty())?;
        let mut datagram = vec![0; DATAGRAM_BYTES];
        loop {
            let (_, length) = match rustix::net::recv(&self.0, &mut datagram[..], RecvFlags::TRUNC) {
                Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                other => other?,
            };
            let whole = datagram.get(..length).ok_or(io::ErrorKind::InvalidData)?;
            match take(whole).map_err(io::Error::other)? {
                Step::More => {}
                Step::Done => return Ok(()),
                Step::Refused(number) => return Err(io::Error::from_raw_os_error(number)),
            }
        }
    }
}
