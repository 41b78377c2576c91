//! The record's promises on real files.

use std::sync::Arc;

use super::*;
use crate::limits;
use crate::record::read::Reader;
use crate::record::{DIRECTORY, Health, RecordError, Recorder, StateOp, Tuning};
use crate::store::disk::{Disk, Folder};
use crate::store::sim::SimDisk;

#[test]
fn what_was_answered_durable_is_there_after_reopening() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (session, entry) = (session_id(), entry_id());
    recorder.append(opened(session)).unwrap().wait().unwrap();
    recorder.append(intent(session, entry, "ann", Verdict::Allow)).unwrap().wait().unwrap();
    recorder.append(body(entry, b"hello")).unwrap().wait().unwrap();
    recorder.put(b"demand/1", b"x").unwrap().wait().unwrap();
    drop(recorder);
    let recorder = Recorder::open(state.path()).unwrap();
    assert_eq!(recorder.stats().recovered, 1);
    assert_eq!(recorder.scan(b"demand/").unwrap(), [(b"demand/1".to_vec(), b"x".to_vec())]);
    let refused = recorder.append(entry_closed(entry)).unwrap().wait();
    assert!(matches!(refused, Err(RecordError::NotOpen(_))), "it was closed by the recovery: {refused:?}");
}

#[test]
fn an_event_about_nothing_open_is_refused_and_harms_no_other() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (session, entry) = (session_id(), entry_id());
    let orphan = recorder.append(intent(session, entry, "ann", Verdict::Allow)).unwrap();
    let fine = recorder.append(opened(session)).unwrap();
    assert!(matches!(orphan.wait(), Err(RecordError::NotOpen(_))));
    fine.wait().unwrap();
    assert!(matches!(recorder.append(responded(entry)).unwrap().wait(), Err(RecordError::NotOpen(_))));
    recorder.append(intent(session, entry, "ann", Verdict::Allow)).unwrap().wait().unwrap();
    recorder.append(entry_closed(entry)).unwrap().wait().unwrap();
    let second = recorder.append(entry_closed(entry)).unwrap().wait();
    assert!(matches!(second, Err(RecordError::NotOpen(_))), "an entry has exactly one end");
}

#[test]
fn state_and_events_of_one_call_become_durable_together_or_not_at_all() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let used = vec![StateOp::Put(b"grant/1".to_vec(), b"used".to_vec())];
    let nobody = entry_closed(entry_id());
    assert!(recorder.append_with(used.clone(), vec![nobody]).unwrap().wait().is_err());
    assert!(recorder.scan(b"").unwrap().is_empty());
    let session = session_id();
    recorder.append_with(used, vec![opened(session), session_closed(session)]).unwrap().wait().unwrap();
    assert_eq!(recorder.scan(b"grant/").unwrap().len(), 1);
    recorder.remove(b"grant/1").unwrap().wait().unwrap();
    assert!(recorder.scan(b"grant/").unwrap().is_empty());
}

#[test]
fn a_second_writer_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let _first = Recorder::open(state.path()).unwrap();
    let second = Recorder::open(state.path()).unwrap_err();
    assert!(second.to_string().contains("another process is writing"), "{second}");
}

#[test]
fn each_bound_holds_at_its_value_and_refuses_one_more() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (session, entry) = (session_id(), entry_id());
    let begun = vec![opened(session), intent(session, entry, "ann", Verdict::Allow)];
    recorder.append_with(Vec::new(), begun).unwrap().wait().unwrap();
    let key = vec![b'k'; limits::STATE_KEY_BYTES_MAX + 1];
    let value = vec![b'v'; limits::STATE_VALUE_BYTES_MAX + 1];
    recorder.put(&key[1..], &value[1..]).unwrap().wait().unwrap();
    assert!(matches!(recorder.put(&key, b""), Err(RecordError::TooLarge { what: "a key", .. })));
    assert!(matches!(recorder.put(b"k", &value), Err(RecordError::TooLarge { what: "a value", .. })));
    let stretch = vec![b'b'; limits::BODY_STRETCH_BYTES + 1];
    recorder.append(body(entry, &stretch[1..])).unwrap().wait().unwrap();
    let refused = recorder.append(body(entry, &stretch));
    assert!(matches!(refused, Err(RecordError::TooLarge { what: "a stretch of a body", .. })));
    let Event::Intent(mut large) = intent(session, entry_id(), "ann", Verdict::Allow) else { unreachable!() };
    let room = limits::EVENT_BYTES_MAX - Event::Intent(large.clone()).weight();
    large.reason.push_str(&"r".repeat(room));
    recorder.append(Event::Intent(large.clone())).unwrap().wait().unwrap();
    large.reason.push('r');
    let refused = recorder.append(Event::Intent(large));
    assert!(matches!(refused, Err(RecordError::TooLarge { what: "an event", .. })));
}

#[test]
fn a_full_queue_refuses_at_once_and_says_how_full_it_is() {
    let disk = SimDisk::default();
    let tuning = Tuning { queue: 5, ..Tuning::default() };
    let recorder = Recorder::open_on(Arc::new(disk.clone()), tuning).unwrap();
    disk.hang(true);
    let mut taken = Vec::new();
    let full = loop {
        match recorder.append(opened(session_id())) {
            Ok(durable) => taken.push(durable),
            Err(full) => break full,
        }
    };
    assert!(matches!(full, RecordError::Full { waiting: 5 }), "{full}");
    // Beside those that wait the writer has taken at most what waited before.
    assert!((5..=10).contains(&taken.len()), "{}", taken.len());
    disk.hang(false);
    taken.into_iter().for_each(|durable| durable.wait().unwrap());
}

#[test]
fn a_half_made_database_of_a_crashed_start_is_no_record() {
    let state = tempfile::tempdir().unwrap();
    let folder = Folder::create(&state.path().join(DIRECTORY)).unwrap();
    drop(folder.scratch().unwrap());
    std::fs::write(state.path().join(DIRECTORY).join("record.redb.new"), [7; 5000]).unwrap();
    assert!(Reader::open(state.path()).is_err());
    Recorder::open(state.path()).unwrap().append(opened(session_id())).unwrap().wait().unwrap();
    assert!(Reader::open(state.path()).unwrap().verify().unwrap().is_clean());
}

#[tokio::test]
async fn dropping_a_durable_takes_nothing_back_and_async_code_may_wait() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let session = session_id();
    drop(recorder.append(opened(session)).unwrap());
    recorder.append(session_closed(session)).unwrap().await.unwrap();
    assert_eq!(recorder.health(), Health::Up);
    recorder.close();
    assert!(matches!(recorder.append(opened(session_id())), Err(RecordError::Closed)));
}
