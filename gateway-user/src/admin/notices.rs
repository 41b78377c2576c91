//! The outbox at the admin socket: how each channel does, what nobody took, and trying again. Only operators outside of
//! every guard send anything.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Router};

use super::Admin;
use super::api::{Front, command};
use super::peer::Peer;
use super::verb::{Answer, Outcome, Refusal, Verb};
use super::view::{ChannelView, DeadView, Resent, Tested};
use crate::notify::PostError;

/// What only operators may do here.
const SEND: &str = "have messages sent";

/// Everything below `/v1/notify`.
pub(super) fn routes() -> Router<Front> {
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

async fn list(State(front): State<Front>) -> Outcome {
    front.perform(Verb::Channels).await
}

async fn dead(State(front): State<Front>) -> Outcome {
    front.perform(Verb::Dead).await
}

async fn retry(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Outcome {
    command(&peer, SEND)?;
    front.perform(Verb::Retry(id)).await
}

async fn test(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Outcome {
    command(&peer, SEND)?;
    front.perform(Verb::Test(name)).await
}

impl Admin {
    pub(super) fn channels(&self) -> Answer {
        Answer::Channels(self.post.states().into_iter().map(ChannelView::from).collect())
    }

    pub(super) fn dead(&self) -> Answer {
        Answer::Dead(self.post.dead().into_iter().map(DeadView::from).collect())
    }

    pub(super) async fn retry(&self, id: String) -> Outcome {
        let messages = self.post.retry(&id).await?;
        Ok(Answer::Resent(Resent { id, messages }))
    }

    pub(super) async fn test(&self, channel: String) -> Outcome {
        self.post.test(&channel).await?;
        Ok(Answer::Tested(Tested { channel }))
    }
}
