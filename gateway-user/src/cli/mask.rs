//! `tidegate mask`: shows what masks and detectors would hide in a file. Needs no privilege and no running gate.

mod labels;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::output::{Tone, escape_line, paint};
use super::{Context, Failure};
use crate::limits::MASK_TEST_BYTES_MAX;
use crate::mask::{Find, Media, Plan};
use crate::policy::nouns::{Detector, DetectorNoun, Mask, On, Style};
use crate::policy::{self, Set};

const TEST_EXAMPLES: &str = "\
Examples:
  tidegate mask test answer.json                         every detector
  tidegate mask test answer.json --find card --find iban
  tidegate mask test answer.json --mask pii --policies ./policies --type application/json
  tidegate mask test sentences.jsonl --labels            how much is found of what is labelled, and what is found wrongly

Exit codes: 0 nothing would be hidden, 1 something would be, 2 wrong command line, 3 the file cannot be read;
with --labels: 0 everything labelled is found and nothing else, 1 otherwise";

/// Try masks and detectors out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tidegate mask test answer.json --find card")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what would be hidden in a file, and by which rule.
    #[command(after_help = TEST_EXAMPLES)]
    Test(Test),
}

#[derive(Debug, clap::Args)]
struct Test {
    /// The file. One that ends in .gz is unpacked.
    file: PathBuf,
    /// A mask of the policy directory.
    #[arg(long, value_name = "NAME", conflicts_with = "find")]
    mask: Option<String>,
    /// A detector, built in or declared; may be repeated [default: all that are built in].
    #[arg(long, value_name = "DETECTOR")]
    find: Vec<String>,
    /// What the body would be sent as.
    #[arg(long = "type", value_name = "CONTENT-TYPE", default_value = "text/plain; charset=utf-8")]
    content_type: String,
    /// The file holds labelled texts: measure instead of showing.
    #[arg(long)]
    labels: bool,
}

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Test(args) => test(&args, context),
    }
}

fn test(args: &Test, context: &Context) -> Result<(), Failure> {
    let mask = mask_of(args, context)?;
    let plan = Plan::new(&[Arc::clone(&mask)]);
    let bytes = read(&args.file)?;
    if args.labels {
        return labels::measure(&plan, &bytes, context);
    }
    let media = Media::of(Some(&args.content_type));
    let mut out = Vec::new();
    let mut stream = plan.stream(media);
    stream
        .push(&bytes, &mut out)
        .and_then(|()| stream.finish(&mut out))
        .map_err(|error| Failure::cannot(format!("{}: {error}", args.file.display())))?;
    let finds = plan.finds(&bytes);
    let values = stream.hits().total();
    if context.out.is_json() {
        let finds: Vec<_> = finds.iter().map(|find| as_json(find, &bytes)).collect();
        let masked = String::from_utf8_lossy(&out);
        context
            .out
            .json(&json!({ "mask": mask.name, "values": values, "finds": finds, "masked": masked }))?;
    } else {
        tell(&finds, &bytes, values, context)?;
    }
    if values == 0 { Ok(()) } else { Err(Failure::No) }
}

fn tell(finds: &[Find<'_>], bytes: &[u8], values: u64, context: &Context) -> Result<(), Failure> {
    for find in finds {
        let (line, column) = place(bytes, find.start);
        let rule = if find.rule.is_empty() { String::new() } else { format!(" ({})", find.rule) };
        let text = String::from_utf8_lossy(&bytes[find.start..find.end]);
        context.out.line(format_args!(
            "{line}:{column}: {}{rule}: {}",
            paint(Tone::Strong, find.detector),
            escape_line(&text)
        ))?;
    }
    context.out.line(format_args!("{values} values would be hidden"))
}

fn as_json(find: &Find<'_>, bytes: &[u8]) -> serde_json::Value {
    let (line, column) = place(bytes, find.start);
    json!({
        "detector": find.detector, "rule": find.rule, "start": find.start, "end": find.end,
        "line": line, "column": column,
    })
}

/// Line and column, from 1, the column in bytes.
fn place(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at];
    let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
    (before.iter().filter(|&&b| b == b'\n').count() + 1, at - start + 1)
}

/// The mask to try: one of the directory, or one made of detectors.
fn mask_of(args: &Test, context: &Context) -> Result<Arc<Mask>, Failure> {
    if let Some(name) = &args.mask {
        let set = directory(context)?;
        let mut masks = set.targets().iter().flat_map(|target| set.masks_of(&target.name));
        let found = masks.find(|mask| mask.name == *name).cloned();
        return found.ok_or_else(|| {
            Failure::Usage(format!("no mask is called {name:?} in {}", context.settings.policies.display()))
        });
    }
    let mut find = Vec::new();
    let mut declared = Vec::new();
    for name in &args.find {
        match Detector::named(name) {
            Some(detectors) => find.extend(detectors),
            None => declared.push(declared_one(name, context)?),
        }
    }
    if args.find.is_empty() {
        find.extend(Detector::ALL);
    }
    find.sort_unstable();
    find.dedup();
    Ok(Arc::new(Mask {
        name: "test".to_owned(),
        find,
        declared,
        targets: Vec::new(),
        paths: Vec::new(),
        keys: Vec::new(),
        columns: Vec::new(),
        headers: Vec::new(),
        on: On::Both,
        style: Style::Stars,
    }))
}

fn declared_one(name: &str, context: &Context) -> Result<Arc<DetectorNoun>, Failure> {
    let set = directory(context)?;
    let found = set.detectors().iter().find(|noun| noun.name == name).cloned();
    found.ok_or_else(|| {
        let built_in: BTreeMap<&str, ()> = Detector::ALL.iter().map(|d| (d.name(), ())).collect();
        let names: Vec<&str> = built_in.into_keys().collect();
        Failure::Usage(format!(
            "there is no detector {name:?}, neither in {} nor built in ({}, {})",
            context.settings.policies.display(),
            Detector::NATIONAL_IDS,
            names.join(", ")
        ))
    })
}

fn directory(context: &Context) -> Result<Set, Failure> {
    policy::read(&context.settings.policies).map_err(Failure::cannot)
}

/// The file, up to a bound, unpacked if its name says that it is packed.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let cannot = |why: String| Failure::cannot(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| cannot(format!("cannot be read: {error}")))?;
    let mut bytes = Vec::new();
    let limit = MASK_TEST_BYTES_MAX + 1;
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let read = if packed {
        flate2::read::MultiGzDecoder::new(file).take(limit).read_to_end(&mut bytes)
    } else {
        file.take(limit).read_to_end(&mut bytes)
    };
    read.map_err(|error| cannot(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MASK_TEST_BYTES_MAX {
        return Err(cannot(format!("is larger than {MASK_TEST_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
