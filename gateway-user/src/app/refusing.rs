//! Has recorded what was cut or refused in the kernel: about once a second, one entry at most, and what is left at the end. What the record
//! does not take is kept where it came from.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::hold::Hold;
use crate::limits::KERNEL_REFUSED_EVERY;
use crate::record::Recorder;
use crate::record::entry::Event;

/// Entries at the end: more than there are cuts that wait, one of refusals that was not taken before, one of what came meanwhile, and
/// one of what came since.
const AT_THE_END: usize = 32;
/// How long the end may take. What is not recorded by then is logged as a number.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The task that does it.
pub(super) struct Refusing {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Refusing {
    /// Begins.
    pub(super) fn start(hold: Hold, recorder: Recorder) -> Self {
        let (end, ended) = oneshot::channel();
        let recording = Recording { hold, recorder, recorded: None, failing: false };
        Self { end, task: tokio::spawn(recording.run(ended)) }
    }

    /// Has what is left recorded.
    pub(super) async fn end(self) {
        drop(self.end);
        let mut task = self.task;
        if tokio::time::timeout(END_WITHIN, &mut task).await.is_err() {
            task.abort();
            tracing::error!("what the kernel refused last could not be recorded in time");
        }
    }
}

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Cut,
    Refused,
}

struct Recording {
    hold: Hold,
    recorder: Recorder,
    /// The last one that is on disk.
    recorded: Option<u64>,
    failing: bool,
}

impl Recording {
    async fn run(mut self, mut ended: oneshot::Receiver<()>) {
        while tokio::time::timeout(KERNEL_REFUSED_EVERY, &mut ended).await.is_err() {
            // All that was cut, and one entry of what was refused.
            while self.one().await == Some(What::Cut) {}
        }
        for _ in 0..AT_THE_END {
            if self.one().await.is_none() {
                break;
            }
        }
    }

    /// Has the next one recorded; `None`: there is none, or it was not recorded.
    async fn one(&mut self) -> Option<What> {
        let outcome = match self.hold.unrecorded(self.recorded).await {
            Ok(None) => Ok(None),
            Ok(Some((number, event))) => {
                let what =
                    if matches!(*event, Event::SocketsDestroyed(_)) { What::Cut } else { What::Refused };
                self.record(*event).await.map(|()| {
                    self.recorded = Some(number);
                    Some(what)
                })
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome.as_ref().map_err(|error| error.to_string())
            && !self.failing
        {
            tracing::error!(%error, "what was cut or refused in the kernel is not recorded yet; trying again");
        }
        self.failing = outcome.is_err();
        outcome.unwrap_or(None)
    }

    async fn record(&self, event: Event) -> io::Result<()> {
        let durable = self.recorder.append(event).map_err(io::Error::other)?;
        durable.await.map_err(io::Error::other)
    }
}
