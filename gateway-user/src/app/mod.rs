//! Puts the parts together, in the order that never opens a window: policy, record, approvals, tables, listeners; and
//! takes them apart in the reverse order. Refuses to start on a policy or a record it cannot trust.

mod accept;
mod admitting;
mod alarm;
mod channels;
mod coverage;
mod ending;
mod follow;
mod hold;
mod kept;
mod ledger;
mod recording;
mod refusing;
mod spaces;
mod weigh;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::accept::Door;
use self::channels::PolicyChannels;
use self::ending::{Signs, Told, drain};
use self::follow::Follower;
use self::hold::Hold;
use self::ledger::RecordLedger;
use self::refusing::Refusing;
use self::weigh::Weigher;
use crate::admin::{self, Admin, AdminError, Socket};
use crate::approval::{Clock, Desk, DeskError, Key, KeyError, Ledger, Parts, Spool, SpoolError};
use crate::block::Blocks;
use crate::config::Settings;
use crate::credential::Vault;
use crate::identity::token::Verifier;
use crate::intercept::Names;
use crate::judge::{Bench, Bodies, Draining, Plans};
use crate::keeper::{
    self, Keeper, KeeperError, Refusals, Releases, Spaces, Tables, User, denials, helpers, table,
};
use crate::kernel::{self, GuardRow, KernelError, Listeners, Place};
use crate::limits::{CONNECTIONS_MAX, HEARTBEAT_EVERY};
use crate::mask;
use crate::notify::Post;
use crate::operation::Direction;
use crate::policy::{NoPolicy, Shelf};
use crate::record::entry::PolicyWeighed;
use crate::record::witness::Kind;
use crate::record::{Keys, RecordError, Recorder, Retention};
use crate::service;
use crate::session::Gateway;
use crate::signals::{Signals, Surge};
use crate::store::keyfile;
use crate::store::keyring::Keyring;
use crate::tally::Tally;
use crate::telemetry::Metrics;
use crate::upstream::Dialer;

pub use crate::keeper::table::of as kernel_table;
pub use admitting::{admit_kept, reach_of_admin};
pub use coverage::{Fault, coverage};
pub use kept::{enforce_kept, reach};
pub use recording::{reach_of_recorder, record_kept};

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
    /// The words by which listeners are found that the program before this one left.
    pub listeners: Option<String>,
}

/// How the gate ended, where it did as it was told.
#[derive(Debug)]
pub enum Ended {
    /// It is shut.
    Stopped,
    /// Another program is to go on. Connections wait in the queues of these meanwhile.
    Upgrade(Listeners),
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
    /// The keeper cannot go on.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
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
        uplinks: settings.uplinks.clone(),
        sealed: [&settings.policies]
            .into_iter()
            .cloned()
            .chain(socket_directory(&settings.admin_socket))
            .collect(),
        secret: [&settings.state]
            .into_iter()
            .chain(&settings.record_key)
            .chain(&settings.vault_key)
            .cloned()
            .collect(),
    }
}

/// The directory of the admin socket, where it is there for that.
fn socket_directory(socket: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let directory = socket.parent()?;
    let open_to_others = std::fs::metadata(directory).ok()?.permissions().mode() & 0o022 != 0;
    // `/run` and its like are everybody's.
    (!open_to_others && directory.components().count() > 2).then(|| directory.to_owned())
}

/// Opens the policy of these settings, or the last good one.
///
/// # Errors
/// When neither can be put in force.
pub fn open_policy(settings: &Settings) -> Result<Shelf, AppError> {
    Ok(Shelf::open(&settings.policies, &settings.state.join(LAST_GOOD))?)
}

/// Runs the gate in one process until it is told to stop.
///
/// # Errors
/// See [`AppError`]; the kernel programs stay as they are, so the gate is shut.
pub async fn run(settings: Settings, options: Options) -> Result<Ended, AppError> {
    raise_descriptor_limit();
    make_state_directory(&settings.state)?;
    let shelf = open_policy(&settings)?;
    let (sealing, recorder) = open_record(&settings, &options)?;
    let (gate, cgroups, unrefused) = load(&settings, &options, &shelf, None)?;
    let mut work = JoinSet::new();
    let told = options.kernel_log.then(|| kernel::KernelLog::open(&settings.pins)).transpose()?;
    let gate = Arc::new(gate);
    let spaces = Arc::new(Spaces::new(gate.clone()));
    let refusals = Arc::new(Refusals::new(gate.clone(), shelf.clone(), &cgroups));
    work.spawn(tell_denials(gate.denials()?, told, (spaces.clone(), refusals.clone())));
    work.spawn(spaces.clone().watch());
    work.spawn(watch_helpers((&spaces, &refusals), &cgroups, unrefused));
    let releases = Releases::own(Vault::of(&settings), shelf.clone(), recorder.clone());
    let door = Operators::Own(Socket::bind(&settings.admin_socket)?);
    enforce(
        &settings,
        (shelf, Opened::of(recorder, sealing)),
        Hold::own((gate, spaces, refusals), releases, cgroups, place(&settings), options.listeners),
        door,
        (work, Signs::listen()?),
    )
    .await
}

/// Tells what the kernel refuses, until the task is dropped.
async fn tell_denials(
    denials: kernel::Denials,
    programs: Option<kernel::KernelLog>,
    (spaces, refusals): (Arc<Spaces>, Arc<Refusals>),
) {
    if let Err(error) = denials::tell(denials, programs, spaces, refusals).await {
        tracing::error!(%error, "what the kernel refuses is counted, and no longer logged or recorded");
        // The end of a part is the end of the whole.
        std::future::pending().await
    }
}

/// Tells to which helpers outside of their guard guarded processes are connected, until the task is dropped.
fn watch_helpers(
    (spaces, refusals): (&Arc<Spaces>, &Arc<Refusals>),
    cgroups: &Path,
    unrefused: Option<String>,
) -> impl Future<Output = ()> + Send + use<> {
    helpers::watch(spaces.clone(), refusals.clone(), cgroups.to_owned(), unrefused)
}

/// Runs the keeper, and through it enforcer, recorder and admin as other users, until it is told to stop.
///
/// # Errors
/// As [`run`].
pub async fn keep(
    settings: Settings,
    options: Options,
    (user, recorder, admin): (User, User, User),
    arguments: Vec<OsString>,
) -> Result<Ended, AppError> {
    raise_descriptor_limit();
    let shelf = open_policy(&settings)?;
    let own_guard = keeper::guard_over(user);
    let (gate, cgroups, unrefused) = load(&settings, &options, &shelf, Some(&own_guard))?;
    let gate = Arc::new(gate);
    let told = options.kernel_log.then(|| kernel::KernelLog::open(&settings.pins)).transpose()?;
    let spaces = Arc::new(Spaces::new(gate.clone()));
    let refusals = Arc::new(Refusals::new(gate.clone(), shelf.clone(), &cgroups));
    let telling = tokio::spawn(tell_denials(gate.denials()?, told, (spaces.clone(), refusals.clone())));
    let watching = tokio::spawn(watch_helpers((&spaces, &refusals), &cgroups, unrefused));
    let kernel = (gate.clone(), spaces.clone(), refusals.clone());
    let keeper = Keeper::new(keeper::Parts {
        tables: Tables::new(kernel, (cgroups.clone(), place(&settings)), Some(user)),
        spaces,
        refusals,
        shelf,
        gate,
        cgroups,
        user,
        recorder,
        admin,
        vault: Vault::of(&settings),
        state: settings.state,
        admin_socket: settings.admin_socket,
        arguments,
        listeners: options.listeners,
    });
    let outcome = keeper.run().await;
    watching.abort();
    telling.abort();
    Ok(outcome?.map_or(Ended::Stopped, Ended::Upgrade))
}

/// Loads the programs with the tables of this policy, or adopts them. Gives the cgroup v2 root, too, and why this kernel runs no
/// LSM programs, where it does not.
fn load(
    settings: &Settings,
    options: &Options,
    shelf: &Shelf,
    own_guard: Option<&GuardRow>,
) -> Result<(kernel::Gate, PathBuf, Option<String>), AppError> {
    let logging = kernel::Options { log: options.kernel_log, ..kernel::Options::default() };
    let cgroups = kernel::cgroup2_root()?;
    let (mut table, _) =
        table::of(&shelf.current(), &cgroups).map_err(AppError::io("cannot search the cgroups of guards"))?;
    table.guards.extend(own_guard.cloned());
    let report = kernel::load_with(&place(settings), &table, &logging)?;
    Ok((kernel::Gate::adopt(&settings.pins)?, cgroups, report.no_lsm))
}

/// Files are replaced by renaming: it takes their directory to follow them.
fn parent(file: &Path) -> Option<PathBuf> {
    file.parent().map(Path::to_owned)
}

/// Enforces, with what was opened: the policy, the record, the hold on the kernel, the operators' door.
async fn enforce(
    settings: &Settings,
    (shelf, record): (Shelf, Opened),
    hold: Hold,
    door: Operators,
    (mut work, mut signs): (JoinSet<()>, Signs),
) -> Result<Ended, AppError> {
    let Opened { recorder, sealing, signals, surges } = record;
    let blocks = Blocks::open(recorder.clone())?;
    let key = Key::open(&settings.state)?;
    let hash_key = mask::HashKey::below(&settings.state)
        .map_err(AppError::io("cannot open mask-hash.key in the state directory"))?;
    let set = shelf.current();
    let metrics = Metrics::new();
    let exempt = hold.exempt();
    let (desk, post) = open_desk(settings, &recorder, sealing, (&shelf, &exempt))?;
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
        releases: hold.releases(),
        metrics,
        draining: Draining::default(),
    });
    let (flows, cut, tally) = (TaskTracker::new(), CancellationToken::new(), Tally::default());
    let dialer = Dialer::new(exempt, flows.clone());
    let gateway = Arc::new(Gateway { bench: bench.clone(), dialer });
    let weighed = Arc::new(ArcSwapOption::empty());
    let weigher = Weigher::new(recorder.clone(), weighed.clone());
    let mut follower = Follower::new(bench.clone(), hold.follow(), weigher.clone());
    follower.started();

    let accepting = Door::new(gateway.clone(), (hold.clone(), tally.clone()), flows.clone(), cut.clone());
    open_doors(&hold, &accepting, &mut work).await?;
    work.spawn(beat(hold.clone()));
    shelf.watch().map_err(AppError::io("cannot follow the policy directory"))?;
    work.spawn(follower.follow());
    let refusing = Refusing::start(hold.clone(), recorder.clone());
    work.spawn(post.work());
    work.spawn(sweep(blocks));
    work.spawn(end_demands(bench.desk.clone()));
    work.spawn(weigher.weigh());
    work.spawn(alarm::tell(recorder.clone(), surges));
    open_admin(settings, (&bench, tally), (door, &hold), (signals, weighed), &mut work).await?;
    say_ready(&hold).await?;
    tracing::info!(policy = %set.digest(), "the gate is open");

    let outcome = signs.until_told(&shelf, &mut work).await;
    bench.draining.begin();
    let left = match outcome {
        Ok(Told::Upgrade) => hold.leave(),
        _ => {
            hold.shut();
            None
        }
    };
    work.shutdown().await;
    drain(flows, &cut).await;
    refusing.end().await;
    recorder.close();
    outcome?;
    if let Some(listeners) = left
        && !signs.is_to_stop()
    {
        tracing::info!("another program goes on; connections wait for it");
        return Ok(Ended::Upgrade(listeners));
    }
    tracing::info!("the gate is shut");
    Ok(Ended::Stopped)
}

/// How operators come in.
enum Operators {
    /// By a socket of this process.
    Own(Socket),
    /// By way of admin, to which the keeper gives lines.
    Kept(keeper::Client),
}

/// Says so to systemd where there is one, or to the keeper, who does.
async fn say_ready(hold: &Hold) -> Result<(), AppError> {
    match hold {
        Hold::Own { .. } => {
            service::open();
            Ok(())
        }
        Hold::Kept(keeper) => keeper.ready().await.map_err(AppError::io("the keeper")),
    }
}

/// The record, and who looks at what goes into it.
struct Opened {
    recorder: Recorder,
    /// What held bodies are sealed with.
    sealing: Keyring,
    signals: Signals,
    surges: mpsc::Receiver<Surge>,
}

impl Opened {
    /// Shows what the record takes to the signals.
    fn of(recorder: Recorder, sealing: Keyring) -> Self {
        let (signals, surges) = Signals::new(jiff::Timestamp::now().as_microsecond());
        let observing = signals.clone();
        let recorder = recorder.observed(move |event| observing.saw(event));
        Self { recorder, sealing, signals, surges }
    }
}

/// Opens the record, with its keys: those that bodies are sealed with come beside it.
fn open_record(settings: &Settings, options: &Options) -> Result<(Keyring, Recorder), RecordError> {
    let keys = Keys::open(&settings.state, &keyfile::Place::of(settings))?;
    let sealing = keys.bodies.clone();
    let (retention, witnesses) = (options.retention.clone(), options.witnesses.clone());
    Ok((sealing, Recorder::open_with(&settings.state, keys, retention, witnesses)?))
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

/// Tells the kernel that this runtime, which accepts the flows, still runs its tasks; a hung one must not look alive.
async fn beat(hold: Hold) {
    let mut succeeded = false;
    loop {
        match hold.beat().await {
            Ok(true) => {}
            Ok(false) if succeeded => {}
            Ok(false) => {
                succeeded = true;
                tracing::info!("another enforcer has taken over");
            }
            Err(error) => tracing::error!(%error, "the kernel does not hear that the gate lives"),
        }
        tokio::time::sleep(HEARTBEAT_EVERY).await;
    }
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

async fn open_doors(hold: &Hold, door: &Door, work: &mut JoinSet<()>) -> Result<(), AppError> {
    let listeners = hold.listeners().await.map_err(AppError::io("cannot listen"))?;
    let both = [(listeners.outbound, Direction::Outbound), (listeners.inbound, Direction::Inbound)];
    for (listeners, direction) in both {
        for listener in listeners {
            let listener =
                TcpListener::from_std(listener).map_err(AppError::io("cannot wait on a listener"))?;
            work.spawn(door.clone().accept(listener, direction));
        }
    }
    work.spawn(spaces::serve(hold.clone(), door.clone()));
    Ok(())
}

/// Opens the operator's door, and the metrics port where one is wanted.
async fn open_admin(
    settings: &Settings,
    (bench, tally): (&Arc<Bench>, Tally),
    (door, hold): (Operators, &Hold),
    (signals, weighed): (Signals, Arc<ArcSwapOption<PolicyWeighed>>),
    work: &mut JoinSet<()>,
) -> Result<(), AppError> {
    let (shelf, counting) = (bench.shelf.clone(), hold.clone());
    let looked = hold.clone();
    let (covering, covered, counting_flows) = (bench.shelf.clone(), hold.clone(), tally.clone());
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
        kernel: Arc::new(move || counting.counters()),
        spaces: Arc::new(move || (looked.spaces().served, looked.spaces().refused)),
        coverage: Box::new(move || covered.coverage(&covering.current(), &counting_flows)),
        tally,
        scrub: mask::scrub,
        signals,
        started: Instant::now(),
    });
    admin.register();
    match door {
        Operators::Own(door) => work.spawn(door.serve(admin)),
        Operators::Kept(keeper) => work.spawn(kept::answer_admin(keeper, admin)),
    };
    if let Some(port) = settings.metrics_port {
        work.spawn(admin::serve_metrics(port, bench.metrics.clone()).await?);
    }
    Ok(())
}
