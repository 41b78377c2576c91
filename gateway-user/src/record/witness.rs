//! Shows signed checkpoints to whoever keeps them outside the record: a file, journald, a command. A witness that fails is
//! loud, and stops nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
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

#[derive(Debug, Default)]
struct Inbox {
    head: Option<SignedHead>,
    states: Vec<WitnessState>,
    closing: bool,
    closed: bool,
}

/// A handle on the thread that shows checkpoints.
#[derive(Debug, Clone)]
pub(super) struct Witness(Arc<(Mutex<Inbox>, Condvar)>);

impl Witness {
    pub(super) fn start(kinds: Vec<Kind>) -> Result<Self, StoreError> {
        let state = |kind: &Kind| WitnessState {
            witness: kind.to_string(),
            commits: 0,
            at: None,
            failures: 0,
            fault: None,
        };
        let states = kinds.iter().map(state).collect();
        let closed = kinds.is_empty();
        let inbox = Inbox { states, closed, ..Inbox::default() };
        let witness = Self(Arc::new((Mutex::new(inbox), Condvar::new())));
        if !kinds.is_empty() {
            let mine = witness.clone();
            let thread = thread::Builder::new().name("record-witness".to_owned());
            thread.spawn(move || mine.run(&kinds)).map_err(StoreError::io("start the record's witnesses"))?;
        }
        Ok(witness)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this checkpoint shown. One that still waits gives way: the later one covers it.
    pub(super) fn offer(&self, head: SignedHead) {
        self.inbox().head = Some(head);
        self.0.1.notify_all();
    }

    pub(super) fn states(&self) -> Vec<WitnessState> {
        self.inbox().states.clone()
    }

    /// Shows what still waits and ends the thread, within the time one witness has.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closing = true;
        self.0.1.notify_all();
        let bound = Instant::now() + WITNESS_TIMEOUT;
        while !inbox.closed {
            let Some(left) = bound.checked_duration_since(Instant::now()) else { break };
            inbox = self.0.1.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn run(&self, kinds: &[Kind]) {
        loop {
            let head = {
                let mut inbox = self.inbox();
                loop {
                    if let Some(head) = inbox.head.take() {
                        break head;
                    }
                    if inbox.closing {
                        inbox.closed = true;
                        self.0.1.notify_all();
                        return;
                    }
                    inbox = self.0.1.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                }
            };
            for (index, kind) in kinds.iter().enumerate() {
                let shown = show(kind, &head);
                let mut inbox = self.inbox();
                let Some(state) = inbox.states.get_mut(index) else { continue };
                match shown {
                    Ok(()) => {
                        if state.fault.take().is_some() {
                            info!(witness = %kind, "the witness takes checkpoints again");
                        }
                        (state.commits, state.at) = (head.commits, Some(head.at));
                    }
                    Err(fault) => {
                        error!(witness = %kind, %fault, "a checkpoint was not witnessed");
                        state.failures += 1;
                        state.fault = Some(fault.to_string());
                    }
                }
            }
        }
    }
}

fn show(kind: &Kind, head: &SignedHead) -> io::Result<()> {
    let line = serde_json::to_string(head).map_err(io::Error::other)?;
    match kind {
        Kind::File(path) => {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            // A line that a crash cut short is ended first.
            file.write_all(format!("{line}\n").as_bytes())?;
            file.sync_all()
        }
        Kind::Journald => journald(Path::new(JOURNAL), &line),
        Kind::Command(words) => command(words, &line, WITNESS_TIMEOUT),
    }
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
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
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

/// Reads the checkpoints that a witness kept, one a line. A last line without an end was cut short by a crash, and counts
/// only where it is whole.
///
/// # Errors
/// The file cannot be read, or a line of it is no checkpoint; says which.
pub fn read(path: &Path) -> Result<Vec<SignedHead>, String> {
    let failed = |cause: io::Error| format!("the witness {}: {cause}", path.display());
    let file = File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(WITNESS_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let mut heads = Vec::new();
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        match serde_json::from_str(line) {
            Ok(head) => heads.push(head),
            Err(_) if !line.ends_with('\n') => {}
            Err(cause) => {
                return Err(format!("the witness {}, line {number}: {cause}", path.display()));
            }
        }
    }
    Ok(heads)
}
