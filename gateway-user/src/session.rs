//! The spine: one flow, from accept to its last entry. Every session that was opened is closed, whatever happens in
//! between. Refuses to serve a flow whose opening cannot be recorded.

use std::sync::Arc;

use crate::intercept::{self, Flow};
use crate::judge::{Bench, Judge, now};
use crate::operation::{Direction, SessionId};
use crate::protocol::{self, Broken, Served};
use crate::record::entry::{Ending, Event, SessionClosed, SessionOpened};
use crate::record::{Durable, RecordError};
use crate::tally::Metered;
use crate::upstream::Dialer;

/// What every flow needs.
pub struct Gateway {
    /// What the judge needs.
    pub bench: Arc<Bench>,
    /// The road to targets.
    pub dialer: Dialer,
}

/// Serves one flow to its end: opens its session, judges its operations, closes it.
pub async fn serve(gateway: Arc<Gateway>, flow: Flow, mut client: Metered) {
    let (session, opening) = match Session::open(&gateway.bench, &flow) {
        Ok(opened) => opened,
        Err(error) => {
            let peer = flow.peer;
            client.refuse("its session cannot be recorded");
            return tracing::error!(%error, %peer, "closed a flow that cannot be recorded");
        }
    };
    client.recorded();
    let judge = Judge::new(gateway.bench.clone(), Arc::new(flow), opening);
    if !is_declared(&gateway.bench, judge.flow()) {
        let _ = judge.refuse_destination().await;
        return session.close(1, Ending::Refused("no target is declared there".into()));
    }
    match protocol::http::drive(client, &judge, &gateway.dialer).await {
        Ok(Served { entries }) => session.close(entries, Ending::Finished),
        Err(Broken { entries, ending }) => session.close(entries, ending),
    }
}

/// Whether any target can be meant: by address, or by a name that the request has yet to tell.
fn is_declared(bench: &Bench, flow: &Flow) -> bool {
    let set = bench.shelf.current();
    let by_name = || {
        flow.guard.is_some()
            && flow.direction == Direction::Outbound
            && set.targets().iter().any(|target| {
                target.direction == Direction::Outbound
                    && !target.hosts.is_empty()
                    && target.ports.contains(&flow.destination.port())
            })
    };
    intercept::by_address(&set, flow).is_some() || by_name()
}

/// The record of one flow; closes itself.
struct Session {
    id: SessionId,
    bench: Arc<Bench>,
    ending: Option<(u64, Ending)>,
}

impl Session {
    fn open(bench: &Arc<Bench>, flow: &Flow) -> Result<(Self, Durable), RecordError> {
        let target = intercept::by_address(&bench.shelf.current(), flow).map(|target| target.name.clone());
        let opened = SessionOpened {
            session: flow.session,
            at: now(),
            direction: flow.direction,
            peer: flow.peer.to_string(),
            destination: flow.destination.to_string(),
            workload: flow.workload.as_deref().cloned(),
            guard: flow.guard.clone(),
            target,
        };
        let opening = bench.recorder.append_soon(vec![Event::SessionOpened(opened)])?;
        bench.metrics.session_opened(flow.direction);
        Ok((Self { id: flow.session, bench: bench.clone(), ending: None }, opening))
    }

    fn close(mut self, entries: u64, ending: Ending) {
        self.ending = Some((entries, ending));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (entries, ending) = self.ending.take().unwrap_or_else(|| {
            let why = if self.bench.draining.is_on() {
                "the gate was stopped"
            } else {
                "a fault in the gate ended it"
            };
            (0, Ending::ByGate(why.into()))
        });
        let closed = SessionClosed { session: self.id, at: now(), entries, ending };
        // The record keeps an end until it can write it, also where it gives an error now.
        drop(self.bench.recorder.append_soon(vec![Event::SessionClosed(closed)]));
        self.bench.metrics.session_closed();
    }
}
