//! The last good policy files, kept beside the state so that a start with a broken directory can go on.
//!
//! A set stands in a directory named by its digest; the link `current` is put on it in one step, after the files are on
//! disk. Never gives half a set.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::files::{Files, SAFE_MODE};
use super::problem::{Problem, Problems};

const CURRENT: &str = "current";
const NEXT: &str = "current.new";

/// Keeps these files as the last good ones.
pub(super) fn save(dir: &Path, files: &Files) -> io::Result<()> {
    let name = files.digest().to_string();
    if load(dir).is_ok_and(|kept| kept.digest() == files.digest()) {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let set = dir.join(&name);
    // What is left of an attempt that was cut short.
    remove(&set)?;
    fs::DirBuilder::new().mode(0o700).create(&set)?;
    if files.safe.is_some() {
        fs::DirBuilder::new().mode(0o700).create(set.join(SAFE_MODE))?;
    }
    for file in files.every() {
        let path = set.join(&file.name);
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        out.write_all(file.source.text().as_bytes())?;
        out.sync_all()?;
    }
    if files.safe.is_some() {
        sync(&set.join(SAFE_MODE))?;
    }
    sync(&set)?;
    remove(&dir.join(NEXT))?;
    std::os::unix::fs::symlink(&name, dir.join(NEXT))?;
    fs::rename(dir.join(NEXT), dir.join(CURRENT))?;
    sync(dir)?;
    prune(dir, &name);
    Ok(())
}

/// The last good files.
///
/// # Errors
/// When there are none, or they are not what they were when they were kept.
pub(super) fn load(dir: &Path) -> Result<Files, Problems> {
    let current = dir.join(CURRENT);
    let files = Files::read(&current)?;
    let named = fs::read_link(&current).ok().map(|link| link.to_string_lossy().into_owned());
    if named != Some(files.digest().to_string()) {
        let mut problems = Problems::default();
        let changed = format!("the last good set in {} is not what was kept there", dir.display());
        problems.push(Problem::whole(changed).help("somebody changed it; mend the policy directory instead"));
        return Err(problems);
    }
    // An observed target whose time has passed since is enforced, and no reason to have no policy at all.
    Ok(Files { read_at: None, ..files })
}

fn sync(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes older sets. One that stays only takes room.
fn prune(dir: &Path, keep: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name != keep && name != CURRENT {
            let _ = remove(&entry.path());
        }
    }
}
