//! A network namespace beside the host's own, as a container has one: it lives as long as the process that made it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::process::Process;
use crate::seat::Seat;
use crate::{Host, eventually};

/// A namespace, held by one process that sleeps in a cgroup of the host. Gone when dropped.
pub struct Space {
    process: Process,
    netns: PathBuf,
    folder: PathBuf,
    number: u8,
    inode: u64,
}

impl Host {
    /// A namespace whose first process sleeps in this cgroup. Its loopback is down, and nothing leads there.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn bare_space(&self, group: &str, number: u8) -> Space {
        let own = fs::metadata(self.netns()).expect("the host's namespace is there").ino();
        let seat = self.seat(group);
        let process = seat.spawn("unshare", &["--net", "sleep", "infinity"]);
        let netns = PathBuf::from(format!("/proc/{}/ns/net", process.pid()));
        let comm = format!("/proc/{}/comm", process.pid());
        let inode = eventually("a namespace of its own", || {
            let sleeps = fs::read_to_string(&comm).is_ok_and(|name| name.trim() == "sleep");
            let inode = fs::metadata(&netns).ok()?.ino();
            (sleeps && inode != own).then_some(inode)
        });
        Space { process, netns, folder: self.folder(), number, inode }
    }

    /// The same with loopback, and a cable to the host: `10.78.NUMBER.2` there, `10.78.NUMBER.1` here, and the way to everything.
    ///
    /// # Panics
    /// As [`Host::bare_space`].
    #[must_use]
    pub fn space(&self, group: &str, number: u8) -> Space {
        let space = self.bare_space(group, number);
        space.loopback_up();
        let pid = space.process.pid().to_string();
        let cable = space.cable();
        let ends = ["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &pid];
        run("ip", &[&["-n", self.name()][..], &ends].concat());
        let here = format!("10.78.{number}.1/24");
        run("ip", &["-n", self.name(), "address", "add", &here, "dev", &cable]);
        run("ip", &["-n", self.name(), "link", "set", &cable, "up"]);
        space.ip(&["address", "add", &format!("10.78.{number}.2/24"), "dev", "eth0"]);
        space.ip(&["link", "set", "eth0", "up"]);
        space.ip(&["route", "add", "default", "via", &format!("10.78.{number}.1")]);
        space
    }
}

impl Space {
    /// A seat in it, in this cgroup of the host.
    #[must_use]
    pub fn seat(&self, host: &Host, group: &str) -> Seat {
        let cgroup = host.seat(group).cgroup().to_owned();
        Seat::new(self.netns.clone(), cgroup, self.folder.clone())
    }

    /// Its inode, as `net:[N]` has it.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The process that holds it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its loopback, up.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn loopback_up(&self) {
        self.ip(&["link", "set", "lo", "up"]);
    }

    /// Runs `ip` in it, as root, in the test's own cgroup.
    ///
    /// # Panics
    /// When that fails.
    pub fn ip(&self, words: &[&str]) {
        let netns = format!("--net={}", self.netns.display());
        run("nsenter", &[&[netns.as_str(), "ip"][..], words].concat());
    }

    /// Whether the kernel has taken it down: its end of the cable goes with it, and so does the host's.
    #[must_use]
    pub fn is_gone(host: &Host, number: u8) -> bool {
        let cable = format!("s{number}");
        let output = Command::new("ip").args(["-n", host.name(), "link", "show", &cable]).output();
        !output.expect("iproute2 is installed").status.success()
    }

    fn cable(&self) -> String {
        format!("s{}", self.number)
    }

    /// Ends its process.
    pub fn end(mut self) {
        self.process.kill();
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", words.join(" "));
}
