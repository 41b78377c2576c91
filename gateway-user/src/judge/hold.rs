//! An operation that waits for people. What they approve is the exact operation, body included; on release the judge
//! asks again with the policy, the token and the rules of that moment. Refuses whatever changed meanwhile.

use std::sync::Arc;

use bytes::Bytes;

use super::begin::{Begun, Rewrites};
use super::head::told;
use super::{Allowed, Asked, BodyRoom, Case, Denial, Entry, Judge, head, now, refused};
use crate::approval::{
    Approved, Asker, DemandDraft, DeskError, Outcome, Place, Shown, ShownBody, Waiting, owners,
};
use crate::intercept::{self, Flow};
use crate::kernel::Login;
use crate::limits::{HELD_BODY_BYTES_MAX, REASON_BYTES_MAX};
use crate::mask::{MaskError, Packing, Plan};
use crate::operation::{DemandId, Kind, Operation, Sha256};
use crate::policy::nouns::Mask;
use crate::policy::{Answer, Decision};
use crate::record::entry::{Decided, Demanded, Side, Verdict as Recorded};
use crate::record::{Durable, RecordError};
use crate::wire::field::REASON;

/// An operation that a rule holds; its record says so already. Its body is not known yet.
pub struct Held {
    pub(super) entry: Arc<Entry>,
    pub(super) case: Case,
    pub(super) decision: Arc<Decision>,
    pub(super) approvals: Vec<String>,
}

impl Held {
    /// Where it is recorded.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }
}

/// A whole body, as it will be sent: of a held operation that is what people approve.
pub struct Whole {
    /// Its bytes.
    pub bytes: Bytes,
    /// How they are packed.
    pub packing: Packing,
}

/// What the requester says for whoever must approve: its one `Tidegate-Reason` field, masked. Two of them, or one that is
/// empty or too long, say nothing.
pub(super) fn reason(fields: &[(String, Vec<u8>)]) -> Option<String> {
    let mut said = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(REASON));
    let (Some((_, text)), None) = (said.next(), said.next()) else { return None };
    let text = std::str::from_utf8(text).ok()?.trim();
    let fits = !text.is_empty() && text.len() <= REASON_BYTES_MAX;
    fits.then(|| crate::mask::scrub(text).into_owned())
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
        held.entry.masked(Side::Request, hits);
        Ok(Whole { bytes: bytes.into(), packing: packing.unpacked() })
    }

    /// Why nobody can be asked about an operation that these approvals would lift the rules for, if so.
    pub(super) fn cannot_be_asked(
        &self,
        case: &Case,
        approvals: &[String],
        asked: &Asked,
    ) -> Option<(String, Denial)> {
        let needed = || approvals.iter().filter_map(|name| case.set.approval(name));
        if asked.reason.is_none()
            && let Some(approval) = needed().find(|approval| approval.reason_required)
        {
            return Some((
                format!("{} needs a reason, and none was given", approval.name),
                Denial::needs_reason(),
            ));
        }
        let ownerless = || {
            let asker = Asker::of(&case.subject, self.flow.guard.as_deref());
            case.subject.user.is_none() && owners(&asker, &*case.set).is_empty()
        };
        let owned = needed().find(|approval| approval.owner_required).filter(|_| ownerless());
        let shown = "nobody answers for the process that asks, so nobody can be asked to approve it";
        owned.map(|approval| {
            let why = format!("{} needs an owner of the process, and no [[person]] owns it", approval.name);
            (why, Denial::forbidden(Some(shown.into())))
        })
    }

    /// Writes down that the operation is held, before a byte of its body is asked for.
    pub(super) async fn begin_hold(&self, held: Held, asked: &Asked) -> Result<Box<Held>, Denial> {
        let intent = self.intent(&held.entry, &held.case, &held.decision, asked, Recorded::Hold);
        written(&held.entry, held.entry.intend(intent, None, false)).await?;
        Ok(Box::new(held))
    }

    /// Room for the body of an operation that cannot be judged without it.
    #[must_use]
    pub fn room(&self, begun: &Begun) -> BodyRoom {
        self.bench.bodies.room(begun.subject.key())
    }

    /// Room for a body that is masked whole before it is sent.
    #[must_use]
    pub fn flow_room(&self) -> BodyRoom {
        self.bench.bodies.room(self.flow.session.to_string())
    }

    /// Room for the body of a held operation.
    #[must_use]
    pub fn body_room(&self, held: &Held) -> BodyRoom {
        self.bench.bodies.room(held.case.subject.key())
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
        let plan = self.bench.plans.of(&held.case.set, &held.case.target.name, &held.decision.masks).shown;
        let headers = head::shown(&plan, &held.case.set, &asked.request.headers);
        let place = self.flow.place(&asked.request.host);
        let Some(shown) = shown(asked, &place, headers, body, &plan) else {
            return Err(self.refuse_held(&held, Denial::unshowable()).await);
        };
        if is_nobody_known(&self.flow) {
            let shown =
                "the process that asks could not be looked at, so nobody knows who must not approve this";
            return Err(self.refuse_held(&held, Denial::forbidden(Some(shown.into()))).await);
        }
        let digest = self.bench.key.digest(&held.case.subject, &place, &held.case.operation, &body.bytes);
        let draft = DemandDraft {
            entry: held.entry.id(),
            session: held.entry.session(),
            subject: &held.case.subject,
            guard: self.flow.guard.as_deref(),
            reason: asked.reason.clone(),
            operations: held.decision.operations.clone(),
            target: held.case.target.name.clone(),
            digest,
            rules: held.decision.rules.clone(),
            message: held.decision.shown.clone(),
            approvals: held.approvals.clone(),
            shown,
        };
        let place = match self.bench.desk.hold(draft, held.case.set.clone()).await {
            Ok(place) => place,
            Err(error) => {
                return Err(self.end_hold(&held.entry, error.to_string(), Denial::desk(&error)).await);
            }
        };
        let waiting = match place {
            Place::Wait(waiting) => waiting,
            Place::Retry { demand, expires } => {
                self.demanded(&held.entry, demand, digest).await?;
                let why = format!("waits for approval until {expires}; the client was told to ask again");
                return Err(self.end_hold(&held.entry, why, Denial::ask_again(demand)).await);
            }
            Place::Rejected { demand, by, comment } => {
                self.demanded(&held.entry, demand, digest).await?;
                return Err(self.rejected(&held.entry, &by, comment).await);
            }
        };
        self.demanded(&held.entry, waiting.demand(), digest).await?;
        match self.decided(&held.entry, waiting).await? {
            Outcome::Approved(approved) => self.release(held, asked, body, approved).await,
            Outcome::Rejected { by, comment } => Err(self.rejected(&held.entry, &by, comment).await),
            Outcome::CalledOff { by } => {
                let denial = Denial::forbidden(Some("the request for approval was withdrawn".into()));
                Err(self.end_hold(&held.entry, format!("withdrawn by {by}"), denial).await)
            }
            Outcome::Expired => {
                let denial = Denial::forbidden(Some("no approver answered in time".into()));
                Err(self.end_hold(&held.entry, "no approver answered in time".into(), denial).await)
            }
            Outcome::Superseded => Err(self.superseded(&held.entry).await),
        }
    }

    /// Waits for what people decide, unless something else ends the hold before.
    async fn decided(&self, entry: &Arc<Entry>, waiting: Waiting) -> Result<Outcome, Denial> {
        let demand = waiting.demand();
        tokio::select! {
            // The block's own words before those of the demand that ends by it.
            biased;
            block = self.is_blocked() => {
                self.bench.desk.withdraw(demand).await;
                Err(self.end_hold(entry, block.to_string(), Denial::blocked()).await)
            }
            // Nobody can be asked any more; the demand is there after the next start.
            () = self.draining().begun() => {
                let why = "the gate was stopped; the demand stays, and the client was told to ask again";
                Err(self.end_hold(entry, why.into(), Denial::ask_again(demand)).await)
            }
            outcome = waiting.outcome() => Ok(outcome),
        }
    }

    async fn demanded(&self, entry: &Arc<Entry>, demand: DemandId, digest: Sha256) -> Result<(), Denial> {
        written(entry, entry.demand(Demanded { entry: entry.id(), at: now(), demand, digest })).await?;
        tracing::info!(entry = %entry.id(), %demand, "held for approval");
        Ok(())
    }

    async fn rejected(&self, entry: &Arc<Entry>, by: &str, comment: Option<String>) -> Denial {
        let said = comment.map(|c| format!(": {c}")).unwrap_or_default();
        let denial = Denial::forbidden(Some("an approver rejected this".into()));
        self.end_hold(entry, format!("rejected by {by}{said}"), denial).await
    }

    async fn superseded(&self, entry: &Arc<Entry>) -> Denial {
        let why = "the policy that asked for this approval has changed";
        let denial = Denial::forbidden(Some(format!("{why}; ask again")));
        self.end_hold(entry, why.into(), denial).await
    }

    /// Asks again, with everything as it is now, and spends the approval.
    async fn release(
        &self,
        held: Held,
        asked: &Asked,
        body: &Whole,
        approved: Approved,
    ) -> Result<Allowed, Denial> {
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
        // What was approved is what is sent: it was changed by the rewrites of its time, and is not changed again.
        let rewrites = Rewrites::of(&set, &target.name, asked);
        if rewrites.request != held.case.rewrites.request {
            return Err(self.superseded(&entry).await);
        }
        let mut request = asked.request.clone();
        let is_same = set.digest() == held.case.set.digest();
        let found = match &held.case.operation.kind {
            // Rules looked into the body as it came, of which only what masks left of it is still here.
            Kind::Http(judged) if is_same => Some(judged.extracted.clone()),
            _ if asks(&held.decision).next().is_some() && set.reads_body(&target.name, &request) => None,
            _ => set.extract(&target.name, &request, &body.bytes).ok(),
        };
        match found {
            Some(found) => request.extracted = found,
            None => return Err(self.superseded(&entry).await),
        }
        let (name, direction) = (target.name.clone(), target.direction);
        let operation = Operation { target: name, direction, kind: Kind::Http(request) };
        let case = Case { set, target, subject, rewrites, operation };
        if let Some(block) = self.block_of(&case.subject, &case.target.name) {
            return Err(self.end_hold(&entry, block.to_string(), Denial::blocked()).await);
        }
        let at = jiff::Timestamp::now();
        // Whoever approved was asked about these rules on this target, and lifts no other by the same name.
        let unlifted = self.decide(at, &case, &[]);
        let same = unlifted.rules == held.decision.rules && case.target.name == held.case.target.name;
        if matches!(unlifted.answer, Answer::Hold { .. }) && !same {
            return Err(self.superseded(&entry).await);
        }
        let decision = self.decide(at, &case, approved.approvals());
        match decision.answer {
            // What was approved is what masks left of the body, so they must be the same.
            Answer::Allow if asks(&decision).eq(asks(&held.decision)) => {}
            Answer::Allow | Answer::Hold { .. } => return Err(self.superseded(&entry).await),
            Answer::Deny => {
                return Err(self.end_hold(&entry, decision.reason.clone(), Denial::of(&decision)).await);
            }
        }
        let by = approved.by().join(", ");
        let lasts = approved.window().map(|until| format!(" for a window until {until}")).unwrap_or_default();
        if let Err(error) = approved.spend(&*case.set).await {
            return Err(self.end_hold(&entry, error.to_string(), Denial::desk(&error)).await);
        }
        // Spending took a commit; a block that came meanwhile finds nothing forwarded.
        if let Some(block) = self.block_of(&case.subject, &case.target.name) {
            return Err(self.end_hold(&entry, block.to_string(), Denial::blocked()).await);
        }
        let decided = Decided {
            entry: entry.id(),
            at: now(),
            verdict: Recorded::Allow,
            reason: format!("approved by {by}{lasts}"),
            policy: Some(case.set.digest()),
        };
        let claim = self.claim(&entry, &case);
        written(&entry, entry.decide(decided, claim.clone())).await?;
        let injection = self.inject(&entry, &case, claim).await?;
        Ok(self.allowed(entry, &case, &decision, (None, false), injection))
    }

    async fn end_hold(&self, entry: &Arc<Entry>, why: String, denial: Denial) -> Denial {
        let why = told(&why);
        entry.answered(denial.status);
        let decided = Decided {
            entry: entry.id(),
            at: now(),
            verdict: Recorded::Deny,
            reason: why.clone(),
            policy: Some(self.bench.shelf.current().digest()),
        };
        refused(entry, entry.decide(decided, None).map(drop), why, denial).await
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
fn shown(
    asked: &Asked,
    place: &str,
    headers: Vec<(String, String)>,
    body: &Whole,
    plan: &Plan,
) -> Option<Shown> {
    let (masked, _) = plan.mask_whole(&body.packing, body.bytes.clone(), HELD_BODY_BYTES_MAX).ok()?;
    let request = &asked.request;
    Some(Shown {
        method: request.method.clone(),
        host: request.host.clone(),
        to: place.to_owned(),
        path: plan.scrub(&request.path).into_owned(),
        query: request.query.as_deref().map(|query| plan.scrub(query).into_owned()),
        headers,
        body: (!body.bytes.is_empty()).then(|| ShownBody::of(body.bytes.len() as u64, masked)),
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
            image: None,
            pod: None,
            executable: None,
            parents: Vec::new(),
        };
        Flow {
            space: None,
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
