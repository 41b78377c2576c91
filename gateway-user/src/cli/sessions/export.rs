//! `tidegate sessions export`: recorded operations as files for other programs. Never writes over a file unless told to,
//! and leaves none behind that is not whole.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::output::{Tone, escape, paint};
use super::super::reading::{self, asked};
use super::super::{Context, Failure};
use super::filters::Filters;
use crate::record::export::{ExportError, Exported, Format};
use crate::record::read::Reader;

const EXAMPLES: &str = "\
Examples:
  tidegate sessions export --format jsonl --since 24h
  tidegate sessions export --format har --target react --verdict deny -o denied.har
  tidegate sessions export --format pcapng --user ann -o ann.pcapng --force

Exit codes: 0 everything is written, 1 something is missing in it (said on standard error), 2 wrong command line,
3 it cannot be done";

/// Write recorded operations as JSON lines, HAR 1.2 or pcapng, oldest sessions first.
///
/// What is written is what the record holds: masked, bodies up to the length that is kept. A file is made with mode 0600.
/// In a pcapng the TCP is made up and each message has the length of its recorded body; comments say entry, verdict, rules
/// and what is missing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What to write.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: FormatName,
    #[command(flatten)]
    filters: Filters,
    /// The file to write [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if there is one.
    #[arg(long, requires = "output")]
    force: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FormatName {
    /// One JSON object for each operation, on one line each.
    Jsonl,
    /// HTTP Archive 1.2, for browsers' tools.
    Har,
    /// A capture, for Wireshark.
    Pcapng,
}

impl FormatName {
    fn format(self) -> (Format, &'static str) {
        match self {
            Self::Jsonl => (Format::Jsonl, "jsonl"),
            Self::Har => (Format::Har, "har"),
            Self::Pcapng => (Format::Pcapng, "pcapng"),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let (format, name) = args.format.format();
    let file = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if file.is_none() && format == Format::Pcapng && io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "a pcapng is no text: name a file with -o, or send it through a pipe".into(),
        ));
    }
    if let Some(path) = file {
        make_way(path, args.force)?;
    }
    let options = [("format", Some(name.to_owned()))].into_iter().chain(args.filters.asked());
    let target = file.map(|path| path.display().to_string());
    let about = asked(options.chain([("output", target)]));
    let reader = reading::open("sessions export", &about, context)?;
    let done = match file {
        Some(path) => to_file(&reader, args, format, path)?,
        None => {
            let mut out = BufWriter::new(context.out.writer());
            reader.export(&args.filters.filter(), format, &mut out).map_err(|error| failed(&error))?
        }
    };
    tell(&done, file, context)
}

/// Whether the file may be written; says so before anything is read.
fn make_way(path: &Path, force: bool) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::cannot(format!("{}: {error}", path.display()))),
        Ok(there) if !force => {
            let what = if there.is_file() { "is there already" } else { "is there and no file" };
            Err(Failure::cannot(format!("{} {what}; --force replaces a file", path.display())))
        }
        Ok(there) if there.is_file() => Ok(()),
        Ok(_) => Err(Failure::cannot(format!("{} is no file, and is not replaced", path.display()))),
    }
}

/// Writes beside the file and gives it the name when it is whole.
fn to_file(reader: &Reader, args: &Args, format: Format, path: &Path) -> Result<Exported, Failure> {
    let cannot = |error: io::Error| Failure::cannot(format!("{}: {error}", path.display()));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(cannot)?;
    let mut out = BufWriter::new(file);
    let written = reader.export(&args.filters.filter(), format, &mut out).map_err(|error| failed(&error));
    let kept = written.and_then(|done| {
        out.get_ref().sync_all().map_err(cannot)?;
        match args.force {
            true => fs::rename(&part, path).map_err(cannot)?,
            // Fails where somebody made the file meanwhile.
            false => fs::hard_link(&part, path).and_then(|()| fs::remove_file(&part)).map_err(cannot)?,
        }
        Ok(done)
    });
    if kept.is_err() {
        let _ = fs::remove_file(&part);
    }
    kept
}

fn failed(error: &ExportError) -> Failure {
    match error {
        ExportError::Io(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        other => Failure::from_error(other),
    }
}

fn tell(done: &Exported, file: Option<&Path>, context: &Context) -> Result<(), Failure> {
    let place = file.map_or_else(String::new, |path| format!(" to {}", path.display()));
    context
        .out
        .note(escape(&format!("{} operations of {} sessions written{place}", done.entries, done.sessions)));
    let mut gaps = Vec::new();
    if done.more_sessions {
        gaps.push("older sessions match as well; narrow the export with --since and --until".to_owned());
    }
    if done.unreadable_bodies > 0 {
        let why = done.unreadable.as_deref().unwrap_or_default();
        gaps.push(format!("{} bodies could not be read; the first: {why}", done.unreadable_bodies));
    }
    if done.left_out > 0 {
        gaps.push(format!("{} operations have no place in this format", done.left_out));
    }
    if done.truncated_bodies > 0 {
        let count = done.truncated_bodies;
        context.out.note(format_args!("note: of {count} bodies the record holds only the beginning"));
    }
    for gap in &gaps {
        context.out.note(format_args!("{} {}", paint(Tone::Warn, "missing:"), escape(gap)));
    }
    if gaps.is_empty() { Ok(()) } else { Err(Failure::No) }
}
