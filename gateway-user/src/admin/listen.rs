//! The admin socket and the optional metrics port. Replaces the socket of a dead gate, never that of a live one;
//! removes only its own; serves a bounded number of callers for a bounded time, and no one of them at the cost of all.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::api::Front;
use super::peer::Peer;
use super::relay::Relay;
use super::{Admin, api};
use crate::limits::{
    ADMIN_CONNECTIONS_MAX, ADMIN_CONNECTIONS_PER_USER_MAX, ADMIN_REFUSAL_TIMEOUT, ADMIN_REFUSALS_MAX,
    ADMIN_TIMEOUT, HEAD_TIMEOUT,
};
use crate::mask;
use crate::telemetry::Metrics;

/// Members of this group may connect, where the host has it.
const GROUP: &str = "tidegate";
/// After a failed accept (no file descriptors left) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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

/// The bound admin socket.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    named: Named,
}

/// The name of an admin socket in the file system. Removed when this is dropped.
#[derive(Debug)]
pub struct Named {
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
        let group = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => directory(parent).map_err(failed)?,
            None => None,
        };
        clear(path)?;
        // Nobody may connect between the bind and the change of mode: it gets its name only when it is ready.
        let scratch = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&scratch);
        let listener = UnixListener::bind(&scratch).map_err(failed)?;
        chown(&scratch, None, group).map_err(failed)?;
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let meta = fs::symlink_metadata(&scratch).map_err(failed)?;
        fs::rename(&scratch, path).map_err(failed)?;
        let named = Named { path: path.to_owned(), identity: (meta.dev(), meta.ino()) };
        Ok(Self { listener, named })
    }

    /// To accept at, as long as there is its name.
    #[must_use]
    pub fn into_parts(self) -> (UnixListener, Named) {
        (self.listener, self.named)
    }

    /// Answers until the task is dropped.
    pub async fn serve(self, admin: Arc<Admin>) {
        let scrub = admin.scrub;
        let door = Door::of(Front::of(admin.clone(), scrub));
        loop {
            let Some(room) = door.room().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => match Peer::of(&stream, &admin.shelf.current()) {
                    Some(peer) => door.greet(stream, peer, room),
                    None => tracing::warn!("closed an admin connection: the kernel does not say who it is"),
                },
                Err(error) => pause(&error).await,
            }
        }
    }
}

/// Answers those whom the keeper let in, and said who they are, until it brings no more.
pub async fn receive(mut callers: mpsc::Receiver<(OwnedFd, Peer)>, relay: Relay) {
    let door = Door::of(Front::of(Arc::new(relay), mask::scrub));
    loop {
        let Some(room) = door.room().await else { return };
        let Some((stream, peer)) = callers.recv().await else { return };
        let stream = std::os::unix::net::UnixStream::from(stream);
        match stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)) {
            Ok(stream) => door.greet(stream, peer, room),
            Err(error) => tracing::warn!(%error, "cannot answer at the admin socket"),
        }
    }
}

impl Drop for Named {
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
                Ok((stream, _)) => converse(stream, router.clone(), ADMIN_TIMEOUT, room),
                Err(error) => pause(&error).await,
            }
        }
    })
}

/// Makes the socket's directory where it is missing, for the group `tidegate` if this host has it. Gives the group of
/// the directory: whoever may enter it may connect.
fn directory(path: &Path) -> io::Result<Option<u32>> {
    if !path.try_exists()? {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        if rustix::process::geteuid().is_root()
            && let Some(group) = group_id(&groups, GROUP)
        {
            chown(path, None, Some(group))?;
        }
    }
    Ok(Some(fs::metadata(path)?.gid()))
}

/// The id of a group in text of the form of `/etc/group`.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
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

/// Who may come in, and how many of one user's.
struct Door {
    router: Router,
    rooms: Arc<Semaphore>,
    inside: Arc<Mutex<HashMap<u32, usize>>>,
    refusals: Arc<Semaphore>,
}

impl Door {
    fn of(front: Front) -> Self {
        Self {
            router: api::router(front),
            rooms: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)),
            inside: Arc::default(),
            refusals: Arc::new(Semaphore::new(ADMIN_REFUSALS_MAX)),
        }
    }

    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.rooms).acquire_owned().await.ok()
    }

    fn greet(&self, stream: UnixStream, peer: Peer, room: OwnedSemaphorePermit) {
        let uid = peer.uid;
        if let Some(place) = Place::take(&self.inside, uid) {
            let router = self.router.clone().layer(Extension(peer));
            return converse(stream, router, ADMIN_TIMEOUT, (room, place));
        }
        tracing::debug!(uid, "refused an admin connection: its user has too many");
        // Without a room: a user's refusals must not keep the others out either.
        if let Ok(refusal) = Arc::clone(&self.refusals).try_acquire_owned() {
            converse(stream, api::crowded_router(uid), ADMIN_REFUSAL_TIMEOUT, refusal);
        }
    }
}

/// One of the connections that one user may have; given back when dropped.
struct Place {
    inside: Arc<Mutex<HashMap<u32, usize>>>,
    uid: u32,
}

impl Place {
    fn take(inside: &Arc<Mutex<HashMap<u32, usize>>>, uid: u32) -> Option<Self> {
        let mut held = inside.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(uid).or_default();
        if *count == ADMIN_CONNECTIONS_PER_USER_MAX {
            return None;
        }
        *count += 1;
        Some(Self { inside: Arc::clone(inside), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.uid)),
        }
    }
}

/// Answers one caller at this socket for a bounded time. `room` is given back at its end. Needs a tokio runtime.
///
/// # Errors
/// It cannot be waited on.
pub fn answer(
    stream: std::os::unix::net::UnixStream,
    router: Router,
    room: impl Send + 'static,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    converse(UnixStream::from_std(stream)?, router, ADMIN_TIMEOUT, room);
    Ok(())
}

/// Serves one connection for a bounded time. `room` is given back at its end.
fn converse<S>(stream: S, router: Router, limit: Duration, room: impl Send + 'static)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        match tokio::time::timeout(limit, served).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/admin.sock");
        let socket = Socket::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o750));
        drop(socket);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_gate_is_replaced_and_that_of_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let live = Socket::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(AdminError::Live(_))));
        drop(live);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(AdminError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let old = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = Socket::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
    }

    #[test]
    fn a_user_has_so_many_places_and_not_one_more_and_takes_none_from_others() {
        let inside = Arc::default();
        let mut held: Vec<Place> =
            (0..ADMIN_CONNECTIONS_PER_USER_MAX).filter_map(|_| Place::take(&inside, 7)).collect();
        assert_eq!(held.len(), ADMIN_CONNECTIONS_PER_USER_MAX);
        assert!(Place::take(&inside, 7).is_none());
        let other = Place::take(&inside, 8);
        assert!(other.is_some());
        held.pop();
        held.extend(Place::take(&inside, 7));
        assert_eq!(held.len(), ADMIN_CONNECTIONS_PER_USER_MAX);
        drop((held, other));
        assert!(inside.lock().unwrap().is_empty(), "nobody is remembered who is gone");
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\ntidegate-x:x:7:\ntidegate:x:990:ann,bob\n";
        assert_eq!(group_id(groups, "tidegate"), Some(990));
        assert_eq!(group_id(groups, "tide"), None);
    }
}
