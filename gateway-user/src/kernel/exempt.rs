//! Sockets of the gate's own that the programs let out. Refuses to give one that could not be marked.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;

/// A marked socket for one place, as soon as it is made.
pub type Made = Pin<Box<dyn Future<Output = io::Result<OwnedFd>> + Send>>;
type Make = dyn Fn(Option<u64>, SocketAddr) -> Made + Send + Sync;

/// Makes sockets whose connections are neither redirected nor steered: for the gate's own calls, and for no others.
#[derive(Clone)]
pub struct Exempt(Arc<Make>);

impl fmt::Debug for Exempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exempt").finish_non_exhaustive()
    }
}

impl Exempt {
    /// Its sockets are made here and marked by `mark`, the one privileged act: [`super::Gate::exempt`].
    #[must_use]
    pub fn new(mark: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let make = move |space: Option<u64>, to| {
            if space.is_some() {
                return Err(io::Error::other("no other network namespace is served"));
            }
            let socket = Self::plain_socket(to)?;
            mark(socket.as_fd())?;
            Ok(OwnedFd::from(socket))
        };
        Self::from_maker(move |space, to| Box::pin(std::future::ready(make(space, to))))
    }

    /// Its sockets come from somebody who makes and marks them, in the gate's network namespace or the one with that cookie:
    /// TCP, nonblocking, not connected.
    #[must_use]
    pub fn from_maker(make: impl Fn(Option<u64>, SocketAddr) -> Made + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// A marked socket as it is made, not waited on by anybody yet.
    #[must_use]
    pub fn make(&self, space: Option<u64>, to: SocketAddr) -> Made {
        (self.0)(space, to)
    }

    /// A marked socket that can be connected to `to`, and is not yet.
    ///
    /// # Errors
    /// There is no socket to be had, or it could not be marked.
    pub async fn socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        self.socket_in(None, to).await
    }

    /// The same in a network namespace that the gate serves, by its cookie.
    ///
    /// # Errors
    /// As [`Exempt::socket`], and where that namespace is not served.
    pub async fn socket_in(&self, space: Option<u64>, to: SocketAddr) -> io::Result<TcpSocket> {
        let socket = self.make(space, to).await?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    /// The same without its mark.
    pub(super) fn plain_socket(to: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    }
}
