//! The record: exactly one entry for each answer and each effect, one session for each flow, however it ended; none lost
//! to a kill or a full disk; and no edit that goes unnoticed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tidegate::record::entry::{Ending, Verdict};
use tidegate_tests::recorded::fault;
use tidegate_tests::{Answer, Client, Gate, Host, StopOnDrop, Upstream, eventually};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001, 7002]
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"api");
forbid (principal, action == Action::"http", resource == Target::"api") when { context.segments.contains("denied") };
"#;

fn gate_on(host: &Host) -> Gate {
    Gate::on(host).policy("a.toml", NOUNS).policy("a.cedar", RULES).start()
}

fn upstream_on(host: &Host) -> Upstream {
    Upstream::start(&host.client(), "127.0.0.1:7001")
}

const HOST: &str = "127.0.0.1:7001";

fn dial(host: &Host) -> Client {
    host.client().connect(HOST.parse().unwrap()).unwrap()
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn verify(gate: &Gate) {
    drop(gate.tidegate(&["record", "verify"]).success());
}

#[test]
fn every_session_has_one_record_and_every_answer_one_entry_however_it_ends() {
    let host = Host::new();
    let upstream = upstream_on(&host);
    let mut gate = gate_on(&host);

    // As it should, denied, and as nothing at all.
    let mut client = dial(&host);
    assert_eq!(client.get(HOST, "/fine").unwrap().status, 200);
    assert_eq!(client.get(HOST, "/denied").unwrap().status, 403);
    drop(client);
    drop(dial(&host));
    // Broken by the client, in its head and in its body.
    let mut client = dial(&host);
    client.send("GET /half-a-head HTTP/1.1\r\n").unwrap();
    drop(client);
    let mut client = dial(&host);
    client.send(format!("POST /half-a-body HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 9\r\n\r\nx")).unwrap();
    let _ = upstream.await_requests(2);
    drop(client);
    // Broken by the upstream.
    upstream.next(Answer::default().reset());
    assert_eq!(dial(&host).get(HOST, "/dies").unwrap().status, 502);
    // Broken by the gate.
    upstream.next(Answer::silence());
    let mut waiting = dial(&host);
    waiting.send(format!("GET /killed HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).unwrap();
    let _ = upstream.await_requests(4);
    let recorded = eventually("the intent of the request", || gate.entries_of("/killed").pop());
    assert_eq!((recorded.intent.verdict, recorded.closed), (Verdict::Allow, None), "it is in flight");
    // A flow that says nothing may be looked at last: one that a kill finds unopened leaves nothing, and did nothing.
    eventually("the record of all six", || (gate.sessions().len() == 6).then_some(()));
    gate.kill();
    gate.start();

    for (path, expected) in [
        ("/fine", "nobody"),
        ("/denied", "refused"),
        ("/half-a-body", "client"),
        ("/dies", "upstream"),
        ("/killed", "gate"),
    ] {
        assert_eq!(fault(&gate.entry_of(path)), expected, "{path}");
    }
    let sessions = gate.sessions();
    let told: Vec<_> = sessions.iter().map(|session| (&session.summary, session.entries.len())).collect();
    assert_eq!(sessions.len(), 6, "{told:#?}");
    for session in &sessions {
        let closed = session.summary.closed.as_ref().unwrap_or_else(|| panic!("open: {session:?}"));
        if !matches!(closed.ending, Ending::ByGate(_)) {
            assert_eq!(closed.entries, session.entries.len() as u64, "{session:?}");
        }
    }
    verify(&gate);
}

/// What clients of a test heard, while somebody kills the gate.
#[derive(Default)]
struct Heard {
    answered: Mutex<Vec<String>>,
    refused: AtomicUsize,
    stop: AtomicBool,
}

fn load(host: &Host, heard: &Heard, name: usize) {
    let seat = host.client();
    let mut number = 0_u64;
    while !heard.stop.load(Ordering::Relaxed) {
        let mut client = match seat.connect(HOST.parse().unwrap()) {
            Ok(client) => client,
            Err(error) => {
                // Refused by a dead gate, or taken into the queue of one that was killed before it looked.
                let dead = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset];
                assert!(dead.contains(&error.kind()), "a dead gate refuses at once: {error}");
                heard.refused.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        };
        for _ in 0..20 {
            number += 1;
            let path = format!("/load/{name}/{number}.");
            // Both kinds: those that wait for their intent, and those that may overlap with it.
            let request = match number % 2 {
                0 => post(&path, "some body"),
                _ => format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            };
            match client.ask(request) {
                Ok(response) if response.status == 200 => heard.answered.lock().unwrap().push(path),
                Ok(response) => assert!(response.status >= 500, "{}: {}", response.status, response.text()),
                Err(_) => break,
            }
            if heard.stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

#[test]
fn kills_at_random_moments_leave_no_answer_and_no_effect_unrecorded() {
    let rounds = if std::env::var_os("TIDEGATE_FULL").is_some() { 50 } else { 10 };
    let host = Host::new();
    let upstream = upstream_on(&host);
    let mut gate = gate_on(&host);
    let heard = Heard::default();
    std::thread::scope(|scope| {
        let stop = StopOnDrop(&heard.stop);
        let loads: Vec<_> = (0..4)
            .map(|name| {
                scope.spawn({
                    let (host, heard) = (&host, &heard);
                    move || load(host, heard, name)
                })
            })
            .collect();
        for round in 0..rounds {
            let before = heard.answered.lock().unwrap().len();
            eventually("answers", || (heard.answered.lock().unwrap().len() > before).then_some(()));
            std::thread::sleep(Duration::from_millis(u64::from(random() % 300)));
            gate.kill();
            // A moment of being dead, for those who try to get past it.
            std::thread::sleep(Duration::from_millis(u64::from(random() % 50)));
            gate.start();
            assert!(loads.iter().all(|load| !load.is_finished()), "a client failed in round {round}");
        }
        drop(stop);
    });
    let recorded: Vec<String> = gate.entries().into_iter().map(|entry| entry.intent.head.line).collect();
    let recorded: std::collections::HashSet<&str> =
        recorded.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    let answered = heard.answered.into_inner().unwrap();
    let lost: Vec<&String> = answered.iter().filter(|path| !recorded.contains(path.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} answers are unrecorded: {lost:?}", lost.len(), answered.len());
    let effects = upstream.requests();
    let lost: Vec<_> = effects
        .iter()
        .filter(|effect| effect.method == "POST" && !recorded.contains(effect.target.as_str()))
        .collect();
    assert!(lost.is_empty(), "{} of {} effects are unrecorded: {lost:?}", lost.len(), effects.len());
    assert!(effects.iter().all(|effect| effect.header("x-bypass").is_none()));
    assert!(heard.refused.load(Ordering::Relaxed) > 0, "nobody tried while the gate was dead");
    verify(&gate);
    let (sessions, open) =
        (gate.sessions(), |session: &&tidegate::record::read::SessionView| session.summary.closed.is_none());
    assert!(sessions.iter().filter(open).count() <= 4, "what a killed gate left open is closed");
}

fn random() -> u32 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_micros()
}

/// A small file system of memory in the place of a folder, taken away when dropped.
struct Small(PathBuf);

impl Small {
    fn at(folder: &Path, size: &str) -> Self {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"])
            .arg(folder)
            .status();
        assert!(mounted.unwrap().success(), "cannot mount a tmpfs: the tests need root");
        Self(folder.to_owned())
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        let zeros = vec![0; 64 * 1024];
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        while std::io::Write::write(&mut file, &[0]).is_ok_and(|written| written > 0) {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

/// What does not compress, so that the disk is really full.
fn noise(size: usize) -> String {
    let mut state = u64::from(random()) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + u8::try_from(state >> 33 & 15).unwrap())
    };
    (0..size).map(|_| next()).collect()
}

#[test]
fn a_full_disk_stops_everything_and_room_again_starts_everything() {
    let host = Host::new();
    let upstream = upstream_on(&host);
    let builder = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES);
    let disk = Small::at(&host.folder().join("state"), "24m");
    let gate = builder.start();
    assert_eq!(dial(&host).ask(post("/before", "x")).unwrap().status, 200);
    let mut kept = dial(&host);
    assert_eq!(kept.get(HOST, "/before").unwrap().status, 200);
    disk.fill();
    let start = Instant::now();
    let mut refused = 0;
    while refused < 5 {
        assert!(start.elapsed() < Duration::from_secs(60), "a full disk was never noticed");
        let path = format!("/full/{}.", random());
        let asked = host.client().connect(HOST.parse().unwrap()).unwrap().ask(post(&path, &noise(50_000)));
        let sent = upstream.requests().iter().any(|request| request.target == path);
        match asked {
            Ok(response) if response.status == 200 => refused = 0,
            Ok(response) => {
                assert_eq!(response.status, 503, "{}", response.text());
                assert!(!sent, "{path} was refused, and forwarded all the same");
                refused += 1;
            }
            // A flow whose opening cannot be recorded is closed unheard.
            Err(_) => refused += 1,
        }
    }
    // Not even what may overlap with its intent, on a connection from before and on new ones.
    let forwarded = upstream.requests().len();
    assert_eq!(kept.get(HOST, "/full").unwrap().status, 503);
    for _ in 0..5 {
        let asked = host.client().connect(HOST.parse().unwrap()).unwrap().get(HOST, "/full");
        assert!(asked.map_or(true, |response| response.status == 503));
    }
    assert_eq!(upstream.requests().len(), forwarded, "the record takes nothing new, and it was forwarded");
    let (status, log) = (gate.status().to_string(), gate.log());
    assert!(status.contains("space") || status.contains("record"), "{status}");
    assert!(log.contains("No space left"), "{log}");
    disk.free();
    eventually("the gate to recover by itself", || {
        let response = dial(&host).ask(post("/after", "x"));
        response.is_ok_and(|response| response.status == 200).then_some(())
    });
    let entries = gate.entries();
    let recorded = |path: &str| entries.iter().any(|entry| entry.intent.head.line.contains(path));
    let lost: Vec<_> = upstream.requests().into_iter().filter(|request| !recorded(&request.target)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    verify(&gate);
    drop((gate, disk));
}

/// A record with a few sessions in it, and no enforcer.
fn finished_record(host: &Host) -> Gate {
    let upstream = upstream_on(host);
    let mut gate = gate_on(host);
    for name in ["first", "second-marked-entry", "third"] {
        assert_eq!(dial(host).ask(post(&format!("/{name}"), &noise(2000))).unwrap().status, 200);
    }
    let _ = gate.entry_of("/third");
    drop(upstream);
    gate.stop();
    verify(&gate);
    gate
}

fn database(gate: &Gate) -> PathBuf {
    gate.state().join("record/record.redb")
}

/// Replaces every occurrence of some bytes in a file.
fn edit(file: &Path, from: &str, to: &str) -> usize {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(file).unwrap();
    let mut edited = 0;
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            edited += 1;
        }
    }
    fs::write(file, bytes).unwrap();
    edited
}

#[test]
fn one_edited_byte_is_named_with_its_entry() {
    let host = Host::new();
    let gate = finished_record(&host);
    let entry = gate.entry_of("/second-marked-entry");
    assert!(edit(&database(&gate), "/second-marked-entry", "/second-markee-entry") > 0);
    let verified = gate.tidegate(&["record", "verify"]);
    assert_eq!(verified.code(), Some(1), "{}{}", verified.text(), verified.errors());
    assert!(verified.text().contains(&entry.intent.entry.to_string()), "{}", verified.text());
    let json = gate.tidegate(&["--json", "record", "verify"]);
    assert!(json.code() == Some(1) && json.json()["problems"].as_u64().unwrap() > 0);
    assert!(json.text().contains(&entry.intent.entry.to_string()));
    let shown = gate.tidegate(&["sessions", "show", &entry.intent.session.to_string()]);
    assert_ne!(shown.code(), Some(0), "what does not hold is not shown as if it did: {}", shown.text());
}

#[test]
fn one_flipped_byte_of_a_body_is_named_with_its_entry() {
    let host = Host::new();
    let gate = finished_record(&host);
    let entry = gate.entry_of("/second-marked-entry");
    let placed = entry.stretches[0].placed;
    let segments: Vec<PathBuf> = fs::read_dir(gate.state().join("record/bodies"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert_eq!(segments.len(), 1);
    let mut bytes = fs::read(&segments[0]).unwrap();
    bytes[usize::try_from(placed.offset).unwrap() + placed.stored as usize / 2] ^= 1;
    fs::write(&segments[0], bytes).unwrap();
    let verified = gate.tidegate(&["record", "verify"]);
    assert_eq!(verified.code(), Some(1));
    assert!(verified.text().contains(&entry.intent.entry.to_string()), "{}", verified.text());
}

#[test]
fn a_truncated_store_is_named_and_never_overwritten() {
    for keep in [0, 100, 4096, 50_000] {
        let host = Host::new();
        let mut gate = finished_record(&host);
        let file = database(&gate);
        let bytes = fs::read(&file).unwrap();
        assert!(bytes.len() > keep);
        fs::write(&file, &bytes[..keep]).unwrap();
        let verified = gate.tidegate(&["record", "verify"]);
        assert_eq!(verified.code(), Some(1), "{keep}: {}{}", verified.text(), verified.errors());
        let started = gate.tidegate(&["run"]);
        assert_eq!(started.code(), Some(3), "{keep}: {}{}", started.text(), started.errors());
        let said = started.text() + &started.errors();
        assert!(said.contains("record.redb") || said.contains("record"), "{keep}: it says where: {said}");
        assert_eq!(fs::read(&file).unwrap(), bytes[..keep], "{keep}: it was overwritten");
        let refused = host.client().connect(HOST.parse().unwrap()).err().expect("the gate stays shut");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        // And with the file back, all is as it was.
        fs::write(&file, &bytes).unwrap();
        gate.start();
        verify(&gate);
    }
}

#[test]
fn a_missing_body_file_is_named() {
    let host = Host::new();
    let gate = finished_record(&host);
    fs::remove_dir_all(gate.state().join("record/bodies")).unwrap();
    let verified = gate.tidegate(&["record", "verify"]);
    assert_eq!(verified.code(), Some(1));
    assert!(verified.text().contains("NOT whole"), "{}", verified.text());
}

#[test]
fn the_record_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let gate = finished_record(&host);
    let mut places = vec![gate.state().join("record")];
    while let Some(place) = places.pop() {
        let mode = fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", place.display());
        if place.is_dir() {
            places.extend(fs::read_dir(&place).unwrap().flatten().map(|entry| entry.path()));
        }
    }
    let stranger = host.client().uid(65534);
    let listed = gate.tidegate_at(&stranger, &["sessions", "list"]);
    assert_eq!(listed.code(), Some(3), "{}", listed.text());
}

#[test]
fn a_restart_continues_the_chain_and_forgets_nothing() {
    let host = Host::new();
    let mut gate = finished_record(&host);
    let before = gate.sessions();
    let upstream = upstream_on(&host);
    gate.start();
    assert_eq!(dial(&host).ask(post("/fourth", "x")).unwrap().status, 200);
    let _ = gate.entry_of("/fourth");
    let after = gate.sessions();
    assert_eq!(after[..before.len()], before[..]);
    assert_eq!(after.len(), before.len() + 1);
    verify(&gate);
    drop(upstream);
}
