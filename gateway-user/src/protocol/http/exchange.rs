//! One request and its answer: judged, held where a human must decide, forwarded with a permit, masked and recorded
//! on the way back. Refuses with a problem document, and says in the record whose fault a broken exchange was.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::body::{AnswerBody, AnyBody, AskBody, Gate};
use super::forward;
use super::io::{Answering, Wire};
use crate::judge::{Allowed, Asked, BodyRoom, Capture, Denial, Duties, Entry, Judge, Verdict, recorded_head};
use crate::limits::{APPROVAL_RETRY_AFTER, HELD_BODY_BYTES_MAX, WHOLE_ANSWER_BYTES_MAX};
use crate::mask::Media;
use crate::record::entry::{Ending, Side};
use crate::record::{Durable, RecordError};
use crate::upstream::{Dialer, Line, UpstreamError};
use crate::wire::fault::Fault;
use crate::wire::http1::Seen;

/// Interim responses of one exchange that may wait to be passed on. More are dropped: they are advice.
const INTERIM_MAX: usize = 8;

/// Answers the requests of one flow.
pub(super) struct Exchange {
    judge: Judge,
    dialer: Dialer,
    wire: Wire,
    /// The flow's one connection to its target, between exchanges.
    line: Mutex<Option<Line>>,
}

/// A request's body: still at the client, or known whole because a human had to see it.
enum Ask {
    Streaming(Incoming),
    Whole(Bytes),
}

/// A request ready to be sent, and what listens for its interim responses.
struct Outgoing {
    request: Request<AnyBody>,
    interim: mpsc::Receiver<(StatusCode, Vec<u8>)>,
    gate: Option<oneshot::Sender<()>>,
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
        asked: Asked,
        expects_continue: bool,
        answering: Answering,
    ) -> Result<Response<AnyBody>, Denial> {
        let (mut parts, body) = request.into_parts();
        if !agrees(&parts, &asked) {
            let fault = Fault::bad("the request target has two readings");
            return Err(self.judge.refuse_fault(&fault, &asked.head.line).await);
        }
        let (allowed, ask) = match self.judge.judge(&asked).await {
            Verdict::Deny(denial) => return Err(denial),
            Verdict::Allow(allowed) => (allowed, Ask::Streaming(body)),
            Verdict::Hold(held) => {
                // Whoever approves must see the whole operation, so it is read now and no longer expected.
                parts.headers.remove(header::EXPECT);
                // Kept until it is decided, as the body is.
                let mut room = self.judge.body_room(&held);
                let bytes = match self.read_whole(&asked, body, &mut room).await {
                    Ok(bytes) => bytes,
                    Err(denial) => return Err(self.judge.refuse_held(&held, denial).await),
                };
                (self.judge.hold(*held, &asked, &bytes).await?, Ask::Whole(bytes))
            }
        };
        self.forward(parts, ask, asked, allowed, expects_continue, answering).await
    }

    async fn read_whole(
        &self,
        asked: &Asked,
        mut body: Incoming,
        room: &mut BodyRoom,
    ) -> Result<Bytes, Denial> {
        let mut whole = BytesMut::new();
        if asked.request.body_length.is_some_and(|length| length > HELD_BODY_BYTES_MAX as u64) {
            return Err(Denial::too_large(HELD_BODY_BYTES_MAX));
        }
        while let Some(frame) = body.frame().await {
            let data = match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => data,
                Ok(Err(_trailers)) => continue,
                Err(_) => {
                    let fault = self.wire.body_fault().unwrap_or(Fault::bad("the request body broke off"));
                    return Err(Denial::malformed(&fault));
                }
            };
            if whole.len() + data.len() > HELD_BODY_BYTES_MAX {
                return Err(Denial::too_large(HELD_BODY_BYTES_MAX));
            }
            if !room.grow(data.len()) {
                let busy = Denial::busy("too many bytes wait for approval");
                return Err(Denial { closes: true, ..busy });
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    async fn forward(
        &self,
        parts: http::request::Parts,
        ask: Ask,
        asked: Asked,
        allowed: Allowed,
        expects_continue: bool,
        answering: Answering,
    ) -> Result<Response<AnyBody>, Denial> {
        let Allowed { permit, entry, duties, mut recorded } = allowed;
        let method = parts.method.clone();
        let outgoing = match self.outgoing(parts, ask, &asked, &entry, &duties, expects_continue) {
            Ok(outgoing) => outgoing,
            Err(unwritten) => return Err(Denial::unrecorded(&entry, &unwritten)),
        };
        let sent = async {
            let mut line = self.line.lock().await;
            let mut kept = line.take();
            if let Some(open) = &mut kept
                && !open.is_ready().await
            {
                kept = None;
            }
            let mut ready = match kept {
                Some(open) => open,
                None => self.dialer.dial(&permit, self.judge.flow().destination).await?,
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

    fn outgoing(
        &self,
        mut parts: http::request::Parts,
        ask: Ask,
        asked: &Asked,
        entry: &Arc<Entry>,
        duties: &Duties,
        expects_continue: bool,
    ) -> Result<Outgoing, crate::record::RecordError> {
        let media = Media::of(content_type(&parts.headers));
        let mut capture = Capture::new(entry.clone(), Side::Request, duties.recorded.stream(media));
        let mut opener = None;
        let chunked = matches!(ask, Ask::Streaming(_)) && asked.request.body_length.is_none();
        let body = match ask {
            Ask::Whole(bytes) => {
                capture.saw(&bytes)?;
                capture.finish()?;
                parts.headers.remove(header::CONTENT_LENGTH);
                if asked.request.body_length != Some(0) {
                    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
                }
                Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
            }
            Ask::Streaming(body) if body.is_end_stream() && !chunked => empty(),
            Ask::Streaming(body) => {
                let gate = expects_continue.then(|| {
                    let (gate, open) = Gate::closed();
                    opener = Some(open);
                    gate
                });
                AskBody::passing(body, capture, gate)
            }
        };
        forward::request(
            &mut parts.headers,
            self.judge.flow(),
            duties.forward_token,
            !duties.masks.is_empty(),
        );
        for name in &duties.stripped {
            parts.headers.remove(name.as_str());
        }
        if chunked {
            // Said, because the engine takes a GET of unknown length for one without a body.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        parts.uri =
            http::Uri::from(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        parts.version = http::Version::HTTP_11;
        let mut request = Request::from_parts(parts, body);
        let (tell, interim) = mpsc::channel(INTERIM_MAX);
        // A client of HTTP/1.0 would take an interim answer for the answer (RFC 9110 section 15.2).
        if asked.minor > 0 {
            hyper::ext::on_informational(&mut request, move |response| {
                // A full queue drops advice.
                let _ =
                    tell.try_send((response.status(), interim_head(response.status(), response.headers())));
            });
        }
        Ok(Outgoing { request, interim, gate: opener })
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
        let fault = self.wire.body_fault();
        let broken = error.in_request_body().is_some();
        let fault = fault.or_else(|| broken.then(|| Fault::bad("the request body broke off")));
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
        let bodiless = method == Method::HEAD || body.is_end_stream();
        let masked = !duties.masks.is_empty() && !body.is_end_stream();
        if let Err(unfit) = forward::response(
            parts.status,
            &mut parts.headers,
            masked || (!duties.masks.is_empty() && bodiless),
        ) {
            close(entry, &mut recorded, 502, Ending::ByUpstream(unfit.to_string())).await?;
            return Err(Denial::upstream(502, entry.id(), "the upstream's answer cannot be passed on"));
        }
        let status = parts.status.as_u16();
        let line = format!("HTTP/1.1 {} {}", status, parts.status.canonical_reason().unwrap_or_default());
        let head =
            recorded_head(line.trim_end(), parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())));
        entry.responded(status, head);
        if bodiless {
            close(entry, &mut recorded, status, Ending::Finished).await?;
            return Ok(Response::from_parts(parts, empty()));
        }
        let media = Media::of(content_type(&parts.headers));
        let capture = Capture::new(entry.clone(), Side::Response, duties.recorded.stream(media.clone()));
        let masker = masked.then(|| duties.masks.stream(media));
        let told = body.size_hint().exact();
        let length = if masked { None } else { told };
        let mut answer = AnswerBody::passing(body, masker, capture, entry.clone(), length, answering);
        if told.is_some_and(|length| length <= WHOLE_ANSWER_BYTES_MAX)
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
async fn close(
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

fn empty() -> AnyBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn content_type(headers: &http::HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
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

fn interim_head(status: StatusCode, headers: &http::HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or("Interim");
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
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
