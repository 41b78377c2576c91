//! What the gate does not see, as far as the kernel shows it now: hooks that are not where the load put them, sockets that
//! reach past the gate, and flows that the kernel counted and the enforcer did not. Changes nothing; asked by operators and by `tidegate coverage`, also while no enforcer runs.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::admin::coverage::{Coverage, Past};
use crate::identity::holders::{Places, holders};
use crate::keeper::older::{self, CutError};
use crate::keeper::table;
use crate::kernel::{self, Flows, Status, Watch};
use crate::policy::Set;
use crate::tally::{Account, Names, Reconciled, Tally, compare};

/// Sockets named in one answer. More are counted.
const PAST_TOLD_MAX: usize = 1000;
/// Looks at the counts before a gap between them counts as one: what is under way between kernel and enforcer takes microseconds,
/// on a busy host a moment.
const LOOKS: usize = 20;
/// Between two of them.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What may go wrong, in words.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Looks at the hooks, at every socket of the caller's network namespace, and at the counts of flows, beside what the enforcer
/// says of them (`None`: there is none).
///
/// # Errors
/// Nothing is loaded there, or the kernel cannot be asked: what is not known is not covered.
pub fn coverage(
    pins: &Path,
    set: &Set,
    account: impl Fn() -> Result<Option<Account>, Fault>,
) -> Result<Coverage, Fault> {
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
        flows: reconciled(pins, set, &places, account)?,
        past: sockets,
        counters: status.counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
    })
}

/// What the kernel counted beside what the enforcer says, once only what stays a gap is one.
fn reconciled(
    pins: &Path,
    set: &Set,
    places: &Places,
    account: impl Fn() -> Result<Option<Account>, Fault>,
) -> Result<Reconciled, Fault> {
    let flows = Flows::open(pins)?;
    let mut names = names(set)?;
    let mut look = || -> Result<Reconciled, Fault> {
        let before = account()?;
        let seen = flows.read()?;
        let after = account()?;
        for id in seen.passed.iter().filter_map(|one| one.cgroup) {
            let (cgroup, unit) = places.of(id);
            names.cgroups.extend(unit.or(cgroup).map(|name| (id, name)));
        }
        Ok(compare(&seen, before.as_ref().zip(after.as_ref()), &names))
    };
    let mut found = look()?;
    for _ in 1..LOOKS {
        if found.is_settled() {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
        found = found.still(look()?);
    }
    Ok(found)
}

fn names(set: &Set) -> Result<Names, Fault> {
    let (table, _) = table::of(set, &kernel::cgroup2_root()?)?;
    let places =
        kernel::Table { targets: table.targets, services: table.services, ..kernel::Table::default() };
    Ok(Names {
        rows: kernel::row_names(&places)?,
        guards: set
            .guards()
            .iter()
            .map(|guard| (kernel::guard_id(&guard.name), guard.name.clone()))
            .collect(),
        cgroups: BTreeMap::new(),
    })
}

/// The hooks that are not attached where the load put them.
fn missing(status: &Status) -> Vec<String> {
    let missing = status.programs.iter().filter(|program| program.id.is_none());
    missing.map(|program| program.name.to_owned()).collect()
}

/// As [`coverage`], for the admin socket.
pub(super) fn asked(pins: &Path, set: &Set, tally: &Tally) -> io::Result<Coverage> {
    coverage(pins, set, || Ok(Some(tally.account()))).map_err(io::Error::other)
}
