//! The one road to a target: a connection that the kernel lets out, and a request that carries a [`Permit`]. Refuses
//! to dial or to send without one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::kernel::Exempt;
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

/// Makes connections to targets.
#[derive(Clone)]
pub struct Dialer {
    exempt: Exempt,
    /// What a connection still holds of an entry is let go before these are through.
    tasks: TaskTracker,
}

impl Dialer {
    /// A dialer whose sockets come from `exempt`, and whose connections run as `tasks`.
    #[must_use]
    pub fn new(exempt: Exempt, tasks: TaskTracker) -> Self {
        Self { exempt, tasks }
    }

    /// Opens a connection for the operation that `permit` allows, from the network namespace with this cookie, or the gate's own.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn dial(
        &self,
        _permit: &Permit,
        (space, to): (Option<u64>, SocketAddr),
    ) -> Result<Line, UpstreamError> {
        let stream = self.connect(space, to).await?;
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
        Ok(Line { sender, to, space, task })
    }

    async fn connect(&self, space: Option<u64>, to: SocketAddr) -> Result<TcpStream, UpstreamError> {
        let socket = self.exempt.socket_in(space, to).await.map_err(UpstreamError::Socket)?;
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
    space: Option<u64>,
    task: JoinHandle<()>,
}

impl Line {
    /// Where it goes.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// The network namespace that it was dialled in; `None`: the gate's own.
    #[must_use]
    pub fn space(&self) -> Option<u64> {
        self.space
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
        let moved = Arc::new(Mutex::new(Instant::now()));
        let request = request.map(|body| Watched::over(body, &moved));
        let answer = self.sender.send_request(request);
        tokio::pin!(answer);
        loop {
            let due = *moved.lock().unwrap_or_else(PoisonError::into_inner) + RESPONSE_HEAD_TIMEOUT;
            match tokio::time::timeout_at(due, &mut answer).await {
                Ok(answer) => return answer.map_err(UpstreamError::Exchange),
                Err(_)
                    if *moved.lock().unwrap_or_else(PoisonError::into_inner) + RESPONSE_HEAD_TIMEOUT
                        > due => {}
                Err(_) => return Err(UpstreamError::ResponseTimeout),
            }
        }
    }
}

/// A request body that notes when it moved last: the wait for the answer counts from there.
struct Watched {
    body: RequestBody,
    moved: Arc<Mutex<Instant>>,
}

impl Watched {
    fn over(body: RequestBody, moved: &Arc<Mutex<Instant>>) -> RequestBody {
        if body.is_end_stream() { body } else { Self { body, moved: Arc::clone(moved) }.boxed_unsync() }
    }
}

impl Body for Watched {
    type Data = <RequestBody as Body>::Data;
    type Error = <RequestBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::net::TcpListener;

    use super::*;
    use crate::operation::EntryId;

    fn permit() -> Permit {
        Permit::issue(EntryId::now(), "api".into())
    }

    fn request() -> http::Request<RequestBody> {
        http::Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync())
    }

    fn dialer() -> Dialer {
        Dialer::new(Exempt::new(|_| Ok(())), TaskTracker::new())
    }

    #[tokio::test]
    async fn a_target_that_never_answers_is_given_up_at_the_bound_as_504() {
        // The kernel accepts for it; nobody reads.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut line = dialer().dial(&permit(), (None, silent.local_addr().unwrap())).await.unwrap();
        tokio::time::pause();
        let began = Instant::now();
        let refused = line.send(permit(), request()).await.unwrap_err();
        assert!(matches!(refused, UpstreamError::ResponseTimeout), "{refused}");
        assert_eq!((refused.status(), refused.word()), (504, "timeout"));
        let waited = began.elapsed();
        assert!(waited >= RESPONSE_HEAD_TIMEOUT && waited < RESPONSE_HEAD_TIMEOUT * 2, "{waited:?}");
    }

    #[tokio::test]
    async fn an_upload_that_takes_long_is_answered_all_the_same() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut line = dialer().dial(&permit(), (None, target.local_addr().unwrap())).await.unwrap();
        let (mut stream, _) = target.accept().await.unwrap();
        let answer = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut got = Vec::new();
            while !got.ends_with(b"0\r\n\r\n") {
                assert!(stream.read_buf(&mut got).await.unwrap() > 0);
            }
            stream.write_all(b"HTTP/1.1 204 Done\r\n\r\n").await.unwrap();
            stream
        });
        tokio::time::pause();
        let step = RESPONSE_HEAD_TIMEOUT / 2;
        let frames = futures_util::stream::unfold(0, move |sent| async move {
            tokio::time::sleep(step).await;
            let frame = Frame::data(Bytes::from_static(b"some of it"));
            (sent < 5).then_some((Ok(frame), sent + 1))
        });
        let body = http_body_util::StreamBody::new(frames).boxed_unsync();
        let began = Instant::now();
        let answered = line.send(permit(), http::Request::post("/").body(body).unwrap()).await.unwrap();
        assert_eq!(answered.status(), 204);
        assert!(began.elapsed() > RESPONSE_HEAD_TIMEOUT * 2);
        drop(answer.await);
    }

    #[tokio::test]
    async fn a_target_that_refuses_is_502_and_one_that_answers_nonsense_too() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = gone.local_addr().unwrap();
        drop(gone);
        let refused = dialer().dial(&permit(), (None, to)).await.err().unwrap();
        assert_eq!((refused.status(), refused.word()), (502, "refused"));
        let babbling = TcpListener::bind(to).await.unwrap();
        let mut line = dialer().dial(&permit(), (None, to)).await.unwrap();
        let (mut stream, _) = babbling.accept().await.unwrap();
        let answer = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"SSH-2.0-surprise\r\n\r\n").await;
            stream
        });
        let refused = line.send(permit(), request()).await.unwrap_err();
        assert_eq!((refused.status(), refused.word()), (502, "garbage"));
        drop(answer.await);
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_marked_dials_nobody() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let unmarked = Exempt::new(|_| Err(io::ErrorKind::OutOfMemory.into()));
        let dialer = Dialer::new(unmarked, TaskTracker::new());
        let refused = dialer.dial(&permit(), (None, target.local_addr().unwrap())).await.err().unwrap();
        assert_eq!((refused.status(), refused.word()), (503, "socket"));
        let came = tokio::time::timeout(std::time::Duration::from_millis(200), target.accept()).await;
        assert!(came.is_err(), "it was dialled all the same");
    }
}
