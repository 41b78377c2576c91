//! Cuts the connections that are older than what protects their peers, at a start and after every change of the kernel's
//! tables, and says which, for the record. What cannot be cut is said to be so; the egress hook drops its packets meanwhile.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::refusals::bounded;
use crate::identity::holders::{Holder, Places, holders};
use crate::kernel::{self, KernelError, Older, Watch, Why};
use crate::limits::SOCKETS_DESTROYED_TOLD_MAX;
use crate::operation::Direction;
use crate::policy::Set;
use crate::record::entry::{DestroyedSocket, SocketsDestroyed};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The kernel's tables cannot be opened.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The sockets cannot be listed, or the order not be given.
    #[error("the sockets of this host cannot be listed or destroyed: {0}")]
    Sockets(#[from] io::Error),
}

/// Finds and destroys them; gives what is to be recorded of it, if anything. Blocks: on the kernel's lists, and on `/proc`
/// where there is something to destroy.
pub(super) fn cut(set: &Set, pins: &Path, cgroups: &Path) -> Result<Option<SocketsDestroyed>, CutError> {
    let older = Watch::open(pins)?.older()?;
    if older.is_empty() {
        return Ok(None);
    }
    // Named before they go: a destroyed socket has no peer any more.
    let held =
        holders(&older.iter().map(|one| one.inode).filter(|inode| *inode != 0).collect::<HashSet<_>>());
    let outcomes = kernel::destroy(&older)?;
    let places = Places::new(cgroups);
    let told = older.iter().zip(outcomes).take(SOCKETS_DESTROYED_TOLD_MAX);
    let described = |(one, outcome): (&Older, _)| described(one, outcome, held.get(&one.inode), set, &places);
    let sockets: Vec<_> = told.map(|one| for_one_message(described(one))).collect();
    for one in &sockets {
        let (process, failed) = (one.process.as_deref().unwrap_or("-"), one.failed.as_deref().unwrap_or("-"));
        tracing::warn!(
            protocol = one.protocol,
            local = one.local,
            remote = one.remote,
            uid = one.uid,
            process,
            failed,
            "cut a connection older than its protection: {}",
            one.why
        );
    }
    let left_out = (older.len() - sockets.len()) as u64;
    Ok(Some(SocketsDestroyed { at: jiff::Timestamp::now().as_microsecond(), sockets, left_out }))
}

/// The same with texts so short that as many as are told fit into one message: a directory's name may be as long as somebody likes to
/// whom a cgroup was given.
pub(super) fn for_one_message(one: DestroyedSocket) -> DestroyedSocket {
    let (cgroup, unit) = (one.cgroup.as_deref().map(bounded), one.unit.as_deref().map(bounded));
    DestroyedSocket { cgroup, unit, ..one }
}

/// One such socket in words.
#[must_use]
pub fn described(
    one: &Older,
    outcome: io::Result<()>,
    holder: Option<&Holder>,
    set: &Set,
    places: &Places,
) -> DestroyedSocket {
    let (cgroup, unit) = one.cgroup.map_or((None, None), |cgroup| places.of(cgroup));
    let named = |direction, to| set.target_at(direction, to).map(|target| target.name.clone());
    let target = match one.why {
        Why::Service => named(Direction::Inbound, one.local),
        _ => named(Direction::Outbound, one.remote),
    };
    let guard =
        set.guards().iter().find(|guard| one.guard != 0 && kernel::guard_id(&guard.name) == one.guard);
    DestroyedSocket {
        protocol: one.protocol.to_owned(),
        local: one.local.to_string(),
        remote: one.remote.to_string(),
        uid: one.uid,
        process: holder.map(|holder| format!("{}[{}]", holder.command, holder.pid)),
        cgroup,
        unit,
        target,
        guard: guard.map(|guard| guard.name.clone()),
        why: why(one.why).to_owned(),
        failed: outcome.err().map(|error| error.to_string()),
    }
}

const fn why(why: Why) -> &'static str {
    match why {
        Why::Target => "it is connected to a target and did not come through the gate",
        Why::Service => "the gate does not stand in this connection of a protected service",
        Why::Guard => "its process is guarded and it did not come through the gate",
        Why::Exemption => "it went past the gate by an exemption that is over",
        Why::Lost => "its identity record was lost",
    }
}
