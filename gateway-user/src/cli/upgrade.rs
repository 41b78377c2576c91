//! `tidegate upgrade`: the program that stands where the running one came from takes over its process. Connections that
//! come meanwhile wait; none is refused, and none gets past.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Context, Failure};
use crate::admin::client::Client;
use crate::kernel::Listeners;
use crate::limits::UPGRADE_TIMEOUT;

/// Between two looks whether the next one answers.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the kernel appends to the path of a program whose file was replaced.
const REPLACED: &str = " (deleted)";
const LISTENERS: &str = "--listeners=";

/// Replace the running gate's program by the one that is installed now, without refusing or losing a connection.
///
/// First the new program has to accept the policy directory, and the kernel programs that are loaded. Then the gate lets flows end, as when it is stopped, the process goes on
/// with the new program, and takes the connections that waited meanwhile. A hold that outlives the drain ends with 503; its demand
/// stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sudo tidegate upgrade")]
pub(super) struct Args {}

/// The program of this process, to go on with later.
pub(super) struct Program(PathBuf);

impl Program {
    /// As it is now: its file may be replaced later.
    pub(super) fn of_this_process() -> Self {
        Self(
            std::env::current_exe().map_or_else(|_| PathBuf::from("/proc/self/exe"), |path| installed(&path)),
        )
    }

    /// Lets the program that stands there now go on in this process. Comes back only where that cannot be.
    pub(super) fn go_on(self, listeners: Listeners) -> Result<(), Failure> {
        let cannot = |error: io::Error| Failure::cannot(format!("the upgrade: {error}"));
        let mut left = OsString::from(LISTENERS);
        left.push(listeners.leave().map_err(cannot)?);
        let go = |program: &Path| Command::new(program).args(arguments()).arg(&left).exec();
        let error = go(&self.0);
        tracing::error!(%error, program = %self.0.display(), "the new program cannot be run; the old one goes on");
        Err(cannot(go(Path::new("/proc/self/exe"))))
    }
}

/// This process's command line without its program, and without what an upgrade added.
pub(super) fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1).filter(|word| !word.to_string_lossy().starts_with(LISTENERS))
}

/// Runs the command.
pub(super) fn run(_: &Args, context: &Context) -> Result<(), Failure> {
    let socket = &context.settings.admin_socket;
    let client = Client::new(socket);
    let before = client.status().map_err(|error| Failure::from_error(&error))?;
    // Who listens there, as the kernel noted when it began to.
    let gate = UnixStream::connect(socket)
        .and_then(|stream| Ok(rustix::net::sockopt::socket_peercred(&stream)?))
        .map_err(cannot("the admin socket"))?;
    // Whoever was given that socket could listen on it anew; what is run below is run as root.
    if !gate.uid.is_root() {
        return Err(Failure::cannot(
            "who listens on the admin socket is not root, so it is not the gate's keeper",
        ));
    }
    let gate = gate.pid;
    let program = program_of(gate).map_err(cannot("the gate's program"))?;
    roots_alone(&program)?;
    let gates =
        std::fs::read(format!("/proc/{}/cmdline", gate.as_raw_nonzero())).map_err(cannot("the gate"))?;
    accounts(&gates)?;
    try_out(&program, context)?;
    let begun = Instant::now();
    kill_process(gate, Signal::USR2).map_err(|error| cannot("the gate cannot be told")(error.into()))?;
    loop {
        std::thread::sleep(LOOK_EVERY);
        let waited = begun.elapsed();
        // The one before cannot have run for less than it had then and the time since.
        let next =
            client.status().ok().filter(|now| now.uptime_seconds < before.uptime_seconds + waited.as_secs());
        if let Some(now) = next {
            return context.out.line(format!(
                "upgraded: {} goes on where {} stopped, after {:.1} s",
                now.version,
                before.version,
                waited.as_secs_f64()
            ));
        }
        if waited > UPGRADE_TIMEOUT {
            return Err(Failure::cannot(format!(
                "the gate does not answer {} s after it was told; see its log. What it does not answer, it refuses",
                UPGRADE_TIMEOUT.as_secs()
            )));
        }
    }
}

fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::cannot(format!("{what}: {error}"))
}

/// The file that the program of this process came from, and may be another one by now.
fn program_of(pid: Pid) -> io::Result<PathBuf> {
    Ok(installed(&std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()))?))
}

fn installed(path: &Path) -> PathBuf {
    path.to_string_lossy().strip_suffix(REPLACED).map_or_else(|| path.to_owned(), PathBuf::from)
}

/// Whether only root can change that program.
fn roots_alone(program: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let about = std::fs::metadata(program).map_err(cannot("the gate's program"))?;
    match about.uid() == 0 && about.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(Failure::cannot(format!(
            "{} is not root's alone to write, so it is not run; the gate goes on as it was",
            program.display()
        ))),
    }
}

/// Whether the accounts are there that the gate's processes would run as, by the words it was started with: each ends in a NUL.
fn accounts(words: &[u8]) -> Result<(), Failure> {
    let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let value = |option: &str| {
        words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(option)?.strip_prefix('=') {
            Some(value) => Some(value),
            None => words.get(at + 1).filter(|_| word == option).map(AsRef::as_ref),
        })
    };
    let Some(user) = value("--user") else { return Ok(()) };
    super::run::users(user, value("--record-user"), value("--admin-user")).map(drop)
}

/// Whether that program runs at all, takes the policy that is there, and can adopt the kernel programs that are loaded.
fn try_out(program: &Path, context: &Context) -> Result<(), Failure> {
    let tell = |words: &[&str], directory: &Path| {
        let told = Command::new(program).args(words).arg(directory).output();
        told.map_err(|error| {
            Failure::cannot(format!("{}: {error}; the gate goes on as it was", program.display()))
        })
    };
    let would_not = |what: &str, told: &Output| {
        let said =
            String::from_utf8_lossy(&told.stderr).into_owned() + &String::from_utf8_lossy(&told.stdout);
        Failure::cannot(format!(
            "{} would not {what}, so the gate goes on as it was:\n{said}",
            program.display()
        ))
    };
    let policy = tell(&["policy", "check", "--policies"], &context.settings.policies)?;
    if !policy.status.success() {
        return Err(would_not("take the policy directory", &policy));
    }
    // `status` says so and goes on; the words are those of `KernelError::OtherAbi`, in every version.
    let loaded = tell(&["status", "--pins"], &context.settings.pins)?;
    let said = [&loaded.stdout[..], &loaded.stderr[..]].concat();
    match String::from_utf8_lossy(&said).contains("cannot be adopted") {
        false => Ok(()),
        true => Err(would_not("adopt the kernel programs that are loaded", &loaded)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_whose_accounts_are_missing_is_not_told_to_go() {
        for words in ["tidegate\0run\0", "run\0--user=61234\0", "run\0--user\x0061234\0--admin-user=61299\0"]
        {
            assert!(accounts(words.as_bytes()).is_ok(), "{words:?}");
        }
        for words in [
            "run\0--user=no-such-account\0",
            "run\0--user\0no-such-account\0",
            "run\0--user\x0061234\0--admin-user\0no-such-account\0",
            "run\0--user=61234\0--admin-user=61234\0",
        ] {
            assert!(accounts(words.as_bytes()).is_err(), "{words:?}");
        }
    }
}
