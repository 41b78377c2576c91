//! `tidegate policy log`: the changes of policy that the record holds: when, whose, which files, and what each widens.

use jiff::Timestamp;
use serde::Serialize;

use super::output::{Tone, escape_line, paint, time};
use super::reading::{self, asked};
use super::record::quiet_engine;
use super::when::gone;
use super::{Context, Failure};
use crate::operation::Sha256;
use crate::record::entry::{Event, FileChange, FileChanged, PolicyChanged, PolicyWeighed};
use crate::record::operations::Look;

const HELP: &str = "\
Each change with the digests before and after, the files and who owns them, what was refused and why, and which recorded
operations and cases would now be let through further than before.

Examples:
  tidegate policy log
  tidegate policy log --since 30d --json

Exit codes: 0 it was printed, 2 wrong command line, 3 the record cannot be read";

/// List the changes of policy on record, the newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Not before: how long ago (`30d`, `8h`) or a time (`2026-11-21`).
    #[arg(long, value_name = "TIME", value_parser = gone)]
    since: Option<Timestamp>,
    /// At most so many.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// A change, and what it was found to widen once that was done.
#[derive(Serialize)]
struct Change {
    #[serde(flatten)]
    changed: PolicyChanged,
    weighed: Option<PolicyWeighed>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    quiet_engine();
    let about =
        [("since", args.since.map(|since| since.to_string())), ("limit", Some(args.limit.to_string()))];
    let reader = reading::open("policy log", &asked(about), context)?;
    let since = args.since.map(Timestamp::as_microsecond);
    let (mut changes, mut weighings): (Vec<Change>, Vec<PolicyWeighed>) = (Vec::new(), Vec::new());
    reader.gate_events(Look { since, limit: usize::MAX, ends: None }, &mut |event| {
        match event {
            Event::PolicyWeighed(weighed) => weighings.push(weighed.clone()),
            Event::PolicyChanged(changed) => {
                // Newest first: what weighs a change was seen before it.
                let of =
                    |weighed: &PolicyWeighed| weighed.policy == changed.policy && changed.refused.is_none();
                let weighed = weighings.iter().rposition(of).map(|at| weighings.remove(at));
                changes.push(Change { changed: changed.clone(), weighed });
            }
            _ => {}
        }
        changes.len() < args.limit
    })?;
    if context.out.is_json() {
        return context.out.json(&changes);
    }
    if changes.is_empty() {
        context.out.note("no change of policy is on record");
    }
    changes.iter().try_for_each(|change| show(change, context))
}

fn show(change: &Change, context: &Context) -> Result<(), Failure> {
    let Change { changed, weighed } = change;
    let before = changed.before.map_or_else(|| "nothing on record".to_owned(), short);
    let what = match &changed.refused {
        None if changed.before == Some(changed.policy) => {
            format!("{} in force as before", short(changed.policy))
        }
        None => format!("{before} -> {}", short(changed.policy)),
        Some(_) => format!("{}, {} stays", paint(Tone::Bad, "refused"), short(changed.policy)),
    };
    context.out.line(format_args!("{} {what}", paint(Tone::Strong, time(changed.at))))?;
    if let Some(why) = &changed.refused {
        let first = why.lines().next().unwrap_or_default();
        context.out.line(format_args!("  {}", escape_line(first)))?;
    }
    for file in &changed.files {
        context.out.line(format_args!("  {}", escape_line(&file_in_words(file))))?;
    }
    if changed.files_left_out > 0 {
        context.out.line(format_args!("  and {} more files", changed.files_left_out))?;
    }
    match weighed {
        Some(weighed) => show_weighed(weighed, context),
        None => Ok(()),
    }
}

fn show_weighed(weighed: &PolicyWeighed, context: &Context) -> Result<(), Failure> {
    let count = weighed.widened.len() as u64 + weighed.widened_left_out;
    let short_of = if weighed.cut_short { ", the newest" } else { "" };
    let looked = format!(
        "{} different recorded operations{short_of} and {} cases were judged by both sets, {} operations could not be",
        weighed.judged, weighed.cases, weighed.unknown
    );
    context.out.line(format_args!("  {}", paint(Tone::Dim, looked)))?;
    if count == 0 {
        return Ok(());
    }
    let text = format!("{count} of them would now be let through further than before:");
    context.out.line(format_args!("  {}", paint(Tone::Warn, text)))?;
    for widened in &weighed.widened {
        let times =
            if widened.times == 0 { String::new() } else { format!(", recorded {} times", widened.times) };
        let line = format!(
            "{} -> {}: {} by {} on {}{times} ({})",
            widened.before.name(),
            widened.after.name(),
            widened.operation,
            widened.subject,
            widened.target,
            widened.rules.join(", ")
        );
        context.out.line(format_args!("    {}", escape_line(&line)))?;
    }
    if weighed.widened_left_out > 0 {
        context.out.line(format_args!("    and {} more", weighed.widened_left_out))?;
    }
    Ok(())
}

fn file_in_words(file: &FileChanged) -> String {
    let word = match file.change {
        FileChange::Added => "added",
        FileChange::Changed => "changed",
        FileChange::Removed => "removed",
    };
    let owner = match (&file.owner, file.uid) {
        (Some(name), Some(uid)) => format!(", owned by {name} (uid {uid})"),
        (None, Some(uid)) => format!(", owned by uid {uid}"),
        _ => String::new(),
    };
    let written = file.modified.map_or_else(String::new, |at| format!(", written {}", time(at)));
    format!("{} {word}{owner}{written}", file.name)
}

fn short(digest: Sha256) -> String {
    digest.to_string().chars().take(12).collect()
}
