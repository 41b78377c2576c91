//! `tidegate run`: the enforcer, in the foreground.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::runtime::Builder;

use super::{Context, Failure};
use crate::keeper::{Beside, User};
use crate::kernel;
use crate::limits::{LANES_MAX, WITNESSES_MAX};
use crate::record::witness::Kind;
use crate::record::{Marks, Retention, Spare};
use crate::{app, telemetry};

/// Load the programs if need be, and enforce in the foreground until SIGTERM or Ctrl-C. SIGHUP reads the policy again.
///
/// When it ends, however it ends, the programs stay loaded and the gate is shut: `tidegate unload` takes them away.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo tidegate run\n  sudo tidegate run --policies ./policies/demo --state /tmp/tidegate --metrics-port 9464\n  sudo tidegate run --keep-bodies 90d --keep-bodies-of payments=7d --keep-heads 400d --witness file:/var/log/tidegate.witness\n  sudo tidegate run --user tidegate"
)]
pub(super) struct Args {
    /// Have the kernel programs log what they do, into this log. Costs time on every connect.
    #[arg(long)]
    kernel_log: bool,
    /// Remove recorded bodies that are older, leaving a signed tombstone: 90d, 12h, 30m, 45s [default: keep].
    #[arg(long, env = "TIDEGATE_KEEP_BODIES", value_name = "AGE", value_parser = age)]
    keep_bodies: Option<Duration>,
    /// Remove recorded bodies of one target that are older: payments=7d. May be repeated.
    #[arg(long, value_name = "TARGET=AGE", value_parser = target_age)]
    keep_bodies_of: Vec<(String, Duration)>,
    /// Remove everything recorded that is older, leaving a signed tombstone [default: keep].
    #[arg(long, env = "TIDEGATE_KEEP_HEADS", value_name = "AGE", value_parser = age)]
    keep_heads: Option<Duration>,
    /// Remove the oldest of the record where it has more bytes: segments of bodies or commits, whichever take more
    /// [default: no bound]. The index comes on top.
    #[arg(long, env = "TIDEGATE_RECORD_MAX_BYTES", value_name = "BYTES")]
    record_max_bytes: Option<u64>,
    /// Free space of the record's file system, in parts of a thousand, below which the gate warns, sheds the oldest of the
    /// record, and lets nothing new begin.
    #[arg(long, env = "TIDEGATE_RECORD_MARKS", value_name = "WARN,SHED,REFUSE", value_parser = marks,
          default_value = "150,80,20")]
    record_marks: Marks,
    /// Never shed for want of space what is younger: who fills the disk must not erase what he did.
    #[arg(long, env = "TIDEGATE_RECORD_SPARE", value_name = "AGE", value_parser = age, default_value = "1d")]
    record_spare: Duration,
    /// Show each signed checkpoint of the record to file:/PATH, journald, or command:/PROGRAM ARGUMENTS. May be repeated.
    #[arg(long, value_name = "WITNESS")]
    witness: Vec<Kind>,
    /// Run the enforcer, which reads what comes over the network, as this user without any privilege. This process, the
    /// keeper, stays what it is, and gives the enforcer what it needs, one thing at a time.
    #[arg(long, env = "TIDEGATE_USER", value_name = "NAME")]
    user: Option<String>,
    /// With --user: run the recorder, which alone writes the record and has its keys, as this user [default: NAME-record].
    #[arg(long, env = "TIDEGATE_RECORD_USER", value_name = "NAME", requires = "user")]
    record_user: Option<String>,
    /// With --user: run admin, which speaks with operators and has no more of the gate than they do, as this user [default:
    /// NAME-admin].
    #[arg(long, env = "TIDEGATE_ADMIN_USER", value_name = "NAME", requires = "user")]
    admin_user: Option<String>,
    /// This is that enforcer: standard input is its line to the keeper.
    #[arg(long, hide = true, requires = "user")]
    kept: bool,
    /// This is that recorder, likewise.
    #[arg(long, hide = true, requires = "user", conflicts_with = "kept")]
    recording: bool,
    /// This is that admin, likewise.
    #[arg(long, hide = true, requires = "user", conflicts_with_all = ["kept", "recording"])]
    admitting: bool,
    /// What an upgrade hands over.
    #[arg(long, hide = true)]
    listeners: Option<String>,
}

/// A time with its unit.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no age: write 90d, 12h, 30m or 45s");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

fn target_age(text: &str) -> Result<(String, Duration), String> {
    let (target, kept) = text.split_once('=').ok_or_else(|| format!("{text:?} is not TARGET=AGE"))?;
    Ok((target.to_owned(), age(kept)?))
}

fn marks(text: &str) -> Result<Marks, String> {
    let parts: Vec<u64> = text.split(',').map_while(|part| part.trim().parse().ok()).collect();
    match parts[..] {
        [warn, shed, refuse] if warn <= 1000 && warn >= shed && shed >= refuse => {
            Ok(Marks { warn, shed, refuse })
        }
        _ => Err(format!("{text:?} is not three falling parts of a thousand, as 150,80,20")),
    }
}

impl Args {
    fn options(self) -> Result<app::Options, Failure> {
        if self.keep_bodies_of.len() > LANES_MAX || self.witness.len() > WITNESSES_MAX {
            return Err(Failure::cannot(format!(
                "at most {LANES_MAX} targets have an age of their own, and {WITNESSES_MAX} witnesses are shown checkpoints"
            )));
        }
        let commands = |kind: &Kind| matches!(kind, Kind::Command(_));
        if self.user.is_some() && self.witness.iter().any(commands) {
            return Err(Failure::cannot(
                "with --user the recorder may start no program: have the witness in a file or in the journal",
            ));
        }
        Ok(app::Options {
            kernel_log: self.kernel_log,
            retention: Retention {
                bodies: self.keep_bodies,
                heads: self.keep_heads,
                targets: self.keep_bodies_of.into_iter().collect(),
                max_bytes: self.record_max_bytes,
                marks: self.record_marks,
                spare: Spare(self.record_spare),
            },
            witnesses: self.witness,
            listeners: self.listeners,
        })
    }
}

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    telemetry::log(context.settings.log.as_deref()).map_err(|error| Failure::cannot(error.to_string()))?;
    let program = super::upgrade::Program::of_this_process();
    args.listeners.iter().for_each(|words| kernel::keep_to_this_process(words));
    let left = args.listeners.is_some() && !args.kept && !args.recording && !args.admitting;
    let outcome = work(args, context);
    if left && outcome.is_err() {
        // The program before this one left the gate standing for it: nobody will serve it now.
        drop(kernel::Gate::adopt(&context.settings.pins).and_then(|gate| gate.heartbeat()));
    }
    match outcome? {
        app::Ended::Stopped => Ok(()),
        app::Ended::Upgrade(listeners) => program.go_on(listeners),
    }
}

/// Does this process's part of the gate until it ends.
fn work(args: Args, context: &Context) -> Result<app::Ended, Failure> {
    let (user, others) = (args.user.clone(), (args.record_user.clone(), args.admin_user.clone()));
    let (kept, recording, admitting) = (args.kept, args.recording, args.admitting);
    let settings = context.settings.clone();
    let options = args.options()?;
    let outcome = match user {
        None => on(Builder::new_multi_thread(), app::run(settings, options))?,
        Some(_) if kept => {
            let line = confined(&app::reach(&settings))?;
            on(Builder::new_multi_thread(), app::enforce_kept(settings, line))?
        }
        Some(_) if recording => {
            let line = confined(&app::reach_of_recorder(&settings, &options))?;
            on(Builder::new_current_thread(), app::record_kept(settings, options, line))?
        }
        Some(_) if admitting => {
            let line = confined(&app::reach_of_admin())?;
            on(Builder::new_current_thread(), app::admit_kept(line))?
        }
        Some(user) => {
            let users = users(&user, others.0.as_deref(), others.1.as_deref())?;
            let arguments = super::upgrade::arguments().collect();
            on(Builder::new_current_thread(), app::keep(settings, options, users, arguments))?
        }
    };
    outcome.map_err(|error| Failure::cannot(error.to_string()))
}

/// Runs this on a runtime of its own. Flows that outlived the drain end with it, and close their entries.
fn on<T>(mut runtime: Builder, what: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Failure::cannot(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(what);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(outcome)
}

/// Whom enforcer, recorder and admin run as.
pub(super) fn users(
    enforcer: &str,
    recorder: Option<&str>,
    admin: Option<&str>,
) -> Result<(User, User, User), Failure> {
    let parsed = enforcer.parse::<User>().map_err(|error| Failure::cannot(format!("--user: {error}")))?;
    let other = |named: Option<&str>, which, option| {
        let user = named.map_or_else(|| User::beside(enforcer, which), str::parse);
        user.map_err(|error| Failure::cannot(format!("{option}: {error}")))
    };
    let recorder = other(recorder, Beside::Recorder, "--record-user")?;
    let admin = other(admin, Beside::Admin, "--admin-user")?;
    if parsed.uid == recorder.uid || parsed.uid == admin.uid || recorder.uid == admin.uid {
        return Err(Failure::cannot(
            "--user, --record-user and --admin-user: each is to be somebody else: there would be nothing to gain",
        ));
    }
    Ok((parsed, recorder, admin))
}

/// Gives up what this process does not need, while there is one thread. Gives its line to the keeper.
fn confined(reach: &kernel::Reach) -> Result<OwnedFd, Failure> {
    let cannot = |error: std::io::Error| Failure::cannot(format!("this process cannot be confined: {error}"));
    let line = std::io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
    // Who made the line, as the kernel noted then.
    let keeper = rustix::net::sockopt::socket_peercred(&line).map_err(|error| cannot(error.into()))?.pid;
    let confined = kernel::confine(reach, keeper).map_err(cannot)?;
    if !confined.landlock {
        tracing::warn!(
            "this kernel has no Landlock: file permissions alone keep this process from the host's files"
        );
    }
    Ok(line)
}
