//! What operators outside of every guard may have done to the record while the gate runs. Nobody else may, and each act
//! is an event of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Json, Router};

use super::api::{Front, command};
use super::peer::Peer;
use super::verb::Refusal;
use super::view::RecordOrder;
use crate::limits::ADMIN_BODY_BYTES_MAX;
use crate::record::{Done, Order, RecordError, Recorder, Wanted};
use crate::store::keyfile::generations_below;

/// Where orders are given.
pub(super) const ORDERS: &str = "/v1/record/orders";

pub(super) async fn order(
    State(front): State<Front>,
    Extension(peer): Extension<Peer>,
    Json(order): Json<RecordOrder>,
) -> Result<Json<Done>, Refusal> {
    command(&peer, "change the record's keys or remove from it")?;
    let failed = |error: RecordError| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let (recorder, state) = front.gate().record().ok_or(RecordError::Elsewhere).map_err(failed)?;
    give(recorder, order_of(order, &peer.name, &state).map_err(failed)?).await
}

/// What may be ordered at the recorder's own socket, by whom the keeper let in; whom it did not gets to know why.
pub fn orders(asked: Result<String, String>, recorder: Option<Recorder>, state: PathBuf) -> Router {
    let order = move |Json(order): Json<RecordOrder>| async move {
        let by = asked.map_err(|why| Refusal::new(StatusCode::FORBIDDEN, why))?;
        let failed = |error: RecordError| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        let none = || RecordError::Unavailable("no enforcer runs, so the record is not open".into());
        let recorder = recorder.ok_or_else(none).map_err(failed)?;
        give(recorder, order_of(order, &by, &state).map_err(failed)?).await
    };
    Router::new().route(ORDERS, post(order)).layer(DefaultBodyLimit::max(ADMIN_BODY_BYTES_MAX))
}

async fn give(recorder: Recorder, order: Order) -> Result<Json<Done>, Refusal> {
    let done = tokio::task::spawn_blocking(move || recorder.order(order)).await;
    let done = done.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    done.map(Json).map_err(|error| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
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
