//! Recorded operations for tests.

use std::sync::Arc;

use crate::operation::{Direction, EntryId, SessionId, Workload};
use crate::record::entry::{Head, Intent, SessionOpened, Verdict};
use crate::record::operations::Recorded;

pub(in crate::judge) fn recorded(line: &str, fields: &[(&str, &str)], verdict: Verdict) -> Recorded {
    let session = SessionId::now();
    let workload = Workload {
        pid: 7,
        started: 1,
        uid: 990,
        login_uid: None,
        command: "python3".into(),
        cgroup: Some("/agents.slice/agent.service".into()),
        unit: Some("agent.service".into()),
        container: None,
        image: None,
        pod: None,
        executable: None,
        parents: Vec::new(),
    };
    let at = jiff::Timestamp::now().as_microsecond();
    let opened = SessionOpened {
        session,
        at,
        direction: Direction::Outbound,
        peer: "127.0.0.1:40000".into(),
        destination: "192.0.2.7:80".into(),
        workload: Some(workload),
        guard: None,
        target: Some("crm".into()),
    };
    let fields = [("Host", "192.0.2.7")].iter().chain(fields);
    let intent = Intent {
        entry: EntryId::now(),
        session,
        at,
        target: Some("crm".into()),
        kind: "http".into(),
        operations: Vec::new(),
        user: None,
        workload: Some("unit:agent.service".into()),
        verdict,
        would: None,
        rules: vec!["a.cedar#one".into()],
        reason: "recorded".into(),
        policy: None,
        head: Head {
            line: line.into(),
            fields: fields.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        },
    };
    Recorded { intent, opened: Arc::new(opened) }
}
