//! The outbox at the admin socket: how each channel does, what nobody took, and trying again. Only operators outside of
//! every guard send anything.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use super::Admin;
use super::api::{Refusal, command};
use super::peer::Peer;
use super::view::{ChannelView, DeadView, Resent, Tested};
use crate::notify::PostError;

/// What only operators may do here.
const SEND: &str = "have messages sent";

/// Everything below `/v1/notify`.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/notify", get(list))
        .route("/v1/notify/dead", get(dead))
        .route("/v1/notify/dead/{id}/retry", post(retry))
        .route("/v1/notify/channels/{name}/test", post(test))
}

impl From<PostError> for Refusal {
    fn from(error: PostError) -> Self {
        let status = match &error {
            PostError::NoChannel(_) | PostError::NoMessage(_) => StatusCode::NOT_FOUND,
            PostError::Undelivered(_) => StatusCode::CONFLICT,
            PostError::Full(_) | PostError::Ledger(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

async fn list(State(admin): State<Arc<Admin>>) -> Json<Vec<ChannelView>> {
    Json(admin.post.states().into_iter().map(ChannelView::from).collect())
}

async fn dead(State(admin): State<Arc<Admin>>) -> Json<Vec<DeadView>> {
    Json(admin.post.dead().into_iter().map(DeadView::from).collect())
}

async fn retry(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Result<Json<Resent>, Refusal> {
    command(&admin, &peer, SEND)?;
    let messages = admin.post.retry(&id).await?;
    Ok(Json(Resent { id, messages }))
}

async fn test(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Result<Json<Tested>, Refusal> {
    command(&admin, &peer, SEND)?;
    admin.post.test(&name).await?;
    Ok(Json(Tested { channel: name }))
}
