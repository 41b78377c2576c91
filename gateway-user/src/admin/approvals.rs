//! The desk at the admin socket: the queue, each demand in full, votes, and taking back. A vote is taken only from the
//! person the kernel says it is; a demand only from who may take it back.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;

use super::Admin;
use super::api::Refusal;
use super::peer::Peer;
use super::view::{BallotView, DemandView, Ended, PriorView, QueueView, ShareView, Voted};
use crate::approval::{Ballot, Caller, Demand, ShownBody, Standing, VoteError};
use crate::limits::DEMAND_PAGE_BYTES_MAX;
use crate::operation::DemandId;

type Body = Result<Bytes, BytesRejection>;

/// Everything below `/v1/approvals`.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/approvals", get(list))
        .route("/v1/approvals/queues", get(queues))
        .route("/v1/approvals/{id}", get(show))
        .route("/v1/approvals/{id}/prior", get(prior))
        .route("/v1/approvals/{id}/approve", post(approve))
        .route("/v1/approvals/{id}/reject", post(reject))
        .route("/v1/approvals/{id}/withdraw", post(withdraw))
        .route("/v1/approvals/{id}/revoke", post(revoke))
}

impl From<VoteError> for Refusal {
    fn from(error: VoteError) -> Self {
        let status = match &error {
            VoteError::Unknown(_) => StatusCode::NOT_FOUND,
            VoteError::Expired => StatusCode::GONE,
            VoteError::Approved
            | VoteError::Rejected
            | VoteError::AlreadyVoted(_)
            | VoteError::Superseded => StatusCode::CONFLICT,
            VoteError::SharedAccount
            | VoteError::TwoAccounts { .. }
            | VoteError::NoPerson(_)
            | VoteError::OwnRequest(_)
            | VoteError::NotYours(_)
            | VoteError::NotApprover { .. } => StatusCode::FORBIDDEN,
            VoteError::NoComment(_) => StatusCode::BAD_REQUEST,
            VoteError::LongComment => StatusCode::PAYLOAD_TOO_LARGE,
            VoteError::Ledger(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

async fn list(State(admin): State<Arc<Admin>>) -> Json<Vec<DemandView>> {
    let (people, now) = ((admin.electorate)(), admin.desk.now());
    let demands = admin.desk.list();
    let brief = |demand: &_| DemandView::brief(demand, &admin.desk.shares(demand, &*people), &*people, now);
    Json(demands.iter().map(|demand| brief(demand)).collect())
}

async fn queues(State(admin): State<Arc<Admin>>) -> Json<Vec<QueueView>> {
    Json(admin.desk.queues().into_iter().map(QueueView::from).collect())
}

/// Which part of a body is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    offset: u64,
    limit: Option<usize>,
}

async fn show(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<DemandView>, Refusal> {
    let demand = open(&admin, &id)?;
    let people = (admin.electorate)();
    let shares = admin.desk.shares(&demand, &*people);
    let body = body(&admin, &demand).await?;
    let limit = page.limit.unwrap_or(DEMAND_PAGE_BYTES_MAX).min(DEMAND_PAGE_BYTES_MAX);
    let view = DemandView::whole(&demand, &shares, &*people, admin.desk.now());
    Ok(Json(view.with_body(body.map(|body| body.page(page.offset, limit)))))
}

async fn prior(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<Option<PriorView>>, Refusal> {
    let demand = open(&admin, &id)?;
    Ok(Json(admin.desk.prior(&demand).map(|prior| PriorView::from(&*prior))))
}

fn open(admin: &Admin, id: &str) -> Result<Arc<Demand>, Refusal> {
    let id = demand_id(id)?;
    Ok(admin.desk.show(id).ok_or(VoteError::Unknown(id))?)
}

async fn body(admin: &Admin, demand: &Arc<Demand>) -> Result<Option<ShownBody>, Refusal> {
    let (desk, demand) = (admin.desk.clone(), Arc::clone(demand));
    let read = tokio::task::spawn_blocking(move || desk.body(&demand)).await;
    let failed = |why: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why);
    read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}

async fn approve(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Voted>, Refusal> {
    vote(&admin, peer, &id, true, body).await
}

async fn reject(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Voted>, Refusal> {
    vote(&admin, peer, &id, false, body).await
}

async fn vote(
    admin: &Admin,
    peer: Peer,
    id: &str,
    approve: bool,
    body: Body,
) -> Result<Json<Voted>, Refusal> {
    let id = demand_id(id)?;
    let said = ballot(body)?;
    let comment = said.comment.map(|comment| (admin.scrub)(&comment).into_owned());
    let account = peer.outside(admin.shelf.current().guards(), "vote");
    let account = account.map_err(|why| Refusal::new(StatusCode::FORBIDDEN, why))?;
    let electorate = (admin.electorate)();
    let person = account.person(&*electorate)?.name.clone();
    let ballot = Ballot { approve, once: said.once, comment };
    let standing = admin.desk.vote(id, account, ballot, electorate).await?;
    tracing::info!(demand = %id, %person, approve, ?standing, "vote");
    let (standing, shares) = match standing {
        Standing::Open(shares) => ("open", shares),
        Standing::Approved => ("approved", Vec::new()),
        Standing::Rejected => ("rejected", Vec::new()),
    };
    let approvals = shares.iter().map(ShareView::from).collect();
    Ok(Json(Voted { id: id.to_string(), person, standing: standing.into(), approvals }))
}

async fn withdraw(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Result<Json<Ended>, Refusal> {
    call_off(&admin, peer, &id, false).await
}

async fn revoke(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Result<Json<Ended>, Refusal> {
    call_off(&admin, peer, &id, true).await
}

async fn call_off(admin: &Admin, peer: Peer, id: &str, revoke: bool) -> Result<Json<Ended>, Refusal> {
    let id = demand_id(id)?;
    let outside = peer.outside(admin.shelf.current().guards(), "take back what it did not ask");
    let (account, operator, free) = (peer.account, peer.is_operator(), outside.is_ok());
    let caller = Caller { uid: peer.uid, account, operator, free };
    let by = admin.desk.call_off(id, revoke, caller, (admin.electorate)()).await;
    let by = by.map_err(|error| match (error, outside) {
        (VoteError::NotYours(_), Err(why)) => Refusal::new(StatusCode::FORBIDDEN, why),
        (error, _) => error.into(),
    })?;
    tracing::info!(demand = %id, %by, revoke, "a demand was taken back");
    Ok(Json(Ended { id: id.to_string(), by }))
}

fn demand_id(text: &str) -> Result<DemandId, Refusal> {
    let detail = "the id of a demand is a UUID; see `tidegate approvals list`";
    text.parse().map_err(|_| Refusal::new(StatusCode::NOT_FOUND, detail))
}

/// An empty body is a vote without a comment.
fn ballot(body: Body) -> Result<BallotView, Refusal> {
    let body = body.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    if body.is_empty() {
        return Ok(BallotView::default());
    }
    serde_json::from_slice(&body).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("the vote is no JSON object with a `comment`: {error}"))
    })
}
