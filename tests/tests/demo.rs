//! The demo as a newcomer runs it: it shows what it promises, fails when it cannot, and leaves nothing behind, however
//! it ends.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tidegate_tests::process::Process;
use tidegate_tests::sweep::cgroup_root;
use tidegate_tests::{built, eventually};

/// The whole demo takes about a minute; a busy machine may need several.
const PATIENCE: Duration = Duration::from_secs(300);

fn demo() -> Process {
    let mut command = Command::new(built("xtask"));
    command.args(["demo", "--no-color"]).env("TIDEGATE_BIN", built("tidegate"));
    Process::start(command)
}

/// Everything a demo may leave behind that is there now.
fn left_by(pid: u32) -> Vec<PathBuf> {
    let places = [PathBuf::from("/run/netns"), "/sys/fs/bpf".into(), cgroup_root(), std::env::temp_dir()];
    let names = ["", "-far", ".slice"].map(|end| format!("tidegate-demo-{pid}{end}"));
    let objects = places.iter().flat_map(|place| names.iter().map(|name| place.join(name)));
    objects.filter(|object| object.exists()).collect()
}

fn assert_nothing_is_left_by(pid: u32) {
    assert_eq!(left_by(pid), Vec::<PathBuf>::new());
    let of_the_demo = format!("tidegate-demo-{pid}/");
    let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&command).into_owned())
    });
    assert_eq!(
        commands.filter(|command| command.contains(&of_the_demo)).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
}

#[test]
fn the_demo_shows_all_it_promises_and_leaves_nothing_behind() {
    let mut demo = demo();
    let pid = demo.pid();
    let status = demo.wait(PATIENCE).expect("the demo ends by itself");
    let said = demo.stdout();
    assert!(status.success(), "{status}\n{said}\n{}", demo.stderr());
    for part in [
        "0. No gate",
        "runs are evidence: nobody deletes them",
        "connections opened for it: 0",
        "the agent never deletes a customer",
        "Failed to connect",
        "the entry is named",
        "That was it",
    ] {
        assert!(said.contains(part), "`{part}` is not in\n{said}");
    }
    assert!(!said.contains('\x1b'), "it was told to print no colours");
    assert_nothing_is_left_by(pid);
}

#[test]
fn what_is_shown_without_the_gate_is_not_shown_with_it() {
    let mut demo = demo();
    demo.await_text("3. Denied");
    let said = demo.stdout();
    let (without, with) = said.split_once("2. Masked").unwrap();
    for secret in ["4111 1111 1111 1111", "grace.hopper@example.com", "AKIAIOSFODNN7EXAMPLE"] {
        assert!(without.contains(secret), "act 0 does not show {secret}");
        assert!(!with.contains(secret), "act 2 shows {secret}");
    }
    let pid = demo.pid();
    demo.kill();
    eventually("its watcher to clean up", || left_by(pid).is_empty().then_some(()));
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let mut demo = demo();
    let pid = demo.pid();
    demo.await_text("2. Masked");
    assert!(!left_by(pid).is_empty(), "it has set nothing up");
    demo.signal(Signal::INT);
    let status = demo.wait(PATIENCE).expect("it ends when it is asked to");
    assert!(!status.success(), "an interrupted demo has not shown all it promises");
    assert_nothing_is_left_by(pid);
}

#[test]
fn a_demo_killed_with_9_leaves_nothing_behind() {
    let mut demo = demo();
    let pid = demo.pid();
    demo.await_text("2. Masked");
    demo.kill();
    eventually("its watcher to clean up", || left_by(pid).is_empty().then_some(()));
    assert_nothing_is_left_by(pid);
}

#[test]
fn a_gate_that_does_nothing_is_no_demo() {
    let mut command = Command::new(built("xtask"));
    command.args(["demo", "--no-color"]).env("TIDEGATE_BIN", "/bin/true");
    let mut demo = Process::start(command);
    let pid = demo.pid();
    let status = demo.wait(PATIENCE).expect("the demo ends by itself");
    assert!(!status.success(), "{}", demo.stdout());
    assert!(demo.stderr().contains("the port is shut"), "{}", demo.stderr());
    assert_nothing_is_left_by(pid);
}
