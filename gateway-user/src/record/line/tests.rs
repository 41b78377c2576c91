//! What the line promises, with both its ends in one process.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::*;
use crate::limits::COMMIT_PATIENCE;
use crate::record::entry::{Ending, Interrupted, Started, Unblocked, Verdict};
use crate::record::operations::Look;
use crate::record::read::Reader;
use crate::record::tests::{
    body, entry_closed, entry_id, intent, now, opened, responded, session_closed, session_id,
};
use crate::record::warrant::{Deed, Warrants};
use crate::record::{Health, Order, Recorder, StateOp, Tuning};
use crate::store::disk::{Disk, Folder};

/// A recorder over one disk, and how to get a line to it.
struct Bench {
    disk: Arc<dyn Disk>,
    /// One enforcer at a time.
    turn: Arc<Mutex<()>>,
    _place: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        Self {
            disk: Arc::new(Folder::create(&place.path().join("record")).unwrap()),
            turn: Arc::default(),
            _place: place,
        }
    }

    /// Serves each line with a record that is opened for it, as the recorder does.
    fn connect(&self) -> Connect {
        let (disk, turn) = (Arc::clone(&self.disk), Arc::clone(&self.turn));
        Box::new(move || {
            let (ours, theirs) = UnixStream::pair()?;
            let (disk, turn) = (Arc::clone(&disk), Arc::clone(&turn));
            thread::spawn(move || {
                let _turn = turn.lock().unwrap();
                let recorder = Recorder::open_on(disk, Tuning::default()).unwrap();
                drop(recorder.serve(&theirs, &Arc::default()));
                recorder.close();
            });
            Ok(ours)
        })
    }

    fn recorder(&self) -> Recorder {
        Recorder::through(self.connect()).unwrap()
    }

    fn reader(&self) -> Reader {
        Reader::open_on(Arc::clone(&self.disk)).unwrap()
    }
}

#[test]
fn what_is_handed_over_is_on_disk_when_it_is_said_to_be() {
    let bench = Bench::new();
    let recorder = bench.recorder();
    let (session, entry) = (session_id(), entry_id());
    let parts = [
        vec![opened(session)],
        vec![intent(session, entry, "ann", Verdict::Allow)],
        vec![responded(entry), body(entry, &[7; 60_000])],
        vec![entry_closed(entry), session_closed(session)],
    ];
    let durable: Vec<_> = parts.into_iter().map(|part| recorder.append_soon(part).unwrap()).collect();
    durable.into_iter().for_each(|durable| durable.wait().unwrap());
    recorder.put(b"a/1", b"x").unwrap().wait().unwrap();
    recorder.put(b"b", &vec![1; 1024 * 1024]).unwrap().wait().unwrap();
    assert_eq!(recorder.scan(b"a/").unwrap(), [(b"a/1".to_vec(), b"x".to_vec())]);
    assert_eq!(recorder.scan(b"").unwrap().len(), 2, "in parts");
    let reader = bench.reader();
    let view = reader.session(session).unwrap().unwrap();
    assert_eq!((view.entries.len(), view.summary.closed.is_some()), (1, true));
    assert_eq!(reader.body(&view.entries[0], crate::record::entry::Side::Response).unwrap(), [7; 60_000]);
    let mut seen = Vec::new();
    let look = Look { since: None, limit: 10, ends: None };
    recorder
        .operations(look, &mut |recorded| {
            seen.push(recorded.intent.entry);
            true
        })
        .unwrap();
    assert_eq!(seen, [entry]);
    recorder.close();
    assert!(recorder.append(opened(session_id())).is_err(), "closed is closed");
}

#[test]
fn many_at_once_are_each_answered() {
    let bench = Bench::new();
    let recorder = bench.recorder();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let session = session_id();
                    recorder.append(opened(session)).unwrap().wait().unwrap();
                    recorder.append(session_closed(session)).unwrap().wait().unwrap();
                    // What is not open is refused, and the answers after it are still those of whom they are for.
                    assert!(recorder.append(session_closed(session)).unwrap().wait().is_err());
                }
            });
        }
    });
    assert_eq!(recorder.health(), Health::Up);
}

#[test]
fn what_is_the_writers_own_to_say_and_to_do_is_refused() {
    let bench = Bench::new();
    let recorder = bench.recorder();
    let started = Started { at: now(), version: "forged".into(), recovered: 0 };
    let gap = Interrupted { at: now(), since: now(), reason: "forged".into(), flows: 0, operations: 0 };
    for forged in [Event::Started(started), Event::Interrupted(gap)] {
        assert!(recorder.append(forged).unwrap().wait().is_err());
    }
    assert!(recorder.order(Order::Rekey { by: "agent".into() }).is_err());
    let told = bench.reader().last(100).unwrap();
    assert!(!told.iter().any(|line| format!("{:?}", line.frame).contains("forged")));
}

#[test]
fn that_a_human_did_something_is_believed_with_a_warrant_and_once() {
    let bench = Bench::new();
    let warrants: Arc<Warrants> = Arc::default();
    let (disk, known) = (Arc::clone(&bench.disk), Arc::clone(&warrants));
    let recorder = Recorder::through(Box::new(move || {
        let (ours, theirs) = UnixStream::pair()?;
        let (disk, known) = (Arc::clone(&disk), Arc::clone(&known));
        thread::spawn(move || {
            let recorder = Recorder::open_on(disk, Tuning::default()).unwrap();
            drop(recorder.serve(&theirs, &known));
            recorder.close();
        });
        Ok(ours)
    }))
    .unwrap();
    let lifted = |by: &str| Event::Unblocked(Unblocked { at: now(), subject: "uid:7".into(), by: by.into() });
    let told = |event: Event| recorder.append(event).unwrap().wait();
    assert!(told(lifted("ann")).is_err(), "nobody was heard");
    warrants.deposit((0, 1), Deed::of(&lifted("ann")).unwrap()).unwrap();
    assert!(told(lifted("bob")).is_err(), "somebody else was");
    told(lifted("ann")).unwrap();
    assert!(told(lifted("ann")).is_err(), "once");
    told(lifted("")).unwrap();
    // With state beside it, none of it is kept.
    let with = recorder.append_with(vec![StateOp::Put(b"x".to_vec(), Vec::new())], vec![lifted("ann")]);
    assert!(with.unwrap().wait().is_err());
    assert!(recorder.scan(b"x").unwrap().is_empty());
    recorder.close();
    let lines = bench.reader().last(100).unwrap();
    let lifts = lines.iter().filter(|line| format!("{:?}", line.frame).contains("Unblocked"));
    assert_eq!(lifts.count(), 2);
}

#[test]
fn an_enforcer_that_goes_leaves_nothing_open() {
    let bench = Bench::new();
    let (session, entry) = (session_id(), entry_id());
    let line = (bench.connect())().unwrap();
    let mut frames =
        pack(&Ask::Append { state: Vec::new(), events: vec![opened(session)], patience: 0 }).unwrap();
    let intent = intent(session, entry, "ann", Verdict::Allow);
    frames.extend(pack(&Ask::Append { state: Vec::new(), events: vec![intent], patience: 0 }).unwrap());
    std::io::Write::write_all(&mut &line, &frames).unwrap();
    // Until it has answered both: what it has not read when its enforcer goes is not there.
    let (mut said, mut part) = (Frames::default(), [0; 4096]);
    let mut written = 0;
    while written < 2 {
        let read = std::io::Read::read(&mut &line, &mut part).unwrap();
        said.push(&part[..read]);
        while let Some(said) = said.message::<Said>().unwrap() {
            written += if let Said::Written(count) = said { count } else { 0 };
        }
    }
    drop(line);
    // The next enforcer.
    drop(bench.recorder());
    let view = bench.reader().session(session).unwrap().unwrap();
    assert!(matches!(&view.entries[0].ending(), Some(Ending::ByGate(_))), "{view:?}");
}

#[test]
fn a_recorder_that_goes_refuses_who_waits_and_the_next_one_goes_on() {
    let bench = Bench::new();
    // The first takes, and answers nothing.
    let (first, taken) = UnixStream::pair().unwrap();
    let taken = Mutex::new(Some(taken));
    let first = Mutex::new(Some(first));
    let next = bench.connect();
    let recorder = {
        let said = pack(&Said::Opened).unwrap();
        std::io::Write::write_all(&mut taken.lock().unwrap().as_ref().unwrap(), &said).unwrap();
        Recorder::through(Box::new(move || match first.lock().unwrap().take() {
            Some(first) => Ok(first),
            None => next(),
        }))
        .unwrap()
    };
    let session = session_id();
    let waiting = recorder.append(opened(session)).unwrap();
    thread::sleep(Duration::from_millis(50));
    drop(taken.lock().unwrap().take());
    assert!(waiting.wait().is_err(), "whoever waits is told");
    let again = session_id();
    let written = loop {
        match recorder.append_within(Vec::new(), vec![opened(again)], COMMIT_PATIENCE) {
            Ok(durable) => break durable.wait(),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    written.unwrap();
    recorder.append(session_closed(again)).unwrap().wait().unwrap();
    recorder.close();
    let reader = bench.reader();
    assert!(reader.session(session).unwrap().is_none(), "what was refused is not there");
    let gap = reader.last(100).unwrap().into_iter().find_map(|line| match line.frame {
        crate::record::frame::Frame::Event(Event::Interrupted(gap)) => Some(gap),
        _ => None,
    });
    assert!(gap.unwrap().flows >= 1, "that something was refused is");
}

#[test]
fn what_is_no_message_ends_the_line() {
    let bench = Bench::new();
    for bytes in [&[0xff; 64][..], &[1, 0, 0, 0, 0xff], &[0, 0, 0, 0]] {
        let line = (bench.connect())().unwrap();
        std::io::Write::write_all(&mut &line, bytes).unwrap();
        let mut said = Vec::new();
        std::io::Read::read_to_end(&mut &line, &mut said).unwrap();
    }
}

#[test]
fn frames_come_out_as_they_went_in_however_they_are_cut() {
    let asks = [
        Ask::Scan(b"demand/".to_vec()),
        Ask::Append { state: Vec::new(), events: vec![body(entry_id(), &[3; 1000])], patience: 5 },
        Ask::Operations { number: 1, since: Some(-1), limit: 7, within: None },
    ];
    let bytes: Vec<u8> = asks.iter().flat_map(|ask| pack(ask).unwrap()).collect();
    for step in [1, 3, 64, bytes.len()] {
        for at_once in [1, 100, 1 << 16] {
            let (mut frames, mut out) = (Frames::default(), Vec::new());
            for part in bytes.chunks(step) {
                let mut comes = part;
                while !comes.is_empty() {
                    assert!(frames.fill(&mut comes, at_once).unwrap() > 0, "there is always room");
                }
                while let Some(ask) = frames.message::<Ask>().unwrap() {
                    out.push(ask);
                }
            }
            assert_eq!(out, asks, "in steps of {step}, {at_once} bytes at once");
        }
    }
    let mut frames = Frames::default();
    frames.push(&(RECORD_FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
    assert!(frames.message::<Ask>().is_err(), "too long is known before it is there");
    let mut packed = pack(&asks[0]).unwrap();
    assert!(pack_onto(&mut packed, &Ask::Scan(vec![0; RECORD_FRAME_BYTES_MAX])).is_err());
    assert_eq!(packed, pack(&asks[0]).unwrap(), "nothing of what is too long stays behind what is not");
}
