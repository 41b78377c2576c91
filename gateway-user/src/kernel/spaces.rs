//! Other network namespaces: the gate's listeners in each, and the program there that gives them what is theirs.
//!
//! Refuses a namespace whose owner is another user namespace: whoever is root in there chooses its routes and addresses, and
//! could answer in a target's name. Refuses one whose loopback is down, and one where somebody has the gate's port.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gateway_ebpf::abi::{
    self, LISTEN_INBOUND, LISTEN_OUTBOUND, LISTENERS, Plain, SPACE_SERVED, SPACE_SERVICES,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use super::pins::{link_path, map_path};
use super::raw::{self, RawMap};
use super::sockets::{self, Gate, Listeners, own_netns_cookie};
use super::{Block, KernelError, load, own, pins};

/// `BPF_SK_LOOKUP`.
const SK_LOOKUP: u32 = 36;
/// The gate's own user namespace, which owns the namespaces that it may serve.
const OWN_USERS: &str = "/proc/thread-self/ns/user";

/// Why the gate does not listen in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Unserved {
    /// Its loopback is down, where the gate would listen.
    #[error("its loopback interface is down")]
    LoopbackDown,
    /// Somebody else has the gate's port.
    #[error("somebody in it has the gate's port")]
    PortTaken,
    /// So many are served that no more are.
    #[error("as many network namespaces as can be are served already")]
    TooMany,
    /// Another user namespace owns it.
    #[error("an unprivileged user made it, and could answer in a target's name there")]
    OtherOwner,
    /// The system said no, which the log has.
    #[error("the system refused; the log says what")]
    Failed,
}

impl Unserved {
    const ALL: [Self; 5] =
        [Self::LoopbackDown, Self::PortTaken, Self::TooMany, Self::OtherOwner, Self::Failed];

    fn number(self) -> u32 {
        1 + Self::ALL.iter().position(|one| *one == self).map_or(u32::MAX - 1, |at| at as u32)
    }

    fn of_number(number: u32) -> Self {
        let at = number.checked_sub(1).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| Self::ALL.get(at)).copied().unwrap_or(Self::Failed)
    }
}

/// A network namespace that the kernel programs were told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpaceStatus {
    /// Its cookie.
    pub cookie: u64,
    /// Its inode (`net:[N]`).
    pub inode: u64,
    /// Whether the gate listens there, as far as the programs know: the enforcer may be gone.
    pub served: bool,
    /// Whether protected services run there.
    pub services: bool,
    /// Why it is not served.
    pub why: Option<Unserved>,
    #[serde(skip)]
    slot: u32,
}

impl SpaceStatus {
    /// Its number among those served.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

/// A namespace where the gate listens.
#[derive(Debug)]
pub struct Space {
    file: File,
    cookie: u64,
    inode: u64,
    slot: u32,
    told: Mutex<Told>,
    listeners: Listeners,
}

/// What the programs were told of it last.
#[derive(Debug)]
struct Told {
    services: bool,
    own: Vec<Block>,
}

impl Space {
    /// Its cookie, its name for as long as the host runs.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Its inode.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Its number among those served.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Whether protected services run there.
    #[must_use]
    pub fn services(&self) -> bool {
        self.told().services
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its listeners, once more.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn listeners(&self) -> io::Result<Listeners> {
        self.listeners.try_clone()
    }

    /// Whether an address is this namespace's own, as [`super::is_own_address`] says it of the gate's.
    ///
    /// # Errors
    /// Where it cannot be found out.
    pub fn is_own(&self, address: IpAddr) -> io::Result<bool> {
        within(&self.file, || sockets::is_own_address(address))
    }
}

/// Every namespace that the kernel programs were told of, those refused too.
///
/// # Errors
/// Where nothing is loaded there, or it may not be read.
pub fn spaces(pins: &Path) -> Result<Vec<SpaceStatus>, KernelError> {
    pins::config(pins)?;
    let map = map(pins)?;
    let mut known = Vec::new();
    for key in map.keys().map_err(KernelError::map("SPACES"))? {
        // Gone since the keys were listed.
        let Some(value) = map.lookup(&key, 1).map_err(KernelError::map("SPACES"))? else { continue };
        let Ok(cookie) = key.try_into().map(u64::from_ne_bytes) else { continue };
        let mut space = abi::Space::ZERO;
        space.bytes_mut().copy_from_slice(&value);
        let served = space.flags & SPACE_SERVED != 0;
        known.push(SpaceStatus {
            cookie,
            inode: space.inode,
            served,
            services: space.flags & SPACE_SERVICES != 0,
            why: (!served).then(|| Unserved::of_number(space.why)),
            slot: space.slot,
        });
    }
    known.sort_unstable_by_key(|space| space.inode);
    Ok(known)
}

fn map(pins: &Path) -> Result<RawMap, KernelError> {
    RawMap::open(&map_path(pins, "SPACES"), 8, size_of::<abi::Space>()).map_err(KernelError::map("SPACES"))
}

/// What was found of a namespace on looking into it.
struct Look {
    cookie: u64,
    own: Vec<Block>,
}

/// The namespace of an open file, if the gate may serve it.
fn look(file: &File) -> Result<(u64, Result<Look, Unserved>), KernelError> {
    let failed = || KernelError::file("a network namespace");
    let cookie = within(file, own_netns_cookie).map_err(failed())?;
    let owner = File::from(raw::owner_of(file.as_fd()).map_err(failed())?);
    let (owner, ours) = (owner.metadata().map_err(failed())?, pins::inode(Path::new(OWN_USERS))?);
    if owner.ino() != ours {
        return Ok((cookie, Err(Unserved::OtherOwner)));
    }
    let own = within(file, own::addresses_here).map_err(failed())?;
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    if !own.iter().any(|block| own::is_in(block, loopback)) {
        return Ok((cookie, Err(Unserved::LoopbackDown)));
    }
    Ok((cookie, Ok(Look { cookie, own })))
}

impl Gate {
    /// The inode of the gate's own network namespace.
    #[must_use]
    pub fn netns_inode(&self) -> u64 {
        self.config.netns_inode
    }

    /// Whether sockets of other namespaces are nobody's business here.
    #[must_use]
    pub fn only_netns(&self) -> bool {
        self.config.flags & abi::FLAG_ONLY_NETNS != 0
    }

    /// Listens in the namespace that `file` names, as number `slot` of that cookie, and lets the programs lead there.
    ///
    /// # Errors
    /// Why not; the programs know of it, and refuse.
    pub fn open_space(
        &self,
        file: File,
        slot: impl FnOnce(u64) -> Option<u32>,
        services: bool,
    ) -> Result<Space, Unserved> {
        let inode = file.metadata().map_err(KernelError::file("a network namespace")).map_err(failed)?.ino();
        let (cookie, found) = look(&file).map_err(failed)?;
        let opened = found.and_then(|found| {
            let slot = slot(cookie).ok_or(Unserved::TooMany)?;
            self.listen_in(file, found, (inode, slot, services))
        });
        if let Err(why) = opened {
            self.refuse_space(cookie, inode, why);
        }
        opened
    }

    fn listen_in(
        &self,
        file: File,
        Look { cookie, own }: Look,
        (inode, slot, services): (u64, u32, bool),
    ) -> Result<Space, Unserved> {
        let first = slot * LISTENERS;
        let opened = within(&file, || {
            let outbound = self.listen_at(Self::LOOPBACK, first + LISTEN_OUTBOUND);
            Ok(outbound.and_then(|outbound| {
                let inbound = self.listen_at(Self::UNREACHABLE, first + LISTEN_INBOUND)?;
                Ok(Listeners { outbound, inbound })
            }))
        });
        let listeners = match opened.unwrap_or_else(|source| Err(KernelError::file("setns")(source))) {
            Ok(listeners) => listeners,
            Err(KernelError::File { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
                return Err(Unserved::PortTaken);
            }
            Err(error) => return Err(failed(error)),
        };
        let told = Mutex::new(Told { services, own });
        let space = Space { cookie, inode, slot, told, listeners, file };
        match self.lead_to(&space) {
            Ok(()) => Ok(space),
            Err(error) => Err(failed(error)),
        }
    }

    /// Everything that the programs must have before they send anybody there; the word that they may comes last.
    fn lead_to(&self, space: &Space) -> Result<(), KernelError> {
        self.tables().publish_own(space.slot, &space.told().own)?;
        let path = link_path(self.pins(), &link_name(space.cookie));
        let program = load::steer_for(self.pins(), space.cookie)?;
        attach(&path, &program, &space.file).map_err(KernelError::file(&path))?;
        self.tell_of(space)
    }

    fn tell_of(&self, space: &Space) -> Result<(), KernelError> {
        let flags = SPACE_SERVED | if space.services() { SPACE_SERVICES } else { 0 };
        let told = abi::Space { inode: space.inode, slot: space.slot, flags, why: 0, zero: 0 };
        let map = map(self.pins())?;
        map.update(&space.cookie.to_ne_bytes(), told.bytes()).map_err(KernelError::map("SPACES"))
    }

    fn refuse_space(&self, cookie: u64, inode: u64, why: Unserved) {
        // It may have been served until now.
        let known = spaces(self.pins()).unwrap_or_default();
        for left in known.iter().filter(|known| known.cookie == cookie && known.served) {
            self.forget_space(left.cookie, left.slot);
        }
        let told = abi::Space { inode, slot: 0, flags: 0, why: why.number(), zero: 0 };
        let told = map(self.pins()).and_then(|map| {
            map.update(&cookie.to_ne_bytes(), told.bytes()).map_err(KernelError::map("SPACES"))
        });
        if let Err(error) = told {
            // It is refused all the same: what the programs do not know, they do not serve.
            tracing::debug!(%error, "a network namespace that is not served is not listed");
        }
    }

    /// Brings a space up to date: its addresses, and whether services run there.
    ///
    /// # Errors
    /// Its loopback is down now, or the kernel cannot be told.
    pub fn renew_space(&self, space: &Space, services: bool) -> Result<(), Unserved> {
        let Look { own, .. } = look(&space.file).map_err(failed)?.1?;
        if own != space.told().own {
            self.tables().publish_own(space.slot, &own).map_err(failed)?;
            space.told().own = own;
        }
        if services != space.services() {
            space.told().services = services;
            self.tell_of(space).map_err(failed)?;
        }
        Ok(())
    }

    /// Lets a namespace go: from here on what belongs to the gate is refused there. In this order nobody is sent to a
    /// listener that is no longer one.
    pub fn forget_space(&self, cookie: u64, slot: u32) {
        let forget = || -> Result<(), KernelError> {
            map(self.pins())?.delete(&cookie.to_ne_bytes()).map_err(KernelError::map("SPACES"))?;
            if slot != 0 {
                for index in slot * LISTENERS..(slot + 1) * LISTENERS {
                    self.take_from_charge(index)?;
                }
                self.tables().publish_own(slot, &[])?;
            }
            let path = link_path(self.pins(), &link_name(cookie));
            match raw::get(&path) {
                Ok(link) => {
                    // Its namespace may be gone, and the link detached with it.
                    let _ = raw::link_detach(link.as_fd());
                    std::fs::remove_file(&path).map_err(KernelError::file(&path))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(source) => Err(KernelError::File { path, source }),
            }
        };
        if let Err(error) = forget() {
            tracing::error!(%error, "something of a network namespace that is gone is left; `tidegate unload` takes it away");
        }
    }

    /// A socket of the gate's own in that namespace, which can be connected to this place and to no other.
    ///
    /// # Errors
    /// There is no socket to be had there, or it cannot be marked.
    pub fn socket_in(&self, space: &Space, to: SocketAddr) -> io::Result<OwnedFd> {
        within(&space.file, || self.socket_for(to))
    }
}

fn failed(error: KernelError) -> Unserved {
    tracing::error!(%error, "the gate cannot listen in a network namespace");
    Unserved::Failed
}

/// The name of the link of the program that steers in a namespace.
fn link_name(cookie: u64) -> String {
    format!("tg_steer@{cookie}")
}

fn attach(path: &Path, program: &OwnedFd, namespace: &File) -> io::Result<()> {
    match raw::get(path) {
        Ok(link) => {
            let info: raw::Info<32> = raw::info(link.as_fd())?;
            if info.word(16) != 0 {
                return raw::link_update(link.as_fd(), program.as_fd());
            }
            std::fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let link = raw::link_create(program.as_fd(), namespace.as_fd(), SK_LOOKUP)?;
    raw::pin(link.as_fd(), path)
}

/// Does something inside a network namespace, on a thread that ends with it.
pub(super) fn within<T: Send>(namespace: &File, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().spawn_scoped(scope, || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            act()
        })?;
        inside.join().unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::Other)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_number_of_its_own_that_is_not_the_number_of_none() {
        for why in Unserved::ALL {
            assert_ne!(why.number(), 0);
            assert_eq!(Unserved::of_number(why.number()), why);
        }
        assert_eq!(Unserved::of_number(0), Unserved::Failed);
        assert_eq!(Unserved::of_number(u32::MAX), Unserved::Failed);
    }
}
