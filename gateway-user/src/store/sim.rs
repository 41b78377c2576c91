//! A disk for tests that forgets: what was not synced when the power goes may be there, in part, or not at all.
//! Nothing here is in a shipped build.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use redb::{BackendError, ReadableTable, StorageBackend};

use super::disk::{Access, Disk, Segment, Space};

/// A small generator, so that a failing seed can be run again.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Clone, Default)]
struct SimFile {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Change>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let end = *offset as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(data);
        }
        Change::SetLen(len) => bytes.resize(*len as usize, 0),
    }
}

#[derive(Debug, Default)]
struct World {
    files: BTreeMap<String, SimFile>,
    /// Operations until the power goes.
    fuse: Option<u64>,
    dead: bool,
    lying: bool,
    full: bool,
    hanging: bool,
    /// Bytes that are said to be free.
    free: Option<u64>,
}

/// The disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimDisk(Arc<(Mutex<World>, Condvar)>);

impl SimDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.0.lock().unwrap()
    }

    /// From now on sync says yes and does nothing.
    pub(crate) fn lie(&self) {
        self.world().lying = true;
    }

    /// The power goes after so many more operations.
    pub(crate) fn light_fuse(&self, operations: u64) {
        self.world().fuse = Some(operations);
    }

    /// No write finds space.
    pub(crate) fn fill(&self, full: bool) {
        self.world().full = full;
    }

    /// So many bytes of 1 TiB are said to be free.
    pub(crate) fn leave_free(&self, bytes: u64) {
        self.world().free = Some(bytes);
    }

    /// No sync returns.
    pub(crate) fn hang(&self, hanging: bool) {
        self.world().hanging = hanging;
        self.0.1.notify_all();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.world().dead
    }

    /// Cuts the power and gives the disk as it is after the reboot.
    pub(crate) fn crash(&self, dice: &mut Dice) -> Self {
        let mut world = self.world();
        world.dead = true;
        let mut after = World::default();
        for (name, file) in &world.files {
            let mut bytes = file.durable.clone();
            for change in &file.pending {
                match (dice.roll(3), change) {
                    (0, _) => {}
                    (1, Change::Write(offset, data)) if data.len() > 512 => {
                        let torn = dice.roll(data.len() as u64 / 512) as usize * 512;
                        apply(&mut bytes, &Change::Write(*offset, data[..torn].to_vec()));
                    }
                    _ => apply(&mut bytes, change),
                }
            }
            after.files.insert(
                name.clone(),
                SimFile { durable: bytes.clone(), current: bytes, pending: Vec::new() },
            );
        }
        Self(Arc::new((Mutex::new(after), Condvar::new())))
    }

    fn step(&self) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world();
        if let Some(fuse) = &mut world.fuse {
            match fuse.checked_sub(1) {
                Some(left) => *fuse = left,
                None => world.dead = true,
            }
        }
        if world.dead { Err(io::Error::other("the power is gone")) } else { Ok(world) }
    }

    fn change(&self, name: &str, change: Change) -> io::Result<()> {
        let mut world = self.step()?;
        if world.full && matches!(change, Change::Write(..)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = world.files.entry(name.to_owned()).or_default();
        apply(&mut file.current, &change);
        file.pending.push(change);
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut world = self.step()?;
        while world.hanging {
            world = self.0.1.wait(world).unwrap();
        }
        if !world.lying {
            let file = world.files.entry(name.to_owned()).or_default();
            file.durable = file.current.clone();
            file.pending.clear();
        }
        Ok(())
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let world = self.step()?;
        let file = world.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let from = offset as usize;
        let bytes = file.current.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.step()?.files.get(name).map_or(0, |file| file.current.len() as u64))
    }

    fn file(&self, name: &str) -> SimHandle {
        SimHandle { disk: self.clone(), name: name.to_owned() }
    }
}

impl Disk for SimDisk {
    fn exists(&self) -> io::Result<bool> {
        Ok(self.step()?.files.contains_key("database"))
    }

    fn scratch(&self) -> io::Result<Box<dyn StorageBackend>> {
        self.step()?.files.insert("scratch".into(), SimFile::default());
        Ok(Box::new(self.file("scratch")))
    }

    fn adopt(&self) -> io::Result<()> {
        let mut world = self.step()?;
        let file = world.files.remove("scratch").ok_or(io::ErrorKind::NotFound)?;
        world.files.insert("database".into(), file);
        Ok(())
    }

    fn database(&self, _access: Access) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.file("database")))
    }

    fn segment(&self, number: u32, access: Access) -> io::Result<Arc<dyn Segment>> {
        let name = format!("segment {number:08}");
        let mut world = self.step()?;
        if access == Access::Write {
            world.files.entry(name.clone()).or_default();
        } else if !world.files.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Arc::new(self.file(&name)))
    }

    fn segments(&self) -> io::Result<Vec<u32>> {
        let world = self.step()?;
        let names = world.files.keys().filter_map(|name| name.strip_prefix("segment "));
        Ok(names.filter_map(|number| number.parse().ok()).collect())
    }

    fn remove_segment(&self, number: u32) -> io::Result<()> {
        self.step()?.files.remove(&format!("segment {number:08}"));
        Ok(())
    }

    fn database_bytes(&self) -> io::Result<u64> {
        self.size("database")
    }

    fn space(&self) -> io::Result<Space> {
        let world = self.step()?;
        Ok(Space { total: 1 << 40, free: world.free.unwrap_or(1 << 39) })
    }
}

#[derive(Debug, Clone)]
struct SimHandle {
    disk: SimDisk,
    name: String,
}

impl Segment for SimHandle {
    fn len(&self) -> io::Result<u64> {
        self.disk.size(&self.name)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(&self.name, offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.change(&self.name, Change::Write(offset, bytes.to_vec()))
    }

    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        while world.hanging {
            world = self.disk.0.1.wait(world).unwrap();
        }
        if world.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change(&self.name, Change::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync(&self.name)
    }
}

impl StorageBackend for SimHandle {
    fn len(&self) -> io::Result<u64> {
        self.disk.size(&self.name)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(&self.name, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change(&self.name, Change::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync(&self.name)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.change(&self.name, Change::Write(offset, data.to_vec()))
    }

    // One process, one opener at a time: every lock is free, and none is held by another.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}

/// What an intruder with write access does to one row.
pub(crate) fn edit_commit(
    disk: &dyn Disk,
    number: u64,
    change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>>,
) {
    let store = super::Store::open(disk).unwrap();
    let before = store.snapshot().unwrap().commit(number).unwrap();
    let transaction = store.database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(super::COMMITS).unwrap();
        table.retain_in((number, 0)..=(number, u32::MAX), |_, _| false).unwrap();
        let after = change(before).unwrap_or_default();
        for (bytes, part) in after.chunks(super::PART_BYTES).zip(0..) {
            table.insert((number, part), bytes).unwrap();
        }
    }
    transaction.commit().unwrap();
}

/// As [`edit_commit`], on the index.
pub(crate) fn edit_index(
    disk: &dyn Disk,
    key: &[u8],
    change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>>,
) {
    edit(disk, super::INDEX, key, change);
}

/// As [`edit_commit`], on the small state.
pub(crate) fn edit_state(
    disk: &dyn Disk,
    key: &[u8],
    change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>>,
) {
    edit(disk, super::STATE, key, change);
}

/// As [`edit_commit`], on the rows about the whole store.
pub(crate) fn edit_meta(
    disk: &dyn Disk,
    name: &str,
    change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>>,
) {
    edit(disk, super::META, name, change);
}

fn edit<K: redb::Key>(
    disk: &dyn Disk,
    table: redb::TableDefinition<'_, K, &'static [u8]>,
    key: K::SelfType<'_>,
    change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>>,
) {
    let store = super::Store::open(disk).unwrap();
    let transaction = store.database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        let before = table.get(&key).unwrap().map(|value| value.value().to_vec());
        match change(before) {
            Some(after) => drop(table.insert(&key, after.as_slice()).unwrap()),
            None => drop(table.remove(&key).unwrap()),
        }
    }
    transaction.commit().unwrap();
}

/// Removes every signed checkpoint, as who can write all files and has no signing key.
#[cfg(test)]
pub(crate) fn forget_checkpoints(disk: &dyn Disk) {
    let store = super::Store::open(disk).unwrap();
    let transaction = store.database.begin_write().unwrap();
    transaction.open_table(super::HEADS).unwrap().retain(|_, _| false).unwrap();
    transaction.commit().unwrap();
}

/// Cuts the last commits off and makes every row that names the end fit, as somebody would who knows the layout.
pub(crate) fn cut_end(disk: &dyn Disk, commits: u64) {
    use crate::record::chain::{Base, Checkpoint, Link, Problem, examine, meta};
    use crate::record::index::Rows;
    use crate::record::tree::{Frontier, leaf};
    let store = super::Store::open(disk).unwrap();
    let snapshot = store.snapshot().unwrap();
    let head: Link = meta(&snapshot, "head").unwrap();
    let base: Base = meta(&snapshot, "base").unwrap();
    let (end, mut link, mut ledger) = (head.number - commits, base.link, base.ledger);
    let (mut gone, mut nodes, mut tree, mut point) = (Vec::new(), Vec::new(), Frontier::default(), None);
    while link.number < head.number {
        let number = link.number;
        let blob = snapshot.commit(number).unwrap().unwrap();
        let (frames, next) = examine(&blob, &link, &mut |_: Problem| {}).unwrap();
        let (mut rows, mut places) = (Rows::default(), Vec::new());
        for (examined, position) in frames.iter().zip(0..) {
            ledger.admit(examined.frame.as_ref().unwrap(), &mut places).unwrap();
            rows.add(position, &mut places);
        }
        let keys = rows.finish(number, &mut ledger).into_iter().map(|(key, _)| key);
        tree.push(leaf(&next.seal), |at, _| nodes.extend((number >= end).then_some(at)));
        if number >= end {
            gone.extend(keys);
        }
        link = next;
        if link.number == end {
            point = Some(Checkpoint { link, ledger: ledger.clone() });
        }
    }
    let point = point.unwrap();
    let transaction = store.database.begin_write().unwrap();
    {
        transaction.open_table(super::COMMITS).unwrap().retain_in((end, 0).., |_, _| false).unwrap();
        transaction.open_table(super::HEADS).unwrap().retain_in(end + 1.., |_, _| false).unwrap();
        let mut index = transaction.open_table(super::INDEX).unwrap();
        gone.iter().for_each(|key| drop(index.remove(key.as_slice()).unwrap()));
        let mut table = transaction.open_table(super::TREE).unwrap();
        nodes.iter().for_each(|at| drop(table.remove(at).unwrap()));
        let mut meta = transaction.open_table(super::META).unwrap();
        meta.insert("head", postcard::to_allocvec(&point.link).unwrap().as_slice()).unwrap();
        meta.insert("checkpoint", postcard::to_allocvec(&point).unwrap().as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}
