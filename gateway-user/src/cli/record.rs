//! `tidegate record`: says whether the record can be trusted, and what in it cannot. Changes nothing.

use super::output::{Tone, escape_line, paint};
use super::{Context, Failure};
use crate::record::RecordError;
use crate::record::read::Reader;
use crate::record::verify::Report;
use crate::store::StoreError;

/// Verify the record.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tidegate record verify")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Verify the hash chain of the whole record, its bodies and its indexes.
    ///
    /// Works beside the running enforcer. Names every entry that was edited, dropped or swapped.
    #[command(after_help = "Exit codes:\n  0  everything holds\n  1  something does not; it is named\n  \
                            3  there is no record here, or no permission to read it\n\n\
                            Examples:\n  tidegate record verify\n  tidegate record verify --json | jq .first")]
    Verify,
}

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Verify => verify(context),
    }
}

fn verify(context: &Context) -> Result<(), Failure> {
    quiet_engine();
    let report = match Reader::open(&context.settings.state).and_then(|reader| reader.verify()) {
        Ok(report) => report,
        Err(RecordError::Store(damage @ StoreError::Damaged { .. })) => Report::of_damage(&damage),
        Err(other) => return Err(Failure::from_error(&other)),
    };
    if context.out.is_json() {
        context.out.json(&report)?;
    } else {
        tell(context, &report)?;
    }
    if report.is_clean() { Ok(()) } else { Err(Failure::No) }
}

fn tell(context: &Context, report: &Report) -> Result<(), Failure> {
    for problem in &report.first {
        let text = escape_line(&problem.to_string()).into_owned();
        context.out.line(format_args!("{} {text}", paint(Tone::Bad, "problem:")))?;
    }
    let told = report.first.len() as u64;
    if report.problems > told {
        context.out.line(format_args!("and {} more", report.problems - told))?;
    }
    context.out.line(format_args!(
        "{} commits, {} events, {} sessions, {} entries ({} open), {} body stretches ({} bytes), {} index rows",
        report.commits,
        report.events,
        report.sessions,
        report.entries,
        report.open_entries,
        report.stretches,
        report.body_bytes,
        report.index_rows,
    ))?;
    context.out.line(format_args!("last seal {}", report.seal))?;
    let verdict = if report.is_clean() {
        paint(Tone::Good, "the record is whole: every hash, body and index row holds")
    } else {
        paint(Tone::Bad, format_args!("the record is NOT whole: {} problems", report.problems))
    };
    context.out.line(verdict)
}

/// The database engine panics over some damaged pages. That is caught and reported as damage, so its own message
/// and backtrace would only be in the way. Every other panic is shown as ever.
pub(super) fn quiet_engine() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let engine = panic.location().is_some_and(|location| location.file().contains("/redb-"));
        if !engine {
            shown(panic);
        }
    }));
}
