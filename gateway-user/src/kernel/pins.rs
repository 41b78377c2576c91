//! The directory in bpffs where everything loaded can be found again: `maps/` and `links/`, readable by root alone.
//!
//! Refuses to share it between two loaders at once, and to guess what an unfinished load left behind.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use gateway_ebpf::abi::{ABI, Config, Plain};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, mount};

use super::KernelError;
use super::raw::{self, RawMap};

const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`.
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

/// `/sys/fs/bpf/tidegate`.
#[must_use]
pub fn default_pins() -> PathBuf {
    Path::new(BPFFS).join("tidegate")
}

/// Where the cgroup v2 tree is mounted (`/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid hosts).
///
/// # Errors
/// Where it is not.
pub fn cgroup2_root() -> Result<PathBuf, KernelError> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(KernelError::file("/proc/self/mounts"))?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, at, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at))
        })
        .next()
        .ok_or(KernelError::NoCgroup2)
}

/// The directory, locked against other loaders while this lives.
pub(super) struct Pins {
    root: PathBuf,
    _lock: File,
}

impl Pins {
    /// Makes what is missing: the mount, the directory.
    pub(super) fn make(root: &Path) -> Result<Self, KernelError> {
        mount_bpffs(root)?;
        for path in [root.to_path_buf(), root.join("maps"), root.join("links"), root.join("programs")] {
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(KernelError::File { path, source });
                }
                _ => {}
            }
        }
        Self::lock(root)
    }

    /// What is there already.
    pub(super) fn open(root: &Path) -> Result<Self, KernelError> {
        match Self::lock(root) {
            Err(KernelError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(KernelError::NotLoaded { pins: root.to_path_buf() })
            }
            other => other,
        }
    }

    fn lock(root: &Path) -> Result<Self, KernelError> {
        let lock = File::open(root).map_err(KernelError::file(root))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| KernelError::File { path: root.to_path_buf(), source: error.into() })?;
        Ok(Self { root: root.to_path_buf(), _lock: lock })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        map_path(&self.root, name)
    }

    pub(super) fn link(&self, program: &str) -> PathBuf {
        link_path(&self.root, program)
    }

    /// The settings of a finished load; `None` where there is none, or one that did not come that far.
    pub(super) fn config(&self) -> Result<Option<Config>, KernelError> {
        match config(&self.root) {
            Err(KernelError::NotLoaded { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Detaches every link and removes every pin, then the directories. Gives how many links and maps there were.
    pub(super) fn remove(self) -> Result<(usize, usize), KernelError> {
        let links = remove_each(&self.root.join("links"), |path| {
            // Detached now, not when the kernel gets round to it. A link that is gone already is as good.
            raw::get(path).map(|link| drop(raw::link_detach(link.as_fd())))
        })?;
        let maps = remove_each(&self.root.join("maps"), |_| Ok(()))?;
        let programs = self.root.join("programs");
        remove_each(&programs, |_| Ok(()))?;
        for path in [self.root.join("links"), self.root.join("maps"), programs, self.root.clone()] {
            match fs::remove_dir(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(KernelError::File { path, source });
                }
                _ => {}
            }
        }
        Ok((links, maps))
    }
}

fn remove_each(directory: &Path, before: impl Fn(&Path) -> io::Result<()>) -> Result<usize, KernelError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(KernelError::file(directory))?,
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(KernelError::file(directory))?.path();
        before(&path).and_then(|()| fs::remove_file(&path)).map_err(KernelError::file(&path))?;
        removed += 1;
    }
    Ok(removed)
}

pub(super) fn map_path(root: &Path, name: &str) -> PathBuf {
    root.join("maps").join(name)
}

pub(super) fn link_path(root: &Path, program: &str) -> PathBuf {
    root.join("links").join(program)
}

pub(super) fn program_path(root: &Path, program: &str) -> PathBuf {
    root.join("programs").join(program)
}

/// The settings pinned below `root`; refuses those of another layout.
pub(super) fn config(root: &Path) -> Result<Config, KernelError> {
    let path = map_path(root, "CONFIG");
    let not_loaded = || KernelError::NotLoaded { pins: root.to_path_buf() };
    let fd = match raw::get(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_loaded()),
        other => other.map_err(KernelError::file(&path))?,
    };
    let size = value_size(&fd).map_err(KernelError::file(&path))?;
    let map = RawMap::open(&path, 4, size).map_err(KernelError::file(&path))?;
    let bytes = map.lookup(&0u32.to_ne_bytes(), 1).map_err(KernelError::map("CONFIG"))?.unwrap_or_default();
    // Whatever else another layout changes, its number comes first.
    let theirs = bytes.first_chunk().map_or(0, |first| u32::from_ne_bytes(*first));
    match theirs {
        0 => Err(not_loaded()),
        ABI if bytes.len() == size_of::<Config>() => {
            let mut config = Config::ZERO;
            config.bytes_mut().copy_from_slice(&bytes);
            Ok(config)
        }
        _ => Err(KernelError::OtherAbi { pins: root.to_path_buf(), theirs, ours: ABI }),
    }
}

fn value_size(map: &OwnedFd) -> io::Result<usize> {
    let info: raw::Info<80> = raw::info(map.as_fd())?;
    Ok(info.word(12) as usize)
}

/// Mounts bpffs where the nearest existing directory above the pins is none.
fn mount_bpffs(pins: &Path) -> Result<(), KernelError> {
    // Two loaders that both find nothing would mount twice, and the second mount would hide the first one's pins.
    let parent = Path::new("/sys/fs");
    let lock = File::open(parent).map_err(KernelError::file(parent))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| KernelError::File { path: parent.to_path_buf(), source: error.into() })?;
    let above = pins.ancestors().skip(1).find(|path| path.exists()).unwrap_or(parent);
    if is_bpffs(above) {
        return Ok(());
    }
    if above != Path::new(BPFFS) {
        let source = io::Error::from_raw_os_error(libc::EINVAL);
        return Err(KernelError::NoBpffs { path: above.to_path_buf(), source });
    }
    mount(
        "bpf",
        BPFFS,
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        Some(c"mode=0700"),
    )
    .map_err(|error| KernelError::NoBpffs { path: above.to_path_buf(), source: error.into() })
}

/// Whether a path lies in a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|about| about.f_type as u64 & 0xffff_ffff == BPFFS_MAGIC)
}

/// The inode of a file: the id of a cgroup directory, the number of a namespace.
pub(super) fn inode(path: &Path) -> Result<u64, KernelError> {
    Ok(fs::metadata(path).map_err(KernelError::file(path))?.ino())
}
