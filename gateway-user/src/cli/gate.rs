//! `tidegate load`, `unload`, `status` and `doctor`: the kernel side, and how everything is.

use serde::Serialize;

use super::output::{Tone, escape, escape_line, paint};
use super::{Context, Failure};
use crate::admin::client::{Client, ClientError};
use crate::admin::view;
use crate::app;
use crate::kernel::{self, Found, KernelError, Options, SpaceStatus, Status, UnloadReport};
use crate::policy::files::Files;
use crate::policy::{Notice, without_cases};
use crate::record::Pressure;

const LOAD_EXAMPLES: &str = "Examples:
  sudo tidegate load
  sudo tidegate load --policies ./policies/demo --cgroup /sys/fs/cgroup/agent.slice";
const STATUS_EXAMPLES: &str = "Examples:
  sudo tidegate status
  sudo tidegate status --json";

/// What loads, unloads and shows the kernel side.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Load and pin the kernel programs with the policy's targets and guards: the gate is shut until the enforcer runs.
    #[command(after_help = LOAD_EXAMPLES)]
    Load {
        /// Have the programs log what they do (readable while the enforcer runs). Costs time on every connect.
        #[arg(long)]
        kernel_log: bool,
    },
    /// Remove everything that `load` pinned: nothing is protected any more.
    ///
    /// Where nothing is loaded, that is said and is no failure.
    #[command(after_help = "Examples:\n  sudo tidegate unload")]
    Unload,
    /// Show programs, links, map fill, counters and the enforcer's health.
    #[command(after_help = STATUS_EXAMPLES)]
    Status,
    /// Say what this kernel supports and which protection is reduced.
    #[command(after_help = "Examples:\n  tidegate doctor\n  tidegate doctor --json")]
    Doctor,
}

/// Runs the command.
pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Load { kernel_log } => load(kernel_log, context),
        Command::Unload => unload(context),
        Command::Status => status(context),
        Command::Doctor => doctor(context),
    }
}

fn load(log: bool, context: &Context) -> Result<(), Failure> {
    let shelf = app::open_policy(&context.settings).map_err(|error| Failure::from_error(&error))?;
    let root = kernel::cgroup2_root().map_err(|error| Failure::from_error(&error))?;
    let (table, missing) = app::kernel_table(&shelf.current(), &root)
        .map_err(|error| Failure::cannot(format!("cannot search the cgroups of guards: {error}")))?;
    let options = Options { log, ..Options::default() };
    let report = kernel::load_with(&app::place(&context.settings), &table, &options)
        .map_err(|error| Failure::from_error(&error))?;
    if context.out.is_json() {
        return context.out.json(&report);
    }
    let (made, updated, rows) = (report.made, report.updated, &report.table);
    context.out.line(format!(
        "the gate is shut: {made} links made, {updated} updated; {} target, {} service and {} guard rows; start `tidegate run` to open it",
        rows.targets, rows.services, rows.guards
    ))?;
    missing.iter().for_each(|missing| context.out.note(missing));
    Ok(())
}

fn unload(context: &Context) -> Result<(), Failure> {
    let pins = &context.settings.pins;
    let report = match kernel::unload(pins) {
        // What shall not be there is not there.
        Err(KernelError::NotLoaded { .. }) => UnloadReport { links: 0, maps: 0 },
        other => other.map_err(|error| Failure::from_error(&error))?,
    };
    if context.out.is_json() {
        return context.out.json(&report);
    }
    if report == (UnloadReport { links: 0, maps: 0 }) {
        return context.out.line(format!("nothing is loaded at {}; nothing was removed", pins.display()));
    }
    context.out.line(format!(
        "{} links and {} maps removed; nothing is protected any more",
        report.links, report.maps
    ))
}

/// Both halves of the gate.
#[derive(Serialize)]
struct Whole {
    kernel: Option<Status>,
    kernel_fault: Option<String>,
    enforcer: Option<view::Status>,
    enforcer_fault: Option<String>,
}

fn status(context: &Context) -> Result<(), Failure> {
    let kernel = kernel::status(&context.settings.pins).map_err(|error| error.to_string());
    let enforcer =
        Client::new(&context.settings.admin_socket).status().map_err(|error: ClientError| error.to_string());
    let up = kernel.is_ok() && enforcer.is_ok();
    let whole = Whole {
        kernel_fault: kernel.as_ref().err().cloned(),
        kernel: kernel.ok(),
        enforcer_fault: enforcer.as_ref().err().cloned(),
        enforcer: enforcer.ok(),
    };
    if context.out.is_json() {
        context.out.json(&whole)?;
    } else {
        show_enforcer(&whole, context)?;
        show_kernel(&whole, context)?;
    }
    match up {
        true => Ok(()),
        false => Err(Failure::No),
    }
}

fn show_enforcer(whole: &Whole, context: &Context) -> Result<(), Failure> {
    let Some(enforcer) = &whole.enforcer else {
        let why = whole.enforcer_fault.as_deref().unwrap_or_default();
        let word = if whole.kernel.is_some() { "shut" } else { "not there" };
        return context.out.line(format!(
            "{}: the enforcer does not answer ({why})",
            paint(Tone::Bad, format!("gate {word}"))
        ));
    };
    context.out.line(format!(
        "{}: tidegate {} (pid {}), up {} s, {} sessions open, {} operations held",
        paint(Tone::Good, "gate open"),
        enforcer.version,
        enforcer.pid,
        enforcer.uptime_seconds,
        enforcer.sessions_open,
        enforcer.demands_held
    ))?;
    context.out.line(format!("policy {}", enforcer.policy.digest))?;
    if let Some(count) = enforcer.policy.widens.filter(|count| *count > 0) {
        let text = format!("the last change of policy widens {count} operations: see `tidegate policy log`");
        context.out.line(paint(Tone::Warn, text))?;
    }
    if enforcer.surges > 0 {
        let text =
            format!("{} surges in the last hour: see `tidegate top` or `tidegate report`", enforcer.surges);
        context.out.line(paint(Tone::Warn, text))?;
    }
    for notice in &enforcer.policy.notices {
        context.out.line(told(notice))?;
    }
    if let Some(fault) = &enforcer.policy.fault {
        context.out.line(format!(
            "{}\n{}",
            paint(Tone::Bad, "the policy directory is not in force:"),
            escape(fault)
        ))?;
    }
    show_record(&enforcer.record, context)
}

fn show_record(record: &view::RecordStatus, context: &Context) -> Result<(), Failure> {
    match &record.fault {
        None => {
            context.out.line(format!("record up: {} events in {} commits", record.events, record.commits))?;
        }
        Some(fault) => context.out.line(format!("{}: {fault}", paint(Tone::Bad, "record down")))?,
    }
    let upkeep = &record.upkeep;
    let (free, total) = upkeep.space;
    let space = match upkeep.pressure {
        Pressure::Enough => None,
        Pressure::Low => Some("little space is left for the record"),
        Pressure::Shedding => Some("too little space is left: the oldest of the record is shed"),
        Pressure::Refusing => Some("no space is left for the record: nothing new is forwarded"),
    };
    if let Some(text) = space {
        context.out.line(paint(Tone::Bad, format!("{text} ({free} of {total} bytes free)")))?;
    }
    if let Some(why) = &upkeep.stuck {
        let text = format!("nothing is removed from the record: {}", escape_line(why));
        context.out.line(paint(Tone::Bad, text))?;
    }
    for witness in &upkeep.witnesses {
        if let Some(fault) = &witness.fault {
            let name = escape_line(&witness.witness).into_owned();
            let text = format!(
                "the witness {name} saw {} commits and takes no more: {}",
                witness.commits,
                escape_line(fault)
            );
            context.out.line(paint(Tone::Bad, text))?;
        }
    }
    Ok(())
}

/// A notice about the policy as one line.
pub(super) fn told(notice: &Notice) -> String {
    let word = if notice.warning { paint(Tone::Bad, "warning:") } else { paint(Tone::Warn, "note:") };
    format!("{word} {}", escape_line(&notice.text))
}

fn show_kernel(whole: &Whole, context: &Context) -> Result<(), Failure> {
    let Some(kernel) = &whole.kernel else {
        return context
            .out
            .line(format!("nothing is loaded: {}", whole.kernel_fault.as_deref().unwrap_or_default()));
    };
    let cgroup = kernel
        .cgroup
        .as_ref()
        .map_or_else(|| "a cgroup that is gone".into(), |path| path.display().to_string());
    context.out.line(format!(
        "\nprograms at {cgroup}, port {}, pinned in {}",
        kernel.port,
        kernel.pins.display()
    ))?;
    let heartbeat = format!("heartbeat {}", kernel.heartbeat);
    context.out.line(match (kernel.heartbeat.alive, kernel.heartbeat.age_ms) {
        (true, _) => heartbeat,
        (false, None) => paint(Tone::Warn, heartbeat),
        (false, Some(_)) => paint(
            Tone::Bad,
            format!("{heartbeat}: the enforcer was killed or hangs, everything protected is refused"),
        ),
    })?;
    let number = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let programs = kernel
        .programs
        .iter()
        .chain(kernel.lsm.iter().filter(|program| program.id.is_some()))
        .map(|p| vec![p.name.to_owned(), number(p.id), number(p.link), p.attached_to.to_owned()])
        .collect();
    context.out.table(&["program", "id", "link", "attached to"], programs)?;
    let unseen: Vec<&str> =
        kernel.uplinks.iter().filter(|one| one.program.is_none()).map(|one| one.interface.as_str()).collect();
    let seen = kernel.uplinks.len() - unseen.len();
    context.out.line(format!("\nframes are looked at on {seen} interfaces"))?;
    if kernel.lsm.iter().any(|program| program.id.is_none()) {
        let text =
            "guarded processes are not kept from everything outside of their guard: see `tidegate doctor`";
        context.out.line(paint(Tone::Warn, text))?;
    }
    if !unseen.is_empty() {
        let text = format!("frames of packet sockets leave unseen by {}", escape_line(&unseen.join(", ")));
        context.out.line(paint(Tone::Warn, text))?;
    }
    show_spaces(&kernel.spaces, context)?;
    let maps = kernel
        .maps
        .iter()
        .map(|m| vec![m.name.to_owned(), m.entries.to_string(), m.max.to_string()])
        .collect();
    context.out.line("")?;
    context.out.table(&["map", "entries", "at most"], maps)?;
    let counters = kernel.counters.iter().filter(|(_, count)| **count > 0);
    let counters = counters.map(|(name, count)| vec![(*name).to_owned(), count.to_string()]).collect();
    context.out.line("")?;
    context.out.table(&["what the programs did", "times"], counters)
}

/// The other network namespaces, where there are any.
fn show_spaces(spaces: &[SpaceStatus], context: &Context) -> Result<(), Failure> {
    let served = spaces.iter().filter(|space| space.served).count();
    if served > 0 {
        context.out.line(format!("the gate listens in {served} other network namespaces"))?;
    }
    for (space, why) in spaces.iter().filter_map(|space| space.why.map(|why| (space, why))) {
        let text = format!(
            "net:[{}] is not served, and what belongs to the gate is refused there: {why}",
            space.inode
        );
        context.out.line(paint(Tone::Warn, text))?;
    }
    Ok(())
}

/// What this kernel supports, and what the policy leaves open meanwhile.
#[derive(Serialize)]
struct Checked {
    #[serde(flatten)]
    probe: kernel::Probe,
    policy: Vec<Notice>,
}

/// What is to be known about the policy: of the enforcer that runs, else of the directory where it can be read.
fn policy_notices(context: &Context) -> Vec<Notice> {
    if let Ok(status) = Client::new(&context.settings.admin_socket).status() {
        return status.policy.notices;
    }
    let set = Files::read(&context.settings.policies).and_then(|files| without_cases(&files));
    set.map(|set| set.notices(jiff::Timestamp::now())).unwrap_or_default()
}

fn doctor(context: &Context) -> Result<(), Failure> {
    let mut probe = kernel::probe();
    probe.checks.push(kernel::heartbeat_check(&context.settings.pins));
    probe.checks.extend(kernel::attached(&context.settings.pins));
    probe.checks.extend(kernel::spaces_check(&context.settings.pins));
    probe.checks.extend(super::credential::check(context));
    let checked = Checked { probe, policy: policy_notices(context) };
    let probe = &checked.probe;
    if context.out.is_json() {
        context.out.json(&checked)?;
    } else {
        let word = |found: Found| match found {
            Found::Ok => "ok",
            Found::Reduced => "reduced",
            Found::Missing => "missing",
            Found::Unknown => "unknown",
        };
        let rows = probe
            .checks
            .iter()
            .map(|c| vec![c.name.to_owned(), word(c.found).to_owned(), c.seen.clone(), c.means.clone()])
            .collect();
        context.out.table(&["need", "", "found", "what it means"], rows)?;
        checked.policy.iter().try_for_each(|notice| context.out.line(told(notice)))?;
    }
    match probe.checks.iter().any(|check| check.found == Found::Missing) {
        true => Err(Failure::No),
        false => Ok(()),
    }
}
