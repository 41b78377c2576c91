//! Accepts what the kernel sends and makes flows of it, within bounds. Refuses connections past the bounds and local
//! ones that the kernel does not vouch for.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hold::Hold;
use crate::intercept::{Arrival, Flow, unmapped};
use crate::kernel::{self, Login};
use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX};
use crate::operation::{Direction, SessionId};
use crate::session::{self, Gateway};
use crate::tally::{Metered, Tally};

/// After a failed accept (no file descriptors left) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts flows.
#[derive(Clone)]
pub(super) struct Door {
    gateway: Arc<Gateway>,
    hold: Hold,
    tally: Tally,
    /// The network namespace it is in, by its cookie; `None`: the gate's own.
    space: Option<u64>,
    rooms: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<String, usize>>>,
    flows: TaskTracker,
    /// Ends flows that outlive the drain.
    cut: CancellationToken,
}

impl Door {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        (hold, tally): (Hold, Tally),
        flows: TaskTracker,
        cut: CancellationToken,
    ) -> Self {
        Self {
            gateway,
            hold,
            tally,
            space: None,
            rooms: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            peers: Arc::default(),
            flows,
            cut,
        }
    }

    /// The same door in another network namespace.
    pub(super) fn within(&self, space: u64) -> Self {
        Self { space: Some(space), ..self.clone() }
    }

    /// Accepts on one listener until the task is dropped.
    pub(super) async fn accept(self, listener: TcpListener, direction: Direction) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let client = self.tally.take(stream);
            let Ok(room) = self.rooms.clone().try_acquire_owned() else {
                self.gateway.bench.metrics.refused(direction);
                client.refuse("as many flows are open as the gate serves at once");
                tracing::warn!(%peer, "closed a connection: as many are open as the gate serves at once");
                continue;
            };
            self.flows.spawn(self.clone().serve(client, peer, direction, room));
        }
    }

    async fn serve(
        self,
        client: Metered,
        peer: SocketAddr,
        direction: Direction,
        _room: OwnedSemaphorePermit,
    ) {
        let flow = match self.flow(client.socket(), peer, direction).await {
            Ok(flow) => flow,
            Err(why) => {
                self.gateway.bench.metrics.refused(direction);
                client.refuse("who calls, or where to, cannot be established");
                return tracing::warn!(%peer, %why, "closed a connection");
            }
        };
        let who =
            flow.workload.as_ref().map_or_else(|| flow.peer.ip().to_string(), |workload| workload.key());
        let Some(_place) = Place::take(&self.peers, who) else {
            self.gateway.bench.metrics.refused(direction);
            client.refuse("the peer has as many open as one peer may");
            return tracing::warn!(%peer, "closed a connection: this peer has as many open as one peer may");
        };
        if let Err(error) = client.socket().set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        self.cut.run_until_cancelled(session::serve(self.gateway.clone(), flow, client)).await;
    }

    async fn flow(&self, stream: &TcpStream, peer: SocketAddr, direction: Direction) -> Result<Flow, String> {
        let seen = kernel::identify(stream)
            .map_err(|error| format!("the kernel's record cannot be read: {error}"))?;
        let local = stream.local_addr().map_err(|error| error.to_string())?;
        let arrival = Arrival { direction, peer: unmapped(peer), local: unmapped(local), seen };
        // Who came with a record is known; who came without one is asked for.
        let asked = match arrival.seen {
            None => Some(self.is_own(arrival.peer.ip()).await),
            Some(_) => None,
        };
        let is_own = |address| asked.unwrap_or_else(|| kernel::is_own_address(address));
        let destination = arrival.destination(is_own).map_err(|unknown| unknown.to_string())?;
        let login = arrival.seen.as_ref().map_or(Login::Unknown, |seen| seen.login);
        let (guard, workload) = match arrival.seen {
            None => (None, None),
            Some(seen) => {
                let guard = self.guard_name(seen.guard);
                let resolved = self.hold.resolve(seen).await;
                (guard, Some(Arc::new(resolved.map_err(|error| error.to_string())?)))
            }
        };
        let direction = self.meant(direction, destination).await;
        Ok(Flow {
            session: SessionId::now(),
            direction,
            peer: arrival.peer,
            destination,
            space: self.space,
            workload,
            login,
            guard,
        })
    }

    /// A guarded process that dials a protected service of this host by its address comes as an outbound flow, like all
    /// it does; the service's own rules are the ones to ask.
    async fn meant(&self, direction: Direction, destination: SocketAddr) -> Direction {
        let set = self.gateway.bench.shelf.current();
        let is_service = set.target_at(Direction::Inbound, destination).is_some();
        // Where it cannot be told whether the address is ours, the service's rules are asked.
        match direction == Direction::Outbound
            && is_service
            && self.is_own(destination.ip()).await.unwrap_or(true)
        {
            true => Direction::Inbound,
            false => direction,
        }
    }

    /// Whether an address is own in the network namespace of this door.
    async fn is_own(&self, address: IpAddr) -> io::Result<bool> {
        match self.space {
            None => kernel::is_own_address(address),
            Some(space) => self.hold.is_own(space, address).await,
        }
    }

    fn guard_name(&self, id: u32) -> Option<String> {
        if id == 0 {
            return None;
        }
        let set = self.gateway.bench.shelf.current();
        let guard = set.guards().iter().find(|guard| kernel::guard_id(&guard.name) == id);
        // A guard that policy no longer has still holds its process until the tables follow.
        Some(guard.map_or_else(|| format!("guard {id}"), |guard| guard.name.clone()))
    }
}

/// One of the connections that one peer may have.
struct Place {
    peers: Arc<Mutex<HashMap<String, usize>>>,
    who: String,
}

impl Place {
    fn take(peers: &Arc<Mutex<HashMap<String, usize>>>, who: String) -> Option<Self> {
        let mut counts = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(who.clone()).or_default();
        if *count >= CONNECTIONS_PER_PEER_MAX {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { peers: peers.clone(), who })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_more_than_its_places_and_gets_them_back() {
        let peers = Arc::default();
        let mut taken: Vec<Place> =
            (0..CONNECTIONS_PER_PEER_MAX).map(|_| Place::take(&peers, "uid:1".into()).unwrap()).collect();
        assert!(Place::take(&peers, "uid:1".into()).is_none());
        assert!(Place::take(&peers, "uid:2".into()).is_some());
        taken.pop();
        assert!(Place::take(&peers, "uid:1".into()).is_some());
        taken.clear();
        assert!(peers.lock().unwrap().is_empty());
    }
}
