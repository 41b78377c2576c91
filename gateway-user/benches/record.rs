//! What a durable record costs: the record as it is, against redb rows written naively. Prints; judges nothing.
//!
//! Every record is followed by its small end, for which nobody waits.
//!
//! `cargo bench -p tidegate --bench record [-- WORD]`, where WORD stands in the names of the ways to try. A record is the intent of an HTTP request with 2 KiB of head. Each way
//! runs for some seconds with 100 waiting writers; the ways are interleaved in rounds, so that a busy disk is busy for all.
//!
//! What handing over costs is the difference of two ways that make the same commits of the same events, each event handed in
//! by itself, in this process and behind a line. They take short turns, on a file system in memory; processor time alone counts,
//! and of the differences the median: what else the machine does hits both of a pair.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and ends where it cannot go on"
)]

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use redb::{Builder, ConcurrencyMode, Database, TableDefinition};
use tidegate::operation::{Direction, EntryId, SessionId, User};
use tidegate::record::entry::{BodyEnd, Ending, EntryClosed, Event, Head, Intent, SessionOpened, Verdict};
use tidegate::record::{Durable, Recorder};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const WRITERS: usize = 100;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);
const HEAD_BYTES: usize = 2048;
/// Recorders that handing over is measured with, one after the other: where in memory things come to lie moves what it costs by
/// some microseconds, for as long as they lie there.
const RECORDERS: usize = 12;
/// Pairs of turns with each of them, and how often each of the writers has its record written in a turn.
const PAIRS: usize = 20;
const COMMITS: usize = 10;
/// Where it is measured: no disk is waited for.
const MEMORY: &str = "/dev/shm";
/// The most that handing over one record may cost, in microseconds of processor time.
const HAND_OVER_AIM: f64 = 3.0;

/// What is shipped has this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
const INDEX: TableDefinition<'_, &[u8], u64> = TableDefinition::new("index");

/// Microseconds since the Unix epoch: a recorder behind a line takes no event of another time.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("it is after 1970").as_micros()).expect("and before the year 292000")
}

fn intent(session: SessionId) -> Event {
    let fields = (0..16).map(|n| (format!("X-Header-{n:02}"), "v".repeat(HEAD_BYTES / 16 - 11))).collect();
    Event::Intent(Box::new(Intent {
        entry: EntryId::now(),
        session,
        at: now(),
        target: Some("react".into()),
        kind: "http".into(),
        operations: vec!["read".into()],
        user: Some(User {
            provider: "corp".into(),
            subject: "ann".into(),
            groups: vec!["staff".into()],
            expires: 0,
            proof: tidegate::operation::Proof::default(),
        }),
        workload: Some("unit:react-worker.service".into()),
        verdict: Verdict::Allow,
        would: None,
        rules: vec!["react.cedar#read".into()],
        reason: "allowed by react.cedar#read".into(),
        policy: None,
        head: Head { line: "GET /v1/runs HTTP/1.1".into(), fields },
    }))
}

fn opened(session: SessionId) -> Event {
    Event::SessionOpened(SessionOpened {
        session,
        at: now(),
        direction: Direction::Inbound,
        peer: "192.0.2.7:40000".into(),
        destination: "192.0.2.1:8080".into(),
        workload: None,
        guard: None,
        target: Some("react".into()),
    })
}

fn entry_of(event: &Event) -> EntryId {
    match event {
        Event::Intent(intent) => intent.entry,
        _ => unreachable!("it is one"),
    }
}

fn closed(entry: EntryId) -> Event {
    Event::EntryClosed(EntryClosed {
        entry,
        at: now(),
        status: Some(200),
        request: BodyEnd::default(),
        response: BodyEnd::default(),
        masks: Vec::new(),
        ending: Ending::Finished,
        rewrites: Vec::new(),
    })
}

/// What one way did in one round.
#[derive(Debug, Default, Clone, Copy)]
struct Measured {
    records: u64,
    seconds: f64,
    cpu: f64,
    /// Of it, the writer's thread.
    writer: f64,
    bytes: u64,
}

impl Measured {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.seconds += other.seconds;
        self.cpu += other.cpu;
        self.writer += other.writer;
        self.bytes += other.bytes;
    }

    fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }
}

/// Processor seconds of this process, user and system: of all threads that it has. None ends while it is measured.
fn cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.map(|task| spent(&task.path())).sum()
}

/// Processor seconds of one thread.
fn spent(task: &Path) -> f64 {
    let said = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    said.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Processor seconds of the thread that writes.
fn writer_cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let writer = tasks.map(|task| task.path()).find(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == "record-writer")
    });
    writer.map_or(0.0, |task| spent(&task))
}

fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = path.metadata() else { return 0 };
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|item| size(&item.path())).sum()
}

fn measure(dir: &Path, work: impl FnOnce() -> u64) -> Measured {
    let (start, before, writer) = (Instant::now(), cpu(), writer_cpu());
    let records = work();
    let (seconds, cpu, writer) = (start.elapsed().as_secs_f64(), cpu() - before, writer_cpu() - writer);
    Measured { records, seconds, cpu, writer, bytes: size(dir) }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime starts")
}

/// The writer in this process.
fn here(dir: &Path, work: impl FnOnce(&Path, &Recorder) -> Measured) -> Measured {
    work(dir, &Recorder::open(dir).expect("the record opens"))
}

/// The writer behind a line, as in a process of its own. Both ends count.
fn apart(dir: &Path, work: impl FnOnce(&Path, &Recorder) -> Measured) -> Measured {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    let record = dir.to_owned();
    let writer = std::thread::spawn(move || {
        let recorder = Recorder::open(&record).expect("the record opens");
        recorder.serve(&theirs, &std::sync::Arc::default()).expect("a line to its end");
    });
    let line = std::sync::Mutex::new(Some(ours));
    let next =
        move || line.lock().ok().and_then(|mut line| line.take()).ok_or_else(|| ErrorKind::NotFound.into());
    let recorder = Recorder::through(Box::new(next)).expect("the record opens");
    let measured = work(dir, &recorder);
    drop(recorder);
    writer.join().expect("the writer ends");
    measured
}

/// 100 tasks, each waiting for its record before it makes the next.
fn waiting(dir: &Path, recorder: &Recorder) -> Measured {
    let runtime = runtime();
    let done = AtomicU64::new(0);
    let measured = measure(dir, || {
        let done = &done;
        runtime.block_on(async {
            let end = Instant::now() + ROUND;
            let tasks = (0..WRITERS).map(|_| async {
                let session = SessionId::now();
                recorder.append(opened(session)).expect("room").await.expect("durable");
                while Instant::now() < end {
                    let event = intent(session);
                    let entry = entry_of(&event);
                    recorder.append(event).expect("room").await.expect("durable");
                    drop(recorder.append(closed(entry)).expect("room"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
            futures_util::future::join_all(tasks).await;
        });
        done.load(Ordering::Relaxed)
    });
    tell_commits(recorder, &measured);
    measured
}

fn tell_commits(recorder: &Recorder, measured: &Measured) {
    let stats = recorder.stats();
    let (commits, frames) = (stats.commits as f64, stats.frames as f64);
    println!("    {:.0} events per commit, {:.0} commits/s", frames / commits, commits / measured.seconds);
}

/// One recorder, and what is handed in to it in turns.
struct Hand<'a> {
    recorder: &'a Recorder,
    /// Of each writer.
    sessions: Vec<SessionId>,
    /// The small ends of the commit before.
    ends: Vec<Event>,
    waiting: Vec<Durable>,
}

impl<'a> Hand<'a> {
    fn of(recorder: &'a Recorder) -> Self {
        let sessions: Vec<_> = (0..WRITERS).map(|_| SessionId::now()).collect();
        let events = sessions.iter().copied().map(opened).collect();
        recorder.append_all(events).expect("room").wait().expect("durable");
        Self { recorder, sessions, ends: Vec::new(), waiting: Vec::new() }
    }

    /// One caller for commits of [`WRITERS`] records, each event handed in by itself; waits for all of it.
    fn alone(&mut self) {
        for _ in 0..COMMITS {
            for event in std::mem::take(&mut self.ends) {
                self.waiting.push(self.recorder.append_soon(vec![event]).expect("room"));
            }
            for (at, session) in self.sessions.iter().enumerate() {
                let event = intent(*session);
                self.ends.push(closed(entry_of(&event)));
                // The last makes the commit begin.
                let taken = match at + 1 == WRITERS {
                    true => self.recorder.append(event),
                    false => self.recorder.append_soon(vec![event]),
                };
                self.waiting.push(taken.expect("room"));
            }
            self.waiting.drain(..).for_each(|durable| durable.wait().expect("durable"));
        }
    }

    /// [`WRITERS`] callers, each waiting for its record before it makes the next.
    fn crowd(&mut self, runtime: &Runtime) {
        let recorder = self.recorder;
        let tasks = self.sessions.iter().map(|session| async move {
            for _ in 0..COMMITS {
                let event = intent(*session);
                let entry = entry_of(&event);
                recorder.append(event).expect("room").await.expect("durable");
                drop(recorder.append(closed(entry)).expect("room"));
            }
        });
        runtime.block_on(futures_util::future::join_all(tasks));
    }

    /// Commits and events so far.
    fn written(&self) -> [f64; 2] {
        // What a recorder behind a line says of itself is a moment old.
        std::thread::sleep(Duration::from_millis(500));
        let stats = self.recorder.stats();
        [stats.commits as f64, stats.frames as f64]
    }
}

/// Microseconds of processor time for each record and its end.
fn each_in(turn: impl FnOnce()) -> f64 {
    // What the turn before woke goes back to sleep.
    std::thread::sleep(Duration::from_millis(1));
    let before = cpu();
    turn();
    std::thread::sleep(Duration::from_millis(1));
    (cpu() - before) * 1e6 / (COMMITS * WRITERS) as f64
}

/// What a turn took here and behind a line, and how many events the commits of each had.
#[derive(Default)]
struct Pairs {
    took: Vec<[f64; 2]>,
    commits: [f64; 2],
    events: [f64; 2],
}

impl Pairs {
    fn measure(&mut self, hands: &mut [Hand; 2], turn: impl Fn(&mut Hand)) {
        let before = [hands[0].written(), hands[1].written()];
        // The first fills caches.
        for pair in 0..=PAIRS {
            let mut took = [0.0; 2];
            // Each is the first as often as the other.
            for which in [pair % 2, 1 - pair % 2] {
                took[which] = each_in(|| turn(&mut hands[which]));
            }
            self.took.extend((pair > 0).then_some(took));
        }
        for (at, hand) in hands.iter().enumerate() {
            let [commits, events] = hand.written();
            self.commits[at] += commits - before[at][0];
            self.events[at] += events - before[at][1];
        }
    }

    /// How much more a record takes behind a line; says so.
    fn more(&self, name: &str) -> f64 {
        let sorted = |of: fn(&[f64; 2]) -> f64| {
            let mut values: Vec<f64> = self.took.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let (count, size) = (self.took.len(), |at: usize| self.events[at] / self.commits[at]);
        let (here, far) = (sorted(|[here, _]| *here), sorted(|[_, far]| *far));
        let more = sorted(|[here, far]| far - here);
        println!(
            "  {name}: {:.2} us CPU per record here ({:.0} events a commit), {:.2} behind a line ({:.0}); {:.2} more, in \
             half of {count} pairs {:.2} to {:.2}",
            here[count / 2],
            size(0),
            far[count / 2],
            size(1),
            more[count / 2],
            more[count / 4],
            more[count * 3 / 4],
        );
        more[count / 2]
    }
}

/// What handing over costs, in microseconds of processor time for each record and its end, both ends of the line together.
/// The aim is judged by the dearer of two ways to hand in.
fn handing_over() {
    let place = || match Path::new(MEMORY).is_dir() {
        true => tempfile::tempdir_in(MEMORY),
        false => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")),
    };
    let runtime = runtime();
    let (mut alone, mut crowd) = (Pairs::default(), Pairs::default());
    for _ in 0..RECORDERS {
        let dirs = [(); 2].map(|()| place().expect("a directory is made"));
        let own = Recorder::open(dirs[0].path()).expect("the record opens");
        apart(dirs[1].path(), |_, far| {
            let mut hands = [Hand::of(&own), Hand::of(far)];
            alone.measure(&mut hands, |hand| hand.alone());
            crowd.measure(&mut hands, |hand| hand.crowd(&runtime));
            Measured::default()
        });
    }
    let costs = f64::max(alone.more("one caller"), crowd.more("100 waiting writers"));
    let met = if costs <= HAND_OVER_AIM { "met" } else { "MISSED" };
    println!("handing over costs {costs:.2} us CPU per record; the aim of {HAND_OVER_AIM:.0} us is {met}");
}

/// Commits of exactly `size` records, nobody woken: what the record itself costs.
fn batches(dir: &Path, size: usize) -> Measured {
    let recorder = Recorder::open(dir).expect("the record opens");
    let session = SessionId::now();
    recorder.append(opened(session)).expect("room").wait().expect("durable");
    measure(dir, || {
        let end = Instant::now() + ROUND;
        let (mut records, mut ends) = (0, Vec::new());
        while Instant::now() < end {
            // The small ends of the commit before go into this one.
            let mut events: Vec<Event> = std::mem::take(&mut ends);
            for _ in 0..size {
                let event = intent(session);
                if let Event::Intent(asked) = &event {
                    ends.push(closed(asked.entry));
                }
                events.push(event);
            }
            recorder.append_with(Vec::new(), events).expect("room").wait().expect("durable");
            records += size as u64;
        }
        records
    })
}

type Naive = (Vec<u8>, oneshot::Sender<()>);

/// One redb row for each record (and, with `indexed`, one for each index), at most `most` records in a transaction.
fn naive(dir: &Path, most: usize, indexed: bool) -> Measured {
    let mut builder = Builder::new();
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    let database = builder.create(dir.join("naive.redb")).expect("a database opens");
    let (send, receive) = mpsc::sync_channel::<Naive>(8192);
    let writer = std::thread::Builder::new().name("record-writer".to_owned());
    let writer =
        writer.spawn(move || write_naively(&database, &receive, most, indexed)).expect("a thread starts");
    let runtime = runtime();
    let done = AtomicU64::new(0);
    let measured = measure(dir, || {
        let (done, send) = (&done, &send);
        runtime.block_on(async {
            let end = Instant::now() + ROUND;
            let tasks = (0..WRITERS).map(|_| async move {
                let session = SessionId::now();
                while Instant::now() < end {
                    let event = intent(session);
                    let Event::Intent(asked) = &event else { unreachable!("it is one") };
                    let bytes = postcard::to_allocvec(&event).expect("it encodes");
                    let (waiter, durable) = oneshot::channel();
                    send.try_send((bytes, waiter)).expect("room");
                    durable.await.expect("durable");
                    let bytes = postcard::to_allocvec(&closed(asked.entry)).expect("it encodes");
                    send.try_send((bytes, oneshot::channel().0)).expect("room");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
            futures_util::future::join_all(tasks).await;
        });
        done.load(Ordering::Relaxed)
    });
    drop(send);
    writer.join().expect("the writer ends");
    measured
}

fn write_naively(database: &Database, receive: &mpsc::Receiver<Naive>, most: usize, indexed: bool) {
    let mut sequence = 0_u64;
    while let Ok(first) = receive.recv() {
        let batch: Vec<Naive> = std::iter::once(first).chain(receive.try_iter().take(most - 1)).collect();
        let mut transaction = database.begin_write().expect("a transaction begins");
        transaction.set_quick_repair(true);
        {
            let mut rows = transaction.open_table(ROWS).expect("a table opens");
            let mut index = transaction.open_table(INDEX).expect("a table opens");
            for (bytes, _) in &batch {
                sequence += 1;
                rows.insert(sequence, bytes.as_slice()).expect("a row is written");
                for dimension in 0..if indexed { 8_u8 } else { 0 } {
                    let mut key = vec![dimension; 24];
                    key.extend_from_slice(&sequence.to_be_bytes());
                    index.insert(key.as_slice(), sequence).expect("a row is written");
                }
            }
        }
        transaction.commit().expect("it commits");
        for (_, waiter) in batch {
            let _ = waiter.send(());
        }
    }
}

/// As the argument names it.
const HANDING_OVER: &str = "handing over";

fn main() {
    type Way = (&'static str, fn(&Path) -> Measured);
    let ways: [Way; 7] = [
        ("the record, 100 waiting writers", |dir| here(dir, waiting)),
        ("the record, commits of 100, nobody woken", |dir| batches(dir, 100)),
        ("the record, commits of 64, nobody woken", |dir| batches(dir, 64)),
        ("naive: a row and 8 index rows each, group commit", |dir| naive(dir, WRITERS, true)),
        ("naive: a row each, no index, no chain, group commit", |dir| naive(dir, WRITERS, false)),
        ("naive: a row each, a commit each", |dir| naive(dir, 1, false)),
        ("the record behind a line, 100 waiting writers", |dir| apart(dir, waiting)),
    ];
    let word = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    if word.is_empty() || HANDING_OVER.contains(&word) {
        println!("{HANDING_OVER}");
        handing_over();
    }
    let mut sums = [Measured::default(); 7];
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}");
        for ((name, run), sum) in ways.iter().zip(&mut sums).filter(|((name, _), _)| name.contains(&word)) {
            println!("  {name}");
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory is made");
            sum.add(run(dir.path()));
        }
    }
    println!(
        "\n{:52} {:>10} {:>14} {:>14} {:>13}",
        "", "records/s", "CPU us/record", "in the writer", "bytes/record"
    );
    for ((name, _), sum) in ways.iter().zip(&sums).filter(|(_, sum)| sum.records > 0) {
        let records = sum.records as f64;
        let (cpu, writer) = (sum.cpu * 1e6 / records, sum.writer * 1e6 / records);
        println!(
            "{name:52} {:>10.0} {cpu:>14.2} {writer:>14.2} {:>13.0}",
            sum.rate(),
            sum.bytes as f64 / records
        );
    }
    let against = |at: usize| sums[0].rate() / sums[at].rate();
    println!(
        "\nthe record against naive rows: {:.2}x with indexes, {:.2}x without, {:.0}x against a commit each",
        against(3),
        against(4),
        against(5)
    );
}
