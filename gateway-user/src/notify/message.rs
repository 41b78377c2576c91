//! What a channel is told: one event with its data, as JSON. Holds what lists show of a demand and nothing of its header
//! fields or its body.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::approval::News;

/// The event that tells only that a channel works.
const TEST: &str = "notify.test";

/// One event for one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its name, the same at every try: receivers know by it what they have seen.
    pub id: String,
    /// The `[[notify]]` it goes to.
    pub channel: String,
    /// The kind of event: `approval.requested`.
    pub event: String,
    /// Whose demand it tells of; empty for a test.
    pub subject: String,
    /// The whole payload, JSON.
    pub body: String,
    /// When it came to be.
    pub created: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    pub next: Timestamp,
}

/// A message that nobody took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// What it was.
    pub message: Message,
    /// When it was given up.
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

impl Message {
    /// What a turn of a demand says to a channel.
    #[must_use]
    pub fn of(news: &News<'_>, channel: &str, now: Timestamp) -> Self {
        let demand = news.demand;
        let event = format!("approval.{}", news.turn.name());
        let body = json!({
            "type": event,
            "timestamp": now,
            "data": {
                "demand": demand.id,
                "entry": demand.entry,
                "session": demand.session,
                "target": demand.target,
                "operations": demand.operations,
                "method": demand.shown.method,
                "host": demand.shown.host,
                "to": demand.shown.to,
                "path": demand.shown.path,
                "query": demand.shown.query,
                "asker": demand.asker.key,
                "process": demand.asker.process.as_ref().map(|process| json!({
                    "pid": process.pid, "uid": process.uid, "command": process.command,
                    "executable": process.executable,
                })),
                "reason": demand.reason,
                "rules": demand.rules,
                "message": demand.message,
                "approvals": demand.approvals,
                "window_seconds": demand.window,
                "created": demand.created,
                "expires": demand.expires,
                "votes": demand.voters(),
                "by": news.by,
                "comment": news.comment,
            },
        });
        let id = format!("msg_{}_{}", demand.id.0.simple(), news.turn.name());
        Self::new(id, channel, event, &demand.asker.key, &body, now)
    }

    /// What tells a channel only that it works.
    #[must_use]
    pub fn test(channel: &str, now: Timestamp) -> Self {
        let event = TEST.to_owned();
        let body = json!({ "type": event, "timestamp": now, "data": { "channel": channel } });
        Self::new(format!("msg_{}_test", uuid::Uuid::now_v7().simple()), channel, event, "", &body, now)
    }

    /// Whether it tells only that the channel works.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.event == TEST
    }

    fn new(
        id: String,
        channel: &str,
        event: String,
        subject: &str,
        body: &serde_json::Value,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            channel: channel.to_owned(),
            event,
            subject: subject.to_owned(),
            body: body.to_string(),
            created: now,
            attempts: 0,
            next: now,
        }
    }
}
