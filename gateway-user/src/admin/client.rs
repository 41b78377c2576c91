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

use super::view::{
    Announced, BallotView, DemandView, Problem, ReadingView, Reload, SignalsView, Status, Voted,
};
use crate::limits::ADMIN_TIMEOUT;
use crate::operation::DemandId;

/// Bytes of an answer. Ten thousand demands without their bodies, or one with the largest.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

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

    /// Has the policy directory read again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn reload(&self) -> Result<Reload, ClientError> {
        self.ask("POST", "/v1/policy/reload", None::<&()>)
    }

    /// What waits for people, oldest first, without header fields and bodies.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn demands(&self) -> Result<Vec<DemandView>, ClientError> {
        self.ask("GET", "/v1/approvals", None::<&()>)
    }

    /// One demand, whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn demand(&self, id: DemandId) -> Result<DemandView, ClientError> {
        self.ask("GET", &format!("/v1/approvals/{id}"), None::<&()>)
    }

    /// Votes, as the person whose process this is.
    ///
    /// # Errors
    /// See [`ClientError`]; a vote that does not count is [`ClientError::Refused`].
    pub fn vote(&self, id: DemandId, approve: bool, comment: Option<String>) -> Result<Voted, ClientError> {
        let word = if approve { "approve" } else { "reject" };
        self.ask("POST", &format!("/v1/approvals/{id}/{word}"), Some(&BallotView { comment }))
    }

    /// Has the record say that the process that asks is about to read it. With the answer, that is durable.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn announce(&self, reading: &ReadingView) -> Result<Announced, ClientError> {
        self.ask("POST", "/v1/record/readings", Some(reading))
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
