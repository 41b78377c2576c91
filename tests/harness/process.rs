//! Programs that tests start: awaited with a bound, killed when dropped, their output shown when the test fails. Never
//! a signal to a process that is not our own child.

use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::eventually;

/// A program that is running.
pub struct Process {
    title: String,
    child: Child,
    output: Output,
    errors: Output,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its command line, for messages.
    pub title: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it, capturing both outputs.
    ///
    /// # Panics
    /// When it cannot start.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let title = title(&command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (begun, mut spawned) = (Instant::now(), command.spawn());
        // A copy of a program that was just written: for a moment another test's child has the descriptor, until it is replaced
        // by its own program.
        let is_busy = |error: &std::io::Error| error.kind() == ErrorKind::ExecutableFileBusy;
        while spawned.as_ref().is_err_and(is_busy) && begun.elapsed() < crate::PATIENCE {
            thread::sleep(Duration::from_millis(10));
            spawned = command.spawn();
        }
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start `{title}`: {error}"));
        let output = Output::of(child.stdout.take().expect("it was piped"));
        let errors = Output::of(child.stderr.take().expect("it was piped"));
        Self { title, child, output, errors }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// When the kernel does not know our own child.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end, at most so long.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            let ended = self.ended();
            if ended.is_some() || start.elapsed() > patience {
                return ended;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a valid id");
            // It is not reaped, so the id is still its own.
            rustix::process::kill_process(pid, signal).ok();
        }
    }

    /// Kills it with -9 and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Asks it to end; kills it if it has not after so long. Gives how it ended.
    pub fn stop(&mut self, patience: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(patience).unwrap_or_else(|| {
            self.kill();
            ExitStatus::from_raw(libc::SIGKILL)
        })
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.output.text()
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.errors.text()
    }

    /// Waits until this text stands in either output.
    ///
    /// # Panics
    /// When it ends, or says nothing of it in time.
    pub fn await_text(&mut self, text: &str) {
        let title = self.title.clone();
        eventually(&format!("`{text}` from `{title}`"), || {
            let said = self.stdout().contains(text) || self.stderr().contains(text);
            assert!(said || self.ended().is_none(), "`{title}` ended before it said `{text}`");
            said.then_some(())
        });
    }

    fn finish(&mut self, status: ExitStatus) -> Finished {
        let (stdout, stderr) = (self.output.take(), self.errors.take());
        Finished { title: self.title.clone(), status, stdout, stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let status = self.ended();
        self.kill();
        if thread::panicking() {
            let how = status.map_or_else(|| "still running".to_owned(), |status| status.to_string());
            eprintln!("--- {} ({how})", self.title);
            eprintln!("{}{}", tail(&self.stdout()), tail(&self.stderr()));
        }
    }
}

impl Finished {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot start, or takes longer than `patience` (it is killed then).
    #[must_use]
    pub fn of(command: Command, patience: Duration) -> Self {
        let mut process = Process::start(command);
        match process.wait(patience) {
            Some(status) => process.finish(status),
            None => panic!("`{}` did not end within {patience:?}", process.title),
        }
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| {
            panic!("`{}` wrote no JSON ({error}):\n{}\n{}", self.title, self.text(), self.errors())
        })
    }

    /// Itself, if it ended with 0.
    ///
    /// # Panics
    /// With all it wrote, if not.
    #[must_use]
    pub fn success(self) -> Self {
        assert!(
            self.status.success(),
            "`{}`: {}\n{}\n{}",
            self.title,
            self.status,
            self.text(),
            self.errors()
        );
        self
    }

    /// Its exit code; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl Output {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            while let Ok(read @ 1..) = pipe.read(&mut piece) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..read]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// All of it. A grandchild may still hold the pipe, so the end is awaited for a moment only.
    fn take(&mut self) -> Vec<u8> {
        let start = Instant::now();
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
            && start.elapsed() < Duration::from_secs(2)
        {
            thread::sleep(Duration::from_millis(1));
        }
        std::mem::take(&mut self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn title(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let title: Vec<_> =
        words.map(|word| word.to_string_lossy().chars().take(120).collect::<String>()).collect();
    title.join(" ")
}

/// The last 200 lines: a gate at debug level can say a lot.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(200);
    lines[start..].iter().flat_map(|line| [line, "\n"]).collect()
}
