//! One request and its answer: judged, held where a human must decide, forwarded with a permit, masked and recorded
//! on the way back. Refuses with a problem document, and says in the record whose fault a broken exchange was.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::ask::Ask;
use super::body::{AnswerBody, AnyBody, Trailing};
use super::forward;
use super::io::{Answering, Wire};
use super::source::Source;
use super::whole::{self, Whole};
use crate::judge::{
    Allowed, Asked, Begun, BodyRoom, Capture, Denial, Duties, Entry, Judge, Verdict, rewrite_shown,
};
use crate::limits::{APPROVAL_RETRY_AFTER, HELD_BODY_BYTES_MAX, WHOLE_ANSWER_BYTES_MAX};
use crate::mask::{MaskError, Packing};
use crate::policy;
use crate::record::entry::{Ending, Side};
use crate::record::{Durable, RecordError};
use crate::rewrite::{self, RewriteError};
use crate::upstream::{Dialer, Line, UpstreamError};
use crate::wire::fault::Fault;
use crate::wire::http1::Seen;

/// Answers the requests of one flow.
pub(super) struct Exchange {
    pub(super) judge: Judge,
    dialer: Dialer,
    pub(super) wire: Wire,
    /// The flow's one connection to its target, between exchanges.
    line: Mutex<Option<Line>>,
}

/// A body on its way to the target, and how it goes.
pub(super) struct Sending {
    pub(super) ask: Ask,
    pub(super) plan: rewrite::Plan,
    pub(super) expects_continue: bool,
}

impl Exchange {
    /// Answers requests that come over `wire`.
    #[must_use]
    pub(super) fn new(judge: Judge, dialer: Dialer, wire: Wire) -> Self {
        Self { judge, dialer, wire, line: Mutex::new(None) }
    }

    /// Answers one request; a refusal is an answer too.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
        let Some((seen, answering)) = self.wire.next_seen() else {
            let fault = Fault::bad("the engine saw a request that the screen did not");
            return Ok(problem(&self.judge.refuse_fault(&fault, "").await));
        };
        let answered = match seen {
            Seen::Fault(fault, line) => Err(self.judge.refuse_fault(&fault, &line).await),
            Seen::Head(head) => match forward::end_to_end(&head.fields) {
                Err(fault) => Err(self.judge.refuse_fault(&fault, "").await),
                Ok(fields) => {
                    let expects = head.expects_continue;
                    let old = head.minor == 0;
                    self.carry_out(request, Asked::new(*head, fields), expects && !old, answering).await
                }
            },
        };
        Ok(answered.unwrap_or_else(|denial| problem(&denial)))
    }

    async fn carry_out(
        &self,
        request: Request<Incoming>,
        mut asked: Asked,
        expects_continue: bool,
        answering: Answering,
    ) -> Result<Response<AnyBody>, Denial> {
        let (mut parts, body) = request.into_parts();
        if !agrees(&parts, &asked) {
            let fault = Fault::bad("the request target has two readings");
            return Err(self.judge.refuse_fault(&fault, &asked.head.line).await);
        }
        // What the client said of its own connection ends before anything is set for the target.
        forward::end_named(&mut parts.headers);
        let begun = self.judge.begin(&mut asked).await?;
        let plan = begun.rewrites();
        plan.headers(&mut parts.headers);
        let ask = self.known(begun.reads_body(), body, &plan, &begun, &mut asked).await;
        let ask = match ask {
            Ok(ask) => ask,
            Err((denial, why)) => return Err(self.judge.refuse_begun(begun, &asked, denial, &why).await),
        };
        let known = match &ask {
            Ask::Streaming(_) | Ask::Masking(..) => Bytes::new(),
            Ask::Whole(whole) => whole.body().bytes.clone(),
        };
        let (allowed, ask) = match self.judge.judge(begun, &mut asked, &known).await {
            Verdict::Deny(denial) => return Err(denial),
            Verdict::Allow(mut allowed) => {
                let ask = self.begin_ask(&asked, &parts.headers, ask, &mut allowed).await?;
                (allowed, ask)
            }
            Verdict::Hold(held) => {
                // Whoever approves must see the whole operation. Its room is kept until it is decided, as the body is.
                let ask = match ask {
                    Ask::Whole(whole) => Ok(whole),
                    Ask::Streaming(body) | Ask::Masking(body, _) => {
                        let room = self.judge.body_room(&held);
                        let read = self.whole(body, room, &plan, held.entry(), &mut asked).await;
                        read.map_err(|(denial, _)| denial)
                    }
                };
                let sealed = ask.and_then(|whole| {
                    whole.sealed(|bytes| {
                        let packing = forward::packing(&parts.headers);
                        self.judge.seal(&held, &packing, bytes).map_err(|error| Denial::unreadable(&error))
                    })
                });
                let whole = match sealed {
                    Ok(whole) => whole,
                    Err(denial) => return Err(self.judge.refuse_held(&held, denial).await),
                };
                (self.judge.hold(*held, &asked, whole.body()).await?, Ask::Whole(whole))
            }
        };
        if matches!(ask, Ask::Whole(_)) {
            // It was read, and is no longer expected.
            parts.headers.remove(header::EXPECT);
        }
        let sending = Sending { ask, plan, expects_continue };
        self.forward(parts, sending, asked, allowed, answering).await
    }

    /// The body, whole where rules depend on it; also where it is rewritten and short, so that its length can be told.
    async fn known(
        &self,
        needed: bool,
        body: Incoming,
        plan: &rewrite::Plan,
        begun: &Begun,
        asked: &mut Asked,
    ) -> Result<Ask, (Denial, String)> {
        let length = asked.request.body_length;
        let rewritten = plan.has_fields() && length != Some(0);
        let short = length.is_some_and(|length| length <= HELD_BODY_BYTES_MAX as u64);
        if needed || rewritten {
            policy::readable(&asked.request).map_err(|unread| (Denial::unread(&unread), unread.why))?;
        }
        if needed || (rewritten && short) {
            let before = asked.clone();
            let watch = self.judge.awaiting(begun, &before);
            let whole = self.whole(body, self.judge.room(begun), plan, &begun.entry(), asked).await;
            watch.over();
            return whole.map(Ask::Whole);
        }
        if rewritten {
            asked.resized(None);
        }
        Ok(Ask::Streaming(body))
    }

    /// The whole body, as rewrites change it.
    pub(super) async fn whole(
        &self,
        body: Incoming,
        room: BodyRoom,
        plan: &rewrite::Plan,
        entry: &Entry,
        asked: &mut Asked,
    ) -> Result<Whole, (Denial, String)> {
        let plainly = |denial: Denial| {
            let why = denial.shown.clone().unwrap_or_default();
            (denial, why)
        };
        let fields = asked.request.headers.iter();
        let packing = Packing::of(fields.map(|(name, value)| (name.as_str(), value.as_slice())));
        let read = whole::read(&self.wire, asked.request.body_length, packing, body, room).await;
        let mut whole = read.map_err(plainly)?;
        if plan.has_fields() && asked.request.body_length != Some(0) {
            let rewritten = plan.whole(&whole.body().bytes);
            let (bytes, applied) =
                rewritten.map_err(|error| (Denial::unrewritten(&error), error.to_string()))?;
            entry.rewrote(applied);
            if asked.request.body_length.is_some() {
                asked.resized(Some(bytes.len() as u64));
            }
            whole.becomes(bytes);
        }
        Ok(whole)
    }

    async fn forward(
        &self,
        parts: http::request::Parts,
        sending: Sending,
        asked: Asked,
        allowed: Allowed,
        answering: Answering,
    ) -> Result<Response<AnyBody>, Denial> {
        let Allowed { permit, entry, duties, mut recorded } = allowed;
        let method = parts.method.clone();
        let outgoing = match self.outgoing(parts, sending, &asked, &entry, &duties) {
            Ok(outgoing) => outgoing,
            Err(unwritten) => return Err(Denial::unrecorded(&entry, &unwritten)),
        };
        let sent = async {
            let mut line = self.line.lock().await;
            let flow = self.judge.flow();
            // In another network namespace whoever has the caller's rights may answer in the target's name.
            let space = if duties.injection.is_some() { None } else { flow.space };
            let mut kept = line.take().filter(|open| open.space() == space);
            if let Some(open) = &mut kept
                && !open.is_ready().await
            {
                kept = None;
            }
            let mut ready = match kept {
                Some(open) => open,
                None => self.dialer.dial(&permit, (space, flow.destination)).await?,
            };
            let response = ready.send(permit, outgoing.request).await?;
            *line = Some(ready);
            Ok::<_, UpstreamError>(response)
        };
        let interim = outgoing.interim;
        let response = self.listen(sent, interim, outgoing.gate, &mut recorded, &entry).await?;
        let response = match response {
            Ok(response) => response,
            Err(error) => return Err(self.upstream_failed(&entry, recorded, &error).await),
        };
        self.respond(response, &method, &entry, &duties, recorded, answering).await
    }

    /// Waits for the final response; passes interim ones on once the intent is durable.
    async fn listen(
        &self,
        sent: impl Future<Output = Result<Response<Incoming>, UpstreamError>>,
        mut interim: mpsc::Receiver<(StatusCode, Vec<u8>)>,
        mut gate: Option<oneshot::Sender<()>>,
        recorded: &mut Option<Durable>,
        entry: &Arc<Entry>,
    ) -> Result<Result<Response<Incoming>, UpstreamError>, Denial> {
        tokio::pin!(sent);
        let mut response = None;
        loop {
            let next = match &response {
                None => tokio::select! {
                    last = &mut sent => {
                        response = Some(last);
                        continue;
                    }
                    Some(next) = interim.recv() => Some(next),
                },
                // What came before the final response goes before it, also where both came at once.
                Some(_) => interim.try_recv().ok(),
            };
            let (status, bytes) = match (next, response.take()) {
                (Some(next), kept) => {
                    response = kept;
                    next
                }
                (None, Some(response)) => return Ok(response),
                (None, None) => continue,
            };
            durably(recorded, entry).await?;
            match gate.take() {
                // The engine sends 100 by itself as the body is asked for.
                Some(gate) if status == StatusCode::CONTINUE => drop(gate.send(())),
                kept => {
                    gate = kept;
                    if status != StatusCode::CONTINUE {
                        self.wire.interim(&bytes);
                    }
                }
            }
        }
    }

    /// The upstream did not answer: the entry says so, the client gets 502, 503 or 504.
    async fn upstream_failed(
        &self,
        entry: &Arc<Entry>,
        mut recorded: Option<Durable>,
        error: &UpstreamError,
    ) -> Denial {
        let unwritten = error.in_request_body().and_then(|cause| cause.downcast_ref::<RecordError>());
        if let Some(unwritten) = unwritten {
            drop(entry.close(Ending::ByGate("the request body could not be recorded".into())));
            return Denial::unrecorded(entry, unwritten);
        }
        let unreadable = error.in_request_body().and_then(|cause| cause.downcast_ref::<MaskError>());
        if let Some(unreadable) = unreadable {
            let denial = Denial::unreadable(unreadable).with_entry(entry.id());
            let ending = Ending::ByClient(unreadable.to_string());
            return match close(entry, &mut recorded, denial.status, ending).await {
                Ok(()) => denial,
                Err(unrecorded) => unrecorded,
            };
        }
        let fault = self.wire.body_fault();
        let broken = error.in_request_body().is_some();
        let unfit = error.in_request_body().and_then(|cause| cause.downcast_ref::<RewriteError>());
        let fault = fault
            .or_else(|| unfit.map(|error| Fault::bad(rewrite_shown(error))))
            .or_else(|| broken.then(|| Fault::bad("the request body broke off")));
        let (denial, ending) = match &fault {
            Some(fault) => {
                (Denial::malformed(fault).with_entry(entry.id()), Ending::ByClient(fault.reason.into()))
            }
            None => {
                let shown = if error.status() == 504 {
                    "the upstream did not answer in time"
                } else {
                    "the upstream cannot be reached or broke off"
                };
                (Denial::upstream(error.status(), entry.id(), shown), Ending::ByUpstream(error.to_string()))
            }
        };
        tracing::info!(entry = %entry.id(), %error, "exchange failed");
        if fault.is_none() {
            entry.upstream_failed(error.word());
        }
        match close(entry, &mut recorded, denial.status, ending).await {
            Ok(()) => denial,
            Err(unrecorded) => unrecorded,
        }
    }

    async fn respond(
        &self,
        response: Response<Incoming>,
        method: &Method,
        entry: &Arc<Entry>,
        duties: &Duties,
        mut recorded: Option<Durable>,
        answering: Answering,
    ) -> Result<Response<AnyBody>, Denial> {
        let (mut parts, body) = response.into_parts();
        // The version is the gate's own, whatever the upstream speaks (RFC 9110 section 2.5).
        parts.version = http::Version::HTTP_11;
        // Nor are its words for the status: no mask looks into them.
        parts.extensions.remove::<hyper::ext::ReasonPhrase>();
        let bodiless = method == Method::HEAD || body.is_end_stream();
        let rewritten = duties.rewrites.has_fields();
        let masked = !duties.answers.is_empty();
        let packing = forward::packing(&parts.headers);
        let changed = forward::Changed { masked, rewritten };
        if let Err(unfit) = forward::response(parts.status, &mut parts.headers, &packing, changed) {
            close(entry, &mut recorded, 502, Ending::ByUpstream(unfit.to_string())).await?;
            return Err(Denial::upstream(502, entry.id(), "the upstream's answer cannot be passed on"));
        }
        entry.rewrote(duties.rewrites.headers(&mut parts.headers));
        let status = parts.status.as_u16();
        // What the client may see the record still may not.
        let fields = parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes()));
        let head = forward::recorded(&duties.recorded, parts.status, fields);
        entry.masked(Side::Response, forward::hide(&mut parts.headers, &duties.answers));
        entry.responded(status, head);
        if bodiless {
            close(entry, &mut recorded, status, Ending::Finished).await?;
            return Ok(Response::from_parts(parts, empty()));
        }
        let seen = if masked { packing.unpacked() } else { packing.clone() };
        let capture =
            Capture::new(entry.clone(), Side::Response, &duties.recorded, &seen).unpacked_from(&packing);
        let mask = masked.then_some((&duties.answers, &packing));
        let coded = masked && packing != seen;
        let trailing = Trailing::new(&duties.answers, duties.rewrites.names());
        let told = body.size_hint().exact();
        let length = if masked || rewritten { None } else { told };
        let body = Source::of(body, &duties.rewrites, entry);
        let mut answer = AnswerBody::passing(body, (mask, trailing), capture, length, answering);
        // What cannot be unpacked or is no JSON object where one must be mostly shows at its start: it is refused there,
        // before the head has gone, and not broken off.
        if (coded || rewritten || told.is_some_and(|length| length <= WHOLE_ANSWER_BYTES_MAX))
            && let Err((error, ending)) = answer.begin().await
        {
            return Err(not_begun(entry, &mut recorded, error.as_ref(), ending).await);
        }
        entry.flush().map_err(|error| Denial::unrecorded(entry, &error))?;
        // Nothing has gone out yet, not even the head.
        durably(&mut recorded, entry).await?;
        Ok(Response::from_parts(parts, answer.boxed_unsync()))
    }
}

/// Waits until the intent is durable, where that was put off.
async fn durably(recorded: &mut Option<Durable>, entry: &Arc<Entry>) -> Result<(), Denial> {
    match recorded.take() {
        None => Ok(()),
        Some(durable) => durable.await.map_err(|error| Denial::unrecorded(entry, &error)),
    }
}

/// Closes the entry and waits until that, and all before it, is durable.
pub(super) async fn close(
    entry: &Arc<Entry>,
    recorded: &mut Option<Durable>,
    status: u16,
    ending: Ending,
) -> Result<(), Denial> {
    entry.answered(status);
    let closed = entry.close(ending).map_err(|error| Denial::unrecorded(entry, &error))?;
    durably(recorded, entry).await?;
    let written = match closed {
        None => Ok(()),
        Some(durable) => durable.await.and_then(|()| entry.is_whole()),
    };
    written.map_err(|error| Denial::unrecorded(entry, &error))
}

/// An answer of which nothing has gone out, and nothing will: what its client is told instead.
async fn not_begun(
    entry: &Arc<Entry>,
    recorded: &mut Option<Durable>,
    error: &(dyn std::error::Error + Send + Sync + 'static),
    ending: Ending,
) -> Denial {
    if let Some(unwritten) = error.downcast_ref::<RecordError>() {
        drop(entry.close(Ending::ByGate("the answer could not be recorded".into())));
        return Denial::unrecorded(entry, unwritten);
    }
    match close(entry, recorded, 502, ending).await {
        Ok(()) => Denial::upstream(502, entry.id(), "the upstream's answer cannot be passed on"),
        Err(unrecorded) => unrecorded,
    }
}

pub(super) fn empty() -> AnyBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Whether the engine read the same method and target as the screen. Two parsers that disagree are two readings.
fn agrees(parts: &http::request::Parts, asked: &Asked) -> bool {
    let read = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let judged = match &asked.request.query {
        Some(query) => format!("{}?{query}", asked.request.path),
        None => asked.request.path.clone(),
    };
    read == judged && parts.method.as_str() == asked.request.method
}

/// A refusal as the client gets it.
fn problem(denial: &Denial) -> Response<AnyBody> {
    let body = Full::new(Bytes::from(denial.document())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(denial.status).unwrap_or(StatusCode::FORBIDDEN);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if denial.status == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(demand) = denial.demand {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(APPROVAL_RETRY_AFTER.as_secs()));
        if let Ok(id) = HeaderValue::try_from(demand.to_string()) {
            headers.insert(HeaderName::from_static("tidegate-demand"), id);
        }
    }
    if denial.closes {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
