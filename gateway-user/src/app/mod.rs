//! Puts the parts together, in the order that never opens a window: policy, record, approvals, tables, listeners; and
//! takes them apart in the reverse order. Refuses to start on a policy or a record it cannot trust.

mod accept;
mod alarm;
mod channels;
mod coverage;
mod denials;
mod follow;
mod ledger;
mod older;
mod table;
mod weigh;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::accept::Door;
use self::channels::PolicyChannels;
use self::follow::Follower;
use self::ledger::RecordLedger;
use self::weigh::Weigher;
use crate::admin::{self, Admin, AdminError, Socket};
use crate::approval::{Clock, Desk, DeskError, Key, KeyError, Ledger, Parts, Spool, SpoolError};
use crate::block::Blocks;
use crate::config::Settings;
use crate::identity::process::Processes;
use crate::identity::token::Verifier;
use crate::intercept::Names;
use crate::judge::{Bench, Bodies, Draining, Plans};
use crate::kernel::{self, KernelError, Place};
use crate::limits::{CONNECTIONS_MAX, DRAIN_TIMEOUT};
use crate::mask;
use crate::notify::Post;
use crate::operation::Direction;
use crate::policy::{NoPolicy, Shelf};
use crate::record::entry::PolicyWeighed;
use crate::record::witness::Kind;
use crate::record::{Keys, RecordError, Recorder, Retention};
use crate::session::Gateway;
use crate::signals::Signals;
use crate::store::keyfile;
use crate::store::keyring::Keyring;
use crate::telemetry::Metrics;
use crate::upstream::Dialer;

pub use coverage::coverage;
pub use table::of as kernel_table;

/// Where the last good policy files are, below the state directory.
const LAST_GOOD: &str = "last-good";
/// How often blocks that have run out are forgotten. They refuse nothing meanwhile.
const BLOCKS_SWEPT_EVERY: Duration = Duration::from_secs(1);
/// How often demands that have run out are ended, with or without a flow that waits: until then their bodies can be read.
const DEMANDS_SWEPT_EVERY: Duration = Duration::from_secs(1);

/// What of the enforcer is decided when it starts, and only then.
#[derive(Debug, Default)]
pub struct Options {
    /// The kernel programs log what they do, into this log.
    pub kernel_log: bool,
    /// What of the record is kept.
    pub retention: Retention,
    /// Who keeps signed checkpoints outside the record.
    pub witnesses: Vec<Kind>,
}

/// Why the enforcer does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// There is no policy to enforce.
    #[error("no policy can be put in force, so the gate stays shut: {0}")]
    Policy(#[from] NoPolicy),
    /// The record cannot be opened.
    #[error("the record cannot be opened, so the gate stays shut: {0}")]
    Record(#[from] RecordError),
    /// The approvals cannot be read.
    #[error("the approvals cannot be read: {0}")]
    Approvals(#[from] DeskError),
    /// The keys of what is encrypted at rest cannot be used.
    #[error(transparent)]
    Keys(#[from] keyfile::KeyError),
    /// The spool of held operations cannot be used.
    #[error("{0}")]
    Spool(#[from] SpoolError),
    /// The approval key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The kernel programs cannot be loaded or adopted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The admin socket or the metrics port cannot be had.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Something else the gate stands on is missing.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl AppError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

/// Where the programs are attached by these settings.
#[must_use]
pub fn place(settings: &Settings) -> Place {
    Place {
        pins: settings.pins.clone(),
        cgroup: settings.cgroup.clone(),
        netns: settings.netns.clone(),
        port: settings.port,
        only_netns: settings.only_netns,
    }
}

/// Opens the policy of these settings, or the last good one.
///
/// # Errors
/// When neither can be put in force.
pub fn open_policy(settings: &Settings) -> Result<Shelf, AppError> {
    Ok(Shelf::open(&settings.policies, &settings.state.join(LAST_GOOD))?)
}

/// Runs the enforcer until it is told to stop.
///
/// # Errors
/// See [`AppError`]; the kernel programs stay as they are, so the gate is shut.
pub async fn run(settings: Settings, options: Options) -> Result<(), AppError> {
    let kernel_log = options.kernel_log;
    raise_descriptor_limit();
    make_state_directory(&settings.state)?;
    let shelf = open_policy(&settings)?;
    let (signals, surges) = Signals::new(jiff::Timestamp::now().as_microsecond());
    let (recorder, sealing) = open_record(&settings, options, signals.clone())?;
    let blocks = Blocks::open(recorder.clone())?;
    let key = Key::open(&settings.state)?;
    let hash_key = mask::HashKey::below(&settings.state)
        .map_err(AppError::io("cannot open mask-hash.key in the state directory"))?;
    let set = shelf.current();
    let logging = kernel::Options { log: kernel_log, ..kernel::Options::default() };
    let cgroups = kernel::cgroup2_root()?;
    let (table, _) =
        table::of(&set, &cgroups).map_err(AppError::io("cannot search the cgroups of guards"))?;
    kernel::load_with(&place(&settings), &table, &logging)?;
    let gate = Arc::new(kernel::Gate::adopt(&settings.pins)?);
    let metrics = Metrics::new();
    let marking = gate.clone();
    let exempt = kernel::Exempt::new(move |socket| marking.exempt(socket));
    let (desk, post) = open_desk(&settings, &recorder, sealing, (&shelf, &exempt))?;
    let bench = Arc::new(Bench {
        shelf: shelf.clone(),
        recorder: recorder.clone(),
        desk,
        post: post.clone(),
        bodies: Bodies::default(),
        blocks: blocks.clone(),
        tokens: ArcSwap::from_pointee((set.digest(), Verifier::new(set.providers(), exempt.clone()))),
        names: Names::default(),
        key,
        plans: Plans::hashing(hash_key),
        metrics,
        draining: Draining::default(),
    });
    let (flows, cut) = (TaskTracker::new(), CancellationToken::new());
    let dialer = Dialer::new(exempt, flows.clone());
    let gateway = Arc::new(Gateway { bench: bench.clone(), dialer });
    let weighed = Arc::new(ArcSwapOption::empty());
    let weigher = Weigher::new(recorder.clone(), weighed.clone());
    let mut follower = Follower::new(bench.clone(), gate.clone(), cgroups.clone(), weigher.clone());
    follower.started();

    let mut work = JoinSet::new();
    let door = Door::new(gateway.clone(), Processes::new(&cgroups), flows.clone(), cut.clone());
    open_doors(&gate, &door, &mut work)?;
    shelf.watch().map_err(AppError::io("cannot follow the policy directory"))?;
    work.spawn(follower.follow());
    work.spawn(post.work());
    work.spawn(sweep(blocks));
    work.spawn(end_demands(bench.desk.clone()));
    work.spawn(weigher.weigh());
    work.spawn(alarm::tell(recorder.clone(), surges));
    let told = if kernel_log { Some(kernel::KernelLog::open(&settings.pins)?) } else { None };
    work.spawn(denials::log(gate.denials()?, told));
    open_admin(&settings, &bench, &gate, (signals, weighed), &mut work).await?;
    // Says so to systemd where there is one.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(policy = %set.digest(), "the gate is open");

    let outcome = until_told(&shelf, &mut work).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    bench.draining.begin();
    work.shutdown().await;
    drain(flows, &cut).await;
    drop((gateway, gate));
    recorder.close();
    tracing::info!("the gate is shut");
    outcome
}

/// Opens the record, which shows what it takes to the signals; gives the keys that held bodies are sealed with, too.
fn open_record(
    settings: &Settings,
    options: Options,
    observing: Signals,
) -> Result<(Recorder, Keyring), AppError> {
    let keys = Keys::open(&settings.state, &keyfile::Place::of(settings)).map_err(RecordError::from)?;
    let sealing = keys.bodies.clone();
    let recorder = Recorder::open_with(&settings.state, keys, options.retention, options.witnesses)?
        .observed(move |event| observing.saw(event));
    Ok((recorder, sealing))
}

/// Opens the desk where held operations wait, and the outbox that tells people of them.
fn open_desk(
    settings: &Settings,
    recorder: &Recorder,
    sealing: Keyring,
    (shelf, exempt): (&Shelf, &kernel::Exempt),
) -> Result<(Desk, Post), AppError> {
    let ledger: Arc<dyn Ledger> = Arc::new(RecordLedger(recorder.clone()));
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    let channels = Box::new(PolicyChannels { shelf: shelf.clone(), exempt: exempt.clone() });
    let post = Post::open(ledger.clone(), clock.clone(), channels).map_err(DeskError::from)?;
    let spool = Spool::open(&settings.state, sealing)?;
    let desk = Desk::open(Parts { ledger, clock, spool, listener: Arc::new(post.clone()) })?;
    Ok((desk, post))
}

/// Forgets blocks as they run out, until the task is dropped.
async fn sweep(blocks: Blocks) {
    loop {
        tokio::time::sleep(BLOCKS_SWEPT_EVERY).await;
        blocks.sweep().await;
    }
}

/// Ends demands, grants and windows as they run out, until the task is dropped.
async fn end_demands(desk: Desk) {
    loop {
        tokio::time::sleep(DEMANDS_SWEPT_EVERY).await;
        desk.sweep().await;
    }
}

/// Every connection takes two descriptors, its own and the upstream's; what the shell allows is far less.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    let wanted = 2 * CONNECTIONS_MAX as u64;
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        tracing::warn!(
            maximum = limit.maximum,
            wanted,
            "fewer open files are allowed than the gate may need"
        );
    }
}

fn make_state_directory(state: &Path) -> Result<(), AppError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
    made.map_err(AppError::io(format!("cannot make the state directory {}", state.display())))
}

fn open_doors(gate: &kernel::Gate, door: &Door, work: &mut JoinSet<()>) -> Result<(), AppError> {
    let listeners = gate.listen()?;
    let both = [(listeners.outbound, Direction::Outbound), (listeners.inbound, Direction::Inbound)];
    for (listeners, direction) in both {
        for listener in listeners {
            let listener =
                TcpListener::from_std(listener).map_err(AppError::io("cannot wait on a listener"))?;
            work.spawn(door.clone().accept(listener, direction));
        }
    }
    Ok(())
}

/// Opens the operator's door, and the metrics port where one is wanted.
async fn open_admin(
    settings: &Settings,
    bench: &Arc<Bench>,
    gate: &Arc<kernel::Gate>,
    (signals, weighed): (Signals, Arc<ArcSwapOption<PolicyWeighed>>),
    work: &mut JoinSet<()>,
) -> Result<(), AppError> {
    let (shelf, counting) = (bench.shelf.clone(), gate.clone());
    let (covering, covered) = (bench.shelf.clone(), gate.clone());
    let admin = Arc::new(Admin {
        desk: bench.desk.clone(),
        post: bench.post.clone(),
        blocks: bench.blocks.clone(),
        weighed,
        shelf: bench.shelf.clone(),
        electorate: Box::new(move || shelf.current()),
        recorder: bench.recorder.clone(),
        metrics: bench.metrics.clone(),
        state: settings.state.clone(),
        kernel: Arc::new(move || counting.counters().unwrap_or_default()),
        coverage: Box::new(move || coverage::asked(covered.pins(), &covering.current())),
        scrub: mask::scrub,
        signals,
        started: Instant::now(),
    });
    admin.register();
    work.spawn(Socket::bind(&settings.admin_socket)?.serve(admin));
    if let Some(port) = settings.metrics_port {
        work.spawn(admin::serve_metrics(port, bench.metrics.clone()).await?);
    }
    Ok(())
}

/// Waits for SIGTERM or SIGINT; SIGHUP reads the policy again. A part that ends by itself ends the gate.
async fn until_told(shelf: &Shelf, work: &mut JoinSet<()>) -> Result<(), AppError> {
    let listen = |kind| signal(kind).map_err(AppError::io("cannot listen for signals"));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hangup.recv() => {
                let shelf = shelf.clone();
                drop(tokio::task::spawn_blocking(move || shelf.reload()).await);
            }
            ended = work.join_next() => {
                let why = ended.map_or_else(String::new, |ended| ended.err().map(|e| e.to_string()).unwrap_or_default());
                let source = io::Error::other(why);
                return Err(AppError::Io { what: "a part of the gate ended by itself".into(), source });
            }
        }
    }
}

/// Gives flows time to end by themselves; what still runs then is cut off, and recorded as such.
async fn drain(flows: TaskTracker, cut: &CancellationToken) {
    flows.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, flows.wait()).await.is_err() {
        tracing::warn!(flows = flows.len(), "flows still run; they are cut off");
        cut.cancel();
        flows.wait().await;
    }
}
