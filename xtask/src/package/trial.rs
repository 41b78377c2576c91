//! Tries the package where it is to be: on a Debian of its own, with systemd, booted in an emulator. Installs, boots, upgrades,
//! removes, purges, and has every promise tried inside. This machine gets nothing but the tools it may lack.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::{NEEDS as PACKING, Tree, VERSION, examiner, program};
use crate::emulator::{self, Machine, Outcome};
use crate::kernel::Kernel;
use crate::kernel::image::{Image, NETWORK, SYSTEM, mirror};
use crate::packages::{self, Need};
use crate::place;
use crate::ramdisk::Ramdisk;

/// Each time the machine is booted; four times of what it takes on two busy cores.
const PATIENCE: Duration = Duration::from_mins(15);
/// Room for a small Debian, two programs and a record. Only what is used takes place.
const DISK: &str = "2G";
/// What the program inside says when it has tried everything.
const END: &str = "tidegate: the trial has run";
/// Times that the machine is booted: on the first, nothing is installed yet.
const STAGES: [&str; 2] = ["install", "boot"];
/// Lines of the console that are shown again where it ended too early.
const TAIL: usize = 40;

const NEEDS: [Need; 3] = [
    Need::command("debootstrap", "debootstrap", "a Debian to install the package on"),
    Need::command("mkfs.ext4", "e2fsprogs", "its disk"),
    Need::command("lintian", "lintian", "looks for known mistakes in the package"),
];
/// What that Debian has besides its smallest set.
const PACKAGES: &str = "systemd-sysv,dbus,iproute2,curl";

const UNITS: [(&str, &str); 5] = [
    ("target", include_str!("machine/target.service")),
    ("early-agent", include_str!("machine/early-agent.service")),
    ("ordinary-agent", include_str!("machine/ordinary-agent.service")),
    ("host-network", include_str!("machine/host-network.service")),
    ("trial", include_str!("machine/trial.service")),
];

/// Makes the package in three versions of one program, and tries them.
pub(crate) fn run() -> Result<Outcome> {
    packages::bring("tests of the package", &[&NEEDS[..], &PACKING, &emulator::NEEDS].concat())?;
    let sh = place::shell()?;
    let folder = place::root().join("target/machine");
    sh.create_dir(&folder)?;
    let program = program()?;
    let next = ["1", "2"].map(|change| format!("{VERSION}+{change}"));
    let tree = Tree::of(&sh, &program, &folder)?;
    let packages = [tree.pack(VERSION, "xz")?, tree.pack(&next[0], "none")?, tree.pack(&next[1], "none")?];
    sh.remove_path(tree.root)?;
    let mut outcome = Outcome { lines: vec![looked_over(&sh, &packages[0], &program)?], broken: Vec::new() };
    let image = Image::of(Kernel::Backports)?;
    let (base, disk) = (base(&sh, &folder)?, folder.join("disk.img"));
    cmd!(sh, "cp --sparse=always {base} {disk}").run()?;
    let examiner = examiner(&sh)?;
    for stage in STAGES {
        let (ramdisk, log) = (folder.join("ramdisk.cpio"), folder.join(format!("{stage}.log")));
        pack(&image, stage, &packages, &examiner)?.write(&ramdisk)?;
        eprintln!("\n--- the machine boots: {stage}");
        let machine = Machine {
            kernel: &image.kernel(),
            ramdisk: &ramdisk,
            disk: Some(&disk),
            words: "systemd.show_status=0",
            patience: PATIENCE,
        };
        let said = machine.run(&log);
        fs::remove_file(&ramdisk)?;
        let booted = look(stage, said?);
        booted.keep_if_failed(&log)?;
        let ended = booted.broken.is_empty();
        outcome.lines.extend(booted.lines);
        outcome.broken.extend(booted.broken);
        if !ended {
            break;
        }
    }
    fs::remove_file(disk)?;
    Ok(outcome)
}

fn look(stage: &str, lines: Vec<String>) -> Outcome {
    let mut broken = Vec::new();
    if !lines.iter().any(|line| line == END) {
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n    ");
        broken.push(format!("the package's trial, stage `{stage}`; its console ended with\n    {tail}"));
    }
    Outcome { lines, broken }
}

/// What can be said of a package without installing it, as a test says it.
fn looked_over(sh: &Shell, package: &Path, program: &Path) -> Result<String> {
    // Uncompressed: compressing is most of the work, and adds nothing of its own.
    let made = ["one", "other"].map(|name| -> Result<PathBuf> {
        let folder = package.with_file_name(name);
        Tree::of(sh, program, &folder)?.pack(VERSION, "none")
    });
    let [one, other] = made;
    let (one, other) = (one?, other?);
    if fs::read(&one)? != fs::read(&other)? {
        bail!("{} and {} are made of the same and differ", one.display(), other.display());
    }
    [one, other].iter().filter_map(|made| made.parent()).try_for_each(|folder| sh.remove_path(folder))?;
    println!("test the_same_program_makes_the_same_package ... ok");
    cmd!(sh, "lintian --fail-on error,warning --allow-root {package}")
        .run()
        .context("lintian has found mistakes")?;
    println!("test lintian_finds_no_mistake ... ok");
    Ok("test result: ok. 2 passed; 0 failed".to_owned())
}

/// The disk of a small Debian, kept for the next time.
fn base(sh: &Shell, folder: &Path) -> Result<PathBuf> {
    let image = folder.join("base.img");
    let (stamp, wanted) = (folder.join("base.list"), format!("{PACKAGES} {DISK}"));
    if image.exists() && fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(image);
    }
    let release = fs::read_to_string("/etc/os-release")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("/etc/os-release names no suite of Debian's")?;
    eprintln!("setup: brings a small Debian `{suite}` into {}: a minute", image.display());
    let (tree, mirror, become_root) = (folder.join("tree-of-base"), mirror(sh)?, place::privileged()?);
    let privileged = |words: &[&str]| {
        let all: Vec<&str> = become_root.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let (first, rest) = all.split_first().context("an empty command")?;
        Ok::<_, anyhow::Error>(cmd!(sh, "{first} {rest...}").ignore_stdout().run()?)
    };
    let (tree, at) = (tree.display().to_string(), image.display().to_string());
    let include = format!("--include={PACKAGES}");
    privileged(&["rm", "-rf", &tree])?;
    privileged(&["debootstrap", "--variant=minbase", &include, suite, &tree, &mirror])?;
    privileged(&[
        "rm",
        "-rf",
        &format!("{tree}/var/cache/apt/archives"),
        &format!("{tree}/var/lib/apt/lists"),
    ])?;
    sh.remove_path(&image)?;
    cmd!(sh, "truncate --size={DISK} {image}").run()?;
    privileged(&["mkfs.ext4", "-q", "-F", "-d", &tree, &at])?;
    privileged(&["rm", "-rf", &tree])?;
    fs::write(stamp, wanted)?;
    Ok(image)
}

/// What the machine starts from: its disk's modules, and what is tried on it.
fn pack(image: &Image, stage: &str, packages: &[PathBuf], examiner: &Path) -> Result<Ramdisk> {
    let mut ramdisk = Ramdisk::new()?;
    ramdisk.folder("/machine")?;
    let busybox = place::command("busybox").context("`busybox` is not in PATH")?;
    ramdisk.copy(&busybox, Path::new("/bin/busybox"))?;
    let modules = [&NETWORK[..], &SYSTEM].concat();
    for module in &modules {
        if let Some(file) = image.module(module) {
            ramdisk.copy(&file, &PathBuf::from(format!("/modules/{module}.ko")))?;
        }
    }
    ramdisk.text("/modules/order", &(modules.join("\n") + "\n"))?;
    for (name, text) in UNITS {
        ramdisk.text(&format!("/trial/units/{name}.service"), text)?;
    }
    for (number, package) in packages.iter().enumerate() {
        ramdisk.copy(package, &PathBuf::from(format!("/trial/{number}.deb")))?;
    }
    // It needs the C library alone, which the machine has.
    ramdisk.stripped(examiner, Path::new("/trial/tidegate-installed"))?;
    let demo = place::root().join("policies/demo");
    for file in fs::read_dir(&demo)? {
        let file = file?;
        ramdisk.copy(&file.path(), &Path::new("/trial/policies").join(file.file_name()))?;
    }
    ramdisk.copy(&place::root().join("vagrant/provision.sh"), Path::new("/trial/provision.sh"))?;
    ramdisk.text("/trial/stage", stage)?;
    ramdisk.text("/init", include_str!("machine/init.sh"))?;
    Ok(ramdisk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_ends_before_its_trial_is_named_with_the_end_of_its_console() {
        let lines = |all: &[&str]| all.iter().map(|&line| line.to_owned()).collect();
        assert!(look("boot", lines(&["test a ... ok", END])).broken.is_empty());
        let broken = look("boot", lines(&["Kernel panic"])).broken;
        assert!(broken[0].contains("boot") && broken[0].contains("Kernel panic"), "{broken:?}");
    }
}
