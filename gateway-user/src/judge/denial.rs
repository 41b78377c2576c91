//! What a client hears of a refusal: a problem document (RFC 9457) with the rule's message and the entry's id. Never
//! the rule, the policy, or the operator's reason.

use serde::Serialize;

use super::Entry;
use crate::operation::{DemandId, EntryId};
use crate::policy::{Cause, Decision};
use crate::record::RecordError;
use crate::record::entry::Ending;
use crate::wire::fault::Fault;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// HTTP status.
    pub status: u16,
    /// What may be shown beyond the title.
    pub shown: Option<String>,
    /// The entry an operator finds it under.
    pub entry: Option<EntryId>,
    /// Reading from the client cannot go on.
    pub closes: bool,
    /// The demand that is decided meanwhile: ask again later.
    pub demand: Option<DemandId>,
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    demand: Option<DemandId>,
}

impl Denial {
    pub(super) fn new(status: u16, shown: Option<String>) -> Self {
        Self { status, shown, entry: None, closes: false, demand: None }
    }

    /// What a decision's denial looks like to the client.
    #[must_use]
    pub fn of(decision: &Decision) -> Self {
        match decision.cause {
            Cause::NoUser => Self::unauthorized(),
            _ => Self::forbidden(decision.shown.clone()),
        }
    }

    /// 403, with a rule's message.
    #[must_use]
    pub fn forbidden(message: Option<String>) -> Self {
        Self::new(403, message)
    }

    /// 403: an operator has blocked who asks, or what is asked for.
    #[must_use]
    pub fn blocked() -> Self {
        Self::forbidden(Some("an operator has blocked this".into()))
    }

    /// 401: no token, or one that proves nothing.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, Some("a valid bearer token is needed".into()))
    }

    /// A message with no single reading; the connection is over.
    #[must_use]
    pub fn malformed(fault: &Fault) -> Self {
        Self { closes: true, ..Self::new(fault.status, Some(fault.reason.into())) }
    }

    /// 413: the body must be known whole, and is larger than the bound.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let shown = format!("a request that must be known whole may carry at most {limit} bytes");
        Self { closes: true, ..Self::new(413, Some(shown)) }
    }

    /// 503: what cannot be recorded is not done. Ends the entry, and the connection: what the record lost of a flow may
    /// be its beginning.
    #[must_use]
    pub fn unrecorded(entry: &Entry, error: &RecordError) -> Self {
        tracing::error!(entry = %entry.id(), %error, "refused: the record cannot be written");
        entry.answered(503);
        // The record keeps an end until it can write it, also where it gives an error now.
        drop(entry.close(Ending::ByGate(error.to_string())));
        let denial = Self::new(503, Some("the gate cannot record this now".into())).with_entry(entry.id());
        Self { closes: true, ..denial }
    }

    /// 503: a bound is reached; later it may be otherwise.
    #[must_use]
    pub fn busy(shown: &str) -> Self {
        Self::new(503, Some(shown.to_owned()))
    }

    /// 428: whoever approves wants to know why.
    #[must_use]
    pub fn needs_reason() -> Self {
        let shown = "this needs approval, and a reason for it: say why in the header Tidegate-Reason, once, in at most \
                     1024 characters";
        Self::new(428, Some(shown.to_owned()))
    }

    /// 503 with the demand's id: people decide meanwhile, ask again later.
    #[must_use]
    pub fn ask_again(demand: DemandId) -> Self {
        let shown = format!(
            "held for approval as demand {demand}: send exactly this request again after Retry-After seconds"
        );
        Self { demand: Some(demand), ..Self::new(503, Some(shown)) }
    }

    /// The upstream failed: 502, 503 or 504.
    #[must_use]
    pub fn upstream(status: u16, entry: EntryId, shown: &str) -> Self {
        Self::new(status, Some(shown.to_owned())).with_entry(entry)
    }

    /// The same, found under this entry.
    #[must_use]
    pub fn with_entry(self, entry: EntryId) -> Self {
        Self { entry: Some(entry), ..self }
    }

    /// The problem document.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        let problem = Problem {
            title: title(self.status),
            status: self.status,
            detail: self.shown.as_deref(),
            instance: self.entry.map(|entry| format!("urn:uuid:{entry}")),
            demand: self.demand,
        };
        serde_json::to_vec(&problem).unwrap_or_default()
    }
}

fn title(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Refused")
}
