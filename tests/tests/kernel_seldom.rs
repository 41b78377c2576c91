//! What is seldom tried from inside a guard with what is outside of it, also as root: each deed is refused where this kernel runs
//! LSM programs, and it is the gate that refuses it, since a neighbour gets another answer. Where it runs none, both get the same.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod kernel_support;

use std::ffi::CStr;
use std::fs;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use kernel_support::outside::{DONE, Outside};
use kernel_support::{PORT, calls};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tokio::signal::unix::{SignalKind, signal};

const NOBODYS: &str = "-";
/// Two worlds whose gate is this very program: whose bars refuse what is refused to everybody is then left to chance.
static WORLDS: RwLock<()> = RwLock::new(());

/// Refused to who is guarded, by us; a neighbour gets this answer. Where nothing is refused, both get the same.
fn is_refused_to_guarded_alone(outside: &Outside, deed: &str, what: &str, counter: &str, otherwise: &str) {
    if outside.kept {
        outside.is_kept_from(deed, what, counter);
        assert_eq!(outside.neighbour(deed, what), otherwise, "{deed} {what}");
    } else {
        assert_eq!(outside.guarded(deed, what), outside.neighbour(deed, what), "{deed} {what}");
    }
}

/// A process that is nobody's.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_guarded_process_does_not_say_when_and_where_the_gate_runs() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let (us, sleeper) = (std::process::id().to_string(), Sleeper::new());
    for deed in ["schedule", "pin", "nice", "disk-priority"] {
        is_refused_to_guarded_alone(&outside, deed, &us, "refused_guard_signal", DONE);
        assert_eq!(outside.guarded(deed, &sleeper.0.id().to_string()), DONE, "{deed} of somebody else");
        assert_eq!(outside.guarded(deed, "0"), DONE, "{deed} of itself");
    }
}

#[test]
fn nobody_has_the_kernel_send_the_gate_a_signal_with_input() {
    let _alone = WORLDS.write().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let counter = "refused_guard_signal";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let kind = SignalKind::user_defined2();
        let mut signals = signal(kind).unwrap();
        let us = format!("{}:{}", std::process::id(), kind.as_raw_value());
        for cgroup in [outside.agent.as_path(), Path::new(NOBODYS)] {
            let before = outside.world.counter(counter);
            assert_eq!(outside.does(cgroup, "signal-by-input", &us), DONE, "no error tells of it");
            let came = tokio::time::timeout(Duration::from_secs(1), signals.recv()).await.is_ok();
            assert_eq!(came, !outside.kept, "{}", cgroup.display());
            assert_eq!(outside.world.counter(counter) > before, outside.kept);
        }
    });
    let mut sleeper = Sleeper::new();
    let kill = format!("{}:{}", sleeper.0.id(), libc::SIGKILL);
    assert_eq!(outside.guarded("signal-by-input", &kill), DONE);
    assert_eq!(sleeper.0.wait().unwrap().signal(), Some(libc::SIGKILL), "who is not the gate gets it");
}

#[test]
fn a_guarded_process_changes_nobodys_root_but_in_a_namespace_of_its_own() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let (deed, counter) = ("turn-root", "refused_guard_mount");
    // It is no mount; that comes out after the right to try was asked for.
    is_refused_to_guarded_alone(&outside, deed, folder, counter, "Invalid argument (os error 22)");
    assert_eq!(outside.guarded("turn-root-apart", folder), DONE);
    assert_eq!(outside.neighbour("turn-root-apart", folder), DONE);
}

#[test]
fn a_guarded_process_takes_no_samples() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let us = std::process::id().to_string();
    for (deed, what) in [("sample", us.as_str()), ("sample-everybody", "0")] {
        is_refused_to_guarded_alone(&outside, deed, what, "refused_guard_kernel", DONE);
    }
}

#[test]
fn a_guarded_process_loads_no_module_and_no_other_kernel() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("module.ko");
    fs::write(&file, [b'x'; 4096]).unwrap();
    let file = file.to_str().unwrap();
    // What is loaded is nonsense, and the kernel says so once it has looked at it.
    let nonsense = "Exec format error (os error 8)";
    for (deed, otherwise) in [
        ("load-module", nonsense),
        ("load-module-from-memory", nonsense),
        ("load-kernel", nonsense),
        ("load-kernel-from-memory", DONE),
    ] {
        is_refused_to_guarded_alone(&outside, deed, file, "refused_guard_kernel", otherwise);
    }
}

#[test]
fn a_guarded_process_makes_no_pipe_among_the_gates_files_and_removes_no_directory_of_them() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let (own, mine) = (outside.own.path(), elsewhere.path());
    for place in [own, mine] {
        fs::create_dir(place.join("directory")).unwrap();
    }
    let name = |place: &Path, name: &str| place.join(name).to_str().unwrap().to_owned();
    for (deed, file) in [("make-pipe", "pipe"), ("remove-directory", "directory")] {
        assert_eq!(outside.guarded(deed, &name(mine, file)), DONE, "{deed}: its own files are its own");
        if outside.kept {
            is_refused_to_guarded_alone(&outside, deed, &name(own, file), "refused_guard_file", DONE);
        }
    }
}

#[test]
fn a_guarded_process_takes_no_socket_from_outside_but_from_its_own() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let (world, agent) = (&outside.world, outside.agent.as_path());
    world.real_server(world.there(PORT));
    let connected = || world.inside(|| TcpStream::connect(world.there(PORT)).unwrap());
    // The pair was made outside, and inherited: it has no name, and works.
    let handed = |cgroup: &Path, give: &dyn Fn(&UnixStream)| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        give(&ours);
        outside.with_input(cgroup, "receive", theirs.into())
    };
    let again = |cgroup: &Path, what: OwnedFd| outside.with_input(cgroup, "take-again", what);
    let by_somebody = |over: &UnixStream| calls::give(over, &connected());
    let by_its_own = |over: &UnixStream| {
        let giver = world
            .actor(&["give", agent.to_str().unwrap()], Stdio::from(OwnedFd::from(over.try_clone().unwrap())));
        assert!(giver.wait_with_output().unwrap().status.success());
    };
    let local = || OwnedFd::from(UnixStream::pair().unwrap().0);
    let counter = || world.counter("refused_guard_passed_socket");
    let before = counter();
    let answers =
        [handed(agent, &by_somebody), handed(agent, &calls::give_socket), again(agent, connected().into())];
    if outside.kept {
        let nothing = "nothing came with it";
        assert_eq!(answers, [nothing, nothing, "Operation not permitted (os error 1)"]);
        assert_eq!(counter() - before, 3);
    } else {
        assert_eq!((answers, counter()), ([DONE; 3].map(str::to_owned), before));
    }
    assert_eq!(handed(agent, &by_its_own), DONE, "among its own it may");
    assert_eq!(handed(agent, &|over| calls::give(over, &local())), DONE, "what carries nothing off the host");
    assert_eq!(again(agent, local()), DONE);
    let nobodys = Path::new(NOBODYS);
    assert_eq!([handed(nobodys, &by_somebody), again(nobodys, connected().into())], [DONE; 2]);
    assert_eq!(counter() - before, if outside.kept { 3 } else { 0 });
}

#[test]
fn a_guarded_process_writes_nothing_that_the_kernel_keeps_of_the_gate() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let (us, sleeper) = (std::process::id(), Sleeper::new());
    // By the first it would be the one that is killed where memory is short.
    for name in ["oom_score_adj", "clear_refs"] {
        let of = |pid: u32| format!("/proc/{pid}/{name}");
        is_refused_to_guarded_alone(&outside, "write", &of(us), "refused_guard_signal", DONE);
        assert_eq!(outside.guarded("write", &of(sleeper.0.id())), DONE, "{name} of somebody else");
        assert_eq!(outside.guarded("write", &format!("/proc/self/{name}")), DONE, "{name} of itself");
        assert_eq!(outside.guarded("read", &format!("/proc/{us}/oom_score_adj")), DONE);
    }
}

#[test]
fn a_guarded_process_types_into_no_terminal() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    is_refused_to_guarded_alone(&outside, "type", NOBODYS, "refused_guard_kernel", DONE);
}

#[test]
fn a_guarded_process_makes_what_is_the_gates_neither_unchangeable_nor_wait_for_it() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let (policy, pins) = (outside.file("policy.toml"), outside.world.pins());
    is_refused_to_guarded_alone(&outside, "flags-again", &policy, "refused_guard_file", DONE);
    // The file system of the pins has nothing to freeze, and says so whoever may ask.
    let (pins, nothing) = (pins.to_str().unwrap(), "Operation not supported (os error 95)");
    is_refused_to_guarded_alone(&outside, "freeze", pins, "refused_guard_mount", nothing);
    if outside.kept && cfg!(target_arch = "x86_64") {
        is_refused_to_guarded_alone(&outside, "freeze-by-32-bits", pins, "refused_guard_mount", nothing);
    }
    is_refused_to_guarded_alone(&outside, "hold-back", &policy, "refused_guard_file", DONE);
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(outside.guarded("flags-again", elsewhere.path().to_str().unwrap()), DONE);
    // A file system with nothing of the gate's.
    let folder = tempfile::tempdir().unwrap();
    mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), None::<&CStr>).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_eq!(outside.guarded("hold-back", file.to_str().unwrap()), DONE);
    unmount(folder.path(), UnmountFlags::empty()).unwrap();
}

#[test]
fn a_guarded_process_has_no_program_of_its_own_started_for_whoever_starts_another() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    if !outside.kept {
        return assert_eq!(outside.world.counter("refused_guard_kernel"), 0);
    }
    let folder = tempfile::tempdir().unwrap();
    let kind = "binfmt_misc";
    mount(kind, folder.path(), kind, MountFlags::empty(), None::<&CStr>).unwrap();
    let register = folder.path().join("register").to_str().unwrap().to_owned();
    is_refused_to_guarded_alone(&outside, "write", &register, "refused_guard_kernel", DONE);
    unmount(folder.path(), UnmountFlags::empty()).unwrap();
}

#[test]
fn a_guarded_process_reaches_no_file_of_the_gates_through_what_is_laid_over_it() {
    let _others = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let outside = Outside::new();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("mine"), "mine").unwrap();
    let mine = elsewhere.path().join("mine").to_str().unwrap().to_owned();
    for (deed, file) in [("read-by-overlay", "secret"), ("write-by-overlay", "policy.toml")] {
        is_refused_to_guarded_alone(&outside, deed, &outside.file(file), "refused_guard_file", DONE);
        assert_eq!(outside.guarded(deed, &mine), outside.neighbour(deed, &mine), "{deed}: its own");
    }
}
