//! What events add up to, told by events made for it.

use super::*;
use crate::operation::{Direction, Sha256};
use crate::record::entry::{
    BodyEnd, Decided, Ending, EntryClosed, Head, SessionClosed, SessionOpened, Voted,
};

const MINUTE: Micros = 60_000_000;

fn intent(at: Micros, target: &str, who: &str, verdict: Verdict, rules: &[&str]) -> (EntryId, Event) {
    let entry = EntryId(uuid::Uuid::now_v7());
    let intent = Intent {
        entry,
        session: SessionId(uuid::Uuid::now_v7()),
        at,
        target: Some(target.into()),
        kind: "http".into(),
        operations: Vec::new(),
        user: None,
        workload: Some(who.into()),
        verdict,
        would: None,
        rules: rules.iter().map(|&rule| rule.to_owned()).collect(),
        reason: String::new(),
        policy: Some(Sha256::of(b"")),
        head: Head::default(),
    };
    (entry, Event::Intent(Box::new(intent)))
}

fn closed(entry: EntryId, at: Micros, masks: &[(&str, u64)]) -> Event {
    Event::EntryClosed(EntryClosed {
        entry,
        at,
        status: Some(200),
        request: BodyEnd::default(),
        response: BodyEnd::default(),
        masks: masks.iter().map(|&(name, count)| (name.to_owned(), count)).collect(),
        ending: Ending::Finished,
        rewrites: Vec::new(),
    })
}

#[test]
fn a_surge_of_masks_names_the_mask_the_target_and_the_subject() {
    let mut tally = Tally::new(Scale::HOUR, 0);
    let mut surges = Vec::new();
    for minute in 0..40 {
        for n in 0..5 {
            let at = minute * MINUTE + n;
            let who = if minute == 39 { "unit:thief.service" } else { "unit:worker.service" };
            let (entry, event) = intent(at, "crm", who, Verdict::Allow, &[]);
            surges.extend(tally.take(&event));
            let values = if minute == 39 { 40 } else { 1 };
            surges.extend(tally.take(&closed(entry, at, &[("cards", values)])));
        }
    }
    assert_eq!(surges.len(), 1, "told once: {surges:?}");
    let view = tally.view(39 * MINUTE + 10);
    let surge = &view.surges[0];
    assert_eq!((surge.kind, surge.target.as_str(), surge.name.as_str()), (Kind::Masked, "crm", "cards"));
    assert_eq!(surge.subject.as_deref(), Some("unit:thief.service"));
    assert_eq!(surge.count, 200, "the whole step, once it is over");
    assert!((4.0..6.0).contains(&surge.expected), "{surge:?}");
    assert!(view.rates.iter().any(|rate| rate.kind == Kind::Masked && rate.surging));
}

#[test]
fn rules_are_counted_by_what_they_decided_and_on_whom() {
    let mut tally = Tally::new(Scale::HOUR, 0);
    for n in 0..3 {
        tally.take(&intent(n, "crm", "uid:7", Verdict::Deny, &["a.cedar#no"]).1);
    }
    tally.take(&intent(9, "crm", "uid:8", Verdict::Allow, &["a.cedar#yes"]).1);
    let rules = tally.view(10).rules;
    assert_eq!((rules[0].rule.as_str(), rules[0].denied, rules[0].allowed), ("a.cedar#no", 3, 0));
    assert_eq!(rules[0].subjects, [("uid:7".to_owned(), 3)]);
    assert_eq!((rules[1].rule.as_str(), rules[1].allowed), ("a.cedar#yes", 1));
}

#[test]
fn holds_are_timed_from_the_asking_to_the_word() {
    let mut tally = Tally::new(Scale::HOUR, 0);
    for (seconds, verdict) in [(10, Verdict::Allow), (20, Verdict::Allow), (900, Verdict::Deny)] {
        let (entry, event) = intent(0, "react", "uid:7", Verdict::Hold, &["a.cedar#models"]);
        tally.take(&event);
        let at = seconds * 1_000_000;
        tally.take(&Event::Decided(Decided { entry, at, verdict, reason: String::new(), policy: None }));
    }
    let demand = crate::operation::DemandId(uuid::Uuid::now_v7());
    let entry = EntryId(uuid::Uuid::now_v7());
    let vote = Voted { demand, entry, at: 1, person: "ada".into(), approve: true, comment: None };
    tally.take(&Event::Voted(vote));
    let approvals = tally.view(1).approvals;
    assert_eq!((approvals.asked, approvals.released, approvals.refused), (3, 2, 1));
    assert_eq!((approvals.median_seconds, approvals.slow_seconds), (Some(20), Some(900)));
    assert_eq!(approvals.voters, [("ada".to_owned(), 1)]);
}

#[test]
fn a_session_is_live_from_its_opening_to_its_end() {
    let mut tally = Tally::new(Scale::HOUR, 0);
    let session = SessionId(uuid::Uuid::now_v7());
    tally.take(&Event::SessionOpened(SessionOpened {
        session,
        at: 5,
        direction: Direction::Outbound,
        peer: "127.0.0.1:4".into(),
        destination: "127.0.0.1:5".into(),
        workload: None,
        guard: None,
        target: Some("crm".into()),
    }));
    assert_eq!(tally.view(6).live.len(), 1);
    tally.take(&Event::SessionClosed(SessionClosed { session, at: 7, entries: 0, ending: Ending::Finished }));
    assert_eq!(tally.view(8).live, []);
}

#[test]
fn names_beyond_the_bound_are_counted_as_left_out() {
    let mut tally = Tally::new(Scale::HOUR, 0);
    for n in 0..SIGNAL_KEYS_MAX + 7 {
        let (entry, event) = intent(1, &format!("target-{n}"), "uid:7", Verdict::Allow, &[]);
        tally.take(&event);
        tally.take(&closed(entry, 1, &[]));
    }
    let view = tally.view(2);
    assert_eq!(view.rates.len(), SIGNAL_KEYS_MAX);
    assert_eq!(view.left_out, 7);
}

#[test]
fn a_week_is_told_in_steps_that_cover_it() {
    let week = 7 * 24 * 60 * MINUTE;
    let scale = Scale::over(week, 168);
    assert!(scale.steps <= 169 && scale.step * Micros::try_from(scale.steps).unwrap() >= week, "{scale:?}");
    assert_eq!(Scale::over(0, 168).steps, 1);
}
