//! An operation on its way to its judgement: where it goes and who asks are known, and its head is as it will be sent;
//! its body may still be with the client. Refuses what cannot be judged, under the entry it has from the start.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::Capture;
use super::head::{recorded_user, recorded_value, told};
use super::{Asked, Case, Denial, Entry, Judge, now};
use crate::intercept;
use crate::limits::{HELD_BODY_BYTES_MAX, JUDGED_AT_ONCE};
use crate::mask::Packing;
use crate::operation::{Kind, Operation, Subject, Workload};
use crate::policy::nouns::{Side as Way, Target};
use crate::policy::{Set, Unread, readable};
use crate::record::RecordError;
use crate::record::entry::{Head, Intent, Side, Verdict as Recorded};
use crate::rewrite::{Plan, RewriteError};

/// See the module.
pub struct Begun {
    pub(super) entry: Arc<Entry>,
    pub(super) set: Arc<Set>,
    pub(super) target: Target,
    pub(super) subject: Subject,
    pub(super) rewrites: Rewrites,
    /// When it began to be judged: whether its target is only observed is settled by that.
    pub(super) at: jiff::Timestamp,
    /// On an observed target, why it would be refused before any rule is asked.
    pub(super) unproven: Option<String>,
    reads_body: bool,
}

/// What is changed on the way, in both directions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rewrites {
    pub(super) request: Plan,
    pub(super) response: Plan,
}

impl Rewrites {
    pub(super) fn of(set: &Set, target: &str, asked: &Asked) -> Self {
        let request = &asked.request;
        let on = |way| Plan::new(&set.rewrites_for(target, &request.method, &request.path, way));
        Self { request: on(Way::Request), response: on(Way::Response) }
    }
}

impl Begun {
    /// Whether rules depend on the body, so that it must be known whole before it is judged.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.reads_body
    }

    /// What is changed in the request: in its head so far as it was asked, in its body by whoever has it.
    #[must_use]
    pub fn rewrites(&self) -> Plan {
        self.rewrites.request.clone()
    }

    /// Where it is recorded.
    #[must_use]
    pub fn entry(&self) -> Arc<Entry> {
        Arc::clone(&self.entry)
    }

    /// Whether its target is only observed: then nothing is refused, and nothing changed.
    pub(super) fn is_observed(&self) -> bool {
        self.unproven.is_some() || self.target.is_observed(self.at)
    }

    /// The case to decide, with what rules look at in the body.
    pub(super) fn case(self, asked: &Asked) -> (Arc<Entry>, Case) {
        let operation = Operation {
            target: self.target.name.clone(),
            direction: self.target.direction,
            kind: Kind::Http(asked.request.clone()),
        };
        let Self { entry, set, target, subject, rewrites, at: _, unproven: _, reads_body: _ } = self;
        (entry, Case { set, target, subject, rewrites, operation })
    }
}

impl Asked {
    /// Changes the head as `plan` says; gives the rewrites that made a difference.
    fn rewritten(&mut self, plan: &Plan) -> Vec<String> {
        plan.list(&mut self.head.fields, |name, value| recorded_value(name, value.as_bytes()));
        plan.list(&mut self.request.headers, |_, value| value.as_bytes().to_vec())
    }

    /// Says how long the body is that will be sent; `None` where that is not known before it is.
    pub fn resized(&mut self, length: Option<u64>) {
        self.request.body_length = length;
        self.without(&["content-length"]);
        if let Some(length) = length {
            self.request.headers.push(("Content-Length".into(), length.to_string().into_bytes()));
            self.head.fields.push(("Content-Length".into(), length.to_string()));
        }
    }

    fn without(&mut self, names: &[&str]) {
        let stays = |name: &str| !names.iter().any(|gone| gone.eq_ignore_ascii_case(name));
        self.request.headers.retain(|(name, _)| stays(name));
        self.head.fields.retain(|(name, _)| stays(name));
    }
}

/// Fields that say something of the bytes of a body, and are wrong once it is rewritten.
pub const DIGESTS: [&str; 4] = ["content-md5", "digest", "content-digest", "repr-digest"];

impl Judge {
    /// Finds out where an operation goes and who asks, and makes its head what will be sent.
    ///
    /// # Errors
    /// The refusal, recorded.
    pub async fn begin(&self, asked: &mut Asked) -> Result<Begun, Denial> {
        let entry = self.open();
        let set = self.bench.shelf.current();
        let target = match intercept::route(&set, &self.flow, &self.bench.names, &asked.authority).await {
            Ok(route) => route.target.clone(),
            Err(misrouted) => {
                let why = misrouted.to_string();
                return Err(self
                    .refuse(&entry, &asked.head, Denial::forbidden(None), &why, Recorded::Deny)
                    .await);
            }
        };
        let at = jiff::Timestamp::now();
        let observed = target.is_observed(at);
        let (subject, unproven) = match self.subject(&set, &target, asked).await {
            Ok(subject) => (subject, None),
            Err(why) if observed => (self.nobody(), Some(why)),
            Err(why) => {
                let denial = Denial::unauthorized();
                return Err(self.refuse(&entry, &asked.head, denial, &why, Recorded::Refuse).await);
            }
        };
        let rewrites = if observed { Rewrites::default() } else { Rewrites::of(&set, &target.name, asked) };
        entry.rewrote(asked.rewritten(&rewrites.request));
        if rewrites.request.has_fields() && asked.request.body_length != Some(0) {
            asked.without(&DIGESTS);
        }
        let mut reads_body = set.reads_body(&target.name, &asked.request);
        let mut unproven = unproven;
        if reads_body
            && observed
            && let Err(why) = observable(asked)
        {
            reads_body = false;
            unproven = unproven.or(Some(why));
        }
        Ok(Begun { entry, set, target, subject, rewrites, at, unproven, reads_body })
    }

    /// What was found out when it began, found out again where its body took its time: who asks, by which policy, and
    /// whether its target is still only observed.
    ///
    /// # Errors
    /// The refusal, recorded.
    pub(super) async fn renewed(&self, begun: Begun, asked: &Asked) -> Result<Begun, Denial> {
        let at = jiff::Timestamp::now();
        if at.duration_since(begun.at).unsigned_abs() < JUDGED_AT_ONCE {
            return Ok(begun);
        }
        let set = self.bench.shelf.current();
        let target = match intercept::route(&set, &self.flow, &self.bench.names, &asked.authority).await {
            Ok(route) => route.target.clone(),
            Err(misrouted) => {
                let why = misrouted.to_string();
                return Err(self.refuse_begun(begun, asked, Denial::forbidden(None), &why).await);
            }
        };
        let observed = target.is_observed(at);
        let (subject, unproven) = match self.subject(&set, &target, asked).await {
            Ok(subject) => (subject, None),
            Err(why) if observed => (self.nobody(), Some(why)),
            Err(why) => return Err(self.refuse_begun(begun, asked, Denial::unauthorized(), &why).await),
        };
        let rewrites = if observed { Rewrites::default() } else { Rewrites::of(&set, &target.name, asked) };
        let reads_body = !observed && set.reads_body(&target.name, &asked.request);
        // Its head is as the rewrites of the beginning left it, and its body may be with the client.
        if !observed && (rewrites != begun.rewrites || (reads_body && !begun.reads_body)) {
            let denial = Denial::busy("the policy changed while the body came: send it again");
            let why =
                "the policy in force when its body was there changes or reads more of it than the one before";
            return Err(self.refuse_begun(begun, asked, denial, why).await);
        }
        let unproven = begun.unproven.filter(|_| observed).or(unproven);
        let (entry, rewrites) = (begun.entry, begun.rewrites);
        Ok(Begun { entry, set, target, subject, rewrites, at, unproven, reads_body: begun.reads_body })
    }

    /// Watches over an operation while its body is awaited: a client that leaves then leaves an entry, too.
    #[must_use]
    pub fn awaiting<'a>(&'a self, begun: &'a Begun, asked: &'a Asked) -> Awaiting<'a> {
        Awaiting { judge: self, begun, asked, over: false }
    }

    /// Refuses an operation whose body cannot be judged.
    pub async fn refuse_begun(&self, begun: Begun, asked: &Asked, denial: Denial, why: &str) -> Denial {
        self.bench.metrics.refused(self.flow.direction);
        let intent = self.unjudged(&begun, asked, told(why));
        self.closed(&begun.entry, intent, denial).await
    }

    fn unjudged(&self, begun: &Begun, asked: &Asked, reason: String) -> Intent {
        Intent {
            entry: begun.entry.id(),
            session: begun.entry.session(),
            at: now(),
            target: Some(begun.target.name.clone()),
            kind: "http".into(),
            operations: Vec::new(),
            user: begun.subject.user.as_ref().map(recorded_user),
            workload: begun.subject.workload.as_deref().map(Workload::key),
            verdict: Recorded::Refuse,
            would: None,
            rules: Vec::new(),
            reason,
            policy: Some(begun.set.digest()),
            head: self.head(&begun.set, &begun.target.name, &asked.head),
        }
    }

    /// Puts a body that was judged and goes nowhere into the record: what a rule refused is there to be looked at.
    pub(super) fn keep_refused(
        &self,
        entry: &Arc<Entry>,
        case: &Case,
        head: &Head,
        body: &[u8],
    ) -> Result<(), RecordError> {
        if body.is_empty() {
            return Ok(());
        }
        let hiding = self.bench.plans.of(&case.set, &case.target.name, case.set.masks_of(&case.target.name));
        let packing = Packing::of(head.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        let mut capture = Capture::new(Arc::clone(entry), Side::Request, &hiding.recorded, &packing);
        capture.saw(&Bytes::copy_from_slice(body))?;
        capture.finish()
    }
}

/// Whether a body can be looked into on its way to a target that is only observed, where nothing may be refused for it.
fn observable(asked: &Asked) -> Result<(), String> {
    readable(&asked.request).map_err(|unread| unread.why)?;
    match asked.request.body_length {
        Some(length) if length <= HELD_BODY_BYTES_MAX as u64 => Ok(()),
        Some(_) => Err("rules depend on its body, which is too long".into()),
        None => Err("rules depend on its body, which comes in chunks and is not looked into here".into()),
    }
}

/// See [`Judge::awaiting`].
pub struct Awaiting<'a> {
    judge: &'a Judge,
    begun: &'a Begun,
    asked: &'a Asked,
    over: bool,
}

impl Awaiting<'_> {
    /// The body came, or did not, and somebody says so.
    pub fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            let why = "the exchange ended before its body was known, on which rules depend";
            let intent = self.judge.unjudged(self.begun, self.asked, why.to_owned());
            // The entry ends itself; a record that cannot be written keeps no beginning either.
            drop(self.begun.entry.intend(intent, None, true));
        }
    }
}

impl Denial {
    /// A request that rules depend on and cannot read.
    #[must_use]
    pub fn unread(unread: &Unread) -> Self {
        Self::new(unread.status, Some(unread.shown.to_owned()))
    }

    /// A request body that cannot be rewritten.
    #[must_use]
    pub fn unrewritten(error: &RewriteError) -> Self {
        Self::new(400, Some(shown(error).to_owned()))
    }
}

/// What the client may be told of it.
#[must_use]
pub fn shown(error: &RewriteError) -> &'static str {
    match error {
        RewriteError::NotJson(_) => "the request body must be JSON here, and is not",
        RewriteError::NotObject => "the request body must be a JSON object here, and is not",
        RewriteError::TooLong => "a name in the JSON of the request body is too long",
    }
}
