//! Going through sessions: what a walk passes, what a search finds, and what it says it did not look at.

use std::ops::ControlFlow;
use std::time::Duration;

use super::*;
use crate::record::read::{Filter, Reader};
use crate::record::search::{Looked, Match, Stopped, Wanted};
use crate::record::walk::Passed;
use crate::record::{RecordError, Recorder};

struct Written {
    state: tempfile::TempDir,
    recorder: Recorder,
}

/// `count` sessions of one operation each; the answer's body is `text` and its number.
fn write(count: usize, text: &str) -> Written {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    for number in 0..count {
        let (session, entry) = (session_id(), entry_id());
        let verdict = if number.is_multiple_of(2) { Verdict::Allow } else { Verdict::Deny };
        let events = vec![
            opened(session),
            intent(session, entry, "ann", verdict),
            responded(entry),
            body(entry, format!("{text} {number}!").as_bytes()),
            entry_closed(entry),
            session_closed(session),
        ];
        recorder.append_with(Vec::new(), events).unwrap().wait().unwrap();
    }
    Written { state, recorder }
}

fn wanted(text: &str) -> Wanted {
    Wanted {
        text: text.into(),
        exact: false,
        filter: Filter::default(),
        matches: 100,
        bytes: u64::MAX,
        time: Duration::from_secs(60),
    }
}

fn search(written: &Written, wanted: &Wanted) -> (Vec<Match>, Looked) {
    let reader = Reader::open(written.state.path()).unwrap();
    let mut found = Vec::new();
    let looked = reader
        .search(wanted, |place| {
            found.push(place.clone());
            Ok::<_, RecordError>(())
        })
        .unwrap();
    (found, looked)
}

#[test]
fn text_is_found_in_heads_and_bodies_with_what_stands_around_it() {
    let written = write(3, "The Grüße are here and here is run");
    let (found, looked) = search(&written, &wanted("HERE"));
    assert_eq!(found.len(), 3);
    let first = &found[0];
    assert_eq!((first.place, first.times, first.found.as_str()), ("response body", 2, "here"));
    assert_eq!((first.before.as_str(), first.after.as_str()), ("The Grüße are ", " and here is run 2!"));
    assert_eq!((looked.entries, looked.stopped, looked.sessions_left), (3, None, 0));
    let (found, _) = search(&written, &wanted("react.EXAMPLE"));
    assert_eq!((found[0].place, found[0].before.as_str()), ("request head", "GET /v1/runs HTTP/1.1\nHost: "));
    assert_eq!(search(&written, &Wanted { exact: true, ..wanted("HERE") }).0, []);
    assert_eq!(search(&written, &wanted("nowhere")).0, []);
}

#[test]
fn a_search_looks_only_at_operations_that_match_its_filter() {
    let written = write(6, "text");
    let denied = Filter { verdict: Some(Verdict::Deny), ..Filter::default() };
    let (found, looked) = search(&written, &Wanted { filter: denied, ..wanted("text") });
    assert_eq!((found.len(), looked.entries), (3, 3));
    assert!(found.iter().all(|place| place.verdict == Verdict::Deny));
    let nobody = Filter { user: Some("bob".into()), ..Filter::default() };
    assert_eq!(search(&written, &Wanted { filter: nobody, ..wanted("text") }).1.entries, 0);
}

#[test]
fn a_search_stops_at_each_of_its_bounds_and_says_what_it_did_not_look_at() {
    let written = write(10, "text");
    let (found, looked) = search(&written, &Wanted { matches: 4, ..wanted("text") });
    assert_eq!((found.len(), looked.stopped), (4, Some(Stopped::Matches)));
    assert_eq!((looked.entries, looked.sessions_left), (4, 7), "the fourth may hold more");
    let (_, looked) = search(&written, &Wanted { bytes: 100, ..wanted("text") });
    assert_eq!(looked.stopped, Some(Stopped::Bytes));
    assert!((100..300).contains(&looked.bytes) && looked.sessions_left > 0, "{looked:?}");
    let (found, looked) = search(&written, &Wanted { time: Duration::ZERO, ..wanted("text") });
    assert_eq!((found.len(), looked.stopped, looked.entries), (0, Some(Stopped::Time), 0));
}

#[test]
fn a_body_that_cannot_be_read_is_counted_and_the_search_goes_on() {
    let written = write(2, "text");
    let segment = written.state.path().join("record/bodies/00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (found, looked) = search(&written, &wanted("text"));
    assert_eq!((found.len(), looked.unreadable_bodies), (1, 1));
    assert!(looked.unreadable.is_some());
}

#[test]
fn a_walk_passes_a_session_in_order_and_stops_when_told() {
    let written = write(0, "");
    let (session, entries) = (session_id(), [entry_id(), entry_id()]);
    let mut events = vec![opened(session)];
    events.extend(entries.map(|entry| intent(session, entry, "ann", Verdict::Allow)));
    events.push(entry_closed(entries[1]));
    written.recorder.append_with(Vec::new(), events).unwrap().wait().unwrap();
    let reader = Reader::open(written.state.path()).unwrap();
    let walk = |most: usize| {
        let mut passed = Vec::new();
        let there = reader.walk(session, |next| {
            passed.push(match next {
                Passed::Opened(_) => "opened".to_owned(),
                Passed::Entry(entry) => format!("{} {}", entry.intent.entry, entry.closed.is_some()),
                Passed::Closed(_) => "closed".to_owned(),
            });
            let enough = passed.len() >= most;
            Ok::<_, RecordError>(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert!(there.unwrap());
        passed
    };
    let whole = ["opened".to_owned(), format!("{} true", entries[1]), format!("{} false", entries[0])];
    assert_eq!(walk(9), whole);
    assert_eq!(walk(1), whole[..1]);
    assert!(!reader.walk(session_id(), |_| Ok::<_, RecordError>(ControlFlow::Continue(()))).unwrap());
}

#[test]
fn sessions_are_listed_newest_first_and_no_more_than_asked_for() {
    let written = write(5, "text");
    let reader = Reader::open(written.state.path()).unwrap();
    let (all, more) = reader.sessions_with(&Filter::default(), 100).unwrap();
    assert!(all.len() == 5 && !more && all.is_sorted_by(|one, next| one > next));
    let (some, more) = reader.sessions_with(&Filter::default(), 3).unwrap();
    assert_eq!((some.as_slice(), more), (&all[..3], true));
    let later = Filter { since: Some(now() + 3_600_000_000), ..Filter::default() };
    assert_eq!(reader.sessions_with(&later, 100).unwrap(), (Vec::new(), false));
}
