//! Takes flows from the kernel: who is behind one, and where it meant to go. Refuses local flows the kernel does not
//! vouch for, and flows past the bounds.

mod names;
mod route;

pub use names::Names;
pub use route::{Misrouted, Route, route};

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use crate::kernel::Seen;
use crate::operation::{Direction, SessionId, Workload};

/// One intercepted connection.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Its session.
    pub session: SessionId,
    /// Which way it goes.
    pub direction: Direction,
    /// The client's address.
    pub peer: SocketAddr,
    /// Where the client meant to go.
    pub destination: SocketAddr,
    /// The process behind it, for local flows.
    pub workload: Option<Arc<Workload>>,
    /// The guard that holds the process.
    pub guard: Option<String>,
}

/// Why a connection is not a flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A local client without a kernel record: it did not come through the hooks.
    #[error("a local connection from {0} that the kernel programs did not see")]
    Unvouched(SocketAddr),
}

/// What the kernel knows of one accepted connection, mapped addresses unmapped.
#[derive(Debug)]
pub struct Arrival {
    /// Which listener accepted it.
    pub direction: Direction,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address it was accepted on.
    pub local: SocketAddr,
    /// The kernel's record of the process.
    pub seen: Option<Seen>,
}

impl Arrival {
    /// Where the client meant to go.
    ///
    /// # Errors
    /// [`Unknown::Unvouched`] for a local flow without a kernel record.
    pub fn destination(&self) -> Result<SocketAddr, Unknown> {
        match (&self.seen, self.direction) {
            (Some(seen), _) => Ok(unmapped(seen.destination)),
            (None, Direction::Inbound) if !is_own_address(self.peer.ip()) => Ok(unmapped(self.local)),
            (None, _) => Err(Unknown::Unvouched(self.peer)),
        }
    }
}

/// `::ffff:a.b.c.d` as `a.b.c.d`.
#[must_use]
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether this address belongs to this host: only then can a socket be bound to it.
fn is_own_address(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}
