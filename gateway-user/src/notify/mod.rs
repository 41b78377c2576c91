//! Tells people elsewhere that something waits for them. Keeps what it has to say in the commit that made it true, tries
//! again within bounds, and puts what nobody takes on a list that operators see. Never waits for anybody in the way of an
//! operation, and says nothing unmasked.
//!
//! `message` is what is said, `post` keeps and sends, `webhook` is one way to say it; another kind of channel is another
//! [`Channel`].

mod message;
mod post;
mod webhook;

use std::future::Future;
use std::pin::Pin;

pub use message::{Dead, Message};
pub use post::{ChannelState, Channels, Post, PostError};
pub use webhook::{Webhook, sign};

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// It may be taken later.
    #[error("{0}")]
    Later(String),
    /// It will never be taken as it is.
    #[error("{0}; it is not tried again by itself")]
    Never(String),
}

/// What becomes of one try.
pub type Delivery<'a> = Pin<Box<dyn Future<Output = Result<(), Undelivered>> + Send + 'a>>;

/// One way to people: a webhook, a chat, a pager.
pub trait Channel: Send + Sync {
    /// Tries to deliver one message, once, within a bound of time.
    fn deliver<'a>(&'a self, message: &'a Message, at: jiff::Timestamp) -> Delivery<'a>;
}
