//! The other end of the admin socket, for the command line: asks one thing and waits for the answer. Believes nothing
//! that is larger or later than its bounds.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::verb::ANSWER_BYTES_MAX;
use super::view::{
    Announced, BallotView, BlockAsked, BlockView, ChannelView, DeadView, DemandView, Ended, PriorView,
    Problem, QueueView, ReadingView, RecordOrder, Reload, Resent, SignalsView, Status, Tested, UnblockAsked,
    Voted,
};
use crate::limits::ADMIN_TIMEOUT;
use crate::operation::DemandId;
use crate::record::Done;
use crate::tally::Account;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the caller may not connect.
    #[error("the gate cannot be asked on {path}: {source}; {hint}", hint = hint(source))]
    Unreachable {
        /// The admin socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The gate said no.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// It answered too late, too much, or not in its own language.
    #[error("the gate on {path} gave no usable answer: {why}")]
    Unusable {
        /// The admin socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "join the socket's group, or ask as root",
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "no enforcer runs there (`tidegate run`)"
        }
        _ => "see --admin-socket",
    }
}

/// Asks the gate behind one admin socket. Blocks; not for async code.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the gate behind this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// How the gate is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&self) -> Result<Status, ClientError> {
        self.ask("GET", "/v1/status", None::<&()>)
    }

    /// What the events of the last hour add up to.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn signals(&self) -> Result<SignalsView, ClientError> {
        self.ask("GET", "/v1/signals", None::<&()>)
    }

    /// What the enforcer says of the flows that it took.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn account(&self) -> Result<Account, ClientError> {
        self.ask("GET", "/v1/coverage/account", None::<&()>)
    }

    /// Has the policy directory read again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn reload(&self) -> Result<Reload, ClientError> {
        self.ask("POST", "/v1/policy/reload", None::<&()>)
    }

    /// What waits for people, the oldest of each subject first, without header fields and bodies.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn demands(&self) -> Result<Vec<DemandView>, ClientError> {
        self.ask("GET", "/v1/approvals", None::<&()>)
    }

    /// What each subject has waiting, and how much of it was refused for want of room.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn queues(&self) -> Result<Vec<QueueView>, ClientError> {
        self.ask("GET", "/v1/approvals/queues", None::<&()>)
    }

    /// One demand, whole: the pages of its body are put together.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn demand(&self, id: DemandId) -> Result<DemandView, ClientError> {
        let mut whole: DemandView = self.ask("GET", &format!("/v1/approvals/{id}"), None::<&()>)?;
        while let Some(body) = &mut whole.operation.body
            && (body.text.len() as u64) < body.length
        {
            let page = format!("/v1/approvals/{id}?offset={}", body.text.len());
            let next: DemandView = self.ask("GET", &page, None::<&()>)?;
            match next
                .operation
                .body
                .filter(|next| next.offset == body.text.len() as u64 && !next.text.is_empty())
            {
                Some(next) => body.text.push_str(&next.text),
                None => return Err(self.unusable("the body of the demand changed while it was read")),
            }
        }
        Ok(whole)
    }

    /// The last approved demand like this one: same target, operations and rules.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn prior(&self, id: DemandId) -> Result<Option<PriorView>, ClientError> {
        self.ask("GET", &format!("/v1/approvals/{id}/prior"), None::<&()>)
    }

    /// Takes a demand back, or, with `revoke`, what was approved.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn call_off(&self, id: DemandId, revoke: bool) -> Result<Ended, ClientError> {
        let word = if revoke { "revoke" } else { "withdraw" };
        self.ask("POST", &format!("/v1/approvals/{id}/{word}"), None::<&()>)
    }

    /// Votes, as the person whose process this is.
    ///
    /// # Errors
    /// See [`ClientError`]; a vote that does not count is [`ClientError::Refused`].
    pub fn vote(&self, id: DemandId, approve: bool, ballot: &BallotView) -> Result<Voted, ClientError> {
        let word = if approve { "approve" } else { "reject" };
        self.ask("POST", &format!("/v1/approvals/{id}/{word}"), Some(ballot))
    }

    /// Has the record say that the process that asks is about to read it. With the answer, that is durable.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn announce(&self, reading: &ReadingView) -> Result<Announced, ClientError> {
        self.ask("POST", "/v1/record/readings", Some(reading))
    }

    /// How each channel to people does.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn channels(&self) -> Result<Vec<ChannelView>, ClientError> {
        self.ask("GET", "/v1/notify", None::<&()>)
    }

    /// Messages that nobody took.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn dead(&self) -> Result<Vec<DeadView>, ClientError> {
        self.ask("GET", "/v1/notify/dead", None::<&()>)
    }

    /// Has a message tried again that nobody took.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resend(&self, id: &str) -> Result<Resent, ClientError> {
        self.ask("POST", &format!("/v1/notify/dead/{}/retry", segment(id)), None::<&()>)
    }

    /// Sends a test through a channel, and waits for what becomes of it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn test_channel(&self, name: &str) -> Result<Tested, ClientError> {
        self.ask("POST", &format!("/v1/notify/channels/{}/test", segment(name)), None::<&()>)
    }

    /// The blocks in force, the oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn blocks(&self) -> Result<Vec<BlockView>, ClientError> {
        self.ask("GET", "/v1/blocks", None::<&()>)
    }

    /// Blocks, durably.
    ///
    /// # Errors
    /// See [`ClientError`]; what may not be blocked is [`ClientError::Refused`].
    pub fn block(&self, asked: &BlockAsked) -> Result<BlockView, ClientError> {
        self.ask("POST", "/v1/blocks", Some(asked))
    }

    /// Lifts a block, durably; gives it as it was.
    ///
    /// # Errors
    /// See [`ClientError`]; where there is none, [`ClientError::Refused`].
    pub fn unblock(&self, asked: &UnblockAsked) -> Result<BlockView, ClientError> {
        self.ask("POST", "/v1/blocks/lift", Some(asked))
    }

    /// Has something done to the record.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn order(&self, order: RecordOrder) -> Result<Done, ClientError> {
        self.ask("POST", super::record::ORDERS, Some(&order))
    }

    /// The counters, in the OpenMetrics text form.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn metrics(&self) -> Result<String, ClientError> {
        let bytes = self.exchange("GET", "/metrics", Bytes::new())?;
        String::from_utf8(bytes.into()).map_err(|error| self.unusable(error))
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.unusable(error))?,
            None => Vec::new(),
        };
        let answer = self.exchange(method, path, body.into())?;
        serde_json::from_slice(&answer).map_err(|error| self.unusable(error))
    }

    fn exchange(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.unusable(error))?;
        runtime.block_on(async {
            let answer = tokio::time::timeout(ADMIN_TIMEOUT, self.send(method, path, body));
            answer.await.unwrap_or_else(|_| Err(self.unusable("it took too long")))
        })
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { path: self.socket.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unusable(error))?;
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "tidegate")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.unusable(error))?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| self.unusable(error))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| self.unusable(error))?
            .to_bytes();
        driver.abort();
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice(&bytes) {
            Ok(problem) => Err(ClientError::Refused(problem)),
            Err(_) => Err(self.unusable(format_args!("status {status}"))),
        }
    }

    fn unusable(&self, why: impl std::fmt::Display) -> ClientError {
        ClientError::Unusable { path: self.socket.clone(), why: why.to_string() }
    }
}

/// Text as one segment of a path.
fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let part = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(part).collect()
}
