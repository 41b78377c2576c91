//! Logs what the kernel refused, as it tells it. Telemetry only: the counters are the truth, and no verdict waits here.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Spaces;
use crate::kernel::{Denial, Denials, KernelLog};

/// What is no refusal, and worse: nobody decided.
const UNSEEN: &str = "unseen";
/// What another network namespace lacks.
const NO_LISTENER: &str = "refused_no_listener";
/// Refusals logged one by one in a second; the rest are logged as a number.
const LOGGED_PER_SECOND: u32 = 20;
/// How often the ring is emptied at least. It holds thousands; what it misses is counted.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// And at most.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Logs until the task is dropped: refusals, and the programs' own log where they keep one. Has namespaces looked for where
/// somebody was refused for want of a listener.
///
/// # Errors
/// The ring cannot be waited on.
pub async fn log(
    mut denials: Denials,
    mut programs: Option<KernelLog>,
    spaces: Arc<Spaces>,
) -> io::Result<()> {
    let (mut second, mut logged, mut silent) = (Instant::now(), 0, 0_u64);
    loop {
        denials = tokio::task::spawn_blocking(move || waited(denials)).await.map_err(io::Error::other)?;
        if let Some(programs) = &mut programs {
            programs.pass_on();
        }
        if second.elapsed() >= Duration::from_secs(1) {
            if silent > 0 {
                tracing::warn!(refusals = silent, "more refusals by the kernel");
            }
            (second, logged, silent) = (Instant::now(), 0, 0);
        }
        for denial in denials.by_ref() {
            if denial.reason == NO_LISTENER {
                spaces.hurry();
            }
            if logged < LOGGED_PER_SECOND {
                logged += 1;
                tell(&denial);
            } else {
                silent += 1;
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// The ring, once there is something in it, or the time is up.
fn waited(denials: Denials) -> Denials {
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_EVERY.subsec_nanos()) };
    // Where it fails it is looked at all the same, and the pause keeps that from being all the time.
    let _ = poll(&mut [PollFd::new(&denials, PollFlags::IN)], Some(&limit));
    denials
}

fn tell(denial: &Denial) {
    let command = denial.command.escape_debug();
    tracing::warn!(
        reason = denial.reason,
        to = %denial.to,
        protocol = denial.protocol,
        pid = denial.tgid,
        uid = denial.uid,
        %command,
        "{}", if denial.reason == UNSEEN { "went past the connect hook" } else { "refused by the kernel" }
    );
}
