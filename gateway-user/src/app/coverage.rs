//! What the gate does not see, as far as the kernel shows it now: hooks that are not where the load put them, and sockets
//! that reach past the gate. Changes nothing; asked by operators and by `tidegate coverage`, also while no enforcer runs.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::admin::coverage::{Coverage, Past};
use crate::identity::holders::{Places, holders};
use crate::keeper::older::{self, CutError};
use crate::kernel::{self, Status, Watch};
use crate::policy::Set;

/// Sockets named in one answer. More are counted.
const PAST_TOLD_MAX: usize = 1000;

/// Looks at the hooks, and at every socket of the caller's network namespace.
///
/// # Errors
/// Nothing is loaded there, or the kernel cannot be asked: what is not known is not covered.
pub fn coverage(pins: &Path, set: &Set) -> Result<Coverage, Box<dyn std::error::Error + Send + Sync>> {
    let status = kernel::status(pins)?;
    let past = Watch::open(pins).map_err(CutError::from).and_then(|watch| Ok(watch.past()?))?;
    let held = holders(&past.iter().map(|one| one.inode).filter(|inode| *inode != 0).collect::<HashSet<_>>());
    let places = Places::new(&kernel::cgroup2_root()?);
    let told = past.iter().take(PAST_TOLD_MAX);
    let sockets: Vec<Past> =
        told.map(|one| Past(older::described(one, Ok(()), held.get(&one.inode), set, &places))).collect();
    Ok(Coverage {
        hooks_missing: missing(&status),
        hooks: status.programs.len(),
        unseen: status.counters.get("unseen").copied().unwrap_or_default(),
        left_out: (past.len() - sockets.len()) as u64,
        past: sockets,
        counters: status.counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
    })
}

/// The hooks that are not attached where the load put them.
fn missing(status: &Status) -> Vec<String> {
    let missing = status.programs.iter().filter(|program| program.id.is_none());
    missing.map(|program| program.name.to_owned()).collect()
}

/// As [`coverage`], for the admin socket.
pub(super) fn asked(pins: &Path, set: &Set) -> io::Result<Coverage> {
    coverage(pins, set).map_err(io::Error::other)
}
