//! Takes what the kernel refused, as it tells it: to the log, and to whom has it recorded. No verdict waits here; what the
//! kernel had no room to tell it has counted.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Refusals, Spaces};
use crate::kernel::{Denial, Denials, KernelLog};

/// What is no refusal, and worse: nobody decided.
const UNSEEN: &str = "unseen";
/// A packet at the gate's port whose connect nobody saw. Who dials that port is refused before, as himself.
const NO_RECORD: &str = "refused_no_record";
/// What another network namespace lacks.
const NO_LISTENER: &str = "refused_no_listener";
/// Refusals logged one by one in a second; the rest are logged as a number.
const LOGGED_PER_SECOND: u32 = 20;
/// How often the ring is emptied at least. It holds thousands; what it misses is counted.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// And at most.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Tells until the task is dropped: of refusals to the log and to whom has them recorded, and of the programs' own log where they
/// keep one. Has namespaces looked for where somebody was refused for want of a listener.
///
/// # Errors
/// The ring cannot be waited on.
pub async fn tell(
    denials: Denials,
    programs: Option<KernelLog>,
    spaces: Arc<Spaces>,
    refusals: Arc<Refusals>,
) -> io::Result<()> {
    let mut telling = Telling { denials, spaces, refusals, log: Log::default() };
    let mut programs = programs;
    loop {
        telling = tokio::task::spawn_blocking(move || telling.round()).await.map_err(io::Error::other)?;
        if let Some(programs) = &mut programs {
            programs.pass_on();
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

struct Telling {
    denials: Denials,
    spaces: Arc<Spaces>,
    refusals: Arc<Refusals>,
    log: Log,
}

impl Telling {
    /// Waits for something to tell, no longer than [`LOOK_EVERY`], and tells it.
    fn round(mut self) -> Self {
        wait(&self.denials);
        self.log.turn();
        for denial in self.denials.by_ref() {
            if denial.reason == NO_LISTENER {
                self.spaces.hurry();
            }
            // What comes late for a connection that is closed is met there, too, so it says nothing of anybody: counted alone.
            if denial.reason != NO_RECORD {
                self.refusals.take(&denial);
                self.log.take(&denial);
            }
        }
        self
    }
}

/// What was logged in this second.
struct Log {
    second: Instant,
    logged: u32,
    silent: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { second: Instant::now(), logged: 0, silent: 0 }
    }
}

impl Log {
    fn take(&mut self, denial: &Denial) {
        if self.logged < LOGGED_PER_SECOND {
            self.logged += 1;
            line(denial);
        } else {
            self.silent += 1;
        }
    }

    /// Says how many were not logged, once their second is over.
    fn turn(&mut self) {
        if self.second.elapsed() < Duration::from_secs(1) {
            return;
        }
        if self.silent > 0 {
            tracing::warn!(refusals = self.silent, "more refusals by the kernel");
        }
        *self = Self::default();
    }
}

/// Waits until there is something in the ring, or the time is up.
fn wait(denials: &Denials) {
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_EVERY.subsec_nanos()) };
    // Where it fails it is looked at all the same, and the pause keeps that from being all the time.
    let _ = poll(&mut [PollFd::new(denials, PollFlags::IN)], Some(&limit));
}

fn line(denial: &Denial) {
    let command = denial.command.escape_debug();
    let about =
        denial.about.as_deref().map_or_else(|| "-".to_owned(), |about| about.escape_debug().to_string());
    tracing::warn!(
        reason = denial.reason,
        to = %denial.to,
        %about,
        protocol = denial.protocol,
        pid = denial.tgid,
        uid = denial.uid,
        %command,
        "{}", if denial.reason == UNSEEN { "went past the connect hook" } else { "refused by the kernel" }
    );
}
