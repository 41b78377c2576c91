//! The keeper's side of its helpers, recorder and admin: starts each, and starts it again when it ends; gives enforcers lines to it;
//! brings it who knocks at its socket, and who that is. Reads nothing of what he says.

use std::ffi::OsString;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::process::Child;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::child::{self, Pause};
use super::errands::INTRODUCE;
use super::link::{self, Link};
use super::message::{Errand, pack};
use super::{Parts, User};
use crate::admin::{self, Named, Socket};
use crate::limits::{ADMIN_CONNECTIONS_MAX, DRAIN_TIMEOUT};
use crate::policy::{Set, Shelf};

/// How long one that knocks waits for a helper that is being started, or does not take him.
const BROUGHT_WITHIN: Duration = Duration::from_secs(5);

/// Between two tries to give admin and recorder a line to each other.
const INTRODUCED_EVERY: Duration = Duration::from_millis(200);

/// One that beats and is not heard of for so long hangs: nobody could vote, or block.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What kind of helper it is.
#[derive(Debug)]
pub(super) struct Role {
    name: &'static str,
    option: &'static str,
    /// What is not done while there is none.
    missed: &'static str,
    /// How long it may take to end when told to.
    drain: Duration,
    /// Whether it says all the time that it lives, and is killed where it does not.
    beats: bool,
    /// What it is told of one who knocks; `None` where nobody knows who that is. `own` are the users of the gate's children.
    knock: fn(&tokio::net::UnixStream, &Set, own: &[u32]) -> Option<Errand>,
}

/// Writes the record.
pub(super) const RECORDER: Role = Role {
    name: "the recorder",
    option: "--recording",
    missed: "nothing is forwarded until the next one is there",
    // It writes what it has.
    drain: DRAIN_TIMEOUT.saturating_mul(2),
    beats: false,
    knock: |stream, set, _| Some(Errand::Operator(admin::may_order(stream, set))),
};

/// Talks to operators.
pub(super) const ADMIN: Role = Role {
    name: "admin",
    option: "--admitting",
    missed: "the gate goes on; operators wait for the next one",
    drain: Duration::from_secs(2),
    beats: true,
    knock: |stream, set, own| Some(Errand::Caller(Box::new(admin::caller(stream, set, own)?))),
};

/// A helper, as the keeper knows it.
#[derive(Debug)]
pub(super) struct Aide {
    role: Role,
    user: User,
    arguments: Vec<OsString>,
    socket: PathBuf,
    shelf: Shelf,
    own: [u32; 3],
    link: Mutex<Option<Arc<Link>>>,
    /// The enforcer's line. Whoever got hold of it, it ends with that enforcer.
    line: Mutex<Option<UnixStream>>,
    /// One line after the other: the last one given is the one that is kept.
    giving: tokio::sync::Mutex<()>,
    /// Those that knock and are not brought in yet.
    rooms: Arc<Semaphore>,
    /// Told at each start.
    started: Arc<Notify>,
}

impl Aide {
    pub(super) fn of(parts: &Parts, role: Role, user: User, socket: PathBuf, started: &Arc<Notify>) -> Self {
        Self {
            role,
            user,
            arguments: parts.arguments.clone(),
            socket,
            shelf: parts.shelf.clone(),
            own: [parts.user.uid, parts.recorder.uid, parts.admin.uid],
            link: Mutex::default(),
            line: Mutex::default(),
            giving: tokio::sync::Mutex::default(),
            rooms: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)),
            started: Arc::clone(started),
        }
    }

    /// Whom it runs as.
    pub(super) fn user(&self) -> User {
        self.user
    }

    /// Starts it.
    pub(super) fn start(&self) -> io::Result<Child> {
        let (link, theirs) = link::pair()?;
        let child = child::start(&self.arguments, self.role.option, self.user, theirs)?;
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(link));
        self.started.notify_one();
        Ok(child)
    }

    /// Keeps it running, until told to end it.
    pub(super) async fn keep(self: Arc<Self>, mut child: Child, mut end: oneshot::Receiver<()>) {
        let mut pause = Pause::default();
        let mut begun = Instant::now();
        loop {
            tokio::select! {
                _ = &mut end => return self.end(child).await,
                () = self.silence(), if self.role.beats => {
                    tracing::error!("{} has not been heard of for {SILENCE_MAX:?}; it is killed", self.role.name);
                    drop(child.start_kill());
                    drop(child.wait().await);
                }
                status = child.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    tracing::error!(%status, "{} ended; {}", self.role.name, self.role.missed);
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
                    Err(error) => tracing::error!(%error, "{} cannot be started", self.role.name),
                }
            };
        }
    }

    /// Returns when it has said nothing for too long.
    async fn silence(&self) {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(link) = link else { return std::future::pending().await };
        loop {
            match tokio::time::timeout(SILENCE_MAX, link.receive()).await {
                Ok(Ok(Some((said, _)))) => {
                    if said == INTRODUCE {
                        self.started.notify_one();
                    }
                }
                // It is gone, which is heard of otherwise.
                Ok(_) => return std::future::pending().await,
                Err(_) => return,
            }
        }
    }

    /// Lets it finish what it has; ends it where it does not end.
    async fn end(&self, mut child: Child) {
        self.gone();
        if tokio::time::timeout(self.role.drain, child.wait()).await.is_err() {
            tracing::error!("{} does not end; it is killed", self.role.name);
            drop(child.kill().await);
        }
    }

    fn gone(&self) {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        link.into_iter().for_each(|link| link.close());
    }

    /// A line to it, for the enforcer.
    pub(super) async fn line(&self) -> io::Result<OwnedFd> {
        let _one = self.giving.lock().await;
        let (ours, theirs) = UnixStream::pair()?;
        self.hang_up();
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours.try_clone()?);
        self.send(&Errand::Enforcer, theirs.as_fd()).await?;
        Ok(ours.into())
    }

    /// A line by which it says what may have a credential.
    pub(super) async fn claims(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.send(&Errand::Claims, theirs.as_fd()).await?;
        Ok(ours)
    }

    /// Ends the line that was given last: its enforcer is gone, or has another one.
    pub(super) fn hang_up(&self) {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What was sent over it is still read.
        line.into_iter().for_each(|line| drop(line.shutdown(Shutdown::Both)));
    }

    async fn send(&self, errand: &Errand, with: BorrowedFd<'_>) -> io::Result<()> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let link = link.ok_or_else(|| io::Error::other(format!("{} is not there yet", self.role.name)))?;
        let packed = pack(0, errand)?;
        let sent = tokio::time::timeout(BROUGHT_WITHIN, link.send(&packed, &[with])).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Opens its socket.
    pub(super) fn open(&self) -> io::Result<(UnixListener, Named)> {
        Ok(Socket::bind(&self.socket).map_err(io::Error::other)?.into_parts())
    }

    /// Brings it who knocks there, until dropped.
    pub(super) async fn receive(self: Arc<Self>, (listener, _named): (UnixListener, Named)) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept at the socket of {}", self.role.name);
                    tokio::time::sleep(child::RESTART_AFTER).await;
                    continue;
                }
            };
            // At once, also where nobody takes him now: later his process id may be another's.
            let Some(errand) = (self.role.knock)(&stream, &self.shelf.current(), &self.own) else {
                tracing::warn!("closed a connection of an operator: the kernel does not say who it is");
                continue;
            };
            let Ok(room) = Arc::clone(&self.rooms).try_acquire_owned() else {
                tracing::warn!("too many wait for {}; one was closed", self.role.name);
                continue;
            };
            let aide = Arc::clone(&self);
            tokio::spawn(async move {
                aide.bring(&errand, &stream).await;
                drop(room);
            });
        }
    }

    /// Brings one in; waits a while where it is being started.
    async fn bring(&self, errand: &Errand, who: &tokio::net::UnixStream) {
        let begun = Instant::now();
        while let Err(error) = self.send(errand, who.as_fd()).await {
            if begun.elapsed() > BROUGHT_WITHIN {
                return tracing::warn!(%error, "an operator is not heard by {}", self.role.name);
            }
            tokio::time::sleep(child::RESTART_AFTER).await;
        }
    }
}

/// Gives admin and recorder a line to each other whenever one of them was started, or admin asks for another one, until dropped.
pub(super) async fn introduce(admin: Arc<Aide>, recorder: Arc<Aide>, started: Arc<Notify>) {
    let mut before: Option<UnixStream> = None;
    loop {
        started.notified().await;
        // Whoever kept an end of it: there is one line at a time.
        before.take().into_iter().for_each(|line| drop(line.shutdown(Shutdown::Both)));
        let introduced = async {
            let (asks, hears) = UnixStream::pair()?;
            before = Some(asks.try_clone()?);
            recorder.send(&Errand::Warrants, hears.as_fd()).await?;
            admin.send(&Errand::Warrants, asks.as_fd()).await
        };
        if let Err(error) = introduced.await {
            tracing::debug!(%error, "admin and recorder are not both there");
            started.notify_one();
        }
        tokio::time::sleep(INTRODUCED_EVERY).await;
    }
}
