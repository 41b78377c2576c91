//! Has recorded what the kernel refused: about once a second, one entry at most, and what is left at the end. What the record
//! does not take is kept where it came from.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::hold::Hold;
use crate::limits::KERNEL_REFUSED_EVERY;
use crate::record::Recorder;
use crate::record::entry::{Event, KernelRefused};

/// Entries at the end: one that was not taken before, one of what came meanwhile, and one of what came since.
const AT_THE_END: usize = 3;
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
            self.one().await;
        }
        for _ in 0..AT_THE_END {
            if !self.one().await {
                break;
            }
        }
    }

    /// Has the next one recorded; whether there was one.
    async fn one(&mut self) -> bool {
        let outcome = match self.hold.denied(self.recorded).await {
            Ok(None) => Ok(false),
            Ok(Some((number, event))) => self.record(event).await.map(|()| {
                self.recorded = Some(number);
                true
            }),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome.as_ref().map_err(|error| error.to_string())
            && !self.failing
        {
            tracing::error!(%error, "what the kernel refused is not recorded yet; trying again");
        }
        self.failing = outcome.is_err();
        outcome.unwrap_or(false)
    }

    async fn record(&self, event: KernelRefused) -> io::Result<()> {
        let durable = self.recorder.append(Event::KernelRefused(event)).map_err(io::Error::other)?;
        durable.await.map_err(io::Error::other)
    }
}
