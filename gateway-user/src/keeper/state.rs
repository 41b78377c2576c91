//! Gives of the state directory to the users of enforcer and recorder what is theirs. Follows no link and touches nothing that has another name elsewhere: what
//! is in there may have been put there by that user, and this is done as root.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid, chownat, fchmod, fstat, openat,
    renameat_with,
};

use super::{ENFORCER, User};

/// Directories below each other that are walked. The record has three.
const DEPTH_MAX: usize = 8;

/// Whose what is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Users {
    /// Its directory below the state directory.
    pub(super) enforcer: User,
    /// The record and its keys.
    pub(super) recorder: User,
}

/// What of a gate in one process lies in the state directory itself, and is the enforcer's.
const ENFORCERS: [&CStr; 3] = [c"approval.key", c"mask-hash.key", c"spool"];

/// Makes the directories where they are missing, and gives them and what is in them to whom they are for. The state
/// directory itself is root's: whose it is could put another record in the place of the record.
///
/// # Errors
/// They cannot be made, read or given.
pub(super) fn give(state: &Path, users: Users) -> io::Result<()> {
    make(state, 0o711)?;
    let whole = open_directory(rustix::fs::CWD, state)?;
    let root = User { uid: 0, gid: 0 };
    let from = [0, users.enforcer.uid, users.recorder.uid];
    hand(whole.as_fd(), &fstat(&whole)?, root, &from)?;
    give_mode(&whole, 0o711)?;
    let below = [
        (ENFORCER, users.enforcer),
        (crate::record::DIRECTORY, users.recorder),
        (crate::store::keyfile::KEYS, users.recorder),
    ];
    for (name, user) in below {
        make(&state.join(name), 0o700)?;
        let directory = open_directory(whole.as_fd(), Path::new(name))?;
        if name == ENFORCER {
            for moved in ENFORCERS {
                move_in(whole.as_fd(), directory.as_fd(), moved)?;
            }
        }
        // Its user may have changed the mode, and who is not its owner needs a privilege to change it back.
        hand(directory.as_fd(), &fstat(&directory)?, root, &from)?;
        give_mode(&directory, 0o700)?;
        hand(directory.as_fd(), &fstat(&directory)?, user, &from)?;
        walk(directory, user, &from, DEPTH_MAX)?;
    }
    Ok(())
}

/// Where it has another one.
fn give_mode(directory: &OwnedFd, mode: u32) -> io::Result<()> {
    match fstat(directory)?.st_mode & 0o777 == mode {
        true => Ok(()),
        false => Ok(fchmod(directory, Mode::from_raw_mode(mode))?),
    }
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

fn open_directory(at: impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// Moves this into the other directory, unless something of that name is there.
fn move_in(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn walk(directory: OwnedFd, user: User, from: &[u32], depth: usize) -> io::Result<()> {
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(&directory, name, flags, Mode::empty()) {
            Ok(found) => found,
            // Gone meanwhile.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&found)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth > 0 => {
                hand(found.as_fd(), &stat, user, from)?;
                walk(open_directory(&found, Path::new("."))?, user, from, depth - 1)?;
            }
            FileType::RegularFile if stat.st_nlink == 1 => hand(found.as_fd(), &stat, user, from)?,
            _ => {}
        }
    }
    Ok(())
}

/// Gives what root, or one of the gate's own users, owns.
fn hand(what: BorrowedFd<'_>, stat: &Stat, user: User, from: &[u32]) -> io::Result<()> {
    if stat.st_uid != user.uid && from.contains(&stat.st_uid) {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        chownat(what, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const USERS: Users =
        Users { enforcer: User { uid: 61_001, gid: 61_002 }, recorder: User { uid: 61_003, gid: 61_004 } };

    #[test]
    fn root_gives_what_is_its_own_and_follows_no_link() {
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("kept");
        fs::write(&kept, "root's").unwrap();
        let state = outside.path().join("state");
        fs::create_dir_all(state.join("record/bodies")).unwrap();
        fs::create_dir_all(state.join("spool")).unwrap();
        fs::create_dir_all(state.join("enforcer")).unwrap();
        fs::write(state.join("record/bodies/1"), "").unwrap();
        fs::write(state.join("approval.key"), "mine").unwrap();
        fs::write(state.join("mask-hash.key"), "older").unwrap();
        fs::write(state.join("enforcer/mask-hash.key"), "newer").unwrap();
        symlink(&kept, state.join("record/link")).unwrap();
        fs::hard_link(&kept, state.join("enforcer/hard")).unwrap();
        symlink(outside.path(), state.join("record/out")).unwrap();

        give(&state, USERS).unwrap();

        let about = |path: &str| fs::symlink_metadata(state.join(path)).unwrap();
        for recorders in ["record", "record/bodies", "record/bodies/1", "keys"] {
            assert_eq!(about(recorders).uid(), 61_003, "{recorders}");
        }
        for enforcers in ["enforcer", "enforcer/approval.key", "enforcer/spool", "enforcer/mask-hash.key"] {
            assert_eq!(about(enforcers).uid(), 61_001, "{enforcers}");
        }
        assert_eq!(fs::read(state.join("enforcer/mask-hash.key")).unwrap(), b"newer", "nothing is replaced");
        let root = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        assert_eq!((root(&kept), root(outside.path()), root(&state)), (0, 0, 0));
        assert_eq!((about("").mode() & 0o777, about("record").mode() & 0o777), (0o711, 0o700));
    }

    #[test]
    fn what_was_the_enforcers_in_the_record_becomes_the_recorders() {
        let outside = tempfile::tempdir().unwrap();
        let state = outside.path().join("state");
        fs::create_dir_all(state.join("record")).unwrap();
        let (mine, other) = (state.join("record/mine"), state.join("record/other"));
        for (file, uid) in [(&mine, 61_001), (&other, 61_009)] {
            fs::write(file, "").unwrap();
            std::os::unix::fs::chown(file, Some(uid), None).unwrap();
        }
        give(&state, USERS).unwrap();
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        assert_eq!((owner(&mine), owner(&other)), (61_003, 61_009), "what is somebody else's is left alone");
    }
}
