//! The recorder as a process of its own: the only one that writes the record, and the only one with its keys. Takes what an
//! enforcer hands over, and orders from operators whom the keeper lets in; nobody else's, and no other.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use super::{AppError, Ended, Options, open_record};
use crate::config::Settings;
use crate::keeper::{Errands, message::Errand};
use crate::limits::{DRAIN_TIMEOUT, RECORD_ORDERS_MAX};
use crate::record::entry::CredentialClaimed;
use crate::record::warrant::Warrants;
use crate::record::witness::Kind;
use crate::record::{DIRECTORY, Recorder, line};
use crate::store::keyfile::KEYS;
use crate::{admin, kernel};

/// How often a line that nobody should have is ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Enforcers that wait for the one before them to end. The keeper has one at a time.
const WAITING_MAX: usize = 4;

/// What the recorder may open: the record, its keys, and where checkpoints are shown.
#[must_use]
pub fn reach_of_recorder(settings: &Settings, options: &Options) -> kernel::Reach {
    let files = options.witnesses.iter().filter_map(|witness| match witness {
        Kind::File(path) => super::parent(path),
        _ => None,
    });
    let own = [settings.state.join(DIRECTORY), settings.state.join(KEYS), PathBuf::from("/dev/null")];
    let key = settings.record_key.as_deref().and_then(super::parent);
    kernel::Reach {
        read: settings.credentials.iter().cloned().collect(),
        write: own.into_iter().chain(files).chain(key).collect(),
        network: false,
        outlives: true,
    }
}

/// Records for one enforcer after the other until the keeper is gone, or wants it to end.
///
/// # Errors
/// The line to the keeper is of no use.
pub async fn record_kept(settings: Settings, options: Options, line: OwnedFd) -> Result<Ended, AppError> {
    leave_signals_to_the_keeper()?;
    let keeper = Errands::over(line).map_err(AppError::io("the line to the keeper"))?;
    let open: Arc<ArcSwapOption<Serving>> = Arc::default();
    let (enforcers, waiting) = mpsc::channel(WAITING_MAX);
    let state = settings.state.clone();
    let warrants: Arc<Warrants> = Arc::default();
    let mut serving = {
        let (open, warrants) = (open.clone(), warrants.clone());
        tokio::task::spawn_blocking(move || serve(&settings, &options, waiting, (&open, &warrants)))
    };
    let broken = |error: tokio::task::JoinError| AppError::io("the record")(std::io::Error::other(error));
    let rooms = Arc::new(Semaphore::new(RECORD_ORDERS_MAX));
    loop {
        let errand = tokio::select! {
            errand = keeper.next() => errand.map_err(AppError::io("the line to the keeper"))?,
            // It ends by itself in no other way than by a panic: the keeper starts the next recorder.
            ended = &mut serving => return ended.map(|()| Ended::Stopped).map_err(broken),
        };
        let Some((errand, with)) = errand else { break };
        match errand {
            Errand::Enforcer => {
                if enforcers.try_send(UnixStream::from(with)).is_err() {
                    tracing::error!("more enforcers than one can be served");
                }
            }
            Errand::Warrants => {
                take_warrants(with.into(), warrants.clone()).map_err(AppError::io("the line to admin"))?;
            }
            Errand::Claims => {
                answer_claims(with.into(), open.clone()).map_err(AppError::io("the line to the keeper"))?;
            }
            Errand::Operator(asked) => operator(asked, with, &open, &state, &rooms),
            Errand::Caller(_) => tracing::error!("the keeper brought somebody who is not for the recorder"),
        }
    }
    drop(enforcers);
    if let Ok(ended) = tokio::time::timeout(DRAIN_TIMEOUT, &mut serving).await {
        return ended.map(|()| Ended::Stopped).map_err(broken);
    }
    // The enforcer went with the keeper; whoever has its line still is nobody.
    while !serving.is_finished() {
        open.load_full().into_iter().for_each(|serving| drop(serving.line.shutdown(Shutdown::Both)));
        tokio::time::sleep(LOOK_EVERY).await;
    }
    serving.await.map(|()| Ended::Stopped).map_err(broken)
}

/// A signal to all of the gate is for the keeper to follow: the enforcer has more to hand over.
pub(super) fn leave_signals_to_the_keeper() -> Result<(), AppError> {
    for kind in
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined2()]
    {
        let mut heard = signal(kind).map_err(AppError::io("cannot listen for signals"))?;
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
    }
    Ok(())
}

/// The enforcer that is served.
struct Serving {
    recorder: Recorder,
    line: UnixStream,
}

/// Opens the record for each enforcer, which closes in it what the one before left open.
fn serve(
    settings: &Settings,
    options: &Options,
    mut waiting: mpsc::Receiver<UnixStream>,
    (open, warrants): (&ArcSwapOption<Serving>, &Arc<Warrants>),
) {
    while let Some(line) = waiting.blocking_recv() {
        let recorder = match open_record(settings, options) {
            Ok((_, recorder)) => recorder,
            Err(error) => {
                tracing::error!(%error, "the record cannot be opened, so the gate stays shut");
                drop(line::fail(&line, &error.to_string()));
                continue;
            }
        };
        let serving = Arc::new(Serving { recorder: recorder.clone(), line });
        open.store(Some(serving.clone()));
        if let Err(error) = recorder.serve(&serving.line, warrants) {
            tracing::error!(%error, "the line to the enforcer");
        }
        open.store(None);
        recorder.close();
    }
}

/// Takes what admin says humans are about to have done, on a thread of its own: nothing waits for its end. There is one line for
/// each start of either, and admin lets go of the one before.
fn take_warrants(line: UnixStream, warrants: Arc<Warrants>) -> std::io::Result<()> {
    let taking = std::thread::Builder::new().name("record-warrants".to_owned());
    let taking = taking.spawn(move || {
        if let Err(error) = line::vouch::take(&line, &warrants) {
            tracing::error!(%error, "the line to admin");
        }
    });
    taking.map(drop)
}

/// Says what the record says of credentials, on a thread of its own. There is one line at a time.
fn answer_claims(line: UnixStream, open: Arc<ArcSwapOption<Serving>>) -> std::io::Result<()> {
    let answering = std::thread::Builder::new().name("record-claims".to_owned());
    let answering = answering.spawn(move || {
        let spend =
            |claim: &CredentialClaimed| open.load().as_ref().is_some_and(|it| it.recorder.spend(claim));
        if let Err(error) = line::claims::answer(&line, spend) {
            tracing::error!(%error, "the line to the keeper");
        }
    });
    answering.map(drop)
}

fn operator(
    asked: Result<String, String>,
    with: OwnedFd,
    open: &ArcSwapOption<Serving>,
    state: &Path,
    rooms: &Arc<Semaphore>,
) {
    let Ok(room) = Arc::clone(rooms).try_acquire_owned() else {
        return tracing::warn!("too many give orders to the record at once; one was closed");
    };
    if let Err(why) = &asked {
        tracing::warn!(%why, "refused at the recorder's socket");
    }
    let recorder = open.load_full().map(|serving| serving.recorder.clone());
    if let Err(error) = admin::answer(with.into(), admin::orders(asked, recorder, state.to_owned()), room) {
        tracing::warn!(%error, "cannot answer at the recorder's socket");
    }
}
