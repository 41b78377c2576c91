//! What may be asked at the admin socket, and by whom. Every error is a problem document (RFC 9457) that says what to
//! do; a vote is taken only from the person the kernel says it is.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use super::peer::Peer;
use super::view::{Announced, Problem, ReadingView, Reload, SignalsView, Status};
use super::{Admin, approvals, blocks, notices};
use crate::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_CONNECTIONS_PER_USER_MAX, READING_BYTES_MAX};
use crate::policy::Reloaded;
use crate::record::entry::{Event, RecordRead};
use crate::telemetry::Metrics;

/// The Content-Type of OpenMetrics text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An error on its way out.
pub(super) struct Refusal(StatusCode, String);

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(status, detail.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, detail) = self;
        let title = status.canonical_reason().unwrap_or("Refused").to_owned();
        let problem = Problem { title, status: status.as_u16(), detail };
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem)).into_response()
    }
}

/// Refuses whoever is no operator outside of every guard; `what` says what it may not do.
pub(super) fn command(admin: &Admin, peer: &Peer, what: &str) -> Result<(), Refusal> {
    peer.may_command(admin.shelf.current().guards(), what).map_err(|why| {
        tracing::warn!(uid = peer.uid, %why, "refused at the admin socket");
        Refusal::new(StatusCode::FORBIDDEN, why)
    })
}

/// Everything at the admin socket. Each connection adds its [`Peer`].
pub(super) fn router(admin: Arc<Admin>) -> Router {
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
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), admit))
        .layer(DefaultBodyLimit::max(ADMIN_BODY_BYTES_MAX))
        .with_state(admin)
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
        .route("/metrics", get(move || async move { exposition(&metrics) }))
        .fallback(nothing_there)
        .method_not_allowed_fallback(wrong_method)
}

/// Lets operators and declared people in.
async fn admit(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    // Whoever asked may take it back, and nothing else.
    let own = request.method() == Method::POST && request.uri().path().ends_with("/withdraw");
    if !own && !peer.may_read(&*(admin.electorate)()) {
        tracing::warn!(uid = peer.uid, "refused at the admin socket");
        let detail = format!(
            "uid {} is neither root, nor the gate's own user, nor a [[person]] of the policy",
            peer.uid
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(next.run(request).await)
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<Status> {
    Json(admin.status())
}

async fn signals(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<SignalsView>, Refusal> {
    if !peer.is_operator() {
        let detail = "only root or the gate's own user may see what everybody does";
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(Json(admin.signals()))
}

async fn reload(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Reload>, Refusal> {
    command(&admin, &peer, "have the policy read again")?;
    let shelf = admin.shelf.clone();
    let reloaded = tokio::task::spawn_blocking(move || shelf.reload())
        .await
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let (result, problems) = match reloaded {
        Reloaded::Same => ("same", None),
        Reloaded::Changed { .. } => ("changed", None),
        Reloaded::Refused { problems } => ("refused", Some(problems.to_string())),
    };
    let digest = admin.shelf.current().digest().to_string();
    Ok(Json(Reload { result: result.into(), digest, problems }))
}

pub(super) type Body = Result<Bytes, BytesRejection>;

/// Writes down that somebody is about to read the record. Only those who can open its files have a reading to announce.
async fn announce(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Json<Announced>, Refusal> {
    if !peer.is_operator() {
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
    let person = peer.account.and_then(|account| {
        let electorate = (admin.electorate)();
        account.person(&*electorate).ok().map(|person| person.name.clone())
    });
    let at = admin.desk.now().as_microsecond();
    let read = RecordRead {
        at,
        uid: peer.uid,
        login_uid: peer.account.and_then(|account| account.login_uid),
        person,
        command: (admin.scrub)(&reading.command).into_owned(),
        about: (admin.scrub)(&reading.about).into_owned(),
    };
    let unwritten = |error: crate::record::RecordError| {
        let detail = format!("the reading cannot be recorded, so it is refused: {error}");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    };
    admin.recorder.append(Event::RecordRead(read)).map_err(unwritten)?.await.map_err(unwritten)?;
    Ok(Json(Announced { at }))
}

async fn scrape(State(admin): State<Arc<Admin>>) -> Response {
    exposition(&admin.metrics)
}

fn exposition(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics.scrape()).into_response()
}

async fn nothing_there() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "nothing is there; docs/OPERATIONS.md lists what is")
}

async fn wrong_method() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this can be read or be done, not both")
}
