//! Blocks at the admin socket: whoever may read sees them, only an operator outside of every guard changes them.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::Admin;
use super::api::{Body, Front, command};
use super::peer::Peer;
use super::verb::{Answer, Outcome, Refusal, Verb};
use super::view::{BlockAsked, BlockView, UnblockAsked};
use crate::approval::Demand;
use crate::block::{Block, BlockError, Subject};

impl From<BlockError> for Refusal {
    fn from(error: BlockError) -> Self {
        let status = match &error {
            BlockError::Full => StatusCode::CONFLICT,
            BlockError::LongReason => StatusCode::PAYLOAD_TOO_LARGE,
            BlockError::Past(_) => StatusCode::BAD_REQUEST,
            BlockError::Unknown(_) => StatusCode::NOT_FOUND,
            BlockError::NotKept(..) | BlockError::NotLifted(..) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

pub(super) async fn list(State(front): State<Front>) -> Outcome {
    front.perform(Verb::Blocks).await
}

pub(super) async fn block(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Outcome {
    let by = operator(peer)?;
    let asked: BlockAsked = read(body)?;
    let subject = named(&asked.subject)?;
    let reason = asked.reason.map(|reason| front.scrub(&reason)).unwrap_or_default();
    front.perform(Verb::Block { subject, by, reason, until: asked.until }).await
}

pub(super) async fn unblock(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Outcome {
    let by = operator(peer)?;
    let asked: UnblockAsked = read(body)?;
    front.perform(Verb::Lift { subject: named(&asked.subject)?, by }).await
}

impl Admin {
    pub(super) fn in_force(&self) -> Answer {
        Answer::Blocks(self.blocks.list().iter().map(|block| BlockView::from(&**block)).collect())
    }

    pub(super) async fn block(self: &Arc<Self>, block: Block) -> Outcome {
        let subject = block.subject.clone();
        // Goes on to its end also when the caller leaves.
        let at_work = Arc::clone(self);
        let done = tokio::spawn(async move {
            let block = at_work.blocks.block(block).await?;
            let held = at_work.desk.list();
            for demand in held.iter().filter(|demand| is_of(&block.subject, demand)) {
                at_work.desk.withdraw(demand.id).await;
            }
            Ok::<_, BlockError>(block)
        });
        let block = done.await.map_err(|error| broken(&error))??;
        tracing::warn!(subject = %block.subject, by = %block.by, reason = %block.reason, "blocked");
        Ok(Answer::Block(BlockView { note: note(self, &subject), ..BlockView::from(&*block) }))
    }

    pub(super) async fn lift(&self, subject: Subject, by: String) -> Outcome {
        let (blocks, name) = (self.blocks.clone(), by.clone());
        let done = tokio::spawn(async move { blocks.unblock(&subject, &name).await });
        let block = done.await.map_err(|error| broken(&error))??;
        tracing::warn!(subject = %block.subject, %by, "unblocked");
        Ok(Answer::Block(BlockView::from(&*block)))
    }
}

/// The name of the operator who asks.
fn operator(peer: Peer) -> Result<String, Refusal> {
    command(&peer, "block and unblock")?;
    Ok(peer.name)
}

fn named(text: &str) -> Result<Subject, Refusal> {
    text.parse().map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("{error}")))
}

fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let body = body.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("the body is no JSON object with a `subject`: {error}"))
    })
}

fn broken(error: &tokio::task::JoinError) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// What is odd about a name that is blocked all the same: the policy may be broken, or about to change.
fn note(admin: &Admin, subject: &Subject) -> Option<String> {
    let set = admin.shelf.current();
    match subject {
        Subject::Target(name) if set.target(name).is_none() => {
            Some(format!("the policy in force has no target {name}"))
        }
        Subject::User(provider, _) if !set.providers().iter().any(|known| known.name == *provider) => {
            Some(format!("the policy in force has no identity provider {provider}"))
        }
        _ => None,
    }
}

/// Whether a demand is of a subject, as far as the demand says. A flow that waits on one knows more, and ends it itself.
fn is_of(subject: &Subject, demand: &Demand) -> bool {
    let process = demand.asker.process.as_ref();
    match subject {
        Subject::User(provider, subject) => {
            demand.asker.user.as_ref().is_some_and(|(by, user)| by == provider && user == subject)
        }
        Subject::Uid(uid) => process.is_some_and(|process| process.uid == *uid),
        Subject::Unit(_) => process.is_some_and(|process| process.key == subject.to_string()),
        Subject::Container(_) => process.is_some_and(|process| process.key.starts_with(&subject.to_string())),
        Subject::Target(name) => demand.target == *name,
    }
}
