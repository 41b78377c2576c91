//! An operation that waits for people. What they approve is the exact operation, body included; on release the judge
//! asks again with the policy, the token and the rules of that moment. Refuses whatever changed meanwhile.

use std::sync::Arc;

use bytes::Bytes;

use super::{Allowed, Asked, Case, Denial, Entry, Judge, now, refused};
use crate::approval::{Approved, DemandDraft, DeskError, Outcome, Shown, ShownBody};
use crate::intercept::{self, Flow};
use crate::kernel::Login;
use crate::limits::HELD_BODY_BYTES_MAX;
use crate::mask::{MaskError, Packing, Plan};
use crate::operation::{Kind, Operation};
use crate::policy::nouns::Mask;
use crate::policy::{Answer, Decision};
use crate::record::entry::{Decided, Demanded, Head, Side, Verdict as Recorded};
use crate::record::{Durable, RecordError};

/// An operation that a rule holds; its record says so already. Its body is not known yet.
pub struct Held {
    pub(super) entry: Arc<Entry>,
    pub(super) case: Case,
    pub(super) decision: Arc<Decision>,
    pub(super) approvals: Vec<String>,
}

/// A held operation's body, whole, as it will be sent: that is what people approve.
pub struct Whole {
    /// Its bytes.
    pub bytes: Bytes,
    /// How they are packed.
    pub packing: Packing,
}

impl Judge {
    /// The body of a held operation as its masks let it go to the target. Where none applies it goes as it came.
    ///
    /// # Errors
    /// [`MaskError`] where one applies and the body cannot be masked.
    pub fn seal(&self, held: &Held, packing: &Packing, body: Bytes) -> Result<Whole, MaskError> {
        let asks = self.bench.plans.of(&held.case.set, &held.case.target.name, &held.decision.masks).asks;
        if asks.is_empty() || body.is_empty() {
            return Ok(Whole { bytes: body, packing: packing.clone() });
        }
        let (bytes, hits) = asks.mask_whole(packing, body, HELD_BODY_BYTES_MAX)?;
        held.entry.masked(Side::Request, hits.0);
        Ok(Whole { bytes: bytes.into(), packing: packing.unpacked() })
    }

    /// Writes down that the operation is held, before a byte of its body is asked for.
    pub(super) async fn begin_hold(&self, held: Held, asked: &Asked) -> Result<Box<Held>, Denial> {
        let intent = self.intent(&held.entry, &held.case, &held.decision, asked, Recorded::Hold);
        written(&held.entry, held.entry.intend(intent, false)).await?;
        Ok(Box::new(held))
    }

    /// Refuses a held operation that nobody can be asked about.
    pub async fn refuse_held(&self, held: &Held, denial: Denial) -> Denial {
        let why = denial.shown.clone().unwrap_or_default();
        self.end_hold(&held.entry, why, denial).await
    }

    /// Waits for people to decide about this exact operation with this exact body.
    ///
    /// # Errors
    /// The refusal, recorded: rejected, expired, no longer allowed by today's policy, or not recordable.
    pub async fn hold(&self, held: Held, asked: &Asked, body: &Whole) -> Result<Allowed, Denial> {
        let plan = self.bench.plans.of(&held.case.set, &held.case.target.name, &held.decision.masks).recorded;
        let head = self.head(&held.case, asked);
        let Some(shown) = shown(asked, head, body, &plan) else {
            return Err(self.refuse_held(&held, Denial::unshowable()).await);
        };
        if is_nobody_known(&self.flow) {
            let shown =
                "the process that asks could not be looked at, so nobody knows who must not approve this";
            return Err(self.refuse_held(&held, Denial::forbidden(Some(shown.into()))).await);
        }
        let digest = self.bench.key.digest(&held.case.subject, &held.case.operation, &body.bytes);
        let draft = DemandDraft {
            entry: held.entry.id(),
            session: held.entry.session(),
            subject: &held.case.subject,
            target: held.case.target.name.clone(),
            digest,
            rules: held.decision.rules.clone(),
            message: held.decision.shown.clone(),
            approvals: held.approvals.clone(),
            shown,
        };
        let waiting = match self.bench.desk.hold(draft, &*held.case.set).await {
            Ok(waiting) => waiting,
            Err(error) => {
                return Err(self.end_hold(&held.entry, error.to_string(), Denial::desk(&error)).await);
            }
        };
        let demanded = Demanded { entry: held.entry.id(), at: now(), demand: waiting.demand(), digest };
        written(&held.entry, held.entry.demand(demanded)).await?;
        tracing::info!(entry = %held.entry.id(), demand = %waiting.demand(), "held for approval");
        match waiting.outcome().await {
            Outcome::Approved(approved) => self.release(held, asked, approved).await,
            Outcome::Rejected { by, comment } => {
                let said = comment.map(|c| format!(": {c}")).unwrap_or_default();
                let why = format!("rejected by {by}{said}");
                Err(self
                    .end_hold(&held.entry, why, Denial::forbidden(Some("an approver rejected this".into())))
                    .await)
            }
            Outcome::Expired => {
                let denial = Denial::forbidden(Some("no approver answered in time".into()));
                Err(self.end_hold(&held.entry, "no approver answered in time".into(), denial).await)
            }
            Outcome::Superseded => Err(self.superseded(&held.entry).await),
        }
    }

    async fn superseded(&self, entry: &Arc<Entry>) -> Denial {
        let why = "the policy that asked for this approval has changed";
        let denial = Denial::forbidden(Some(format!("{why}; ask again")));
        self.end_hold(entry, why.into(), denial).await
    }

    /// Asks again, with everything as it is now, and spends the approval.
    async fn release(&self, held: Held, asked: &Asked, approved: Approved) -> Result<Allowed, Denial> {
        let entry = held.entry;
        let set = self.bench.shelf.current();
        let Ok(route) = intercept::route(&set, &self.flow, &self.bench.names, &asked.authority).await else {
            return Err(self.superseded(&entry).await);
        };
        let target = route.target.clone();
        let subject = match self.subject(&set, &target, asked).await {
            Ok(subject) if subject.key() == held.case.subject.key() => subject,
            Ok(_) => return Err(self.superseded(&entry).await),
            Err(why) => return Err(self.end_hold(&entry, why, Denial::unauthorized()).await),
        };
        let operation = Operation {
            target: target.name.clone(),
            direction: target.direction,
            kind: Kind::Http(asked.request.clone()),
        };
        let case = Case { set, target, subject, operation };
        // Whoever approved was asked about these rules on this target, and lifts no other by the same name.
        let unlifted = self.decide(&case, &[]);
        let same = unlifted.rules == held.decision.rules && case.target.name == held.case.target.name;
        if matches!(unlifted.answer, Answer::Hold { .. }) && !same {
            return Err(self.superseded(&entry).await);
        }
        let decision = self.decide(&case, approved.approvals());
        match decision.answer {
            // What was approved is what masks left of the body, so they must be the same.
            Answer::Allow if asks(&decision).eq(asks(&held.decision)) => {}
            Answer::Allow | Answer::Hold { .. } => return Err(self.superseded(&entry).await),
            Answer::Deny => {
                return Err(self.end_hold(&entry, decision.reason.clone(), Denial::of(&decision)).await);
            }
        }
        let by = approved.by().join(", ");
        if let Err(error) = approved.spend(&*case.set).await {
            return Err(self.end_hold(&entry, error.to_string(), Denial::desk(&error)).await);
        }
        let decided = Decided {
            entry: entry.id(),
            at: now(),
            verdict: Recorded::Allow,
            reason: format!("approved by {by}"),
            policy: Some(case.set.digest()),
        };
        written(&entry, entry.decide(decided)).await?;
        Ok(self.allowed(entry, &case, &decision, None))
    }

    async fn end_hold(&self, entry: &Arc<Entry>, why: String, denial: Denial) -> Denial {
        entry.answered(denial.status);
        let decided = Decided {
            entry: entry.id(),
            at: now(),
            verdict: Recorded::Deny,
            reason: why.clone(),
            policy: Some(self.bench.shelf.current().digest()),
        };
        refused(entry, entry.decide(decided).map(drop), why, denial).await
    }
}

/// The masks on what the target is sent.
fn asks(decision: &Decision) -> impl Iterator<Item = &Mask> {
    decision.masks.iter().map(Arc::as_ref).filter(|mask| mask.on.requests())
}

/// Waits until what was written about a hold is durable.
async fn written(entry: &Entry, durable: Result<Durable, RecordError>) -> Result<(), Denial> {
    let written = match durable {
        Ok(durable) => durable.await,
        Err(error) => Err(error),
    };
    written.map_err(|error| Denial::unrecorded(entry, &error))
}

/// Whether the kernel could not say who logged in, and the process had ended (or become another) before `/proc` was read.
/// Whoever is behind it could then approve their own request.
fn is_nobody_known(flow: &Flow) -> bool {
    flow.login == Login::Unknown
        && flow.workload.as_ref().is_some_and(|workload| {
            workload.login_uid.is_none() && workload.executable.is_none() && workload.parents.is_empty()
        })
}

/// The operation as approvers see it; `None` where its body cannot be masked, and so not be shown.
fn shown(asked: &Asked, head: Head, body: &Whole, plan: &Plan) -> Option<Shown> {
    let (masked, _) = plan.mask_whole(&body.packing, body.bytes.clone(), HELD_BODY_BYTES_MAX).ok()?;
    let (text, base64) = match String::from_utf8(masked) {
        Ok(text) => (text, false),
        Err(bytes) => (data_encoding::BASE64.encode(bytes.as_bytes()), true),
    };
    let request = &asked.request;
    Some(Shown {
        method: request.method.clone(),
        host: request.host.clone(),
        path: crate::mask::scrub(&request.path).into_owned(),
        query: request.query.as_deref().map(|query| crate::mask::scrub(query).into_owned()),
        headers: head.fields,
        body: (!body.bytes.is_empty()).then_some(ShownBody { bytes: body.bytes.len() as u64, text, base64 }),
    })
}

impl Denial {
    fn unshowable() -> Self {
        let shown = "the body cannot be read, so nobody could be asked to approve it";
        Self::malformed(&crate::wire::fault::Fault::bad(shown))
    }

    fn desk(error: &DeskError) -> Self {
        match error {
            DeskError::SubjectFull(_) | DeskError::Full => {
                Self::busy("too many operations wait for approval")
            }
            DeskError::Ledger(_) => Self::busy("the gate cannot record this now"),
            _ => Self::forbidden(Some("the approval no longer stands; ask again".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Direction, SessionId, Workload};

    fn flow(login: Login, login_uid: Option<u32>) -> Flow {
        let workload = Workload {
            pid: 7,
            started: 1,
            uid: 1000,
            login_uid,
            command: "curl".into(),
            cgroup: None,
            unit: None,
            container: None,
            executable: None,
            parents: Vec::new(),
        };
        Flow {
            session: SessionId::now(),
            direction: Direction::Outbound,
            peer: "127.0.0.1:5".parse().unwrap(),
            destination: "192.0.2.8:80".parse().unwrap(),
            workload: Some(Arc::new(workload)),
            login,
            guard: None,
        }
    }

    #[test]
    fn a_process_that_ended_is_held_only_where_the_kernel_knows_its_login() {
        assert!(is_nobody_known(&flow(Login::Unknown, None)));
        assert!(!is_nobody_known(&flow(Login::Unknown, Some(1001))), "/proc was read in time");
        assert!(!is_nobody_known(&flow(Login::None, None)), "nobody logged in, so its uid is who asks");
        assert!(!is_nobody_known(&flow(Login::As(1001), Some(1001))));
    }
}
