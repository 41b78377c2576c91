//! What an end-to-end test needs: hosts of its own, real servers, real clients, and the gate between them.
//!
//! A [`Host`] is a network namespace, a cgroup and a folder; everything in it goes when it is dropped, also after a
//! panic, an interrupt, or (at the next start) a kill. A [`Seat`] is a place on it where processes run: which
//! namespace, which cgroup, which user. Clients, servers and the [`Gate`] itself sit somewhere.
//!
//! Nothing here gives up quietly: what the harness cannot do fails the test, with the logs of everything it started.
//! A test that panics (asserts, unwraps) prints those logs; one that returns an error does not, so prefer the former.

pub mod client;
pub mod dialer;
pub mod gate;
pub mod host;
pub mod keys;
pub mod message;
pub mod process;
pub mod recorded;
pub mod seat;
pub mod servers;
pub mod space;
pub mod sweep;
pub mod terminal;
pub mod upstream;
pub mod web;

pub use client::Client;
pub use gate::{Builder, Gate};
pub use host::Host;
pub use keys::Keys;
pub use message::{Request, Response};
pub use process::{Finished, Process};
pub use seat::Seat;
pub use servers::{Nginx, Oidc};
pub use space::Space;
pub use sweep::root_cgroup_lock;
pub use terminal::Terminal;
pub use upstream::{Answer, Upstream};
pub use web::Answered;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for anything that should take no time. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The project's root folder.
#[must_use]
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests lie in the workspace")
}

/// A program that cargo built beside the running test: `target/debug/NAME`.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo xtask build`, or the tests by `cargo xtask test`",
        path.display()
    );
    path
}

/// Waits until the question has an answer.
///
/// # Panics
/// After [`PATIENCE`], naming what was awaited.
pub fn eventually<T>(awaited: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, awaited, ask)
}

/// The same, for so long.
///
/// # Panics
/// When it does not come.
pub fn eventually_within<T>(patience: Duration, awaited: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} in vain: {awaited}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sets a flag when dropped, so that threads which work until then end with the test, also where it fails: a scope of
/// threads waits for all of them.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
