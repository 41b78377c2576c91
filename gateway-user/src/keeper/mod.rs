//! The keeper: the one process with privilege. Loads the programs, opens the doors, makes sockets that are let out, and
//! says which process is which; parses no byte that came over a network. What does, the enforcer, is its child: another
//! user, no capability, asking for each of these things by a message and getting it or a refusal. Its other children are users of
//! their own, too: the recorder writes what the enforcer hands it, admin talks to operators.
//!
//! Refuses a socket to a place that no policy file declares, whoever asks for it.

mod aide;
mod allowed;
mod child;
mod client;
pub mod denials;
mod dwellers;
mod errands;
mod guarded;
pub mod helpers;
mod link;
pub mod message;
pub mod older;
mod refusals;
mod releases;
mod serve;
mod spaces;
mod standing;
mod state;
pub mod table;
mod tables;
mod user;

use std::net::SocketAddr;

use crate::kernel::GuardRow;

pub use allowed::files_named;
pub use client::{Client, Lost};
pub use errands::Errands;
pub use refusals::Refusals;
pub use releases::Releases;
pub use serve::{Keeper, KeeperError, Parts};
pub use spaces::{Change, Counted, Spaces};
pub use standing::Standing;
pub use tables::Tables;
pub use user::{Beside, NoUser, User};

/// The enforcer's own directory below the state directory, where it is another user.
pub const ENFORCER: &str = "enforcer";

/// The guard over the enforcer itself, by its user: what it connects without a socket of the keeper's making comes to its own
/// door, and is denied there. It may ask the host's name servers.
#[must_use]
pub fn guard_over(user: User) -> GuardRow {
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    GuardRow {
        name: GUARD.to_owned(),
        uids: vec![user.uid],
        dns: name_servers(&resolver),
        own: true,
        ..GuardRow::default()
    }
}

/// The name of that guard.
const GUARD: &str = "tidegate";
/// Where name servers listen.
const DNS_PORT: u16 = 53;

/// The servers in text of the form of `/etc/resolv.conf` (resolv.conf(5)).
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    });
    servers.map(|address| SocketAddr::new(address, DNS_PORT)).collect()
}
