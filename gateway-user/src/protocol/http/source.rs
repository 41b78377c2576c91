//! A body as it comes, or as rewrites change it on its way. Refuses to let anything follow what cannot be rewritten.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::body::BodyError;
use crate::judge::Entry;
use crate::rewrite::{Json, Plan};

/// See the module.
pub(super) struct Source {
    body: Incoming,
    change: Option<Box<Change>>,
}

/// A body that is being rewritten.
struct Change {
    json: Json,
    entry: Arc<Entry>,
    /// What came after the last byte of data.
    trailers: Option<Frame<Bytes>>,
    over: bool,
}

impl Source {
    /// `body`, with the members changed that `plan` names; `entry` is told which rewrites made a difference.
    #[must_use]
    pub(super) fn of(body: Incoming, plan: &Plan, entry: &Arc<Entry>) -> Self {
        let change = plan.has_fields().then(|| {
            let (json, entry) = (plan.body(), Arc::clone(entry));
            Box::new(Change { json, entry, trailers: None, over: false })
        });
        Self { body, change }
    }
}

impl Change {
    fn end(&mut self) -> Result<Option<Frame<Bytes>>, BodyError> {
        self.over = true;
        let mut rest = Vec::new();
        self.json.finish(&mut rest)?;
        self.entry.rewrote(self.json.applied());
        Ok(if rest.is_empty() { self.trailers.take() } else { Some(Frame::data(rest.into())) })
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, change } = &mut *self;
        let Some(change) = change else {
            return Pin::new(body).poll_frame(cx).map_err(Into::into);
        };
        loop {
            if change.over {
                return Poll::Ready(change.trailers.take().map(Ok));
            }
            let data = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => return Poll::Ready(change.end().transpose()),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => {
                        change.trailers = Some(trailers);
                        return Poll::Ready(change.end().transpose());
                    }
                },
            };
            let mut out = Vec::with_capacity(data.len());
            if let Err(error) = change.json.push(&data, &mut out) {
                change.over = true;
                return Poll::Ready(Some(Err(error.into())));
            }
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.change {
            None => self.body.is_end_stream(),
            Some(change) => change.over && change.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.change.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}
