//! What operators outside of every guard may have done to the record while the gate runs. Nobody else may, and each act
//! is an event of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::Admin;
use super::api::{Refusal, command};
use super::peer::Peer;
use super::view::RecordOrder;
use crate::record::{Done, Order, RecordError, Wanted};
use crate::store::keyfile::generations_below;

pub(super) async fn order(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Json(order): Json<RecordOrder>,
) -> Result<Json<Done>, Refusal> {
    command(&admin, &peer, "change the record's keys or remove from it")?;
    let failed = |error: RecordError| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let order = order_of(order, &peer.name(&*(admin.electorate)()), &admin.state).map_err(failed)?;
    let recorder = admin.recorder.clone();
    let done = tokio::task::spawn_blocking(move || recorder.order(order)).await;
    let done = done.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    done.map(Json).map_err(failed)
}

/// The order in the record's own words.
///
/// # Errors
/// What is sealed outside the record cannot be read.
pub fn order_of(order: RecordOrder, by: &str, state: &std::path::Path) -> Result<Order, RecordError> {
    let by = by.to_owned();
    Ok(match order {
        RecordOrder::Prune { older_than, bodies_only } => {
            let age = i64::try_from(older_than).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            let before = jiff::Timestamp::now().as_microsecond().saturating_sub(age);
            Order::Prune(Wanted {
                bodies: Some(before),
                lanes: BTreeMap::new(),
                heads: (!bodies_only).then_some(before),
                oldest: None,
                evenly: false,
                by,
                why: format!("older than {older_than} seconds, on demand"),
            })
        }
        RecordOrder::Rekey => Order::Rekey { by },
        RecordOrder::ForgetKeys => Order::ForgetKeys { used: generations_below(state)? },
        RecordOrder::RotateSigningKey => Order::RotateSigningKey { by },
    })
}
