//! The policy set in force, replaced as a whole when its directory changes. Readers never wait.
//!
//! Refuses a directory with any mistake: the old set stays, and the fault is there to be seen until it is mended.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::watch;

use crate::operation::Sha256;

use super::files::{Files, Looks};
use super::last_good;
use super::problem::Problems;
use super::read::read_files;
use super::set::Set;
use super::watching::{Signs, signs};

/// Why there is no policy to start with.
#[derive(Debug, Error)]
#[error(
    "no policy set can be put in force, so nothing would be let through: {problems}\nand there is no last good set: {last_good}"
)]
pub struct NoPolicy {
    /// What is wrong with the directory.
    pub problems: Problems,
    /// Why the last good set cannot stand in.
    pub last_good: String,
}

/// What is in force, and what is wrong with the files if they are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Digest of the set in force.
    pub digest: Sha256,
    /// Why the directory as it is now is not in force; `None` when it is.
    pub fault: Option<Arc<str>>,
}

/// What a reload did.
#[derive(Debug, Clone)]
pub enum Reloaded {
    /// The files are those already in force.
    Same,
    /// Another set is in force now.
    Changed {
        /// Its digest.
        digest: Sha256,
    },
    /// The old set stays.
    Refused {
        /// What is wrong with the new files.
        problems: Problems,
    },
}

/// Holds the set in force. Clones share it.
#[derive(Debug, Clone)]
pub struct Shelf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    last_good: PathBuf,
    current: ArcSwap<Set>,
    files: Mutex<Held>,
    state: watch::Sender<State>,
    /// One reload at a time; readers do not take it.
    reloading: Mutex<()>,
}

/// The files behind what was read last.
#[derive(Debug)]
struct Held {
    in_force: Arc<Files>,
    /// Those that were refused, where they could be read at all.
    refused: Option<Arc<Files>>,
}

/// After the last sign of a change, before the files are read: editors and copies write in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// However many signs keep coming, the files are read after this.
const DEBOUNCE_MAX: Duration = Duration::from_secs(2);
/// How often the directory is looked at without any sign: file systems without inotify, links to files elsewhere.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Shelf {
    /// Reads the directory and puts it in force. Where it is broken, the files kept in `last_good` are put in force
    /// instead, loudly.
    ///
    /// # Errors
    /// When neither can be: the gate must stay shut.
    pub fn open(dir: &Path, last_good: &Path) -> Result<Self, NoPolicy> {
        let files = Files::read(dir);
        let read = files.and_then(|files| Ok((read_files(&files)?, files)));
        let (set, fault, held) = match read {
            Ok((set, files)) => {
                keep(last_good, &files);
                (set, None, Held { in_force: Arc::new(files), refused: None })
            }
            Err(problems) => {
                let kept = last_good::load(last_good).map(|files| files.at_home(dir));
                let (set, kept) = match kept.and_then(|files| Ok((read_files(&files)?, files))) {
                    Ok(kept) => kept,
                    Err(error) => return Err(NoPolicy { problems, last_good: error.to_string() }),
                };
                tracing::error!(
                    directory = %dir.display(), digest = %set.digest(), %problems,
                    "the policy directory is broken; the last good set is in force"
                );
                let refused = Files::read(dir).ok().map(Arc::new);
                (set, Some(Arc::from(problems.to_string())), Held { in_force: Arc::new(kept), refused })
            }
        };
        let state = State { digest: set.digest(), fault };
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            last_good: last_good.to_owned(),
            current: ArcSwap::from_pointee(set),
            files: Mutex::new(held),
            state: watch::Sender::new(state),
            reloading: Mutex::new(()),
        })))
    }

    /// The set in force. Never waits; the set that is returned never changes.
    #[must_use]
    pub fn current(&self) -> Arc<Set> {
        self.0.current.load_full()
    }

    /// The files of the set in force, and those that were read last and refused, if they were.
    #[must_use]
    pub fn files(&self) -> (Arc<Files>, Option<Arc<Files>>) {
        let held = self.0.held();
        (Arc::clone(&held.in_force), held.refused.clone())
    }

    /// What is wrong with the directory as it is now; `None` when it is in force.
    #[must_use]
    pub fn fault(&self) -> Option<Arc<str>> {
        self.0.state.borrow().fault.clone()
    }

    /// Tells every later change: another set in force, a fault, a fault mended. When a change is told,
    /// [`Shelf::current`] already gives the new set.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.0.state.subscribe()
    }

    /// Reads the directory now and puts it in force if nothing is wrong with it. Blocks for file reads.
    pub fn reload(&self) -> Reloaded {
        self.0.reload()
    }

    /// Follows the directory from now on, until every clone of this shelf is gone.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn watch(&self) -> std::io::Result<()> {
        let (inner, dir) = (Arc::downgrade(&self.0), self.0.dir.clone());
        let thread = std::thread::Builder::new().name("policy-watch".to_owned());
        thread.spawn(move || follow(&inner, &dir)).map(drop)
    }
}

impl Inner {
    fn reload(&self) -> Reloaded {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let files = match Files::read(&self.dir) {
            Ok(files) => files,
            Err(problems) => return self.refuse(problems, None),
        };
        if files.digest() == self.current.load().digest() {
            self.settle(files.digest());
            return Reloaded::Same;
        }
        match read_files(&files) {
            Ok(set) => {
                let digest = set.digest();
                keep(&self.last_good, &files);
                self.current.store(Arc::new(set));
                *self.held() = Held { in_force: Arc::new(files), refused: None };
                self.settle(digest);
                tracing::info!(directory = %self.dir.display(), %digest, "another policy set is in force");
                Reloaded::Changed { digest }
            }
            Err(problems) => self.refuse(problems, Some(files)),
        }
    }

    fn settle(&self, digest: Sha256) {
        self.change(State { digest, fault: None });
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, problems: Problems, files: Option<Files>) -> Reloaded {
        self.held().refused = files.map(Arc::new);
        let digest = self.current.load().digest();
        let fault: Arc<str> = Arc::from(problems.to_string());
        if self.change(State { digest, fault: Some(Arc::clone(&fault)) }) {
            tracing::error!(directory = %self.dir.display(), in_force = %digest, %fault, "policy refused; the old set stays");
        }
        Reloaded::Refused { problems }
    }

    fn change(&self, new: State) -> bool {
        self.state.send_if_modified(|state| {
            let modified = *state != new;
            *state = new;
            modified
        })
    }
}

/// Keeps files for a later start. A start without them is refused or older, so a failure is loud but no reason to keep
/// an older policy in force now.
fn keep(last_good: &Path, files: &Files) {
    if let Err(error) = last_good::save(last_good, files) {
        tracing::error!(directory = %last_good.display(), %error, "the policy in force cannot be kept for the next start");
    }
}

fn follow(inner: &Weak<Inner>, dir: &Path) {
    let mut signs = signs(dir);
    // Nothing is known of the time before the watch, so the first look counts as a sign.
    let mut seen = None;
    loop {
        let signed = signs.wait(LOOK_EVERY);
        if inner.strong_count() == 0 {
            return;
        }
        if signed {
            quiet(&mut signs);
        }
        signs.renew(dir);
        let looks = Looks::of(dir);
        if !signed && seen.as_ref() == Some(&looks) {
            continue;
        }
        seen = Some(looks);
        let Some(inner) = inner.upgrade() else { return };
        inner.reload();
    }
}

/// Waits until no sign has come for a moment.
fn quiet(signs: &mut Signs) {
    let started = std::time::Instant::now();
    while signs.wait(DEBOUNCE) && started.elapsed() < DEBOUNCE_MAX {}
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
