//! The side of recorder and admin of their lines to the keeper.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::link::Link;
use super::message::{Errand, unpack};

/// How often a process says that it lives, where the keeper wants to hear it.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// What a process says to the keeper: that it lives.
pub(super) const ALIVE: &[u8] = &[0];
/// The same, and that it needs another line to the recorder.
pub(super) const INTRODUCE: &[u8] = &[1];

/// What the keeper brings.
#[derive(Debug)]
pub struct Errands(Link);

impl Errands {
    /// Over the line that the keeper gave this process. Needs a tokio runtime.
    ///
    /// # Errors
    /// It is no such line.
    pub fn over(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(Link::over(socket)?))
    }

    /// Says that this process lives, and when it needs another line to the recorder, until the keeper is gone.
    pub async fn beat(self: Arc<Self>, broken: Arc<Notify>) {
        let mut said = ALIVE;
        while self.0.send(said, &[]).await.is_ok() {
            said = match tokio::time::timeout(BEAT_EVERY, broken.notified()).await {
                Ok(()) => INTRODUCE,
                Err(_) => ALIVE,
            };
        }
    }

    /// The next errand, with what it is about. `None` when the keeper is gone, or wants this process to end.
    ///
    /// # Errors
    /// The line broke, or carries something that is no errand.
    pub async fn next(&self) -> io::Result<Option<(Errand, OwnedFd)>> {
        let Some((bytes, mut descriptors)) = self.0.receive().await? else { return Ok(None) };
        let errand = unpack::<Errand>(&bytes).map(|(_, errand)| errand);
        match (errand, descriptors.pop()) {
            (Some(errand), Some(descriptor)) => Ok(Some((errand, descriptor))),
            _ => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the keeper said something that is no errand"))
            }
        }
    }
}
