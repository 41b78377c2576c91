//! What the record promises, tried on real files and on disks that lose, refuse and hang.

mod crash;
mod keeping;
mod kill;
mod promises;
mod reading;
mod search;
mod tamper;

use std::sync::OnceLock;

use uuid::Uuid;

use super::Keys;
use super::entry::{
    BodyEnd, BodyStretch, Ending, EntryClosed, Event, Head, Intent, Micros, Responded, SessionClosed,
    SessionOpened, Side, Verdict,
};
use crate::operation::{Direction, EntryId, SessionId, User};
use crate::store::keyring::{Keyring, Ring};

/// The same keys for every record of a test.
pub(crate) fn keys() -> Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let ring = || Keyring::in_memory(Ring::default().grown().unwrap());
    KEYS.get_or_init(|| Keys { bodies: ring(), signing: ring() }).clone()
}

pub(crate) fn now() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

pub(crate) fn opened(session: SessionId) -> Event {
    Event::SessionOpened(SessionOpened {
        session,
        at: now(),
        direction: Direction::Inbound,
        peer: "192.0.2.7:40000".into(),
        destination: "192.0.2.1:8080".into(),
        workload: None,
        guard: None,
        target: Some("react".into()),
    })
}

pub(crate) fn intent(session: SessionId, entry: EntryId, user: &str, verdict: Verdict) -> Event {
    Event::Intent(Box::new(Intent {
        entry,
        session,
        at: now(),
        target: Some("react".into()),
        kind: "http".into(),
        operations: vec!["read".into()],
        user: Some(User {
            provider: "corp".into(),
            subject: user.into(),
            groups: vec!["staff".into()],
            expires: 0,
            proof: crate::operation::Proof::default(),
        }),
        workload: Some("unit:react-worker.service".into()),
        verdict,
        would: None,
        rules: vec!["react.cedar#read".into()],
        reason: "allowed by react.cedar#read".into(),
        policy: None,
        head: Head {
            line: "GET /v1/runs HTTP/1.1".into(),
            fields: vec![("Host".into(), "react.example".into()), ("Accept".into(), "*/*".into())],
        },
    }))
}

pub(crate) fn responded(entry: EntryId) -> Event {
    Event::Responded(Responded { entry, at: now(), status: 200, head: Head::default() })
}

pub(crate) fn body(entry: EntryId, bytes: &[u8]) -> Event {
    Event::Body(BodyStretch { entry, side: Side::Response, bytes: bytes.to_vec() })
}

pub(crate) fn entry_closed(entry: EntryId) -> Event {
    Event::EntryClosed(EntryClosed {
        entry,
        at: now(),
        status: Some(200),
        request: BodyEnd::default(),
        response: BodyEnd::default(),
        masks: Vec::new(),
        ending: Ending::Finished,
        rewrites: Vec::new(),
    })
}

pub(crate) fn session_closed(session: SessionId) -> Event {
    Event::SessionClosed(SessionClosed { session, at: now(), entries: 1, ending: Ending::Finished })
}

pub(crate) fn session_id() -> SessionId {
    SessionId(Uuid::now_v7())
}

pub(crate) fn entry_id() -> EntryId {
    EntryId(Uuid::now_v7())
}
