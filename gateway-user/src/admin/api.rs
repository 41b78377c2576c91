//! What may be asked at the admin socket, and by whom. Every error is a problem document (RFC 9457) that says what to
//! do; a vote is taken only from the person the kernel says it is.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use jiff::Timestamp;

use super::coverage::for_operators;
use super::peer::Peer;
use super::verb::{Answer, Doing, Gate, Outcome, Reading, Refusal, Verb};
use super::view::{Announced, ReadingView, Reload};
use super::{Admin, approvals, blocks, notices};
use crate::block::Block;
use crate::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_CONNECTIONS_PER_USER_MAX, READING_BYTES_MAX};
use crate::policy::Reloaded;
use crate::record::entry::{Event, RecordRead};
use crate::record::{RecordError, Recorder};
use crate::telemetry::Metrics;

/// What is behind the door, for whoever is let in.
#[derive(Clone)]
pub(super) struct Front {
    gate: Arc<dyn Gate>,
    /// Hides what every detector finds, in what people write.
    scrub: fn(&str) -> Cow<'_, str>,
}

impl Front {
    pub(super) fn of(gate: Arc<dyn Gate>, scrub: fn(&str) -> Cow<'_, str>) -> Self {
        Self { gate, scrub }
    }

    pub(super) fn gate(&self) -> &Arc<dyn Gate> {
        &self.gate
    }

    pub(super) async fn perform(&self, verb: Verb) -> Outcome {
        Arc::clone(&self.gate).perform(verb).await
    }

    pub(super) fn scrub(&self, text: &str) -> String {
        (self.scrub)(text).into_owned()
    }
}

/// Refuses whoever is no operator outside of every guard; `what` says what it may not do.
pub(super) fn command(peer: &Peer, what: &str) -> Result<(), Refusal> {
    peer.may_command(what).map_err(|why| {
        tracing::warn!(uid = peer.uid, %why, "refused at the admin socket");
        Refusal::new(StatusCode::FORBIDDEN, why)
    })
}

/// Everything at the admin socket. Each connection adds its [`Peer`].
pub(super) fn router(front: Front) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/signals", get(signals))
        .route("/v1/coverage", get(super::coverage::coverage))
        .route("/v1/coverage/account", get(super::coverage::account))
        .route("/v1/policy/reload", post(reload))
        .merge(approvals::routes())
        .merge(notices::routes())
        .route("/v1/record/readings", post(announce))
        .route("/v1/blocks", get(blocks::list).post(blocks::block))
        .route("/v1/blocks/lift", post(blocks::unblock))
        .route(super::record::ORDERS, post(super::record::order))
        .route("/metrics", get(scrape))
        .fallback(nothing_there)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(admit))
        .layer(DefaultBodyLimit::max(ADMIN_BODY_BYTES_MAX))
        .with_state(front)
}

/// For a user who has all the connections one may have: whatever is asked, the answer is that.
pub(super) fn crowded_router(uid: u32) -> Router {
    Router::new().fallback(move || async move {
        let detail = format!(
            "uid {uid} has {ADMIN_CONNECTIONS_PER_USER_MAX} connections here already; let them end, then ask again"
        );
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, detail)
    })
}

/// Metrics and nothing else.
pub(super) fn metrics_router(metrics: Metrics) -> Router {
    Router::new()
        .route("/metrics", get(move || async move { Answer::Metrics(metrics.scrape()) }))
        .fallback(nothing_there)
        .method_not_allowed_fallback(wrong_method)
}

/// Lets operators and declared people in.
async fn admit(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Result<Response, Refusal> {
    // Whoever asked may take it back, and nothing else.
    let own = request.method() == Method::POST && request.uri().path().ends_with("/withdraw");
    if !own && !peer.may_read() {
        tracing::warn!(uid = peer.uid, "refused at the admin socket");
        let detail = format!(
            "uid {} is neither root, nor the gate's own user, nor a [[person]] of the policy",
            peer.uid
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(next.run(request).await)
}

async fn status(State(front): State<Front>) -> Outcome {
    front.perform(Verb::Status).await
}

async fn signals(State(front): State<Front>, Extension(peer): Extension<Peer>) -> Outcome {
    for_operators(&peer)?;
    front.perform(Verb::Signals).await
}

async fn reload(State(front): State<Front>, Extension(peer): Extension<Peer>) -> Outcome {
    command(&peer, "have the policy read again")?;
    front.perform(Verb::Reload).await
}

async fn scrape(State(front): State<Front>) -> Outcome {
    front.perform(Verb::Metrics).await
}

pub(super) type Body = Result<Bytes, BytesRejection>;

/// Writes down that somebody is about to read the record. Only those who can open its files have a reading to announce.
async fn announce(State(front): State<Front>, Extension(peer): Extension<Peer>, body: Body) -> Outcome {
    if !peer.operator {
        let detail = "only root or the gate's own user can read the record, and announce it";
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    let body = body.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    let reading: ReadingView = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("no JSON object with `command` and `about`: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, detail)
    })?;
    if reading.command.len() + reading.about.len() > READING_BYTES_MAX {
        let detail = format!("a reading is announced in at most {READING_BYTES_MAX} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let reading = Reading {
        uid: peer.uid,
        login_uid: peer.account.and_then(|account| account.login_uid),
        person: peer.person.ok(),
        command: front.scrub(&reading.command),
        about: front.scrub(&reading.about),
    };
    front.perform(Verb::Announce(reading)).await
}

impl Gate for Admin {
    fn perform(self: Arc<Self>, verb: Verb) -> Doing {
        Box::pin(async move {
            Ok(match verb {
                Verb::Status => Answer::Status(Box::new(self.status())),
                Verb::Signals => Answer::Signals(Box::new(self.signals())),
                Verb::Coverage => return self.look().await,
                Verb::Account => Answer::Account(self.tally.account()),
                Verb::Metrics => Answer::Metrics(self.metrics.scrape()),
                Verb::Reload => return self.reload().await,
                Verb::Demands => self.demands(),
                Verb::Queues => self.queues(),
                Verb::Demand { id, offset, limit } => return self.demand(id, offset, limit).await,
                Verb::Prior(id) => return self.prior(id),
                Verb::Vote(cast) => return self.vote(cast).await,
                Verb::CallOff { id, revoke, caller, by: _ } => {
                    return self.call_off(id, revoke, caller).await;
                }
                Verb::Blocks => self.in_force(),
                Verb::Block { subject, by, reason, until } => {
                    return self.block(Block { subject, since: Timestamp::now(), by, reason, until }).await;
                }
                Verb::Lift { subject, by } => return self.lift(subject, by).await,
                Verb::Announce(reading) => return self.announce(reading).await,
                Verb::Channels => self.channels(),
                Verb::Dead => self.dead(),
                Verb::Retry(id) => return self.retry(id).await,
                Verb::Test(channel) => return self.test(channel).await,
            })
        })
    }

    fn record(&self) -> Option<(Recorder, PathBuf)> {
        Some((self.recorder.clone(), self.state.clone()))
    }
}

impl Admin {
    async fn reload(&self) -> Outcome {
        let shelf = self.shelf.clone();
        let reloaded = tokio::task::spawn_blocking(move || shelf.reload())
            .await
            .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        let (result, problems) = match reloaded {
            Reloaded::Same => ("same", None),
            Reloaded::Changed { .. } => ("changed", None),
            Reloaded::Refused { problems } => ("refused", Some(problems.to_string())),
        };
        let digest = self.shelf.current().digest().to_string();
        Ok(Answer::Reload(Reload { result: result.into(), digest, problems }))
    }

    async fn announce(&self, reading: Reading) -> Outcome {
        let Reading { uid, login_uid, person, command, about } = reading;
        let at = self.desk.now().as_microsecond();
        let unwritten = |error: RecordError| {
            let detail = format!("the reading cannot be recorded, so it is refused: {error}");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        };
        let read = Event::RecordRead(RecordRead { at, uid, login_uid, person, command, about });
        self.recorder.append(read).map_err(unwritten)?.await.map_err(unwritten)?;
        Ok(Answer::Announced(Announced { at }))
    }
}

async fn nothing_there() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "nothing is there; docs/OPERATIONS.md lists what is")
}

async fn wrong_method() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this can be read or be done, not both")
}
