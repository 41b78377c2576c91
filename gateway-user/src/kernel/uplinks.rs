//! The interfaces by which frames leave, each under the program that looks at them: what a packet socket writes passes no
//! other hook. Refuses to leave one out silently.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::netlink::{self, Question, long, short};
use super::pins::{self, Pins, link_path, program_path};
use super::{KernelError, Place, raw, sockets};

/// The programs: for Ethernet, and for interfaces without a header of their own.
pub(super) const PROGRAMS: [&str; 2] = ["tg_uplink_ether", "tg_uplink_bare"];
/// What the names of the links begin with; the interface's number follows.
const LINK: &str = "tg_uplink_";
/// Interfaces looked after. A node with many containers has a few hundred.
const UPLINKS_MAX: usize = 4096;
/// `BPF_TCX_EGRESS`.
const TCX_EGRESS: u32 = 47;

const GET_LINK: u16 = 18;
const NEW_LINK: u16 = 16;
const LINK_BYTES: usize = 16;
const ATTRIBUTE_NAME: u16 = 3;
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
const TYPE_ETHER: u16 = 1;
/// PPP, raw IP, tunnels over either IP, SIT, GRE over either, and "none" (TUN, WireGuard).
const TYPES_BARE: [u16; 8] = [512, 519, 768, 769, 776, 778, 823, 65534];

/// An interface that is up, and not loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    kind: u16,
}

impl Interface {
    /// Which of [`PROGRAMS`] can read its frames.
    pub(super) fn program(&self) -> Option<usize> {
        match self.kind {
            TYPE_ETHER => Some(0),
            kind if TYPES_BARE.contains(&kind) => Some(1),
            _ => None,
        }
    }

    pub(super) fn link(&self) -> String {
        format!("{LINK}{}", self.index)
    }
}

/// One uplink as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uplink {
    /// The interface.
    pub interface: String,
    /// Its program's id; `None`: frames of packet sockets leave here unseen.
    pub program: Option<u32>,
}

/// Whether this kernel has tcx (6.6).
#[must_use]
pub(super) fn supported() -> bool {
    super::probe::version() >= (6, 6)
}

/// The interfaces that are to be looked at: those named, else all. Every one that is up can carry a packet socket's frames,
/// with or without a route. None where the hooks are at a cgroup below the root: what others send is not theirs to mark,
/// and would be taken for what went past them.
pub(super) fn wanted(place: &Place) -> Result<Vec<Interface>, KernelError> {
    if place.uplinks.is_empty() && pins::inode(&place.cgroup)? != pins::inode(&pins::cgroup2_root()?)? {
        return Ok(Vec::new());
    }
    let all = sockets::inside(&place.netns, interfaces)?;
    let named = |interface: &Interface| place.uplinks.is_empty() || place.uplinks.contains(&interface.name);
    let wanted: Vec<_> = all.into_iter().filter(named).collect();
    if wanted.len() > UPLINKS_MAX {
        return Err(KernelError::Row(format!(
            "{} interfaces are up, and {UPLINKS_MAX} are looked after; name the uplinks with --uplink",
            wanted.len()
        )));
    }
    Ok(wanted)
}

fn interfaces() -> io::Result<Vec<Interface>> {
    netlink::dump(Question { ask: GET_LINK, answer: NEW_LINK }, &[&[0; LINK_BYTES]], interface)
}

fn interface(body: &[u8]) -> Option<Option<Interface>> {
    let (kind, index, flags) = (short(body, 2)?, long(body, 4)?, long(body, 8)?);
    if flags & UP == 0 || flags & LOOPBACK != 0 {
        return Some(None);
    }
    let mut name = String::new();
    for attribute in netlink::attributes(body.get(LINK_BYTES..)?) {
        let (kind, value) = attribute?;
        if kind == ATTRIBUTE_NAME {
            name = String::from_utf8_lossy(value.split(|byte| *byte == 0).next()?).into_owned();
        }
    }
    Some(Some(Interface { index, name, kind }))
}

/// Makes a link for an interface of the namespace, and gives it a name.
pub(super) fn make(
    netns: &Path,
    program: &OwnedFd,
    interface: u32,
    pin: &Path,
) -> Result<OwnedFd, KernelError> {
    let program = program.try_clone().map_err(KernelError::file(pin))?;
    let link = sockets::inside(netns, move || raw::link_create_at(program.as_fd(), interface, TCX_EGRESS))?;
    raw::pin(link.as_fd(), pin).map_err(KernelError::file(pin))?;
    Ok(link)
}

/// The id of the program under a link that still has its interface.
pub(super) fn attached(pin: &Path) -> Option<u32> {
    let link = raw::get(pin).ok()?;
    let about: raw::Info<32> = raw::info(link.as_fd()).ok()?;
    (about.word(16) != 0).then(|| about.word(8))
}

/// Keeps the programs where the enforcer finds them for interfaces that come later.
pub(super) fn keep(pins: &Pins, programs: &[OwnedFd]) -> Result<(), KernelError> {
    for (name, program) in PROGRAMS.iter().zip(programs) {
        let path = program_path(pins.root(), name);
        let new = path.with_file_name(format!("{name}_new"));
        match fs::remove_file(&new) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(KernelError::File { path: new, source });
            }
            _ => {}
        }
        raw::pin(program.as_fd(), &new).map_err(KernelError::file(&new))?;
        fs::rename(&new, &path).map_err(KernelError::file(&path))?;
    }
    Ok(())
}

/// Brings the links in step with the interfaces: new ones get theirs, and the links of those that are gone or not named
/// any more go. Gives how many were made.
pub(super) fn follow(place: &Place) -> Result<usize, KernelError> {
    if !supported() {
        return Ok(0);
    }
    let wanted: BTreeMap<PathBuf, Interface> =
        wanted(place)?.into_iter().map(|one| (link_path(&place.pins, &one.link()), one)).collect();
    let there: Vec<PathBuf> = pinned(&place.pins)?;
    let gone: Vec<&PathBuf> =
        there.iter().filter(|pin| !wanted.contains_key(*pin) || attached(pin).is_none()).collect();
    let new = wanted
        .iter()
        .filter(|(pin, one)| one.program().is_some() && (!there.contains(pin) || gone.contains(pin)))
        .collect::<Vec<_>>();
    if gone.is_empty() && new.is_empty() {
        return Ok(0);
    }
    // Against an unload or a load at the same time.
    let _lock = Pins::open(&place.pins)?;
    pins::config(&place.pins)?;
    for pin in gone {
        let _ = raw::get(pin).map(|link| drop(raw::link_detach(link.as_fd())));
        fs::remove_file(pin).map_err(KernelError::file(pin))?;
    }
    let mut made = 0;
    for (pin, interface) in new {
        let Some(program) = interface.program() else { continue };
        let path = program_path(&place.pins, PROGRAMS[program]);
        let program = raw::get(&path).map_err(KernelError::file(&path))?;
        match make(&place.netns, &program, interface.index, pin) {
            Ok(_) => made += 1,
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(made)
}

/// The interface went away between the look and the act.
pub(super) fn is_gone(error: &KernelError) -> bool {
    matches!(error, KernelError::File { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
}

/// The names of all links of uplinks.
pub(super) fn pinned(root: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let directory = root.join("links");
    let entries = fs::read_dir(&directory).map_err(KernelError::file(&directory))?;
    let ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(LINK))
    };
    Ok(entries.flatten().map(|entry| entry.path()).filter(ours).collect())
}

/// Every interface of the caller's namespace that is up, with what looks at it.
pub(super) fn uplinks(root: &Path) -> io::Result<Vec<Uplink>> {
    let seen = |one: Interface| {
        let program = attached(&link_path(root, &one.link()));
        Uplink { interface: one.name, program }
    };
    Ok(interfaces()?.into_iter().map(seen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u32, name: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 0];
        body.extend(kind.to_ne_bytes());
        body.extend(7u32.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        body.extend((4 + name.len() as u16).to_ne_bytes());
        body.extend(ATTRIBUTE_NAME.to_ne_bytes());
        body.extend(name);
        body
    }

    #[test]
    fn what_is_up_and_not_loopback_is_an_uplink_with_the_program_for_its_kind() {
        let read = |kind, flags| interface(&message(kind, flags, b"tg0\0")).unwrap();
        let ether = read(TYPE_ETHER, UP).unwrap();
        assert_eq!((ether.name.as_str(), ether.link().as_str()), ("tg0", "tg_uplink_7"));
        assert_eq!(ether.program(), Some(0));
        assert_eq!(read(65534, UP).unwrap().program(), Some(1));
        assert_eq!(read(32, UP).unwrap().program(), None, "nobody knows its frames");
        assert_eq!(read(TYPE_ETHER, 0), None);
        assert_eq!(read(772, UP | LOOPBACK), None);
    }

    #[test]
    fn half_an_interface_is_none() {
        let whole = message(TYPE_ETHER, UP, b"tg0\0");
        for cut in 0..LINK_BYTES {
            assert!(interface(&whole[..cut.min(11)]).is_none(), "{cut}");
        }
        assert!(interface(&whole[..whole.len() - 1]).is_none());
    }
}
