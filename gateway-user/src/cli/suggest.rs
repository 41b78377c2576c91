//! `tidegate policy suggest`: rules out of what was recorded, checked together with the nouns they are for.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::output::{Tone, escape, paint};
use super::rejudge::{Span, open};
use super::{Context, Failure, policy};
use crate::judge::suggest::{Suggest, Suggestion};
use crate::record::operations::{Look, Looked};

const HELP: &str = "\
For each role, user, unit or uid that was let through: the operations it used, and nothing else. Numbers and ids in paths
become captures. A target that declares no operations gets some, and rules about `Action::\"http\"` on it must go then: the
suggestion stands in their place. Read it before it is in force: what was recorded is not all that is needed.

Examples:
  tidegate policy suggest --since 7d
  tidegate policy suggest --include-denied --json

Exit codes: 0 it was printed or written, 1 the files have findings or nothing was recorded, 2 wrong command line,
3 the record cannot be read, or a file is there already";

/// Propose least-privilege rules out of what was recorded.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    span: Span,
    /// Take in what was denied, held, or would have been on a target that is only observed.
    #[arg(long)]
    include_denied: bool,
    /// Write suggested.toml and suggested.cedar into this directory instead of printing them. Overwrites nothing.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let (_, set) = policy::read(&context.settings.policies, context)?;
    let reader = open("policy suggest", &args.span, context)?;
    let mut suggest = Suggest::new(&set, args.include_denied);
    let bounds = args.span.bounds();
    let look = Look { since: bounds.since, limit: bounds.looked_at, ends: None };
    let looked = reader.operations(look, &mut |recorded| {
        suggest.take(&recorded);
        true
    })?;
    let suggestion = suggest.finish();
    if context.out.is_json() {
        context.out.json(&suggestion)?;
    }
    match &args.into {
        Some(dir) => write(&suggestion, dir)?,
        None if !context.out.is_json() => {
            context.out.line(format_args!("# suggested.toml\n{}", escape(&suggestion.toml)))?;
            context.out.line(format_args!("// suggested.cedar\n{}", escape(&suggestion.cedar)))?;
        }
        None => {}
    }
    tell(&suggestion, looked, context);
    if suggestion.used == 0 { Err(Failure::No) } else { Ok(()) }
}

fn write(suggestion: &Suggestion, dir: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::cannot(format!("{} cannot be written: {error}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    for (name, text) in [("suggested.toml", &suggestion.toml), ("suggested.cedar", &suggestion.cedar)] {
        let path = dir.join(name);
        let file = fs::OpenOptions::new().write(true).create_new(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}

fn tell(suggestion: &Suggestion, looked: Looked, context: &Context) {
    let note =
        |text: String| context.out.note(format_args!("{} {}", paint(Tone::Warn, "note:"), escape(&text)));
    note(format!("made from {} recorded operations", suggestion.used));
    for (why, count) in &suggestion.left_out {
        note(format!("{count} left out: {why}"));
    }
    for target in &suggestion.declares {
        note(format!("{target} declares operations by this: rules about Action::\"http\" on it must go"));
    }
    if looked == Looked::CutShort {
        note("stopped at the limit: older operations were not looked at".to_owned());
    }
}
