//! Reading beside the writer: every filter, in every combination, finds what it should and nothing else.

use super::*;
use crate::operation::Workload;
use crate::record::Recorder;
use crate::record::entry::{Decided, Voted};
use crate::record::frame::Frame;
use crate::record::index;
use crate::record::read::{Filter, Reader, Summary};

fn workload(unit: &str) -> Workload {
    Workload {
        pid: 7,
        started: 1,
        uid: 1000,
        login_uid: None,
        command: "python3".into(),
        cgroup: None,
        unit: Some(unit.into()),
        container: None,
        image: None,
        pod: None,
        executable: None,
        parents: Vec::new(),
    }
}

struct Written {
    state: tempfile::TempDir,
    recorder: Recorder,
    sessions: Vec<SessionId>,
    times: Vec<Micros>,
}

const USERS: [&str; 3] = ["ann", "bob", "cleo"];
const VERDICTS: [Verdict; 4] = [Verdict::Allow, Verdict::Deny, Verdict::Hold, Verdict::Refuse];

/// 48 sessions of two entries; the second entry always belongs to ann and is allowed.
fn write() -> Written {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (mut sessions, mut times) = (Vec::new(), Vec::new());
    for number in 0..48_i64 {
        let (session, at) = (session_id(), 1_000_000_000 + number * 1_000_000);
        let Event::SessionOpened(mut start) = opened(session) else { unreachable!() };
        start.at = at;
        start.workload = Some(workload(&format!("unit-{}.service", number % 2)));
        let number = number as usize;
        let mut events = vec![Event::SessionOpened(start)];
        for (user, verdict) in [(USERS[number % 3], VERDICTS[number % 4]), ("ann", Verdict::Allow)] {
            let Event::Intent(mut asked) = intent(session, entry_id(), user, verdict) else { unreachable!() };
            asked.at = at;
            asked.workload = Some(format!("unit:unit-{}.service", number % 2));
            asked.target = Some(["react", "crm"][number / 24].into());
            asked.kind = ["http", "open"][usize::from(number % 8 == 7)].into();
            events.push(Event::Intent(asked));
        }
        let durable = recorder.append_with(Vec::new(), events).unwrap();
        if number.is_multiple_of(5) {
            durable.wait().unwrap();
        } else {
            drop(durable);
        }
        sessions.push(session);
        times.push(at);
    }
    recorder.append(session_closed(sessions[47])).unwrap().wait().unwrap();
    Written { state, recorder, sessions, times }
}

fn all() -> Filter {
    Filter { limit: 1000, ..Filter::default() }
}

#[test]
fn every_combination_of_filters_finds_exactly_what_matches() {
    let written = write();
    let reader = Reader::open(written.state.path()).unwrap();
    let options = |some: &[&str]| {
        let some = some.iter().map(|text| Some((*text).to_owned()));
        std::iter::once(None).chain(some).collect::<Vec<_>>()
    };
    let mut cases = 0;
    for user in options(&["ann", "user:corp/bob", "nobody"]) {
        for workload in options(&["unit-1.service", "unit:unit-0.service"]) {
            for target in options(&["crm"]) {
                for verdict in [None, Some(Verdict::Deny), Some(Verdict::Allow)] {
                    for (since, until) in
                        [(None, None), (Some(10), None), (None, Some(40)), (Some(20), Some(30))]
                    {
                        let filter = Filter {
                            user: user.clone(),
                            workload: workload.clone(),
                            target: target.clone(),
                            verdict,
                            since: since.map(|at: usize| written.times[at]),
                            until: until.map(|at: usize| written.times[at]),
                            ..all()
                        };
                        let found: Vec<SessionId> =
                            reader.list(&filter).unwrap().iter().map(|s| s.opened.session).collect();
                        assert_eq!(found, expected(&written, &filter), "{filter:?}");
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 4 * 3 * 2 * 3 * 4);
}

/// The same question, answered by the pattern in which the sample was written.
fn expected(written: &Written, filter: &Filter) -> Vec<SessionId> {
    let user_is = |name: &str| {
        filter.user.as_ref().is_none_or(|asked| asked == name || *asked == format!("user:corp/{name}"))
    };
    let matches = |number: usize| {
        let workload = format!("unit-{}.service", number % 2);
        let target = ["react", "crm"][number / 24];
        let at = written.times[number];
        let entries = [(USERS[number % 3], VERDICTS[number % 4]), ("ann", Verdict::Allow)];
        filter.workload.as_ref().is_none_or(|asked| asked.ends_with(&workload))
            && filter.target.as_ref().is_none_or(|asked| asked == target)
            && filter.since.is_none_or(|since| at >= since)
            && filter.until.is_none_or(|until| at < until)
            && entries
                .iter()
                .any(|(user, verdict)| user_is(user) && filter.verdict.is_none_or(|asked| asked == *verdict))
    };
    (0..48).rev().filter(|number| matches(*number)).map(|number| written.sessions[number]).collect()
}

#[test]
fn the_limit_keeps_the_newest_and_kinds_are_told_apart() {
    let written = write();
    let reader = Reader::open(written.state.path()).unwrap();
    let found = reader.list(&Filter { limit: 3, ..Filter::default() }).unwrap();
    let ids: Vec<SessionId> = found.iter().map(|found| found.opened.session).collect();
    assert_eq!(ids, [written.sessions[47], written.sessions[46], written.sessions[45]]);
    let open = reader.list(&Filter { kind: Some("open".into()), ..all() }).unwrap();
    assert_eq!(open.len(), 6);
    assert!(reader.list(&Filter { kind: Some("grpc".into()), ..all() }).unwrap().is_empty());
    let Summary { user, workload_key, entries, verdicts, closed, .. } = &found[0];
    assert_eq!(user.as_deref(), Some("user:corp/cleo"));
    assert_eq!(workload_key.as_deref(), Some("unit:unit-1.service"));
    assert_eq!((*entries, verdicts["refuse"], verdicts["allow"]), (2, 1, 1));
    assert!(closed.is_some() && found[1].closed.is_none());
}

#[test]
fn an_entry_shows_its_whole_story_and_nothing_of_others() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (session, held, other) = (session_id(), entry_id(), entry_id());
    let long = vec![b'x'; 60_000];
    let vote = Voted {
        demand: crate::operation::DemandId::now(),
        entry: held,
        at: now(),
        person: "Ann".into(),
        approve: true,
        comment: None,
    };
    let released =
        Decided { entry: held, at: now(), verdict: Verdict::Allow, reason: "by Ann".into(), policy: None };
    let events = [
        opened(session),
        intent(session, held, "bob", Verdict::Hold),
        intent(session, other, "bob", Verdict::Allow),
        Event::Voted(vote.clone()),
        Event::Decided(released),
        responded(held),
        body(other, b"other"),
        body(held, &long),
        body(held, b"tail"),
        entry_closed(held),
        Event::Voted(vote),
    ];
    for event in events {
        recorder.append(event).unwrap().wait().unwrap();
    }
    let reader = Reader::open(state.path()).unwrap();
    let view = reader.entry(held).unwrap().unwrap();
    assert_eq!((view.votes.len(), view.decided.len(), view.responded.len()), (2, 1, 1));
    let bytes = reader.body(&view, Side::Response).unwrap();
    assert_eq!((bytes.len(), &bytes[60_000..]), (60_004, b"tail".as_slice()));
    assert!(reader.body(&view, Side::Request).unwrap().is_empty());
    assert!(view.closed.is_some() && reader.entry(other).unwrap().unwrap().closed.is_none());
    assert!(reader.entry(entry_id()).unwrap().is_none());
    let whole = reader.session(session).unwrap().unwrap();
    assert_eq!(whole.entries.len(), 2);
    assert_eq!(whole.entries[0], view);
    let by_release = Filter { user: Some("bob".into()), verdict: Some(Verdict::Allow), ..all() };
    assert_eq!(reader.list(&by_release).unwrap().len(), 1);
    assert_eq!(whole.summary.verdicts, [("allow", 2), ("hold", 1)].into());
}

#[test]
fn a_reader_beside_the_writer_follows_each_commit_once() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let reader = Reader::open(state.path()).unwrap();
    assert!(!reader.is_recovered());
    let mut next = reader.end().unwrap();
    assert!(reader.follow(next).unwrap().is_none());
    let session = session_id();
    recorder.append(opened(session)).unwrap().wait().unwrap();
    recorder.append(session_closed(session)).unwrap().wait().unwrap();
    let mut seen = Vec::new();
    while let Some((lines, after)) = reader.follow(next).unwrap() {
        next = after;
        seen.extend(lines);
    }
    assert_eq!(seen.len(), 2);
    assert!(matches!(seen[1].frame, Frame::Event(Event::SessionClosed(_))));
    assert_eq!(reader.last(2).unwrap(), seen);
}

#[test]
fn a_search_reads_as_many_rows_as_the_rarest_value_has() {
    let written = write();
    let reader = Reader::open(written.state.path()).unwrap();
    let snapshot = reader.store.snapshot().unwrap();
    let values = index::values(&snapshot, index::Dimension::User, 10).unwrap();
    assert_eq!(values, ["user:corp/ann", "user:corp/bob", "user:corp/cleo"]);
    assert_eq!(index::values(&snapshot, index::Dimension::User, 2).unwrap().len(), 2);
    let long = "x".repeat(5000);
    assert!(index::key(index::Dimension::User, &long).len() < 100, "a long name stands as its digest");
    drop(written.recorder);
}

#[test]
fn pages_that_follow_each_other_are_the_whole_list_whatever_their_size() {
    use std::collections::BTreeSet;
    let written = write();
    let reader = Reader::open(written.state.path()).unwrap();
    let filters = [
        all(),
        Filter { user: Some("ann".into()), ..all() },
        Filter { verdict: Some(Verdict::Deny), target: Some("crm".into()), ..all() },
        Filter { since: Some(written.times[9]), until: Some(written.times[30]), ..all() },
    ];
    for filter in filters {
        let ids = |list: Vec<Summary>| list.into_iter().map(|one| one.opened.session).collect::<Vec<_>>();
        let whole: BTreeSet<SessionId> = ids(reader.list(&filter).unwrap()).into_iter().collect();
        let times = [std::time::Duration::MAX, std::time::Duration::ZERO];
        for (limit, time) in [1, 7, 1000].into_iter().flat_map(|limit| times.map(|time| (limit, time))) {
            let (mut found, mut before, mut pages) = (BTreeSet::new(), None, 0);
            loop {
                let filter = Filter { limit, ..filter.clone() };
                let page = reader.page(&filter, before, time).unwrap();
                assert!(page.sessions.len() <= limit, "{filter:?}");
                assert!(
                    page.in_time <= time.is_zero(),
                    "where there is time it is the limit that ends a page"
                );
                assert!(page.sessions.len() <= 1 || !time.is_zero(), "in no time one is found");
                found.extend(ids(page.sessions));
                pages += 1;
                let Some(next) = page.next else { break };
                assert_eq!(next.to_string().parse(), Ok(next));
                assert_ne!(before.replace(next), Some(next), "it goes on");
            }
            assert_eq!(found, whole, "{filter:?} by {limit}");
            if !time.is_zero() {
                assert_eq!(pages > 1, whole.len() > limit, "{filter:?} by {limit}");
            }
        }
    }
    for wrong in ["", "1", "1.", ".1", "1.2.3", "-1.0"] {
        assert!(wrong.parse::<crate::record::list::Cursor>().is_err(), "{wrong}");
    }
}

#[test]
fn a_name_finds_the_users_of_every_provider_and_no_other_name_that_ends_like_it() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let mut wanted = Vec::new();
    for (provider, subject) in [
        ("corp", "ann"),
        ("x", "ann"),
        ("club", "ann"),
        ("corp", "joann"),
        ("corp", "x/ann"),
        ("club", "bob"),
    ] {
        let session = session_id();
        let Event::Intent(mut asked) = intent(session, entry_id(), subject, Verdict::Allow) else { panic!() };
        asked.user.as_mut().unwrap().provider = provider.into();
        recorder.append_all(vec![opened(session), Event::Intent(asked)]).unwrap().wait().unwrap();
        wanted.extend((subject == "ann").then_some(session));
    }
    let reader = Reader::open(state.path()).unwrap();
    let found = reader.list(&Filter { user: Some("ann".into()), ..all() }).unwrap();
    let found: Vec<SessionId> = found.iter().rev().map(|found| found.opened.session).collect();
    assert_eq!(found, wanted);
}

#[test]
fn a_session_in_one_line_says_what_is_in_it_while_it_is_open_and_when_it_is_over() {
    let state = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(state.path()).unwrap();
    let (session, held) = (session_id(), entry_id());
    let line = || {
        let reader = Reader::open(state.path()).unwrap();
        let all = reader.list(&all()).unwrap();
        let one = all.into_iter().find(|one| one.opened.session == session).unwrap();
        assert_eq!(reader.session(session).unwrap().unwrap().summary, one);
        let user = one.user.clone();
        (one.entries, one.verdicts.into_iter().collect::<Vec<_>>(), user, one.closed.is_some())
    };
    let write = |event: Event| recorder.append(event).unwrap().wait().unwrap();
    write(opened(session));
    assert_eq!(line(), (0, vec![], None, false));
    write(intent(session, held, "ann", Verdict::Hold));
    for verdict in [Verdict::Allow, Verdict::Deny, Verdict::Deny] {
        let entry = entry_id();
        recorder
            .append_all(vec![intent(session, entry, "bob", verdict), entry_closed(entry)])
            .unwrap()
            .wait()
            .unwrap();
    }
    let ann = Some("user:corp/ann".to_owned());
    assert_eq!(line(), (4, vec![("allow", 1), ("deny", 2), ("hold", 1)], ann.clone(), false));
    let decided =
        Decided { entry: held, at: now(), verdict: Verdict::Allow, reason: String::new(), policy: None };
    write(Event::Decided(decided));
    // The flow ends before what it asked for does.
    write(session_closed(session));
    let whole = vec![("allow", 2), ("deny", 2), ("hold", 1)];
    assert_eq!(line(), (4, whole.clone(), ann.clone(), true));
    write(entry_closed(held));
    assert_eq!(line(), (4, whole.clone(), ann.clone(), true));
    recorder.close();
    drop(Recorder::open(state.path()).unwrap());
    assert_eq!(line(), (4, whole, ann, true));
    assert!(Reader::open(state.path()).unwrap().verify().unwrap().is_clean());
}
