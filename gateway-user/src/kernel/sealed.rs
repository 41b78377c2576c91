//! Which files are the gate's own, for the programs that keep what is guarded from changing, hiding or signalling them: the
//! pins, the directories a [`Place`] names, this program, and what stands above each of them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use gateway_ebpf::abi::{
    HOME, InodeKey, Plain, SEALED_INSIDE, SEALED_PINS, SEALED_PROGRAM, SEALED_SECRET, SEALED_WAY,
};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::pins::{self, map_path};
use super::raw::RawMap;
use super::{KernelError, Place};

const PROGRAM: &str = "/proc/self/exe";
const MOUNTS: &str = "/proc/self/mountinfo";
/// The mount namespace of the host, whichever this process is in.
const HOST: &str = "/proc/1/ns/mnt";

/// Tells the programs which files these are now. A directory that is not there yet is left out, and those above it are not.
///
/// # Errors
/// The files cannot be looked at, or the map not be written.
pub fn seal(place: &Place) -> Result<(), KernelError> {
    let rows = rows(place)?;
    let map = RawMap::open(&map_path(&place.pins, "SEALED"), size_of::<InodeKey>(), 4)
        .map_err(KernelError::map("SEALED"))?;
    if rows.len() > map.max() as usize {
        return Err(KernelError::TableFull { map: "SEALED", rows: rows.len(), max: map.max() });
    }
    for (key, flags) in &rows {
        map.update(key.bytes(), flags.bytes()).map_err(KernelError::map("SEALED"))?;
    }
    for key in map.keys().map_err(KernelError::map("SEALED"))? {
        if !rows.keys().any(|row| row.bytes() == key) {
            map.delete(&key).map_err(KernelError::map("SEALED"))?;
        }
    }
    Ok(())
}

fn rows(place: &Place) -> Result<BTreeMap<InodeKey, u32>, KernelError> {
    let mounts = fs::read_to_string(MOUNTS).map_err(KernelError::file(MOUNTS))?;
    let program = fs::read_link(PROGRAM).map_err(KernelError::file(PROGRAM))?;
    let mut rows = BTreeMap::new();
    let mut add = |path: &Path, flags: u32| -> Result<(), KernelError> {
        // As it was written, with the links on the way; and as the kernel sees it, without.
        let seen = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let ways = path.ancestors().map(|path| (path, SEALED_WAY));
        let ways = ways.chain(
            seen.ancestors()
                .enumerate()
                .map(|(above, path)| (path, if above == 0 { flags } else { SEALED_WAY })),
        );
        for (path, flags) in ways.filter(|(path, _)| path.is_absolute()) {
            match key(path, &mounts) {
                Ok(key) => *rows.entry(key).or_insert(0) |= flags,
                Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(KernelError::File { path: path.to_owned(), source }),
            }
        }
        Ok(())
    };
    for own in &place.sealed {
        add(own, SEALED_WAY | SEALED_INSIDE)?;
    }
    add(&place.pins, SEALED_WAY | SEALED_INSIDE | SEALED_PINS)?;
    for secret in &place.secret {
        add(secret, SEALED_WAY | SEALED_INSIDE | SEALED_SECRET)?;
    }
    add(&pins::cgroup2_root()?, SEALED_WAY)?;
    add(&program, SEALED_WAY | SEALED_PROGRAM)?;
    // Who may not look at it (a boot unit with few rights) is as if every namespace were the host's.
    if let Ok(host) = pins::inode(Path::new(HOST)) {
        rows.extend([0, host].map(|inode| (InodeKey { device: HOME, inode }, SEALED_WAY)));
    }
    Ok(rows)
}

/// A file as the kernel knows it. stat(2) may name another device than its file system's: that stands in the list of mounts.
fn key(path: &Path, mounts: &str) -> io::Result<InodeKey> {
    let about = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let device = device(mounts, about.stx_mnt_id)
        .ok_or_else(|| io::Error::other(format!("{MOUNTS} does not list the mount it is on")))?;
    Ok(InodeKey { device, inode: about.stx_ino })
}

/// The device of a mount, in a text of the form of `/proc/PID/mountinfo` (proc(5)).
fn device(mounts: &str, id: u64) -> Option<u64> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        if words.next()?.parse::<u64>().ok()? != id {
            return None;
        }
        let (major, minor) = words.nth(1)?.split_once(':')?;
        Some((major.parse::<u64>().ok()? << 20) | minor.parse::<u64>().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS_OF_A_HOST: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700
";

    #[test]
    fn a_mount_has_its_file_systems_device() {
        assert_eq!(device(MOUNTS_OF_A_HOST, 22), Some(254 << 20));
        assert_eq!(device(MOUNTS_OF_A_HOST, 30), Some(26));
        assert_eq!(device(MOUNTS_OF_A_HOST, 2), None);
        assert_eq!(device("30 22 0:x / /", 30), None);
        assert_eq!(device("30", 30), None);
    }

    #[test]
    fn what_stands_above_a_directory_of_the_gates_is_on_the_way_and_may_be_changed_inside() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place {
            pins: directory.path().join("pins"),
            cgroup: "/".into(),
            netns: "/proc/self/ns/net".into(),
            port: 1,
            only_netns: false,
            uplinks: Vec::new(),
            sealed: vec![directory.path().to_owned()],
            secret: Vec::new(),
        };
        let rows = rows(&place).unwrap();
        let mounts = fs::read_to_string(MOUNTS).unwrap();
        let flags = |path: &Path| rows.get(&key(path, &mounts).unwrap()).copied().unwrap_or(0);
        assert_eq!(flags(directory.path()), SEALED_WAY | SEALED_INSIDE);
        assert_eq!(flags(Path::new("/")), SEALED_WAY);
        assert_eq!(flags(&std::env::current_exe().unwrap()), SEALED_WAY | SEALED_PROGRAM);
        assert_eq!(flags(Path::new("/proc")), 0);
    }
}
