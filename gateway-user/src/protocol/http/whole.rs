//! A request body that must be known whole: by rules that depend on it, or by the people who decide. Bounded for one and
//! for all together; refuses what is beyond either.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::io::Wire;
use crate::judge::Denial;
use crate::limits::{HELD_BODY_BYTES_MAX, WHOLE_BODIES_BYTES_MAX};
use crate::wire::fault::Fault;

/// Bytes that one permit stands for.
const SHARE_BYTES: usize = 16 * 1024;

/// Room for all such bodies of this process.
static ROOM: Semaphore = Semaphore::const_new(WHOLE_BODIES_BYTES_MAX / SHARE_BYTES);

/// A whole body, and the room it takes.
pub(super) struct Whole {
    bytes: Bytes,
    _room: Vec<SemaphorePermit<'static>>,
}

impl Whole {
    /// Its bytes.
    #[must_use]
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Takes other bytes in their place.
    pub(super) fn becomes(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes.into();
    }
}

/// Reads a body whole. `length` is what its head says.
///
/// # Errors
/// The refusal: too large, no room, or broken off.
pub(super) async fn read(wire: &Wire, length: Option<u64>, mut body: Incoming) -> Result<Whole, Denial> {
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
    Ok(Whole { bytes: whole.freeze(), _room: room })
}

impl Denial {
    fn full() -> Self {
        Self { closes: true, ..Self::busy("too many request bodies wait to be judged") }
    }
}
