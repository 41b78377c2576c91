//! Admin as a process of its own: speaks with operators whom the keeper brings, and asks the enforcer for what they want, one verb
//! at a time. Opens no file and no socket; what it has a human do, it tells the recorder first.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::recording::leave_signals_to_the_keeper;
use super::{AppError, Ended};
use crate::admin::{self, Relay};
use crate::keeper::{Errands, message::Errand};
use crate::kernel;
use crate::limits::ADMIN_CONNECTIONS_MAX;
use crate::record::line::vouch::Voucher;

/// What admin may open: nothing of the gate's. Who somebody is, and what the policy makes of him, the keeper says.
#[must_use]
pub fn reach_of_admin() -> kernel::Reach {
    kernel::Reach {
        read: Vec::new(),
        write: vec![PathBuf::from("/dev/null")],
        network: false,
        outlives: false,
    }
}

/// Speaks with operators until the keeper is gone, or wants it to end.
///
/// # Errors
/// The line to the keeper is of no use.
pub async fn admit_kept(line: std::os::fd::OwnedFd) -> Result<Ended, AppError> {
    leave_signals_to_the_keeper()?;
    let keeper = Arc::new(Errands::over(line).map_err(AppError::io("the line to the keeper"))?);
    let relay = Relay::default();
    let beating = tokio::spawn(keeper.clone().beat(relay.broken()));
    let (callers, waiting) = mpsc::channel(ADMIN_CONNECTIONS_MAX);
    let answering = tokio::spawn(admin::receive(waiting, relay.clone()));
    while let Some((errand, with)) = keeper.next().await.map_err(AppError::io("the line to the keeper"))? {
        match errand {
            Errand::Enforcer => {
                let line = UnixStream::from(with);
                let line = line.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(line));
                relay.enforcer(line.map_err(AppError::io("the line to the enforcer"))?);
            }
            Errand::Warrants => {
                let line = Voucher::over(with.into()).map_err(AppError::io("the line to the recorder"))?;
                relay.recorder(line);
            }
            Errand::Caller(peer) => {
                if callers.try_send((with, *peer)).is_err() {
                    tracing::warn!("too many wait at the admin socket; one was closed");
                }
            }
            Errand::Operator(_) | Errand::Claims => {
                tracing::error!("the keeper brought what is not for admin")
            }
        }
    }
    beating.abort();
    answering.abort();
    Ok(Ended::Stopped)
}
