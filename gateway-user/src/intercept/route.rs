//! Which target a request is for. An address names a target by itself; a guarded process may also name one by host,
//! if the name and the address agree. Refuses everything else.

use std::net::{IpAddr, SocketAddr};

use super::{Flow, Names};
use crate::operation::Direction;
use crate::policy::Set;
use crate::policy::nouns::Target;
use crate::wire::uri::Authority;

/// The target of one request.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The target.
    pub target: &'a Target,
}

/// Why a request has no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misrouted {
    /// No target is at this destination.
    #[error("no target is declared for {0}")]
    Undeclared(String),
    /// The name in the request is not one of the target's, or is not at the address that was dialled.
    #[error("the Host {host} does not belong to the address that was dialled")]
    Disagree {
        /// The name in the request.
        host: String,
    },
}

/// The target at this destination, before any request names a host.
#[must_use]
pub fn by_address<'a>(set: &'a Set, flow: &Flow) -> Option<&'a Target> {
    at_address(set, flow.direction, flow.destination)
}

fn at_address(set: &Set, direction: Direction, destination: SocketAddr) -> Option<&Target> {
    set.targets().iter().find(|target| {
        target.direction == direction
            && target.ports.contains(&destination.port())
            && match target.direction {
                Direction::Inbound if target.addresses.is_empty() => true,
                _ => target.addresses.iter().any(|block| block.contains(destination.ip())),
            }
    })
}

/// Where a request goes, and in which words it says so.
#[derive(Debug, Clone, Copy)]
pub struct Heading<'a> {
    /// The way across the gate.
    pub direction: Direction,
    /// The address that was dialled.
    pub destination: SocketAddr,
    /// Whether a guard holds the process.
    pub guarded: bool,
    /// The authority in the request.
    pub host: &'a Authority,
}

/// A target as a request names it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// The target.
    pub target: &'a Target,
    /// Whether the name in the request must still be found to be that of the address.
    pub by_name: bool,
}

/// The target that a request heads for, as far as that can be told without asking for names.
///
/// # Errors
/// [`Misrouted`] when there is none, or when name and target disagree.
pub fn heads_for<'a>(set: &'a Set, heading: &Heading<'_>) -> Result<Named<'a>, Misrouted> {
    let Heading { direction, destination, guarded, host } = *heading;
    let disagree = || Misrouted::Disagree { host: host.host.clone() };
    if direction == Direction::Outbound && host.port.unwrap_or(80) != destination.port() {
        return Err(disagree());
    }
    if let Some(target) = at_address(set, direction, destination) {
        let literal = host.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == destination.ip());
        return match literal || target.hosts.is_empty() || names_target(target, &host.host) {
            true => Ok(Named { target, by_name: direction == Direction::Outbound && !literal }),
            false => Err(disagree()),
        };
    }
    let by_name = match guarded {
        true => set.target_named(&host.host, destination.port()).filter(|t| t.direction == direction),
        false => None,
    };
    let target = by_name.ok_or_else(|| Misrouted::Undeclared(destination.to_string()))?;
    Ok(Named { target, by_name: true })
}

/// Finds the target that a request with this `Host` is for.
///
/// # Errors
/// [`Misrouted`] when there is none, or when name and address disagree.
pub async fn route<'a>(
    set: &'a Set,
    flow: &Flow,
    names: &Names,
    host: &Authority,
) -> Result<Route<'a>, Misrouted> {
    let (direction, destination) = (flow.direction, flow.destination);
    let named = heads_for(set, &Heading { direction, destination, guarded: flow.guard.is_some(), host })?;
    match !named.by_name || names.agree(&host.host, destination.ip()).await {
        true => Ok(Route { target: named.target }),
        false => Err(Misrouted::Disagree { host: host.host.clone() }),
    }
}

fn names_target(target: &Target, host: &str) -> bool {
    target.hosts.iter().any(|pattern| match pattern.strip_prefix("*.") {
        Some(suffix) => host
            .strip_suffix(suffix)
            .and_then(|front| front.strip_suffix('.'))
            .is_some_and(|front| !front.is_empty()),
        None => pattern == host,
    })
}
