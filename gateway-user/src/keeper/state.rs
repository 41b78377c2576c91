//! Gives the state directory to the enforcer's user. Follows no link and touches nothing that has another name elsewhere: what
//! is in there may have been put there by that user, and this is done as root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, openat};

use super::User;

/// Directories below each other that are walked. The record has three.
const DEPTH_MAX: usize = 8;

/// Makes the directory where it is missing, and gives it and what root left in it to this user.
///
/// # Errors
/// It cannot be made, read or given.
pub(super) fn give(state: &Path, user: User) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = openat(rustix::fs::CWD, state, flags, Mode::empty())?;
    hand(directory.as_fd(), &fstat(&directory)?, user)?;
    walk(directory, user, DEPTH_MAX)
}

fn walk(directory: OwnedFd, user: User, depth: usize) -> io::Result<()> {
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
                hand(found.as_fd(), &stat, user)?;
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
                walk(openat(&found, c".", flags, Mode::empty())?, user, depth - 1)?;
            }
            FileType::RegularFile if stat.st_nlink == 1 => hand(found.as_fd(), &stat, user)?,
            _ => {}
        }
    }
    Ok(())
}

/// Gives what root owns.
fn hand(what: BorrowedFd<'_>, stat: &Stat, user: User) -> io::Result<()> {
    if stat.st_uid == 0 {
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

    #[test]
    fn root_gives_what_is_its_own_and_follows_no_link() {
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("kept");
        fs::write(&kept, "root's").unwrap();
        let state = outside.path().join("state");
        fs::create_dir_all(state.join("record/bodies")).unwrap();
        fs::write(state.join("record/bodies/1"), "").unwrap();
        symlink(&kept, state.join("link")).unwrap();
        fs::hard_link(&kept, state.join("hard")).unwrap();
        symlink(outside.path(), state.join("record/out")).unwrap();

        give(&state, User { uid: 61_001, gid: 61_002 }).unwrap();

        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        for given in ["", "record", "record/bodies", "record/bodies/1"] {
            assert_eq!(owner(&state.join(given)), 61_001, "{given}");
        }
        assert_eq!((owner(&kept), owner(outside.path())), (0, 0));
    }
}
