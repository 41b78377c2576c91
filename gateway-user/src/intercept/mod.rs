//! Takes flows from the kernel: who is behind one, and where it meant to go. Refuses local flows the kernel does not
//! vouch for, and flows past the bounds.

mod names;
mod route;

pub use names::Names;
pub use route::{Heading, Misrouted, Named, Route, by_address, heads_for, route, suits};

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::kernel::{self, Login, Seen};
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
    /// The network namespace it came from, by its cookie; `None`: the gate's own.
    pub space: Option<u64>,
    /// The process behind it, for local flows.
    pub workload: Option<Arc<Workload>>,
    /// The login behind that process, as the kernel recorded it; what `/proc` said of an unknown one is in `workload`.
    pub login: Login,
    /// The guard that holds the process.
    pub guard: Option<String>,
}

impl Flow {
    /// The place that a request for this host goes to, as people approve it. Outbound it is the host, which was found to be
    /// at the address that was dialled: the addresses of one name are one place. Inbound a host proves nothing, so it is
    /// the address.
    #[must_use]
    pub fn place(&self, host: &str) -> String {
        let (ip, port) = (self.destination.ip().to_canonical(), self.destination.port());
        match self.direction {
            Direction::Inbound => SocketAddr::new(ip, port).to_string(),
            Direction::Outbound if host.contains(':') => format!("[{host}]:{port}"),
            Direction::Outbound => format!("{host}:{port}"),
        }
    }
}

/// Why a connection is not a flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A local client without a kernel record: it did not come through the hooks.
    #[error("a local connection from {0} that the kernel programs did not see")]
    Unvouched(SocketAddr),
    /// A record of the other direction: somebody brought a redirected socket to the wrong listener.
    #[error("a connection from {0} that came to the wrong listener")]
    Misplaced(SocketAddr),
    /// It cannot be told whether the client is local.
    #[error("it cannot be told whether {peer} is this host: {why}")]
    Undecided {
        /// The client's address.
        peer: SocketAddr,
        /// What the system said.
        why: String,
    },
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
    /// Where the client meant to go. `is_own` says whether an address is own where the flow was accepted: whoever comes from
    /// it is local.
    ///
    /// # Errors
    /// [`Unknown::Unvouched`] for a local flow without a kernel record.
    pub fn destination(
        &self,
        is_own: impl FnOnce(IpAddr) -> io::Result<bool>,
    ) -> Result<SocketAddr, Unknown> {
        match (&self.seen, self.direction) {
            (Some(seen), direction) if of(seen.kind) == direction => Ok(unmapped(seen.original)),
            (Some(_), _) => Err(Unknown::Misplaced(self.peer)),
            (None, Direction::Outbound) => Err(Unknown::Unvouched(self.peer)),
            (None, Direction::Inbound) => {
                let undecided =
                    |error: io::Error| Unknown::Undecided { peer: self.peer, why: error.to_string() };
                match is_own(self.peer.ip()).map_err(undecided)? {
                    true => Err(Unknown::Unvouched(self.peer)),
                    false => Ok(unmapped(self.local)),
                }
            }
        }
    }
}

/// `::ffff:a.b.c.d` as `a.b.c.d`.
#[must_use]
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn of(kind: kernel::Kind) -> Direction {
    match kind {
        kernel::Kind::Outbound => Direction::Outbound,
        kernel::Kind::Inbound => Direction::Inbound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_name_are_one_place_outbound_and_each_its_own_inbound() {
        let to = |direction, destination: &str, host| {
            let (peer, destination) = ("127.0.0.1:5".parse().unwrap(), destination.parse().unwrap());
            let (session, login) = (SessionId::now(), Login::None);
            Flow { session, direction, peer, destination, workload: None, space: None, login, guard: None }
                .place(host)
        };
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        assert_eq!(to(outbound, "192.0.2.7:80", "api.example"), "api.example:80");
        assert_eq!(to(outbound, "192.0.2.8:80", "api.example"), "api.example:80");
        assert_eq!(to(outbound, "192.0.2.7:81", "api.example"), "api.example:81");
        assert_eq!(to(outbound, "[2001:db8::1]:80", "2001:db8::1"), "[2001:db8::1]:80");
        assert_eq!(to(inbound, "192.0.2.7:80", "api.example"), "192.0.2.7:80");
        assert_eq!(to(inbound, "[::ffff:192.0.2.7]:81", "api.example"), "192.0.2.7:81");
    }
}
