//! The two halves of the soak: everything kept, and the disk bounded. Each checks what it made, and says what is wrong.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate::limits::LIST_TIME;
use tidegate::operation::SessionId;
use tidegate::record::entry::Verdict;
use tidegate::record::list::Cursor;
use tidegate::record::read::{Filter, Reader};
use tidegate::record::verify::{Report, Trust};
use tidegate::record::{Done, Keys, Order, Recorder, Retention, witness};
use tidegate::store::keyfile::Place;

use super::load::Load;

/// What went wrong, in words.
pub(crate) type Outcome<T> = Result<T, String>;

pub(crate) fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Bytes that a directory takes on disk.
pub(crate) fn disk_use(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|item| disk_use(&item.path())).sum()
}

fn witness_file(state: &Path) -> PathBuf {
    state.join("witness")
}

fn open(state: &Path, retention: Retention) -> Outcome<Recorder> {
    let keys = Keys::open(state, &Place::below(state)).map_err(told)?;
    let witnesses = vec![witness::Kind::File(witness_file(state))];
    Recorder::open_with(state, keys, retention, witnesses).map_err(told)
}

/// What one half wrote.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    pub(crate) entries: u64,
    pub(crate) sessions: u64,
    pub(crate) bodies: u64,
    pub(crate) commits: u64,
    pub(crate) events: u64,
    pub(crate) took: Duration,
    /// The most that the record's directory took on disk, as seen every [`LOOK`].
    pub(crate) peak: u64,
}

/// Between two looks at the disk.
const LOOK: Duration = Duration::from_millis(100);

/// Writes so many entries; half way the keys change, both while others write.
fn write(load: &mut Load, recorder: &Recorder, state: &Path, entries: u64) -> Outcome<Written> {
    let (begun, record) = (Instant::now(), state.join("record"));
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let written: Outcome<()> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(disk_use(&record), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        let mut changes = None;
        let mut work = || -> Outcome<()> {
            let (mut count, mut told_at) = (0, Instant::now());
            while count < entries {
                count += load.round(recorder).map_err(told)?;
                if changes.is_none() && count * 2 >= entries {
                    changes = Some(scope.spawn(|| change_keys(recorder)));
                }
                if told_at.elapsed() > Duration::from_secs(20) {
                    told_at = Instant::now();
                    eprintln!("  {count} entries after {:.0} s", begun.elapsed().as_secs_f64());
                }
            }
            load.finish(recorder).map_err(told)
        };
        let worked = work();
        let changed =
            changes.map_or(Ok(()), |thread| thread.join().map_err(|_| "the keys' thread panicked")?);
        done.store(true, Ordering::Relaxed);
        worked.and(changed)
    });
    written?;
    let stats = recorder.stats();
    Ok(Written {
        entries: load.model.entries,
        sessions: load.model.sessions.len() as u64,
        bodies: load.model.bodies,
        commits: stats.commits,
        events: stats.frames,
        took: begun.elapsed(),
        peak: peak.into_inner().max(disk_use(&record)),
    })
}

fn change_keys(recorder: &Recorder) -> Outcome<()> {
    let by = || "soak".to_owned();
    match recorder.order(Order::Rekey { by: by() }).map_err(told)? {
        Done::Rekeyed { generation: 2, .. } => {}
        other => return Err(format!("rekeying gave {other:?}")),
    }
    match recorder.order(Order::ForgetKeys { used: [].into() }).map_err(told)? {
        Done::KeysLeft(left) if left == [2] => {}
        other => return Err(format!("forgetting the old key gave {other:?}")),
    }
    match recorder.order(Order::RotateSigningKey { by: by() }).map_err(told)? {
        Done::SigningKey(_) => Ok(()),
        other => Err(format!("rotating the signing key gave {other:?}")),
    }
}

/// Verifies everything against the witness, and gives how long that took.
fn verified(state: &Path) -> Outcome<(Report, Duration)> {
    let begun = Instant::now();
    let trust = Trust { witnessed: witness::read(&witness_file(state))?, key: None };
    let report = Reader::open(state).map_err(told)?.verify_against(&trust).map_err(told)?;
    if !report.is_clean() {
        return Err(format!("{} problems: {:?}", report.problems, report.first));
    }
    if report.open_entries != 0 || report.sealed_stretches != 0 || report.signed == 0 || report.witnessed == 0
    {
        return Err(format!("not all was closed, opened, signed and witnessed: {report:?}"));
    }
    Ok((report, begun.elapsed()))
}

/// The half that keeps everything.
pub(crate) struct Kept {
    pub(crate) load: Load,
    pub(crate) written: Written,
    pub(crate) report: Report,
    pub(crate) verifying: Duration,
    pub(crate) proving: Duration,
}

/// Writes so many entries, keeps all, and proves some. `listed` is called while the record is still open.
///
/// # Errors
/// Something is not as it must be.
pub(crate) fn keep(state: &Path, entries: u64, listed: impl FnOnce(&Load) -> Outcome<()>) -> Outcome<Kept> {
    let mut load = Load::new(0x50a_c001);
    let recorder = open(state, Retention::default())?;
    let written = write(&mut load, &recorder, state, entries)?;
    listed(&load)?;
    recorder.close();
    drop(recorder);
    let (report, verifying) = verified(state)?;
    let counts = (report.entries, report.sessions, report.stretches);
    if counts != (written.entries, written.sessions, written.bodies) || report.begins != 0 {
        return Err(format!("something is lost: {report:?} of {written:?}"));
    }
    let begun = Instant::now();
    let reader = Reader::open(state).map_err(told)?;
    let key = report.signing_key.clone().ok_or("the record lists no signing key")?;
    let proven: Vec<_> = load.model.samples.iter().step_by(load.model.samples.len().div_ceil(20)).collect();
    for entry in &proven {
        let proof = reader.prove(**entry).map_err(told)?.ok_or_else(|| format!("no proof of {entry}"))?;
        proof.verify(&key)?;
    }
    let proving = begun.elapsed() / proven.len() as u32;
    Ok(Kept { load, written, report, verifying, proving })
}

/// The half with a bounded disk.
pub(crate) struct Bounded {
    pub(crate) written: Written,
    pub(crate) report: Report,
    pub(crate) verifying: Duration,
    /// Sessions that are listed.
    pub(crate) left: u64,
    /// Commits and segments that were removed.
    pub(crate) removed: tidegate::record::Removed,
}

/// Writes so many entries into a record that prunes itself, and checks what is left.
///
/// # Errors
/// Something is not as it must be.
pub(crate) fn bound(state: &Path, entries: u64, retention: Retention) -> Outcome<Bounded> {
    let mut load = Load::new(0x50a_c002);
    let recorder = open(state, retention)?;
    let written = write(&mut load, &recorder, state, entries)?;
    let removed = recorder.upkeep().removed;
    if let Some(stuck) = recorder.upkeep().stuck {
        return Err(format!("pruning is stuck: {stuck}"));
    }
    recorder.close();
    drop(recorder);
    let (report, verifying) = verified(state)?;
    let reader = Reader::open(state).map_err(told)?;
    let all = Filter { limit: usize::MAX, ..Filter::default() };
    let listed: HashSet<SessionId> =
        reader.list(&all).map_err(told)?.iter().map(|found| found.opened.session).collect();
    let expected: HashSet<SessionId> = load.model.expected(&all, listed.len()).into_iter().collect();
    if listed != expected || listed.len() as u64 != report.sessions {
        return Err("what is left is not exactly the newest".to_owned());
    }
    let left = listed.len() as u64;
    Ok(Bounded { written, report, verifying, left, removed })
}

/// A question to the record.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) filter: Filter,
}

/// Every index, alone and together: what is everywhere, what is rare, what never meets.
pub(crate) fn questions() -> Vec<Question> {
    let ask = |name, filter| Question { name, filter: Filter { limit: 50, ..filter } };
    let some = |text: &str| Some(text.to_owned());
    let base = Filter::default;
    vec![
        ask("newest", base()),
        ask("user, often", Filter { user: some("user:corp/ann"), ..base() }),
        ask("user by subject alone", Filter { user: some("ann"), ..base() }),
        ask("user, rare", Filter { user: some("seldom"), ..base() }),
        ask("user, none", Filter { user: some("nobody"), ..base() }),
        ask("workload, often", Filter { workload: some("worker-07.service"), ..base() }),
        ask(
            "workload, a container of the beginning",
            Filter { workload: some(&format!("container:{:064x}", 40)), ..base() },
        ),
        ask("target", Filter { target: some("target-03"), ..base() }),
        ask("kind, nearly all", Filter { kind: some("http"), ..base() }),
        ask("kind, few", Filter { kind: some("open"), ..base() }),
        ask("verdict allow", Filter { verdict: Some(Verdict::Allow), ..base() }),
        ask("verdict deny", Filter { verdict: Some(Verdict::Deny), ..base() }),
        ask("verdict hold", Filter { verdict: Some(Verdict::Hold), ..base() }),
        ask("user and target", Filter { user: some("ann"), target: some("target-03"), ..base() }),
        ask(
            "user and verdict, rare",
            Filter { user: some("seldom"), verdict: Some(Verdict::Deny), ..base() },
        ),
        ask(
            "user and verdict, both often, never together",
            Filter { user: some("ann"), verdict: Some(Verdict::Deny), ..base() },
        ),
        ask(
            "workload, target and verdict",
            Filter {
                workload: some("worker-07.service"),
                target: some("target-03"),
                verdict: Some(Verdict::Hold),
                ..base()
            },
        ),
        ask(
            "all five",
            Filter {
                user: some("user-001"),
                workload: some("worker-07.service"),
                target: some("target-03"),
                kind: some("open"),
                verdict: Some(Verdict::Deny),
                ..base()
            },
        ),
    ]
}

/// What one question took.
pub(crate) struct Asked {
    pub(crate) name: &'static str,
    /// Sessions on the first page.
    pub(crate) found: usize,
    /// Pages until the answer was full, or there was nothing older.
    pub(crate) pages: usize,
    pub(crate) p50: Duration,
    pub(crate) max: Duration,
}

/// Asks each question so many times, each time with a record opened anew, and compares every answer.
///
/// # Errors
/// An answer is wrong.
pub(crate) fn ask_all(state: &Path, load: &Load, times: usize) -> Outcome<Vec<Asked>> {
    let mut all = Vec::new();
    for Question { name, filter } in questions() {
        let expected: HashSet<SessionId> = load.model.expected(&filter, filter.limit).into_iter().collect();
        let whole = follow(state, &filter, None)?;
        if whole.0 != expected {
            return Err(format!("{name}: {} sessions listed, {} expected", whole.0.len(), expected.len()));
        }
        all.push(time(name, state, &filter, None, times, whole.1)?);
    }
    let end = Reader::open(state).and_then(|reader| reader.end()).map_err(told)?;
    let middle: Cursor = format!("{}.0", end / 2).parse()?;
    let newest = Filter { limit: 50, ..Filter::default() };
    all.push(time("newest, from the middle on", state, &newest, Some(middle), times, 1)?);
    let ann = Filter { user: Some("ann".to_owned()), verdict: Some(Verdict::Hold), ..newest };
    all.push(time("user and verdict, from the middle on", state, &ann, Some(middle), times, 1)?);
    Ok(all)
}

fn time(
    name: &'static str,
    state: &Path,
    filter: &Filter,
    before: Option<Cursor>,
    times: usize,
    pages: usize,
) -> Outcome<Asked> {
    let (mut took, mut found) = (Vec::new(), 0);
    for _ in 0..times {
        let begun = Instant::now();
        let page = Reader::open(state).and_then(|reader| reader.page(filter, before, LIST_TIME));
        took.push(begun.elapsed());
        found = page.map_err(told)?.sessions.len();
    }
    took.sort_unstable();
    let asked = Asked { name, found, pages, p50: took[took.len() / 2], max: took[took.len() - 1] };
    eprintln!("  {name}: {found} found, {:?}, at most {:?}; {pages} pages", asked.p50, asked.max);
    Ok(asked)
}

/// Asks for pages until the answer is full or there is nothing older. Gives the sessions, and how many pages that took.
fn follow(state: &Path, filter: &Filter, mut before: Option<Cursor>) -> Outcome<(HashSet<SessionId>, usize)> {
    let reader = Reader::open(state).map_err(told)?;
    let (mut found, mut pages) = (HashSet::new(), 0);
    loop {
        let limit = filter.limit - found.len();
        let page = reader.page(&Filter { limit, ..filter.clone() }, before, LIST_TIME).map_err(told)?;
        pages += 1;
        found.extend(page.sessions.iter().map(|one| one.opened.session));
        if page.next.is_none() || found.len() >= filter.limit {
            return Ok((found, pages));
        }
        before = page.next;
    }
}
