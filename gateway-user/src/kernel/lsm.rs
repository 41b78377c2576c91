//! Refuses packet, vsock and XDP sockets to guarded processes when they are made, where this kernel runs LSM programs. Where it
//! does not, the load goes on without and says why.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{LsmAttachType, Program, ProgramType};
use aya::{Btf, Ebpf};

use super::pins::Pins;
use super::probe::{Check, Found};
use super::{KernelError, Place, raw};

const PROGRAM: &str = "tg_socket_create";
const HOOK: &str = "socket_create";
/// `BPF_LSM_CGROUP`.
const LSM_CGROUP: u32 = 43;
const ACTIVE: &str = "/sys/kernel/security/lsm";

/// Loads the program, or says why there is none to be had.
pub(super) fn load(object: &mut Ebpf) -> Result<OwnedFd, String> {
    let Some(Program::LsmCgroup(program)) = object.program_mut(PROGRAM) else {
        return Err("the built-in object has no such program".to_owned());
    };
    let types = Btf::from_sys_fs().map_err(|error| error.to_string())?;
    program.load(HOOK, &types).map_err(|error| format!("this kernel refuses LSM programs: {error}"))?;
    let fd = program.fd().map_err(|error| error.to_string())?;
    fd.as_fd().try_clone_to_owned().map_err(|error| error.to_string())
}

/// Puts the program under its link, and gives what is missing where it cannot be. An older one that stands there stays.
pub(super) fn attach(pins: &Pins, place: &Place, program: Result<OwnedFd, String>) -> Option<String> {
    let attached = program.and_then(|program| {
        attach_loaded(pins, place, &program).map_err(|error| format!("it cannot be attached: {error}"))
    });
    match (attached, inactive()) {
        (Err(why), _) => Some(why),
        (Ok(()), Some(why)) => Some(why),
        (Ok(()), None) => None,
    }
}

fn attach_loaded(pins: &Pins, place: &Place, program: &OwnedFd) -> Result<(), KernelError> {
    let path = pins.link(PROGRAM);
    let failed = |source| KernelError::Link { program: PROGRAM.to_owned(), source };
    match raw::get(&path) {
        Ok(link) => raw::link_update(link.as_fd(), program.as_fd()).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let cgroup = File::open(&place.cgroup).map_err(KernelError::file(&place.cgroup))?;
            let link = raw::link_create(program.as_fd(), cgroup.as_fd(), LSM_CGROUP).map_err(failed)?;
            raw::pin(link.as_fd(), &path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The program under the link, if there is one.
pub(super) fn attached(root: &std::path::Path) -> Option<u32> {
    let link = raw::get(&super::pins::link_path(root, PROGRAM)).ok()?;
    let about: raw::Info<32> = raw::info(link.as_fd()).ok()?;
    (about.long(16) != 0).then(|| about.word(8))
}

/// A loaded program is never asked where `bpf` is not among the active modules.
fn inactive() -> Option<String> {
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
    let means = "packet, vsock and XDP sockets of guarded processes are not refused when they are made; boot with \
                 lsm=...,bpf (CONFIG_BPF_LSM=y), and take CAP_NET_RAW from what is guarded";
    let reduced = |found, seen: String| Check { name: "BPF LSM", found, seen, means: means.to_owned() };
    match (aya::sys::is_program_supported(ProgramType::Lsm(LsmAttachType::Cgroup)), inactive()) {
        (Ok(true), None) => Check {
            name: "BPF LSM",
            found: Found::Ok,
            seen: "packet, vsock and XDP sockets can be refused".to_owned(),
            means: String::new(),
        },
        (Ok(true), Some(why)) => reduced(Found::Reduced, why),
        (Ok(false), _) => reduced(Found::Reduced, "this kernel refuses LSM programs".to_owned()),
        (Err(error), _) => reduced(Found::Unknown, error.to_string()),
    }
}
