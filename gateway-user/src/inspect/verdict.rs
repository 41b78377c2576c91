//! What the gate would say about one captured request: its target, its subject as far as the capture proves one, and the
//! decision of a policy set. Decides nothing else, and enforces nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::intercept::suits;
use crate::judge::{Proof, proof, recorded_head};
use crate::mask::{Plan, scrub};
use crate::operation::{Direction, Extracted, HttpRequest, Kind, Operation, Subject, User, Workload};
use crate::policy::nouns::Target;
use crate::policy::{Answer, Cause, Question, Set};
use crate::wire::http1::{Framing, RequestHead};

/// Checks a token as of a moment.
pub type Verify<'a> = &'a dyn Fn(&str, Timestamp) -> Result<User, String>;

/// What judges captured requests.
pub struct Judging<'a> {
    /// The policy.
    pub set: &'a Set,
    /// Checks bearer tokens.
    pub verify: Verify<'a>,
    /// The process that is taken to have asked; a capture knows none.
    pub workload: Option<Arc<Workload>>,
    /// The guard that is taken to have held it.
    pub guard: Option<String>,
}

/// The gate's word on a captured request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Its request line, masked.
    pub line: String,
    /// Its target.
    pub target: Option<String>,
    /// The user its token proves.
    pub user: Option<String>,
    /// `allow`, `hold`, `deny`, `refuse`; `unknown` where it depends on a process that a capture does not know.
    pub verdict: &'static str,
    /// The rules that would decide.
    pub rules: Vec<String>,
    /// Why.
    pub reason: String,
}

impl Judged {
    /// Something that is no request.
    pub(super) fn refused(line: &str, why: &str) -> Self {
        Self {
            line: scrub(line).into_owned(),
            target: None,
            user: None,
            verdict: "refuse",
            rules: Vec::new(),
            reason: why.to_owned(),
        }
    }
}

impl Judging<'_> {
    /// The verdict, and what masks would apply to the answer; none where no answer would come.
    pub(super) fn judge(
        &self,
        head: RequestHead,
        client: SocketAddr,
        server: SocketAddr,
        at: Timestamp,
    ) -> (Judged, Option<Plan>) {
        let query = head.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let line = format!("{} {}{query} HTTP/1.{}", head.method, head.path, head.minor);
        let line = recorded_head(&line, std::iter::empty()).line;
        let refused = |verdict, target: Option<&Target>, reason: String| {
            let target = target.map(|target| target.name.clone());
            let (line, reason) = (line.clone(), scrub(&reason).into_owned());
            (Judged { line, target, user: None, verdict, rules: Vec::new(), reason }, None)
        };
        let outbound = self.set.target_at(Direction::Outbound, server);
        let Some(target) = outbound.or_else(|| self.set.target_at(Direction::Inbound, server)) else {
            return refused("deny", None, format!("no target is declared for {server}"));
        };
        if !suits(target, server, &head.authority) {
            let host = &head.authority.host;
            return refused("deny", Some(target), format!("the Host {host} does not belong to {server}"));
        }
        let user = match self.user(target, &head, at) {
            Ok(user) => user,
            Err(why) => return refused("refuse", Some(target), why),
        };
        let named = user.as_ref().map(User::key);
        let subject = Subject { user, workload: self.workload.clone(), peer: client };
        let mut request = HttpRequest {
            method: head.method,
            host: head.authority.host,
            path: head.path,
            query: head.query,
            headers: head.fields,
            body_length: match head.framing {
                Framing::Length(length) => Some(length),
                Framing::Chunked => None,
            },
            extracted: Extracted::default(),
        };
        if self.set.reads_body(&target.name, &request) {
            let why = "rules about this look into its body, which is not judged here";
            return refused("unknown", Some(target), why.into());
        }
        match self.set.extract(&target.name, &request, &[]) {
            Ok(found) => request.extracted = found,
            Err(unread) => return refused("refuse", Some(target), unread.why),
        }
        let direction = target.direction;
        let operation = Operation { target: target.name.clone(), direction, kind: Kind::Http(request) };
        let guard = self.guard.as_deref();
        let question = Question { subject: &subject, guard, operation: &operation, approved: &[] };
        let decision = self.set.decide(at, &question);
        let verdict = match decision.answer {
            Answer::Allow => "allow",
            Answer::Hold { .. } => "hold",
            Answer::Deny if decision.cause == Cause::NoWorkload => "unknown",
            Answer::Deny => "deny",
        };
        let on_answers: Vec<_> = decision.masks.into_iter().filter(|mask| mask.on.responses()).collect();
        let masks = (decision.answer != Answer::Deny).then(|| Plan::new(&on_answers));
        let judged = Judged {
            line,
            target: Some(target.name.clone()),
            user: named,
            verdict,
            rules: decision.rules,
            reason: scrub(&decision.reason).into_owned(),
        };
        (judged, masks.filter(|plan| !plan.is_empty()))
    }

    fn user(&self, target: &Target, head: &RequestHead, at: Timestamp) -> Result<Option<User>, String> {
        let field = head.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        Ok(match proof(self.set, target, field.map(|(_, value)| value.as_slice()), &head.fields)? {
            Proof::None => None,
            Proof::Key(key) => Some(User::of_key(key)),
            Proof::Token(token) => Some((self.verify)(token, at)?),
        })
    }
}
