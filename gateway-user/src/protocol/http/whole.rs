//! A request body that must be known whole: by rules that depend on it, or by the people who decide. Bounded for one and
//! for all together; refuses what is beyond either.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::io::Wire;
use crate::judge::{self, Denial};
use crate::limits::{HELD_BODY_BYTES_MAX, WHOLE_BODIES_BYTES_MAX};
use crate::mask::Packing;
use crate::wire::fault::Fault;

/// Bytes that one permit stands for.
const SHARE_BYTES: usize = 16 * 1024;

/// Room for all such bodies of this process.
static ROOM: Semaphore = Semaphore::const_new(WHOLE_BODIES_BYTES_MAX / SHARE_BYTES);

/// A whole body, and the room it takes.
pub(super) struct Whole {
    body: judge::Whole,
    room: Vec<SemaphorePermit<'static>>,
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
/// The refusal: too large, no room, or broken off.
pub(super) async fn read(
    wire: &Wire,
    length: Option<u64>,
    packing: Packing,
    mut body: Incoming,
) -> Result<Whole, Denial> {
    let (mut whole, mut room, mut space) = (BytesMut::new(), Vec::new(), 0);
    if length.is_some_and(|length| length > HELD_BODY_BYTES_MAX as u64) {
        return Err(Denial::too_large(HELD_BODY_BYTES_MAX));
    }
    while let Some(frame) = body.frame().await {
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
        while space < whole.len() + data.len() {
            let share = ROOM.try_acquire();
            room.push(share.map_err(|_| Denial::full())?);
            space += SHARE_BYTES;
        }
        whole.extend_from_slice(&data);
    }
    Ok(Whole { body: judge::Whole { bytes: whole.freeze(), packing }, room })
}

impl Denial {
    fn full() -> Self {
        Self { closes: true, ..Self::busy("too many request bodies wait to be judged") }
    }
}
