//! Serves the other network namespaces where the gate listens, as they come and go.

use std::collections::HashMap;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::accept::Door;
use super::hold::Hold;
use crate::keeper::Change;
use crate::kernel::Listeners;
use crate::operation::Direction;

/// How long nothing is asked after an answer that was none.
const PAUSE: Duration = Duration::from_secs(1);

/// Accepts in each, until the task is dropped, which closes its listeners.
pub(super) async fn serve(hold: Hold, door: Door) {
    let mut served: HashMap<u64, JoinSet<()>> = HashMap::new();
    loop {
        match hold.space(served.keys().copied().collect()).await {
            Ok(Some(Change::Came { set, space, listeners })) => {
                served.insert(set, accept(&door.within(space), listeners));
            }
            // What was accepted there goes on; nothing more is.
            Ok(Some(Change::Went(set))) => drop(served.remove(&set)),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "other network namespaces are served as they were; asking again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn accept(door: &Door, listeners: Listeners) -> JoinSet<()> {
    let mut accepting = JoinSet::new();
    let both = [(listeners.outbound, Direction::Outbound), (listeners.inbound, Direction::Inbound)];
    for (listeners, direction) in both {
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => drop(accepting.spawn(door.clone().accept(listener, direction))),
                Err(error) => tracing::error!(%error, "cannot wait on a listener of a network namespace"),
            }
        }
    }
    accepting
}
