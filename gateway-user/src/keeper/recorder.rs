//! The keeper's side of the recorder: starts it, and starts it again when it ends; gives lines to it; lets operators in to it.
//! While there is none nothing can be recorded, and so nothing is forwarded.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::net::UnixListener;
use tokio::process::Child;
use tokio::sync::oneshot;

use super::child::{self, Pause};
use super::link::{self, Link};
use super::message::{Errand, pack};
use super::{Parts, User};
use crate::admin::{self, Named, Socket};
use crate::limits::DRAIN_TIMEOUT;
use crate::policy::Shelf;

/// The recorder, as the keeper knows it.
#[derive(Debug)]
pub(super) struct Recorder {
    user: User,
    arguments: Vec<std::ffi::OsString>,
    socket: PathBuf,
    shelf: Shelf,
    link: Mutex<Option<Arc<Link>>>,
    /// The enforcer's line. Whoever got hold of it, it ends with that enforcer.
    line: Mutex<Option<UnixStream>>,
}

impl Recorder {
    pub(super) fn of(parts: &Parts) -> Self {
        Self {
            user: parts.recorder,
            arguments: parts.arguments.clone(),
            socket: admin::record_socket(&parts.admin_socket),
            shelf: parts.shelf.clone(),
            link: Mutex::default(),
            line: Mutex::default(),
        }
    }

    /// Whom it runs as.
    pub(super) fn user(&self) -> User {
        self.user
    }

    /// Starts it.
    pub(super) fn start(&self) -> io::Result<Child> {
        let (link, theirs) = link::pair()?;
        let child = child::start(&self.arguments, "--recording", self.user, theirs)?;
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(link));
        Ok(child)
    }

    /// Keeps it running, until told to end it.
    pub(super) async fn keep(self: Arc<Self>, mut child: Child, mut end: oneshot::Receiver<()>) {
        let mut pause = Pause::default();
        let mut begun = Instant::now();
        loop {
            tokio::select! {
                _ = &mut end => return self.end(child).await,
                status = child.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    tracing::error!(%status, "the recorder ended; nothing is forwarded until the next one is there");
                }
            }
            self.gone();
            child = loop {
                tokio::select! {
                    _ = &mut end => return,
                    () = pause.after(begun) => {}
                }
                begun = Instant::now();
                match self.start() {
                    Ok(child) => break child,
                    Err(error) => tracing::error!(%error, "the recorder cannot be started"),
                }
            };
        }
    }

    /// Lets it write what it has; ends it where it does not end.
    async fn end(&self, mut child: Child) {
        self.gone();
        if tokio::time::timeout(2 * DRAIN_TIMEOUT, child.wait()).await.is_err() {
            tracing::error!("the recorder does not end; it is killed");
            drop(child.kill().await);
        }
    }

    fn gone(&self) {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        link.into_iter().for_each(|link| link.close());
    }

    /// A line to it.
    pub(super) async fn line(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        self.hang_up();
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours.try_clone()?);
        self.send(&Errand::Enforcer, theirs.as_fd()).await?;
        Ok(ours.into())
    }

    /// Ends the line that was given last: its enforcer is gone, or has another one.
    pub(super) fn hang_up(&self) {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What was sent over it is still read.
        line.into_iter().for_each(|line| drop(line.shutdown(Shutdown::Both)));
    }

    async fn send(&self, errand: &Errand, with: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let link = link.ok_or_else(|| io::Error::other("the recorder is not there yet"))?;
        link.send(&pack(0, errand)?, &[with]).await
    }

    /// Opens the recorder's socket.
    pub(super) fn open(&self) -> io::Result<(UnixListener, Named)> {
        let (listener, named) = Socket::bind(&self.socket).map_err(io::Error::other)?.into_parts()?;
        Ok((UnixListener::from_std(listener)?, named))
    }

    /// Brings it who knocks there, and whether that one may give orders, until dropped. Reads nothing of what he says.
    pub(super) async fn receive(self: Arc<Self>, (listener, _named): (UnixListener, Named)) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept at the recorder's socket");
                    tokio::time::sleep(child::RESTART_AFTER).await;
                    continue;
                }
            };
            let asked = admin::may_order(&stream, &self.shelf.current());
            if let Err(error) = self.send(&Errand::Operator(asked), stream.as_fd()).await {
                tracing::warn!(%error, "nobody hears orders to the record now");
            }
        }
    }
}
