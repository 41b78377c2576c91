//! Promises of process identity, kept with real processes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::operation::Sha256;

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a program that waits, and returns once it runs (and not still this test's own image).
    fn start(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Self {
        let program = program.as_ref();
        let mut command = Command::new(program);
        Self::spawn(command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()))
    }

    fn spawn(command: &mut Command) -> Self {
        let child = loop {
            match command.spawn() {
                Ok(child) => break child,
                // Another test forked while the copy was still open for writing here.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now()
                }
                Err(error) => panic!("{error}"),
            }
        };
        let running = Self(child);
        let own = fs::metadata("/proc/self/exe").unwrap().ino();
        while fs::metadata(format!("/proc/{}/exe", running.0.id())).unwrap().ino() == own {
            std::thread::yield_now();
        }
        running
    }

    /// What the kernel would have recorded of it.
    fn facts(&self) -> Facts {
        facts(self.0.id())
    }
}

fn facts(pid: u32) -> Facts {
    let stat = Process::open(pid).unwrap().stat().unwrap();
    let program = fs::metadata(format!("/proc/{pid}/exe")).unwrap();
    let own =
        cgroup::own_path(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()).unwrap_or_default();
    let cgroup = fs::metadata(format!("{}{own}", root().display())).map_or(0, |meta| meta.ino());
    Facts {
        pid,
        started: stat.started * 10_000_000 + 1234,
        uid: 1000,
        login: Login::Unknown,
        cgroup,
        command: stat.command,
        program_device: program.dev(),
        program_inode: program.ino(),
    }
}

/// Where cgroup v2 is mounted here.
fn root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    mount.split(' ').nth(1).unwrap().into()
}

fn processes() -> Processes {
    Processes::new(&root())
}

#[test]
fn a_process_is_named_with_program_digest_cgroup_and_parents() {
    let sleep = Running::start("/bin/sleep", &["60"]);
    let workload = processes().resolve(sleep.facts());
    let program = fs::canonicalize("/bin/sleep").unwrap();
    let executable = workload.executable.unwrap();
    assert_eq!(executable.path, program.to_str().unwrap());
    assert_eq!(executable.sha256, Sha256::of(&fs::read(program).unwrap()));
    assert_eq!((workload.pid, workload.uid, workload.command.as_str()), (sleep.0.id(), 1000, "sleep"));
    assert!(workload.cgroup.unwrap().starts_with('/'));
    assert_eq!(workload.parents[0].pid, std::process::id());
    assert!(workload.parents.iter().any(|parent| parent.executable.is_some()));
    assert!(workload.parents.len() <= ANCESTORS_MAX);
}

#[test]
fn a_recycled_pid_yields_no_name() {
    let sleep = Running::start("/bin/sleep", &["60"]);
    for started in [0, sleep.facts().started + 20_000_000, sleep.facts().started - 20_000_000] {
        let workload = processes().resolve(Facts { started, ..sleep.facts() });
        assert_eq!((workload.executable, workload.login_uid), (None, None));
        assert_eq!(workload.parents, []);
        assert_eq!(workload.pid, sleep.0.id(), "the kernel's facts stand");
    }
}

#[test]
fn a_process_that_ended_keeps_its_cgroup_and_nothing_else_from_proc() {
    let sleep = Running::start("/bin/sleep", &["60"]);
    let facts = sleep.facts();
    let here = processes().resolve(facts.clone()).cgroup;
    drop(sleep);
    let workload = processes().resolve(facts);
    assert_eq!((workload.executable, workload.parents), (None, vec![]));
    assert_eq!(workload.cgroup, here, "the id alone names the cgroup");
}

#[test]
fn the_login_that_the_kernel_recorded_stands_whatever_proc_says_or_no_longer_says() {
    let sleep = Running::start("/bin/sleep", &["60"]);
    let known = Facts { login: Login::As(1001), ..sleep.facts() };
    let none = Facts { login: Login::None, ..sleep.facts() };
    let own = Process::open(std::process::id()).unwrap().login_uid();
    assert_eq!(
        processes().resolve(sleep.facts()).login_uid,
        own,
        "unknown: its own, inherited from this test"
    );
    assert_eq!(processes().resolve(known.clone()).login_uid, Some(1001));
    assert_eq!(processes().resolve(none).login_uid, None);
    drop(sleep);
    assert_eq!(processes().resolve(known).login_uid, Some(1001));
}

#[test]
fn a_deleted_program_has_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("agent");
    fs::copy("/bin/sleep", &copy).unwrap();
    let running = Running::start(&copy, &["60"]);
    assert_eq!(processes().resolve(running.facts()).executable.unwrap().path, copy.to_str().unwrap());
    fs::remove_file(&copy).unwrap();
    assert_eq!(processes().resolve(running.facts()).executable, None);
    // Somebody else's file at the name the kernel gives for a deleted one helps nobody.
    fs::copy("/bin/cat", dir.path().join("agent (deleted)")).unwrap();
    assert_eq!(processes().resolve(running.facts()).executable, None);
}

#[test]
fn a_replaced_program_does_not_lend_its_name_to_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("agent");
    fs::copy("/bin/sleep", &copy).unwrap();
    let running = Running::start(&copy, &["60"]);
    let new = dir.path().join("new");
    fs::copy("/bin/cat", &new).unwrap();
    fs::rename(&new, &copy).unwrap();
    assert_eq!(processes().resolve(running.facts()).executable, None);
}

#[test]
fn a_program_other_than_the_kernel_saw_has_no_name() {
    let sleep = Running::start("/bin/sleep", &["60"]);
    let facts = sleep.facts();
    for wrong in [
        Facts { program_inode: facts.program_inode + 1, ..facts.clone() },
        Facts { program_device: facts.program_device + 1, ..facts.clone() },
        Facts { program_inode: 0, program_device: 0, ..facts },
    ] {
        assert_eq!(processes().resolve(wrong).executable, None);
    }
}

#[test]
fn an_anonymous_program_has_no_name() {
    let memory = rustix::fs::memfd_create("agent", rustix::fs::MemfdFlags::empty()).unwrap();
    let mut file = fs::File::from(memory);
    file.write_all(&fs::read("/bin/sleep").unwrap()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let running = Running::spawn(Command::new(&path).arg0("sleep").arg("60"));
    drop(file);
    let workload = processes().resolve(running.facts());
    assert_eq!(workload.executable, None);
    assert!(!workload.parents.is_empty(), "the process itself is known");
}

#[test]
fn a_script_is_its_interpreter_not_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("crm-sync");
    fs::write(&script, "#!/bin/sh\nread line\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let running = Running::start(&script, &[]);
    let path = processes().resolve(running.facts()).executable.unwrap().path;
    assert_eq!(path, fs::canonicalize("/bin/sh").unwrap().to_str().unwrap());
}

#[test]
fn a_name_cannot_move_the_text_around_it() {
    assert_eq!(shown("ok name\u{fffd}é"), "ok name\u{fffd}é");
    assert_eq!(shown("a\u{1b}[2J\n\\\u{202e}"), "a\\u{1b}[2J\\n\\\\\\u{202e}");
}
