//! Fetches one small document by HTTPS, or by HTTP from this host itself; or sends one.
//!
//! Follows no redirect, waits no longer than [`FETCH_TIMEOUT`], and reads no more than a key set may have. The programs
//! let its sockets out, so it goes nowhere but to the host of a URL that the policy declares.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kernel::Exempt;
use crate::limits::JWKS_BYTES_MAX;

/// For the whole of it. Somebody waits for the answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A fetched document.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    /// Seconds it may be kept, where the server said so.
    pub(super) max_age: Option<i64>,
}

/// What a server answered, whatever that is.
#[derive(Debug)]
struct Answered {
    status: u16,
    max_age: Option<i64>,
    bytes: Vec<u8>,
}

/// What of an answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Its body, where its status is 200.
    Document,
    /// Its status. Nobody reads or waits for what comes with it.
    Status,
}

/// Why nothing was fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0}")]
    Url(&'static str),
    #[error("no answer within {} seconds", FETCH_TIMEOUT.as_secs())]
    Timeout,
    #[error("the server answered {0} where 200 was expected")]
    Status(u16),
    #[error("{0}")]
    Failed(String),
}

impl FetchError {
    fn from(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The host's own trust anchors. An empty store trusts nobody, and every fetch then says so.
static TLS: LazyLock<Result<Arc<ClientConfig>, String>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
});

/// Fetches `url`, past the gate itself: a provider may be one of its targets.
pub(super) async fn fetch(url: &str, exempt: &Exempt) -> Result<Fetched, FetchError> {
    let accept = [("accept", "application/jwk-set+json, application/json")];
    let answer = ask(url, ("GET", Wanted::Document), &accept, Bytes::new(), exempt).await?;
    match answer.status {
        200 => Ok(Fetched { bytes: answer.bytes, max_age: answer.max_age }),
        status => Err(FetchError::Status(status)),
    }
}

/// Posts `body` to `url`, past the gate itself, and gives the answer's status.
pub(crate) async fn post(
    url: &str,
    headers: &[(&str, &str)],
    body: Bytes,
    exempt: &Exempt,
) -> Result<u16, FetchError> {
    Ok(ask(url, ("POST", Wanted::Status), headers, body, exempt).await?.status)
}

async fn ask(
    url: &str,
    what: (&str, Wanted),
    headers: &[(&str, &str)],
    body: Bytes,
    exempt: &Exempt,
) -> Result<Answered, FetchError> {
    let sent = ask_url(url, what, headers, body, exempt);
    tokio::time::timeout(FETCH_TIMEOUT, sent).await.map_err(|_| FetchError::Timeout)?
}

async fn ask_url(
    url: &str,
    (method, wanted): (&str, Wanted),
    headers: &[(&str, &str)],
    body: Bytes,
    exempt: &Exempt,
) -> Result<Answered, FetchError> {
    let uri: http::Uri = url.parse().map_err(|_| FetchError::Url("it is not a URL"))?;
    let authority = uri.authority().ok_or(FetchError::Url("the URL names no host"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(FetchError::Url("only https:// URLs are fetched (http:// on loopback)")),
    };
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = connect(&host, port, secure, exempt).await?;
    let mut request = http::Request::builder()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, authority.host_and_port())
        .header(http::header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).map_err(FetchError::from)?;
    if !secure {
        return exchange(stream, request, wanted).await;
    }
    let config = TLS.clone().map_err(FetchError::Failed)?;
    let name = ServerName::try_from(host).map_err(FetchError::from)?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(FetchError::from)?;
    exchange(stream, request, wanted).await
}

/// What a Host field says.
trait HostAndPort {
    fn host_and_port(&self) -> String;
}

impl HostAndPort for http::uri::Authority {
    fn host_and_port(&self) -> String {
        self.port().map_or_else(|| self.host().to_owned(), |port| format!("{}:{port}", self.host()))
    }
}

async fn connect(host: &str, port: u16, secure: bool, exempt: &Exempt) -> Result<TcpStream, FetchError> {
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(FetchError::from)?;
    let mut failed = FetchError::Url("the host has no address");
    for address in addresses {
        if !secure && !address.ip().is_loopback() {
            return Err(FetchError::Url("http:// is for loopback only; use https://"));
        }
        let dialled = match exempt.socket(address).await {
            Ok(socket) => socket.connect(address).await,
            Err(error) => Err(error),
        };
        match dialled {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = FetchError::from(error),
        }
    }
    Err(failed)
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Full<Bytes>>,
    wanted: Wanted,
) -> Result<Answered, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::from)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(FetchError::from)?;
        let status = response.status().as_u16();
        if status != 200 || wanted == Wanted::Status {
            // Nobody reads what comes with it.
            return Ok(Answered { status, max_age: None, bytes: Vec::new() });
        }
        let max_age = response
            .headers()
            .get(http::header::CACHE_CONTROL)
            .and_then(|value| max_age(value.to_str().ok()?));
        let body = Limited::new(response.into_body(), JWKS_BYTES_MAX).collect().await;
        let bytes = body.map_err(FetchError::from)?.to_bytes().to_vec();
        Ok(Answered { status, max_age, bytes })
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = &mut connection => {
            // The connection may end once the whole answer is in, before it was looked at.
            ended.map_err(FetchError::from)?;
            exchange.await
        }
    }
}

fn max_age(cache_control: &str) -> Option<i64> {
    let directives = || cache_control.split(',').map(str::trim);
    if directives().any(|one| one.eq_ignore_ascii_case("no-store") || one.eq_ignore_ascii_case("no-cache")) {
        return Some(0);
    }
    directives().find_map(|one| {
        let (name, value) = one.split_once('=')?;
        name.trim().eq_ignore_ascii_case("max-age").then(|| value.trim().trim_matches('"').parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Marks nothing, and counts the sockets it was asked to mark.
    fn counted() -> (Exempt, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let marked = count.clone();
        let mark = move |_: std::os::fd::BorrowedFd<'_>| {
            marked.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        (Exempt::new(mark), count)
    }

    async fn came(listener: &TcpListener) -> bool {
        tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_ok()
    }

    #[test]
    fn the_server_says_how_long_a_set_may_be_kept() {
        assert_eq!(max_age("public, Max-Age=300, must-revalidate"), Some(300));
        assert_eq!(max_age("no-store, max-age=300"), Some(0));
        assert_eq!(max_age("private"), None);
        assert_eq!(max_age("max-age=soon"), None);
    }

    #[tokio::test]
    async fn what_is_neither_https_nor_loopback_is_not_fetched() {
        let (exempt, sockets) = counted();
        for url in ["http://192.0.2.1/jwks", "ftp://127.0.0.1/", "file:///etc/passwd", "/jwks", ""] {
            assert!(matches!(fetch(url, &exempt).await, Err(FetchError::Url(_))), "{url}");
        }
        assert_eq!(sockets.load(Ordering::SeqCst), 0, "no socket that passes the gate was made for any");
    }

    #[tokio::test]
    async fn a_provider_cannot_send_a_fetch_elsewhere() {
        let (provider, elsewhere) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let url = format!("http://{}/jwks", provider.local_addr().unwrap());
        let location = elsewhere.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = provider.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{location}/\r\nContent-Length: 0\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream
        });
        let (exempt, sockets) = counted();
        assert!(matches!(fetch(&url, &exempt).await, Err(FetchError::Status(307))));
        assert_eq!(sockets.load(Ordering::SeqCst), 1);
        assert!(!came(&elsewhere).await);
        drop(server.await);
    }

    #[tokio::test]
    async fn what_was_posted_is_judged_by_the_status_and_not_by_what_comes_with_it() {
        let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", receiver.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = receiver.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 4 * JWKS_BYTES_MAX);
            stream.write_all(head.as_bytes()).await.unwrap();
            // It never sends the rest, and does not hang up.
            stream
        });
        let status = post(&url, &[], Bytes::from_static(b"{}"), &counted().0).await;
        assert_eq!(status, Ok(200));
        drop(server.await);
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_marked_fetches_nothing() {
        let provider = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", provider.local_addr().unwrap());
        let unmarked = Exempt::new(|_| Err(std::io::ErrorKind::OutOfMemory.into()));
        assert!(matches!(fetch(&url, &unmarked).await, Err(FetchError::Failed(_))));
        assert!(!came(&provider).await, "it was dialled all the same");
    }

    #[tokio::test]
    async fn a_server_that_does_not_speak_tls_is_not_believed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/jwks", listener.local_addr().unwrap().port());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
            stream
        });
        assert!(matches!(fetch(&url, &counted().0).await, Err(FetchError::Failed(_))));
        server.abort();
    }
}
