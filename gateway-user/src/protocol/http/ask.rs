//! A request on its way to its target: masked where policy says so, copied into the record, stripped of what ends at
//! the gate. Refuses a body that must be masked and cannot be read, before a byte of it goes on where it is short.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::{mpsc, oneshot};

use super::body::{AnyBody, AskBody, Gate};
use super::exchange::{Exchange, close, empty};
use super::forward;
use crate::judge::{Allowed, Asked, Capture, Denial, Duties, Entry, Held, Whole};
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
    async fn read_whole(&self, asked: &Asked, mut body: Incoming) -> Result<Bytes, Denial> {
        let mut whole = BytesMut::new();
        if asked.request.body_length.is_some_and(|length| length > HELD_BODY_BYTES_MAX as u64) {
            return Err(Denial::too_large(HELD_BODY_BYTES_MAX));
        }
        while let Some(frame) = body.frame().await {
            let data = match frame.map(Frame::into_data) {
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
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// The whole body of a held operation, as it will be sent if people let it.
    ///
    /// # Errors
    /// The refusal, not yet recorded.
    pub(super) async fn seal(
        &self,
        held: &Held,
        asked: &Asked,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Whole, Denial> {
        let bytes = self.read_whole(asked, body).await?;
        let packing = forward::packing(headers);
        self.judge.seal(held, &packing, bytes).map_err(|error| Denial::unreadable(&error))
    }

    /// The body of an allowed operation. A short one that must be masked is masked now, so that its length is known and
    /// nothing of it is sent where it cannot be.
    ///
    /// # Errors
    /// The refusal, recorded.
    pub(super) async fn begin_ask(
        &self,
        asked: &Asked,
        headers: &HeaderMap,
        body: Incoming,
        allowed: &mut Allowed,
    ) -> Result<Ask, Denial> {
        let Allowed { entry, duties, recorded, .. } = allowed;
        if duties.asks.is_empty() || asked.request.body_length == Some(0) {
            return Ok(Ask::Streaming(body));
        }
        let packing = forward::packing(headers);
        let refused = match packing.codings() {
            Err(unknown) => Denial::unreadable(&unknown.clone().into()),
            Ok(_) if headers.contains_key(header::CONTENT_RANGE) => {
                Denial::malformed(&Fault::bad("a part of a body cannot be masked"))
            }
            Ok(codings) => {
                let short = asked.request.body_length.is_some_and(|length| length <= WHOLE_ASK_BYTES_MAX);
                if !short || !codings.is_identity() {
                    return Ok(Ask::Masking(body, packing));
                }
                match self.read_whole(asked, body).await {
                    Err(denial) => denial,
                    Ok(bytes) => match duties.asks.mask_whole(&packing, bytes, HELD_BODY_BYTES_MAX) {
                        Err(error) => Denial::unreadable(&error),
                        Ok((bytes, hits)) => {
                            entry.masked(Side::Request, hits.0);
                            return Ok(Ask::Whole(Whole {
                                bytes: bytes.into(),
                                packing: packing.unpacked(),
                            }));
                        }
                    },
                }
            }
        };
        let why = refused.shown.clone().unwrap_or_default();
        close(entry, recorded, refused.status, Ending::ByClient(why)).await?;
        Err(refused.with_entry(entry.id()))
    }

    pub(super) fn outgoing(
        &self,
        mut parts: http::request::Parts,
        ask: Ask,
        asked: &Asked,
        entry: &Arc<Entry>,
        duties: &Duties,
        expects_continue: bool,
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
        let masked = !duties.asks.is_empty();
        let chunked = match &ask {
            Ask::Streaming(_) => asked.request.body_length.is_none(),
            Ask::Masking(..) => true,
            Ask::Whole(_) => false,
        };
        let body = match ask {
            Ask::Whole(whole) => {
                // It is here already.
                parts.headers.remove(header::EXPECT);
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
            Ask::Streaming(body) => AskBody::passing(body, None, capture(&packing), gate()),
            Ask::Masking(body, packing) => {
                forward::shed(&mut parts.headers, &packing);
                let capture = capture(&packing.unpacked()).unpacked_from(&packing);
                AskBody::passing(body, Some((&duties.asks, &packing)), capture, gate())
            }
        };
        entry.masked(Side::Request, forward::hide(&mut parts.headers, &duties.asks));
        let safe = matches!(parts.method, Method::GET | Method::HEAD);
        forward::request(
            &mut parts.headers,
            self.judge.flow(),
            duties.forward_token,
            !duties.answers.is_empty(),
            safe,
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
            let plan = duties.answers.clone();
            hyper::ext::on_informational(&mut request, move |response| {
                let head = interim_head(response.status(), response.headers(), &plan);
                // A full queue drops advice.
                let _ = tell.try_send((response.status(), head));
            });
        }
        Ok(Outgoing { request, interim, gate: opener })
    }
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
