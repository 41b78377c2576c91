//! Runs the tests of interception on another kernel: Debian's own package of it, booted in an emulator with the test
//! programs in memory. Needs no privilege, no disk image and no hardware virtualisation; is bounded in time.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::packages::{self, Need};
use crate::place;
use crate::ramdisk::Ramdisk;

/// Boot and all tests; four times of what it takes on two busy cores.
const PATIENCE: Duration = Duration::from_mins(40);
/// Lines that may wait to be shown.
const LINES_AHEAD: usize = 1024;
const MEMORY: &str = "3072";
/// What the first process says when everything has run.
const END: &str = "tidegate: all programs have run";

const NEEDS: &[Need] = &[
    Need::command("qemu-system-x86_64", "qemu-system-x86", "the machine the other kernel runs on"),
    Need::command("busybox", "busybox-static", "the shell of that machine"),
    Need::command("ip", "iproute2", "hosts of their own for the tests"),
    Need::command("dpkg-deb", "dpkg", "unpacks the kernel's package"),
    Need::command("xz", "xz-utils", "unpacks the kernel's modules"),
    Need::command("strip", "binutils", "programs without debug information fit into memory"),
];

/// Programs of the tests that need nothing but a kernel and `ip`.
const PROGRAMS: [&str; 5] = ["kernel_path", "kernel_guard", "kernel_escape", "kernel_shut", "attack"];
/// What they start.
const HELPERS: [&str; 3] = ["tidegate", "tidegate-actor", "tidegate-attack"];
/// Modules that the tests use where a kernel has them as modules, in the order of loading.
const MODULES: [&str; 13] = [
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
];

/// A kernel to test on.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Debian 12's own (6.1): the oldest that works.
    #[value(name = "debian-12")]
    Debian12,
    /// The newest that Debian 12 offers (backports).
    Backports,
}

/// What the programs on the other kernel said.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) lines: Vec<String>,
    /// What did not run to its end.
    pub(crate) broken: Vec<String>,
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

    /// Boots it, runs the tests, shows what they say. The programs must be built.
    pub(crate) fn run(self, tests: &[PathBuf], filter: &[String]) -> Result<Outcome> {
        packages::bring("tests on another kernel", NEEDS)?;
        let folder = place::root().join("target/kernels").join(self.name());
        fs::create_dir_all(&folder)?;
        self.bring(&folder)?;
        let disk = folder.join("ramdisk.cpio");
        pack(&folder, tests, filter)?.write(&disk)?;
        let log = folder.join("serial.log");
        let outcome = boot(&folder.join("vmlinuz"), &disk, &log);
        fs::remove_file(&disk)?;
        let outcome = outcome?;
        if outcome.broken.is_empty() && !outcome.lines.iter().any(|line| line.contains("FAILED")) {
            fs::remove_file(&log)?;
        } else {
            eprintln!("what that machine said is kept in {}", log.display());
        }
        Ok(outcome)
    }

    /// The kernel and its modules from Debian's package, kept for the next time.
    fn bring(self, folder: &Path) -> Result<()> {
        if folder.join("vmlinuz").exists() {
            return Ok(());
        }
        if !packages::is_debian() || std::env::consts::ARCH != "x86_64" {
            bail!("tests on another kernel take Debian's packages for x86_64: run them on such a machine");
        }
        eprintln!("setup: brings Debian's kernel `{}` into {}: 100 MB", self.suite(), folder.display());
        let sh = place::shell()?;
        let scratch = folder.join("download");
        for below in ["lists/partial", "cache/archives/partial"] {
            sh.create_dir(scratch.join(below))?;
        }
        sh.write_file(scratch.join("sources.list"), format!("deb {} {} main\n", mirror(&sh)?, self.suite()))?;
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
        Ok(fs::remove_dir_all(scratch)?)
    }
}

/// Where this machine gets its own packages from.
fn mirror(sh: &Shell) -> Result<String> {
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

/// The kernel last: where it is, everything is.
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
        if !MODULES.contains(&stem) {
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

fn pack(folder: &Path, tests: &[PathBuf], filter: &[String]) -> Result<Ramdisk> {
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
    for module in MODULES {
        let file = folder.join("modules").join(format!("{module}.ko"));
        if file.exists() {
            disk.copy(&file, &PathBuf::from(format!("/modules/{module}.ko")))?;
        }
    }
    disk.text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")?;
    disk.text("/init", &first_process(tests, filter))?;
    Ok(disk)
}

/// The script that the kernel starts.
fn first_process(tests: &[PathBuf], filter: &[String]) -> String {
    let modules = MODULES.join(" ");
    let tidegate = place::cargo_target().join("debug/tidegate");
    let mut script = format!(
        "#!/bin/busybox sh
/bin/busybox mkdir -p /bin /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/sbin:/usr/sbin:/usr/bin:/bin HOME=/ RUST_BACKTRACE=0
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
        tidegate.display()
    );
    // Filters come from a command line; in a script a quote would end the word.
    let filter: Vec<String> = filter.iter().map(|word| format!("'{}'", word.replace('\'', ""))).collect();
    for test in tests {
        let (path, filter) = (test.display(), filter.join(" "));
        script.push_str(&format!(
            "echo \"=== {path}\"\n{path} --test-threads=2 {filter}\necho \"ended: $? {path}\"\n"
        ));
    }
    script.push_str(&format!("echo '{END}'\nsync\npoweroff -f\n"));
    script
}

/// Shows what the machine says until it ends, or time is up.
fn boot(kernel: &Path, disk: &Path, log: &Path) -> Result<Outcome> {
    let mut machine = Command::new("qemu-system-x86_64");
    machine
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(disk)
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = machine.spawn().context("qemu-system-x86_64 does not start")?;
    let output = child.stdout.take().context("its output is ours")?;
    let (tell, lines) = mpsc::sync_channel(LINES_AHEAD);
    thread::spawn(move || {
        let mut lines = BufReader::new(output).split(b'\n').map_while(std::io::Result::ok);
        lines.try_for_each(|line| tell.send(line))
    });
    let (until, mut log) = (Instant::now() + PATIENCE, fs::File::create(log)?);
    let mut outcome = Outcome::default();
    while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        println!("{line}");
        writeln!(log, "{line}")?;
        outcome.lines.push(line);
    }
    // It has ended, or it shall.
    child.kill().ok();
    child.wait()?;
    outcome.look();
    Ok(outcome)
}

impl Outcome {
    /// A program that ended with anything but success or failed tests did not run to its end; 101 is failed tests.
    fn look(&mut self) {
        let ended = self.lines.iter().filter_map(|line| line.strip_prefix("ended: ")?.split_once(' '));
        let crashed = ended.filter(|(code, _)| !matches!(*code, "0" | "101"));
        self.broken = crashed.map(|(code, path)| format!("{path} (ended with {code})")).collect();
        if !self.lines.iter().any(|line| line == END) {
            self.broken.push("the machine, which ended before its programs".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome =
            Outcome { lines: lines.iter().map(|&line| line.to_owned()).collect(), ..Outcome::default() };
        outcome.look();
        outcome
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
            first_process(&[PathBuf::from("/t/one"), PathBuf::from("/t/two")], &["a'; b".to_owned()]);
        assert!(script.contains("/t/one --test-threads=2 'a; b'\n") && script.contains("/t/two --test"));
        assert!(script.ends_with("poweroff -f\n"));
    }
}
