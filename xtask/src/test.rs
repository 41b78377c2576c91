//! Runs every test, one program at a time, and counts. A test run that leaves something behind has failed, whatever its
//! tests said; so has one that could not start.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::fuzz::Fuzz;
use crate::kernel::{self, Kernel};
use crate::{build, package, place, setup, traces};

/// A test program that says nothing for so long hangs. The slowest single test takes a fifth of it on two busy cores.
const SILENCE_MAX: Duration = Duration::from_mins(10);
/// The same for `--full`.
const SILENCE_MAX_FULL: Duration = Duration::from_mins(40);
/// Lines of a test's output that may wait to be shown; the test waits then.
const LINES_AHEAD: usize = 1024;

/// How long `--full` fuzzes each target.
const FUZZ_SECONDS: u32 = 30;

/// Which tests to run.
#[derive(clap::Args, Debug)]
pub(crate) struct Test {
    /// Also what takes long: long random runs, many more generated cases, a while of fuzzing.
    #[arg(long)]
    full: bool,
    /// The tests of interception on this kernel, booted in an emulator, and nothing else.
    #[arg(long)]
    kernel: Vec<Kernel>,
    /// The package, installed on a Debian of its own that is booted in an emulator, and nothing else.
    #[arg(long, conflicts_with_all = ["kernel", "filter"])]
    package: bool,
    /// Only tests whose name contains one of these.
    filter: Vec<String>,
}

/// What the test programs said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Runs that did not get as far as counting: broken builds, crashes.
    broken: Vec<String>,
}

impl Test {
    /// Builds, tests, looks for leftovers. The last line says how many passed and how many failed.
    pub(crate) fn run(&self) -> Result<()> {
        let toolchain = setup::for_build()?;
        if self.kernel.is_empty() && !self.package {
            setup::for_test()?;
        }
        let sh = place::shell()?;
        build::kernel_object(&sh, toolchain)?;
        if self.package {
            let mut tally = Tally::default();
            tally.on_a_machine()?;
            println!("{} passed, {} failed", tally.passed, tally.failed);
            return tally.verdict(&BTreeSet::new());
        }
        if !self.kernel.is_empty() {
            let mut tally = Tally::default();
            tally.on_kernels(&self.kernel, &kernel::programs(&sh)?, &self.filter)?;
            println!("{} passed, {} failed", tally.passed, tally.failed);
            return tally.verdict(&BTreeSet::new());
        }
        // One selection of packages for everything below: cargo unifies features by it, and another one builds anew.
        build::cargo(&sh, &["build", "--workspace", "--bins", "--tests"], false)?;
        let before = traces::now();
        let mut tally = Tally::default();
        for run in self.runs() {
            tally.add(run)?;
        }
        if self.full && self.filter.is_empty() {
            build::cargo(&sh, &["build", "--package", "tidegate", "--bin", "tidegate"], true)?;
            tally.add(self.upgrades())?;
            tally.fuzz();
            tally.on_kernels(&Kernel::ALL, &kernel::programs(&sh)?, &[])?;
            tally.on_a_machine()?;
        }
        traces::tidy_mounts(&before);
        let left = traces::left_since(&before);
        println!("{} passed, {} failed", tally.passed, tally.failed);
        tally.verdict(&left)
    }

    fn runs(&self) -> Vec<Run> {
        let contract = ["--manifest-path", "gateway-ebpf/Cargo.toml", "--target-dir", "target/ebpf-host"];
        vec![
            self.cargo_test("the kernel programs' own logic", &contract, false),
            self.cargo_test("units", &["--workspace", "--lib", "--bins"], false),
            self.cargo_test("examples in the documentation", &["--workspace", "--doc"], false),
            self.cargo_test("end to end", &["--workspace", "--test", "*"], true),
        ]
    }

    /// Upgrades once more, of the program as it is shipped: only that keeps up with their 500 connects a second.
    fn upgrades(&self) -> Run {
        let mut run = self.cargo_test(
            "upgrades under full load",
            &["--workspace", "--test", "upgrade", "upgrades_"],
            true,
        );
        run.command.env("TIDEGATE_BIN", place::cargo_target().join("release/tidegate"));
        run
    }

    fn cargo_test(&self, title: &'static str, selection: &[&str], privileged: bool) -> Run {
        let mut command = Command::new("cargo");
        command.arg("test").args(selection).arg("--no-fail-fast").arg("--").args(&self.filter);
        for name in place::leaked_settings(false) {
            command.env_remove(name);
        }
        if self.full {
            command.env("TIDEGATE_FULL", "1").env("PROPTEST_CASES", "20000");
        }
        if privileged && !place::is_root() {
            let runner =
                format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase());
            command.env(runner, place::SUDO.join(" "));
        }
        Run { title, command, patience: if self.full { SILENCE_MAX_FULL } else { SILENCE_MAX } }
    }
}

struct Run {
    title: &'static str,
    command: Command,
    patience: Duration,
}

impl Tally {
    fn add(&mut self, mut run: Run) -> Result<()> {
        eprintln!("\n=== {}", run.title);
        run.command.current_dir(place::root()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = run.command.spawn().context("cargo does not start")?;
        let output = child.stdout.take().context("its output is ours")?;
        let (tell, lines) = mpsc::sync_channel(LINES_AHEAD);
        thread::spawn(move || {
            let mut lines = BufReader::new(output).split(b'\n').map_while(std::io::Result::ok);
            lines.try_for_each(|line| tell.send(line))
        });
        let (failed_before, mut hung) = (self.failed, false);
        loop {
            match lines.recv_timeout(run.patience) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    println!("{line}");
                    self.count(&line);
                }
                // What does not die is left behind, and named as such.
                Err(RecvTimeoutError::Timeout) if hung => break,
                Err(RecvTimeoutError::Timeout) => {
                    hung = true;
                    eprintln!("nothing was said for {:?}: killing what runs now, going on", run.patience);
                    traces::kill_below(child.id());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let ended_well = !hung && child.wait()?.success();
        if hung || (!ended_well && self.failed == failed_before) {
            self.broken.push(run.title.to_owned());
        }
        Ok(())
    }

    /// The tests of interception on other kernels.
    fn on_kernels(&mut self, kernels: &[Kernel], programs: &[PathBuf], filter: &[String]) -> Result<()> {
        for kernel in kernels {
            eprintln!("\n=== interception on the kernel {kernel:?}");
            let outcome = kernel.run(programs, filter, None)?;
            outcome.lines.iter().for_each(|line| self.count(line));
            self.broken.extend(outcome.broken.into_iter().map(|what| format!("{kernel:?}: {what}")));
        }
        Ok(())
    }

    /// The package on a machine of its own.
    fn on_a_machine(&mut self) -> Result<()> {
        eprintln!("\n=== the package, installed");
        let outcome = package::try_out()?;
        outcome.lines.iter().for_each(|line| self.count(line));
        self.broken.extend(outcome.broken);
        Ok(())
    }

    /// Each fuzz target counts as one test.
    fn fuzz(&mut self) {
        eprintln!("\n=== hostile bytes");
        match Fuzz::all(FUZZ_SECONDS).run() {
            Ok(targets) => self.passed += targets as u64,
            Err(error) => {
                eprintln!("{error:#}");
                self.failed += 1;
            }
        }
    }

    /// Reads `test result: ok. 17 passed; 0 failed; ...`.
    fn count(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    fn verdict(&self, left: &BTreeSet<String>) -> Result<()> {
        let mut faults = Vec::new();
        if self.failed > 0 {
            faults.push(format!("{} tests failed", self.failed));
        }
        if self.passed + self.failed == 0 {
            faults.push("no test ran".to_owned());
        }
        faults.extend(self.broken.iter().map(|title| format!("`{title}` did not run to its end")));
        faults.extend(left.iter().map(|trace| format!("left behind: {trace}")));
        if faults.is_empty() { Ok(()) } else { bail!(faults.join("\n       ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_programs_are_summed() {
        let mut tally = Tally::default();
        tally.count(
            "test result: ok. 17 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 2.29s",
        );
        tally.count("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        tally.count("test results ... ok");
        assert_eq!(tally, Tally { passed: 20, failed: 2, broken: Vec::new() });
    }

    #[test]
    fn a_run_that_hangs_is_killed_and_said_to_be_broken() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 1 passed; 0 failed'; sleep 1000; echo on"]);
        let mut tally = Tally::default();
        tally.add(Run { title: "slow", command, patience: Duration::from_millis(500) }).unwrap();
        assert_eq!(tally, Tally { passed: 1, failed: 0, broken: vec!["slow".to_owned()] });
    }

    #[test]
    fn a_run_fails_for_each_of_its_reasons() {
        let good = Tally { passed: 1, ..Tally::default() };
        assert!(good.verdict(&BTreeSet::new()).is_ok());
        let left = BTreeSet::from(["pin /sys/fs/bpf/x".to_owned()]);
        assert!(good.verdict(&left).unwrap_err().to_string().contains("/sys/fs/bpf/x"));
        assert!(Tally { failed: 1, ..Tally::default() }.verdict(&BTreeSet::new()).is_err());
        assert!(
            Tally::default().verdict(&BTreeSet::new()).is_err(),
            "a filter that matches nothing proves nothing"
        );
        let broken = Tally { passed: 1, failed: 0, broken: vec!["units".to_owned()] };
        assert!(broken.verdict(&BTreeSet::new()).is_err());
    }
}
