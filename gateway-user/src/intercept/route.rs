//! Which target a request is for. An address names a target by itself; a guarded process may also name one by host,
//! if the name and the address agree. Refuses everything else.

use std::net::IpAddr;

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
    set.targets().iter().find(|target| {
        target.direction == flow.direction
            && target.ports.contains(&flow.destination.port())
            && match target.direction {
                Direction::Inbound if target.addresses.is_empty() => true,
                _ => target.addresses.iter().any(|block| block.contains(flow.destination.ip())),
            }
    })
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
    let disagree = || Misrouted::Disagree { host: host.host.clone() };
    if flow.direction == Direction::Outbound && host.port.unwrap_or(80) != flow.destination.port() {
        return Err(disagree());
    }
    if let Some(target) = by_address(set, flow) {
        let literal = host.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == flow.destination.ip());
        let named = names_target(target, &host.host);
        return match flow.direction {
            Direction::Inbound if target.hosts.is_empty() || named || literal => Ok(Route { target }),
            Direction::Inbound => Err(disagree()),
            Direction::Outbound if literal || target.hosts.is_empty() || named => {
                match literal || names.agree(&host.host, flow.destination.ip()).await {
                    true => Ok(Route { target }),
                    false => Err(disagree()),
                }
            }
            Direction::Outbound => Err(disagree()),
        };
    }
    let by_name = match flow.guard {
        Some(_) => {
            set.target_named(&host.host, flow.destination.port()).filter(|t| t.direction == flow.direction)
        }
        None => None,
    };
    match by_name {
        None => Err(Misrouted::Undeclared(flow.destination.to_string())),
        Some(target) if names.agree(&host.host, flow.destination.ip()).await => Ok(Route { target }),
        Some(_) => Err(disagree()),
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
