//! What a guarded process may try with what is outside of its guard: each gives "done", or the kernel's answer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, mount_remount, unmount,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};

#[path = "by_hand.rs"]
mod by_hand;

/// The outcome of one deed. A deed has one argument; where it is about two files, they are joined by `:`.
#[allow(unreachable_pub, reason = "a module of two programs")]
pub fn outcome(deed: &str, what: &str) -> String {
    match done(deed, what) {
        Ok(()) => "done".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn done(deed: &str, what: &str) -> io::Result<()> {
    let (first, second) = what.split_once(':').unwrap_or((what, ""));
    let pid = || Pid::from_raw(what.parse().unwrap()).unwrap();
    match deed {
        "signal" => Ok(kill_process(pid(), Signal::CONT)?),
        "is-there" => Ok(test_kill_process(pid())?),
        "memory" => File::open(format!("/proc/{what}/mem")).map(drop),
        "environment" => File::open(format!("/proc/{what}/environ"))?.read(&mut [0; 8]).map(drop),
        // Opens a pinned map by bpf(2).
        "pins" => tidegate::kernel::status(Path::new(what)).map(drop).map_err(io::Error::other),
        "open" => File::open(what).map(drop),
        // The same of one map alone, which takes no right but its file's.
        "pinned" => tidegate::kernel::spaces(Path::new(what)).map(drop).map_err(io::Error::other),
        "read" => File::open(what)?.read(&mut [0; 8]).map(drop),
        "write" => OpenOptions::new().write(true).open(what).map(drop),
        "make" => File::create(what)?.write_all(b"x"),
        "truncate" => Ok(rustix::fs::open(what, OFlags::WRONLY, Mode::empty())
            .and_then(|file| rustix::fs::ftruncate(file, 0))?),
        // What it is already, or 1 where that cannot be read.
        "set-again" => fs::write(what, fs::read(what).unwrap_or_else(|_| b"1".to_vec())),
        "empty" => Ok(rustix::fs::open(what, OFlags::RDONLY | OFlags::TRUNC, Mode::empty()).map(drop)?),
        "open-up" => fs::set_permissions(what, std::os::unix::fs::PermissionsExt::from_mode(0o666)),
        "give-away" => std::os::unix::fs::chown(what, Some(61_234), None),
        "make-directory" => fs::create_dir(what),
        "write-by-handle" => by_handle(what),
        "limit" => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
            Ok(rustix::process::prlimit(Some(pid()), rustix::process::Resource::Core, limit).map(drop)?)
        }
        "bind" => bind(what, MountPropagationFlags::empty()),
        "bind-private" => bind(what, MountPropagationFlags::PRIVATE),
        "unmount-apart" => {
            apart()?;
            mount_change(what, MountPropagationFlags::PRIVATE)?;
            Ok(unmount(what, UnmountFlags::DETACH)?)
        }
        "read-only" => Ok(mount_remount(what, MountFlags::RDONLY, c"")?),
        "move" => {
            let to = tempfile::tempdir()?;
            Ok(mount_move(what, to.path())?)
        }
        "remove" => fs::remove_file(what),
        "rename" => fs::rename(first, second),
        "link" => fs::hard_link(first, second),
        "symlink" => std::os::unix::fs::symlink(first, second),
        "mount" => over(what),
        // In a mount namespace of its own that nothing spreads from.
        "mount-apart" => {
            apart()?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            over(what)
        }
        "unmount" => Ok(unmount(what, UnmountFlags::DETACH)?),
        "enter" => fs::write(Path::new(what).join("cgroup.procs"), std::process::id().to_string()),
        "enter-thread" => fs::write(Path::new(what).join("cgroup.threads"), "0"),
        "unix" => UnixStream::connect_addr(&named(what)?).map(drop),
        "datagram" => UnixDatagram::unbound()?.send_to_addr(b"x", &named(what)?).map(drop),
        other => by_hand::done(other, what),
    }
}

/// A file of one's own over this one, with what else the flags say.
fn bind(what: &str, spread: MountPropagationFlags) -> io::Result<()> {
    let mine = tempfile::NamedTempFile::new()?;
    let flags = MountFlags::BIND | MountFlags::from_bits_retain(spread.bits());
    Ok(mount(mine.path(), what, "", flags, None::<&std::ffi::CStr>)?)
}

/// Opens a file for writing by its handle, not by a path.
#[allow(unsafe_code, reason = "no safe crate offers the two calls")]
fn by_handle(what: &str) -> io::Result<()> {
    const BYTES: usize = 128;
    #[repr(C)]
    struct Handle(u32, i32, [u8; BYTES]);
    let mut handle = Handle(BYTES as u32, 0, [0; BYTES]);
    let path = std::ffi::CString::new(what)?;
    let mut mount = 0;
    let at = (&raw mut handle).cast();
    // SAFETY: a live path, and room for as many bytes as the handle says.
    let named = unsafe { libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), at, &raw mut mount, 0) };
    if named != 0 {
        return Err(io::Error::last_os_error());
    }
    let beside = File::open(Path::new(what).parent().unwrap())?;
    // SAFETY: a live descriptor and the handle from above.
    let opened = unsafe { libc::open_by_handle_at(beside.as_raw_fd(), at, libc::O_WRONLY) };
    if opened < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn over(what: &str) -> io::Result<()> {
    Ok(mount("tmpfs", what, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>)?)
}

#[allow(unsafe_code, reason = "the process has one thread, and lives for this alone")]
fn apart() -> io::Result<()> {
    // SAFETY: no other thread shares what is unshared.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// A path, or `@` and an abstract name.
fn named(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}
