//! A made-up operation and whoever asks for it: what cases and `tidegate policy explain` put to a policy set.
//!
//! Proves nobody: it stands for a subject that identity has already established.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::operation::{
    Executable, Extracted, HttpRequest, Kind, Operation, Proof, Sha256, Subject, User, Workload,
};

use super::extract;
use super::parse;
use super::set::Set;

/// Who asks and for what.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Subject of a user at `provider`.
    pub user: Option<String>,
    /// Groups of the user.
    pub groups: Vec<String>,
    /// Claims of the user's token, and their values as JSON.
    pub claims: Vec<(String, Vec<String>)>,
    /// Seconds from the token's issue to its end.
    pub token_life: Option<i64>,
    /// Digest of the static key that is shown, instead of a user's token.
    pub key: Option<Sha256>,
    /// Who vouches for the user. May be left out where the set has exactly one.
    pub provider: Option<String>,
    /// systemd unit of the process.
    pub unit: Option<String>,
    /// Container of the process.
    pub container: Option<String>,
    /// The container's image.
    pub image: Option<String>,
    /// Uid of the container's Kubernetes pod.
    pub pod: Option<String>,
    /// User id of the process.
    pub uid: Option<u32>,
    /// Login user id of the process.
    pub login_uid: Option<u32>,
    /// Path of its executable.
    pub executable: Option<String>,
    /// Digest of its executable.
    pub sha256: Option<Sha256>,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// The guard that holds it.
    pub guard: Option<String>,
    /// Where the flow comes from.
    pub peer: Option<IpAddr>,
    /// The target.
    pub target: String,
    /// Method; `None` together with `path` means opening the connection.
    pub method: Option<String>,
    /// Path.
    pub path: Option<String>,
    /// Query.
    pub query: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Length of the body, where the body itself is not given.
    pub body_length: Option<u64>,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body; it is JSON where no header says otherwise.
    pub body: Option<String>,
    /// What extracts find, where no body is given: attributes by name, and calls as `operation`.
    pub extract: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Sample {
    /// The subject and the operation it stands for.
    ///
    /// # Errors
    /// In words, when the target is unknown, it is unclear who vouches for the user, or the gate would refuse such a
    /// request before judging it.
    pub fn stage(&self, set: &Set) -> Result<(Subject, Operation), String> {
        let target = set
            .target(&self.target)
            .ok_or_else(|| format!("no `target` is called `{}`", self.target.escape_debug()))?;
        let workload = self.workload();
        let peer = self.peer.unwrap_or(match workload {
            Some(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            // TEST-NET-1 (RFC 5737): some other host.
            None => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        });
        let user = match (&self.user, self.key) {
            (Some(_), Some(_)) => {
                return Err("a static key stands for a user of its own; name one of both".to_owned());
            }
            (None, Some(key)) => Some(User::of_key(key)),
            (Some(subject), None) => Some(self.user_of(subject, set)?),
            (None, None) => None,
        };
        let subject = Subject {
            user,
            workload: workload.map(std::sync::Arc::new),
            peer: SocketAddr::new(peer, 40_000),
        };
        let kind = match (&self.method, &self.path) {
            (Some(method), Some(path)) => {
                parse::method(method).map_err(|misread| misread.message)?;
                parse::path(path).map_err(|misread| misread.message)?;
                Kind::Http(self.request(method, path, set)?)
            }
            (None, None) => {
                let block = target.addresses.first();
                let address = block.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |block| block.address);
                Kind::Open { address, port: target.ports.first().copied().unwrap_or(0) }
            }
            _ => {
                return Err(
                    "a request has a `method` and a `path`; opening a connection has neither".to_owned()
                );
            }
        };
        Ok((subject, Operation { target: target.name.clone(), direction: target.direction, kind }))
    }

    fn user_of(&self, subject: &str, set: &Set) -> Result<User, String> {
        let provider = match (&self.provider, set.providers()) {
            (Some(named), declared) if declared.iter().any(|known| known.name == *named) => named.clone(),
            (Some(named), _) => {
                return Err(format!("no `identity_provider` is called `{}`", named.escape_debug()));
            }
            (None, [only]) => only.name.clone(),
            (None, _) => return Err("say which `provider` vouches for the user".to_owned()),
        };
        let proof = Proof { claims: self.claims.clone(), life: self.token_life, key: None };
        let (subject, groups) = (subject.to_owned(), self.groups.clone());
        Ok(User { provider, subject, groups, expires: i64::MAX, proof })
    }

    fn workload(&self) -> Option<Workload> {
        let said = self.unit.is_some()
            || self.container.is_some()
            || self.image.is_some()
            || self.pod.is_some()
            || self.uid.is_some()
            || self.login_uid.is_some()
            || self.executable.is_some()
            || self.cgroup.is_some()
            || self.guard.is_some();
        let executable =
            self.executable.clone().map(|path| Executable { path, sha256: self.sha256.unwrap_or_default() });
        said.then(|| Workload {
            pid: 1000,
            started: 0,
            uid: self.uid.unwrap_or(NOBODY),
            login_uid: self.login_uid,
            command: "sample".to_owned(),
            cgroup: self.cgroup.clone(),
            unit: self.unit.clone(),
            container: self.container.clone(),
            image: self.image.clone(),
            pod: self.pod.clone(),
            executable,
            parents: Vec::new(),
        })
    }

    fn request(&self, method: &str, path: &str, set: &Set) -> Result<HttpRequest, String> {
        let host = self.host.as_deref().unwrap_or("localhost").to_ascii_lowercase();
        let mut headers = vec![("Host".to_owned(), host.clone().into_bytes())];
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())));
        if self.body.is_some() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("Content-Type".to_owned(), b"application/json".to_vec()));
        }
        let length = self.body.as_ref().map(|body| body.len() as u64);
        let mut request = HttpRequest {
            method: method.to_owned(),
            headers,
            host,
            path: path.to_owned(),
            query: self.query.clone(),
            body_length: Some(self.body_length.or(length).unwrap_or(0)),
            extracted: Extracted::default(),
        };
        let body = self.body.as_deref().unwrap_or_default().as_bytes();
        let found = set.extract(&self.target, &request, body);
        request.extracted = found.map_err(|unread| {
            format!(
                "the gate refuses such a request with {} before judging it: {}",
                unread.status, unread.why
            )
        })?;
        if let Some(said) = &self.extract {
            if self.body.is_some() {
                return Err("give `body` or `extract`: what extracts find follows from the body".to_owned());
            }
            extract::said(set, &self.target, said, &mut request.extracted)?;
        }
        Ok(request)
    }
}

/// The uid of a process of which only something else is said: `nobody`, who has no roles by accident.
const NOBODY: u32 = 65_534;
