//! Waits while it listens for keys. Without a terminal there are no keys and it only waits. Leaves the terminal as it
//! found it.

use std::io::{self, IsTerminal, Stdin};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::super::Context;

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The time was over, or nobody wanted to wait longer.
    On,
    /// Somebody has seen enough.
    End,
}

/// Ctrl-C, which the terminal hands over as a byte while keys are read one by one.
const CTRL_C: u8 = 3;

pub(super) struct Keys {
    /// The terminal, and how it was before.
    terminal: Option<(Stdin, Termios)>,
}

impl Keys {
    /// Reads keys from standard input, where that is a terminal.
    pub(super) fn open() -> Self {
        let stdin = io::stdin();
        let before = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten();
        let terminal = before.and_then(|before| {
            let mut mode = before.clone();
            mode.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            tcsetattr(&stdin, OptionalActions::Now, &mode).ok()?;
            Some((stdin, before))
        });
        Self { terminal }
    }

    /// Waits so long, unless a key says otherwise.
    pub(super) fn wait(&mut self, time: Duration, context: &Context) -> Key {
        let Some((stdin, _)) = &self.terminal else {
            std::thread::sleep(time);
            return Key::On;
        };
        let mut left = Some(time);
        loop {
            let began = Instant::now();
            let patience = left.and_then(|left| Timespec::try_from(left).ok());
            let mut ready = [PollFd::new(stdin, PollFlags::IN)];
            let come = match poll(&mut ready, patience.as_ref()) {
                Ok(count) => count > 0,
                Err(rustix::io::Errno::INTR) => false,
                Err(_) => return Key::End,
            };
            left = left.map(|left| left.saturating_sub(began.elapsed()));
            let mut byte = [0];
            if come && !matches!(rustix::io::read(stdin, &mut byte), Ok(1)) {
                return Key::End;
            }
            match byte[0] {
                b' ' if left.is_some() => {
                    context.out.note("paused; space goes on, Enter goes to the next event, q ends");
                    left = None;
                }
                b' ' => left = Some(time),
                b'\n' | b'\r' => return Key::On,
                b'q' | CTRL_C => return Key::End,
                _ if left == Some(Duration::ZERO) => return Key::On,
                _ => {}
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some((stdin, before)) = &self.terminal {
            let _ = tcsetattr(stdin, OptionalActions::Now, before);
        }
    }
}
