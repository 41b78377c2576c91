//! `GET /v1/coverage`: what reaches past the gate, for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::api::Front;
use super::peer::Peer;
use super::verb::{Answer, Outcome, Refusal, Verb};
use crate::record::entry::DestroyedSocket;
use crate::tally::Reconciled;

/// What the gate does not see, as far as the kernel shows it now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Coverage {
    /// How many hooks there should be.
    pub hooks: usize,
    /// Those that are not attached where the load put them.
    pub hooks_missing: Vec<String>,
    /// Connections to targets or of guarded processes, since the load, that the connect hook did not see. The log names
    /// each with its process; those that are still open are in `past`.
    pub unseen: u64,
    /// What the kernel counted of the flows of every target and guard, beside what the enforcer decoded and recorded.
    pub flows: Reconciled,
    /// Sockets that reach, or try to reach, past the gate.
    pub past: Vec<Past>,
    /// How many more.
    pub left_out: u64,
    /// What the kernel programs did, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A socket past the gate: described as one that is destroyed would be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Past(pub DestroyedSocket);

impl Coverage {
    /// Whether every hook is there, nothing reaches past the gate now, nothing went past the connect hook, and every flow and
    /// byte is explained.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.hooks_missing.is_empty()
            && self.unseen == 0
            && self.past.is_empty()
            && self.left_out == 0
            && self.flows.is_whole()
    }
}

/// What the enforcer says of the flows that it took, for whoever may ask the kernel himself.
pub(super) async fn account(State(front): State<Front>, Extension(peer): Extension<Peer>) -> Outcome {
    for_operators(&peer)?;
    front.perform(Verb::Account).await
}

pub(super) async fn coverage(State(front): State<Front>, Extension(peer): Extension<Peer>) -> Outcome {
    for_operators(&peer)?;
    front.perform(Verb::Coverage).await
}

/// Refuses whoever is no operator.
pub(super) fn for_operators(peer: &Peer) -> Result<(), Refusal> {
    let detail = "only root or the gate's own user may see what everybody does";
    if peer.operator { Ok(()) } else { Err(Refusal::new(StatusCode::FORBIDDEN, detail)) }
}

impl Admin {
    pub(super) async fn look(self: Arc<Self>) -> Outcome {
        let looked = tokio::task::spawn_blocking(move || (self.coverage)()).await;
        let looked =
            looked.map_err(|error| error.to_string()).and_then(|looked| looked.map_err(|e| e.to_string()));
        let failed = |why| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why);
        looked.map(|looked| Answer::Coverage(Box::new(looked))).map_err(failed)
    }
}
