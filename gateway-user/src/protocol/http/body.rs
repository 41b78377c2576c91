//! Bodies on their way through, either way: copied into the record as they stream, masked before they are written,
//! and the answer's last bytes held until everything before them is durable. Never buffers a whole body.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use super::forward;
use super::io::Answering;
use super::source::Source;
use crate::judge::{Capture, Entry};
use crate::limits::{BODY_IDLE_TIMEOUT, CONTINUE_TIMEOUT};
use crate::mask::{MaskError, Packing, Plan, Unpacker};
use crate::record::entry::{Ending, Side};
use crate::record::{Durable, RecordError};

/// What can end a body early.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Any body of ours.
pub(super) type AnyBody = UnsyncBoxBody<Bytes, BodyError>;

/// What ended a body early, and how the entry ends by it.
type Failure = (BodyError, Ending);

/// A request body on its way to the target.
pub(super) struct AskBody {
    client: Source,
    masking: Option<Masking>,
    trailing: Trailing,
    capture: Capture,
    /// What follows the last bytes.
    state: Asking,
    /// Closed until the target asks for the body (100), or has said nothing for a while.
    gate: Option<Gate>,
}

enum Asking {
    Streaming,
    /// The client sent everything; this is left of it.
    Ending(VecDeque<Frame<Bytes>>),
}

/// A body that is masked on its way, one bounded piece after the other.
struct Masking {
    unpacker: Unpacker,
    packing: Packing,
    /// More may be had of what was given.
    has_more: bool,
}

impl Masking {
    fn new(plan: &Plan, packing: &Packing) -> Self {
        Self { unpacker: plan.unpack(packing), packing: packing.clone(), has_more: false }
    }

    fn give(&mut self, data: Bytes) {
        self.unpacker.give(data);
        self.has_more = true;
    }

    /// The next piece of what was given; it may be empty.
    fn piece(&mut self) -> Result<Bytes, MaskError> {
        let mut out = Vec::new();
        self.has_more = self.unpacker.take(&mut out)?;
        Ok(out.into())
    }
}

/// What becomes of the trailers of a message.
pub(super) struct Trailing {
    /// Hides the values of fields that masks name.
    plan: Plan,
    /// Fields that were judged, set or removed in the head: they come too late to be either, and end here
    /// (RFC 9110 section 6.5.1 lets anybody on the way drop them).
    late: Vec<String>,
}

impl Trailing {
    /// Trailers under the masks of `plan`, without the fields that `late` names in lower case.
    #[must_use]
    pub(super) fn new(plan: &Plan, late: Vec<String>) -> Self {
        Self { plan: plan.clone(), late }
    }

    /// Trailers without what no longer holds, what comes too late and what is hidden.
    fn pass(
        &self,
        trailers: Frame<Bytes>,
        unpacked: Option<&Packing>,
        entry: &Entry,
        side: Side,
    ) -> Frame<Bytes> {
        trailers.into_trailers().map_or_else(
            |other| other,
            |mut fields| {
                if let Some(packing) = unpacked {
                    forward::shed(&mut fields, packing);
                }
                self.late.iter().for_each(|name| forward::without(&mut fields, name));
                entry.masked(side, forward::hide(&mut fields, &self.plan));
                Frame::trailers(fields)
            },
        )
    }
}

/// Waits for an interim 100.
pub(super) struct Gate {
    /// `None` when nobody is left to open it.
    opened: Option<oneshot::Receiver<()>>,
    patience: Pin<Box<Sleep>>,
}

impl Gate {
    /// A closed gate, and what opens it.
    #[must_use]
    pub(super) fn closed() -> (Self, oneshot::Sender<()>) {
        let (open, opened) = oneshot::channel();
        (Self { opened: Some(opened), patience: Box::pin(sleep(CONTINUE_TIMEOUT)) }, open)
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.opened.as_mut().map(|opened| Pin::new(opened).poll(cx)) {
            Some(Poll::Ready(Ok(()))) => return Poll::Ready(()),
            // A sender that is gone will not open it: the patience does. A receiver must not be asked again then.
            Some(Poll::Ready(Err(_))) => self.opened = None,
            Some(Poll::Pending) | None => {}
        }
        self.patience.as_mut().poll(cx)
    }
}

impl AskBody {
    /// Passes `client`'s body on, through `mask` where the target must not see all of it, and into the record.
    #[must_use]
    pub(super) fn passing(
        client: Source,
        mask: Option<(&Plan, &Packing)>,
        trailing: Trailing,
        capture: Capture,
        gate: Option<Gate>,
    ) -> AnyBody {
        let masking = mask.map(|(plan, packing)| Masking::new(plan, packing));
        Self { client, masking, trailing, capture, state: Asking::Streaming, gate }.boxed_unsync()
    }

    /// The client sent everything: what the masker held back comes last, before any trailers.
    fn finish(&mut self, trailers: Option<Frame<Bytes>>) -> Result<(), BodyError> {
        let mut rest = VecDeque::new();
        let unpacked = self.masking.as_ref().map(|masking| &masking.packing);
        let entry = self.capture.entry();
        let trailers = trailers.map(|trailers| self.trailing.pass(trailers, unpacked, entry, Side::Request));
        if let Some(mut masking) = self.masking.take() {
            let mut tail = Vec::new();
            let hits = masking.unpacker.finish(&mut tail)?;
            self.capture.entry().masked(Side::Request, hits);
            let tail = Bytes::from(tail);
            self.capture.saw(&tail)?;
            rest.extend((!tail.is_empty()).then(|| Frame::data(tail)));
        }
        self.capture.finish()?;
        rest.extend(trailers);
        self.state = Asking::Ending(rest);
        Ok(())
    }

    fn poll_masked(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        loop {
            if let Asking::Ending(rest) = &mut self.state {
                return Poll::Ready(Ok(rest.pop_front()));
            }
            if let Some(masking) = self.masking.as_mut().filter(|masking| masking.has_more) {
                let piece = masking.piece()?;
                self.capture.saw(&piece)?;
                if !piece.is_empty() {
                    return Poll::Ready(Ok(Some(Frame::data(piece))));
                }
                continue;
            }
            let Some(frame) = ready!(Pin::new(&mut self.client).poll_frame(cx)).transpose()? else {
                self.finish(None)?;
                continue;
            };
            match (frame.into_data(), &mut self.masking) {
                (Ok(data), Some(masking)) => masking.give(data),
                (Ok(data), None) => {
                    self.capture.saw(&data)?;
                    if self.client.is_end_stream() {
                        self.finish(None)?;
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                (Err(trailers), _) => self.finish(Some(trailers))?,
            }
        }
    }
}

impl Body for AskBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        self.poll_masked(cx).map(Result::transpose)
    }

    fn size_hint(&self) -> SizeHint {
        if self.masking.is_some() { SizeHint::default() } else { self.client.size_hint() }
    }
}

/// A response body on its way to the client.
pub(super) struct AnswerBody {
    upstream: Source,
    masking: Option<Masking>,
    trailing: Trailing,
    capture: Capture,
    entry: Arc<Entry>,
    /// Bytes still to come, where the length is known and stays.
    left: Option<u64>,
    /// The upstream sent everything, and these trailers; what is left of it is unpacked piece by piece.
    sent: Option<Option<Frame<Bytes>>>,
    /// A piece that is not the last one if another follows it: the last one waits for the record.
    ahead: Option<Bytes>,
    state: State,
    /// What comes first, where that was waited for before the head went out.
    first: Option<Frame<Bytes>>,
    patience: Pin<Box<Sleep>>,
    _answering: Answering,
}

enum State {
    Streaming,
    /// Everything was seen; the rest waits for the record.
    Recording {
        durable: Durable,
        rest: VecDeque<Frame<Bytes>>,
    },
    Ending {
        rest: VecDeque<Frame<Bytes>>,
    },
    Over,
}

impl AnswerBody {
    /// Passes `upstream`'s body on: through `mask` where the client must not see all of it, and into the record.
    /// `length` is the length the client was told, if it was told one.
    #[must_use]
    pub(super) fn passing(
        upstream: Source,
        (mask, trailing): (Option<(&Plan, &Packing)>, Trailing),
        capture: Capture,
        length: Option<u64>,
        answering: Answering,
    ) -> Self {
        Self {
            upstream,
            masking: mask.map(|(plan, packing)| Masking::new(plan, packing)),
            trailing,
            entry: Arc::clone(capture.entry()),
            capture,
            left: length,
            sent: None,
            ahead: None,
            state: State::Streaming,
            first: None,
            patience: Box::pin(sleep(BODY_IDLE_TIMEOUT)),
            _answering: answering,
        }
    }

    /// Waits for the first bytes. Where they are all there are, they are durable then, and so is the whole exchange: a
    /// short answer costs one wait for the disk, and leaves in one piece.
    ///
    /// # Errors
    /// The first bytes cannot go out; the entry is still open, and ends so.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.first = std::future::poll_fn(|cx| self.poll_answer(cx)).await.transpose()?;
        Ok(())
    }

    /// Takes bytes that the client may see as they are.
    fn pass(&mut self, data: Bytes) -> Result<Option<Frame<Bytes>>, BodyError> {
        self.capture.saw(&data)?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(data.len() as u64);
        }
        if self.left == Some(0) || self.upstream.is_end_stream() {
            return self.finish(Some(data), None).map(|()| None);
        }
        Ok(Some(Frame::data(data)))
    }

    /// The next piece of what is at hand, where something is. One piece is kept back while another may follow it at
    /// once, so that the last one of all is known.
    fn unpack(&mut self) -> Result<Option<Frame<Bytes>>, BodyError> {
        while let Some(masking) = self.masking.as_mut().filter(|masking| masking.has_more) {
            let piece = masking.piece()?;
            self.capture.saw(&piece)?;
            if !piece.is_empty()
                && let Some(before) = self.ahead.replace(piece)
            {
                return Ok(Some(Frame::data(before)));
            }
        }
        if let Some(trailers) = self.sent.take() {
            let last = self.ahead.take();
            return self.finish(last, trailers).map(|()| None);
        }
        Ok(self.ahead.take().map(Frame::data))
    }

    /// The body is whole: what the masker held back, then the entry's end, then the wait for the disk.
    fn finish(&mut self, last: Option<Bytes>, trailers: Option<Frame<Bytes>>) -> Result<(), BodyError> {
        let mut rest: VecDeque<Frame<Bytes>> =
            last.filter(|bytes| !bytes.is_empty()).map(Frame::data).into_iter().collect();
        let unpacked = self.masking.as_ref().map(|masking| &masking.packing);
        let trailers =
            trailers.map(|trailers| self.trailing.pass(trailers, unpacked, &self.entry, Side::Response));
        if let Some(mut masking) = self.masking.take() {
            let mut tail = Vec::new();
            let hits = masking.unpacker.finish(&mut tail)?;
            self.entry.masked(Side::Response, hits);
            let tail = Bytes::from(tail);
            self.capture.saw(&tail)?;
            rest.extend((!tail.is_empty()).then(|| Frame::data(tail)));
        }
        rest.extend(trailers);
        self.capture.finish()?;
        self.state = match self.entry.close(Ending::Finished)? {
            Some(durable) => State::Recording { durable, rest },
            None => State::Ending { rest },
        };
        Ok(())
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Failure>> {
        let by_upstream = |error: BodyError| {
            let why = error.to_string();
            let ours = error.is::<RecordError>();
            (error, if ours { Ending::ByGate(why) } else { Ending::ByUpstream(why) })
        };
        match self.unpack() {
            Ok(None) if matches!(self.state, State::Streaming) => {}
            unpacked => return Poll::Ready(unpacked.map_err(by_upstream)),
        }
        let frame = match Pin::new(&mut self.upstream).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.patience.as_mut().poll(cx));
                return Poll::Ready(Err(by_upstream(
                    "the upstream sent no byte of the body for too long".into(),
                )));
            }
        };
        self.patience.as_mut().reset(Instant::now() + BODY_IDLE_TIMEOUT);
        let passed = match frame.transpose().map(|frame| frame.map(Frame::into_data)) {
            Err(error) => Err(error),
            Ok(None) => {
                self.sent = Some(None);
                self.unpack()
            }
            Ok(Some(Err(trailers))) => {
                self.sent = Some(Some(trailers));
                self.unpack()
            }
            Ok(Some(Ok(data))) => match &mut self.masking {
                None => self.pass(data),
                Some(masking) => {
                    masking.give(data);
                    self.sent = self.upstream.is_end_stream().then_some(None);
                    self.unpack()
                }
            },
        };
        Poll::Ready(passed.map_err(by_upstream))
    }

    /// The next frame; a failure leaves the entry open.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        loop {
            match &mut self.state {
                State::Streaming => match ready!(self.poll_upstream(cx)) {
                    Ok(Some(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                    Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                    Ok(None) => {}
                    Err(failure) => {
                        self.state = State::Over;
                        return Poll::Ready(Some(Err(failure)));
                    }
                },
                State::Recording { durable, rest } => {
                    let written = ready!(Pin::new(durable).poll(cx)).and_then(|()| self.entry.is_whole());
                    match written {
                        Ok(()) => self.state = State::Ending { rest: std::mem::take(rest) },
                        Err(error) => {
                            self.state = State::Over;
                            let ending = Ending::ByGate(error.to_string());
                            return Poll::Ready(Some(Err((error.into(), ending))));
                        }
                    }
                }
                State::Ending { rest } => match rest.pop_front() {
                    Some(frame) => return Poll::Ready(Some(Ok(frame))),
                    None => self.state = State::Over,
                },
                State::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let (error, ending) = match ready!(self.poll_answer(cx)) {
            None => return Poll::Ready(None),
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
            Some(Err(failure)) => failure,
        };
        if let Err(unwritten) = self.entry.close(ending) {
            tracing::error!(entry = %self.entry.id(), error = %unwritten, "an entry's end could not be written");
        }
        Poll::Ready(Some(Err(error)))
    }

    /// Exact once everything that is left is at hand; a short masked answer gets its right length by that.
    fn size_hint(&self) -> SizeHint {
        let rest = match &self.state {
            State::Ending { rest } => rest.iter().map(frame_bytes).sum(),
            State::Over => Some(0),
            State::Streaming | State::Recording { .. } => None,
        };
        let first = match &self.first {
            None => Some(0),
            Some(frame) => frame_bytes(frame),
        };
        let whole = rest.zip(first).map(|(rest, first)| rest + first);
        whole.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Bytes of a frame of data; trailers have no length.
fn frame_bytes(frame: &Frame<Bytes>) -> Option<u64> {
    frame.data_ref().map(|bytes| bytes.len() as u64)
}
