//! `tidegate policy diff` and `tidegate replay --against`: recorded operations, judged again by another directory. Reads
//! the record beside the running enforcer, and changes nothing.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::output::{Tone, escape_line, paint, time};
use super::reading::{self, asked};
use super::record::quiet_engine;
use super::when::gone;
use super::{Context, Failure, policy};
use crate::judge::rejudge::{Before, Bounds, Difference, Report, rejudge};
use crate::limits::{REJUDGED_KINDS_MAX, REJUDGED_MAX};

const DIFF_HELP: &str = "\
Both directories judge each recorded operation, at the time it was asked, for whoever asked it then, with no approval
granted. What the record does not hold in full (masked values, tokens nobody looked at) is counted, never guessed.

Examples:
  tidegate policy diff ./policies-next
  tidegate policy diff ./policies-next --since 7d --json

Exit codes: 0 nothing is decided differently, 1 something is (or the files have findings), 2 wrong command line,
3 the record cannot be read";

/// Show which recorded operations another directory would decide differently than the one in use.
#[derive(Debug, clap::Args)]
#[command(after_help = DIFF_HELP)]
pub(super) struct Diff {
    /// The other directory.
    other: PathBuf,
    #[command(flatten)]
    span: Span,
}

/// Which operations.
#[derive(Debug, clap::Args)]
pub(super) struct Span {
    /// Not before: how long ago (`7d`, `90m`) or a time (`2026-11-21`, `2026-11-21T10:00:00Z`).
    #[arg(long, value_name = "TIME", value_parser = gone, default_value = "7d")]
    since: Timestamp,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = REJUDGED_MAX)]
    limit: usize,
}

impl Span {
    /// As bounds of the work.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            since: Some(self.since.as_microsecond()),
            looked_at: self.limit,
            kinds: REJUDGED_KINDS_MAX,
            ends: None,
        }
    }

    /// In words, for the announcement of the reading.
    pub(super) fn asked(&self) -> String {
        asked([("since", Some(self.since.to_string())), ("limit", Some(self.limit.to_string()))])
    }
}

pub(super) fn diff(args: &Diff, context: &Context) -> Result<(), Failure> {
    let (_, here) = policy::read(&context.settings.policies, context)?;
    let (_, other) = policy::read(&args.other, context)?;
    let reader = open("policy diff", &args.span, context)?;
    let report =
        rejudge(|look, take| reader.operations(look, take), Before::Set(&here), &other, args.span.bounds())?;
    tell(&report, &args.other, context)
}

pub(super) fn against(dir: &Path, span: &Span, context: &Context) -> Result<(), Failure> {
    let (_, set) = policy::read(dir, context)?;
    let reader = open("replay --against", span, context)?;
    let report = rejudge(|look, take| reader.operations(look, take), Before::Recorded, &set, span.bounds())?;
    tell(&report, dir, context)
}

/// Announces the reading, and opens the record.
pub(super) fn open(
    command: &str,
    span: &Span,
    context: &Context,
) -> Result<crate::record::read::Reader, Failure> {
    quiet_engine();
    reading::open(command, &span.asked(), context)
}

fn tell(report: &Report, dir: &Path, context: &Context) -> Result<(), Failure> {
    if context.out.is_json() {
        context.out.json(report)?;
    } else {
        show(report, dir, context)?;
    }
    if report.differences.is_empty() { Ok(()) } else { Err(Failure::No) }
}

fn show(report: &Report, dir: &Path, context: &Context) -> Result<(), Failure> {
    if !report.differences.is_empty() {
        let header = ["verdict", "times", "last", "subject", "target", "operation", "rule"];
        context.out.table(&header, report.differences.iter().map(row).collect())?;
        context.out.line("")?;
    }
    let differ: u64 = report.differences.iter().map(|difference| difference.times).sum();
    let widened: u64 = report.differences.iter().filter(|d| d.widens()).map(|d| d.times).sum();
    let dir = dir.display().to_string();
    let text = format!(
        "{differ} of {} recorded operations ({} different ones) are decided differently by {}; {widened} of them are let through further",
        report.judged,
        report.kinds,
        escape_line(&dir)
    );
    context.out.line(if differ == 0 { paint(Tone::Good, text) } else { paint(Tone::Warn, text) })?;
    told_apart(report, context);
    Ok(())
}

/// Says what was left out, on standard error.
pub(super) fn told_apart(report: &Report, context: &Context) {
    for (why, count) in &report.unknown {
        context.out.note(format_args!("{} {count} not judged: {why}", paint(Tone::Warn, "note:")));
    }
    if report.cut_short {
        let oldest = report.oldest.map_or_else(|| "now".to_owned(), time);
        let bound = paint(Tone::Warn, "note:");
        context
            .out
            .note(format_args!("{bound} stopped at a bound: nothing from before {oldest} was looked at"));
    }
}

fn row(difference: &Difference) -> Vec<String> {
    let rules =
        if difference.rules.is_empty() { difference.reason.clone() } else { difference.rules.join(", ") };
    vec![
        format!("{} -> {}", difference.before.name(), difference.after.name()),
        difference.times.to_string(),
        time(difference.last),
        difference.subject.clone(),
        difference.target.clone(),
        difference.operation.clone(),
        rules,
    ]
}
