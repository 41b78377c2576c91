//! The record's promises on real files.

use super::*;
use crate::record::{RecordError, Recorder, StateOp};

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
