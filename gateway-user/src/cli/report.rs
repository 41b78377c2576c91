//! `tidegate report`: what happened in a stretch of time on one page, for the weekly review. One file, no script, nothing
//! loaded from anywhere. Reads the record and the policy; changes nothing.

mod chart;
mod page;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::output::escape_line;
use super::reading::{self, asked};
use super::record::quiet_engine;
use super::when::gone;
use super::{Context, Failure};
use crate::policy;
use crate::record::RecordError;
use crate::record::entry::{Event, Micros};
use crate::record::frame::Frame;
use crate::record::read::Reader;
use crate::signals::{Broad, Scale, Tally, View, broad};

/// Bars of a chart at most: an hour each over a week.
const BARS_MAX: usize = 168;
/// Changes of policy and gaps of the record that are listed. What is beyond is counted.
const LISTED_MAX: usize = 200;

/// Write one page about what happened: charts, surges, rules that are hit often or never, approvals, changes of policy.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The page is one HTML file without script. It holds what the record holds: masked heads, names, counts.

Exit codes:
  0  written
  3  there is no record here, no permission, or the file is there already

Examples:
  tidegate report --since 7d
  tidegate report --since 2026-11-01 --until 2026-11-08 --output review.html --force
  tidegate report --since 24h --json | jq .signals.surges")]
pub(super) struct Args {
    /// Not before: a time (`2026-11-21T10:00:00Z`, `2026-11-21`) or how long ago (`7d`, `24h`).
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = gone)]
    since: Timestamp,
    /// Before: as --since [default: now].
    #[arg(long, value_name = "TIME", value_parser = gone)]
    until: Option<Timestamp>,
    /// Where to write the page [default: tidegate-report-DATE.html]. `-` is standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

/// What happened.
#[derive(Debug, Serialize)]
struct Review {
    host: String,
    since: Micros,
    until: Micros,
    /// Digest of the policy the permits are compared with; what is wrong with it, where it cannot be read.
    policy: Result<String, String>,
    signals: View,
    unused: Vec<Broad>,
    changes: Vec<Change>,
    /// Further changes that are not listed.
    more_changes: u64,
    events: u64,
}

/// Something about the gate itself.
#[derive(Debug, Serialize)]
struct Change {
    at: Micros,
    what: &'static str,
    text: String,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    quiet_engine();
    let until = args.until.unwrap_or_else(Timestamp::now).as_microsecond();
    let since = args.since.as_microsecond();
    if until <= since {
        return Err(Failure::Usage("--until lies before --since: there is nothing to tell".into()));
    }
    let about =
        [("since", Some(args.since.to_string())), ("until", args.until.map(|until| until.to_string()))];
    let reader = reading::open("report", &asked(about), context)?;
    let review = gather(&reader, since, until, context).map_err(|error| Failure::from_error(&error))?;
    if context.out.is_json() {
        return context.out.json(&review);
    }
    let html = page::html(&review);
    match &args.output {
        Some(path) if path == Path::new("-") => context.out.line(html),
        Some(path) => write(path, &html, args.force, context),
        None => {
            let date = Timestamp::from_microsecond(until).unwrap_or_default().strftime("%Y-%m-%d");
            write(Path::new(&format!("tidegate-report-{date}.html")), &html, args.force, context)
        }
    }
}

fn write(path: &Path, html: &str, force: bool, context: &Context) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o600).create(true);
    if force {
        options.truncate(true)
    } else {
        options.create_new(true)
    };
    let failed = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "; --force writes over it",
            _ => "",
        };
        Failure::cannot(format!("{} cannot be written: {error}{hint}", path.display()))
    };
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(html.as_bytes()).map_err(failed)?;
    context.out.note(format_args!("{} is written", escape_line(&path.display().to_string())));
    Ok(())
}

fn gather(reader: &Reader, since: Micros, until: Micros, context: &Context) -> Result<Review, RecordError> {
    let mut tally = Tally::new(Scale::over(until - since, BARS_MAX), since);
    let (mut changes, mut more_changes, mut events) = (Vec::new(), 0, 0);
    let mut next = reader.since(since)?;
    while let Some(number) = next {
        let Some((lines, after)) = reader.follow(number)? else { break };
        // An event may lie in a later commit than others of its time, but never in an earlier one than its own time.
        let is_past = lines.first().is_some_and(|line| line.written >= until.saturating_add(LATE));
        for line in lines {
            let Frame::Event(event) = &line.frame else { continue };
            let at = event.at().unwrap_or(line.written);
            if at < since || at >= until {
                continue;
            }
            events += 1;
            let _ = tally.take(event);
            match change(event) {
                Some(change) if changes.len() < LISTED_MAX => changes.push(change),
                Some(_) => more_changes += 1,
                None => {}
            }
        }
        next = (!is_past).then_some(after);
    }
    let signals = tally.view(until - 1);
    let set = policy::read(&context.settings.policies);
    let unused = set.as_ref().map(|set| broad(set, &signals)).unwrap_or_default();
    let policy = set.map(|set| set.digest().to_string()).map_err(|problems| problems.to_string());
    Ok(Review { host: host(), since, until, policy, signals, unused, changes, more_changes, events })
}

/// Microseconds after its time that an event may still reach the record: a commit that waits as long as one may.
const LATE: Micros = crate::limits::COMMIT_TIMEOUT.as_micros() as Micros;

fn change(event: &Event) -> Option<Change> {
    let (what, text) = match event {
        Event::PolicyChanged(event) => match &event.refused {
            None => ("policy", format!("{} is in force", event.policy)),
            Some(why) => ("refused policy", why.clone()),
        },
        Event::Started(event) => {
            ("start", format!("tidegate {}, {} entries recovered", event.version, event.recovered))
        }
        Event::Interrupted(event) => (
            "gap",
            format!(
                "{}; {} flows and {} operations were refused",
                event.reason, event.flows, event.operations
            ),
        ),
        _ => return None,
    };
    Some(Change { at: event.at().unwrap_or_default(), what, text })
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
