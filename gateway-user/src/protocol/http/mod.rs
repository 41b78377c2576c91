//! HTTP/1.1 (RFC 9110, RFC 9112): every request of a flow is screened, judged, carried out and answered, one after
//! the other. Refuses what has two readings; passes nothing blindly.

mod ask;
mod body;
mod exchange;
mod forward;
mod io;
mod source;
mod whole;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::sync::Notify;

use self::exchange::Exchange;
use self::io::{Screened, Stalled};
use super::{Broken, Served};
use crate::judge::Judge;
use crate::limits::{BLOCK_GRACE, FIRST_REQUEST_GRACE, HEAD_BYTES_MAX, HEADERS_MAX};
use crate::record::entry::Ending;
use crate::tally::Metered;
use crate::upstream::Dialer;

/// Drives one flow to its end.
///
/// # Errors
/// [`Broken`] when the connection ends in the middle of an exchange.
pub async fn drive(client: Metered, judge: &Judge, dialer: &Dialer) -> Result<Served, Broken> {
    let (entries, first) = (Arc::new(AtomicU64::new(0)), Notify::new());
    let (io, wire) = Screened::new(client);
    let exchange = Arc::new(Exchange::new(judge.clone(), dialer.clone(), wire));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .preserve_header_case(true)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX * 2)
        .auto_date_header(false)
        .serve_connection(
            io,
            service_fn(|request| {
                if entries.fetch_add(1, Ordering::Relaxed) == 0 {
                    first.notify_one();
                }
                let exchange = exchange.clone();
                async move { exchange.answer(request).await }
            }),
        );
    tokio::pin!(connection);
    let mut block = None;
    let served = tokio::select! {
        served = &mut connection => served,
        () = judge.draining().begun() => {
            // A connection that was taken has its first request answered, an exchange that has begun ends; an idle one ends now.
            let asked = async {
                if entries.load(Ordering::Relaxed) == 0 {
                    drop(tokio::time::timeout(FIRST_REQUEST_GRACE, first.notified()).await);
                }
            };
            tokio::select! {
                served = &mut connection => served,
                () = asked => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        blocked = judge.block_comes() => {
            connection.as_mut().graceful_shutdown();
            let ended = tokio::time::timeout(BLOCK_GRACE, connection).await;
            judge.cut(&blocked);
            block = Some(blocked.to_string());
            ended.unwrap_or(Ok(()))
        }
    };
    let entries = entries.load(Ordering::Relaxed);
    if let Some(block) = block {
        return Err(Broken { entries, ending: Ending::ByGate(block) });
    }
    match served {
        Ok(()) => Ok(Served { entries }),
        Err(error) => {
            // The engine's own words say where it was; the cause says what happened.
            let cause = std::error::Error::source(&error);
            let why = format!("{error}{}", cause.map(|cause| format!(": {cause}")).unwrap_or_default());
            let ending = if cause.is_some_and(Stalled::is) { Ending::ByUpstream } else { Ending::ByClient };
            Err(Broken { entries, ending: ending(why) })
        }
    }
}
