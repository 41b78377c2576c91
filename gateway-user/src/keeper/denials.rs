//! Logs what the kernel refused, as it tells it. Telemetry only: the counters are the truth, and no verdict waits here.

use std::time::{Duration, Instant};

use crate::kernel::{Denial, Denials, KernelLog};

/// What is no refusal, and worse: nobody decided.
const UNSEEN: &str = "unseen";
/// Refusals logged one by one in a second; the rest are logged as a number.
const LOGGED_PER_SECOND: u32 = 20;
/// How often the ring is emptied. It holds thousands; what it misses is counted.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Logs until the task is dropped: refusals, and the programs' own log where they keep one.
pub async fn log(mut denials: Denials, mut programs: Option<KernelLog>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let (mut second, mut logged, mut silent) = (Instant::now(), 0, 0_u64);
    loop {
        look.tick().await;
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
            if logged < LOGGED_PER_SECOND {
                logged += 1;
                tell(&denial);
            } else {
                silent += 1;
            }
        }
    }
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
