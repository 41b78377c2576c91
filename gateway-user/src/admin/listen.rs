//! The admin socket and the optional metrics port. Replaces the socket of a dead gate, never that of a live one;
//! removes only its own; serves a bounded number of callers for a bounded time.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer::Peer;
use super::{Admin, api};
use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_TIMEOUT, HEAD_TIMEOUT};
use crate::telemetry::Metrics;

/// After a failed accept (no file descriptors left) the next try waits this long.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Why the operator's door does not open.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another gate listens there.
    #[error("another gate answers on {0}; stop it, or give this one its own --admin-socket")]
    Live(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{0} is there and is no socket; it is left alone, give another --admin-socket or remove it")]
    NotASocket(PathBuf),
    /// The file system refused.
    #[error("the admin socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The metrics port cannot be had.
    #[error("the metrics port 127.0.0.1:{port}: {source}; give another --metrics-port")]
    Metrics {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// The bound admin socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file, so that a successor's is never removed.
    identity: (u64, u64),
}

impl Socket {
    /// Binds the socket (0660), making its directory (0750) where it is missing. Needs a tokio runtime.
    ///
    /// # Errors
    /// A live gate or something that is no socket is there, or the file system refuses.
    pub fn bind(path: &Path) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(parent).map_err(failed)?;
        }
        clear(path)?;
        // Nobody may connect between the bind and the change of mode: it gets its name only when it is ready.
        let scratch = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&scratch);
        let listener = UnixListener::bind(&scratch).map_err(failed)?;
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let meta = fs::symlink_metadata(&scratch).map_err(failed)?;
        fs::rename(&scratch, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), identity: (meta.dev(), meta.ino()) })
    }

    /// Answers until the task is dropped.
    pub async fn serve(self, admin: Arc<Admin>) {
        let (router, rooms) = (api::router(admin), Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)));
        loop {
            let Ok(room) = Arc::clone(&rooms).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => greet(stream, &router, room),
                Err(error) => pause(&error).await,
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the admin socket could not be removed");
        }
    }
}

/// Serves `GET /metrics`, and nothing else, on a loopback port until the task is dropped.
///
/// # Errors
/// The port cannot be had.
pub async fn serve_metrics(port: u16, metrics: Metrics) -> Result<impl Future<Output = ()>, AdminError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).await.map_err(|source| AdminError::Metrics { port, source })?;
    let router = api::metrics_router(metrics);
    Ok(async move {
        let rooms = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
        loop {
            let Ok(room) = Arc::clone(&rooms).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => converse(stream, router.clone(), room),
                Err(error) => pause(&error).await,
            }
        }
    })
}

/// Removes what a dead gate left.
fn clear(path: &Path) -> Result<(), AdminError> {
    let failed = |source| AdminError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(AdminError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
        Ok(_) => Err(AdminError::Live(path.to_owned())),
    }
}

fn greet(stream: UnixStream, router: &Router, room: OwnedSemaphorePermit) {
    match Peer::of(&stream) {
        Some(peer) => converse(stream, router.clone().layer(Extension(peer)), room),
        None => tracing::warn!("closed an admin connection: the kernel does not say who it is"),
    }
}

/// Serves one connection for a bounded time.
fn converse<S>(stream: S, router: Router, room: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        match tokio::time::timeout(ADMIN_TIMEOUT, served).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an admin connection broke"),
            Err(_) => tracing::debug!("an admin connection took too long"),
        }
        drop(room);
    });
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept an admin connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
