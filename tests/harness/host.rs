//! A host of the test's own: namespace, cgroup, folder, pins; with a second one at the other end of a cable if wanted.
//! Never shares anything with another test, and leaves nothing behind.

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::seat::Seat;
use crate::sweep;

/// The host's address on the cable to its remote.
pub const HOST4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The remote's address.
pub const REMOTE4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The host's address on the cable to its remote.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
/// The remote's address.
pub const REMOTE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);

/// A host: everything in it is removed when it is dropped.
pub struct Host {
    name: String,
    has_remote: bool,
}

impl Host {
    /// A host with loopback only.
    ///
    /// # Panics
    /// Without root, iproute2 or cgroup v2.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "making a host is an act, not a default")]
    pub fn new() -> Self {
        let host = Self { name: sweep::name(), has_remote: false };
        make_netns(&host.name);
        make_folder(&sweep::folder_path(&host.name), 0o755);
        make_folder(&host.pins(), 0o700);
        for group in ["gate", "agent", "client"] {
            host.group(group);
        }
        host
    }

    /// A host, and a second one at the other end of a cable: [`HOST4`]/[`HOST6`] here, [`REMOTE4`]/[`REMOTE6`] there.
    ///
    /// # Panics
    /// As [`Host::new`].
    #[must_use]
    pub fn with_remote() -> Self {
        let mut host = Self::new();
        let remote = format!("{}-remote", host.name);
        host.has_remote = true;
        make_netns(&remote);
        make_folder(&sweep::cgroup_path(&remote), 0o755);
        let ends = ["type", "veth", "peer", "name", "cable", "netns", &remote];
        require_ip(&[&["-n", &host.name, "link", "add", "cable"][..], &ends].concat());
        for (netns, v4, v6) in [(&host.name, HOST4, HOST6), (&remote, REMOTE4, REMOTE6)] {
            require_ip(&["-n", netns, "address", "add", &format!("{v4}/24"), "dev", "cable"]);
            require_ip(&["-n", netns, "address", "add", &format!("{v6}/64"), "dev", "cable", "nodad"]);
            require_ip(&["-n", netns, "link", "set", "cable", "up"]);
        }
        host
    }

    /// Its name, which is also the name of its namespace (`ip netns exec NAME ...`); its cgroup is `NAME.slice`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder of its own, readable by everyone.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        sweep::folder_path(&self.name)
    }

    /// A folder of its own below bpffs, mode 0700.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        sweep::pins_path(&self.name)
    }

    /// Its cgroup: where the gate attaches. The groups of its seats lie below.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        sweep::cgroup_path(&self.name)
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        sweep::netns_path(&self.name)
    }

    /// The cgroup of this name below the host's, made if need be. `a/b` nests.
    ///
    /// # Panics
    /// When the cgroup cannot be made.
    #[must_use = "or use `seat`"]
    fn group_path(&self, group: &str) -> PathBuf {
        let path = self.cgroup().join(group);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        path
    }

    fn group(&self, group: &str) {
        drop(self.group_path(group));
    }

    /// A seat in one of the host's cgroups, made if need be: `gate`, `agent`, `client`, or any other; `a.slice/b` nests.
    #[must_use]
    pub fn seat(&self, group: &str) -> Seat {
        Seat::new(self.netns(), self.group_path(group), self.folder())
    }

    /// Where an ordinary local client sits.
    #[must_use]
    pub fn client(&self) -> Seat {
        self.seat("client")
    }

    /// Where the agent sits, in a cgroup that a guard may name: `/NAME.slice/agent`.
    #[must_use]
    pub fn agent(&self) -> Seat {
        self.seat("agent")
    }

    /// A seat on the remote host, outside this host's cgroup.
    ///
    /// # Panics
    /// Unless made by [`Host::with_remote`].
    #[must_use]
    pub fn remote(&self) -> Seat {
        assert!(self.has_remote, "this host has no remote: make it by Host::with_remote()");
        let name = format!("{}-remote", self.name);
        Seat::new(sweep::netns_path(&name), sweep::cgroup_path(&name), self.folder())
    }

    /// Gives the host one more address (on loopback), for a service that is not on 127.0.0.1.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub fn add_address(&self, address: IpAddr) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let nodad = address.is_ipv6().then_some("nodad");
        let address = format!("{address}/{length}");
        let words = ["-n", &self.name, "address", "add", &address, "dev", "lo"];
        require_ip(&words.into_iter().chain(nodad).collect::<Vec<_>>());
    }

    /// A command that will run as an ordinary local client.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.client().command(program)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        sweep::remove(&self.name);
    }
}

fn make_netns(name: &str) {
    require_ip(&["netns", "add", name]);
    require_ip(&["-n", name, "link", "set", "lo", "up"]);
}

fn require_ip(arguments: &[&str]) {
    assert!(sweep::ip(arguments), "`ip {}` failed: the tests need root and iproute2", arguments.join(" "));
}

fn make_folder(path: &Path, mode: u32) {
    let made = fs::create_dir(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
    made.unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
}
