//! A request body that must be known whole: by rules that depend on it, or by the people who decide. Bounded for one and
//! for all together; refuses what is beyond either.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::time::{Instant, timeout_at};

use super::io::Wire;
use crate::judge::{self, BodyRoom, Denial};
use crate::limits::{HELD_BODY_BYTES_MAX, WHOLE_BODY_TIMEOUT};
use crate::mask::Packing;
use crate::wire::fault::Fault;

/// A whole body, and the room it takes.
pub(super) struct Whole {
    body: judge::Whole,
    room: BodyRoom,
}

impl Whole {
    /// Its bytes, and how they are packed.
    #[must_use]
    pub(super) fn body(&self) -> &judge::Whole {
        &self.body
    }

    /// Takes other bytes in their place.
    pub(super) fn becomes(&mut self, bytes: Vec<u8>) {
        self.body.bytes = bytes.into();
    }

    /// As it is once masked.
    ///
    /// # Errors
    /// Those of `seal`.
    pub(super) fn sealed<E>(self, seal: impl FnOnce(Bytes) -> Result<judge::Whole, E>) -> Result<Self, E> {
        Ok(Self { body: seal(self.body.bytes)?, room: self.room })
    }

    /// The body, when it goes on; the room it took is free for others.
    #[must_use]
    pub(super) fn into_body(self) -> judge::Whole {
        drop(self.room);
        self.body
    }
}

/// Reads a body whole. `length` is what its head says, `packing` how it is packed.
///
/// # Errors
/// The refusal: too large, too slow, no room, or broken off.
pub(super) async fn read(
    wire: &Wire,
    length: Option<u64>,
    packing: Packing,
    mut body: Incoming,
    mut room: BodyRoom,
) -> Result<Whole, Denial> {
    let mut whole = BytesMut::new();
    if length.is_some_and(|length| length > HELD_BODY_BYTES_MAX as u64) {
        return Err(Denial::too_large(HELD_BODY_BYTES_MAX));
    }
    let late = || Denial::malformed(&Fault::new(408, "the request body took too long"));
    let deadline = Instant::now() + WHOLE_BODY_TIMEOUT;
    while let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(|_| late())? {
        let data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(_trailers)) => continue,
            Err(_) => {
                let fault = wire.body_fault().unwrap_or(Fault::bad("the request body broke off"));
                return Err(Denial::malformed(&fault));
            }
        };
        if whole.len() + data.len() > HELD_BODY_BYTES_MAX {
            return Err(Denial::too_large(HELD_BODY_BYTES_MAX));
        }
        if !room.grow(data.len()) {
            return Err(Denial::full());
        }
        whole.extend_from_slice(&data);
    }
    Ok(Whole { body: judge::Whole { bytes: whole.freeze(), packing }, room })
}

impl Denial {
    fn full() -> Self {
        Self { closes: true, ..Self::busy("too many bytes wait to be judged or approved") }
    }
}
