//! What a codec says of bytes it refuses. Never quotes the bytes: they may hold a secret.

/// A message that has no single safe reading. Always the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// The HTTP status that fits: 400, 405, 408, 413, 414, 417, 431, 501 or 505.
    pub status: u16,
    /// What is wrong, in words for both the client and the operator.
    pub reason: &'static str,
}

impl Fault {
    /// A fault of this kind.
    #[must_use]
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }

    /// A plain malformed message.
    #[must_use]
    pub const fn bad(reason: &'static str) -> Self {
        Self::new(400, reason)
    }
}
