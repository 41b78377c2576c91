//! A day of a busy gate, shortened: ten million entries through the record's own writer, lists by every index, keys
//! changed in the middle, and the same again on a bounded disk. `cargo xtask bench soak`. Prints; ends where something
//! is not as it must be.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod load;
mod phases;

use std::process::ExitCode;
use std::time::Duration;

use tidegate::record::Retention;

use self::phases::{Asked, Bounded, Kept, Outcome, Written, told};

/// Entries, where nobody says otherwise.
const ENTRIES: u64 = 10_000_000;
/// Times that each list is asked for.
const TIMES: usize = 15;
/// What the bounded half may keep.
const BOUND_BYTES: u64 = 1024 * 1024 * 1024;
const BOUND_BODIES: Duration = Duration::from_secs(30);
const BOUND_HEADS: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match number("--entries").and_then(|entries| soak(entries, number("--bounded")?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("the soak failed: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The number after this word, or as many entries as there are where nobody says otherwise.
fn number(word: &str) -> Outcome<u64> {
    let given = std::env::args().skip_while(|argument| argument != word).nth(1);
    given.map_or(Ok(ENTRIES), |text| text.parse().map_err(|_| format!("{word} {text}: that is no number")))
}

fn soak(entries: u64, bounded: u64) -> Outcome<()> {
    if entries > 0 {
        keep(entries)?;
    }
    if bounded > 0 { bound(bounded) } else { Ok(()) }
}

fn keep(entries: u64) -> Outcome<()> {
    let mut asked = Vec::new();
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(told)?;
    eprintln!("everything kept: {entries} entries");
    let kept = phases::keep(state.path(), entries, |load| {
        asked = phases::ask_all(state.path(), load, TIMES)?;
        Ok(())
    })?;
    tell_kept(&kept, &asked);
    Ok(())
}

fn bound(entries: u64) -> Outcome<()> {
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(told)?;
    eprintln!("the disk bounded: {entries} entries");
    let retention = Retention {
        bodies: Some(BOUND_BODIES),
        heads: Some(BOUND_HEADS),
        max_bytes: Some(BOUND_BYTES),
        ..Retention::default()
    };
    let bounded = phases::bound(state.path(), entries, retention)?;
    tell_bounded(&bounded);
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

fn tell_written(what: &str, written: &Written) {
    println!(
        "\n{what}: {} entries in {} sessions, {} bodies, {} events in {} commits",
        written.entries, written.sessions, written.bodies, written.events, written.commits
    );
    println!(
        "written in {:.0} s, {:.0} entries/s; at most {:.0} MiB on disk",
        written.took.as_secs_f64(),
        written.entries as f64 / written.took.as_secs_f64(),
        mib(written.peak)
    );
}

fn tell_kept(kept: &Kept, asked: &[Asked]) {
    tell_written("everything kept", &kept.written);
    println!(
        "verified against {} witnessed checkpoints in {:.0} s; one proof in {:.1} ms; {} sessions in the model",
        kept.report.witnessed,
        kept.verifying.as_secs_f64(),
        kept.proving.as_secs_f64() * 1e3,
        kept.load.model.sessions.len()
    );
    println!("\n{:48} {:>6} {:>9} {:>9} {:>6}", "list", "found", "p50 ms", "max ms", "pages");
    for one in asked {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        println!(
            "{:48} {:>6} {:>9.1} {:>9.1} {:>6}",
            one.name,
            one.found,
            ms(one.p50),
            ms(one.max),
            one.pages
        );
    }
}

fn tell_bounded(bounded: &Bounded) {
    tell_written("the disk bounded", &bounded.written);
    println!(
        "bound {:.0} MiB of commits and bodies, bodies {:?}, heads {:?}; removed {} segments and {} commits",
        mib(BOUND_BYTES),
        BOUND_BODIES,
        BOUND_HEADS,
        bounded.removed.segments,
        bounded.removed.commits
    );
    println!(
        "left: {} sessions; verified in {:.0} s, {} body stretches shed, {} witnessed checkpoints fit, {} pruned",
        bounded.left,
        bounded.verifying.as_secs_f64(),
        bounded.report.shed_stretches,
        bounded.report.witnessed,
        bounded.report.witnessed_pruned
    );
}
