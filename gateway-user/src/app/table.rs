//! What the kernel is told of a policy set: addresses, services and guards as rows. A unit or container that is not
//! there has no cgroup yet, and is looked for again.

use std::path::{Path, PathBuf};

use crate::kernel::{Block, GuardRow, ServiceRow, Table, TargetRow};
use crate::operation::Direction;
use crate::policy::Set;
use crate::policy::nouns::Guard;

/// Levels below the cgroup root that are searched. systemd nests user services seven deep.
const DEPTH_MAX: usize = 10;
/// Directories looked at in one search.
const DIRECTORIES_MAX: usize = 50_000;

/// The kernel's table for this set, with the cgroups as they are now.
#[must_use]
pub fn of(set: &Set, cgroup_root: &Path) -> Table {
    let mut table = Table::default();
    for target in set.targets() {
        let blocks =
            target.addresses.iter().map(|b| Block { address: b.address, prefix: b.prefix }).collect();
        let ports = target.ports.clone();
        match target.direction {
            Direction::Outbound => table.targets.push(TargetRow { blocks, ports }),
            Direction::Inbound => table.services.push(ServiceRow { blocks, ports }),
        }
    }
    let directories = match set.guards().iter().any(|g| !g.units.is_empty() || !g.containers.is_empty()) {
        true => directories(cgroup_root),
        false => Vec::new(),
    };
    table.guards = set.guards().iter().map(|guard| row(guard, cgroup_root, &directories)).collect();
    table
}

fn row(guard: &Guard, root: &Path, directories: &[PathBuf]) -> GuardRow {
    let named = directories.iter().filter(|directory| {
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        guard.units.iter().any(|unit| unit == name)
            || guard.containers.iter().any(|id| name.contains(id.as_str()))
    });
    let listed = guard.cgroups.iter().map(|path| root.join(path.trim_start_matches('/')));
    GuardRow {
        name: guard.name.clone(),
        cgroups: listed.chain(named.cloned()).collect(),
        uids: guard.uids.clone(),
        dns: guard.dns.clone(),
    }
}

/// Every cgroup below `root`, breadth first, bounded.
fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..DEPTH_MAX {
        let mut next = Vec::new();
        for directory in level {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            next.extend(
                entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()),
            );
            if found.len() + next.len() > DIRECTORIES_MAX {
                tracing::warn!("more cgroups than are searched for guarded units");
                found.extend(next);
                return found;
            }
        }
        found.extend(next.iter().cloned());
        level = next;
    }
    found
}
