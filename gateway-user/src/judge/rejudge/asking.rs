//! A question put together again from what was recorded of an operation. Refuses wherever a part of it was hidden or
//! never looked at.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Word, spoken};
use crate::intercept::{Heading, heads_for};
use crate::judge::subject::looks_for_users;
use crate::operation::{Extracted, HttpRequest, Kind, Operation, Subject, User};
use crate::policy::nouns::Target;
use crate::policy::{Answer, Question, Set};
use crate::record::entry::{Head, Verdict};
use crate::record::operations::Recorded;
use crate::wire::uri::{Authority, authority};

/// What stands where something was hidden.
const HIDDEN: &str = "********";

/// Why a recorded operation cannot be judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// It was refused before the policy was asked.
    NeverJudged,
    /// An operator's block answered, not the policy.
    Blocked,
    /// A detector hid a part of its path or its host.
    Hidden,
    /// A detector hid a part of its query, and a rule looks at that.
    HiddenQuery,
    /// An extract takes something out of it that the record holds in no form that can be judged.
    Extracted,
    /// It carried a token that nobody looked at then, and who it proves decides.
    Token,
    /// A rule asks for a claim of the token that nobody asked for then.
    Claim,
    /// It went by a name that nobody looked up then.
    Name,
    /// What is recorded cannot be read as an operation.
    Unreadable,
}

impl Unknown {
    /// In a few words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NeverJudged => "refused before the policy was asked",
            Self::Blocked => "refused by an operator's block",
            Self::Hidden => "its path or host is masked in the record",
            Self::HiddenQuery => "its query is masked in the record and a rule looks at it",
            Self::Extracted => "rules look at what an extract takes out of it",
            Self::Token => "it carried a token that was not looked at",
            Self::Claim => "a role asks for a claim that is not on record",
            Self::Name => "it named a host that was not looked up",
            Self::Unreadable => "its entry cannot be read as an operation",
        }
    }
}

/// A recorded operation as it can be asked about again.
#[derive(Debug)]
pub struct Again<'a> {
    recorded: &'a Recorded,
    request: HttpRequest,
    host: Authority,
    peer: SocketAddr,
    destination: SocketAddr,
    at: Timestamp,
    hidden_query: bool,
}

impl<'a> Again<'a> {
    /// What of it can be asked about.
    ///
    /// # Errors
    /// See [`Unknown`].
    pub fn of(recorded: &'a Recorded) -> Result<Self, Unknown> {
        let intent = &recorded.intent;
        if spoken(intent) == Verdict::Refuse {
            return Err(Unknown::NeverJudged);
        }
        let mut words = intent.head.line.split(' ');
        let (method, line) = words.next().zip(words.next()).ok_or(Unknown::Unreadable)?;
        if words.count() != 1 || !line.starts_with('/') {
            // Such as a destination that no target names: nothing was read of the flow.
            return Err(Unknown::NeverJudged);
        }
        let (path, query) = line.split_once('?').map_or((line, None), |(path, query)| (path, Some(query)));
        let host = field(&intent.head, "host").unwrap_or_default();
        if path.contains(HIDDEN) || host.contains(HIDDEN) {
            return Err(Unknown::Hidden);
        }
        let host = authority(host).map_err(|_| Unknown::Unreadable)?;
        let opened = &recorded.opened;
        let moment = |text: &str| text.parse().map_err(|_| Unknown::Unreadable);
        Ok(Self {
            request: HttpRequest {
                method: method.to_owned(),
                host: host.host.clone(),
                path: path.to_owned(),
                query: query.map(str::to_owned),
                headers: Vec::new(),
                body_length: body_length(&intent.head)?,
                extracted: Extracted::default(),
            },
            host,
            peer: moment(&opened.peer)?,
            destination: moment(&opened.destination)?,
            at: Timestamp::from_microsecond(intent.at).map_err(|_| Unknown::Unreadable)?,
            hidden_query: query.is_some_and(|query| query.contains(HIDDEN)),
            recorded,
        })
    }

    /// Method and path.
    #[must_use]
    pub fn in_words(&self) -> String {
        format!("{} {}", self.request.method, self.request.path)
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.request.method
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.request.path
    }

    /// What this set says of it, at the time it was asked, with no approval granted.
    ///
    /// # Errors
    /// See [`Unknown`].
    pub fn judge(&self, set: &Set) -> Result<Word, Unknown> {
        let opened = &self.recorded.opened;
        let heading = Heading {
            direction: opened.direction,
            destination: self.destination,
            guarded: opened.guard.is_some(),
            host: &self.host,
        };
        let refused = |reason: String| Word { verdict: Verdict::Deny, rules: Vec::new(), reason };
        let named = match heads_for(set, &heading) {
            Ok(named) => named,
            Err(misrouted) => return Ok(refused(misrouted.to_string())),
        };
        if named.by_name && self.recorded.intent.target.is_none() {
            return Err(Unknown::Name);
        }
        if self.hidden_query && set.looks_at_query(&named.target.name) {
            return Err(Unknown::HiddenQuery);
        }
        if set.looks_into(&named.target.name, &self.request) {
            return Err(Unknown::Extracted);
        }
        let user = match self.user(set, named.target)? {
            Ok(user) => user,
            Err(why) => return Ok(refused(why)),
        };
        let workload = opened.workload.clone().map(Arc::new);
        let subject = Subject { user, workload, peer: self.peer };
        let operation = Operation {
            target: named.target.name.clone(),
            direction: opened.direction,
            kind: Kind::Http(self.request.clone()),
        };
        let guard = opened.guard.as_deref();
        let question = Question { subject: &subject, guard, operation: &operation, approved: &[] };
        let decision = set.recall(self.at, &question);
        let verdict = match decision.answer {
            Answer::Allow => Verdict::Allow,
            Answer::Hold { .. } => Verdict::Hold,
            Answer::Deny => Verdict::Deny,
        };
        Ok(Word { verdict, rules: decision.rules.clone(), reason: decision.reason.clone() })
    }

    /// The user this set would see behind it, or why it would refuse whoever that is.
    fn user(&self, set: &Set, target: &Target) -> Result<Result<Option<User>, String>, Unknown> {
        let intent = &self.recorded.intent;
        if !looks_for_users(set, target) {
            return Ok(Ok(None));
        }
        let Some(user) = &intent.user else {
            return match carries_proof(&intent.head, set) {
                true => Err(Unknown::Token),
                false => Ok(Ok(None)),
            };
        };
        if let Some(key) = user.proof.key {
            let known = set.keys().any(|(_, declared)| *declared == key);
            return Ok(if known { Ok(Some(user.clone())) } else { Err("no such static key".to_owned()) });
        }
        let Some(provider) = set.providers().iter().find(|known| known.name == user.provider) else {
            return Ok(Err(format!("no identity provider {}", user.provider)));
        };
        let on_record = |path: &String| user.proof.claims.iter().any(|(known, _)| known == path);
        // Where the set is the one that judged, a claim that is not there was not in the token.
        if intent.policy != Some(set.digest()) && !provider.claims.iter().all(on_record) {
            return Err(Unknown::Claim);
        }
        Ok(Ok(Some(user.clone())))
    }
}

fn field<'h>(head: &'h Head, name: &str) -> Option<&'h str> {
    head.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// As the gate reads it from the same fields; only one reading gets this far.
fn body_length(head: &Head) -> Result<Option<u64>, Unknown> {
    if field(head, "transfer-encoding").is_some() {
        return Ok(None);
    }
    match field(head, "content-length") {
        None => Ok(Some(0)),
        Some(length) => length.trim().parse().map(Some).map_err(|_| Unknown::Unreadable),
    }
}

/// Whether it carried something that this set would look at to know a user.
fn carries_proof(head: &Head, set: &Set) -> bool {
    let scheme = field(head, "authorization").unwrap_or_default().to_ascii_lowercase();
    // A credential whose scheme is hidden too may be one.
    let token = scheme.starts_with("bearer") || scheme.starts_with(HIDDEN);
    token || set.key_headers().iter().any(|header| field(head, header).is_some())
}
