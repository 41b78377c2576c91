//! Keys, checkpoints, witnesses, proofs and pruning: each tried at every write boundary, and against who changes the store.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{body, entry_closed, entry_id, intent, keys, now, opened, responded, session_id};
use crate::operation::{EntryId, SessionId, Sha256};
use crate::record::entry::{Event, Side, Upkeep, Verdict};
use crate::record::frame::Frame;
use crate::record::head::{SignedHead, Signer, introduction};
use crate::record::journal::Journal;
use crate::record::proof;
use crate::record::read::Reader;
use crate::record::verify::{Report, Trust};
use crate::record::{
    DIRECTORY, Done, Keys, Marks, Order, Recorder, Removed, Retention, Tuning, Wanted, witness,
};
use crate::store::disk::Disk;
use crate::store::keyfile::Place;
use crate::store::keyring::Keyring;
use crate::store::sim::{Dice, SimDisk, edit_meta};

/// Entries with a body each, in the lane of their target.
fn write(recorder: &Recorder, count: usize) -> (SessionId, Vec<EntryId>) {
    let session = session_id();
    recorder.append(opened(session)).unwrap().wait().unwrap();
    let entries: Vec<EntryId> = (0..count).map(|_| entry_id()).collect();
    for entry in &entries {
        let both = vec![intent(session, *entry, "ann", Verdict::Allow), responded(*entry)];
        recorder.append_with(Vec::new(), both).unwrap().wait().unwrap();
        let rest = vec![body(*entry, format!("the answer to {entry}").as_bytes()), entry_closed(*entry)];
        recorder.append_all(rest).unwrap().wait().unwrap();
    }
    recorder.put(b"grant/1", b"used").unwrap().wait().unwrap();
    (session, entries)
}

fn sim(count: usize) -> (SimDisk, Vec<EntryId>) {
    let disk = SimDisk::default();
    let recorder = Recorder::open_on(Arc::new(disk.clone()), Tuning::default()).unwrap();
    let (_, entries) = write(&recorder, count);
    recorder.close();
    (disk, entries)
}

fn journal(disk: &SimDisk, keys: &Keys) -> Journal {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Journal::open(&disk, keys, &Arc::new(Retention::default()), |_| Ok(())).unwrap().0
}

fn everything(before: i64) -> Wanted {
    Wanted { heads: Some(before), by: "uid 0".into(), why: "a test".into(), ..Wanted::default() }
}

fn bodies(before: i64) -> Wanted {
    Wanted { bodies: Some(before), by: "uid 0".into(), why: "a test".into(), ..Wanted::default() }
}

fn prune(journal: &mut Journal, wanted: &Wanted) -> Removed {
    let mut all = Removed::default();
    loop {
        let removed = journal.prune(wanted, now()).unwrap();
        if removed.is_nothing() {
            return all;
        }
        all.add(removed);
    }
}

fn verify(disk: &SimDisk, trust: &Trust) -> Report {
    Reader::open_on(Arc::new(disk.clone())).unwrap().verify_against(trust).unwrap()
}

fn says(report: &Report, word: &str) -> bool {
    report.first.iter().any(|problem| problem.what.contains(word))
}

#[test]
fn no_body_lies_in_clear_and_without_the_key_heads_are_shown_and_bodies_stay_sealed() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (_, entries) = write(&recorder, 3);
    recorder.close();
    let segments = std::fs::read_dir(state.path().join(DIRECTORY).join("bodies")).unwrap();
    for segment in segments {
        let bytes = std::fs::read(segment.unwrap().path()).unwrap();
        assert!(!bytes.windows(10).any(|window| window == b"the answer"));
    }
    let reader = Reader::open(state.path()).unwrap();
    let view = reader.entry(entries[0]).unwrap().unwrap();
    let clear = format!("the answer to {}", entries[0]);
    assert_eq!(reader.body(&view, Side::Response).unwrap(), clear.as_bytes());
    assert_ne!(view.stretches[0].placed.digest, Sha256::of(clear.as_bytes()), "a guess cannot be checked");
    let key = Place::below(state.path()).path;
    std::fs::rename(&key, state.path().join("elsewhere")).unwrap();
    let refused = Recorder::open(state.path()).unwrap_err().to_string();
    assert!(refused.contains("record.key is missing"), "{refused}");
    let reader = Reader::open(state.path()).unwrap();
    let view = reader.entry(entries[0]).unwrap().unwrap();
    assert!(reader.body(&view, Side::Response).unwrap_err().to_string().contains("is sealed"));
    let report = reader.verify().unwrap();
    assert!(report.is_clean() && report.sealed_stretches == 3, "{report:?}");
    std::fs::rename(state.path().join("elsewhere"), &key).unwrap();
    drop(Recorder::open(state.path()).unwrap());
}

#[test]
fn another_key_in_the_place_of_the_right_one_refuses_the_start_and_changes_nothing() {
    let (disk, _) = sim(2);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let other = Keys {
        bodies: Keyring::in_memory(crate::store::keyring::Ring::default().grown().unwrap()),
        ..keys()
    };
    let retention = Arc::new(Retention::default());
    let refused = Journal::open(&disk, &other, &retention, |_| Ok(())).unwrap_err().to_string();
    assert!(refused.contains("does not open"), "{refused}");
    let unsigned = Keys { signing: other.bodies.clone(), ..keys() };
    let refused = Journal::open(&disk, &unsigned, &retention, |_| Ok(())).unwrap_err().to_string();
    assert!(refused.contains("seed of signing key"), "{refused}");
    assert!(Reader::open_on(disk).unwrap().verify().unwrap().is_clean());
}

#[test]
fn rekeying_loses_nothing_and_the_old_key_can_be_destroyed() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (_, entries) = write(&recorder, 3);
    let done = recorder.order(Order::Rekey { by: "uid 0".into() }).unwrap();
    assert_eq!(done, Done::Rekeyed { generation: 2, segments: 1 });
    let (_, later) = write(&recorder, 2);
    let left = recorder.order(Order::ForgetKeys { used: [].into() }).unwrap();
    assert_eq!(left, Done::KeysLeft(vec![2]));
    recorder.close();
    let ring = Keyring::open(&Place::below(state.path())).unwrap().ring();
    assert_eq!(ring.generations(), [2]);
    let reader = Reader::open(state.path()).unwrap();
    let report = reader.verify().unwrap();
    assert!(report.is_clean() && report.sealed_stretches == 0, "{:?}", report.first);
    for entry in entries.iter().chain(&later) {
        let view = reader.entry(*entry).unwrap().unwrap();
        assert_eq!(reader.body(&view, Side::Response).unwrap(), format!("the answer to {entry}").as_bytes());
    }
}

#[test]
fn an_old_generation_stays_as_long_as_anything_is_sealed_with_it() {
    let (disk, _) = sim(2);
    let mine = Keys { bodies: Keyring::in_memory((*keys().bodies.ring()).clone()), ..keys() };
    let mut open = journal(&disk, &mine);
    assert_eq!(open.forget_keys(&[].into()).unwrap(), [1]);
    open.rekey("uid 0", now()).unwrap();
    assert_eq!(open.forget_keys(&[1].into()).unwrap(), [1, 2], "a spool uses it");
    assert_eq!(open.forget_keys(&[].into()).unwrap(), [2]);
}

/// What an act on the record leaves when the power goes at any of its operations.
fn cut_everywhere(act: impl Fn(&mut Journal) -> bool, check: impl Fn(&SimDisk, &Keys, &[EntryId])) {
    let mut dice = Dice(0x51ce_2026);
    for operations in 0.. {
        let (disk, entries) = sim(6);
        let fresh = |ring: &Keyring| Keyring::in_memory((*ring.ring()).clone());
        let mine = Keys { bodies: fresh(&keys().bodies), signing: fresh(&keys().signing) };
        let mut open = journal(&disk, &mine);
        disk.light_fuse(operations);
        let done = act(&mut open);
        let after = disk.crash(&mut dice);
        let _ = crate::store::close(open);
        let reader = Reader::open_keyed(Arc::new(after.clone()), mine.bodies.clone()).unwrap();
        let report = reader.verify().unwrap();
        assert!(report.is_clean(), "cut at {operations}: {:?}", report.first);
        let recorder =
            Recorder::open_keyed(Arc::new(after.clone()), mine.clone(), Tuning::default()).unwrap();
        write(&recorder, 1);
        recorder.close();
        let report = Reader::open_keyed(Arc::new(after.clone()), mine.bodies.clone()).unwrap();
        let report = report.verify().unwrap();
        assert!(report.is_clean(), "cut at {operations}, and started again: {:?}", report.first);
        check(&after, &mine, &entries);
        if done {
            assert!(operations > 3, "the power never went");
            return;
        }
    }
}

#[test]
fn a_power_cut_at_any_write_of_a_rekey_loses_no_body() {
    cut_everywhere(
        |open| open.rekey("uid 0", now()).is_ok(),
        |disk, keys, entries| {
            let reader = Reader::open_keyed(Arc::new(disk.clone()), keys.bodies.clone()).unwrap();
            for entry in entries {
                let view = reader.entry(*entry).unwrap().unwrap();
                let body = reader.body(&view, Side::Response).unwrap();
                assert_eq!(body, format!("the answer to {entry}").as_bytes());
            }
        },
    );
}

#[test]
fn a_power_cut_at_any_write_of_pruning_leaves_a_record_that_verifies() {
    // Bodies, then commits, then what that left.
    let all = |open: &mut Journal| {
        (0..3).all(|_| open.prune(&everything(now() + 2_000_000), now()).is_ok_and(|gone| !gone.is_nothing()))
    };
    cut_everywhere(all, |_, _, _| {});
}

#[test]
fn a_power_cut_at_any_write_of_a_checkpoint_or_a_new_signing_key_is_no_rollback() {
    cut_everywhere(
        |open| open.rotate_signing_key("uid 0", now()).is_ok() && open.sign_now(now()).is_ok(),
        |disk, _, _| assert!(verify(disk, &Trust::default()).signed > 0),
    );
}

#[test]
fn shed_bodies_leave_a_tombstone_and_every_head() {
    let (disk, entries) = sim(3);
    let mut open = journal(&disk, &keys());
    assert!(prune(&mut open, &bodies(now() - 60_000_000)).is_nothing(), "they are young");
    let removed = prune(&mut open, &bodies(now() + 1));
    assert_eq!((removed.segments, removed.commits), (1, 0));
    crate::store::close(open).unwrap();
    assert!(disk.segments().unwrap().is_empty());
    let report = verify(&disk, &Trust::default());
    assert!(report.is_clean() && report.shed_stretches == 3, "{:?}", report.first);
    let reader = Reader::open_on(Arc::new(disk.clone())).unwrap();
    let view = reader.entry(entries[0]).unwrap().unwrap();
    assert!(reader.body(&view, Side::Response).unwrap_err().to_string().contains("gone"));
    let lines = reader.last(5).unwrap();
    let tombstone = |line: &Frame| match line {
        Frame::Event(Event::Kept(kept)) => {
            matches!(&kept.what, Upkeep::Shed { segments, .. } if segments == &[1])
        }
        _ => false,
    };
    assert!(lines.iter().any(|line| tombstone(&line.frame)), "{lines:?}");
}

#[test]
fn a_segment_that_is_removed_without_a_tombstone_is_named() {
    let (disk, entries) = sim(2);
    disk.remove_segment(1).unwrap();
    let report = verify(&disk, &Trust::default());
    assert!(says(&report, "says why"), "{:?}", report.first);
    assert!(report.first[0].about.as_ref().unwrap().contains(&entries[0].to_string()));
}

#[test]
fn pruned_commits_leave_a_record_that_verifies_goes_on_and_proves_what_remains() {
    let (disk, early) = sim(5);
    let recorder = Recorder::open_on(Arc::new(disk.clone()), Tuning::default()).unwrap();
    let (open_session, straddling) = (session_id(), entry_id());
    let begin = vec![opened(open_session), intent(open_session, straddling, "ann", Verdict::Allow)];
    recorder.append_with(Vec::new(), begin).unwrap().wait().unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    let cut = now() - 1_000_000;
    let (_, late) = write(&recorder, 3);
    let before = Reader::open_on(Arc::new(disk.clone())).unwrap().end().unwrap();
    let done = recorder.order(Order::Prune(everything(cut))).unwrap();
    let Done::Removed(removed) = done else { panic!("{done:?}") };
    assert!(removed.commits >= 12 && removed.commits < before, "{removed:?}");
    recorder.append(entry_closed(straddling)).unwrap().wait().unwrap();
    recorder.close();
    let report = verify(&disk, &Trust::default());
    assert!(report.is_clean() && report.begins == removed.commits, "{:?}", report.first);
    let reader = Reader::open_on(Arc::new(disk.clone())).unwrap();
    assert!(reader.entry(early[0]).unwrap().is_none(), "it is gone");
    let key = report.signing_key.unwrap();
    for entry in &late {
        let frames = reader.prove(*entry).unwrap().unwrap().verify(&key).unwrap();
        assert_eq!(frames.len(), 4, "intent, answer, body, end");
    }
    drop(reader);
    let recorder = Recorder::open_on(Arc::new(disk.clone()), Tuning::default()).unwrap();
    write(&recorder, 2);
    recorder.close();
    assert!(verify(&disk, &Trust::default()).is_clean());
}

#[test]
fn a_beginning_that_no_tombstone_names_is_found() {
    let (disk, _) = sim(3);
    let mut open = journal(&disk, &keys());
    prune(&mut open, &everything(now() + 2_000_000));
    crate::store::close(open).unwrap();
    assert!(verify(&disk, &Trust::default()).is_clean());
    edit_meta(&disk, "base", |row| {
        let mut base: crate::record::chain::Base = postcard::from_bytes(&row.unwrap()).unwrap();
        base.state.insert(b"grant/9".to_vec(), Sha256::of(b"forged"));
        Some(postcard::to_allocvec(&base).unwrap())
    });
    let report = verify(&disk, &Trust::default());
    assert!(says(&report, "no tombstone in the chain says so"), "{:?}", report.first);
}

/// Whoever has no signing key can write a tombstone, and cannot sign it.
#[test]
fn a_tombstone_that_nobody_signed_explains_no_gap() {
    let (disk, _) = sim(3);
    let mut open = journal(&disk, &keys());
    assert!(!prune(&mut open, &everything(now() + 2_000_000)).is_nothing());
    crate::store::close(open).unwrap();
    assert!(verify(&disk, &Trust::default()).is_clean());
    crate::store::sim::forget_checkpoints(&disk);
    let report = verify(&disk, &Trust::default());
    assert!(says(&report, "under no signed checkpoint"), "{:?}", report.first);

    let (disk, _) = sim(3);
    let mut open = journal(&disk, &keys());
    assert!(!prune(&mut open, &bodies(now() + 1)).is_nothing());
    crate::store::close(open).unwrap();
    crate::store::sim::forget_checkpoints(&disk);
    let report = verify(&disk, &Trust::default());
    assert!(says(&report, "no tombstone under a signed checkpoint says why"), "{:?}", report.first);
}

#[test]
fn a_witness_all_of_whose_checkpoints_are_pruned_vouches_for_nothing() {
    let (disk, _) = sim(3);
    let reader = Reader::open_on(Arc::new(disk.clone())).unwrap();
    let seen = Trust { witnessed: vec![reader.signed_head().unwrap().unwrap()], key: None };
    drop(reader);
    let recorder = Recorder::open_on(Arc::new(disk.clone()), Tuning::default()).unwrap();
    write(&recorder, 2);
    std::thread::sleep(Duration::from_millis(1100));
    let cut = now();
    write(&recorder, 2);
    let done = recorder.order(Order::Prune(everything(cut))).unwrap();
    assert!(matches!(done, Done::Removed(removed) if !removed.is_nothing()), "{done:?}");
    recorder.close();
    assert!(verify(&disk, &Trust::default()).is_clean());
    let report = verify(&disk, &seen);
    assert_eq!((report.witnessed, report.witnessed_pruned), (0, 1));
    assert!(says(&report, "nothing of what is left can be compared"), "{:?}", report.first);
}

#[test]
fn a_line_that_was_cut_short_spoils_no_line_after_it() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("witness");
    run_witnessed(state.path(), &file, 2);
    let whole = std::fs::read_to_string(&file).unwrap();
    let lines = witness::read(&file).unwrap().len();
    std::fs::write(&file, format!("{whole}{}", &whole[..40])).unwrap();
    run_witnessed(state.path(), &file, 2);
    let after = witness::read(&file).unwrap();
    assert!(after.len() > lines, "{}", std::fs::read_to_string(&file).unwrap());
    assert!(against(state.path(), &file).is_clean());
    std::fs::write(&file, format!("{whole}{{}}\n")).unwrap();
    assert!(
        witness::read(&file).unwrap_err().contains("line"),
        "a whole line that is no checkpoint is named"
    );
}

#[test]
fn a_witness_that_hangs_keeps_no_other_from_its_checkpoints_and_is_told() {
    let state = tempfile::tempdir().unwrap();
    let (file, script) = (state.path().join("witness"), state.path().join("hangs.sh"));
    std::fs::write(&script, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let keys = Keys::open(state.path(), &Place::below(state.path())).unwrap();
    let hangs = witness::Kind::Command(vec![script.display().to_string()]);
    let kinds = vec![hangs, witness::Kind::File(file.clone())];
    let recorder = Recorder::open_with(state.path(), keys, Retention::default(), kinds).unwrap();
    write(&recorder, 2);
    let rotated = recorder.order(Order::RotateSigningKey { by: "uid 0".into() }).unwrap();
    assert!(matches!(rotated, Done::SigningKey(_)));
    let since = std::time::Instant::now();
    while !witness::read(&file).is_ok_and(|heads| !heads.is_empty()) {
        assert!(since.elapsed() < Duration::from_secs(5), "the file waits for the command");
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = || recorder.upkeep().witnesses[0].fault.clone();
    while told().is_none() {
        assert!(since.elapsed() < Duration::from_secs(60), "nobody is told");
        std::thread::sleep(Duration::from_millis(50));
    }
    recorder.close();
}

#[test]
fn bodies_of_a_target_with_an_age_of_its_own_go_alone() {
    let disk = SimDisk::default();
    let retention =
        Retention { targets: [("react".to_owned(), Duration::ZERO)].into(), ..Retention::default() };
    let tuning =
        Tuning { retention: Arc::new(retention), upkeep: Duration::from_millis(20), ..Tuning::default() };
    let recorder = Recorder::open_on(Arc::new(disk.clone()), tuning).unwrap();
    let (session, entries) = write(&recorder, 2);
    let other = entry_id();
    let Event::Intent(mut elsewhere) = intent(session, other, "ann", Verdict::Allow) else { panic!() };
    elsewhere.target = Some("billing".into());
    let both = vec![Event::Intent(elsewhere), body(other, b"kept")];
    recorder.append_all(both).unwrap().wait().unwrap();
    let since = Instant::now();
    while recorder.upkeep().removed.segments == 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "nothing was shed");
        std::thread::sleep(Duration::from_millis(10));
    }
    recorder.close();
    assert!(verify(&disk, &Trust::default()).is_clean());
    let reader = Reader::open_on(Arc::new(disk)).unwrap();
    let view = reader.entry(other).unwrap().unwrap();
    assert_eq!(reader.body(&view, Side::Response).unwrap(), b"kept");
    let view = reader.entry(entries[0]).unwrap().unwrap();
    assert!(reader.body(&view, Side::Response).is_err());
}

#[test]
fn too_little_space_sheds_what_is_old_enough_and_then_refuses_and_comes_back() {
    let disk = SimDisk::default();
    let retention = Retention { spare: crate::record::Spare(Duration::ZERO), ..Retention::default() };
    let tuning = |retention| Tuning {
        retention: Arc::new(retention),
        upkeep: Duration::from_millis(10),
        retry: Duration::from_millis(10),
        ..Tuning::default()
    };
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !done() {
            assert!(since.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let recorder = Recorder::open_on(Arc::new(disk.clone()), tuning(Retention::default())).unwrap();
    write(&recorder, 2);
    disk.leave_free((1 << 40) / 1000 * 50);
    wait("the pressure is seen", &|| recorder.upkeep().pressure == crate::record::Pressure::Shedding);
    std::thread::sleep(Duration::from_millis(60));
    assert!(recorder.upkeep().removed.is_nothing(), "what is young is not shed");
    recorder.close();
    let recorder = Recorder::open_on(Arc::new(disk.clone()), tuning(retention)).unwrap();
    wait("bodies go first", &|| recorder.upkeep().removed.segments == 1);
    disk.leave_free(1 << 20);
    wait("it refuses", &|| recorder.upkeep().pressure == crate::record::Pressure::Refusing);
    let refused = recorder.append(opened(session_id())).and_then(crate::record::Durable::wait);
    assert!(refused.unwrap_err().to_string().contains("so little space"));
    disk.leave_free(1 << 39);
    wait("it comes back", &|| {
        recorder.append(opened(session_id())).and_then(crate::record::Durable::wait).is_ok()
    });
    recorder.close();
    assert!(verify(&disk, &Trust::default()).is_clean());
}

#[test]
fn the_marks_stand_where_they_are_set() {
    use crate::record::Pressure::{Enough, Low, Refusing, Shedding};
    use crate::store::disk::Space;
    let marks = Marks { warn: 150, shed: 80, refuse: 20 };
    for (free, wanted) in [
        (1000, Enough),
        (150, Enough),
        (149, Low),
        (80, Low),
        (79, Shedding),
        (20, Shedding),
        (19, Refusing),
        (0, Refusing),
    ] {
        assert_eq!(marks.pressure(Space { total: 1000, free }), wanted, "{free}");
    }
}

/// A record with a witness file beside it.
fn witnessed() -> (tempfile::TempDir, std::path::PathBuf, Vec<EntryId>) {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("witness");
    let entries = run_witnessed(state.path(), &file, 4);
    (state, file, entries)
}

fn run_witnessed(state: &Path, file: &Path, count: usize) -> Vec<EntryId> {
    let keys = Keys::open(state, &Place::below(state)).unwrap();
    let kinds = vec![witness::Kind::File(file.to_owned())];
    let recorder = Recorder::open_with(state, keys, Retention::default(), kinds).unwrap();
    let (_, entries) = write(&recorder, count);
    recorder.close();
    entries
}

fn against(state: &Path, file: &Path) -> Report {
    let trust = Trust { witnessed: witness::read(file).unwrap(), key: None };
    Reader::open(state).unwrap().verify_against(&trust).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("bodies")).unwrap();
    for name in ["record.redb", "bodies/00000001.seg"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn an_old_copy_in_the_place_of_the_record_is_caught_by_the_witness() {
    let (state, file, _) = witnessed();
    let record = state.path().join(DIRECTORY);
    let old = state.path().join("old");
    copy(&record, &old);
    run_witnessed(state.path(), &file, 3);
    let report = against(state.path(), &file);
    assert!(report.is_clean() && report.witnessed >= 2, "{:?}", report.first);
    copy(&old, &record);
    assert!(Reader::open(state.path()).unwrap().verify().unwrap().is_clean(), "the chain alone sees nothing");
    let report = against(state.path(), &file);
    assert!(says(&report, "an old copy was put in its place"), "{:?}", report.first);
}

/// What who can write all files, and has the signing key, makes of a record: another one, signed and whole.
#[test]
fn a_chain_that_is_cut_and_computed_anew_even_with_the_right_key_is_caught_by_the_witness() {
    let (state, file, _) = witnessed();
    let record = state.path().join(DIRECTORY);
    std::fs::remove_dir_all(&record).unwrap();
    // The same keys, the same length, another story.
    let disk: Arc<dyn Disk> = Arc::new(crate::store::disk::Folder::create(&record).unwrap());
    let keys = Keys {
        bodies: Keyring::open(&Place::below(state.path())).unwrap(),
        signing: Keyring::open(&Place::file(&state.path().join("keys/signing.key"), None)).unwrap(),
    };
    let recorder = Recorder::open_keyed(disk, keys, Tuning::default()).unwrap();
    write(&recorder, 4);
    recorder.close();
    assert!(Reader::open(state.path()).unwrap().verify().unwrap().is_clean(), "the chain alone sees nothing");
    let report = against(state.path(), &file);
    assert!(says(&report, "the witness saw another record"), "{:?}", report.first);
}

#[test]
fn an_end_that_is_cut_off_with_a_head_to_match_is_caught_by_the_witness() {
    let (disk, _) = sim(4);
    let whole = Reader::open_on(Arc::new(disk.clone())).unwrap();
    let seen = Trust { witnessed: vec![whole.signed_head().unwrap().unwrap()], key: None };
    drop(whole);
    assert_eq!(verify(&disk, &seen).witnessed, 1);
    crate::store::sim::cut_end(&disk, 3);
    let report = verify(&disk, &seen);
    assert!(says(&report, "its end was cut off"), "{:?}", report.first);
}

#[test]
fn a_checkpoint_signed_with_a_key_that_is_not_listed_or_of_another_owner_is_named() {
    let (disk, _) = sim(2);
    let reader = Reader::open_on(Arc::new(disk.clone())).unwrap();
    let head = reader.signed_head().unwrap().unwrap();
    let other = Signer::of(&zeroize::Zeroizing::new([9; 32])).unwrap();
    let forged = other.head(head.clone());
    let report = verify(&disk, &Trust { witnessed: vec![forged], key: None });
    assert!(says(&report, "no signing key of this record signed"), "{:?}", report.first);
    let report = verify(&disk, &Trust { witnessed: Vec::new(), key: Some(other.public().to_owned()) });
    assert!(says(&report, "does not list the signing key"), "{:?}", report.first);
    assert!(verify(&disk, &Trust { witnessed: Vec::new(), key: Some(head.key) }).is_clean());
}

#[test]
fn signing_keys_rotate_and_each_is_introduced_by_the_one_before() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (_, entries) = write(&recorder, 1);
    let Done::SigningKey(second) = recorder.order(Order::RotateSigningKey { by: "uid 0".into() }).unwrap()
    else {
        panic!("it rotates")
    };
    recorder.close();
    drop(Recorder::open(state.path()).unwrap());
    let reader = Reader::open(state.path()).unwrap();
    let report = reader.verify().unwrap();
    assert!(report.is_clean() && report.signing_key.as_deref() == Some(&second), "{report:?}");
    assert!(reader.prove(entries[0]).unwrap().is_some());
    assert!(introduction(&Sha256::default(), 2, &second).contains("number 2"));
}

#[test]
fn a_witness_that_fails_is_told_and_stops_nothing_and_each_kind_gets_the_line() {
    let state = tempfile::tempdir().unwrap();
    let (file, got) = (state.path().join("witness"), state.path().join("got"));
    let script = state.path().join("witness.sh");
    std::fs::write(&script, format!("#!/bin/sh\ncat > {}\n", got.display())).unwrap();
    let kinds = vec![
        witness::Kind::File(state.path().join("missing/witness")),
        witness::Kind::File(file.clone()),
        format!("command:/bin/sh {}", script.display()).parse().unwrap(),
        "command:/bin/false".parse().unwrap(),
    ];
    let keys = Keys::open(state.path(), &Place::below(state.path())).unwrap();
    let recorder = Recorder::open_with(state.path(), keys, Retention::default(), kinds).unwrap();
    write(&recorder, 2);
    recorder.order(Order::RotateSigningKey { by: "uid 0".into() }).unwrap();
    let since = Instant::now();
    while recorder.upkeep().witnesses.iter().any(|w| w.commits == 0 && w.fault.is_none()) {
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", recorder.upkeep().witnesses);
        std::thread::sleep(Duration::from_millis(10));
    }
    let states = recorder.upkeep().witnesses;
    let failing: Vec<bool> = states.iter().map(|state| state.fault.is_some()).collect();
    assert_eq!(failing, [true, false, false, true], "{states:?}");
    write(&recorder, 1);
    recorder.close();
    let line: SignedHead = serde_json::from_slice(&std::fs::read(&got).unwrap()).unwrap();
    assert_eq!(witness::read(&file).unwrap().last(), Some(&line));
    for wrong in ["", "file:relative", "journal", "command:sh -c", "http://x"] {
        assert!(wrong.parse::<witness::Kind>().is_err(), "{wrong}");
    }
}

#[test]
fn a_line_that_a_crash_cut_short_is_passed_over_and_a_wrong_one_is_named() {
    let (_state, file, _) = witnessed();
    let whole = std::fs::read_to_string(&file).unwrap();
    let count = witness::read(&file).unwrap().len();
    std::fs::write(&file, format!("{whole}{}", &whole[..40])).unwrap();
    assert_eq!(witness::read(&file).unwrap().len(), count);
    std::fs::write(&file, format!("nonsense\n{whole}")).unwrap();
    assert!(witness::read(&file).unwrap_err().contains("line 1"));
}

/// The program in the manual, as it stands there.
fn documented() -> String {
    let manual = include_str!("../../../../docs/RECORD.md");
    let program = manual.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(program.lines().count() <= 40, "{} lines", program.lines().count());
    program.to_owned()
}

#[test]
fn a_proof_is_checked_by_forty_lines_of_python_and_a_changed_one_fails_in_both() {
    let (state, _, entries) = witnessed();
    let reader = Reader::open(state.path()).unwrap();
    let good = reader.prove(entries[2]).unwrap().unwrap();
    let key = good.checkpoint.key.clone();
    assert!(reader.prove(entry_id()).unwrap().is_none());
    let (program, file) = (state.path().join("verify.py"), state.path().join("proof.json"));
    std::fs::write(&program, documented()).unwrap();
    let python = |proof: &proof::Proof, key: &str| {
        std::fs::write(&file, serde_json::to_vec(proof).unwrap()).unwrap();
        let ran = Command::new("/usr/bin/python3").arg(&program).arg(&file).arg(key).output().unwrap();
        (
            ran.status.success(),
            String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr),
        )
    };
    let (holds, said) = python(&good, &key);
    assert!(holds && good.verify(&key).unwrap().len() == 4, "{said}");
    let mut changed = Vec::new();
    let mut other = good.clone();
    other.events[0].content = other.events[0].content.replace("616e6e", "626f62");
    changed.push(("another user", other));
    let mut other = good.clone();
    other.events[1].previous = Sha256::of(b"x");
    changed.push(("another neighbour", other));
    let mut other = good.clone();
    other.commits[0].header.replace_range(40..42, "77");
    changed.push(("another time", other));
    let mut other = good.clone();
    other.checkpoint.commits += 1;
    changed.push(("a longer record", other));
    let mut other = good.clone();
    other.commits[0].path[0] = Sha256::of(b"x");
    changed.push(("another path", other));
    for (what, proof) in changed {
        assert!(proof.verify(&key).is_err(), "{what}");
        assert!(!python(&proof, &key).0, "{what}");
    }
    let stranger = Signer::of(&zeroize::Zeroizing::new([3; 32])).unwrap();
    assert!(good.verify(stranger.public()).is_err() && !python(&good, stranger.public()).0);
    let text = serde_json::to_vec(&good).unwrap();
    assert_eq!(proof::parse(&text).unwrap(), good);
    assert!(proof::parse(&text[..text.len() - 1]).is_err());
}

#[test]
fn a_newer_checkpoint_is_shown_to_continue_an_older_one_and_no_other() {
    let (disk, _) = sim(2);
    let first = Reader::open_on(Arc::new(disk.clone())).unwrap().signed_head().unwrap().unwrap();
    let recorder = Recorder::open_on(Arc::new(disk.clone()), Tuning::default()).unwrap();
    write(&recorder, 3);
    recorder.close();
    let reader = Reader::open_on(Arc::new(disk)).unwrap();
    let continued = reader.continues(&first).unwrap();
    assert!(continued.new.commits > first.commits);
    continued.verify(&continued.new.key).unwrap();
    let mut other = continued.clone();
    other.old = Signer::of(&zeroize::Zeroizing::new([3; 32]))
        .unwrap()
        .head(SignedHead { root: Sha256::of(b"x"), ..first.clone() });
    assert!(other.verify(&continued.new.key).unwrap_err().contains("does not continue"));
    let longer = SignedHead { commits: 10_000, ..first };
    assert!(reader.continues(&longer).unwrap_err().to_string().contains("rolled back"));
}
