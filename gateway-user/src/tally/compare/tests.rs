//! What the comparison of both counts promises: what is equal is no gap, and what is not is named, whichever side has more.

use std::net::SocketAddr;

use super::*;

const TAKER: u64 = 7 << 32 | 4242;
const BASE: Lane = Lane { taker: 0, row: 1, guard: 0, way: Way::Outbound };
const MINE: Lane = Lane { taker: TAKER, ..BASE };

fn names() -> Names {
    Names {
        rows: BTreeMap::from([(1, "crm".to_owned())]),
        guards: BTreeMap::from([(2, "agents".to_owned())]),
        ..Names::default()
    }
}

/// Three flows that came, of which two have ended.
fn seen() -> FlowsSeen {
    let base =
        Counted { dialled: 4, never_came: 1, came: 3, came_recorded: 3, taken: 3, ..Counted::default() };
    let mine = Counted { taken: 3, ended: 2, read: 100, written: 200, unread: 5, ..Counted::default() };
    let lanes = BTreeMap::from([(BASE, base), (MINE, mine)]);
    FlowsSeen { later: lanes.clone(), lanes, turn: 7, ..FlowsSeen::default() }
}

fn account() -> Account {
    let refused = BTreeMap::from([("no room".to_owned(), 1)]);
    vec![(Some(MINE), Told { taken: 3, ended: 2, recorded: 1, refused, read: 100, written: 200 })]
}

fn change(seen: &mut FlowsSeen, lane: Lane, change: impl Fn(&mut Counted)) {
    for lanes in [&mut seen.lanes, &mut seen.later] {
        change(lanes.entry(lane).or_default());
    }
}

fn gaps(seen: &FlowsSeen, told: &Account) -> Vec<(Why, u64, u64)> {
    let found = compare(seen, Some((told, told)), &names());
    let (flows, bytes) = (found.unexplained_flows, found.unexplained_bytes);
    assert_eq!(flows, found.gaps.iter().map(|gap| gap.flows).sum::<u64>());
    assert_eq!(bytes, found.gaps.iter().map(|gap| gap.bytes).sum::<u64>());
    found.gaps.iter().map(|gap| (gap.why, gap.flows, gap.bytes)).collect()
}

#[test]
fn what_both_counted_alike_is_no_gap_and_everything_else_has_its_name() {
    let found = compare(&seen(), Some((&account(), &account())), &names());
    assert!(found.is_whole() && found.compared, "{found:?}");
    let flows = &found.lanes[0];
    assert_eq!((flows.target.as_deref(), flows.guard.as_deref()), (Some("crm"), None));
    assert_eq!((flows.dialled, flows.never_came, flows.came, flows.waiting), (4, 1, 3, 0));
    assert_eq!((flows.taken, flows.open, flows.recorded, flows.refused["no room"]), (3, 1, 1, 1));
    assert_eq!((flows.read, flows.written, flows.unread, flows.earlier), (100, 200, 5, 0));
}

#[test]
fn what_the_kernel_gave_and_the_enforcer_does_not_know_is_a_gap() {
    let mut more = seen();
    change(&mut more, BASE, |base| base.taken += 1);
    change(&mut more, BASE, |base| base.came += 1);
    change(&mut more, BASE, |base| base.came_recorded += 1);
    change(&mut more, BASE, |base| base.dialled += 1);
    change(&mut more, MINE, |mine| mine.taken += 1);
    assert_eq!(gaps(&more, &account()), [(Why::NotRecorded, 1, 0)]);
    let mut more = seen();
    change(&mut more, MINE, |mine| mine.read += 17);
    assert_eq!(gaps(&more, &account()), [(Why::NotRecorded, 0, 17)]);
    let found = compare(&more, Some((&account(), &account())), &names());
    assert_eq!(found.gaps[0].target.as_deref(), Some("crm"));
}

#[test]
fn what_the_enforcer_says_and_the_kernel_did_not_count_is_a_gap() {
    let mut less = seen();
    change(&mut less, MINE, |mine| mine.ended -= 1);
    change(&mut less, MINE, |mine| mine.written -= 3);
    assert_eq!(gaps(&less, &account()), [(Why::NotCounted, 1, 3)]);
    let mut told = account();
    told.push((None, Told { taken: 2, read: 9, ..Told::default() }));
    assert_eq!(gaps(&seen(), &told), [(Why::NotCounted, 2, 9)]);
}

#[test]
fn a_gap_one_way_does_not_hide_in_one_the_other_way() {
    let mut both = seen();
    change(&mut both, MINE, |mine| mine.read += 10);
    change(&mut both, MINE, |mine| mine.written -= 10);
    assert_eq!(gaps(&both, &account()), [(Why::NotRecorded, 0, 10), (Why::NotCounted, 0, 10)]);
}

#[test]
fn counters_that_wrap_are_compared_as_if_they_did_not() {
    let mut wrapped = seen();
    change(&mut wrapped, MINE, |mine| mine.read = 4);
    let mut told = account();
    told[0].1.read = u64::MAX - 5;
    assert_eq!(gaps(&wrapped, &told), [(Why::NotRecorded, 0, 10)]);
    told[0].1.read = 4;
    change(&mut wrapped, BASE, |base| base.dialled = 1);
    change(&mut wrapped, BASE, |base| base.never_came = u64::MAX - 1);
    assert_eq!(gaps(&wrapped, &told), []);
}

#[test]
fn what_went_on_between_two_looks_is_no_gap() {
    let (before, mut after) = (account(), account());
    let mut moving = seen();
    for (lane, more) in [(BASE, 5), (MINE, 5)] {
        let counts = moving.later.get_mut(&lane).unwrap();
        counts.taken += more;
        counts.came += more;
        counts.came_recorded += more;
        counts.dialled += more;
    }
    after[0].1.taken += 5;
    moving.dialling.insert(BASE, 2);
    let found = compare(&moving, Some((&before, &after)), &names());
    assert_eq!(found.gaps, [], "{found:?}");
}

#[test]
fn flows_of_an_enforcer_before_this_one_are_not_compared_with_it() {
    let mut restarted = seen();
    let old = Lane { taker: 6 << 32 | 99, ..BASE };
    change(&mut restarted, old, |old| old.ended = 1);
    change(&mut restarted, BASE, |base| base.taken += 10);
    change(&mut restarted, BASE, |base| base.came += 10);
    change(&mut restarted, BASE, |base| base.came_recorded += 10);
    change(&mut restarted, BASE, |base| base.dialled += 10);
    let found = compare(&restarted, Some((&account(), &account())), &names());
    assert!(found.is_whole(), "{found:?}");
    assert_eq!((found.lanes[0].earlier, found.lanes[0].taken), (10, 3));
    assert_eq!(gaps(&restarted, &Vec::new()), [(Why::NotRecorded, 3, 300)], "but those of its own turn are");
}

#[test]
fn what_was_dialled_comes_or_ends_or_is_under_way_and_what_came_is_taken_or_ends() {
    let mut astray = seen();
    change(&mut astray, BASE, |base| base.dialled += 2);
    assert_eq!(gaps(&astray, &account()), [(Why::Astray, 2, 0)]);
    astray.dialling.insert(BASE, 2);
    assert_eq!(gaps(&astray, &account()), []);
    astray.dialling.insert(BASE, 3);
    assert_eq!(gaps(&astray, &account()), [(Why::Undialled, 1, 0)]);
    let mut waiting = seen();
    change(&mut waiting, BASE, |base| base.came += 1);
    assert_eq!(gaps(&waiting, &account()), [(Why::NotTaken, 1, 0)]);
    change(&mut waiting, BASE, |base| base.untaken += 1);
    assert_eq!(gaps(&waiting, &account()), []);
}

#[test]
fn a_queue_that_moves_is_no_gap_and_one_that_stands_is() {
    let mut waiting = seen();
    change(&mut waiting, BASE, |base| base.came += 4);
    let look = |seen: &FlowsSeen, told: &Account| compare(seen, Some((told, told)), &names());
    let first = look(&waiting, &account());
    assert_eq!(first.still(look(&waiting, &account())).unexplained_flows, 4);
    let mut told = account();
    told[0].1.taken += 1;
    for lane in [BASE, MINE] {
        change(&mut waiting, lane, |counts| counts.taken += 1);
    }
    change(&mut waiting, BASE, |base| base.came += 1);
    assert_eq!(first.still(look(&waiting, &told)).gaps, []);
}

#[test]
fn only_what_stays_a_gap_is_one() {
    let mut seen = seen();
    let look = |seen: &FlowsSeen| compare(seen, Some((&account(), &account())), &names());
    change(&mut seen, MINE, |mine| mine.read += 9);
    let first = look(&seen);
    change(&mut seen, MINE, |mine| mine.read -= 4);
    assert_eq!(first.still(look(&seen)).unexplained_bytes, 5);
    change(&mut seen, MINE, |mine| mine.read -= 5);
    assert!(first.still(look(&seen)).is_whole());
}

#[test]
fn who_went_past_is_named_with_the_target_and_the_guard() {
    let past = Lane { guard: 2, way: Way::Past, ..BASE };
    let mut bypassed = seen();
    change(&mut bypassed, past, |past| {
        (past.dialled, past.came, past.ended, past.read, past.written) = (1, 1, 1, 30, 12);
    });
    bypassed.passed.push(Passed {
        lane: past,
        to: SocketAddr::from(([10, 0, 0, 1], 443)),
        pid: 77,
        command: "curl".into(),
        uid: 1000,
        cgroup: None,
        established: true,
        ended: true,
        read: 30,
        written: 12,
    });
    // Without an enforcer, too.
    for told in [Some((&account(), &account())), None] {
        let found = compare(&bypassed, told, &names());
        let gap = &found.gaps[0];
        assert_eq!((found.gaps.len(), gap.why, gap.flows, gap.bytes), (1, Why::PastTheHook, 1, 42));
        assert_eq!((gap.target.as_deref(), gap.guard.as_deref()), (Some("crm"), Some("agents")));
        let process = &gap.processes[0];
        assert_eq!(
            (process.pid, process.uid, process.to.as_str(), process.bytes),
            (77, 1000, "10.0.0.1:443", Some(42))
        );
        assert_eq!(found.compared, told.is_some());
    }
}

#[test]
fn what_another_process_served_is_a_gap_and_so_is_what_found_no_room() {
    let mut served = seen();
    change(&mut served, BASE, |base| {
        base.came += 1;
        base.ended += 1;
        base.read += 20;
    });
    assert_eq!(gaps(&served, &account()), [(Why::ServedByAnother, 1, 20)]);
    let full = FlowsSeen { uncounted: 1, ..seen() };
    assert!(!compare(&full, Some((&account(), &account())), &names()).is_whole());
}
