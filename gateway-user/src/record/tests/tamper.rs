//! Somebody edits the store. Verification says which entry and what, readers show nothing that was edited, and the
//! writer refuses to go on.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::record::chain::{
    Checkpoint, META_CHECKPOINT, META_FORMAT, META_HEAD, META_LATENESS, META_STORE, Problem,
};
use crate::record::frame::{Commit, FRAME_HEAD_BYTES, HEADER_BYTES};
use crate::record::index::{Dimension, directory_key, entry_key, key};
use crate::record::read::Reader;
use crate::record::verify::Report;
use crate::record::{DIRECTORY, Recorder};
use crate::store::disk::{DATABASE, Folder};
use crate::store::sim::{Dice, SimDisk, edit_commit, edit_index, edit_meta, edit_state};

/// Ten entries: one commit each for its opening, one for its body, one for its end.
struct Sample {
    disk: SimDisk,
    session: SessionId,
    entries: Vec<EntryId>,
}

fn fill(recorder: &Recorder, count: usize) -> (SessionId, Vec<EntryId>) {
    let session = session_id();
    recorder.append(opened(session)).unwrap().wait().unwrap();
    let entries: Vec<EntryId> = (0..count).map(|_| entry_id()).collect();
    for entry in &entries {
        let both = vec![intent(session, *entry, "ann", Verdict::Allow), responded(*entry)];
        recorder.append_with(Vec::new(), both).unwrap().wait().unwrap();
        recorder.append(body(*entry, format!("the answer to {entry}").as_bytes())).unwrap().wait().unwrap();
        recorder.append(entry_closed(*entry)).unwrap().wait().unwrap();
    }
    recorder.put(b"grant/1", b"used").unwrap().wait().unwrap();
    (session, entries)
}

impl Sample {
    fn new() -> Self {
        let disk = SimDisk::default();
        let recorder = Recorder::open_on(Arc::new(disk.clone()), crate::record::Tuning::default()).unwrap();
        let (session, entries) = fill(&recorder, 10);
        recorder.close();
        let sample = Self { disk, session, entries };
        assert!(sample.verify().is_clean(), "{:?}", sample.verify().first);
        sample
    }

    fn verify(&self) -> Report {
        Reader::open_on(Arc::new(self.disk.clone())).unwrap().verify().unwrap()
    }

    /// The commit that holds the intent of the n-th entry: after the start and the session's opening.
    fn commit_of(&self, entry: usize) -> u64 {
        2 + 3 * entry as u64
    }

    fn blob(&self, number: u64) -> Vec<u8> {
        let mut blob = None;
        edit_commit(&self.disk, number, |before| {
            blob.clone_from(&before);
            before
        });
        blob.unwrap()
    }
}

fn names(report: &Report, entry: EntryId) -> bool {
    report.first.iter().any(|problem: &Problem| problem.to_string().contains(&entry.to_string()))
}

#[test]
fn flipping_any_byte_of_an_entry_names_it() {
    let sample = Sample::new();
    let number = sample.commit_of(4);
    let blob = sample.blob(number);
    for at in (0..blob.len()).filter(|at| at % 3 == 0 || *at < HEADER_BYTES + FRAME_HEAD_BYTES) {
        edit_commit(&sample.disk, number, |before| {
            let mut bytes = before.unwrap();
            bytes[at] ^= 1 << (at % 8);
            Some(bytes)
        });
        let report = sample.verify();
        assert!(!report.is_clean(), "byte {at} of {} was flipped unnoticed", blob.len());
        let in_frames = at >= HEADER_BYTES && at < blob.len() - 32;
        assert!(!in_frames || names(&report, sample.entries[4]), "byte {at}: {:?}", report.first);
        edit_commit(&sample.disk, number, |_| Some(blob.clone()));
    }
    assert!(sample.verify().is_clean());
}

#[test]
fn dropping_a_commit_names_the_entries_that_were_in_it() {
    let sample = Sample::new();
    edit_commit(&sample.disk, sample.commit_of(3), |_| None);
    let report = sample.verify();
    assert!(names(&report, sample.entries[3]), "{:?}", report.first);
    assert!(report.first.iter().any(|problem| problem.what.contains("missing")), "{:?}", report.first);
    assert!(!names(&report, sample.entries[7]), "others are not accused: {:?}", report.first);
}

#[test]
fn swapping_two_commits_names_both() {
    let sample = Sample::new();
    let (one, two) = (sample.blob(sample.commit_of(2)), sample.blob(sample.commit_of(5)));
    edit_commit(&sample.disk, sample.commit_of(2), |_| Some(two));
    edit_commit(&sample.disk, sample.commit_of(5), |_| Some(one));
    let report = sample.verify();
    for entry in [2, 5] {
        assert!(names(&report, sample.entries[entry]), "{entry}: {:?}", report.first);
    }
    assert!(report.first.iter().any(|problem| problem.what.contains("swapped")), "{:?}", report.first);
}

#[test]
fn dropping_or_swapping_events_inside_a_commit_names_the_entry() {
    let sample = Sample::new();
    let number = sample.commit_of(6);
    let blob = sample.blob(number);
    let commit = Commit::parse(&blob).unwrap();
    let lengths: Vec<usize> = commit.frames.iter().map(|f| FRAME_HEAD_BYTES + f.content.len()).collect();
    let (first, second) =
        (HEADER_BYTES..HEADER_BYTES + lengths[0], HEADER_BYTES + lengths[0]..blob.len() - 32);
    let mut swapped = blob[..HEADER_BYTES].to_vec();
    swapped.extend_from_slice(&blob[second.clone()]);
    swapped.extend_from_slice(&blob[first.clone()]);
    swapped.extend_from_slice(&blob[blob.len() - 32..]);
    let mut dropped = blob[..second.start].to_vec();
    dropped[28] = 1;
    dropped.extend_from_slice(&blob[blob.len() - 32..]);
    for edited in [swapped, dropped] {
        edit_commit(&sample.disk, number, |_| Some(edited));
        let report = sample.verify();
        assert!(!report.is_clean());
        let named = report.first.iter().any(|p| p.commit == Some(number));
        assert!(
            named && (names(&report, sample.entries[6]) || names_session(&report, sample.session)),
            "{report:?}"
        );
    }
}

fn names_session(report: &Report, session: SessionId) -> bool {
    report.first.iter().any(|problem| problem.to_string().contains(&session.to_string()))
}

#[test]
fn an_index_that_hides_forges_or_moves_something_is_found() {
    let sample = Sample::new();
    let row = |mut key: Vec<u8>, commit: u64| {
        key.extend_from_slice(&commit.to_be_bytes());
        key
    };
    let commit = sample.commit_of(1);
    let hidden = row(entry_key(sample.entries[1]), commit);
    edit_index(&sample.disk, &hidden, |_| None);
    assert!(names(&sample.verify(), sample.entries[1]));
    edit_index(&sample.disk, &hidden, |_| Some(vec![1]));
    assert!(names(&sample.verify(), sample.entries[1]), "moved");
    edit_index(&sample.disk, &hidden, |_| Some(vec![0]));
    assert!(sample.verify().is_clean());
    let forged = entry_id();
    edit_index(&sample.disk, &row(entry_key(forged), commit), |_| Some(vec![0]));
    assert!(names(&sample.verify(), forged), "forged");
    edit_index(&sample.disk, &row(entry_key(forged), commit), |_| None);
    edit_index(&sample.disk, &row(key(Dimension::Verdict, "deny"), commit), |_| Some(vec![0]));
    assert!(!sample.verify().is_clean(), "a verdict that was never given");
    edit_index(&sample.disk, &row(key(Dimension::Verdict, "deny"), commit), |_| None);
    edit_index(&sample.disk, &directory_key(commit), |_| None);
    assert!(!sample.verify().is_clean(), "a commit hidden from its session");
    let reader = Reader::open_on(Arc::new(sample.disk.clone())).unwrap();
    assert!(reader.session(sample.session).is_err(), "and a reader does not pass over it");
}

#[test]
fn a_grant_edited_behind_the_chain_is_found() {
    let sample = Sample::new();
    edit_state(&sample.disk, b"grant/1", |_| Some(b"free".to_vec()));
    assert!(sample.verify().first[0].what.contains("grant/1"));
    edit_state(&sample.disk, b"grant/1", |_| None);
    assert!(sample.verify().first[0].what.contains("is gone"));
    edit_state(&sample.disk, b"grant/1", |_| Some(b"used".to_vec()));
    assert!(sample.verify().is_clean());
    edit_state(&sample.disk, b"grant/2", |_| Some(b"mine".to_vec()));
    assert!(!sample.verify().is_clean(), "a grant that nobody put there");
}

/// What verification says of the store with this row about the whole of it, which is put back afterwards.
fn with_row(sample: &Sample, name: &str, row: Option<Vec<u8>>) -> Report {
    let mut kept = None;
    edit_meta(&sample.disk, name, |before| {
        kept = before;
        row
    });
    let report = sample.verify();
    edit_meta(&sample.disk, name, |_| kept);
    assert!(sample.verify().is_clean(), "{:?}", sample.verify().first);
    report
}

fn row_of(sample: &Sample, name: &str) -> Vec<u8> {
    let mut row = None;
    edit_meta(&sample.disk, name, |before| {
        row.clone_from(&before);
        before
    });
    row.unwrap()
}

fn says(report: &Report, word: &str) -> bool {
    report.first.iter().any(|problem| problem.what.contains(word))
}

fn encoded(row: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(row).unwrap()
}

#[test]
fn a_checkpoint_that_no_commit_wrote_is_found_wherever_it_lies() {
    let sample = Sample::new();
    let row: Checkpoint = postcard::from_bytes(&row_of(&sample, META_CHECKPOINT)).unwrap();
    let end = Reader::open_on(Arc::new(sample.disk.clone())).unwrap().end().unwrap();
    for number in [0, row.link.number + 1, end - 1, end, end + 1, u64::MAX] {
        let mut edited = row.clone();
        edited.link.number = number;
        let report = with_row(&sample, META_CHECKPOINT, Some(encoded(&edited)));
        assert!(says(&report, "checkpoint"), "{number}: {:?}", report.first);
    }
    let mut edited = row.clone();
    edited.link.written += 1;
    let mut longer = encoded(&row);
    longer.push(0);
    for row in [None, Some(encoded(&edited)), Some(longer), Some(Vec::new())] {
        let report = with_row(&sample, META_CHECKPOINT, row);
        assert!(says(&report, "checkpoint") && report.commits == end, "{:?}", report.first);
    }
}

#[test]
fn the_beginning_of_the_chain_is_no_checkpoint_once_something_was_written() {
    let sample = Sample::new();
    let link = crate::record::chain::Link::first(&row_of(&sample, META_STORE));
    let first = Checkpoint { link, ledger: crate::record::ledger::Ledger::default() };
    let report = with_row(&sample, META_CHECKPOINT, Some(encoded(&first)));
    assert!(says(&report, "checkpoint row lies before the first commit"), "{:?}", report.first);
}

#[test]
fn a_long_record_of_many_starts_accuses_no_row() {
    let disk = SimDisk::default();
    for _ in 0..3 {
        let recorder = Recorder::open_on(Arc::new(disk.clone()), crate::record::Tuning::default()).unwrap();
        fill(&recorder, 100);
        recorder.close();
        let report = Reader::open_on(Arc::new(disk.clone())).unwrap().verify().unwrap();
        assert!(report.is_clean(), "{:?}", report.first);
    }
}

#[test]
fn a_lateness_that_the_commits_do_not_have_is_found() {
    let sample = Sample::new();
    let recorder =
        Recorder::open_on(Arc::new(sample.disk.clone()), crate::record::Tuning::default()).unwrap();
    let Event::SessionOpened(mut late) = opened(session_id()) else { panic!("it opens a session") };
    late.at = now() - 5_000_000;
    recorder.append(Event::SessionOpened(late)).unwrap().wait().unwrap();
    recorder.close();
    let lateness: Micros = postcard::from_bytes(&row_of(&sample, META_LATENESS)).unwrap();
    assert!(lateness >= 5_000_000, "{lateness}");
    for edited in [0, 1, -1, Micros::MIN, lateness - 1, lateness + 1, Micros::MAX] {
        let report = with_row(&sample, META_LATENESS, Some(encoded(&edited)));
        assert!(says(&report, &format!("lateness row says {edited} ")), "{:?}", report.first);
    }
    let mut longer = encoded(&lateness);
    longer.push(7);
    for row in [None, Some(longer)] {
        assert!(says(&with_row(&sample, META_LATENESS, row), "its lateness row"));
    }
}

#[test]
fn an_edited_or_missing_row_about_the_store_is_found_and_one_that_nothing_writes_too() {
    let sample = Sample::new();
    for name in [META_FORMAT, META_STORE, META_HEAD] {
        assert!(says(&with_row(&sample, name, None), &format!("its {name} row")), "{name}");
    }
    let report = with_row(&sample, META_FORMAT, Some(encoded(&1_u32)));
    assert!(says(&report, "its format row says 1"), "{:?}", report.first);
    assert!(
        says(&with_row(&sample, META_FORMAT, Some(vec![0x82, 0])), "its format row"),
        "another spelling of 2"
    );
    assert!(!with_row(&sample, META_STORE, Some(vec![0; 32])).is_clean());
    for name in ["", "Format", "note\u{1b}[2J", "zebra"] {
        let report = with_row(&sample, name, Some(b"1".to_vec()));
        assert!(
            says(&report, &format!("{name:?}")) && !report.first[0].what.contains('\u{1b}'),
            "{report:?}"
        );
    }
}

#[test]
fn a_reader_shows_nothing_that_was_edited() {
    let sample = Sample::new();
    edit_commit(&sample.disk, sample.commit_of(0), |before| {
        let mut bytes = before.unwrap();
        let at = bytes.len() - 60;
        bytes[at] ^= 1;
        Some(bytes)
    });
    let reader = Reader::open_on(Arc::new(sample.disk.clone())).unwrap();
    let refused = reader.entry(sample.entries[0]).unwrap_err().to_string();
    assert!(refused.contains("commit 2") && refused.contains(&sample.entries[0].to_string()), "{refused}");
    assert!(reader.entry(sample.entries[1]).is_ok());
}

fn on_files() -> (tempfile::TempDir, Vec<EntryId>) {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (_, entries) = fill(&recorder, 5);
    recorder.close();
    (state, entries)
}

fn bytes_of(state: &Path) -> Vec<u8> {
    std::fs::read(state.join(DIRECTORY).join(DATABASE)).unwrap()
}

#[test]
fn one_flipped_byte_of_a_body_names_the_entry() {
    let (state, entries) = on_files();
    let segment = state.path().join(DIRECTORY).join("bodies/00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let reader = Reader::open(state.path()).unwrap();
    let report = reader.verify().unwrap();
    assert_eq!(report.problems, 1);
    assert!(
        names(&report, entries[4]) && report.first[0].what.contains("00000001.seg"),
        "{:?}",
        report.first
    );
    let view = reader.entry(entries[4]).unwrap().unwrap();
    assert!(reader.body(&view, Side::Response).is_err(), "and nobody is shown the edited bytes");
    std::fs::remove_file(&segment).unwrap();
    let report = Reader::open(state.path()).unwrap().verify().unwrap();
    assert!(report.first[0].what.contains("missing"), "{:?}", report.first);
}

#[test]
fn a_store_whose_end_does_not_verify_is_refused_and_not_touched() {
    let (state, _) = on_files();
    let folder = Folder::at(&state.path().join(DIRECTORY));
    let last = Reader::open(state.path()).unwrap().end().unwrap() - 1;
    let mut kept = None;
    edit_commit(&folder, last, |before| {
        kept = before;
        None
    });
    let before = bytes_of(state.path());
    let refused = Recorder::open(state.path()).unwrap_err().to_string();
    assert!(refused.contains("damaged") && refused.contains(&format!("commit {last}")), "{refused}");
    assert_eq!(bytes_of(state.path()), before, "a damaged store was written to");
    edit_commit(&folder, last, |_| kept);
    Recorder::open(state.path()).unwrap();
}

#[test]
fn damaged_database_pages_end_in_a_clear_word_and_never_in_a_panic() {
    let (state, _) = on_files();
    let path = state.path().join(DIRECTORY).join(DATABASE);
    let sound = bytes_of(state.path());
    let mut dice = Dice(0x7469_6465);
    let used: Vec<usize> = (4096..sound.len()).filter(|at| sound[*at] != 0).collect();
    let (mut clean, mut damaged) = (0, 0);
    for round in 0..120 {
        let mut bytes = sound.clone();
        // The header, then pages that were ever written; most of the file is empty.
        let at =
            if round < 20 { dice.roll(512) as usize } else { used[dice.roll(used.len() as u64) as usize] };
        let length = if round % 2 == 0 { 1 } else { 512.min(bytes.len() - at) };
        for byte in &mut bytes[at..at + length] {
            *byte ^= 1 << dice.roll(8);
        }
        std::fs::write(&path, &bytes).unwrap();
        match Reader::open(state.path()).and_then(|reader| reader.verify()) {
            Ok(report) if report.is_clean() => clean += 1,
            Ok(report) => {
                damaged += 1;
                assert!(!report.first[0].what.is_empty());
            }
            Err(cause) => {
                damaged += 1;
                assert!(cause.to_string().len() > 20, "{cause}");
            }
        }
        if let Err(refused) = Recorder::open(state.path()) {
            assert!(!refused.to_string().is_empty());
            assert_eq!(
                bytes_of(state.path()),
                bytes,
                "round {round}: a damaged store was written to: {refused}"
            );
        }
    }
    assert!(clean + damaged == 120 && damaged > 10, "clean {clean}, damaged {damaged}");
    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let cut = Reader::open(state.path()).and_then(|reader| reader.verify());
    assert!(cut.map_or(true, |report| !report.is_clean()), "half a file is not clean");
}
