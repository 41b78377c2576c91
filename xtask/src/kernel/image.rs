//! A kernel of Debian's, from Debian's own package of it, kept for the next time. Needs no privilege and changes nothing of this
//! machine's packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::Kernel;
use crate::{packages, place};

/// Modules that the tests of interception use, most of them for networks, where a kernel has them as modules, in the order of loading.
pub(crate) const NETWORK: [&str; 15] = [
    "crc32c_generic",
    "libcrc32c",
    "veth",
    "tun",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "sctp",
    "dccp",
    "dccp_ipv4",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vsock_loopback",
    "sch_ingress",
    "overlay",
    "binfmt_misc",
];
/// What a whole system needs besides: its disk, a look at its sockets, and an interface that leads nowhere.
pub(crate) const SYSTEM: [&str; 14] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "crc16",
    "mbcache",
    "jbd2",
    "ext4",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "dummy",
];

/// A kernel and its modules.
pub(crate) struct Image(PathBuf);

impl Image {
    /// Brings it, where it is not there from the last time.
    pub(crate) fn of(kernel: Kernel) -> Result<Self> {
        let folder = place::root().join("target/kernels").join(kernel.name());
        let image = Self(folder);
        // Written last, and with other modules to be had it is another one.
        let (stamp, wanted) =
            (image.folder().join("modules.list"), [&NETWORK[..], &SYSTEM].concat().join(" "));
        if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
            return Ok(image);
        }
        if !packages::is_debian() || std::env::consts::ARCH != "x86_64" {
            bail!("tests on another kernel take Debian's packages for x86_64: run them on such a machine");
        }
        let (suite, folder) = (kernel.suite(), image.folder());
        eprintln!("setup: brings Debian's kernel `{suite}` into {}: 100 MB", folder.display());
        let sh = place::shell()?;
        let scratch = folder.join("download");
        for below in ["lists/partial", "cache/archives/partial"] {
            sh.create_dir(scratch.join(below))?;
        }
        sh.write_file(scratch.join("sources.list"), format!("deb {} {suite} main\n", mirror(&sh)?))?;
        let _there = sh.push_dir(&scratch);
        let options = &apt_options(&scratch);
        cmd!(sh, "apt-get {options...} --quiet update").ignore_stdout().run()?;
        let depends = cmd!(sh, "apt-cache {options...} depends linux-image-amd64").read()?;
        let package = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
            .context("the mirror does not say which kernel is the newest")?;
        let package = format!("linux-image-{package}");
        cmd!(sh, "apt-get {options...} --quiet download {package}").ignore_stdout().run()?;
        unpack(&sh, folder)?;
        fs::remove_dir_all(scratch)?;
        fs::write(stamp, wanted)?;
        Ok(image)
    }

    /// Where it is kept, and what is kept with it.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.0.join("vmlinuz")
    }

    /// That module, if this kernel has it as one.
    pub(crate) fn module(&self, name: &str) -> Option<PathBuf> {
        Some(self.0.join("modules").join(format!("{name}.ko"))).filter(|file| file.exists())
    }
}

/// Where this machine gets its own packages from.
pub(crate) fn mirror(sh: &Shell) -> Result<String> {
    let format = "$(REPO_URI) $(RELEASE)";
    let known = cmd!(sh, "apt-get indextargets --format {format}").read()?;
    let sites = known.lines().filter_map(|line| line.split_once(' '));
    let mut mirrors = sites.filter(|(uri, _)| uri.trim_end_matches('/').ends_with("/debian"));
    let (uri, _) = mirrors.next().context(
        "apt knows no mirror of Debian's: add one to its sources (URIs ending in /debian), then run this again",
    )?;
    Ok(uri.to_owned())
}

/// Lists and caches of our own, so that nothing of the machine's changes and no privilege is needed.
fn apt_options(scratch: &Path) -> Vec<String> {
    let at = |name: &str| scratch.join(name).display().to_string();
    let settings = [
        format!("Dir::Etc::sourcelist={}", at("sources.list")),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
        "Acquire::Languages=none".to_owned(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        "APT::Sandbox::User=".to_owned(),
    ];
    settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]).collect()
}

fn unpack(sh: &Shell, folder: &Path) -> Result<()> {
    let root = sh.current_dir().join("root");
    let packed =
        entries(&sh.current_dir())?.into_iter().find(|path| path.extension() == Some("deb".as_ref()));
    let packed = packed.context("apt has brought no package")?;
    cmd!(sh, "dpkg-deb --extract {packed} {root}").run()?;
    let modules = folder.join("modules");
    sh.create_dir(&modules)?;
    let mut found = Vec::new();
    find(&root.join("lib/modules"), &mut found)?;
    for path in found {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some((stem, _)) = name.split_once(".ko") else { continue };
        if !NETWORK.contains(&stem) && !SYSTEM.contains(&stem) {
            continue;
        }
        sh.copy_file(&path, &modules)?;
        if name.ends_with(".xz") {
            let packed = modules.join(&name);
            cmd!(sh, "xz --decompress --force {packed}").run()?;
        }
    }
    let kernels = entries(&root.join("boot"))?;
    let kernel = kernels.iter().find(|path| path.to_string_lossy().contains("/vmlinuz-"));
    fs::copy(kernel.context("the package holds no kernel")?, folder.join("vmlinuz"))?;
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(read.flatten().map(|entry| entry.path()).collect())
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() && !path.is_symlink() {
            find(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
