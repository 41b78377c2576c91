//! The one road to a permit: subject, policy, approval, and the durable intent. Refuses when any of them is missing,
//! unreadable, or unable to be recorded; asks the policy in force about every operation and again when a hold is released.

mod begin;
mod block;
mod bodies;
mod credential;
mod denial;
mod electorate;
mod entry;
mod head;
mod hold;
mod observe;
mod plans;
pub mod rejudge;
mod safe_mode;
mod subject;
pub mod suggest;

pub use begin::{Awaiting, Begun, DIGESTS, shown as rewrite_shown};
pub use bodies::{Bodies, BodyRoom};
pub use denial::Denial;
pub use entry::{Capture, Draining, Entry, now};
pub use head::{recorded as recorded_head, recorded_by};
pub use hold::{Held, Whole};
pub use plans::Plans;
pub use subject::{Proof, proof};

use begin::Rewrites;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::approval::{Desk, Key};
use crate::block::Blocks;
use crate::credential::{Injection, Release};
use crate::identity::token::Verifier;
use crate::intercept::{Flow, Names};
use crate::mask::Plan;
use crate::notify::Post;
use crate::operation::{Extracted, HttpRequest, Operation, Permit, Sha256, Subject};
use crate::policy::nouns::{Mask, Target};
use crate::policy::{Answer, Decision, Question, Set, Shelf};
use crate::record::entry::{Ending, Head, Intent, Verdict as Recorded};
use crate::record::{Durable, RecordError, Recorder};
use crate::rewrite;
use crate::telemetry::Metrics;
use crate::wire::fault::Fault;
use crate::wire::http1::RequestHead;

/// What the judge needs, shared by all flows.
pub struct Bench {
    /// The policy in force.
    pub shelf: Shelf,
    /// The record.
    pub recorder: Recorder,
    /// What gives operations their credentials.
    pub releases: Release,
    /// Where held operations wait for people.
    pub desk: Desk,
    /// What tells people of them.
    pub post: Post,
    /// Room for their bodies.
    pub bodies: Bodies,
    /// Whom and what operators have blocked.
    pub blocks: Blocks,
    /// Checks tokens against the providers of one policy set, named by its digest.
    pub tokens: ArcSwap<(Sha256, Verifier)>,
    /// The gate's view of host names.
    pub names: Names,
    /// Names exact operations for approval.
    pub key: Key,
    /// Compiled masks.
    pub plans: Plans,
    /// Counters.
    pub metrics: Metrics,
    /// The gate is being stopped.
    pub draining: Draining,
}

/// Judges the operations of one flow.
#[derive(Clone)]
pub struct Judge {
    bench: Arc<Bench>,
    flow: Arc<Flow>,
    opening: Arc<Mutex<Opening>>,
    known: Arc<block::Known>,
}

/// Whether the flow's own beginning is on record.
enum Opening {
    UnderWay(Durable),
    Known(Result<(), RecordError>),
}

/// An operation, as asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The request, with its end-to-end fields only.
    pub request: HttpRequest,
    /// The client's minor version of HTTP/1.
    pub minor: u8,
    /// The authority in its `Host`.
    pub authority: crate::wire::uri::Authority,
    /// Its head as the record may hold it.
    pub head: Head,
    /// The value of its `Authorization` field.
    pub authorization: Option<Vec<u8>>,
    /// Why, in the requester's own words, masked: its `Tidegate-Reason` field.
    pub reason: Option<String>,
}

impl Asked {
    /// What a request head asks. `fields` are its end-to-end fields.
    #[must_use]
    pub fn new(head: RequestHead, fields: Vec<(String, Vec<u8>)>) -> Self {
        let query = head.query.as_ref().map(|q| format!("?{q}")).unwrap_or_default();
        let line = format!("{} {}{} HTTP/1.{}", head.method, head.path, query, head.minor);
        let recorded = recorded_head(&line, head.fields.iter().map(|(n, v)| (n.as_str(), v.as_slice())));
        let reason = hold::reason(&head.fields);
        let authorization = fields.iter().find(|(n, _)| n.eq_ignore_ascii_case("authorization"));
        Self {
            minor: head.minor,
            authorization: authorization.map(|(_, v)| v.clone()),
            reason,
            head: recorded,
            request: HttpRequest {
                method: head.method,
                host: head.authority.host.clone(),
                path: head.path,
                query: head.query,
                headers: fields,
                body_length: match head.framing {
                    crate::wire::http1::Framing::Length(length) => Some(length),
                    crate::wire::http1::Framing::Chunked => None,
                },
                extracted: Extracted::default(),
            },
            authority: head.authority,
        }
    }
}

/// The judge's word.
pub enum Verdict {
    /// Go on, within the duties.
    Allow(Allowed),
    /// A human decides, once the whole operation is known.
    Hold(Box<Held>),
    /// No.
    Deny(Denial),
}

/// An allowed operation and what comes with it.
pub struct Allowed {
    /// Spent at the upstream.
    pub permit: Permit,
    /// Its record.
    pub entry: Arc<Entry>,
    /// What the gate owes while it runs.
    pub duties: Duties,
    /// Set where the intent may become durable while the upstream already works (GET and HEAD): nothing is answered
    /// before it is.
    pub recorded: Option<Durable>,
}

/// What a permit obliges the gate to.
#[derive(Clone)]
pub struct Duties {
    /// What the target must not see.
    pub asks: Plan,
    /// What the client must not see.
    pub answers: Plan,
    /// What the record must not see.
    pub recorded: Plan,
    /// Whether the `Authorization` field goes on.
    pub forward_token: bool,
    /// The credential that the target gets.
    pub injection: Option<Injection>,
    /// What is changed in the answer.
    pub rewrites: rewrite::Plan,
    /// Other fields that do not go on: those that static keys come in, where tokens do not.
    pub stripped: Vec<String>,
    /// Fields of the head that rules look at, in lower case: they count there and nowhere else.
    pub judged: Vec<String>,
}

/// Everything known when a decision is asked for.
struct Case {
    set: Arc<Set>,
    target: Target,
    subject: Subject,
    rewrites: Rewrites,
    operation: Operation,
}

impl Judge {
    /// A judge for one flow, whose opening is on its way to disk.
    #[must_use]
    pub fn new(bench: Arc<Bench>, flow: Arc<Flow>, opening: Durable) -> Self {
        Self { bench, flow, opening: Arc::new(Mutex::new(Opening::UnderWay(opening))), known: Arc::default() }
    }

    /// What is known of the flow's beginning. While it is under way an intent shares its commit or comes after it; where
    /// it failed nothing of this flow will ever be on record.
    fn begun(&self) -> Result<(), RecordError> {
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Opening::UnderWay(durable) = &mut *opening
            && let Some(known) = durable.now()
        {
            *opening = Opening::Known(known);
        }
        match &*opening {
            Opening::UnderWay(_) => Ok(()),
            Opening::Known(known) => known.clone(),
        }
    }

    fn open(&self) -> Arc<Entry> {
        Entry::open(self.flow.session, &self.bench, &self.known)
    }

    /// The flow whose operations it judges.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Whether and when the gate stops.
    #[must_use]
    pub fn draining(&self) -> &Draining {
        &self.bench.draining
    }

    /// Judges one operation, with its whole body where rules depend on it. With the answer, its intent is durable, or will
    /// be before anything is answered.
    pub async fn judge(&self, begun: Begun, asked: &mut Asked, body: &[u8]) -> Verdict {
        let begun = match self.renewed(begun, asked).await {
            Ok(begun) => begun,
            Err(denial) => return Verdict::Deny(denial),
        };
        let (at, observed, mut unproven) = (begun.at, begun.is_observed(), begun.unproven.clone());
        let found = begun.set.extract(&begun.target.name, &asked.request, body);
        match found {
            Ok(found) => asked.request.extracted = found,
            Err(unread) if observed => unproven = unproven.or(Some(unread.why)),
            Err(unread) => {
                let denial = Denial::unread(&unread);
                return Verdict::Deny(self.refuse_begun(begun, asked, denial, &unread.why).await);
            }
        }
        let (entry, case) = begun.case(asked);
        if let Some(block) = self.block_of(&case.subject, &case.target.name) {
            return Verdict::Deny(self.refuse_blocked(&entry, &case, asked, &block).await);
        }
        let decision = self.decide(at, &case, &[]);
        if observed {
            return self.observe(entry, &case, &decision, unproven, asked).await;
        }
        let verdict = match decision.answer {
            Answer::Allow => "allow",
            Answer::Hold { .. } => "hold",
            Answer::Deny => "deny",
        };
        self.bench.metrics.judged(&case.target.name, verdict);
        match decision.answer.clone() {
            Answer::Allow => {
                let intent = self.intent(&entry, &case, &decision, asked, Recorded::Allow);
                self.allow(entry, &case, &decision, asked, intent).await
            }
            Answer::Hold { approvals } => {
                if let Some((why, denial)) = self.cannot_be_asked(&case, &approvals, asked) {
                    let decision =
                        Decision { reason: format!("{why}; {}", decision.reason), ..(*decision).clone() };
                    return Verdict::Deny(self.deny(&entry, &case, &decision, asked, denial, body).await);
                }
                if let Some(safe) = self.without_approvers(&case, &approvals) {
                    return match safe {
                        Ok(decision) => {
                            let intent = self.intent(&entry, &case, &decision, asked, Recorded::Allow);
                            self.allow(entry, &case, &decision, asked, intent).await
                        }
                        Err(why) => {
                            let decision = Decision { reason: why, ..(*decision).clone() };
                            let denial = Denial::busy("nobody who could approve this can be reached now");
                            Verdict::Deny(self.deny(&entry, &case, &decision, asked, denial, body).await)
                        }
                    };
                }
                let held = Held { entry, case, decision, approvals };
                self.begin_hold(held, asked).await.map_or_else(Verdict::Deny, Verdict::Hold)
            }
            Answer::Deny => {
                let denial = Denial::of(&decision);
                Verdict::Deny(self.deny(&entry, &case, &decision, asked, denial, body).await)
            }
        }
    }

    fn decide(&self, at: jiff::Timestamp, case: &Case, approved: &[String]) -> Arc<Decision> {
        case.set.recall(
            at,
            &Question {
                subject: &case.subject,
                guard: self.flow.guard.as_deref(),
                operation: &case.operation,
                approved,
            },
        )
    }

    async fn allow(
        &self,
        entry: Arc<Entry>,
        case: &Case,
        decision: &Decision,
        asked: &Asked,
        intent: Intent,
    ) -> Verdict {
        if let Err(error) = self.begun() {
            return Verdict::Deny(Denial::unrecorded(&entry, &error));
        }
        let claim = self.claim(&entry, case);
        let overlap = claim.is_none() && may_overlap(&asked.request);
        let observed = intent.would.is_some();
        let mut recorded = match entry.intend(intent, claim.clone(), overlap) {
            Ok(durable) => Some(durable),
            Err(error) => return Verdict::Deny(Denial::unrecorded(&entry, &error)),
        };
        if !overlap
            && let Some(durable) = recorded.take()
            && let Err(error) = durable.await
        {
            return Verdict::Deny(Denial::unrecorded(&entry, &error));
        }
        match self.inject(&entry, case, claim).await {
            Ok(injection) => {
                Verdict::Allow(self.allowed(entry, case, decision, (recorded, observed), injection))
            }
            Err(denial) => Verdict::Deny(denial),
        }
    }

    fn allowed(
        &self,
        entry: Arc<Entry>,
        case: &Case,
        decision: &Decision,
        (recorded, observed): (Option<Durable>, bool),
        injection: Option<Injection>,
    ) -> Allowed {
        let mut masks = if observed { Vec::new() } else { decision.masks.clone() };
        masks.extend(injection.iter().map(|injection| injection.mask.clone()));
        let plans::Hiding { asks, answers, recorded: hidden, .. } =
            self.bench.plans.of(&case.set, &case.target.name, &masks);
        let forward_token = case.target.forward_token;
        let stripped = match forward_token {
            true => Vec::new(),
            false => case.set.key_headers().into_iter().map(str::to_owned).collect(),
        };
        Allowed {
            permit: Permit::issue(entry.id(), case.target.name.clone()),
            entry,
            duties: Duties {
                asks,
                answers,
                recorded: hidden,
                forward_token,
                stripped,
                judged: case.set.headers_looked_at(&case.target.name),
                injection,
                rewrites: case.rewrites.response.clone(),
            },
            recorded,
        }
    }

    /// Records a refusal by policy, durably, before the client hears of it.
    async fn deny(
        &self,
        entry: &Arc<Entry>,
        case: &Case,
        decision: &Decision,
        asked: &Asked,
        denial: Denial,
        body: &[u8],
    ) -> Denial {
        entry.answered(denial.status);
        let intent = self.intent(entry, case, decision, asked, Recorded::Deny);
        let intent = Intent { reason: head::told(&intent.reason), ..intent };
        let why = intent.reason.clone();
        let begun = entry.intend(intent, None, true).map(drop);
        let kept = begun.and_then(|()| self.keep_refused(entry, case, &asked.head, body));
        refused(entry, kept, why, denial).await
    }

    /// Records a refusal that came before policy was asked.
    async fn refuse(
        &self,
        entry: &Arc<Entry>,
        head: &Head,
        denial: Denial,
        why: &str,
        verdict: Recorded,
    ) -> Denial {
        self.bench.metrics.refused(self.flow.direction);
        let set = self.bench.shelf.current();
        let intent = Intent {
            entry: entry.id(),
            session: entry.session(),
            at: now(),
            target: None,
            kind: "http".into(),
            operations: Vec::new(),
            user: None,
            workload: self.flow.workload.as_ref().map(|w| w.key()),
            verdict,
            would: None,
            rules: Vec::new(),
            reason: head::told(why),
            policy: Some(set.digest()),
            head: head::without_keys(&set, head.clone()),
        };
        self.closed(entry, intent, denial).await
    }

    /// Refuses a message that has no single reading.
    pub async fn refuse_fault(&self, fault: &Fault, line: &str) -> Denial {
        let entry = self.open();
        let head = recorded_head(line, std::iter::empty());
        self.refuse(&entry, &head, Denial::malformed(fault), fault.reason, Recorded::Refuse).await
    }

    /// Refuses a destination that no target names, before any byte is read.
    pub async fn refuse_destination(&self) -> Denial {
        let entry = self.open();
        let head = Head { line: format!("OPEN {}", self.flow.destination), fields: Vec::new() };
        let why = format!("no target is declared for {}", self.flow.destination);
        self.refuse(&entry, &head, Denial::forbidden(None), &why, Recorded::Deny).await
    }

    async fn closed(&self, entry: &Arc<Entry>, intent: Intent, denial: Denial) -> Denial {
        entry.answered(denial.status);
        let why = intent.reason.clone();
        let begun = entry.intend(intent, None, true).map(drop);
        refused(entry, begun, why, denial).await
    }

    /// A request's head as the record and approvers may see it.
    fn head(&self, set: &Set, target: &str, head: &Head) -> Head {
        let shown = head::without_keys(set, head.clone());
        // What every record hides is hidden already.
        let finds_more = |mask: &Arc<Mask>| {
            let always = mask.find.iter().all(|detector| detector.is_always_recorded_hidden());
            !always || !mask.headers.is_empty()
        };
        if set.detectors().is_empty() && !set.masks_of(target).iter().any(finds_more) {
            return shown;
        }
        head::hiding(&self.bench.plans.of(set, target, &[]).recorded, shown)
    }

    fn intent(
        &self,
        entry: &Entry,
        case: &Case,
        decision: &Decision,
        asked: &Asked,
        verdict: Recorded,
    ) -> Intent {
        Intent {
            entry: entry.id(),
            session: entry.session(),
            at: now(),
            target: Some(case.target.name.clone()),
            kind: "http".into(),
            operations: decision.operations.clone(),
            user: case.subject.user.as_ref().map(head::recorded_user),
            workload: case.subject.workload.as_deref().map(crate::operation::Workload::key),
            verdict,
            would: None,
            rules: decision.rules.clone(),
            reason: decision.reason.clone(),
            policy: Some(case.set.digest()),
            head: self.head(&case.set, &case.target.name, &asked.head),
        }
    }
}

/// Ends the entry of a refusal, once what goes before its end is `written`; gives the refusal when that is durable.
async fn refused(entry: &Entry, written: Result<(), RecordError>, why: String, denial: Denial) -> Denial {
    let durable = match written.and_then(|()| entry.close(Ending::Refused(why))) {
        Ok(Some(durable)) => durable.await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match durable {
        Ok(()) => denial.with_entry(entry.id()),
        Err(error) => Denial::unrecorded(entry, &error),
    }
}

/// Promise 5: only GET and HEAD without a body, without approval and without an injected credential may reach the
/// upstream while their intent is still being written.
fn may_overlap(request: &HttpRequest) -> bool {
    matches!(request.method.as_str(), "GET" | "HEAD") && request.body_length == Some(0)
}
