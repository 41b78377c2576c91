//! `tidegate record`: says whether the record can be trusted and what in it cannot, hands out proofs, changes keys, and
//! removes what is old. Removes nothing without a tombstone.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::output::{Tone, escape_line, paint, time};
use super::reading;
use super::run::age;
use super::{Context, Failure};
use crate::admin::client::{Client, ClientError};
use crate::admin::view::RecordOrder;
use crate::admin::{order_of, record_socket};
use crate::identity::account_name;
use crate::limits::PROOF_BYTES_MAX;
use crate::operation::EntryId;
use crate::record::read::Reader;
use crate::record::stats::Figures;
use crate::record::verify::{Report, Trust};
use crate::record::{Done, Keys, RecordError, proof, witness};
use crate::store::StoreError;
use crate::store::keyfile;

/// Verify, prove, prune and rekey the record.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate record verify\n  tidegate record stats")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Verify the hash chain of the whole record, its bodies, indexes, checkpoints and tombstones.
    ///
    /// Works beside the running enforcer. Names every entry that was edited, dropped or swapped. With a witness also an end
    /// that was cut off, an old copy, and a chain that was computed anew.
    #[command(after_help = "Exit codes:\n  0  everything holds\n  1  something does not; it is named\n  \
                            3  there is no record here, or no permission to read it\n\n\
                            Examples:\n  tidegate record verify\n  tidegate record verify --json | jq .first\n  \
                            tidegate record verify --witness /var/log/tidegate.witness")]
    Verify {
        /// Compare with the checkpoints that a witness kept in this file, one a line.
        #[arg(long, value_name = "FILE")]
        witness: Option<PathBuf>,
        /// A signing key of this record, as `record stats` shows it.
        #[arg(long, value_name = "HEX")]
        public_key: Option<String>,
    },
    /// Sizes, counts, ages, keys and checkpoints.
    #[command(
        after_help = "Examples:\n  tidegate record stats\n  tidegate record stats --json | jq .signing_key"
    )]
    Stats,
    /// Write the proof of one entry: its events, and the paths from them to a signed checkpoint.
    #[command(
        after_help = "Examples:\n  tidegate record prove 0198c0de-7d01-7c3a-9a55-0c8f2c7e4b1d > proof.json"
    )]
    Prove {
        /// The entry.
        entry: EntryId,
    },
    /// Check a proof against a public key. Needs no record.
    #[command(after_help = "Examples:\n  tidegate record verify-proof proof.json --public-key \
                            d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")]
    VerifyProof {
        /// The proof.
        file: PathBuf,
        /// The signing key, as `record stats` shows it.
        #[arg(long, value_name = "HEX")]
        public_key: String,
    },
    /// Show that the record as it is now continues the last checkpoint that a witness kept.
    #[command(after_help = "Examples:\n  tidegate record consistency --witness /var/log/tidegate.witness")]
    Consistency {
        /// Where the witness keeps checkpoints, one a line.
        #[arg(long, value_name = "FILE")]
        witness: PathBuf,
    },
    /// Remove what is older, and leave a signed tombstone. By the running enforcer, or without one.
    #[command(after_help = "Examples:\n  sudo tidegate record prune --older-than 90d --dry-run\n  \
                            sudo tidegate record prune --older-than 30d --bodies-only")]
    Prune {
        /// How old: 90d, 12h, 30m, 45s.
        #[arg(long, value_name = "AGE", value_parser = age)]
        older_than: Duration,
        /// Remove bodies only.
        #[arg(long)]
        bodies_only: bool,
        /// Say what would go, and remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Encrypt with a new key from now on, and seal the keys of all segments with it. By the running enforcer, or without
    /// one.
    ///
    /// The old generations stay in the key file until --forget-old, which removes those that nothing is sealed with. Where
    /// the key is a systemd credential, add a line with the next generation to it first.
    #[command(
        after_help = "Examples:\n  sudo tidegate record rekey\n  sudo tidegate record rekey --forget-old"
    )]
    Rekey {
        /// Make no new key; remove old ones that nothing is sealed with.
        #[arg(long)]
        forget_old: bool,
    },
    /// Sign checkpoints with a new key, introduced in the record by the old one. By the running enforcer, or without one.
    #[command(after_help = "Examples:\n  sudo tidegate record rotate-signing-key")]
    RotateSigningKey,
}

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    quiet_engine();
    match args.command {
        Command::Verify { witness, public_key } => verify(witness.as_deref(), public_key, context),
        Command::Stats => stats(context),
        Command::Prove { entry } => prove(entry, context),
        Command::VerifyProof { file, public_key } => verify_proof(&file, &public_key, context),
        Command::Consistency { witness } => consistency(&witness, context),
        Command::Prune { older_than, bodies_only, dry_run } if dry_run => {
            would_prune(older_than, bodies_only, context)
        }
        Command::Prune { older_than, bodies_only, .. } => {
            order(RecordOrder::Prune { older_than: older_than.as_secs(), bodies_only }, context)
        }
        Command::Rekey { forget_old: false } => order(RecordOrder::Rekey, context),
        Command::Rekey { forget_old: true } => order(RecordOrder::ForgetKeys, context),
        Command::RotateSigningKey => order(RecordOrder::RotateSigningKey, context),
    }
}

/// The record of these settings, to read.
pub(super) fn reader(context: &Context) -> Result<Reader, RecordError> {
    Reader::open_with(&context.settings.state, &keyfile::Place::of(&context.settings))
}

fn failed(error: &RecordError) -> Failure {
    Failure::from_error(error)
}

fn verify(file: Option<&Path>, key: Option<String>, context: &Context) -> Result<(), Failure> {
    let witnessed = file.map(witness::read).transpose().map_err(Failure::cannot)?.unwrap_or_default();
    let trust = Trust { witnessed, key };
    let report = match reader(context).and_then(|reader| reader.verify_against(&trust)) {
        Ok(report) => report,
        Err(RecordError::Store(damage @ StoreError::Damaged { .. })) => Report::of_damage(&damage),
        Err(other) => return Err(failed(&other)),
    };
    if context.out.is_json() {
        context.out.json(&report)?;
    } else {
        tell(context, &report)?;
    }
    if report.is_clean() { Ok(()) } else { Err(Failure::No) }
}

fn stats(context: &Context) -> Result<(), Failure> {
    let figures = reader(context).and_then(|reader| reader.figures()).map_err(|error| failed(&error))?;
    if context.out.is_json() {
        return context.out.json(&figures);
    }
    show(&figures, context)?;
    if let Ok(status) = Client::new(&context.settings.admin_socket).status() {
        for witness in &status.record.upkeep.witnesses {
            let fault = witness.fault.as_ref().map_or_else(
                || "takes checkpoints".to_owned(),
                |fault| paint(Tone::Bad, format_args!("fails: {}", escape_line(fault))).to_string(),
            );
            let name = escape_line(&witness.witness);
            context.out.line(format_args!("witness {name} has {} commits, {fault}", witness.commits))?;
        }
    }
    Ok(())
}

fn show(figures: &Figures, context: &Context) -> Result<(), Failure> {
    let when = |at: Option<i64>| at.map_or_else(|| "-".to_owned(), time);
    let out = &context.out;
    out.line(format_args!("store {}", figures.store))?;
    out.line(format_args!(
        "commits {} to {}, {} events, {} bytes; oldest {}, newest {}",
        figures.first_commit,
        figures.next_commit,
        figures.events,
        figures.commit_bytes,
        when(figures.oldest),
        when(figures.newest)
    ))?;
    out.line(format_args!(
        "{} index rows, {} keys of state; database {} bytes, file system {} of {} bytes free",
        figures.index_rows,
        figures.state_keys,
        figures.database_bytes,
        figures.free_bytes,
        figures.total_bytes
    ))?;
    for (lane, of) in &figures.lanes {
        let name = if lane.is_empty() { "other targets" } else { lane.as_str() };
        out.line(format_args!(
            "bodies of {}: {} segments, {} bytes, since {}",
            escape_line(name),
            of.segments,
            of.bytes,
            when(of.oldest)
        ))?;
    }
    for (target, commits) in &figures.targets {
        out.line(format_args!("target {}: in {commits} commits", escape_line(target)))?;
    }
    for (generation, segments) in &figures.generations {
        out.line(format_args!("key generation {generation} seals {segments} segments"))?;
    }
    match &figures.signed {
        Some(head) => out.line(format_args!(
            "{} checkpoints; the last covers {} commits, signed {} with key {}",
            figures.checkpoints,
            head.commits,
            time(head.at),
            head.key
        )),
        None => out.line("no signed checkpoint yet"),
    }
}

fn prove(entry: EntryId, context: &Context) -> Result<(), Failure> {
    let reader = reading::open("record prove", &entry.to_string(), context)?;
    match reader.prove(entry).map_err(|error| failed(&error))? {
        Some(proof) => context.out.json(&proof),
        None => {
            context.out.note(format_args!("no entry {entry} is on record"));
            Err(Failure::No)
        }
    }
}

fn verify_proof(file: &Path, key: &str, context: &Context) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::cannot(format!("{}: {error}", file.display()));
    let mut text = Vec::new();
    let opened = fs::File::open(file).map_err(cannot)?;
    opened.take(PROOF_BYTES_MAX + 1).read_to_end(&mut text).map_err(cannot)?;
    let proven = proof::parse(&text).and_then(|proof| {
        let frames = proof.verify(key)?;
        Ok((proof, frames.len()))
    });
    match proven {
        Ok((proof, events)) => context.out.line(format_args!(
            "{}: entry {}, {events} events, in the record {} of {} commits as signed {}",
            paint(Tone::Good, "proven"),
            proof.entry,
            proof.checkpoint.store,
            proof.checkpoint.commits,
            time(proof.checkpoint.at)
        )),
        Err(why) => {
            context.out.line(format_args!("{}: {}", paint(Tone::Bad, "NOT proven"), escape_line(&why)))?;
            Err(Failure::No)
        }
    }
}

fn consistency(file: &Path, context: &Context) -> Result<(), Failure> {
    let heads = witness::read(file).map_err(Failure::cannot)?;
    let last = heads.iter().max_by_key(|head| head.commits);
    let last = last.ok_or_else(|| Failure::cannot(format!("{} holds no checkpoint", file.display())))?;
    let continued = reader(context).and_then(|reader| reader.continues(last));
    let continued = continued.map_err(|error| failed(&error))?;
    if context.out.is_json() {
        context.out.json(&continued)?;
    }
    match continued.verify(&continued.new.key) {
        Ok(()) if context.out.is_json() => Ok(()),
        Ok(()) => context.out.line(format_args!(
            "{}: {} commits that were witnessed are the beginning of the {} there are",
            paint(Tone::Good, "consistent"),
            continued.old.commits,
            continued.new.commits
        )),
        Err(why) => {
            context.out.note(format_args!("{}: {why}", paint(Tone::Bad, "NOT consistent")));
            Err(Failure::No)
        }
    }
}

fn would_prune(older_than: Duration, bodies_only: bool, context: &Context) -> Result<(), Failure> {
    let reader = reader(context).map_err(|error| failed(&error))?;
    let removed = reader.prunable(older_than, bodies_only).map_err(|error| failed(&error))?;
    report(&Done::Removed(removed), "would go", context)
}

/// Who gives an order without an enforcer, as the enforcer would name them: by the login behind sudo.
fn operator() -> String {
    let login = fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse().ok());
    let uid = login.filter(|uid| *uid != u32::MAX).unwrap_or_else(|| rustix::process::getuid().as_raw());
    account_name(uid).unwrap_or_else(|| format!("uid {uid}"))
}

/// By the enforcer where one runs. Without one this process takes its place for a moment.
fn order(order: RecordOrder, context: &Context) -> Result<(), Failure> {
    let admin = &context.settings.admin_socket;
    let done = match Client::new(&record_socket(admin)).order(order) {
        // The recorder is no process of its own.
        Err(ClientError::Unreachable { .. }) => Client::new(admin).order(order),
        other => other,
    };
    let done = match done {
        Ok(done) => done,
        Err(ClientError::Unreachable { .. }) => {
            let state = &context.settings.state;
            let by = operator();
            let offline = || -> Result<Done, RecordError> {
                // Asked before keys: with no record, none are made.
                Reader::open_with(state, &keyfile::Place::of(&context.settings))?;
                let keys = Keys::open(state, &keyfile::Place::of(&context.settings))?;
                crate::record::offline(state, &keys, &order_of(order, &by, state)?)
            };
            offline().map_err(|error| failed(&error))?
        }
        Err(error) => return Err(Failure::from_error(&error)),
    };
    report(&done, "are gone", context)
}

fn report(done: &Done, verb: &str, context: &Context) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(done);
    }
    match done {
        Done::Removed(removed) => context.out.line(format_args!(
            "{} segments of bodies ({} bytes) and {} commits ({} events) {verb}",
            removed.segments, removed.body_bytes, removed.commits, removed.events
        )),
        Done::Rekeyed { generation, segments } => context.out.line(format_args!(
            "generation {generation} seals from now on, and the keys of {segments} segments; the old ones stay until --forget-old"
        )),
        Done::KeysLeft(left) => context.out.line(format_args!("generations left: {left:?}")),
        Done::SigningKey(key) => context.out.line(format_args!("checkpoints are signed with {key} from now on")),
    }
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
    if report.begins > 0 || report.shed_stretches > 0 {
        context.out.line(format_args!(
            "it begins with commit {}, and {} body stretches are shed: tombstones say so",
            report.begins, report.shed_stretches
        ))?;
    }
    if report.sealed_stretches > 0 {
        context.out.line(format_args!(
            "{} body stretches are sealed and were not verified: their key is not here",
            report.sealed_stretches
        ))?;
    }
    context.out.line(format_args!(
        "{} signed checkpoints, the last over {} commits; signing key {}",
        report.signed,
        report.signed_commits,
        report.signing_key.as_deref().unwrap_or("none")
    ))?;
    if report.witnessed + report.witnessed_pruned > 0 {
        context.out.line(format_args!(
            "{} checkpoints of the witness fit, {} are about what is pruned",
            report.witnessed, report.witnessed_pruned
        ))?;
    }
    if let Some((commits, at)) = report.witness_reaches {
        context.out.line(format_args!(
            "the witness saw {commits} of {} commits, the last of them signed at {}; what came after is only hashed and signed",
            report.begins + report.commits,
            time(at)
        ))?;
    }
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
