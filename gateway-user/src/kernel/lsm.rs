//! The programs at LSM hooks, where this kernel runs such: what is guarded makes no socket that no other hook sees, asks nobody
//! outside of its guard to dial for it, does not leave its cgroup, and does nothing to the gate. Where it runs none, the load
//! goes on without them and says why.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::programs::{LsmAttachType, Program, ProgramType};
use aya::{Btf, Ebpf};

use super::pins::Pins;
use super::probe::{Check, Found};
use super::status::ProgramStatus;
use super::{KernelError, Place, btf, raw, sealed};

/// Programs with their hooks. The first is attached to a cgroup, the others are the host's.
const PROGRAMS: &[(&str, &str)] = &[
    ("tg_socket_create", "socket_create"),
    ("tg_bpf", "bpf"),
    ("tg_trace", "ptrace_access_check"),
    ("tg_signal", "task_kill"),
    ("tg_clone", "task_alloc"),
    ("tg_mount", "sb_mount"),
    ("tg_move_mount", "move_mount"),
    ("tg_unmount", "sb_umount"),
    ("tg_unix_connect", "unix_stream_connect"),
    ("tg_unix_send", "unix_may_send"),
    ("tg_passed", "file_receive"),
    ("tg_file_open", "file_open"),
    ("tg_truncate", "path_truncate"),
    ("tg_chmod", "path_chmod"),
    ("tg_chown", "path_chown"),
    ("tg_create", "inode_create"),
    ("tg_mkdir", "inode_mkdir"),
    ("tg_rmdir", "inode_rmdir"),
    ("tg_mknod", "inode_mknod"),
    ("tg_perf", "perf_event_open"),
    ("tg_input_signal", "file_send_sigiotask"),
    ("tg_rlimit", "task_setrlimit"),
    ("tg_scheduler", "task_setscheduler"),
    ("tg_nice", "task_setnice"),
    ("tg_ioprio", "task_setioprio"),
    ("tg_ioctl", "file_ioctl"),
    ("tg_ioctl_compat", "file_ioctl_compat"),
    ("tg_notify", "path_notify"),
    ("tg_pivot_root", "sb_pivotroot"),
    ("tg_remount", "sb_remount"),
    ("tg_lockdown", "locked_down"),
    ("tg_read_file", "kernel_read_file"),
    ("tg_load_data", "kernel_load_data"),
    ("tg_unlink", "inode_unlink"),
    ("tg_rename", "inode_rename"),
    ("tg_hard_link", "inode_link"),
    ("tg_symlink", "inode_symlink"),
];
/// `BPF_LSM_CGROUP`.
const LSM_CGROUP: u32 = 43;
/// `BPF_LSM_MAC`.
const LSM_MAC: u32 = 27;
const ACTIVE: &str = "/sys/kernel/security/lsm";
/// What the programs are called by.
const PATCHED: &str = "/proc/sys/kernel/ftrace_enabled";

/// A program that is loaded, or why it is not.
type Loaded = (&'static str, Result<OwnedFd, String>);

/// Loads the programs, or says of each why there is none to be had. `missing`: why those that look outside cannot.
pub(super) fn load(object: &mut Ebpf, missing: Option<&str>) -> Vec<Loaded> {
    let types = Btf::from_sys_fs().map_err(|error| error.to_string());
    let loaded = |(program, hook): &(&'static str, &str)| {
        let result = match &types {
            Ok(types) => load_one(object, (program, hook), types, missing),
            Err(why) => Err(why.clone()),
        };
        (*program, result)
    };
    PROGRAMS.iter().map(loaded).collect()
}

fn load_one(
    object: &mut Ebpf,
    (name, hook): (&str, &str),
    types: &Btf,
    missing: Option<&str>,
) -> Result<OwnedFd, String> {
    let refused = |error: &dyn std::fmt::Display| format!("this kernel refuses LSM programs: {error}");
    let fd = match object.program_mut(name) {
        Some(Program::LsmCgroup(program)) => {
            program.load(hook, types).map_err(|error| refused(&error))?;
            program.fd()
        }
        Some(Program::Lsm(program)) => {
            if let Some(missing) = missing {
                return Err(missing.to_owned());
            }
            program.load(hook, types).map_err(|error| refused(&error))?;
            program.fd()
        }
        _ => return Err("the built-in object has no such program".to_owned()),
    };
    let fd = fd.map_err(|error| error.to_string())?;
    fd.as_fd().try_clone_to_owned().map_err(|error| error.to_string())
}

/// Puts the programs under their links, and gives what is missing where one cannot be. Older ones that stand there stay.
pub(super) fn attach(pins: &Pins, place: &Place, programs: Vec<Loaded>) -> Option<String> {
    let what = sealed::seal(place).err().map(|error| format!("the gate's own files: {error}"));
    let whys = programs.into_iter().filter_map(|(name, program)| {
        let attached = program.and_then(|program| {
            attach_loaded(pins, place, name, &program)
                .map_err(|error| format!("it cannot be attached: {error}"))
        });
        attached.err().map(|why| format!("{name}: {why}"))
    });
    // One is told: where one is refused, the others are for the same reason.
    whys.fold(what, |first, why| first.or(Some(why))).or_else(inactive)
}

fn attach_loaded(pins: &Pins, place: &Place, name: &str, program: &OwnedFd) -> Result<(), KernelError> {
    let path = pins.link(name);
    let failed = |source| KernelError::Link { program: name.to_owned(), source };
    if name == PROGRAMS[0].0 {
        return match raw::get(&path) {
            Ok(link) => raw::link_update(link.as_fd(), program.as_fd()).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let cgroup = File::open(&place.cgroup).map_err(KernelError::file(&place.cgroup))?;
                let link = raw::link_create(program.as_fd(), cgroup.as_fd(), LSM_CGROUP).map_err(failed)?;
                raw::pin(link.as_fd(), &path).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        };
    }
    // Such a link takes no other program: the new one is there before the old one goes, and what either refuses is refused.
    let link = raw::link_create_anywhere(program.as_fd(), LSM_MAC).map_err(failed)?;
    let next = pins.link(&format!("{name}{NEXT}"));
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    raw::pin(link.as_fd(), &next).and_then(|()| fs::rename(&next, &path)).map_err(failed)
}

/// What the name of a link ends with before it takes the older one's place. (A dot may not stand in it.)
const NEXT: &str = "_next";

/// Each program and its link, those that this kernel does not run without one.
pub(super) fn attached(root: &Path) -> Vec<ProgramStatus> {
    PROGRAMS.iter().map(|(name, _)| status(root, name)).collect()
}

fn status(root: &Path, name: &'static str) -> ProgramStatus {
    let cgroup = name == PROGRAMS[0].0;
    let attached_to = if cgroup { "cgroup" } else { "host" };
    let found = raw::get(&super::pins::link_path(root, name)).and_then(|link| {
        let link: raw::Info<32> = raw::info(link.as_fd())?;
        let program: raw::Info<216> = raw::info(raw::program_by_id(link.word(8))?.as_fd())?;
        let there = if cgroup { link.long(16) != 0 } else { link.word(16) == LSM_MAC };
        // Names are cut to 15 bytes there.
        let named = name.as_bytes().starts_with(program.text(64, 16)) && !program.text(64, 16).is_empty();
        let runs = (program.long(200), program.long(192));
        Ok((link.word(4), (there && named).then(|| link.word(8)), (runs.0 != 0).then_some(runs)))
    });
    match found {
        Ok((link, id, runs)) => ProgramStatus { name, id, link: Some(link), attached_to, runs },
        Err(_) => ProgramStatus { name, id: None, link: None, attached_to, runs: None },
    }
}

/// A loaded program is never asked where `bpf` is not among the active modules, nor where the kernel's functions are not patched.
fn inactive() -> Option<String> {
    if fs::read_to_string(PATCHED).is_ok_and(|on| on.trim() == "0") {
        return Some(format!("{PATCHED} is 0, which switches them off"));
    }
    match fs::read_to_string(ACTIVE) {
        Ok(active) if active.split(',').any(|module| module.trim() == "bpf") => None,
        Ok(active) => Some(format!("bpf is not among the active security modules ({})", active.trim())),
        // Not mounted: nothing is known, and what was loaded may well run.
        Err(_) => {
            Some("security modules are not shown (securityfs is not mounted) or there are none".to_owned())
        }
    }
}

/// What this kernel can do, for `tidegate doctor`.
pub(super) fn check() -> Check {
    let means = "guarded processes are not kept from packet, vsock and XDP sockets, nor root among them from the gate's maps, \
                 files and processes and from other cgroups; Unix sockets of daemons outside (docker.sock, ssh-agent) are \
                 reported, not refused. Boot with lsm=...,bpf (CONFIG_BPF_LSM=y); give what is guarded neither root nor CAP_NET_RAW";
    let reduced = |found, seen: String| Check { name: "BPF LSM", found, seen, means: means.to_owned() };
    match (aya::sys::is_program_supported(ProgramType::Lsm(LsmAttachType::Cgroup)), inactive()) {
        (Ok(true), None) => match btf::outside() {
            Ok(_) => Check {
                name: "BPF LSM",
                found: Found::Ok,
                seen: "guarded processes can be kept from what is outside of their guard".to_owned(),
                means: String::new(),
            },
            Err(error) => reduced(Found::Reduced, error.to_string()),
        },
        (Ok(true), Some(why)) => reduced(Found::Reduced, why),
        (Ok(false), _) => reduced(Found::Reduced, "this kernel refuses LSM programs".to_owned()),
        (Err(error), _) => reduced(Found::Unknown, error.to_string()),
    }
}
