//! The enforcer as a process of its own: what it needs comes from the keeper, what it records goes to the recorder.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::ending::Signs;
use super::hold::Hold;
use super::{AppError, Ended, Opened, Operators, enforce, open_policy};
use crate::admin::{self, Admin};
use crate::config::Settings;
use crate::keeper::{self, Client, Lost};
use crate::limits::KEEPER_TIMEOUT;
use crate::record::{Connect, RecordError, Recorder};
use crate::store::keyfile;
use crate::store::keyring::Keyring;
use crate::{kernel, policy};

/// How often a recorder, or admin, that is being started is asked for.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Runs the enforcer that a keeper started, over the line it gave.
///
/// # Errors
/// As [`super::run`].
pub async fn enforce_kept(settings: Settings, line: OwnedFd) -> Result<Ended, AppError> {
    let settings = own(settings);
    let keeper = Client::over(line).map_err(AppError::io("the line to the keeper"))?;
    let shelf = open_policy(&settings)?;
    let mut work = JoinSet::new();
    // Not a part of the work: what still runs while the gate drains needs the keeper, too.
    let listening = tokio::spawn(keeper.clone().listen());
    work.spawn(async move {
        if let Ok(Lost) = listening.await {
            tracing::error!("the keeper is gone; so is this enforcer");
        }
    });
    let mut signs = Signs::listen()?;
    let recorder = tokio::select! {
        recorder = recorder(keeper.clone()) => recorder?,
        () = signs.stopped() => return Ok(Ended::Stopped),
    };
    let sealing =
        Keyring::open_or_make(&keyfile::Place::below(&settings.state)).map_err(RecordError::from)?;
    keeper.door().await.map_err(AppError::io("the admin socket"))?;
    let operators = Operators::Kept(keeper.clone());
    let record = Opened::of(recorder, sealing);
    enforce(&settings, (shelf, record), Hold::Kept(keeper), operators, (work, signs)).await
}

/// Does what admin asks for, and the next one when that is gone, until the task is dropped.
pub(super) async fn answer_admin(keeper: Client, admin: Arc<Admin>) {
    loop {
        let line = keeper.admin().await.and_then(|line| {
            line.set_nonblocking(true)?;
            UnixStream::from_std(line)
        });
        match line {
            Ok(line) => {
                if let Err(error) = admin::serve(line, admin.clone()).await {
                    tracing::error!(%error, "the line to admin");
                }
            }
            // It is being started.
            Err(error) => tracing::debug!(%error, "there is no line to admin"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// The directory that this one lies in, unless that holds everything.
fn above(directory: &Path) -> PathBuf {
    let parent = directory.parent().filter(|parent| parent.parent().is_some());
    parent.unwrap_or(directory).to_owned()
}

/// These settings, with what is the enforcer's own.
fn own(settings: Settings) -> Settings {
    Settings { state: settings.state.join(keeper::ENFORCER), ..settings }
}

/// What hands over to the recorder, and to the next one when that is gone.
async fn recorder(keeper: Client) -> Result<Recorder, AppError> {
    let here = Handle::current();
    let connect: Connect = Box::new(move || {
        let begun = Instant::now();
        loop {
            match here.block_on(keeper.record()) {
                Err(error) if begun.elapsed() > KEEPER_TIMEOUT => return Err(error),
                // It is being started.
                Err(_) => std::thread::sleep(AGAIN_AFTER),
                line => return line,
            }
        }
    });
    let opened = tokio::task::spawn_blocking(move || Recorder::through(connect)).await;
    Ok(opened.map_err(|error| AppError::io("the recorder")(io::Error::other(error)))??)
}

/// What an enforcer that is another user may open: policy and the files it names to read, its own directory to write. Not
/// the record, and none of its keys.
#[must_use]
pub fn reach(settings: &Settings) -> kernel::Reach {
    let mut reach = kernel::Reach {
        // Also where another directory is put in its place.
        read: vec![above(&settings.policies)],
        write: vec![settings.state.join(keeper::ENFORCER), PathBuf::from("/dev/null")],
        network: true,
        outlives: false,
    };
    // The files that policy names. One that it names later, in a directory that it does not name now, cannot be read.
    let named = policy::read(&settings.policies).map(|set| keeper::files_named(&set)).unwrap_or_default();
    reach.read.extend(named.iter().filter_map(|file| super::parent(file)));
    reach
}
