//! The power goes at a random moment, and what was not synced is there, torn, or gone. Whoever was told "durable"
//! finds it again.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::record::read::Reader;
use crate::record::{RecordError, Recorder, Tuning};
use crate::store::sim::{Dice, SimDisk};

fn tuning() -> Tuning {
    Tuning { retry: Duration::from_millis(5), ..Tuning::default() }
}

/// What this run was told is durable.
#[derive(Default)]
struct Told {
    intents: Vec<EntryId>,
    bodies: Vec<(EntryId, Vec<u8>)>,
    ended: Vec<EntryId>,
    state: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Appends a random schedule until the power goes or the schedule ends.
fn load(recorder: &Recorder, dice: &mut Dice, told: &mut Told, steps: u64) {
    let session = session_id();
    let Ok(Ok(())) = recorder.append(opened(session)).map(|durable| durable.wait()) else { return };
    let mut waiting = Vec::new();
    for step in 0..steps {
        let entry = entry_id();
        let bytes: Vec<u8> = (0..dice.roll(3000)).map(|_| dice.roll(256) as u8).collect();
        let key = format!("grant/{}", dice.roll(10)).into_bytes();
        let value = format!("{step}").into_bytes();
        let parts = [
            recorder.append(intent(session, entry, "ann", Verdict::Allow)),
            recorder.append(responded(entry)),
            recorder.append(body(entry, &bytes)),
            if dice.roll(4) > 0 { recorder.append(entry_closed(entry)) } else { Err(RecordError::Closed) },
            recorder.put(&key, &value),
        ];
        waiting.push((entry, bytes, key, value, parts));
        if dice.roll(3) > 0 {
            continue;
        }
        for (entry, bytes, key, value, parts) in waiting.drain(..) {
            let [intent, _, body, end, put] =
                parts.map(|part| part.and_then(|durable| durable.wait()).is_ok());
            told.intents.extend(intent.then_some(entry));
            told.bodies.extend(body.then_some((entry, bytes)));
            told.ended.extend(end.then_some(entry));
            if put {
                told.state.retain(|(held, _)| *held != key);
                told.state.push((key, value));
            }
        }
    }
}

/// Everything that was promised and is not there.
fn missing(disk: &SimDisk, told: &Told) -> Vec<String> {
    let mut missing = Vec::new();
    let reader = match Reader::open_on(Arc::new(disk.clone())) {
        Ok(reader) => reader,
        Err(cause) => return vec![format!("the store cannot be opened: {cause}")],
    };
    match reader.verify() {
        Ok(report) => missing.extend(report.first.iter().map(ToString::to_string)),
        Err(cause) => missing.push(cause.to_string()),
    }
    for entry in &told.intents {
        let Ok(Some(view)) = reader.entry(*entry) else {
            missing.push(format!("intent of {entry}"));
            continue;
        };
        for (_, bytes) in told.bodies.iter().filter(|(of, _)| of == entry) {
            if reader.body(&view, Side::Response).ok().as_ref() != Some(bytes) {
                missing.push(format!("body of {entry}"));
            }
        }
        if told.ended.contains(entry) && view.closed.is_none() {
            missing.push(format!("end of {entry}"));
        }
    }
    missing
}

/// One life of the store: load, power cut, reboot. Gives what was promised, and the disk afterwards.
fn live_and_die(disk: &SimDisk, seed: u64, lie: bool) -> (Told, SimDisk) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut told = Told::default();
    let recorder = Recorder::open_on(Arc::new(disk.clone()), tuning()).unwrap();
    if lie {
        disk.lie();
    }
    disk.light_fuse(20 + dice.roll(600));
    load(&recorder, &mut dice, &mut told, 60);
    let after = disk.crash(&mut dice);
    recorder.close();
    (told, after)
}

#[test]
fn whatever_was_told_durable_survives_a_power_cut_at_any_moment() {
    let mut promised = 0;
    for seed in 1..=150 {
        let (told, after) = live_and_die(&SimDisk::default(), seed, false);
        promised += told.intents.len() + told.ended.len() + told.bodies.len();
        let missing = missing(&after, &told);
        assert!(missing.is_empty(), "seed {seed}: {missing:?}");
        // And the next start takes over: nothing stays open, the state is the last that was told.
        let recorder = Recorder::open_on(Arc::new(after.clone()), tuning()).unwrap();
        for (key, value) in &told.state {
            let there = recorder.scan(key).unwrap();
            let number = |bytes: &[u8]| String::from_utf8_lossy(bytes).parse::<u64>().unwrap();
            // What was written later but not told may be there instead.
            let held = there.iter().any(|(k, v)| k == key && number(v) >= number(value));
            assert!(held, "seed {seed}: {key:?}");
        }
        recorder.close();
        drop(recorder);
        let report = Reader::open_on(Arc::new(after)).unwrap().verify().unwrap();
        assert_eq!((report.problems, report.open_entries), (0, 0), "seed {seed}: {:?}", report.first);
    }
    assert!(promised > 1000, "the schedule promised too little ({promised}) to prove anything");
}

#[test]
fn a_second_power_cut_during_recovery_loses_nothing_either() {
    for seed in 1..=40 {
        let (told, mut disk) = live_and_die(&SimDisk::default(), seed, false);
        let mut dice = Dice(seed | 1 << 40);
        for _ in 0..3 {
            disk.light_fuse(dice.roll(60));
            drop(Recorder::open_on(Arc::new(disk.clone()), tuning()));
            disk = disk.crash(&mut dice);
        }
        let missing = missing(&disk, &told);
        assert!(missing.is_empty(), "seed {seed}: {missing:?}");
    }
}

#[test]
fn without_the_sync_this_test_finds_losses() {
    let lost = (1..=20).filter(|seed| {
        let (told, after) = live_and_die(&SimDisk::default(), *seed, true);
        !missing(&after, &told).is_empty()
    });
    assert!(lost.count() > 10, "a disk that does not sync must be noticed");
}

#[test]
fn a_hanging_disk_refuses_within_the_bound_and_comes_back() {
    let disk = SimDisk::default();
    let commit = Duration::from_millis(100);
    let recorder = Recorder::open_on(Arc::new(disk.clone()), Tuning { commit, ..tuning() }).unwrap();
    let (session, entry) = (session_id(), entry_id());
    recorder.append(opened(session)).unwrap().wait().unwrap();
    recorder.append(intent(session, entry, "ann", Verdict::Allow)).unwrap().wait().unwrap();
    disk.hang(true);
    let stuck = recorder.append(opened(session_id())).unwrap();
    assert!(matches!(stuck.wait(), Err(RecordError::Unavailable(_))), "a waiter is told, not kept");
    assert!(matches!(recorder.append(opened(session_id())), Err(RecordError::Unavailable(_))));
    assert!(recorder.append(entry_closed(entry)).is_err(), "refused, but kept");
    disk.hang(false);
    let back = std::time::Instant::now();
    while recorder.append(responded(entry)).is_err() {
        assert!(back.elapsed() < Duration::from_secs(5), "it must come back by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    recorder.append(session_closed(session)).unwrap().wait().unwrap();
    recorder.close();
    assert!(std::time::Instant::now() < deadline);
    let reader = Reader::open_on(Arc::new(disk)).unwrap();
    assert!(reader.entry(entry).unwrap().unwrap().closed.is_some(), "the end that was refused is written");
    assert!(reader.verify().unwrap().is_clean());
    let gap = reader.last(100).unwrap().into_iter().find_map(|line| match line.frame {
        crate::record::frame::Frame::Event(Event::Interrupted(gap)) => Some(gap),
        _ => None,
    });
    assert!(gap.unwrap().flows >= 1, "the gap is on record");
}

#[test]
fn a_failed_commit_fails_its_waiters_only_and_stays_out_of_the_chain() {
    let disk = SimDisk::default();
    let recorder = Recorder::open_on(Arc::new(disk.clone()), tuning()).unwrap();
    let (session, entry) = (session_id(), entry_id());
    recorder.append(opened(session)).unwrap().wait().unwrap();
    recorder.append(intent(session, entry, "ann", Verdict::Allow)).unwrap().wait().unwrap();
    disk.fill(true);
    let refused = entry_id();
    let answer = recorder.append(intent(session, refused, "ann", Verdict::Allow)).unwrap().wait();
    assert!(matches!(answer, Err(RecordError::Unavailable(_))), "{answer:?}");
    assert!(recorder.append(entry_closed(entry)).is_err());
    std::thread::sleep(Duration::from_millis(30));
    assert!(recorder.append(opened(session_id())).is_err(), "still full, still refused");
    disk.fill(false);
    let since = std::time::Instant::now();
    let later = loop {
        let later = entry_id();
        match recorder.append(intent(session, later, "ann", Verdict::Allow)).map(|durable| durable.wait()) {
            Ok(Ok(())) => break later,
            _ => assert!(since.elapsed() < Duration::from_secs(5), "it must come back by itself"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    recorder.close();
    drop(recorder);
    assert!(!disk.is_dead());
    let reader = Reader::open_on(Arc::new(disk)).unwrap();
    assert!(reader.entry(refused).unwrap().is_none());
    assert!(reader.entry(later).unwrap().is_some());
    assert!(reader.entry(entry).unwrap().unwrap().closed.is_some(), "the end that was owed is written");
    let report = reader.verify().unwrap();
    assert!(report.is_clean(), "{:?}", report.first);
}
