//! A real terminal (tmux) with one program on it: keys go in, what a person would see comes out.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::process::{Finished, Process};
use crate::{PATIENCE, Seat, eventually};

/// A terminal on a seat. What runs on it has the seat's user, login and cgroup. It ends with this.
pub struct Terminal {
    seat: Seat,
    socket: PathBuf,
    // The server is our own child and takes what runs on it along.
    server: Process,
}

impl Terminal {
    /// Opens a terminal of this many columns and lines, with this command on it. The command must be one of `seat`.
    ///
    /// # Panics
    /// When tmux cannot start.
    #[must_use]
    pub fn open(seat: &Seat, columns: u16, lines: u16, command: &Command) -> Self {
        static OPENED: AtomicU32 = AtomicU32::new(0);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let socket = seat.folder().join(format!("terminal-{number}"));
        let mut server = seat.command("tmux");
        server
            .args(["-D", "-f", "/dev/null", "-S"])
            .arg(&socket)
            .env_remove("TMUX")
            .env("TERM", "xterm-256color");
        // So that a login is not taken for a remote one, and times are the same everywhere.
        server.env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        let server = Process::start(server);
        let terminal = Self { seat: seat.clone(), socket, server };
        eventually("the terminal's server", || terminal.socket.exists().then_some(()));
        // `env` wants what it takes away before what it sets.
        let (unset, set): (Vec<_>, Vec<_>) = command.get_envs().partition(|(_, value)| value.is_none());
        let mut words = vec!["env".to_owned()];
        for (name, _) in unset {
            words.extend(["-u".to_owned(), name.to_string_lossy().into_owned()]);
        }
        for (name, value) in set {
            words.push(format!("{}={}", name.to_string_lossy(), value.unwrap_or_default().to_string_lossy()));
        }
        words.push(command.get_program().to_string_lossy().into_owned());
        words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let mut new = vec!["new-session", "-d", "-x", &columns, "-y", &lines, "--"];
        new.extend(words.iter().map(String::as_str));
        drop(terminal.tmux(&new).success());
        terminal
    }

    /// Presses keys, by tmux's names: `q`, `Enter`, `Down`, `C-c`.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&self, keys: &[&str]) {
        drop(self.tmux(&[&["send-keys"], keys].concat()).success());
    }

    /// Types text as it is.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn write(&self, text: &str) {
        drop(self.tmux(&["send-keys", "-l", text]).success());
    }

    /// What a person sees now.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).success().text()
    }

    /// Waits until a person would see this; gives the whole screen.
    ///
    /// # Panics
    /// When it does not come in time, with what there is instead.
    pub fn await_screen(&self, awaited: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            seen = self.screen();
            if wanted(&seen) {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("waited in vain for {awaited} on this screen:\n{seen}");
    }

    /// Whether the program on it has ended: a terminal goes with its program.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.tmux(&["has-session"]).status.success()
    }

    /// Whether the bell has rung since this was last asked.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn has_rung(&self) -> bool {
        let rung = self.tmux(&["display-message", "-p", "#{window_bell_flag}"]).success().text();
        rung.trim() == "1"
    }

    fn tmux(&self, words: &[&str]) -> Finished {
        let mut command = self.seat.command("tmux");
        command.arg("-S").arg(&self.socket).args(words).env_remove("TMUX");
        Finished::of(command, PATIENCE)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.server.stop(Duration::from_secs(3));
    }
}
