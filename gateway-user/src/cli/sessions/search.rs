//! `tidegate sessions search`: where in the record a text stands.

use std::time::Duration;

use serde::Serialize;

use super::super::output::{Tone, escape_line, paint, time};
use super::super::reading::{self, asked};
use super::super::{Context, Failure};
use super::filters::Filters;
use crate::record::search::{Looked, Match, Stopped, Wanted};

const EXAMPLES: &str = "\
Examples:
  tidegate sessions search invoice-4711
  tidegate sessions search 'order refused' --target react --since 24h
  tidegate sessions search Content-Type --verdict deny --json

Exit codes: 0 found, 1 not found (what was not looked at is said), 2 wrong command line, 3 it cannot be done";

/// Look for text in recorded heads and bodies, newest sessions first.
///
/// What masks and detectors hid is not in the record and cannot be found. Stops at its bounds and says what it did not
/// look at. Finds nothing across the border of two header lines, and nothing inside compressed bodies.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The text; letters of ASCII match in either case.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    text: String,
    /// Upper and lower case are different.
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    filters: Filters,
    /// At most so many places.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Look for at most so many seconds.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Look at no more than so many MiB.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    mib: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    matches: &'a [Match],
    looked: &'a Looked,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let exact = args.exact.then(String::new);
    let options = [("", Some(format!("{:?}", args.text))), ("exact", exact)];
    let about = asked(options.into_iter().chain(args.filters.asked()));
    let reader = reading::open("sessions search", &about, context)?;
    let wanted = Wanted {
        text: args.text.clone(),
        exact: args.exact,
        filter: args.filters.filter(),
        matches: args.limit as usize,
        bytes: args.mib * 1024 * 1024,
        time: Duration::from_secs(args.seconds),
    };
    let mut found = Vec::new();
    let mut count = 0;
    let looked = reader.search(&wanted, |place| {
        count += 1;
        if context.out.is_json() {
            found.push(place.clone());
            return Ok(());
        }
        tell(place, context)
    })?;
    if context.out.is_json() {
        context.out.json(&Report { matches: &found, looked: &looked })?;
    } else {
        summarise(count, &looked, context)?;
    }
    if count == 0 { Err(Failure::No) } else { Ok(()) }
}

fn tell(place: &Match, context: &Context) -> Result<(), Failure> {
    let times = if place.times > 1 { format!(", {} times", place.times) } else { String::new() };
    context.out.line(format_args!(
        "{} {} {} {}",
        time(place.at),
        place.entry,
        place.verdict.name(),
        escape_line(&place.line),
    ))?;
    context.out.line(format_args!(
        "    {} at byte {}{times}: {}{}{}",
        place.place,
        place.offset,
        escape_line(&place.before),
        paint(Tone::Strong, escape_line(&place.found)),
        escape_line(&place.after),
    ))
}

fn summarise(count: usize, looked: &Looked, context: &Context) -> Result<(), Failure> {
    let places = if count == 1 { "1 place".to_owned() } else { format!("{count} places") };
    context.out.line(format_args!(
        "{places}; looked at {} operations in {} sessions, {} bytes",
        looked.entries, looked.sessions, looked.bytes
    ))?;
    for gap in gaps(looked) {
        context.out.line(paint(Tone::Warn, format_args!("not looked at: {}", escape_line(&gap))))?;
    }
    Ok(())
}

fn gaps(looked: &Looked) -> Vec<String> {
    let why = match looked.stopped {
        Some(Stopped::Matches) => "so many places were found as --limit says",
        Some(Stopped::Bytes) => "so many bytes were read as --mib says",
        Some(Stopped::Time) => "the time of --seconds was over",
        None => "",
    };
    let mut gaps = Vec::new();
    if looked.stopped.is_some() {
        gaps.push(format!("{} sessions, the last of them in part: {why}", looked.sessions_left));
    }
    if looked.more_sessions {
        gaps.push("sessions older than these; narrow the search with --since and --until".to_owned());
    }
    if looked.truncated_bodies > 0 {
        let text = "bodies beyond what the record holds of them (it keeps the beginning)";
        gaps.push(format!("the end of {} {text}", looked.truncated_bodies));
    }
    if looked.unreadable_bodies > 0 {
        let why = looked.unreadable.as_deref().unwrap_or_default();
        gaps.push(format!("{} bodies that could not be read; the first: {why}", looked.unreadable_bodies));
    }
    gaps
}
