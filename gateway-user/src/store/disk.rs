//! Where the store's bytes live. Makes private directories and files and syncs what it makes; never truncates a file
//! that a commit refers to.
//!
//! The database and the body segments are behind two small traits, so that tests can put a disk beneath them that
//! loses what was not synced.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backend::{Boxed, Named};
use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The database file.
pub const DATABASE: &str = "record.redb";
/// A database being made; it gets its name when it is whole and synced.
const SCRATCH: &str = "record.redb.new";
/// The directory of the body segments.
const BODIES: &str = "bodies";

/// What the opener is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only read. Nothing on disk changes.
    Read,
    /// Read, and take the writer's lock, but write nothing: to look at a database that was not closed.
    Probe,
    /// Write.
    Write,
}

/// A place for one database and its body segments.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Whether a whole database is there.
    ///
    /// # Errors
    /// What the file system says.
    fn exists(&self) -> io::Result<bool>;
    /// An empty file to make a database in.
    ///
    /// # Errors
    /// What the file system says.
    fn scratch(&self) -> io::Result<Box<dyn StorageBackend>>;
    /// Gives the database made in [`Disk::scratch`] its name, durably.
    ///
    /// # Errors
    /// What the file system says.
    fn adopt(&self) -> io::Result<()>;
    /// The database.
    ///
    /// # Errors
    /// What the file system says.
    fn database(&self, access: Access) -> io::Result<Box<dyn StorageBackend>>;
    /// One segment file by its number. With [`Access::Write`] it is made, durably, where it is missing.
    ///
    /// # Errors
    /// What the file system says; `NotFound` where it is missing and not to be written.
    fn segment(&self, number: u32, access: Access) -> io::Result<Arc<dyn Segment>>;
    /// The numbers of the segment files, ascending.
    ///
    /// # Errors
    /// What the file system says.
    fn segments(&self) -> io::Result<Vec<u32>>;
    /// Removes a segment file, where it is there.
    ///
    /// # Errors
    /// What the file system says.
    fn remove_segment(&self, number: u32) -> io::Result<()>;
    /// Bytes of the database file.
    ///
    /// # Errors
    /// What the file system says.
    fn database_bytes(&self) -> io::Result<u64>;
    /// How large the file system is, and how much of it is free for us.
    ///
    /// # Errors
    /// What the file system says.
    fn space(&self) -> io::Result<Space>;
}

/// A file system's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes free for this user.
    pub free: u64,
}

/// One append-only file of bodies.
pub trait Segment: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// What the file system says.
    fn len(&self) -> io::Result<u64>;
    /// Whether it holds nothing.
    ///
    /// # Errors
    /// What the file system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// What the file system says; `UnexpectedEof` where the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the file system says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Takes space for so many bytes after `from`, so that writing them cannot fail for want of it. The length stays.
    ///
    /// # Errors
    /// What the file system says: `StorageFull` where there is none, `Unsupported` where it cannot promise any.
    fn reserve(&self, from: u64, bytes: u64) -> io::Result<()>;
    /// Cuts what was written after the last commit.
    ///
    /// # Errors
    /// What the file system says.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes every write so far durable.
    ///
    /// # Errors
    /// What the file system says.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of its own: `record.redb` and `bodies/`. Mode 0700, files 0600.
#[derive(Clone)]
pub struct Folder {
    root: PathBuf,
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root.display())
    }
}

impl Folder {
    /// An existing directory, to read.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directory and those above it, where they are missing, for nobody but this user.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(root: &Path) -> io::Result<Self> {
        let bodies = root.join(BODIES);
        let missing: Vec<&Path> = bodies.ancestors().take_while(|path| !path.exists()).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(&bodies)?;
        for made in missing {
            if let Some(above) = made.parent().filter(|above| !above.as_os_str().is_empty()) {
                sync_directory(above)?;
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    fn segment_path(&self, number: u32) -> PathBuf {
        self.root.join(BODIES).join(format!("{number:08}.seg"))
    }
}

impl Disk for Folder {
    fn exists(&self) -> io::Result<bool> {
        self.root.join(DATABASE).try_exists()
    }

    fn scratch(&self) -> io::Result<Box<dyn StorageBackend>> {
        let file = options(Access::Write).create(true).truncate(true).open(self.root.join(SCRATCH))?;
        backend(file)
    }

    fn adopt(&self) -> io::Result<()> {
        fs::rename(self.root.join(SCRATCH), self.root.join(DATABASE))?;
        sync_directory(&self.root)
    }

    fn database(&self, access: Access) -> io::Result<Box<dyn StorageBackend>> {
        let path = self.root.join(DATABASE);
        let file = options(access).open(&path)?;
        if access != Access::Write {
            return backend(file);
        }
        let named = Named::of(&file, path)?;
        Ok(Box::new(Boxed::named(backend(file)?, named)))
    }

    fn segment(&self, number: u32, access: Access) -> io::Result<Arc<dyn Segment>> {
        let path = self.segment_path(number);
        if access == Access::Write && !path.try_exists()? {
            let file = options(access).create_new(true).open(&path)?;
            sync_directory(&self.root.join(BODIES))?;
            return Ok(Arc::new(PlainFile(file)));
        }
        Ok(Arc::new(PlainFile(options(access).open(&path)?)))
    }

    fn segments(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for item in fs::read_dir(self.root.join(BODIES))? {
            let name = item?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|n| n.parse::<u32>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn remove_segment(&self, number: u32) -> io::Result<()> {
        match fs::remove_file(self.segment_path(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(&self.root.join(BODIES)),
        }
    }

    fn database_bytes(&self) -> io::Result<u64> {
        Ok(fs::metadata(self.root.join(DATABASE))?.len())
    }

    fn space(&self) -> io::Result<Space> {
        let found = statvfs(&self.root)?;
        Ok(Space { total: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize })
    }
}

fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(access != Access::Read).mode(0o600);
    options
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// A new name is durable only when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[derive(Debug)]
struct PlainFile(File);

impl Segment for PlainFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn reserve(&self, from: u64, bytes: u64) -> io::Result<()> {
        Ok(fallocate(&self.0, FallocateFlags::KEEP_SIZE, from, bytes)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()?;
        match self.0.metadata()?.nlink() {
            0 => Err(io::Error::other("the file of bodies was removed")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_else_may_enter_the_directory_or_read_a_file() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state/record");
        let folder = Folder::create(&dir).unwrap();
        folder.scratch().unwrap();
        folder.adopt().unwrap();
        folder.segment(1, Access::Write).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&root.path().join("state")), 0o700);
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("bodies")), 0o700);
        assert_eq!(mode(&dir.join(DATABASE)), 0o600);
        assert_eq!(mode(&dir.join("bodies/00000001.seg")), 0o600);
        assert_eq!(folder.segments().unwrap(), [1]);
    }

    #[test]
    fn a_reader_never_makes_a_segment() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(root.path()).unwrap();
        assert_eq!(folder.segment(7, Access::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(folder.segments().unwrap().is_empty());
    }
}
