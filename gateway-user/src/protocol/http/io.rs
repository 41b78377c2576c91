//! The client's socket with the strict screen in it: the HTTP engine reads only bytes that passed. Refuses to wait
//! without a bound: for heads, for bodies, for a client that does not read, and for an upload that nobody takes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::limits::{BODY_IDLE_TIMEOUT, HEAD_BYTES_MAX, HEAD_TIMEOUT, IDLE_TIMEOUT};
use crate::tally::Metered;
use crate::wire::fault::Fault;
use crate::wire::http1::{Screen, Seen};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 16 * 1024;

/// What the engine is told instead of a message that was refused. The exchange that gets it answers the refusal.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n";

/// The side of the wire that exchanges use: what the screen saw, and interim responses.
#[derive(Clone, Default)]
pub(super) struct Wire {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    screen: Screen,
    /// Interim (1xx) responses that wait to be written.
    interim: Vec<u8>,
    /// The engine began to write and has not flushed: nothing may come between.
    writing: bool,
    /// Exchanges whose answer has not ended.
    answering: usize,
    /// When the last of them ended.
    answered: Option<Instant>,
    waker: Option<Waker>,
}

impl Wire {
    /// The head of the request the engine just handed over, or the fault it stands for. The client is not hurried
    /// while the guard lives.
    #[must_use]
    pub(super) fn next_seen(&self) -> Option<(Seen, Answering)> {
        let mut shared = self.lock();
        let seen = shared.screen.next_seen()?;
        shared.answering += 1;
        shared.wake();
        drop(shared);
        Some((seen, Answering { wire: self.clone() }))
    }

    /// The fault that cut off a body, where one did.
    #[must_use]
    pub(super) fn body_fault(&self) -> Option<Fault> {
        self.lock().screen.fault_in_body()
    }

    /// Sends an interim response ahead of the final one. Dropped when the engine is in the middle of a write, or when
    /// too many wait: interim responses are advice.
    pub(super) fn interim(&self, bytes: &[u8]) {
        let mut shared = self.lock();
        if !shared.writing && shared.interim.len() + bytes.len() <= HEAD_BYTES_MAX {
            shared.interim.extend_from_slice(bytes);
            shared.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Lives as long as an exchange: from its request's head to the end of its answer.
pub(super) struct Answering {
    wire: Wire,
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut shared = self.wire.lock();
        shared.answering -= 1;
        shared.answered = Some(Instant::now());
        shared.wake();
    }
}

/// Why an upload ends that goes on after its answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the answer has ended, and the upstream took no byte of the request body for too long")]
pub(super) struct Stalled;

impl Stalled {
    /// Whether this is what a connection ended by.
    pub(super) fn is(error: &(dyn std::error::Error + 'static)) -> bool {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<Self>())
    }
}

/// The client's socket.
pub(super) struct Screened {
    stream: Metered,
    wire: Wire,
    /// Bytes that passed and the engine has not read.
    passed: Vec<u8>,
    given: usize,
    /// Bytes read and not screened: a pipeline past its bound.
    unscreened: Vec<u8>,
    /// The stand-in for a refused message was passed; nothing follows it.
    stood_in: bool,
    at_end: bool,
    /// When the engine began to wait for the bytes it waits for now.
    waiting: Option<Instant>,
    /// When bytes, or their end, went to the engine last, or bytes to the client.
    moved: Instant,
    /// When the head in progress began; at first, when the connection did.
    head_began: Option<Instant>,
    read_alarm: Pin<Box<Sleep>>,
    write_alarm: Option<Pin<Box<Sleep>>>,
}

impl Screened {
    /// Screens this socket; the second value is for the exchanges.
    #[must_use]
    pub(super) fn new(stream: Metered) -> (Self, Wire) {
        let wire = Wire::default();
        let this = Self {
            stream,
            wire: wire.clone(),
            passed: Vec::new(),
            given: 0,
            unscreened: Vec::new(),
            stood_in: false,
            at_end: false,
            waiting: None,
            moved: Instant::now(),
            head_began: Some(Instant::now()),
            read_alarm: Box::pin(tokio::time::sleep(HEAD_TIMEOUT)),
            write_alarm: None,
        };
        (this, wire)
    }

    /// Screens what was read; tells the engine of a fault by a stand-in request.
    fn screen(&mut self, shared: &mut Shared, fresh: &[u8]) {
        let joined;
        let input = if self.unscreened.is_empty() {
            fresh
        } else {
            joined = [std::mem::take(&mut self.unscreened).as_slice(), fresh].concat();
            &joined
        };
        let taken = shared.screen.push(input, &mut self.passed);
        self.unscreened.extend_from_slice(&input[taken..]);
        self.after_screening(&shared.screen);
    }

    fn after_screening(&mut self, screen: &Screen) {
        self.head_began = match screen.in_head() {
            true => Some(self.head_began.unwrap_or_else(Instant::now)),
            false => None,
        };
        if screen.fault_in_body().is_some() {
            self.at_end = true;
        } else if screen.is_over() && !self.stood_in {
            self.stood_in = true;
            self.passed.extend_from_slice(STAND_IN);
        }
    }

    fn give(&mut self, out: &mut ReadBufCursor<'_>) -> bool {
        let left = &self.passed[self.given..];
        if left.is_empty() {
            return false;
        }
        let take = left.len().min(out.remaining());
        out.put_slice(&left[..take]);
        self.given += take;
        if self.given == self.passed.len() {
            self.passed.clear();
            self.given = 0;
        }
        true
    }

    /// When the client's patience with us, and ours with it, ends; never while it waits for an answer.
    fn due(&self, shared: &Shared) -> Option<Instant> {
        let waiting = self.waiting.unwrap_or_else(Instant::now);
        match self.head_began {
            Some(began) => Some(began + HEAD_TIMEOUT),
            None if !shared.screen.between_messages() => Some(waiting + BODY_IDLE_TIMEOUT),
            None if shared.answering > 0 => None,
            // From the last byte of the answer: a client may still be reading it when its entry has ended.
            None => Some(waiting.max(shared.answered.unwrap_or(waiting)).max(self.moved) + IDLE_TIMEOUT),
        }
    }

    /// Ends a wait that took too long. `Pending` while it has not.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.wire.clone();
        let mut shared = wire.lock();
        shared.waker = Some(cx.waker().clone());
        let Some(due) = self.due(&shared) else { return Poll::Pending };
        if Instant::now() < due {
            if self.read_alarm.deadline() > due || self.read_alarm.is_elapsed() {
                self.read_alarm.as_mut().reset(due);
            }
            ready!(self.read_alarm.as_mut().poll(cx));
            // It was set for an earlier wait.
            self.read_alarm.as_mut().reset(due);
            ready!(self.read_alarm.as_mut().poll(cx));
        }
        if shared.screen.in_head() {
            shared.screen.refuse(Fault::new(408, "the request head took too long"));
            self.after_screening(&shared.screen);
        } else if shared.screen.between_messages() {
            self.at_end = true;
        } else {
            let why = "the client sent no byte of the body for too long";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        Poll::Ready(Ok(()))
    }

    /// Bounds how long an upload may stand still once its answer has ended. The upstream takes no more of it then, so
    /// the engine asks for no byte, and no other bound of this connection is looked at.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (answering, answered) = {
            let shared = self.wire.lock();
            (shared.answering, shared.answered)
        };
        let (0, Some(answered), None) = (answering, answered, self.waiting) else { return Poll::Pending };
        let due = self.moved.max(answered) + BODY_IDLE_TIMEOUT;
        if self.read_alarm.deadline() != due {
            self.read_alarm.as_mut().reset(due);
        }
        ready!(self.read_alarm.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, Stalled))
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.wire.clone();
        let mut shared = wire.lock();
        while !shared.interim.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &shared.interim) {
                Poll::Ready(written) => {
                    shared.interim.drain(..written?);
                    self.write_alarm = None;
                }
                Poll::Pending => {
                    drop(shared);
                    return self.poll_reader(cx).map(Err);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Bounds how long a client may leave an answer unread.
    fn poll_reader(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let alarm = self.write_alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY_IDLE_TIMEOUT)));
        ready!(alarm.as_mut().poll(cx));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client read no byte of the answer for too long",
        ))
    }
}

impl Read for Screened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut buffer = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        loop {
            if this.give(&mut out) || this.at_end {
                (this.waiting, this.moved) = (None, Instant::now());
                return Poll::Ready(Ok(()));
            }
            if this.stood_in {
                // An end of input now would make the engine drop the answer to the stand-in.
                return Poll::Pending;
            }
            let wire = this.wire.clone();
            if !this.unscreened.is_empty() {
                let mut shared = wire.lock();
                this.screen(&mut shared, &[]);
                if this.passed.is_empty() {
                    shared.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                continue;
            }
            let mut read = ReadBuf::uninit(&mut buffer);
            match Pin::new(&mut this.stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => this.at_end = true,
                Poll::Ready(Ok(())) => this.screen(&mut wire.lock(), read.filled()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.waiting.get_or_insert_with(Instant::now);
                    ready!(this.poll_due(cx))?;
                }
            }
        }
    }
}

impl Write for Screened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.as_mut().poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_interim(cx))?;
        this.wire.lock().writing = true;
        match Pin::new(&mut this.stream).poll_write_vectored(cx, slices) {
            Poll::Ready(written) => {
                this.write_alarm = None;
                this.moved = Instant::now();
                Poll::Ready(written)
            }
            Poll::Pending => this.poll_reader(cx).map(Err),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_interim(cx))?;
        this.wire.lock().writing = false;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        // The engine flushes whenever it is woken, also while it does not read.
        match this.poll_upload(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
