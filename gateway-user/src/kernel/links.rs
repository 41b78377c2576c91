//! The programs' links: made once, pinned, and from then on only updated in place.
//!
//! All or nothing: when one cannot be made or updated, those before it are put back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::pins::Pins;
use super::uplinks::{self, Interface};
use super::{KernelError, Place, raw};

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The cgroup.
    Cgroup,
    /// The network namespace.
    Netns,
}

/// One program and its place.
pub(super) struct Hook {
    pub(super) program: &'static str,
    pub(super) to: To,
    /// `BPF_*` of `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

const fn hook(program: &'static str, to: To, attach_type: u32) -> Hook {
    Hook { program, to, attach_type }
}

/// Every hook, in the order of attaching: the hand-over works before anything is rewritten.
pub(super) const HOOKS: &[Hook] = &[
    hook("tg_bind4", To::Cgroup, 8),
    hook("tg_bind6", To::Cgroup, 9),
    hook("tg_release", To::Cgroup, 34),
    hook("tg_establish", To::Cgroup, 3),
    hook("tg_getsockopt", To::Cgroup, 21),
    hook("tg_getpeername4", To::Cgroup, 29),
    hook("tg_getpeername6", To::Cgroup, 30),
    hook("tg_steer", To::Netns, 36),
    hook("tg_sock_create", To::Cgroup, 2),
    hook("tg_sysctl", To::Cgroup, 18),
    hook("tg_sendmsg4", To::Cgroup, 14),
    hook("tg_sendmsg6", To::Cgroup, 15),
    hook("tg_connect4", To::Cgroup, 10),
    hook("tg_connect6", To::Cgroup, 11),
    hook("tg_egress", To::Cgroup, 1),
];

/// What was done to one link, and how to undo it.
enum Done {
    Made(std::path::PathBuf, OwnedFd),
    Updated { link: OwnedFd, old: OwnedFd },
}

/// How many links were made and how many updated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) made: usize,
    pub(super) updated: usize,
}

/// Puts these programs, in the order of [`HOOKS`], under their links; then those for uplinks at every one of these.
pub(super) fn attach(
    pins: &Pins,
    place: &Place,
    programs: &[OwnedFd],
    (uplinks, at_uplinks): (&[Interface], &[OwnedFd]),
) -> Result<Attached, KernelError> {
    let cgroup = File::open(&place.cgroup).map_err(KernelError::file(&place.cgroup))?;
    let netns = File::open(&place.netns).map_err(KernelError::file(&place.netns))?;
    let mut done = Vec::new();
    for (hook, program) in HOOKS.iter().zip(programs) {
        let to = match hook.to {
            To::Cgroup => cgroup.as_fd(),
            To::Netns => netns.as_fd(),
        };
        match attach_one(pins, hook, program.as_fd(), to) {
            Ok(step) => done.push(step),
            Err(source) => {
                undo(done);
                return Err(KernelError::Link { program: hook.program.to_owned(), source });
            }
        }
    }
    for interface in uplinks {
        match attach_uplink(pins, place, interface, at_uplinks) {
            Ok(step) => done.extend(step),
            Err(error) => {
                undo(done);
                return Err(error);
            }
        }
    }
    let made = done.iter().filter(|step| matches!(step, Done::Made(..))).count();
    Ok(Attached { made, updated: done.len() - made })
}

fn attach_one(pins: &Pins, hook: &Hook, program: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<Done> {
    let path = pins.link(hook.program);
    match raw::get(&path) {
        Ok(link) => {
            let info: raw::Info<32> = raw::info(link.as_fd())?;
            // Detached under its pin, as root can: it takes no program any more.
            let detached = match hook.to {
                To::Cgroup => info.long(16) == 0,
                To::Netns => info.word(16) == 0,
            };
            if detached {
                std::fs::remove_file(&path)?;
                return make(&path, hook, program, to);
            }
            let old = raw::program_by_id(info.word(8))?;
            raw::link_update(link.as_fd(), program)?;
            Ok(Done::Updated { link, old })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path, hook, program, to),
        Err(error) => Err(error),
    }
}

/// `None`: the interface is gone, or its frames cannot be read, which `status` shows.
fn attach_uplink(
    pins: &Pins,
    place: &Place,
    interface: &Interface,
    programs: &[OwnedFd],
) -> Result<Option<Done>, KernelError> {
    let Some(program) = interface.program().and_then(|index| programs.get(index)) else { return Ok(None) };
    let path = pins.link(&interface.link());
    let failed = |source| KernelError::Link { program: format!("at {}", interface.name), source };
    if uplinks::attached(&path).is_some() {
        let link = raw::get(&path).map_err(failed)?;
        let info: raw::Info<32> = raw::info(link.as_fd()).map_err(failed)?;
        let old = raw::program_by_id(info.word(8)).map_err(failed)?;
        raw::link_update(link.as_fd(), program.as_fd()).map_err(failed)?;
        return Ok(Some(Done::Updated { link, old }));
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    match uplinks::make(&place.netns, program, interface.index, &path) {
        Ok(link) => Ok(Some(Done::Made(path, link))),
        Err(error) if uplinks::is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn make(path: &Path, hook: &Hook, program: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<Done> {
    let link = raw::link_create(program, to, hook.attach_type)?;
    raw::pin(link.as_fd(), path)?;
    Ok(Done::Made(path.to_owned(), link))
}

fn undo(done: Vec<Done>) {
    for step in done.into_iter().rev() {
        let undone = match step {
            Done::Made(path, link) => {
                raw::link_detach(link.as_fd()).and_then(|()| std::fs::remove_file(path))
            }
            Done::Updated { link, old } => raw::link_update(link.as_fd(), old.as_fd()),
        };
        if let Err(error) = undone {
            tracing::error!(%error, "a link could not be put back; run `tidegate status`, then load again");
        }
    }
}
