//! Shows signed checkpoints to whoever keeps them outside the record: a file, journald, a command. A witness that fails is
//! loud, and stops nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{error, info};

use super::entry::Micros;
use super::head::SignedHead;
use crate::limits::{WITNESS_BYTES_MAX, WITNESS_TIMEOUT};
use crate::service;
use crate::store::StoreError;

/// Where journald takes entries.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Between two looks at a command that runs.
const TICK: Duration = Duration::from_millis(10);

/// A witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Appends a line to this file, and syncs it.
    File(PathBuf),
    /// Logs to journald.
    Journald,
    /// Runs this program with these arguments, and gives it the line.
    Command(Vec<String>),
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "journald" => Ok(Self::Journald),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.into())),
            Some(("command", line)) if line.starts_with('/') => {
                Ok(Self::Command(line.split_whitespace().map(str::to_owned).collect()))
            }
            _ => Err("a witness is file:/PATH, journald, or command:/PROGRAM ARGUMENTS".to_owned()),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Journald => f.write_str("journald"),
            Self::Command(line) => write!(f, "command:{}", line.join(" ")),
        }
    }
}

/// How a witness is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct WitnessState {
    /// Which.
    pub witness: String,
    /// Commits of the last checkpoint it took.
    pub commits: u64,
    /// When that was signed.
    pub at: Option<Micros>,
    /// Checkpoints it did not take since the start.
    pub failures: u64,
    /// Why it did not take the last one.
    pub fault: Option<String>,
}

#[derive(Debug)]
struct Inbox {
    head: Option<SignedHead>,
    state: WitnessState,
    /// Since when it is being shown one.
    shown_since: Option<Instant>,
    closing: bool,
    closed: bool,
}

/// The box of one witness.
type Desk = Arc<(Mutex<Inbox>, Condvar)>;

/// A handle on the threads that show checkpoints, one for each witness: one that hangs keeps none from another.
#[derive(Debug, Clone)]
pub(super) struct Witness(Arc<[Desk]>);

impl Witness {
    pub(super) fn start(kinds: Vec<Kind>) -> Result<Self, StoreError> {
        let mut desks = Vec::new();
        for kind in kinds {
            let state =
                WitnessState { witness: kind.to_string(), commits: 0, at: None, failures: 0, fault: None };
            let inbox = Inbox { head: None, state, shown_since: None, closing: false, closed: false };
            let desk = Desk::new((Mutex::new(inbox), Condvar::new()));
            desks.push(Arc::clone(&desk));
            let thread = thread::Builder::new().name("record-witness".to_owned());
            thread
                .spawn(move || run(&desk, &kind))
                .map_err(StoreError::io("start the record's witnesses"))?;
        }
        Ok(Self(desks.into()))
    }

    /// Has this checkpoint shown. One that still waits gives way: the later one covers it.
    pub(super) fn offer(&self, head: &SignedHead) {
        for desk in self.0.iter() {
            inbox(desk).head = Some(head.clone());
            desk.1.notify_all();
        }
    }

    /// How they are doing. One that has not come back in time has failed for now.
    pub(super) fn states(&self) -> Vec<WitnessState> {
        let state = |desk: &Desk| {
            let inbox = inbox(desk);
            let mut state = inbox.state.clone();
            let late = inbox.shown_since.map(|since| since.elapsed()).filter(|late| *late > WITNESS_TIMEOUT);
            if let Some(late) = late {
                state.fault = Some(format!("it has not taken a checkpoint for {} s", late.as_secs()));
            }
            state
        };
        self.0.iter().map(state).collect()
    }

    /// Shows what still waits and ends the threads, within the time that one witness has.
    pub(super) fn close(&self) {
        let bound = Instant::now() + WITNESS_TIMEOUT;
        for desk in self.0.iter() {
            inbox(desk).closing = true;
            desk.1.notify_all();
        }
        for desk in self.0.iter() {
            let mut inbox = inbox(desk);
            while !inbox.closed {
                let Some(left) = bound.checked_duration_since(Instant::now()) else { break };
                inbox = desk.1.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

fn inbox(desk: &Desk) -> MutexGuard<'_, Inbox> {
    desk.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows checkpoints to one witness, until the record is closed.
fn run(desk: &Desk, kind: &Kind) {
    loop {
        let head = {
            let mut inbox = inbox(desk);
            loop {
                if let Some(head) = inbox.head.take() {
                    inbox.shown_since = Some(Instant::now());
                    break head;
                }
                if inbox.closing {
                    inbox.closed = true;
                    desk.1.notify_all();
                    return;
                }
                inbox = desk.1.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let shown = show(kind, &head);
        let mut inbox = inbox(desk);
        inbox.shown_since = None;
        match shown {
            Ok(()) => {
                if inbox.state.fault.take().is_some() {
                    info!(witness = %kind, "the witness takes checkpoints again");
                }
                (inbox.state.commits, inbox.state.at) = (head.commits, Some(head.at));
            }
            Err(fault) => {
                error!(witness = %kind, %fault, "a checkpoint was not witnessed");
                inbox.state.failures += 1;
                inbox.state.fault = Some(fault.to_string());
            }
        }
    }
}

fn show(kind: &Kind, head: &SignedHead) -> io::Result<()> {
    let line = serde_json::to_string(head).map_err(io::Error::other)?;
    match kind {
        Kind::File(path) => {
            let mut options = OpenOptions::new();
            let mut file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is no regular file"));
            }
            // A line that a crash or a full disk cut short is ended first.
            let end = if ends_a_line(&mut file)? { "" } else { "\n" };
            file.write_all(format!("{end}{line}\n").as_bytes())?;
            file.sync_all()
        }
        Kind::Journald => journald(Path::new(JOURNAL), &line),
        Kind::Command(words) => command(words, &line, WITNESS_TIMEOUT),
    }
}

/// Whether what is written next begins a line.
fn ends_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The journal's native protocol: fields, one a line. The checkpoint has no line break in it.
fn journald(socket: &Path, line: &str) -> io::Result<()> {
    let message =
        format!("MESSAGE={line}\nPRIORITY=5\nSYSLOG_IDENTIFIER=tidegate-witness\nTIDEGATE_CHECKPOINT=1\n");
    let sent = UnixDatagram::unbound()?;
    sent.set_write_timeout(Some(WITNESS_TIMEOUT))?;
    sent.send_to(message.as_bytes(), socket).map(drop)
}

fn command(words: &[String], line: &str, patience: Duration) -> io::Result<()> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(io::Error::other("no program is named"));
    };
    let mut command = Command::new(program);
    for name in service::SETTINGS {
        command.env_remove(name);
    }
    let mut child =
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Less than a pipe holds, so this does not wait for the program to read.
    let given = child.stdin.take().map_or(Ok(()), |mut stdin| writeln!(stdin, "{line}"));
    let ended = await_end(&mut child, patience);
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = ended?;
    given?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}

fn await_end(child: &mut Child, patience: Duration) -> io::Result<std::process::ExitStatus> {
    let bound = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= bound {
            return Err(io::Error::other(format!("it has not ended within {patience:?}")));
        }
        thread::sleep(TICK);
    }
}

/// Reads the checkpoints that a witness kept, one a line. A line that a crash cut short, and that is therefore no whole JSON
/// object, counts as none: the checkpoint after it covers what it would have.
///
/// # Errors
/// The file cannot be read, or a line of it is whole and no checkpoint; says which.
pub fn read(path: &Path) -> Result<Vec<SignedHead>, String> {
    let failed = |cause: io::Error| format!("the witness {}: {cause}", path.display());
    let file = File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(WITNESS_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let mut heads = Vec::new();
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        match serde_json::from_str(line.trim_end()) {
            Ok(head) => heads.push(head),
            Err(cause) if cause.is_eof() || line.trim().is_empty() => {}
            Err(cause) => {
                return Err(format!("the witness {}, line {number}: {cause}", path.display()));
            }
        }
    }
    Ok(heads)
}
