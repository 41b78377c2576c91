//! Targets, guards and services in the kernel's maps: published by difference, new before old.
//!
//! A publish that fails midway leaves more protected than asked for, never less.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use gateway_ebpf::abi::{
    self, Address, BLOCK_PORT_BITS, BlockData, BlockKey, DnsKey, ExemptKey, GUARD_LEVELS_MAX,
    GUARD_OVER_OTHERS, GUARD_OVER_THE_GATE, Guarding, Plain, UNIX_NAME_BYTES, UnixKey,
};
use serde::Serialize;

use super::pins::{self, cgroup2_root, map_path};
use super::raw::RawMap;
use super::{Block, ExemptRow, GuardRow, KernelError, Table, guard_id};

/// A guard's cgroup that does not exist now. A later publish may find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The guard.
    pub guard: String,
    /// The directory looked for.
    pub path: PathBuf,
}

/// What stands in the tables after a publish.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Address blocks times ports of targets.
    pub targets: usize,
    /// Address blocks times ports of services.
    pub services: usize,
    /// Guards.
    pub guards: usize,
    /// Guards' cgroups that do not exist.
    pub missing: Vec<Missing>,
}

/// Blocks, each with the names of those that declare it.
type Named = BTreeMap<BlockKey, BTreeSet<String>>;

/// A table in the kernel's terms.
#[derive(Debug, Default)]
pub(super) struct Rows {
    targets: Named,
    services: Named,
    guards: BTreeMap<u32, u32>,
    cgroups: BTreeMap<u64, u32>,
    levels: u32,
    uids: BTreeMap<u32, u32>,
    dns: BTreeSet<DnsKey>,
    unix: BTreeSet<UnixKey>,
    exempt_levels: u32,
    exempt_callers: BTreeSet<ExemptKey>,
    missing: Vec<Missing>,
}

/// Turns a table into rows; refuses what cannot be matched.
pub(super) fn resolve(table: &Table, gate_port: u16) -> Result<Rows, KernelError> {
    let mut rows = Rows::default();
    for target in &table.targets {
        add_blocks(&mut rows.targets, &target.name, &target.blocks, &target.ports)?;
    }
    for service in &table.services {
        if service.ports.contains(&gate_port) {
            return Err(KernelError::Row(format!(
                "port {gate_port} is the gate's own and cannot be a service's"
            )));
        }
        // Prefix 0 of the mapped space: both families.
        let everywhere = [Block { address: IpAddr::from([0u16; 8]), prefix: 0 }];
        let blocks = if service.blocks.is_empty() { &everywhere[..] } else { &service.blocks };
        add_blocks(&mut rows.services, &service.name, blocks, &service.ports)?;
    }
    for guard in &table.guards {
        add_guard(&mut rows, guard)?;
    }
    for exempt in &table.exempts {
        add_exempt(&mut rows, exempt)?;
    }
    Ok(rows)
}

/// What the rows of a table are called, by the number that the kernel counts them by.
///
/// # Errors
/// The table has what cannot be matched.
pub fn row_names(table: &Table) -> Result<BTreeMap<u32, String>, KernelError> {
    // Which port the gate has makes no difference to names.
    let rows = resolve(table, 0)?;
    Ok(rows
        .targets
        .values()
        .chain(rows.services.values())
        .map(|names| (number(names), joined(names)))
        .collect())
}

/// A row's number: the same names have the same number for ever, so that counts made before a reload are not read as another's.
fn number(names: &BTreeSet<String>) -> u32 {
    guard_id(&joined(names))
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn add_blocks(into: &mut Named, name: &str, blocks: &[Block], ports: &[u16]) -> Result<(), KernelError> {
    for block in blocks {
        for port in ports {
            into.entry(block_key(block, *port)?).or_default().insert(name.to_owned());
        }
    }
    Ok(())
}

fn block_key(block: &Block, port: u16) -> Result<BlockKey, KernelError> {
    let Block { address, prefix } = *block;
    if port == 0 {
        return Err(KernelError::Row(format!("{address}/{prefix}: port 0 cannot be dialled")));
    }
    any_port_key(block)
        .map(|key| BlockKey { data: BlockData { port: port.to_be_bytes(), ..key.data }, ..key })
}

/// The key of a block that stands for every port.
fn any_port_key(block: &Block) -> Result<BlockKey, KernelError> {
    let Block { address, prefix } = *block;
    let (bits, bytes) = match address {
        IpAddr::V4(_) if prefix > 32 => None,
        IpAddr::V4(v4) => Some((96 + u32::from(prefix), abi::mapped(v4.octets()))),
        IpAddr::V6(_) if prefix > 128 => None,
        IpAddr::V6(v6) => Some((u32::from(prefix), v6.octets())),
    }
    .ok_or_else(|| KernelError::Row(format!("{address}/{prefix}: the prefix is longer than the address")))?;
    // Checked above: at most 128, so the shift is at most 128 and `checked_shl` gives the empty mask there.
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    let address: Address = (u128::from_be_bytes(bytes) & mask).to_be_bytes();
    Ok(BlockKey { prefix: BLOCK_PORT_BITS + bits, data: BlockData { port: [0; 2], slot: [0; 2], address } })
}

fn add_guard(rows: &mut Rows, guard: &GuardRow) -> Result<(), KernelError> {
    let id = guard_id(&guard.name);
    let over = if guard.own { GUARD_OVER_THE_GATE } else { GUARD_OVER_OTHERS };
    if rows.guards.insert(id, over).is_some() {
        return Err(KernelError::Row(format!(
            "guard {:?} has the same number as another guard (or the same name); rename it",
            guard.name
        )));
    }
    for path in &guard.cgroups {
        let root = cgroup2_root()?;
        let (directory, level) = below(&root, path)?;
        match pins::inode(&directory) {
            Ok(cgroup) => {
                claim(&mut rows.cgroups, cgroup, id, &directory.display())?;
                rows.levels |= 1 << level;
            }
            Err(KernelError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                rows.missing.push(Missing { guard: guard.name.clone(), path: directory });
            }
            Err(error) => return Err(error),
        }
    }
    for uid in &guard.uids {
        claim(&mut rows.uids, *uid, id, &format_args!("uid {uid}"))?;
    }
    for server in &guard.dns {
        let address = match server.ip() {
            IpAddr::V4(v4) => abi::mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        };
        rows.dns.insert(DnsKey { guard: id, port: server.port(), zero: 0, address });
    }
    for name in unix_sockets(guard) {
        rows.unix.insert(unix_key(id, name)?);
    }
    Ok(())
}

/// Where a host takes what a process has to say of itself: its logs, and that it is ready.
const UNIX_SINKS: [&str; 4] = [
    "/run/systemd/journal/dev-log",
    "/run/systemd/journal/socket",
    "/run/systemd/journal/stdout",
    "/run/systemd/notify",
];

/// The Unix sockets outside that a guard's processes may connect to.
pub fn unix_sockets(guard: &GuardRow) -> impl Iterator<Item = &str> {
    UNIX_SINKS.into_iter().chain(guard.unix_sockets.iter().map(String::as_str))
}

/// A Unix socket's name as the kernel has it: an abstract one begins with a zero.
fn unix_key(guard: u32, name: &str) -> Result<UnixKey, KernelError> {
    let mut key = UnixKey { guard, name: [0; UNIX_NAME_BYTES] };
    let room = key.name.get_mut(..name.len()).filter(|room| room.len() < UNIX_NAME_BYTES);
    let room =
        room.ok_or_else(|| KernelError::Row(format!("{name:?} is too long for a Unix socket's name")))?;
    room.copy_from_slice(name.as_bytes());
    if name.starts_with('@') {
        key.name[0] = 0;
    }
    Ok(key)
}

fn add_exempt(rows: &mut Rows, exempt: &ExemptRow) -> Result<(), KernelError> {
    if let Some(uid) = exempt.uids.iter().find(|uid| rows.uids.contains_key(uid)) {
        return Err(KernelError::Row(format!(
            "exempt {:?} names uid {uid}, which is guarded (the enforcer's own user always is); take it out",
            exempt.name
        )));
    }
    let mut cgroups = Vec::new();
    for path in exempt.cgroups.iter().flatten() {
        let (directory, level) = below(&cgroup2_root()?, path)?;
        match pins::inode(&directory) {
            Ok(cgroup) => {
                cgroups.push(cgroup);
                rows.exempt_levels |= 1 << level;
            }
            // Nobody is in it, so nobody is exempt by it.
            Err(KernelError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if exempt.cgroups.is_none() {
        cgroups.push(0);
    }
    for cgroup in cgroups {
        for uid in &exempt.uids {
            rows.exempt_callers.insert(ExemptKey { cgroup, uid: *uid, one: 1 });
        }
    }
    Ok(())
}

fn claim<K: Ord>(
    into: &mut BTreeMap<K, u32>,
    key: K,
    guard: u32,
    what: &dyn std::fmt::Display,
) -> Result<(), KernelError> {
    match into.insert(key, guard) {
        Some(other) if other != guard => {
            Err(KernelError::Row(format!("{what} is claimed by two guards; name it in one of them")))
        }
        _ => Ok(()),
    }
}

/// A cgroup's directory, and its level below the root, which is how the kernel asks for ancestors.
fn below(root: &Path, path: &Path) -> Result<(PathBuf, u32), KernelError> {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let relative = relative.strip_prefix("/").unwrap_or(relative);
    let strange = |why: &str| Err(KernelError::Row(format!("guard cgroup {}: {why}", path.display())));
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return strange("only plain names below the cgroup v2 mount, no `..`");
    }
    match relative.components().count() as u32 {
        0 => strange("the root cgroup is the whole host, the gate included; name something below it"),
        level if level >= GUARD_LEVELS_MAX => strange("is nested deeper than the kernel programs look"),
        level => Ok((root.join(relative), level)),
    }
}

/// The tables' maps, open.
#[derive(Debug)]
pub(super) struct Tables {
    targets: RawMap,
    services: RawMap,
    own: RawMap,
    guarding: RawMap,
    guards: RawMap,
    cgroups: RawMap,
    uids: RawMap,
    dns: RawMap,
    unix: RawMap,
    exempting: RawMap,
    exempt_callers: RawMap,
}

impl Tables {
    pub(super) fn open(root: &Path) -> Result<Self, KernelError> {
        let open = |name: &'static str, key, value| {
            RawMap::open(&map_path(root, name), key, value).map_err(KernelError::map(name))
        };
        Ok(Self {
            targets: open("TARGETS", size_of::<BlockKey>(), 4)?,
            services: open("SERVICES", size_of::<BlockKey>(), 4)?,
            own: open("OWN", size_of::<BlockKey>(), 4)?,
            guarding: open("GUARDING", 4, size_of::<Guarding>())?,
            guards: open("GUARDS", 4, 4)?,
            cgroups: open("GUARD_CGROUPS", 8, 4)?,
            uids: open("GUARD_UIDS", 4, 4)?,
            dns: open("DNS", size_of::<DnsKey>(), 4)?,
            unix: open("UNIX_ALLOWED", size_of::<UnixKey>(), 4)?,
            exempting: open("EXEMPTING", 4, size_of::<Guarding>())?,
            exempt_callers: open("EXEMPT_CALLERS", size_of::<ExemptKey>(), 4)?,
        })
    }

    /// Makes the maps hold exactly these rows. New rows stand before old ones go.
    pub(super) fn publish(&self, rows: Rows) -> Result<Published, KernelError> {
        let one = 1u32.to_ne_bytes().to_vec();
        let set = |key: &[u8]| (key.to_vec(), one.clone());
        let wanted: Vec<Side<'_>> = vec![
            // What a membership refers to comes before the membership.
            Side::new("GUARDS", &self.guards, rows.guards.iter().map(pair)),
            Side::new("DNS", &self.dns, rows.dns.iter().map(|key| set(key.bytes()))),
            Side::new("UNIX_ALLOWED", &self.unix, rows.unix.iter().map(|key| set(key.bytes()))),
            Side::new("GUARD_CGROUPS", &self.cgroups, rows.cgroups.iter().map(pair)),
            Side::new("GUARD_UIDS", &self.uids, rows.uids.iter().map(pair)),
            Side::new(
                "EXEMPT_CALLERS",
                &self.exempt_callers,
                rows.exempt_callers.iter().map(|key| set(key.bytes())),
            ),
            Side::new("TARGETS", &self.targets, rows.targets.iter().map(numbered)),
            Side::new("SERVICES", &self.services, rows.services.iter().map(numbered)),
        ];
        for side in &wanted {
            side.fits()?;
        }
        for side in &wanted {
            side.insert()?;
        }
        let guarding = Guarding { levels: rows.levels, uids: rows.uids.len() as u32 };
        self.guarding.update(&0u32.to_ne_bytes(), guarding.bytes()).map_err(KernelError::map("GUARDING"))?;
        let exempting = Guarding { levels: rows.exempt_levels, uids: rows.exempt_callers.len() as u32 };
        self.exempting
            .update(&0u32.to_ne_bytes(), exempting.bytes())
            .map_err(KernelError::map("EXEMPTING"))?;
        for side in wanted.iter().rev() {
            side.delete_the_rest()?;
        }
        Ok(Published {
            targets: rows.targets.len(),
            services: rows.services.len(),
            guards: rows.guards.len(),
            missing: rows.missing,
        })
    }
}

impl Tables {
    /// Makes the map of the namespaces' own addresses hold exactly these of the one with this number.
    pub(super) fn publish_own(&self, slot: u32, own: &[Block]) -> Result<(), KernelError> {
        let rows: BTreeSet<BlockKey> = own.iter().map(any_port_key).collect::<Result<_, _>>()?;
        let value = 1u32.bytes().to_vec();
        let rows = rows.iter().map(|key| {
            let key = BlockKey { data: BlockData { slot: slot_bytes(slot), ..key.data }, ..*key };
            (key.bytes().to_vec(), value.clone())
        });
        let side = Side::new("OWN", &self.own, rows);
        side.fits()?;
        side.insert()?;
        side.delete_the_rest_of(|key| key.get(SLOT_AT..SLOT_AT + 2) == Some(&slot_bytes(slot)))
    }
}

fn numbered((key, names): (&BlockKey, &BTreeSet<String>)) -> (Vec<u8>, Vec<u8>) {
    (key.bytes().to_vec(), number(names).bytes().to_vec())
}

/// Where a [`BlockKey`] has the number of its namespace: behind prefix and port.
const SLOT_AT: usize = 6;

fn slot_bytes(slot: u32) -> [u8; 2] {
    // At most `SPACES_MAX`.
    (slot as u16).to_ne_bytes()
}

fn pair<K: Plain>((key, guard): (&K, &u32)) -> (Vec<u8>, Vec<u8>) {
    (key.bytes().to_vec(), guard.bytes().to_vec())
}

/// One map and what it shall hold.
struct Side<'a> {
    name: &'static str,
    map: &'a RawMap,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<'a> Side<'a> {
    fn new(name: &'static str, map: &'a RawMap, rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        Self { name, map, rows: rows.collect() }
    }

    fn fits(&self) -> Result<(), KernelError> {
        if self.rows.len() <= self.map.max() as usize { Ok(()) } else { Err(self.full()) }
    }

    fn full(&self) -> KernelError {
        KernelError::TableFull { map: self.name, rows: self.rows.len(), max: self.map.max() }
    }

    fn insert(&self) -> Result<(), KernelError> {
        for (key, value) in &self.rows {
            self.map.update(key, value).map_err(|source| match source.raw_os_error() {
                Some(libc::E2BIG | libc::ENOSPC) => self.full(),
                _ => KernelError::Map { map: self.name, source },
            })?;
        }
        Ok(())
    }

    fn delete_the_rest(&self) -> Result<(), KernelError> {
        self.delete_the_rest_of(|_| true)
    }

    fn delete_the_rest_of(&self, ours: impl Fn(&[u8]) -> bool) -> Result<(), KernelError> {
        for key in self.map.keys().map_err(KernelError::map(self.name))? {
            if ours(&key) && !self.rows.contains_key(&key) {
                self.map.delete(&key).map_err(KernelError::map(self.name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ServiceRow, TargetRow};
    use super::*;

    fn block(text: &str, prefix: u8) -> Block {
        Block { address: text.parse().unwrap(), prefix }
    }

    #[test]
    fn host_bits_are_cut_so_that_one_block_has_one_key() {
        let cut = block_key(&block("10.1.2.3", 8), 80).unwrap();
        assert_eq!(cut, block_key(&block("10.0.0.0", 8), 80).unwrap());
        assert_eq!(cut.prefix, 32 + 96 + 8);
        let all = block_key(&block("0.0.0.0", 0), 80).unwrap();
        assert_eq!((all.prefix, all.data.address), (32 + 96, abi::mapped([0; 4])));
        assert_eq!(block_key(&block("2001:db8::9", 128), 80).unwrap().prefix, 160);
        assert_eq!(block_key(&block("::", 0), 80).unwrap().prefix, 32);
    }

    #[test]
    fn a_prefix_longer_than_its_address_and_port_zero_are_refused() {
        assert!(block_key(&block("10.0.0.0", 33), 80).is_err());
        assert!(block_key(&block("::", 129), 80).is_err());
        assert!(block_key(&block("10.0.0.0", 8), 0).is_err());
    }

    #[test]
    fn the_gates_own_port_is_no_service() {
        let table = Table {
            services: vec![ServiceRow { name: "s".into(), blocks: vec![], ports: vec![15001] }],
            ..Table::default()
        };
        assert!(matches!(resolve(&table, 15001), Err(KernelError::Row(_))));
        assert!(resolve(&table, 15002).is_ok());
    }

    #[test]
    fn a_guard_cgroup_is_a_plain_path_below_the_root_and_not_the_root() {
        let root = Path::new("/sys/fs/cgroup");
        let ok = |path: &str| below(root, Path::new(path)).unwrap();
        assert_eq!(ok("agent.slice"), (root.join("agent.slice"), 1));
        assert_eq!(ok("/agent.slice/a.service"), (root.join("agent.slice/a.service"), 2));
        assert_eq!(ok("/sys/fs/cgroup/agent.slice"), (root.join("agent.slice"), 1));
        for path in ["", "/", "/sys/fs/cgroup", "a/../b", "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p"] {
            assert!(below(root, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn two_guards_cannot_claim_one_uid_nor_one_name() {
        let guard = |name: &str| GuardRow { name: name.into(), uids: vec![7], ..GuardRow::default() };
        for names in [["a", "b"], ["a", "a"]] {
            let table = Table { guards: names.map(guard).to_vec(), ..Table::default() };
            assert!(matches!(resolve(&table, 15001), Err(KernelError::Row(_))), "{names:?}");
        }
    }

    #[test]
    fn every_block_meets_every_port_once() {
        let row = TargetRow {
            name: "t".into(),
            blocks: vec![block("10.0.0.1", 8), block("10.9.9.9", 8)],
            ports: vec![80, 443],
        };
        let rows = resolve(&Table { targets: vec![row], ..Table::default() }, 15001).unwrap();
        assert_eq!(rows.targets.len(), 2);
    }
}
