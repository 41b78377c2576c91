//! A request on its way to its target: masked where policy says so, copied into the record, stripped of what ends at
//! the gate. Refuses a body that must be masked and cannot be read, before a byte of it goes on where it is short.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use tokio::sync::{mpsc, oneshot};

use super::body::{AnyBody, AskBody, Gate, Trailing};
use super::exchange::{Exchange, Sending, close, empty};
use super::forward;
use super::source::Source;
use super::whole::{self, Whole};
use crate::judge::{self, Allowed, Asked, Capture, DIGESTS, Denial, Duties, Entry};
use crate::limits::{HELD_BODY_BYTES_MAX, WHOLE_ASK_BYTES_MAX};
use crate::mask::{MaskError, Packing, Plan};
use crate::record::RecordError;
use crate::record::entry::{Ending, Side};
use crate::wire::fault::Fault;

/// Interim responses of one exchange that may wait to be passed on. More are dropped: they are advice.
const INTERIM_MAX: usize = 8;

/// A request's body: still at the client, or known whole because a human had to see it or it is short.
pub(super) enum Ask {
    Streaming(Incoming),
    /// To be masked as it streams.
    Masking(Incoming, Packing),
    Whole(Whole),
}

/// A request ready to be sent, and what listens for its interim responses.
pub(super) struct Outgoing {
    pub(super) request: Request<AnyBody>,
    pub(super) interim: mpsc::Receiver<(StatusCode, Vec<u8>)>,
    pub(super) gate: Option<oneshot::Sender<()>>,
}

impl Exchange {
    /// The body of an allowed operation. A short one that must be masked is masked now, so that its length is known and
    /// nothing of it is sent where it cannot be.
    ///
    /// # Errors
    /// The refusal, recorded.
    pub(super) async fn begin_ask(
        &self,
        asked: &Asked,
        headers: &HeaderMap,
        ask: Ask,
        allowed: &mut Allowed,
    ) -> Result<Ask, Denial> {
        let Allowed { entry, duties, recorded, .. } = allowed;
        if duties.asks.is_empty() || asked.request.body_length == Some(0) {
            return Ok(ask);
        }
        let refused = match self.masked(asked, headers, ask, duties, entry).await {
            Ok(ask) => return Ok(ask),
            Err(refused) => refused,
        };
        let why = refused.shown.clone().unwrap_or_default();
        close(entry, recorded, refused.status, Ending::ByClient(why)).await?;
        Err(refused.with_entry(entry.id()))
    }

    async fn masked(
        &self,
        asked: &Asked,
        headers: &HeaderMap,
        ask: Ask,
        duties: &Duties,
        entry: &Arc<Entry>,
    ) -> Result<Ask, Denial> {
        let packing = forward::packing(headers);
        let is_plain = match packing.codings() {
            Ok(codings) => codings.is_identity(),
            Err(unknown) => return Err(Denial::unreadable(&unknown.clone().into())),
        };
        if headers.contains_key(header::CONTENT_RANGE) {
            return Err(Denial::malformed(&Fault::bad("a part of a body cannot be masked")));
        }
        let length = asked.request.body_length;
        let whole = match ask {
            Ask::Whole(whole) => whole,
            Ask::Streaming(body) | Ask::Masking(body, _) => {
                if !is_plain || length.is_none_or(|length| length > WHOLE_ASK_BYTES_MAX) {
                    return Ok(Ask::Masking(body, packing));
                }
                whole::read(&self.wire, length, packing, body, self.judge.flow_room()).await?
            }
        };
        let sealed = whole.sealed(|bytes| {
            let packing = forward::packing(headers);
            let (bytes, hits) = duties.asks.mask_whole(&packing, bytes, HELD_BODY_BYTES_MAX)?;
            entry.masked(Side::Request, hits);
            Ok(judge::Whole { bytes: bytes.into(), packing: packing.unpacked() })
        });
        sealed.map(Ask::Whole).map_err(|error: MaskError| Denial::unreadable(&error))
    }

    pub(super) fn outgoing(
        &self,
        mut parts: http::request::Parts,
        Sending { ask, plan, expects_continue }: Sending,
        asked: &Asked,
        entry: &Arc<Entry>,
        duties: &Duties,
    ) -> Result<Outgoing, RecordError> {
        let packing = forward::packing(&parts.headers);
        let capture = |packing| Capture::new(entry.clone(), Side::Request, &duties.recorded, packing);
        let mut opener = None;
        let mut gate = || {
            expects_continue.then(|| {
                let (gate, open) = Gate::closed();
                opener = Some(open);
                gate
            })
        };
        let trailing = || {
            let late = plan.names().into_iter().chain(duties.too_late());
            Trailing::new(&duties.asks, late.collect())
        };
        let masked = !duties.asks.is_empty();
        let chunked = match &ask {
            Ask::Streaming(_) => asked.request.body_length.is_none(),
            Ask::Masking(..) => true,
            Ask::Whole(_) => false,
        };
        let body = match ask {
            Ask::Whole(whole) => {
                let whole = whole.into_body();
                let mut capture = capture(&whole.packing).unpacked_from(&packing);
                capture.saw(&whole.bytes)?;
                capture.finish()?;
                if masked {
                    forward::shed(&mut parts.headers, &packing);
                }
                parts.headers.remove(header::CONTENT_LENGTH);
                if asked.request.body_length != Some(0) {
                    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.bytes.len()));
                }
                Full::new(whole.bytes).map_err(|never| match never {}).boxed_unsync()
            }
            Ask::Streaming(body) if body.is_end_stream() && !chunked => empty(),
            Ask::Streaming(body) => {
                AskBody::passing(Source::of(body, &plan, entry), None, trailing(), capture(&packing), gate())
            }
            Ask::Masking(body, packing) => {
                forward::shed(&mut parts.headers, &packing);
                let capture = capture(&packing.unpacked()).unpacked_from(&packing);
                let body = Source::of(body, &plan, entry);
                AskBody::passing(body, Some((&duties.asks, &packing)), trailing(), capture, gate())
            }
        };
        if plan.has_fields() && asked.request.body_length != Some(0) {
            for name in DIGESTS {
                parts.headers.remove(name);
            }
        }
        entry.masked(Side::Request, forward::hide(&mut parts.headers, &duties.asks));
        let safe = matches!(parts.method, Method::GET | Method::HEAD);
        forward::request(
            &mut parts.headers,
            self.judge.flow(),
            duties.forward_token,
            forward::Changed { masked: !duties.answers.is_empty(), rewritten: duties.rewrites.has_fields() },
            safe,
        );
        forward::credentials(&mut parts.headers, duties);
        if chunked {
            say_chunked(&mut parts.headers);
        }
        parts.uri =
            http::Uri::from(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        parts.version = http::Version::HTTP_11;
        let mut request = Request::from_parts(parts, body);
        let interim = listening(&mut request, asked, duties);
        Ok(Outgoing { request, interim, gate: opener })
    }
}

/// Says that a body comes in chunks, because the engine takes a GET of unknown length for one without a body.
fn say_chunked(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

impl Denial {
    /// A request body that must be masked and cannot be read; the connection is over.
    pub(super) fn unreadable(error: &MaskError) -> Self {
        let status = match error {
            MaskError::Coding(_) | MaskError::Encoding(_) => 415,
            MaskError::TooLarge { .. } => 413,
            _ => 400,
        };
        Self { status, shown: Some(error.to_string()), entry: None, closes: true, demand: None }
    }
}

/// Hears the interim responses to a request.
fn listening(
    request: &mut Request<AnyBody>,
    asked: &Asked,
    duties: &Duties,
) -> mpsc::Receiver<(StatusCode, Vec<u8>)> {
    let (tell, interim) = mpsc::channel(INTERIM_MAX);
    // A client of HTTP/1.0 would take an interim answer for the answer (RFC 9110 section 15.2).
    if asked.minor > 0 {
        let plan = duties.answers.clone();
        hyper::ext::on_informational(request, move |response| {
            let head = interim_head(response.status(), response.headers(), &plan);
            // A full queue drops advice.
            let _ = tell.try_send((response.status(), head));
        });
    }
    interim
}

fn interim_head(status: StatusCode, headers: &HeaderMap, plan: &Plan) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or("Interim");
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        let shown = plan.header(name.as_str(), value.as_bytes()).map(|(shown, _)| shown);
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(shown.as_deref().unwrap_or(value.as_bytes()));
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
