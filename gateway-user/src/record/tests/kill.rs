//! `kill -9` under load, at random moments; and a disk that really is full.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::record::entry::Interrupted;
use crate::record::frame::Frame;
use crate::record::read::Reader;
use crate::record::{Durable, Health, Recorder};
use crate::store::sim::Dice;

const STATE: &str = "TIDEGATE_TEST_VICTIM_STATE";

/// Records under load and says on standard output what was told durable. Only runs when the test below starts it.
#[test]
#[ignore = "the victim of the test below, which starts it in a process of its own"]
fn victim() {
    // Somebody ran every ignored test: this is none, only a process to be killed.
    let Some(state) = std::env::var_os(STATE) else { return };
    let recorder = Recorder::open(Path::new(&state)).unwrap();
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let recorder = recorder.clone();
            thread::spawn(move || {
                loop {
                    let (session, entry) = (session_id(), entry_id());
                    let begun = vec![opened(session), intent(session, entry, "ann", Verdict::Allow)];
                    recorder.append_with(Vec::new(), begun).unwrap().wait().unwrap();
                    say("effect", entry);
                    let answered = body(entry, entry.to_string().repeat(20).as_bytes());
                    drop(recorder.append(responded(entry)));
                    recorder.append(answered).unwrap().wait().unwrap();
                    say("answer", entry);
                    recorder.append(entry_closed(entry)).unwrap().wait().unwrap();
                    drop(recorder.append(session_closed(session)));
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

fn say(what: &str, entry: EntryId) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {entry}").and_then(|()| out.flush()).unwrap();
}

#[test]
fn killed_fifty_times_under_load_it_loses_nothing_it_confirmed() {
    let state = tempfile::tempdir().unwrap();
    let mut dice = Dice(0x006b_696c_6c39);
    let (mut effects, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "record::tests::kill::victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env(STATE, state.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (first, seen) = std::sync::mpsc::sync_channel(1);
        let reader = thread::spawn(move || {
            let lines = out.lines().map_while(Result::ok);
            let mut said = Vec::new();
            for line in lines {
                if line.starts_with("effect") {
                    let _ = first.try_send(());
                }
                said.push(line);
            }
            said
        });
        // One in five dies early, perhaps while it takes over from the one before; the others under load.
        let worked = dice.roll(5) == 0 || seen.recv_timeout(Duration::from_secs(30)).is_ok();
        thread::sleep(Duration::from_millis(dice.roll(150)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(worked, "the victim never recorded anything");
        for line in reader.join().unwrap() {
            let Some((what, entry)) = line.split_once(' ') else { continue };
            let Ok(entry) = entry.parse::<EntryId>() else { continue };
            match what {
                "effect" => effects.push(entry),
                "answer" => answers.push(entry),
                _ => {}
            }
        }
    }
    assert!(effects.len() > 200, "the victim did too little ({}) to prove anything", effects.len());
    check(state.path(), &effects, &answers, "after the last kill");
    drop(Recorder::open(state.path()).unwrap());
    let open = check(state.path(), &effects, &answers, "after recovery");
    assert_eq!(open, 0, "the next start closes what was left open");
}

fn check(state: &Path, effects: &[EntryId], answers: &[EntryId], when: &str) -> u64 {
    let reader = Reader::open(state).unwrap();
    let report = reader.verify().unwrap();
    assert!(report.is_clean(), "{when}: {:?}", report.first);
    assert!(report.entries >= effects.len() as u64, "{when}");
    for entry in effects {
        assert!(reader.entry(*entry).unwrap().is_some(), "{when}: {entry} had an effect and no record");
    }
    for entry in answers.iter().rev().take(200) {
        let view = reader.entry(*entry).unwrap().unwrap();
        let body = reader.body(&view, Side::Response).unwrap();
        assert_eq!(body, entry.to_string().repeat(20).as_bytes(), "{when}: {entry} was answered");
    }
    report.open_entries
}

/// A small file system in memory, gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(kibibytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={kibibytes}k")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(options.as_c_str()))
            .expect("this test mounts a small tmpfs, so it must run as root");
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_refuses_and_the_record_comes_back_when_there_is_room() {
    let disk = Small::mount(8 * 1024);
    let state = disk.0.path().join("state");
    let recorder = Recorder::open(&state).unwrap();
    let (session, early) = (session_id(), entry_id());
    let begun = vec![opened(session), intent(session, early, "ann", Verdict::Allow)];
    recorder.append_with(Vec::new(), begun).unwrap().wait().unwrap();
    let ballast = disk.0.path().join("ballast");
    let mut kept = Vec::new();
    for round in 0..3 {
        fill_up(&ballast, 64 * 1024);
        let mut refused = 0;
        let since = Instant::now();
        while refused < 20 {
            let entry = entry_id();
            let noise: Vec<u8> = (0..8000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let told = recorder
                .append_with(
                    Vec::new(),
                    vec![intent(session, entry, "ann", Verdict::Allow), body(entry, &noise)],
                )
                .and_then(|durable| durable.wait());
            match told {
                Ok(()) => kept.push(entry),
                Err(_) => refused += 1,
            }
            assert!(since.elapsed() < Duration::from_secs(20), "round {round}: the disk never filled");
            thread::sleep(Duration::from_millis(1));
        }
        std::fs::remove_file(&ballast).unwrap();
        let since = Instant::now();
        loop {
            let entry = entry_id();
            let told = recorder.append(intent(session, entry, "ann", Verdict::Allow));
            if told.and_then(|durable| durable.wait()).is_ok() {
                kept.push(entry);
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(5), "round {round}: it must come back by itself");
            thread::sleep(Duration::from_millis(10));
        }
    }
    drop(recorder);
    let reader = Reader::open(&state).unwrap();
    let report = reader.verify().unwrap();
    assert!(report.is_clean(), "{:?}", report.first);
    for entry in &kept {
        assert!(reader.entry(*entry).unwrap().is_some(), "{entry} was confirmed");
    }
}

#[test]
fn what_may_begin_finds_space_for_its_body_however_full_the_disk_is() {
    let disk = Small::mount(16 * 1024);
    let state = disk.0.path().join("state");
    let recorder = Recorder::open(&state).unwrap();
    let session = session_id();
    recorder.append(opened(session)).unwrap().wait().unwrap();
    let ballast = disk.0.path().join("ballast");
    // The database grows, too.
    fill_up(&ballast, 1024 * 1024);
    let noise: Vec<u8> = (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (mut begun, mut refused) = (Vec::new(), 0);
    while refused < 3 {
        assert!(begun.len() < 2000, "the disk never filled");
        let entry = entry_id();
        match recorder.append(intent(session, entry, "ann", Verdict::Allow)).and_then(Durable::wait) {
            Ok(()) => {
                recorder.append(body(entry, &noise)).unwrap().wait().unwrap();
                recorder.append(entry_closed(entry)).unwrap().wait().unwrap();
                begun.push(entry);
            }
            Err(error) => {
                assert!(error.to_string().contains("No space left"), "{error}");
                assert!(
                    matches!(recorder.health(), Health::Down(reason) if reason.contains("No space left"))
                );
                refused += 1;
            }
        }
    }
    assert!(begun.len() > 20, "{} began", begun.len());
    std::fs::remove_file(&ballast).unwrap();
    let since = Instant::now();
    while recorder.health() != Health::Up {
        assert!(
            since.elapsed() < Duration::from_secs(5),
            "it must come back by itself, also when nobody asks"
        );
        thread::sleep(Duration::from_millis(10));
    }
    drop(recorder);
    let reader = Reader::open(&state).unwrap();
    let report = reader.verify().unwrap();
    assert!(report.is_clean(), "{:?}", report.first);
    let gaps: Vec<_> =
        reader.last(usize::MAX).unwrap().into_iter().filter_map(|line| gap(line.frame)).collect();
    assert_eq!(gaps.iter().map(|gap| gap.operations).sum::<u64>(), 3, "{gaps:?}");
}

fn gap(frame: Frame) -> Option<Interrupted> {
    match frame {
        Frame::Event(Event::Interrupted(gap)) => Some(gap),
        _ => None,
    }
}

/// Takes all space but a little.
fn fill_up(path: &Path, left: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(left)).unwrap();
}
