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

use super::io::Answering;
use super::source::Source;
use crate::judge::{Capture, Entry};
use crate::limits::{BODY_IDLE_TIMEOUT, CONTINUE_TIMEOUT};
use crate::mask;
use crate::record::entry::Ending;
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
    capture: Capture,
    /// Closed until the target asks for the body (100), or has said nothing for a while.
    gate: Option<Gate>,
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
    /// Passes `client`'s body on, through the record.
    #[must_use]
    pub(super) fn passing(client: Source, capture: Capture, gate: Option<Gate>) -> AnyBody {
        Self { client, capture, gate }.boxed_unsync()
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
        let frame = match ready!(Pin::new(&mut self.client).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(self.capture.finish().err().map(|error| Err(error.into()))),
        };
        if let Some(data) = frame.data_ref()
            && let Err(error) = self.capture.saw(data)
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        if self.client.is_end_stream()
            && let Err(error) = self.capture.finish()
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        self.client.size_hint()
    }
}

/// A response body on its way to the client.
pub(super) struct AnswerBody {
    upstream: Source,
    masker: Option<mask::Stream>,
    capture: Capture,
    entry: Arc<Entry>,
    /// Bytes still to come, where the length is known and stays.
    left: Option<u64>,
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
    /// Passes `upstream`'s body on: through `masker` where the client must not see all of it, and into the record.
    /// `length` is the length the client was told, if it was told one.
    #[must_use]
    pub(super) fn passing(
        upstream: Source,
        masker: Option<mask::Stream>,
        capture: Capture,
        entry: Arc<Entry>,
        length: Option<u64>,
        answering: Answering,
    ) -> Self {
        Self {
            upstream,
            masker,
            capture,
            entry,
            left: length,
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

    /// Takes bytes from the upstream; gives what the client may see of them.
    fn take(&mut self, data: Bytes) -> Result<Bytes, BodyError> {
        let shown = match &mut self.masker {
            None => data,
            Some(masker) => {
                let mut out = Vec::with_capacity(data.len());
                masker.push(&data, &mut out)?;
                out.into()
            }
        };
        self.capture.saw(&shown)?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(shown.len() as u64);
        }
        Ok(shown)
    }

    /// The body is whole: what the masker held back, then the entry's end, then the wait for the disk.
    fn finish(&mut self, last: Option<Bytes>, trailers: Option<Frame<Bytes>>) -> Result<(), BodyError> {
        let mut rest: VecDeque<Frame<Bytes>> =
            last.filter(|bytes| !bytes.is_empty()).map(Frame::data).into_iter().collect();
        if let Some(mut masker) = self.masker.take() {
            let mut tail = Vec::new();
            let hits = masker.finish(&mut tail)?;
            self.entry.masked(hits.0);
            self.capture.saw(&tail)?;
            if !tail.is_empty() {
                rest.push_back(Frame::data(tail.into()));
            }
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
        let ended = match frame {
            None => self.finish(None, None).map(|()| None),
            Some(Err(error)) => Err(error),
            Some(Ok(frame)) => match frame.into_data() {
                Err(trailers) => self.finish(None, Some(trailers)).map(|()| None),
                Ok(data) => self.take(data).and_then(|shown| {
                    if self.left == Some(0) || self.upstream.is_end_stream() {
                        self.finish(Some(shown), None).map(|()| None)
                    } else {
                        Ok(Some(Frame::data(shown)))
                    }
                }),
            },
        };
        Poll::Ready(ended.map_err(by_upstream))
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
