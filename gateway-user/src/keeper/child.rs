//! The keeper's children: the same program and command line, as another user, with their line to the keeper for standard input.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::User;
use crate::service;

/// From the end of a child to the next, at first and at most: one that cannot start must not take the host's time.
pub(super) const RESTART_AFTER: Duration = Duration::from_millis(100);
const RESTART_AFTER_MAX: Duration = Duration::from_secs(10);
/// One that ran so long has started well.
const RAN_WELL: Duration = Duration::from_secs(10);

/// Starts one, with this option beside the keeper's own.
pub(super) fn start(arguments: &[OsString], role: &str, user: User, line: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    // What the service manager wants to hear, it hears from the keeper.
    for name in service::SETTINGS {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .arg(role)
        .stdin(line)
        .current_dir("/")
        .uid(user.uid)
        .gid(user.gid)
        .kill_on_drop(true)
        .spawn()
}

/// How long to wait before the next start.
#[derive(Debug)]
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(RESTART_AFTER)
    }
}

impl Pause {
    /// Waits, after a child that began then: longer after each that did not start well.
    pub(super) async fn after(&mut self, begun: Instant) {
        if begun.elapsed() > RAN_WELL {
            self.0 = RESTART_AFTER;
        }
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RESTART_AFTER_MAX);
    }
}
