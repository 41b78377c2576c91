//! Runs the tests of interception on another kernel: Debian's own package of it, booted in an emulator with the test
//! programs in memory. Needs no privilege, no disk image and no hardware virtualisation; is bounded in time.

pub(crate) mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use xshell::Shell;

use self::image::{Image, NETWORK};
use crate::emulator::{self, Machine, Outcome};
use crate::packages::{self, Need};
use crate::place;
use crate::ramdisk::Ramdisk;

/// Boot and all tests; twice of what it takes on two busy cores.
const PATIENCE: Duration = Duration::from_mins(80);
/// What the first process says when everything has run.
const END: &str = "tidegate: all programs have run";

const NEEDS: [Need; 1] = [Need::command("ip", "iproute2", "hosts of their own for the tests")];

/// Programs of the tests that need nothing but a kernel and `ip`.
const PROGRAMS: [&str; 8] = [
    "kernel_path",
    "kernel_guard",
    "kernel_escape",
    "kernel_outside",
    "kernel_seldom",
    "kernel_refusals",
    "kernel_shut",
    "attack",
];
/// What they start.
const HELPERS: [&str; 3] = ["tidegate", "tidegate-actor", "tidegate-attack"];

/// A kernel to test on.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Debian 12's own (6.1): the oldest that works.
    #[value(name = "debian-12")]
    Debian12,
    /// The newest that Debian 12 offers (backports).
    Backports,
}

impl Kernel {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Debian12, Self::Backports];

    fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian-12",
            Self::Backports => "backports",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Backports => "bookworm-backports",
        }
    }

    /// Boots it, runs the tests with this setting, shows what they say. The programs must be built.
    pub(crate) fn run(self, tests: &[PathBuf], filter: &[String], setting: Option<&str>) -> Result<Outcome> {
        packages::bring("tests on another kernel", &[&NEEDS[..], &emulator::NEEDS].concat())?;
        let image = Image::of(self)?;
        let (ramdisk, log) = (image.folder().join("ramdisk.cpio"), image.folder().join("serial.log"));
        pack(&image, &first_process(tests, filter, setting), tests)?.write(&ramdisk)?;
        let machine =
            Machine { kernel: &image.kernel(), ramdisk: &ramdisk, disk: None, words: "", patience: PATIENCE };
        let said = machine.run(&log);
        fs::remove_file(&ramdisk)?;
        let outcome = look(said?);
        outcome.keep_if_failed(&log)?;
        Ok(outcome)
    }
}

/// Builds the test programs and what they start.
pub(crate) fn programs(sh: &Shell) -> Result<Vec<PathBuf>> {
    let mut arguments = vec!["build", "--workspace", "--bins", "--message-format", "json"];
    arguments.extend(PROGRAMS.iter().flat_map(|name| ["--test", name]));
    let messages = crate::build::cargo_command(sh, &arguments).read()?;
    let built = messages.lines().filter_map(|line| {
        let path = line.split("\"executable\":\"").nth(1)?.split('"').next()?;
        let is_test = line.contains("\"kind\":[\"test\"]");
        let name = Path::new(path).file_name()?.to_str()?.rsplit_once('-')?.0.to_owned();
        (is_test && PROGRAMS.contains(&name.as_str())).then(|| (name, PathBuf::from(path)))
    });
    let built: Vec<(String, PathBuf)> = built.collect();
    let in_order = PROGRAMS.iter().map(|name| {
        let found = built.iter().find(|(built, _)| built == name);
        found.map(|(_, path)| path.clone()).with_context(|| format!("cargo did not build the tests `{name}`"))
    });
    in_order.collect()
}

fn pack(image: &Image, init: &str, tests: &[PathBuf]) -> Result<Ramdisk> {
    let mut disk = Ramdisk::new()?;
    for name in ["/proc", "/sys", "/tmp", "/run", "/dev/pts", "/dev/shm"] {
        disk.folder(name)?;
    }
    let bring = |name: &str| place::command(name).with_context(|| format!("`{name}` is not in PATH"));
    disk.copy(&bring("busybox")?, Path::new("/bin/busybox"))?;
    disk.program(&bring("ip")?)?;
    disk.copy(&bring("ip")?, Path::new("/sbin/ip"))?;
    for helper in HELPERS {
        disk.program(&place::cargo_target().join("debug").join(helper))?;
    }
    for test in tests {
        disk.program(test)?;
    }
    let model = place::root().join("docs/THREAT_MODEL.md");
    disk.copy(&model, &model)?;
    for module in NETWORK {
        if let Some(file) = image.module(module) {
            disk.copy(&file, &PathBuf::from(format!("/modules/{module}.ko")))?;
        }
    }
    disk.text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")?;
    disk.text("/init", init)?;
    Ok(disk)
}

/// The script that the kernel starts.
fn first_process(tests: &[PathBuf], filter: &[String], setting: Option<&str>) -> String {
    let modules = NETWORK.join(" ");
    let tidegate = place::cargo_target().join("debug/tidegate");
    let mut script = format!(
        "#!/bin/busybox sh
/bin/busybox mkdir -p /bin /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/sbin:/usr/sbin:/usr/bin:/bin HOME=/ RUST_BACKTRACE=0 {}
ulimit -n 1048576
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/net
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
for module in {modules}; do
    [ -e /modules/$module.ko ] && insmod /modules/$module.ko
done
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
cat /proc/version
{} doctor | cat
",
        setting.unwrap_or_default(),
        tidegate.display()
    );
    // Filters come from a command line; in a script a quote would end the word.
    let filter: Vec<String> = filter.iter().map(|word| format!("'{}'", word.replace('\'', ""))).collect();
    // What was set for is of use when it is seen.
    let shown = if setting.is_some() { "--nocapture " } else { "" };
    for test in tests {
        let (path, filter) = (test.display(), filter.join(" "));
        script.push_str(&format!(
            "echo \"=== {path}\"\n{path} --test-threads=2 {shown}{filter}\necho \"ended: $? {path}\"\n"
        ));
    }
    script.push_str(&format!("echo '{END}'\nsync\npoweroff -f\n"));
    script
}

/// A program that ended with anything but success or failed tests did not run to its end; 101 is failed tests.
fn look(lines: Vec<String>) -> Outcome {
    let ended = lines.iter().filter_map(|line| line.strip_prefix("ended: ")?.split_once(' '));
    let crashed = ended.filter(|(code, _)| !matches!(*code, "0" | "101"));
    let mut broken: Vec<String> = crashed.map(|(code, path)| format!("{path} (ended with {code})")).collect();
    if !lines.iter().any(|line| line == END) {
        broken.push("the machine, which ended before its programs".to_owned());
    }
    Outcome { lines, broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> Outcome {
        look(lines.iter().map(|&line| line.to_owned()).collect())
    }

    #[test]
    fn a_program_that_crashes_and_a_machine_that_ends_early_are_named() {
        assert!(outcome(&["ended: 0 /a", "ended: 101 /b", END]).broken.is_empty());
        assert_eq!(outcome(&["ended: 139 /a", END]).broken, ["/a (ended with 139)"]);
        assert_eq!(outcome(&["ended: 0 /a"]).broken.len(), 1);
    }

    #[test]
    fn the_first_process_runs_every_program_and_takes_no_quote_from_a_filter() {
        let script =
            first_process(&[PathBuf::from("/t/one"), PathBuf::from("/t/two")], &["a'; b".to_owned()], None);
        assert!(script.contains("/t/one --test-threads=2 'a; b'\n") && script.contains("/t/two --test"));
        assert!(script.ends_with("poweroff -f\n"));
    }
}
