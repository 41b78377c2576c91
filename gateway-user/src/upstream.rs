//! The one road to a target: a connection that the kernel lets out, and a request that carries a [`Permit`]. Refuses
//! to dial or to send without one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::limits::{CONNECT_TIMEOUT, HEAD_BYTES_MAX, HEADERS_MAX, RESPONSE_HEAD_TIMEOUT};
use crate::operation::Permit;

/// A request body on its way to a target.
pub type RequestBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Why a target did not answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The gate could not make a socket that the kernel lets out.
    #[error("cannot make an upstream socket: {0}")]
    Socket(#[source] io::Error),
    /// The target refused the connection or is not reachable.
    #[error("cannot connect to {to}: {source}")]
    Connect {
        /// The address dialled.
        to: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No connection within [`CONNECT_TIMEOUT`].
    #[error("no connection to {0} within {limit} s", limit = CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout(SocketAddr),
    /// No response head within [`RESPONSE_HEAD_TIMEOUT`].
    #[error("no response within {limit} s", limit = RESPONSE_HEAD_TIMEOUT.as_secs())]
    ResponseTimeout,
    /// The connection broke, or what came back is not HTTP/1.1.
    #[error("the upstream broke the exchange: {0}")]
    Exchange(#[source] hyper::Error),
}

impl UpstreamError {
    /// One word for counters.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Socket(_) => "socket",
            Self::Connect { .. } => "refused",
            Self::ConnectTimeout(_) | Self::ResponseTimeout => "timeout",
            Self::Exchange(error) if error.is_parse() => "garbage",
            Self::Exchange(_) => "reset",
        }
    }

    /// Why the request body ended early, where that is what broke the exchange: not the upstream's fault.
    #[must_use]
    pub fn in_request_body(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Exchange(error) if error.is_user() => std::error::Error::source(error),
            _ => None,
        }
    }

    /// The status that tells a client (RFC 9110 sections 15.6.3 and 15.6.5).
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::ConnectTimeout(_) | Self::ResponseTimeout => 504,
            Self::Socket(_) => 503,
            Self::Connect { .. } | Self::Exchange(_) => 502,
        }
    }
}

/// Marks a socket so that the kernel programs let it out. The one privileged act here.
pub type Exempt = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync>;

/// Makes connections to targets.
#[derive(Clone)]
pub struct Dialer {
    exempt: Exempt,
    /// What a connection still holds of an entry is let go before these are through.
    tasks: TaskTracker,
}

impl Dialer {
    /// A dialer whose sockets are marked by `exempt`, and whose connections run as `tasks`.
    #[must_use]
    pub fn new(exempt: Exempt, tasks: TaskTracker) -> Self {
        Self { exempt, tasks }
    }

    /// Opens a connection for the operation that `permit` allows.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn dial(&self, _permit: &Permit, to: SocketAddr) -> Result<Line, UpstreamError> {
        let stream = self.connect(to).await?;
        let (sender, connection) = Builder::new()
            .preserve_header_case(true)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(UpstreamError::Exchange)?;
        let task = self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%to, %error, "upstream connection ended");
            }
        });
        Ok(Line { sender, to, task })
    }

    async fn connect(&self, to: SocketAddr) -> Result<TcpStream, UpstreamError> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))
            .and_then(|socket| {
                socket.set_nonblocking(true)?;
                socket.set_tcp_nodelay(true)?;
                (self.exempt)(socket.as_fd())?;
                Ok(socket)
            })
            .map_err(UpstreamError::Socket)?;
        let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
        match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(UpstreamError::Connect { to, source }),
            Err(_) => Err(UpstreamError::ConnectTimeout(to)),
        }
    }
}

/// One connection to one target, for the operations of one flow.
pub struct Line {
    sender: SendRequest<RequestBody>,
    to: SocketAddr,
    task: JoinHandle<()>,
}

impl Line {
    /// Where it goes.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// Waits until it can take a request; `false` when the target has closed it.
    pub async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Spends the permit: sends the request, gives the response head.
    ///
    /// # Errors
    /// See [`UpstreamError`]; whether the request took effect is then unknown.
    pub async fn send(
        &mut self,
        permit: Permit,
        request: http::Request<RequestBody>,
    ) -> Result<http::Response<Incoming>, UpstreamError> {
        tracing::trace!(entry = %permit.entry(), target = permit.target(), "sent");
        match tokio::time::timeout(RESPONSE_HEAD_TIMEOUT, self.sender.send_request(request)).await {
            Ok(answer) => answer.map_err(UpstreamError::Exchange),
            Err(_) => Err(UpstreamError::ResponseTimeout),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}
