//! Which Unix sockets of guarded processes lead out of their guard, by what the kernel lists and by who holds what. Looks at
//! nothing itself.

use std::collections::{HashMap, HashSet};

use crate::kernel::diag::unix::{Name, Unix};

/// A guarded process, and the inodes of the sockets it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) started: u64,
    /// Not escaped.
    pub(super) command: String,
    pub(super) guard: String,
    pub(super) sockets: Vec<u64>,
}

/// A guarded process that is connected to somebody outside of its guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outside {
    pub(super) pid: u32,
    pub(super) started: u64,
    pub(super) command: String,
    pub(super) guard: String,
    /// Its own socket.
    pub(super) socket: u64,
    /// What the other end is bound to; `None`: that is in a network namespace that was not listed.
    pub(super) name: Option<Name>,
}

/// Those that lead to a bound socket that no process of the same guard holds, and whose name is not allowed.
pub(super) fn outside(
    sockets: &[Unix],
    members: &[Member],
    is_allowed: impl Fn(&str, &Name) -> bool,
) -> Vec<Outside> {
    let known = Known::of(sockets, members);
    let mut found = Vec::new();
    for member in members {
        for inode in &member.sockets {
            let Some(name) = known.leads_outside(*inode, &member.guard) else { continue };
            if name.is_some_and(|name| is_allowed(&member.guard, name)) {
                continue;
            }
            found.push(Outside {
                pid: member.pid,
                started: member.started,
                command: member.command.clone(),
                guard: member.guard.clone(),
                socket: *inode,
                name: name.cloned(),
            });
        }
    }
    found
}

struct Known<'a> {
    by_inode: HashMap<u64, &'a Unix>,
    /// The listeners of those that are not accepted yet, by the inode of who waits.
    waiting: HashMap<u64, &'a Unix>,
    /// Which guards hold a socket.
    held: HashSet<(u64, &'a str)>,
}

impl<'a> Known<'a> {
    fn of(sockets: &'a [Unix], members: &'a [Member]) -> Self {
        let by_inode = sockets.iter().map(|one| (u64::from(one.inode), one)).collect();
        let waits = |one: &'a Unix| one.waiting.iter().map(move |inode| (u64::from(*inode), one));
        let waiting = sockets.iter().flat_map(waits).collect();
        let held = members
            .iter()
            .flat_map(|one| one.sockets.iter().map(|inode| (*inode, one.guard.as_str())))
            .collect();
        Self { by_inode, waiting, held }
    }

    /// Whether a socket of this guard leads to a bound one outside of it; and to which name, where that is known.
    fn leads_outside(&self, inode: u64, guard: &str) -> Option<Option<&'a Name>> {
        // One that is not accepted yet belongs to whoever may accept it; where nobody may, it is closed.
        let peer = match self.by_inode.get(&inode)?.peer? {
            0 => u64::from(self.waiting.get(&inode)?.inode),
            peer => u64::from(peer),
        };
        if self.held.contains(&(peer, guard)) {
            return None;
        }
        match self.by_inode.get(&peer) {
            // Without a name it was made for this one, and handed over.
            Some(peer) => peer.name.as_ref().map(Some),
            None => Some(None),
        }
    }
}

#[cfg(test)]
mod tests;
