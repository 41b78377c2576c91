//! Measures the gate with everything on beside nginx and beside nothing, and the record beside naive rows. Reports; a
//! missed aim is said and fails nothing, but a request that was not answered as it should be ends the measurement.

mod host;
mod load;
mod masking;
mod parts;
mod report;
mod soak;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use self::host::{Host, Usage};
use self::parts::{Parts, WAYS, Way};
use self::report::{Records, Report, Sample};
use crate::{build, place, setup};

/// How long to measure.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    other: Option<Other>,
    /// Rounds; in each, every way takes its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each turn, at full speed and again at the fixed rate.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Leave out the record's own measurement.
    #[arg(long)]
    skip_record: bool,
    /// Everything is built: measure what is there.
    #[arg(long)]
    built: bool,
}

/// Other measurements.
#[derive(clap::Subcommand, Debug)]
enum Other {
    /// How much of labelled texts the detectors find, beside Presidio.
    Masking(masking::Masking),
    /// The record with ten million entries: lists by every index, and the same again on a bounded disk.
    Soak(soak::Soak),
}

impl Bench {
    /// Builds, becomes root if need be, measures, prints.
    pub(crate) fn run(&self) -> Result<()> {
        match &self.other {
            Some(Other::Masking(masking)) => return masking.run(),
            Some(Other::Soak(soak)) => return soak.run(),
            None => {}
        }
        if !self.built {
            self.build()?;
        }
        if !place::is_root() {
            return self.again_as_root();
        }
        let paths = self.paths()?;
        let records = if self.skip_record { None } else { Some(self.records()?) };
        let report = Report { paths: paths.0, recorded_bytes: paths.1, records };
        report.print(self.json);
        Ok(())
    }

    fn build(&self) -> Result<()> {
        setup::for_bench()?;
        let sh = place::shell()?;
        build::kernel_object(&sh, setup::for_build()?)?;
        // One selection for all: cargo unifies features by it, and another one builds anew.
        build::cargo(&sh, &["build", "--workspace", "--bins", "--bench", "record"], true)
    }

    fn again_as_root(&self) -> Result<()> {
        let mut line = place::privileged()?;
        line.push(std::env::current_exe()?.display().to_string());
        line.extend(["bench".to_owned(), "--built".to_owned()]);
        line.extend([format!("--rounds={}", self.rounds), format!("--seconds={}", self.seconds)]);
        line.extend(self.json.then(|| "--json".to_owned()));
        line.extend(self.skip_record.then(|| "--skip-record".to_owned()));
        let status = Command::new(&line[0]).args(&line[1..]).status()?;
        if status.success() { Ok(()) } else { bail!("the measurement as root: {status}") }
    }

    /// All rounds, and the bytes that the record took for each request.
    fn paths(&self) -> Result<(Vec<[Sample; WAYS]>, f64)> {
        let parts = Parts::start(Host::new()?, &place::tidegate(true)?)?;
        let turn = Duration::from_secs(self.seconds);
        // Opens connections, fills caches, starts threads; its figures count for nothing.
        for way in Way::ALL {
            measure(&parts, way, Duration::from_secs(1))?;
        }
        let (before, mut requests) = (parts.recorded_bytes(), 0);
        let mut rounds = Vec::new();
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            let mut turns = [Sample::default(); WAYS];
            for way in Way::ALL {
                turns[way as usize] = measure(&parts, way, turn)?;
            }
            requests += turns[Way::Gate as usize].requests + turns[Way::Varied as usize].requests;
            rounds.push(turns);
        }
        let grown = parts.recorded_bytes().saturating_sub(before);
        if grown == 0 {
            bail!("the gate recorded nothing on disk: this measures something else than it should");
        }
        Ok((rounds, grown as f64 / requests as f64))
    }

    fn records(&self) -> Result<Records> {
        eprintln!("the record, against naive rows");
        let output = Command::new(built_bench("record")?).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("the record's bench: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Records::read(&said).with_context(|| format!("the record's bench said:\n{said}"))
    }
}

/// One way's turn: at full speed, then at the fixed rate. The varied way has no second half: the generator that keeps a
/// rate sends each address once for every connection.
fn measure(parts: &Parts, way: Way, turn: Duration) -> Result<Sample> {
    let used = || parts.carrier(way).map_or(Ok(Usage::default()), host::Program::usage);
    let (host, client, url) = (parts.host(), way.client(), way.url());
    let start = used()?;
    let fast = load::fast(host, client, &url, way == Way::Varied, turn)?;
    let between = used()?;
    let each = |from: Usage, to: Usage, requests: u64| {
        (to.cpu.saturating_sub(from.cpu)).as_secs_f64() * 1e6 / requests.max(1) as f64
    };
    let full = Sample {
        requests: fast.requests,
        per_second: fast.per_second,
        cpu: each(start, between, fast.requests),
        resident_mib: between.resident_kib as f64 / 1024.0,
        ..Sample::default()
    };
    if way == Way::Varied {
        return Ok(full);
    }
    let paced = load::paced(host, client, &url, turn)?;
    let end = used()?;
    Ok(Sample {
        requests: full.requests + paced.requests,
        paced_per_second: paced.per_second,
        paced_cpu: each(between, end, paced.requests),
        p50: paced.p50,
        p99: paced.p99,
        resident_mib: end.resident_kib as f64 / 1024.0,
        ..full
    })
}

/// A bench of the record as cargo built it last.
fn built_bench(name: &str) -> Result<PathBuf> {
    let built = place::cargo_target().join("release/deps");
    let files = fs::read_dir(&built).with_context(|| format!("{} is not there", built.display()))?;
    let changed =
        |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let is_bench = |path: &PathBuf| {
        path.extension().is_none()
            && path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-")))
    };
    let found = files.flatten().map(|file| file.path()).filter(is_bench).max_by_key(changed);
    found.with_context(|| format!("the bench {name} is not built: leave out --built"))
}
