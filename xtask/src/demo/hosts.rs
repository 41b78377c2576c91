//! Makes the demo's hosts: a folder, cgroups, namespaces with a cable between them. Changes nothing that has not the
//! demo's name, but for mounting bpffs where nobody has.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::leftovers::{self, BPFFS, FAR, SLICE};
use crate::place;

/// Where mallory's mail arrives; mallory may empty it.
pub(super) const COLLECTED: &str = "collected.log";
/// The script that runs commands as somebody, with places for this demo's names.
const AS: &str = include_str!("as.sh");
/// What both hosts call each other.
const NAMES: &str = "127.0.0.1 localhost\n::1 localhost\n192.0.2.1 react.example\n192.0.2.10 crm.example\n\
                     192.0.2.66 collector.example\n2001:db8::66 collector.example\n";
/// User id of mallory, and of the group that may talk to the gate's admin socket. The script knows them, too.
const MALLORY: u32 = 61666;
const STAFF: u32 = 61000;

/// Makes everything but the processes.
pub(super) fn make(name: &str, cgroup_root: &Path, program: &Path) -> Result<()> {
    make_folder(name, cgroup_root, program)?;
    make_cgroups(name, cgroup_root)?;
    mount_bpffs()?;
    make_network(name, &format!("{name}{FAR}"))
}

fn make_folder(name: &str, cgroup_root: &Path, program: &Path) -> Result<()> {
    let folder = leftovers::folder(name);
    for part in ["", "bin", "policies", "services", "run"] {
        let path = folder.join(part);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    chown(folder.join("run"), None, Some(STAFF)).context("cannot give the staff a folder")?;
    copy(program, &folder.join("bin/tidegate"), 0o755)?;
    copy_files(&place::root().join("policies/demo"), &folder.join("policies"))?;
    copy_files(&place::root().join("tests/react"), &folder.join("services"))?;
    let names = [
        ("@NAME@", name.to_owned()),
        ("@FOLDER@", folder.display().to_string()),
        ("@CGROUP@", cgroup_root.display().to_string()),
        ("@PINS@", leftovers::pins(name).display().to_string()),
    ];
    let script = names.iter().fold(AS.to_owned(), |script, (place, name)| script.replace(place, name));
    write(&folder.join("as"), &script, 0o755)?;
    write(&folder.join("hosts"), NAMES, 0o644)?;
    write(&folder.join(COLLECTED), "", 0o644)?;
    chown(folder.join(COLLECTED), Some(MALLORY), None).context("cannot give mallory a file")
}

fn make_cgroups(name: &str, root: &Path) -> Result<()> {
    let slice = format!("{name}{SLICE}");
    let inside = ["gate", "desk", "react-agent.service"].map(|group| format!("{slice}/{group}"));
    for group in [slice, format!("{name}{FAR}")].into_iter().chain(inside) {
        let path = root.join(group);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
    }
    Ok(())
}

fn make_network(near: &str, far: &str) -> Result<()> {
    for host in [near, far] {
        ip(&["netns", "add", host])?;
        ip(&["-n", host, "link", "set", "lo", "up"])?;
    }
    ip(&["-n", near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far])?;
    let addresses = [
        (near, "192.0.2.1/24"),
        (near, "2001:db8::1/64"),
        (far, "192.0.2.2/24"),
        (far, "192.0.2.10/24"),
        (far, "192.0.2.66/24"),
        (far, "2001:db8::66/64"),
    ];
    for (host, address) in addresses {
        let nodad = address.contains(':').then_some("nodad");
        let words = ["-n", host, "address", "add", address, "dev", "cable"];
        ip(&words.into_iter().chain(nodad).collect::<Vec<_>>())?;
    }
    for host in [near, far] {
        ip(&["-n", host, "link", "set", "cable", "up"])?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(to, Permissions::from_mode(mode))?)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            copy(&path, &to.join(name), 0o644)?;
        }
    }
    Ok(())
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output().context("cannot run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}`: {}", words.join(" "), said.trim());
    Ok(())
}

/// systemd mounts it at boot. Where nobody has, it is mounted, and stays: an empty file system of the kernel.
fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc is not mounted")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        return Ok(());
    }
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).status();
    ensure!(mounted.is_ok_and(|status| status.success()), "cannot mount {BPFFS}");
    Ok(())
}
