//! A machine in an emulator: a kernel, a root file system in memory, perhaps a disk. Shows what its serial console says until it
//! ends. Needs no privilege and no hardware virtualisation; is bounded in time.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::packages::Need;

/// What a machine needs of this one.
pub(crate) const NEEDS: [Need; 5] = [
    Need::command("qemu-system-x86_64", "qemu-system-x86", "the machine the other kernel runs on"),
    Need::command("busybox", "busybox-static", "the shell of that machine"),
    Need::command("dpkg-deb", "dpkg", "unpacks the kernel's package"),
    Need::command("xz", "xz-utils", "unpacks the kernel's modules"),
    Need::command("strip", "binutils", "programs without debug information fit into memory"),
];
/// Lines that may wait to be shown.
const LINES_AHEAD: usize = 1024;
const MEMORY: &str = "3072";

/// What the programs on a machine said, in the words of Rust's tests.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) lines: Vec<String>,
    /// What did not run to its end.
    pub(crate) broken: Vec<String>,
}

impl Outcome {
    /// The log of the console is of use where something failed.
    pub(crate) fn keep_if_failed(&self, log: &Path) -> Result<()> {
        if self.broken.is_empty() && !self.lines.iter().any(|line| line.contains("FAILED")) {
            return Ok(fs::remove_file(log)?);
        }
        eprintln!("what that machine said is kept in {}", log.display());
        Ok(())
    }
}

/// A machine.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    /// With `/init`.
    pub(crate) ramdisk: &'a Path,
    /// Seen as `/dev/vda`.
    pub(crate) disk: Option<&'a Path>,
    /// More words for the kernel's command line.
    pub(crate) words: &'a str,
    /// How long it may run.
    pub(crate) patience: Duration,
}

impl Machine<'_> {
    /// Runs it until it ends, or time is up: then the last line says so. Gives what its console said, which is kept in `log`.
    pub(crate) fn run(&self, log: &Path) -> Result<Vec<String>> {
        let append = format!("console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init {}", self.words);
        let mut machine = Command::new("qemu-system-x86_64");
        machine
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY])
            .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.ramdisk)
            .args(["-append", &append])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(disk) = self.disk {
            machine.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()));
        }
        let mut child = machine.spawn().context("qemu-system-x86_64 does not start")?;
        let output = child.stdout.take().context("its output is ours")?;
        let (tell, lines) = mpsc::sync_channel(LINES_AHEAD);
        thread::spawn(move || {
            let mut lines = BufReader::new(output).split(b'\n').map_while(std::io::Result::ok);
            lines.try_for_each(|line| tell.send(line))
        });
        let (until, mut log) = (Instant::now() + self.patience, fs::File::create(log)?);
        let mut said = Vec::new();
        let mut say = |line: String| -> Result<()> {
            println!("{line}");
            writeln!(log, "{line}")?;
            said.push(line);
            Ok(())
        };
        let ended = loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => say(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())?,
                Err(ended) => break ended,
            }
        };
        if ended == mpsc::RecvTimeoutError::Timeout {
            say(format!("the machine has not ended within {:?}; it is switched off", self.patience))?;
        }
        // It has ended, or it shall.
        child.kill().ok();
        child.wait()?;
        Ok(said)
    }
}
