//! What the service manager hears of the gate (sd_notify(3)): ready only of a gate that is open, alive only of one that beats.
//! Says nothing where no service manager asks.

use sd_notify::NotifyState;

/// By these a child could speak for this process: no child gets them.
pub const SETTINGS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The gate is open.
pub fn open() {
    tell(&[NotifyState::Ready, NotifyState::Watchdog, NotifyState::Status("the gate is open")]);
}

/// The kernel has heard that the gate lives.
pub fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

/// The gate changes and goes on; [`open`] says when.
pub fn changing(how: &str) {
    // systemd from 253 on wants to know when the change began.
    let now = NotifyState::monotonic_usec_now();
    let mut said = vec![NotifyState::Reloading, NotifyState::Status(how)];
    said.extend(now);
    tell(&said);
}

/// The gate is shut against its will, and tries to open again.
pub fn shut(why: &str) {
    tell(&[NotifyState::Status(why)]);
}

/// The gate ends, as it was told to.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("the gate is shut; flows may end")]);
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "the service manager is not told how the gate is");
    }
}
