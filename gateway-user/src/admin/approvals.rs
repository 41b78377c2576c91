//! The desk at the admin socket: the queue, each demand in full, votes, and taking back. A vote is taken only from the
//! person the kernel says it is; a demand only from who may take it back.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;

use super::Admin;
use super::api::Front;
use super::peer::Peer;
use super::verb::{Answer, Outcome, Refusal, Verb, VoteCast};
use super::view::{BallotView, DemandView, Ended, PriorView, QueueView, ShareView, Voted};
use crate::approval::{Ballot, Caller, Demand, ShownBody, Standing, VoteError};
use crate::limits::DEMAND_PAGE_BYTES_MAX;
use crate::operation::DemandId;

type Body = Result<Bytes, BytesRejection>;

/// Everything below `/v1/approvals`.
pub(super) fn routes() -> Router<Front> {
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

async fn list(State(front): State<Front>) -> Outcome {
    front.perform(Verb::Demands).await
}

async fn queues(State(front): State<Front>) -> Outcome {
    front.perform(Verb::Queues).await
}

/// Which part of a body is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    offset: u64,
    limit: Option<u64>,
}

async fn show(State(front): State<Front>, Path(id): Path<String>, Query(page): Query<Page>) -> Outcome {
    let limit = page.limit.unwrap_or(DEMAND_PAGE_BYTES_MAX as u64);
    front.perform(Verb::Demand { id: demand_id(&id)?, offset: page.offset, limit }).await
}

async fn prior(State(front): State<Front>, Path(id): Path<String>) -> Outcome {
    front.perform(Verb::Prior(demand_id(&id)?)).await
}

async fn approve(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    body: Body,
) -> Outcome {
    vote(&front, peer, &id, true, body).await
}

async fn reject(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    body: Body,
) -> Outcome {
    vote(&front, peer, &id, false, body).await
}

async fn vote(front: &Front, peer: Peer, id: &str, approve: bool, body: Body) -> Outcome {
    let id = demand_id(id)?;
    let said = ballot(body)?;
    let comment = said.comment.map(|comment| front.scrub(&comment));
    let forbidden = |why| Refusal::new(StatusCode::FORBIDDEN, why);
    let account = peer.outside("vote").map_err(forbidden)?;
    let person = peer.person.map_err(forbidden)?;
    front.perform(Verb::Vote(VoteCast { id, account, person, approve, once: said.once, comment })).await
}

async fn withdraw(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Outcome {
    call_off(&front, peer, &id, false).await
}

async fn revoke(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Outcome {
    call_off(&front, peer, &id, true).await
}

async fn call_off(front: &Front, peer: Peer, id: &str, revoke: bool) -> Outcome {
    let id = demand_id(id)?;
    let outside = peer.outside("take back what it did not ask");
    let caller =
        Caller { uid: peer.uid, account: peer.account, operator: peer.operator, free: outside.is_ok() };
    let person = peer.person.ok().filter(|_| caller.free);
    let by = person.unwrap_or_else(|| format!("uid {}", peer.uid));
    let ended = front.perform(Verb::CallOff { id, revoke, caller, by }).await;
    match (ended, outside) {
        // What it would be told is who may; it is to know why it may not.
        (Err(refusal), Err(why)) if refusal.is(StatusCode::FORBIDDEN) => {
            Err(Refusal::new(StatusCode::FORBIDDEN, why))
        }
        (ended, _) => ended,
    }
}

impl Admin {
    pub(super) fn demands(&self) -> Answer {
        let (people, now) = ((self.electorate)(), self.desk.now());
        let demands = self.desk.list();
        let brief =
            |demand: &_| DemandView::brief(demand, &self.desk.shares(demand, &*people), &*people, now);
        Answer::Demands(demands.iter().map(|demand| brief(demand)).collect())
    }

    pub(super) fn queues(&self) -> Answer {
        Answer::Queues(self.desk.queues().into_iter().map(QueueView::from).collect())
    }

    pub(super) async fn demand(&self, id: DemandId, offset: u64, limit: u64) -> Outcome {
        let demand = self.open(id)?;
        let people = (self.electorate)();
        let shares = self.desk.shares(&demand, &*people);
        let body = self.body(&demand).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(DEMAND_PAGE_BYTES_MAX);
        let view = DemandView::whole(&demand, &shares, &*people, self.desk.now());
        Ok(Answer::Demand(Box::new(view.with_body(body.map(|body| body.page(offset, limit))))))
    }

    pub(super) fn prior(&self, id: DemandId) -> Outcome {
        let demand = self.open(id)?;
        let prior = self.desk.prior(&demand).map(|prior| Box::new(PriorView::from(&*prior)));
        Ok(Answer::Prior(prior))
    }

    fn open(&self, id: DemandId) -> Result<Arc<Demand>, Refusal> {
        Ok(self.desk.show(id).ok_or(VoteError::Unknown(id))?)
    }

    async fn body(&self, demand: &Arc<Demand>) -> Result<Option<ShownBody>, Refusal> {
        let (desk, demand) = (self.desk.clone(), Arc::clone(demand));
        let read = tokio::task::spawn_blocking(move || desk.body(&demand)).await;
        let failed = |why: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why);
        read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    pub(super) async fn vote(&self, cast: VoteCast) -> Outcome {
        let VoteCast { id, account, person: _, approve, once, comment } = cast;
        let electorate = (self.electorate)();
        // By the policy in force here, whoever says whose account it is.
        let person = account.person(&*electorate)?.name.clone();
        let ballot = Ballot { approve, once, comment };
        let standing = self.desk.vote(id, account, ballot, electorate).await?;
        tracing::info!(demand = %id, %person, approve, ?standing, "vote");
        let (standing, shares) = match standing {
            Standing::Open(shares) => ("open", shares),
            Standing::Approved => ("approved", Vec::new()),
            Standing::Rejected => ("rejected", Vec::new()),
        };
        let approvals = shares.iter().map(ShareView::from).collect();
        Ok(Answer::Voted(Voted { id: id.to_string(), person, standing: standing.into(), approvals }))
    }

    pub(super) async fn call_off(&self, id: DemandId, revoke: bool, caller: Caller) -> Outcome {
        let by = self.desk.call_off(id, revoke, caller, (self.electorate)()).await?;
        tracing::info!(demand = %id, %by, revoke, "a demand was taken back");
        Ok(Answer::Ended(Ended { id: id.to_string(), by }))
    }
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
