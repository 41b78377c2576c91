//! What ends the gate, and how flows end with it: told by a signal, or because a part of it ended by itself.

use std::io;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AppError;
use crate::limits::DRAIN_TIMEOUT;
use crate::policy::Shelf;

/// What the gate is told to do.
pub(super) enum Told {
    Stop,
    Upgrade,
}

/// The signals that tell the gate something. Listened for before it answers anybody.
pub(super) struct Signs {
    term: Signal,
    int: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signs {
    pub(super) fn listen() -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(AppError::io("cannot listen for signals"));
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            upgrade: listen(SignalKind::user_defined2())?,
        })
    }

    /// Whether it was told to stop since it looked last.
    pub(super) fn is_to_stop(&mut self) -> bool {
        self.term.recv().now_or_never().is_some() || self.int.recv().now_or_never().is_some()
    }

    /// Waits until it is to stop. What else it is told meanwhile is told too early.
    pub(super) async fn stopped(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Waits for SIGTERM, SIGINT or SIGUSR2; SIGHUP reads the policy again. A part that ends by itself ends the gate.
    pub(super) async fn until_told(
        &mut self,
        shelf: &Shelf,
        work: &mut JoinSet<()>,
    ) -> Result<Told, AppError> {
        loop {
            tokio::select! {
                _ = self.term.recv() => return Ok(Told::Stop),
                _ = self.int.recv() => return Ok(Told::Stop),
                _ = self.upgrade.recv() => return Ok(Told::Upgrade),
                _ = self.hangup.recv() => {
                    let shelf = shelf.clone();
                    drop(tokio::task::spawn_blocking(move || shelf.reload()).await);
                }
                ended = work.join_next() => {
                    let why = ended.map_or_else(String::new, |ended| ended.err().map(|e| e.to_string()).unwrap_or_default());
                    let source = io::Error::other(why);
                    return Err(AppError::Io { what: "a part of the gate ended by itself".into(), source });
                }
            }
        }
    }
}

/// Gives flows time to end by themselves; what still runs then is cut off, and recorded as such.
pub(super) async fn drain(flows: TaskTracker, cut: &CancellationToken) {
    flows.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, flows.wait()).await.is_err() {
        tracing::warn!(flows = flows.len(), "flows still run; they are cut off");
        cut.cancel();
        if tokio::time::timeout(DRAIN_TIMEOUT, flows.wait()).await.is_err() {
            tracing::error!(flows = flows.len(), "flows that were cut off do not end; they are left");
        }
    }
}
