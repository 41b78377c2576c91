//! Deeds that are seldom done, most of them as the system call that no safe crate offers.
#![allow(unsafe_code, reason = "what is tried is the call itself")]

use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open, pivot_root};

/// `FIFREEZE`.
const FREEZE: u64 = 0xc004_5877;

/// One deed, by name.
pub(crate) fn done(deed: &str, what: &str) -> io::Result<()> {
    match deed {
        "schedule" => schedule(number(what)),
        "pin" => {
            let pid = rustix::process::Pid::from_raw(number(what));
            let processors = rustix::thread::sched_getaffinity(pid)?;
            Ok(rustix::thread::sched_setaffinity(pid, &processors)?)
        }
        "signal-by-input" => signal_by_input(what),
        "turn-root" => Ok(pivot_root(what, what)?),
        "turn-root-apart" => turn_root_apart(what),
        "sample" => sample(number(what), -1),
        "sample-everybody" => sample(-1, number(what)),
        "nice" => {
            let pid = rustix::process::Pid::from_raw(number(what));
            let usual = rustix::process::getpriority_process(pid)?;
            Ok(rustix::process::setpriority_process(pid, usual)?)
        }
        "disk-priority" => {
            /// `IOPRIO_WHO_PROCESS`.
            const PROCESS: i32 = 1;
            // SAFETY: numbers alone. 0 is what it has where nobody set one.
            answered(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, number(what), 0) })
        }
        "type" => type_into_a_terminal(),
        "freeze" => {
            let directory = File::open(what)?;
            // SAFETY: a live descriptor, and a command that takes a number.
            answered(unsafe { libc::ioctl(directory.as_raw_fd(), FREEZE, 0) }.into())
        }
        #[cfg(target_arch = "x86_64")]
        "freeze-by-32-bits" => freeze_by_32_bits(what),
        // What it may be done with, as it is already: by this it could be made unchangeable.
        "flags-again" => {
            let file = File::open(what)?;
            Ok(rustix::fs::ioctl_setflags(&file, rustix::fs::ioctl_getflags(&file)?)?)
        }
        "hold-back" => hold_back(what),
        "make-pipe" => Ok(mknodat(CWD, what, FileType::Fifo, Mode::RUSR, 0)?),
        "remove-directory" => fs::remove_dir(what),
        "receive" => receive(),
        // What is open here once more, by way of its own process.
        "take-again" => {
            let us = pidfd_open(getpid(), PidfdFlags::empty())?;
            Ok(pidfd_getfd(us, io::stdin().as_raw_fd(), PidfdGetfdFlags::empty()).map(drop)?)
        }
        "read-by-overlay" | "write-by-overlay" => by_overlay(deed, what),
        _ => load(deed, what),
    }
}

/// A module, or another kernel.
fn load(deed: &str, what: &str) -> io::Result<()> {
    match deed {
        "load-module" => {
            let file = File::open(what)?;
            // SAFETY: a live descriptor, and an empty text.
            answered(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) })
        }
        "load-module-from-memory" => {
            let bytes = fs::read(what)?;
            // SAFETY: live bytes with their number, and an empty text.
            answered(unsafe {
                libc::syscall(libc::SYS_init_module, bytes.as_ptr(), bytes.len(), c"".as_ptr())
            })
        }
        "load-kernel" => {
            /// `KEXEC_FILE_NO_INITRAMFS`.
            const ALONE: i32 = 4;
            let file = File::open(what)?;
            // SAFETY: a live descriptor, and an empty text with its zero.
            answered(unsafe {
                libc::syscall(libc::SYS_kexec_file_load, file.as_raw_fd(), -1, 1, c"".as_ptr(), ALONE)
            })
        }
        // Of no part: that takes a loaded kernel away.
        "load-kernel-from-memory" => {
            let none = std::ptr::null::<u8>();
            // SAFETY: no parts, so nothing is read.
            answered(unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, none, 0) })
        }
        other => panic!("no such deed: {other}"),
    }
}

fn number(text: &str) -> i32 {
    text.parse().unwrap()
}

fn answered(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// As it is scheduled already, where nobody changed that.
fn schedule(pid: i32) -> io::Result<()> {
    let usual = libc::sched_param { sched_priority: 0 };
    // SAFETY: a live structure.
    answered(unsafe { libc::sched_setscheduler(pid, libc::SCHED_OTHER, &raw const usual) }.into())
}

/// `PID:SIGNAL`: has the kernel send it when there is input, and gives input.
fn signal_by_input(what: &str) -> io::Result<()> {
    /// `F_SETSIG`.
    const SIGNAL: i32 = 10;
    let (pid, signal) = what.split_once(':').unwrap();
    let (reader, mut writer) = UnixStream::pair()?;
    for (command, value) in
        [(libc::F_SETOWN, number(pid)), (SIGNAL, number(signal)), (libc::F_SETFL, libc::O_ASYNC)]
    {
        // SAFETY: a live descriptor, and a command that takes a number.
        answered(unsafe { libc::fcntl(reader.as_raw_fd(), command, value) }.into())?;
    }
    writer.write_all(b"x")
}

/// In a mount namespace of its own: a root that may be left, and another one.
fn turn_root_apart(what: &str) -> io::Result<()> {
    let over = |what: &str| mount("tmpfs", what, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>);
    super::apart()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    over(what)?;
    rustix::process::chroot(what)?;
    rustix::process::chdir("/")?;
    fs::create_dir("/new")?;
    over("/new")?;
    fs::create_dir("/new/old")?;
    Ok(pivot_root("/new", "/new/old")?)
}

/// A key, as if somebody had pressed it, on a terminal that it has not begun with.
fn type_into_a_terminal() -> io::Result<()> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    // SAFETY: live descriptors, and a live byte to type.
    unsafe {
        let terminal = libc::posix_openpt(flags);
        answered(terminal.into())?;
        answered(libc::unlockpt(terminal).into())?;
        let other_end = libc::ioctl(terminal, libc::TIOCGPTPEER, flags);
        answered(other_end.into())?;
        answered(libc::ioctl(other_end, libc::TIOCSTI, c"x".as_ptr()).into())
    }
}

/// As a program of 32 bits asks for it.
#[cfg(target_arch = "x86_64")]
fn freeze_by_32_bits(what: &str) -> io::Result<()> {
    /// `ioctl` among the calls of 32 bits.
    const IOCTL: i64 = 54;
    let directory = File::open(what)?;
    let mut answer = IOCTL;
    // SAFETY: a live descriptor and numbers; rbx, which is not ours to name, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {file}",
            "int 0x80",
            "xchg rbx, {file}",
            file = inout(reg) i64::from(directory.as_raw_fd()) => _,
            inout("rax") answer,
            in("rcx") FREEZE,
            in("rdx") 0u64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    // Of the answer the lower half alone is one.
    let answer = answer as i32;
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(()) }
}

/// Asks that whoever opens this waits for what we say. Let go with the process.
fn hold_back(what: &str) -> io::Result<()> {
    let path = std::ffi::CString::new(what)?;
    // SAFETY: numbers, and a live path.
    unsafe {
        let asked = libc::fanotify_init(libc::FAN_CLASS_CONTENT, libc::O_RDONLY as u32);
        answered(asked.into())?;
        let (add, open) = (libc::FAN_MARK_ADD, libc::FAN_OPEN_PERM);
        answered(libc::fanotify_mark(asked, add, open, libc::AT_FDCWD, path.as_ptr()).into())
    }
}

/// Opens a file by way of an overlay that has its directory as a layer.
fn by_overlay(deed: &str, what: &str) -> io::Result<()> {
    let (elsewhere, work) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (folder, name) = what.rsplit_once('/').unwrap();
    let (lower, work) = (elsewhere.path().display(), work.path().display());
    if deed == "read-by-overlay" {
        let there = overlay(&format!("lowerdir={folder}:{lower}"))?.join(name);
        return File::open(there)?.read(&mut [0; 8]).map(drop);
    }
    let there = overlay(&format!("lowerdir={lower},upperdir={folder},workdir={work}"))?.join(name);
    fs::OpenOptions::new().write(true).open(there).map(drop)
}

/// Directories laid over each other, in a mount namespace of its own.
fn overlay(layers: &str) -> io::Result<PathBuf> {
    super::apart()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let at = tempfile::tempdir()?.keep();
    let layers = std::ffi::CString::new(layers)?;
    mount("overlay", &at, "overlay", MountFlags::empty(), Some(layers.as_c_str()))?;
    Ok(at)
}

/// Asks for samples of this process, or of everybody on this processor.
fn sample(pid: i32, processor: i32) -> io::Result<()> {
    /// `PERF_TYPE_SOFTWARE`, whose first is the clock, and the size of the oldest form.
    const CLOCK: u64 = 1 | 64 << 32;
    let about: [u64; 8] = [CLOCK, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: as many live bytes as they say. The descriptor goes with the process.
    answered(unsafe { libc::syscall(libc::SYS_perf_event_open, about.as_ptr(), pid, processor, -1, 0u64) })
}

/// Takes the descriptor that waits at our standard input. What the kernel refuses to hand over is not there, and no error says so.
fn receive() -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(io::stdin(), &mut [IoSliceMut::new(&mut [0; 1])], &mut control, RecvFlags::empty())?;
    assert_eq!(read.bytes, 1, "the byte that it came with");
    let came = control.drain().any(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next().is_some(),
        _ => false,
    });
    if came { Ok(()) } else { Err(io::Error::other("nothing came with it")) }
}
