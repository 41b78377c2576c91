//! Sockets of the gate's own that the programs let out. Refuses to give one that could not be marked.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;

type Mark = dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync;

/// Makes sockets whose connections are neither redirected nor steered: for the gate's own calls, and for no others.
#[derive(Clone)]
pub struct Exempt(Arc<Mark>);

impl fmt::Debug for Exempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exempt").finish_non_exhaustive()
    }
}

impl Exempt {
    /// Its sockets are marked by `mark`, the one privileged act: [`super::Gate::exempt`].
    #[must_use]
    pub fn new(mark: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(mark))
    }

    /// A marked socket that can be connected to `to`, and is not yet.
    ///
    /// # Errors
    /// There is no socket to be had, or it could not be marked.
    pub fn socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        (self.0)(socket.as_fd())?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
}
