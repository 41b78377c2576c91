//! The keeper at work: starts the enforcer, answers it, and starts it again when it ends. While there is none, nobody listens,
//! and the kernel refuses.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use zeroize::Zeroizing;

use super::aide::{self, Aide};
use super::child::{self, Pause};
use super::link::{self, Link};
use super::message::{Answer, Came, News, Request, pack, unpack};
use super::{Change, Refusals, Releases, Spaces, Standing, Tables, User, allowed, state};
use crate::admin;
use crate::credential::Vault;
use crate::identity::process::Processes;
use crate::kernel::{Gate, Listeners};
use crate::limits::{DRAIN_TIMEOUT, KEEPER_ASKED_MAX, SPACES_NEWS_TIMEOUT};
use crate::policy::Shelf;
use crate::service;

/// How often the cgroups of guards and the host's addresses are looked for again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a process's short name: fifteen (`TASK_COMM_LEN`), each of which may have become a replacement character.
const COMMAND_BYTES_MAX: usize = 15 * 3;
/// How long the enforcer may leave an answer in the socket.
const ANSWER_TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// Why the keeper ends.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct KeeperError {
    what: String,
    source: io::Error,
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> KeeperError {
    let what = what.into();
    |source| KeeperError { what, source }
}

/// What a keeper is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its own reading of the policy files.
    pub shelf: Shelf,
    /// What is loaded.
    pub gate: Arc<Gate>,
    /// What the kernel was told.
    pub tables: Tables,
    /// The other network namespaces.
    pub spaces: Arc<Spaces>,
    /// What the kernel refused.
    pub refusals: Arc<Refusals>,
    /// The cgroup v2 root.
    pub cgroups: PathBuf,
    /// Whom the enforcer runs as.
    pub user: User,
    /// Whom the recorder runs as.
    pub recorder: User,
    /// Whom admin runs as.
    pub admin: User,
    /// Its state directory.
    pub state: PathBuf,
    /// The vault.
    pub vault: Vault,
    /// Where operators knock.
    pub admin_socket: PathBuf,
    /// The enforcer's command line, without the program.
    pub arguments: Vec<OsString>,
    /// The words by which listeners are found that the program before this one left.
    pub listeners: Option<String>,
}

/// The keeper.
#[derive(Debug)]
pub struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shelf: Shelf,
    gate: Arc<Gate>,
    tables: Mutex<Tables>,
    spaces: Arc<Spaces>,
    refusals: Arc<Refusals>,
    releases: Releases,
    processes: Arc<Processes>,
    user: User,
    recorder: Arc<Aide>,
    admin: Arc<Aide>,
    /// Told when one of the two was started.
    started: Arc<Notify>,
    state: PathBuf,
    arguments: Vec<OsString>,
    rooms: Arc<Semaphore>,
    /// The admin socket, which goes when the enforcer ends: nobody is told that all is well then.
    door: Lock<Option<JoinHandle<()>>>,
    /// The words of listeners that were left, until an enforcer asks.
    left: Lock<Option<String>>,
    /// The gate, as long as it stands open.
    standing: Lock<Option<Standing>>,
}

/// How one enforcer ended.
enum Ended {
    Told(ExitStatus),
    ByItself(ExitStatus),
    /// As it was told to, and the gate is left standing.
    Left(Listeners),
}

impl Keeper {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let started = Arc::new(Notify::new());
        let orders = admin::record_socket(&parts.admin_socket);
        let recorder = Aide::of(&parts, aide::RECORDER, parts.recorder, orders, &started);
        let admin = Aide::of(&parts, aide::ADMIN, parts.admin, parts.admin_socket.clone(), &started);
        let recorder = Arc::new(recorder);
        Self(Arc::new(Inner {
            releases: Releases::of(parts.vault, parts.shelf.clone(), recorder.clone()),
            recorder,
            admin: Arc::new(admin),
            started,
            shelf: parts.shelf,
            gate: parts.gate,
            tables: Mutex::new(parts.tables),
            spaces: parts.spaces,
            refusals: parts.refusals,
            processes: Arc::new(Processes::new(&parts.cgroups)),
            user: parts.user,
            state: parts.state,
            arguments: parts.arguments,
            rooms: Arc::new(Semaphore::new(KEEPER_ASKED_MAX)),
            door: Lock::default(),
            left: Lock::new(parts.listeners),
            standing: Lock::default(),
        }))
    }

    /// Keeps an enforcer running until SIGTERM or SIGINT; until SIGUSR2, which gives the listeners for the program that is to go
    /// on.
    ///
    /// # Errors
    /// No enforcer can be started at all, or the last one did not end as it should.
    pub async fn run(self) -> Result<Option<Listeners>, KeeperError> {
        let mut signs = Signs::listen()?;
        self.0.shelf.watch().map_err(failed("cannot follow the policy directory"))?;
        let users = state::Users { enforcer: self.0.user, recorder: self.0.recorder.user() };
        state::give(&self.0.state, users).map_err(failed("cannot give the state directory away"))?;
        let door = self.0.recorder.open().map_err(failed("the recorder's socket"))?;
        let recorder = self.0.recorder.start().map_err(failed("cannot start the recorder"))?;
        let admin = self.0.admin.start().map_err(failed("cannot start admin"))?;
        let ((end, told), (end_admin, told_admin)) = (oneshot::channel(), oneshot::channel());
        let recording = tokio::spawn(self.0.recorder.clone().keep(recorder, told));
        let admitting = tokio::spawn(self.0.admin.clone().keep(admin, told_admin));
        let receiving = tokio::spawn(self.0.recorder.clone().receive(door));
        let (from, to, started) = (self.0.admin.clone(), self.0.recorder.clone(), self.0.started.clone());
        let introducing = tokio::spawn(aide::introduce(from, to, started));
        let following = tokio::spawn(self.0.clone().follow());
        let watching = tokio::spawn(self.0.spaces.clone().watch());
        let outcome = self.keep(&mut signs).await;
        following.abort();
        watching.abort();
        receiving.abort();
        introducing.abort();
        drop(end_admin);
        drop(admitting.await);
        // Last: the enforcer has handed over all it had.
        drop(end);
        drop(recording.await);
        outcome
    }

    async fn keep(&self, signs: &mut Signs) -> Result<Option<Listeners>, KeeperError> {
        let mut pause = Pause::default();
        loop {
            let begun = Instant::now();
            match self.one(signs).await? {
                Ended::Told(status) if status.success() => return Ok(None),
                // However it ended: the next one closes in the record what this one did not.
                Ended::Left(listeners) => return Ok((!signs.end.is_told()).then_some(listeners)),
                Ended::Told(status) => {
                    let source = io::Error::other(status.to_string());
                    return Err(KeeperError { what: "the enforcer, told to stop".into(), source });
                }
                Ended::ByItself(status) => {
                    tracing::error!(%status, "the enforcer ended; the gate is shut until the next one is there");
                    service::shut("the enforcer ended; the gate is shut until the next one is there");
                }
            }
            tokio::select! {
                () = signs.end.told() => return Ok(None),
                () = pause.after(begun) => {}
            }
        }
    }

    /// One enforcer's life.
    async fn one(&self, signs: &mut Signs) -> Result<Ended, KeeperError> {
        let (line, theirs) = link::pair().map_err(failed("cannot make the line to the enforcer"))?;
        let mut child = child::start(&self.0.arguments, "--kept", self.0.user, theirs)
            .map_err(failed("cannot start the enforcer"))?;
        let serving = tokio::spawn(self.0.clone().serve(Arc::new(line)));
        let ended = loop {
            tokio::select! {
                status = child.wait() => break Ended::ByItself(status.map_err(failed("cannot wait for the enforcer"))?),
                () = signs.end.told() => break self.told(&mut child).await?,
                _ = signs.upgrade.recv() => match taken(&self.0.standing).map(Standing::leave) {
                    Some(listeners) => {
                        service::changing("another program goes on");
                        stop(&mut child).await?;
                        break Ended::Left(listeners);
                    }
                    None => tracing::warn!("told to upgrade before the gate was open; it goes on"),
                },
                _ = signs.hangup.recv() => {
                    let keeper = self.0.clone();
                    service::changing("the policy is read again");
                    drop(tokio::task::spawn_blocking(move || {
                        keeper.shelf.reload();
                        keeper.say_open();
                    }));
                    tell(&child, Signal::HUP);
                }
            }
        };
        serving.abort();
        self.0.recorder.hang_up();
        self.0.admin.hang_up();
        self.0.spaces.shut();
        drop(taken(&self.0.standing));
        if let Some(door) = taken(&self.0.door) {
            door.abort();
            // Its name is gone when this is over, so the next one finds none.
            drop(door.await);
        }
        Ok(ended)
    }

    /// Shuts the gate, then lets the enforcer drain.
    async fn told(&self, child: &mut Child) -> Result<Ended, KeeperError> {
        service::stopping();
        self.0.spaces.shut();
        drop(taken(&self.0.standing));
        stop(child).await.map(Ended::Told)
    }
}

/// The signals that tell the keeper something, listened for as long as it runs.
struct Signs {
    end: End,
    hangup: tokio::signal::unix::Signal,
    upgrade: tokio::signal::unix::Signal,
}

impl Signs {
    fn listen() -> Result<Self, KeeperError> {
        let listen = |kind| signal(kind).map_err(failed("cannot listen for signals"));
        Ok(Self {
            end: End { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? },
            hangup: listen(SignalKind::hangup())?,
            upgrade: listen(SignalKind::user_defined2())?,
        })
    }
}

/// Those that tell it to stop.
struct End {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl End {
    /// Waits until it is to stop.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Whether it was told to since it looked last.
    fn is_told(&mut self) -> bool {
        self.told().now_or_never().is_some()
    }
}

fn tell(child: &Child, what: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // Not reaped yet, so the number is still its own.
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, what)
    {
        tracing::warn!(%error, "the enforcer cannot be signalled");
    }
}

/// Lets it drain; ends it where it does not end.
async fn stop(child: &mut Child) -> Result<ExitStatus, KeeperError> {
    tell(child, Signal::TERM);
    let ended = match tokio::time::timeout(2 * DRAIN_TIMEOUT, child.wait()).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::error!("the enforcer does not end; it is killed");
            drop(child.start_kill());
            child.wait().await
        }
    };
    ended.map_err(failed("cannot wait for the enforcer"))
}

/// What was in there, which is empty now.
fn taken<T>(from: &Lock<Option<T>>) -> Option<T> {
    from.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Inner {
    /// Keeps the kernel's tables in step, until the task is dropped.
    async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let set = self.shelf.current();
            self.tables.lock().await.follow(&set).await;
        }
    }

    /// Answers until the enforcer is gone, or says something that is no question. Dropped, it answers nothing more.
    async fn serve(self: Arc<Self>, line: Arc<Link>) {
        let mut answering = JoinSet::new();
        loop {
            while answering.try_join_next().is_some() {}
            let Ok(room) = self.rooms.clone().acquire_owned().await else { return };
            let (bytes, _) = match line.receive().await {
                Ok(Some(arrived)) => arrived,
                Ok(None) => return,
                Err(error) => return tracing::error!(%error, "the line to the enforcer is broken"),
            };
            let Some((number, request)) = unpack::<Request>(&bytes) else {
                return tracing::error!(
                    "the enforcer said something that is no question; nothing more is answered"
                );
            };
            let (keeper, line) = (self.clone(), line.clone());
            answering.spawn(async move {
                let (answer, descriptors) = keeper.answer(request).await;
                let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
                let sent = async { line.send(&Zeroizing::new(pack(number, &answer)?), &descriptors).await };
                let sent = tokio::time::timeout(ANSWER_TAKEN_WITHIN, sent).await;
                if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    tracing::debug!(%error, "an answer did not reach the enforcer");
                }
                drop(room);
            });
        }
    }

    async fn answer(&self, request: Request) -> (Answer, Vec<OwnedFd>) {
        let done = match request {
            Request::Resolve(facts) if facts.command.len() > COMMAND_BYTES_MAX => {
                Err(io::Error::other("no process has such a long name"))
            }
            Request::Resolve(facts) => {
                let processes = self.processes.clone();
                let found = tokio::task::spawn_blocking(move || processes.resolve(facts)).await;
                found.map(|workload| Answer::Workload(Box::new(workload))).map_err(io::Error::other)
            }
            Request::Socket(to, space) => {
                return given(self.socket(to, space).await.map(|socket| (Answer::Socket, vec![socket])));
            }
            Request::Space(serves) => return given(self.space(&serves).await),
            Request::IsOwn(space, address) => {
                let spaces = self.spaces.clone();
                let asked = tokio::task::spawn_blocking(move || spaces.is_own(space, address)).await;
                asked.map_err(io::Error::other).flatten().map(Answer::IsOwn)
            }
            Request::Record => {
                return given(self.recorder.line().await.map(|line| (Answer::Done, vec![line])));
            }
            Request::Release(claim) => self.releases.release(&claim).await.map(Answer::Released),
            Request::Listeners => return given(self.listeners()),
            Request::Door => self.open_door(),
            Request::Admin => {
                return given(self.admin.line().await.map(|line| (Answer::Done, vec![line])));
            }
            Request::Publish => self.publish().await,
            Request::Unrecorded(recorded) => Ok(Answer::Unrecorded(self.refusals.next(recorded))),
            Request::Counters => {
                let counters = self.gate.counters().map_err(io::Error::other);
                counters.map(|all| {
                    let all = all.into_iter().map(|(_, count)| count).collect();
                    Answer::Counters(all, self.spaces.counted())
                })
            }
            Request::Beat => {
                let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
                let heard = standing.as_ref().map_or(Ok(false), Standing::beat);
                if matches!(heard, Ok(true)) {
                    service::alive();
                }
                heard.map(Answer::Beat).map_err(io::Error::other)
            }
            Request::Ready => {
                self.say_open();
                Ok(Answer::Done)
            }
        };
        (done.unwrap_or_else(|error| Answer::refused(&error)), Vec::new())
    }

    /// Says so to the service manager, if the gate is: the enforcer's word for it is not enough.
    fn say_open(&self) {
        if self.standing.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            service::open();
        }
    }

    async fn socket(&self, to: std::net::SocketAddr, space: Option<u64>) -> io::Result<OwnedFd> {
        if !allowed::is_declared(&self.shelf.current(), to) {
            tracing::error!(%to, "the enforcer asked for a socket to a place that no policy file declares");
            return Err(io::Error::other(format!("no policy file declares {to}")));
        }
        let Some(space) = space else { return self.gate.socket_for(to) };
        let spaces = self.spaces.clone();
        tokio::task::spawn_blocking(move || spaces.socket(space, to)).await.map_err(io::Error::other)?
    }

    /// What changed of the other namespaces, or nothing for a while.
    async fn space(&self, serves: &[u64]) -> io::Result<(Answer, Vec<OwnedFd>)> {
        match tokio::time::timeout(SPACES_NEWS_TIMEOUT, self.spaces.next(serves)).await {
            Err(_) => Ok((Answer::Space(None), Vec::new())),
            Ok(Change::Went(set)) => Ok((Answer::Space(Some(News { set, came: None })), Vec::new())),
            Ok(Change::Came { set, space, listeners }) => {
                let (outbound, inbound) = counts(&listeners)?;
                let came = Some(Came { space, outbound, inbound });
                let answer = Answer::Space(Some(News { set, came }));
                Ok((answer, descriptors(listeners)))
            }
        }
    }

    fn listeners(&self) -> io::Result<(Answer, Vec<OwnedFd>)> {
        if self.standing.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(io::Error::other("the listeners are given out already"));
        }
        let (standing, listeners) = Standing::up(&self.gate, taken(&self.left).as_deref())?;
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
        let (outbound, inbound) = counts(&listeners)?;
        Ok((Answer::Listeners { outbound, inbound }, descriptors(listeners)))
    }

    fn open_door(&self) -> io::Result<Answer> {
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        if door.is_some() {
            return Err(io::Error::other("the admin socket is open already"));
        }
        *door = Some(tokio::spawn(self.admin.clone().receive(self.admin.open()?)));
        Ok(Answer::Done)
    }

    async fn publish(&self) -> io::Result<Answer> {
        let shelf = self.shelf.clone();
        tokio::task::spawn_blocking(move || shelf.reload()).await.map_err(io::Error::other)?;
        let set = self.shelf.current();
        match self.tables.lock().await.follow(&set).await {
            true => Ok(Answer::Published(set.digest())),
            false => Err(io::Error::other("the kernel's tables could not be brought up to date")),
        }
    }
}

fn counts(listeners: &Listeners) -> io::Result<(u8, u8)> {
    let count = |of: &[std::net::TcpListener]| u8::try_from(of.len()).map_err(io::Error::other);
    Ok((count(&listeners.outbound)?, count(&listeners.inbound)?))
}

fn descriptors(listeners: Listeners) -> Vec<OwnedFd> {
    listeners.outbound.into_iter().chain(listeners.inbound).map(OwnedFd::from).collect()
}

fn given(outcome: io::Result<(Answer, Vec<OwnedFd>)>) -> (Answer, Vec<OwnedFd>) {
    outcome.unwrap_or_else(|error| (Answer::refused(&error), Vec::new()))
}
