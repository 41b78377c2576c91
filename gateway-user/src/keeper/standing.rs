//! The gate stands open: its listeners, once more, and the sign of life that the kernel programs wait for. Dropped, the gate is
//! shut at once.

use std::io;

use crate::kernel::{Gate, Heartbeat, KernelError, Listeners};
use crate::limits::UPGRADE_TIMEOUT;

/// What keeps the gate open besides those who serve it.
#[derive(Debug)]
pub struct Standing {
    listeners: Listeners,
    heartbeat: Heartbeat,
}

impl Standing {
    /// Opens the listeners, or takes those over that the program before this one left, by its words. Gives them to be
    /// served, too.
    ///
    /// # Errors
    /// They cannot be had, or the kernel cannot be told that the gate lives.
    pub fn up(gate: &Gate, left: Option<&str>) -> io::Result<(Self, Listeners)> {
        let listeners = left.map_or_else(|| gate.listen(), |words| gate.take_over(words));
        let listeners = listeners.map_err(io::Error::other)?;
        let heartbeat = gate.heartbeat().map_err(io::Error::other)?;
        Ok((Self { listeners: listeners.try_clone()?, heartbeat }, listeners))
    }

    /// Says that the gate lives. False: a newer gate has taken over.
    ///
    /// # Errors
    /// The kernel cannot be told; the gate is shut by itself soon.
    pub fn beat(&self) -> Result<bool, KernelError> {
        self.heartbeat.beat()
    }

    /// Leaves the gate standing for the program that goes on: connections wait in its queues, and no longer than that may take.
    #[must_use]
    pub fn leave(self) -> Listeners {
        self.heartbeat.leave(UPGRADE_TIMEOUT);
        self.listeners
    }
}
