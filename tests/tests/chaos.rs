//! Whatever becomes of its processes, its disk, its files and its clock: nothing gets past the gate, nothing is done or
//! answered without a record, and it works again by itself. Each under load, in four processes.

mod chaos_support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chaos_support::maps::Filled;
use chaos_support::{ADMIN, Disk, ENFORCER, GUARDED, HOST, Memory, RECORDER, World, moment, signal};
use rustix::process::Signal;
use tidegate_tests::{Gate, Host, Upstream, eventually};

fn full() -> bool {
    std::env::var_os("TIDEGATE_FULL").is_some()
}

#[test]
fn kills_of_each_process_at_random_moments() {
    let rounds = if full() { 30 } else { 5 };
    let mut world = World::new();
    world.survives(|gate, _, heard| {
        for _ in 0..rounds {
            for role in [ENFORCER, RECORDER, ADMIN] {
                let before = heard.answers();
                eventually("answers", || (heard.answers() > before).then_some(()));
                std::thread::sleep(moment(300));
                signal(gate.child(role), Signal::KILL);
            }
            // The keeper's own supervisor is the host's.
            std::thread::sleep(moment(300));
            gate.kill();
            std::thread::sleep(moment(50));
            gate.start();
        }
    });
}

#[test]
fn a_stopped_enforcer_is_a_shut_gate() {
    let mut world = World::new();
    world.survives(|gate, host, _| {
        let enforcer = gate.child(ENFORCER);
        signal(enforcer, Signal::STOP);
        // Its heart is to be still for ten seconds.
        let refused = || host.client().connect(HOST.parse().unwrap()).err();
        let error = eventually("a refused connect", refused);
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        signal(enforcer, Signal::CONT);
    });
}

#[test]
fn a_stopped_recorder_and_a_stopped_keeper_are_answered_with_errors() {
    let mut world = World::new();
    for role in [Some(RECORDER), None] {
        world.survives(|gate, _, heard| {
            let stopped = role.map_or_else(|| gate.pid(), |role| gate.child(role));
            signal(stopped, Signal::STOP);
            std::thread::sleep(Duration::from_secs(14));
            let refused = heard.refused.load(Ordering::Relaxed);
            signal(stopped, Signal::CONT);
            assert!(refused > 0, "{role:?} stood still, and nobody was refused");
        });
    }
}

#[test]
fn the_kernel_runs_out_of_memory_and_takes_each_process_in_turn() {
    let mut limit = None;
    let mut world = World::with(|builder, host| {
        let memory = Memory::of(host, 1024 * 1024 * 1024);
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", memory.0.display());
        limit = Some(memory);
        builder.run_through(&["sh", "-c", &enter, "--"])
    });
    let memory = limit.unwrap();
    world.survives(|gate, _, _| {
        memory.exhaust(gate.child(ENFORCER));
        memory.exhaust(gate.child(RECORDER));
        memory.exhaust(gate.child(ADMIN));
        memory.exhaust(gate.pid());
        gate.kill();
        gate.start();
    });
    drop(world);
}

#[test]
fn restarts_one_after_the_other() {
    let restarts = if full() { 1000 } else { 40 };
    let mut world = World::new();
    world.survives(|gate, _, _| {
        for restart in 0..restarts {
            let role = [ENFORCER, RECORDER, ADMIN][restart % 3];
            let (before, asked) = (gate.child(role), Instant::now());
            signal(before, Signal::KILL);
            // Also those that did not get as far as being open.
            while gate.child(role) == before {
                assert!(asked.elapsed() < Duration::from_secs(30), "{restart}: there is no other {role}");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(moment(400));
        }
    });
}

#[test]
fn a_power_cut_loses_what_was_not_synced_and_nothing_else() {
    let rounds = if full() { 10 } else { 3 };
    for _ in 0..rounds {
        let mut disk = None;
        let mut world = World::with(|builder, host| {
            disk = Some(Disk::at(&host.folder().join("state"), host.folder().join("disk.img")));
            builder
        });
        let disk = disk.unwrap();
        world.survives(|gate, _, heard| {
            std::thread::sleep(moment(500));
            disk.pull_the_plug();
            let before = heard.refused.load(Ordering::Relaxed);
            eventually("refusals", || (heard.refused.load(Ordering::Relaxed) > before + 3).then_some(()));
            gate.kill();
            disk.unmount();
            disk.mount();
            gate.start();
        });
        drop((world, disk));
    }
}

#[test]
fn a_disk_that_can_only_be_read_stops_everything_and_a_good_one_starts_it() {
    let mut disk = None;
    let mut world = World::with(|builder, host| {
        disk = Some(Disk::at(&host.folder().join("state"), host.folder().join("disk.img")));
        builder
    });
    let disk = disk.unwrap();
    world.survives(|gate, _, heard| {
        disk.make_read_only();
        let before = heard.refused.load(Ordering::Relaxed);
        eventually("refusals", || (heard.refused.load(Ordering::Relaxed) > before + 3).then_some(()));
        let status = eventually("a status", || {
            let status = gate.status();
            (status["record"]["up"] == false).then_some(status)
        });
        assert!(status["record"]["fault"].is_string(), "{status}");
        // What an operator does: the gate lets go of the file system, which is repaired.
        gate.kill();
        disk.unmount();
        disk.repair();
        disk.mount();
        gate.start();
    });
    drop((world, disk));
}

#[test]
fn no_descriptors_left() {
    let mut world = World::new();
    world.survives(|gate, host, heard| {
        for (role, uid) in [(ENFORCER, 61_234), (RECORDER, 61_235)] {
            let child = gate.child(role);
            let open = fs::read_dir(format!("/proc/{child}/fd")).unwrap().count();
            let limit = |most: usize| {
                // As the same user: root may not have the capability.
                let words = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
                let limited = [format!("--pid={child}"), format!("--nofile={most}:")];
                let done = Command::new("setpriv").args(words).arg("prlimit").args(limited).status();
                assert!(done.unwrap().success());
            };
            limit(open + 2);
            // More at once than there are descriptors for.
            let many: Vec<_> =
                (0..50).filter_map(|_| host.client().connect(HOST.parse().unwrap()).ok()).collect();
            std::thread::sleep(Duration::from_secs(2));
            drop(many);
            limit(20_000);
            let after = heard.answers();
            eventually("answers", || (heard.answers() > after + 20).then_some(()));
        }
    });
}

#[test]
fn nobody_reads_what_the_kernel_tells() {
    let mut world = World::new();
    world.survives(|gate, host, heard| {
        let denied = |gate: &Gate| gate.status()["kernel"]["refused_guard_datagram"].as_u64().unwrap();
        let before = denied(gate);
        // The keeper does, so its heart must go on in time.
        signal(gate.pid(), Signal::STOP);
        let flood = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
            for n in range(60000):\n    try: s.sendto(b'x', ('127.0.0.1', 9))\n    except OSError: pass\n";
        let ids = ["--reuid", GUARDED, "--regid", GUARDED, "--clear-groups", "/usr/bin/python3", "-c", flood];
        let begun = Instant::now();
        drop(host.client().run("setpriv", &ids).success());
        let took = begun.elapsed();
        signal(gate.pid(), Signal::CONT);
        assert!(took < Duration::from_secs(8), "the flood took too long to say anything");
        eventually("all of them to be counted", || (denied(gate) >= before + 60_000).then_some(()));
        let answers = heard.answers();
        eventually("answers", || (heard.answers() > answers + 20).then_some(()));
    });
}

#[test]
fn the_policy_directory_is_deleted_and_comes_back() {
    let mut world = World::new();
    world.survives(|gate, _, heard| {
        let (place, aside) = (gate.policies(), gate.policies().with_extension("aside"));
        fs::rename(&place, &aside).unwrap();
        let _ = gate.await_status("the fault", |status| status["policy"]["fault"].is_string());
        let before = heard.answers();
        eventually("the last good policy goes on", || (heard.answers() > before + 20).then_some(()));
        for role in [ENFORCER, RECORDER, ADMIN] {
            signal(gate.child(role), Signal::KILL);
            let before = heard.answers();
            eventually("also in a new process", || (heard.answers() > before + 20).then_some(()));
        }
        fs::rename(&aside, &place).unwrap();
        let _ = gate.await_status("no fault", |status| status["policy"]["fault"].is_null());
    });
}

/// Damage to the record while it is written. What is lost cannot come back by itself; the gate must not go on as if nothing were.
fn stays_shut(damage: impl FnOnce(&Gate)) {
    let world = World::new();
    let ask = |path: &str| {
        let asked = world
            .host
            .client()
            .connect(HOST.parse().unwrap())
            .and_then(|mut client| client.post(HOST, path, "x"));
        asked.map_or(0, |answer| answer.status)
    };
    assert_eq!(ask("/load/before"), 200);
    damage(&world.gate);
    eventually("a refusal", || (ask("/load/while") != 200).then_some(()));
    let forwarded = world.upstream.requests().len();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_ne!(ask("/load/after"), 200);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(world.upstream.requests().len(), forwarded, "nothing was forwarded");
    let status = world.gate.status();
    assert!(status["record"]["fault"].is_string(), "and it says so: {status}");
}

fn store_of(gate: &Gate) -> PathBuf {
    gate.state().join("record/record.redb")
}

#[test]
fn a_store_that_is_deleted_under_it_shuts_the_gate() {
    stays_shut(|gate| fs::remove_file(store_of(gate)).unwrap());
}

#[test]
fn a_store_that_is_cut_off_under_it_shuts_the_gate() {
    stays_shut(|gate| {
        let file = fs::OpenOptions::new().write(true).open(store_of(gate)).unwrap();
        file.set_len(8192).unwrap();
    });
}

#[test]
fn a_whole_record_that_is_moved_away_under_it_shuts_the_gate() {
    stays_shut(|gate| fs::rename(gate.state().join("record"), gate.state().join("aside")).unwrap());
}

/// The library of libfaketime(1) for programs with threads.
const SERVICE: &str = "127.0.0.1:7002";
const LATER: &str = "127.0.0.1:7003";
const SERVICE_NOUNS: &str = r#"
[[target]]
name = "react"
direction = "inbound"
ports = [7002]
require = "peer"
"#;
const SERVICE_RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"react");
"#;
const LATER_NOUNS: &str = r#"
[[target]]
name = "later"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7003]
"#;
const LATER_RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"later");
"#;

#[test]
fn every_map_is_filled() {
    let mut world =
        World::with(|builder, _| builder.policy("b.toml", SERVICE_NOUNS).policy("b.cedar", SERVICE_RULES));
    let (service, later) =
        (Upstream::start(&world.host.client(), SERVICE), Upstream::start(&world.host.client(), LATER));
    let ask = |host: &Host, place: &str| {
        host.client().connect(place.parse().unwrap()).and_then(|mut client| client.get(place, "/load/asked"))
    };
    let served = |host: &Host| ask(host, SERVICE).is_ok_and(|answer| answer.status == 200);
    let mut filled = Vec::new();
    world.survives(|gate, host, heard| {
        assert!(served(host), "a control");
        for map in Filled::can_be(gate.pins()) {
            let junk = Filled::by_junk(&map);
            // What forgets by itself is filled all the while.
            for _ in 0..if junk.forgets() { 5 } else { 0 } {
                junk.again();
            }
            if map.ends_with("ALLOWED") {
                let before = service.requests().len();
                let answer = ask(host, SERVICE).map(|answer| answer.status);
                assert!(!answer.as_ref().is_ok_and(|status| *status < 500), "{answer:?}");
                assert_eq!(service.requests().len(), before);
            } else {
                eventually("an answer of the service", || served(host).then_some(()));
            }
            // Who is guarded gets nowhere, whatever is full.
            let past = host
                .client()
                .run("setpriv", &["--reuid", GUARDED, "curl", "-sS", "-m2", "http://127.0.0.1:7003/past"]);
            assert_ne!(past.code(), Some(0), "{}: {}", map.display(), past.text());
            let before = heard.answers() + heard.refused.load(Ordering::Relaxed);
            eventually("somebody who asks", || {
                (heard.answers() + heard.refused.load(Ordering::Relaxed) > before + 4).then_some(())
            });
            drop(junk);
            eventually("an answer of the service", || served(host).then_some(()));
            filled.push(map);
        }
        // Rows that no policy wants make room for those that one does.
        let junk: Vec<Filled> =
            ["TARGETS", "SERVICES"].map(|name| Filled::by_junk(&gate.pins().join("maps").join(name))).into();
        gate.write_policy("c.toml", LATER_NOUNS);
        gate.write_policy("c.cedar", LATER_RULES);
        eventually("the new target's answer by the gate", || {
            let answered = ask(host, LATER).is_ok_and(|answer| answer.status == 200);
            (answered && !gate.sessions_to(LATER).is_empty()).then_some(())
        });
        drop(junk);
    });
    assert!(filled.len() >= 13, "{filled:?}");
    assert!(later.requests().iter().all(|request| request.target != "/past"));
}

fn faketime() -> PathBuf {
    let triples = fs::read_dir("/usr/lib").unwrap().flatten();
    let library =
        triples.map(|triple| triple.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    library.expect("faketime is installed")
}

#[test]
fn the_clock_jumps() {
    let mut times = PathBuf::new();
    let mut world = World::with(|builder, host| {
        // Where each of the three may read it, also when it is confined: one clock for all.
        let name = host.folder().file_name().unwrap().to_owned();
        times = PathBuf::from("/run").join(name).with_extension("time");
        fs::write(&times, "+0").unwrap();
        let library = faketime();
        let set = format!(
            "LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE={} FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1 exec \"$@\"",
            library.display(),
            times.display()
        );
        builder.run_through(&["sh", "-c", &set, "--"])
    });
    world.survives(|gate, _, heard| {
        for jump in ["+3600", "-86400", "+31536000", "-5", "+0"] {
            fs::write(&times, jump).unwrap();
            std::thread::sleep(Duration::from_millis(1500));
            let before = heard.answers();
            eventually("answers at another time", || (heard.answers() > before + 20).then_some(()));
            signal(gate.child(RECORDER), Signal::KILL);
            let before = heard.answers();
            eventually("and by a new process", || (heard.answers() > before + 20).then_some(()));
        }
    });
    drop(world);
    fs::remove_file(times).unwrap();
}
