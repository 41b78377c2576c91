//! What is guarded does nothing to the gate and does not reach out of its guard, also as root; where this kernel runs LSM
//! programs. Where it runs none, the posture says so, and that is what is proven here.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod kernel_support;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;

use kernel_support::outside::{DONE, Outside, REFUSED};
use tidegate::kernel::{self, GuardRow, Table};

#[test]
fn a_guarded_process_sends_the_gate_no_signal_and_sees_nothing_of_processes_outside() {
    let outside = Outside::new();
    // The program that loads is the gate's: here this one.
    let us = std::process::id().to_string();
    outside.is_kept_from("signal", &us, "refused_guard_signal");
    outside.is_kept_from("memory", &us, "refused_guard_trace");
    outside.is_kept_from("environment", &us, "refused_guard_trace");
    outside.is_kept_from("limit", &us, "refused_guard_signal");
    assert_eq!(outside.guarded("is-there", &us), DONE, "whether it is there may be asked");
    for deed in ["signal", "memory", "environment"] {
        assert_eq!(outside.neighbour(deed, &us), DONE, "{deed}");
    }
}

#[test]
fn a_guarded_process_calls_no_bpf_and_removes_no_pin() {
    let outside = Outside::new();
    let pins = outside.world.pins();
    let link = pins.join("links/tg_connect4");
    outside.is_kept_from("pins", pins.to_str().unwrap(), "refused_guard_bpf");
    if outside.kept {
        let link = link.to_str().unwrap();
        outside.is_kept_from("remove", link, "refused_guard_file");
        outside.is_kept_from("rename", &format!("{link}:{link}x"), "refused_guard_file");
        outside.is_kept_from("unmount", "/sys/fs/bpf", "refused_guard_mount");
    }
    assert!(link.exists());
    assert_eq!(outside.neighbour("pins", pins.to_str().unwrap()), DONE);
}

#[test]
fn a_guarded_process_changes_no_file_of_the_gates_and_reads_what_it_may() {
    let outside = Outside::new();
    let (policy, new) = (outside.file("policy.toml"), outside.file("new.toml"));
    let elsewhere = tempfile::tempdir().unwrap();
    let mine = elsewhere.path().join("mine").to_str().unwrap().to_owned();
    assert_eq!(outside.guarded("make", &mine), DONE, "its own files are its own");
    let counter = "refused_guard_file";
    assert_eq!(outside.guarded("read", &policy), DONE);
    outside.is_kept_from("write", &policy, counter);
    if outside.kept {
        for (deed, what) in [
            ("make", new.clone()),
            ("truncate", policy.clone()),
            ("empty", policy.clone()),
            ("open-up", policy.clone()),
            ("give-away", policy.clone()),
            ("read", outside.file("secret")),
            ("make-directory", new.clone()),
            ("link", format!("{policy}:{mine}3")),
            ("write-by-handle", policy.clone()),
            ("remove", policy.clone()),
            ("rename", format!("{mine}:{new}2")),
            ("rename", format!("{policy}:{mine}2")),
            ("link", format!("{mine}:{new}3")),
            ("symlink", format!("{mine}:{new}4")),
            ("rename", format!("{}:{}-x", outside.own.path().display(), outside.own.path().display())),
        ] {
            outside.is_kept_from(deed, &what, counter);
        }
    }
    assert_eq!(fs::read_to_string(&policy).unwrap(), "here");
    assert_eq!(outside.neighbour("write", &policy), DONE);
}

#[test]
fn a_guarded_process_mounts_nothing_over_what_is_the_gates_but_may_in_a_namespace_of_its_own() {
    let outside = Outside::new();
    let own = outside.own.path().to_str().unwrap().to_owned();
    assert_eq!(outside.guarded("mount-apart", &own), DONE, "nobody else sees it");
    if outside.kept {
        outside.is_kept_from("mount", &own, "refused_guard_mount");
        outside.is_kept_from("mount", "/sys/fs", "refused_guard_mount");
        // Over a file inside, and as what looks like a change of who sees it.
        for deed in ["bind", "bind-private"] {
            outside.is_kept_from(deed, &outside.file("policy.toml"), "refused_guard_mount");
        }
        outside.is_kept_from("unmount-apart", "/sys/fs/bpf", "refused_guard_mount");
        outside.is_kept_from("read-only", "/sys/fs/bpf", "refused_guard_mount");
        outside.is_kept_from("move", "/sys/fs/bpf", "refused_guard_mount");
    }
    assert!(Path::new(&outside.file("policy.toml")).exists());
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().to_str().unwrap();
    assert_eq!(outside.guarded("mount", elsewhere), DONE);
    assert_eq!(outside.guarded("unmount", elsewhere), DONE);
}

#[test]
fn a_guarded_process_changes_no_setting_of_the_kernel_but_those_of_its_network() {
    let outside = Outside::new();
    let before = outside.world.counter("refused_guard_kernel");
    // What the kernel starts on a crash, as root and outside of every guard; and what switches LSM programs off.
    for name in ["kernel/core_pattern", "kernel/modprobe", "vm/drop_caches", "kernel/ftrace_enabled"] {
        let file = format!("/proc/sys/{name}");
        if Path::new(&file).exists() {
            let answer = outside.guarded("set-again", &file);
            assert!(answer.contains(REFUSED[0]), "{name}: {answer}");
        }
    }
    assert!(outside.world.counter("refused_guard_kernel") > before);
    assert_eq!(outside.guarded("read", "/proc/sys/kernel/core_pattern"), DONE);
    assert_eq!(outside.guarded("set-again", "/proc/sys/net/ipv4/ip_forward"), DONE);
    assert_eq!(outside.neighbour("set-again", "/proc/sys/kernel/core_pattern"), DONE);
}

#[test]
fn a_guarded_process_reads_no_memory_of_the_kernel_and_no_disk_below_its_files() {
    let outside = Outside::new();
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, kind, device| {
        let path = folder.path().join(name).to_str().unwrap().to_owned();
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RUSR, device).unwrap();
        path
    };
    let disk = &make("disk", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(7, 0));
    // By this a disk is made that has the bytes of another one.
    let mapper = &make("mapper", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(10, 236));
    outside.is_kept_from("open", mapper, "refused_guard_kernel");
    assert!(!REFUSED.iter().any(|how| outside.neighbour("open", mapper).contains(how)));
    outside.is_kept_from("read", disk, "refused_guard_kernel");
    if outside.kept {
        outside.is_kept_from("write", "/proc/sysrq-trigger", "refused_guard_kernel");
        outside.is_kept_from("open", "/dev/mem", "refused_guard_kernel");
        assert_eq!(outside.neighbour("open", "/dev/mem"), DONE);
    }
    assert!(!REFUSED.iter().any(|how| outside.neighbour("read", disk).contains(how)));
    assert_eq!(outside.guarded("read", "/dev/zero"), DONE);
}

#[test]
fn a_guarded_process_stays_in_its_cgroup_and_below() {
    let mut outside = Outside::new();
    let elsewhere = outside.world.cgroup("elsewhere");
    let below = outside.world.cgroup_below(&outside.agent.clone(), "below");
    assert_eq!(outside.guarded("enter", below.to_str().unwrap()), DONE);
    if outside.kept {
        let elsewhere = elsewhere.to_str().unwrap();
        outside.is_kept_from("enter", elsewhere, "refused_guard_cgroup");
        outside.is_kept_from("enter-thread", elsewhere, "refused_guard_cgroup");
        outside.is_kept_from("write", &format!("{elsewhere}/cgroup.freeze"), "refused_guard_cgroup");
    }
    assert_eq!(outside.neighbour("enter", elsewhere.to_str().unwrap()), DONE);
}

#[test]
fn a_guarded_process_talks_to_the_unix_sockets_of_its_guard_and_to_those_that_policy_names() {
    let sockets = tempfile::tempdir().unwrap();
    let at = |name: &str| sockets.path().join(name).to_str().unwrap().to_owned();
    let (named, abstract_one) = (at("named"), format!("@tg-named-{}", std::process::id()));
    let allowed = vec![named.clone(), abstract_one.clone()];
    let outside = Outside::with(|agent| {
        vec![GuardRow {
            name: "agent".into(),
            cgroups: vec![agent],
            unix_sockets: allowed,
            ..GuardRow::default()
        }]
    });
    let _named = UnixListener::bind(&named).unwrap();
    let address = SocketAddr::from_abstract_name(&abstract_one[1..]).unwrap();
    // An abstract name is a network namespace's own.
    let bind = |address: &SocketAddr| outside.world.inside(|| UnixListener::bind_addr(address).unwrap());
    let _abstract = bind(&address);
    let _other = UnixListener::bind(at("other")).unwrap();
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
    let hidden = SocketAddr::from_abstract_name(format!("tg-other-{}", std::process::id())).unwrap();
    let _hidden = bind(&hidden);
    assert_eq!(outside.guarded("unix", &named), DONE);
    assert_eq!(outside.guarded("unix", &abstract_one), DONE);
    let counter = "refused_guard_unix_socket";
    outside.is_kept_from("unix", &at("other"), counter);
    outside.is_kept_from("datagram", &at("datagram"), counter);
    outside.is_kept_from("unix", &format!("@tg-other-{}", std::process::id()), counter);
    // By another name: what counts is what its server bound.
    std::os::unix::fs::symlink(at("other"), at("innocent")).unwrap();
    outside.is_kept_from("unix", &at("innocent"), counter);
    assert_eq!(outside.neighbour("unix", &at("other")), DONE);
    assert_eq!(outside.neighbour("datagram", &at("datagram")), DONE);
    let mine = at("mine");
    let words = ["deed-between", outside.agent.to_str().unwrap(), &mine];
    assert_eq!(outside.world.lines(&words).pop().unwrap(), DONE, "among its own it may");
}

#[test]
fn who_is_guarded_by_his_uid_is_kept_from_it_as_well() {
    let outside =
        Outside::with(|_| vec![GuardRow { name: "agent".into(), uids: vec![61_111], ..GuardRow::default() }]);
    let sockets = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(sockets.path(), open).unwrap();
    let path = sockets.path().join("other");
    let _other = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let path = path.to_str().unwrap();
    let before = outside.world.counter("refused_guard_unix_socket");
    let answer = outside.world.lines(&["deed-as", "61111", "unix", path]).pop().unwrap();
    assert_eq!(answer, if outside.kept { REFUSED[0] } else { DONE });
    assert_eq!(outside.world.counter("refused_guard_unix_socket") - before, u64::from(outside.kept));
    assert_eq!(outside.world.lines(&["deed-as", "61112", "unix", path]).pop().unwrap(), DONE);
}

#[test]
fn the_gates_own_guard_is_not_kept_from_what_the_keeper_gives() {
    let outside = Outside::with(|agent| {
        vec![GuardRow { name: "tidegate".into(), cgroups: vec![agent], own: true, ..GuardRow::default() }]
    });
    let pins = outside.world.pins();
    assert_eq!(outside.guarded("pins", pins.to_str().unwrap()), DONE);
    assert_eq!(outside.guarded("memory", &std::process::id().to_string()), DONE);
}

#[test]
fn root_without_a_right_to_programs_is_no_owner_of_the_pins() {
    let outside = Outside::new();
    let pins = outside.world.pins();
    let link = pins.join("links/tg_connect4");
    let few = |deed, what: &Path| {
        outside.world.lines(&["deed-with-few-rights", deed, what.to_str().unwrap()]).pop().unwrap()
    };
    let mut answers = vec![few("pinned", &pins)];
    if outside.kept {
        answers.push(few("remove", &link));
    }
    for answer in answers {
        assert_eq!(REFUSED.iter().any(|how| answer.contains(how)), outside.kept, "{answer}");
    }
    assert!(link.exists());
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(few("remove", elsewhere.path()), DONE, "its other files are its own");
}

#[test]
fn a_second_load_keeps_the_bars_up_and_an_unload_takes_them_down() {
    let outside = Outside::new();
    let us = std::process::id().to_string();
    let place = kernel::Place { sealed: vec![outside.own.path().to_owned()], ..outside.world.place() };
    let guards =
        vec![GuardRow { name: "agent".into(), cgroups: vec![outside.agent.clone()], ..GuardRow::default() }];
    for _ in 0..3 {
        kernel::load(&place, &Table { guards: guards.clone(), ..Table::default() }).unwrap();
        outside.is_kept_from("memory", &us, "refused_guard_trace");
    }
    kernel::unload(&outside.world.pins()).unwrap();
    // A link lets go once nobody runs through it any more, and they go one by one: on a busy emulated machine that takes a while.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while outside.guarded("memory", &us) != DONE {
        assert!(std::time::Instant::now() < end, "the bars are still up");
    }
}
