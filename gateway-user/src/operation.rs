//! The vocabulary every part shares: who asks, for what, on which flow. Plain values, no behaviour that needs I/O.
//!
//! Refuses nothing itself; what these types cannot express cannot be judged, and what is not judged is denied.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The way a flow crosses the gate, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Somebody calls a service of this host.
    Inbound,
    /// A process of this host calls out.
    Outbound,
}

/// Names one session (the record of one flow). Version 7, so that ids sort by the time they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Uuid);

/// Names one entry (the record of one operation). Version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(pub Uuid);

/// Names one demand for approval. Version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DemandId(pub Uuid);

macro_rules! id {
    ($name:ident) => {
        impl $name {
            /// A new id for this moment.
            #[must_use]
            pub fn now() -> Self {
                Self(Uuid::now_v7())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}
id!(SessionId);
id!(EntryId);
id!(DemandId);

/// A SHA-256 digest. Shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sha256(pub [u8; 32]);

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("not 64 hexadecimal digits"))
    }
}

impl Sha256 {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut out = [0; 32];
        out.copy_from_slice(digest.as_ref());
        Self(out)
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

/// A program file as it was when the process ran it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executable {
    /// The path the kernel gives for it.
    pub path: String,
    /// The digest of its bytes.
    pub sha256: Sha256,
}

/// One process above the one that called, nearest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Process id.
    pub pid: u32,
    /// The kernel's short name of it (at most 15 bytes), escaped for display.
    pub command: String,
    /// Its program, or `None` where that could not be established beyond doubt.
    pub executable: Option<Executable>,
}

/// The process behind a local flow, as the kernel saw it when it called connect(2). `None` always means "not
/// established", never "nothing".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Process id (thread group).
    pub pid: u32,
    /// When it started, in nanoseconds since boot. With `pid` this names one process for all time of this boot.
    pub started: u64,
    /// Real user id at connect time.
    pub uid: u32,
    /// The user id it logged in with (audit), where there was a login.
    pub login_uid: Option<u32>,
    /// The kernel's short name of it (at most 15 bytes), escaped for display.
    pub command: String,
    /// Its cgroup's path below the cgroup v2 root, `/` first.
    pub cgroup: Option<String>,
    /// The systemd unit its cgroup belongs to: `react-worker.service`.
    pub unit: Option<String>,
    /// The container its cgroup names: an id of 64 hexadecimal digits (Docker, containerd, CRI-O, Podman), or a machine's name
    /// (systemd-nspawn).
    pub container: Option<String>,
    /// The name of that container's image, as its runtime's own files have it.
    pub image: Option<String>,
    /// The uid of the Kubernetes pod that its cgroup names.
    pub pod: Option<String>,
    /// Its program.
    pub executable: Option<Executable>,
    /// Its parents, nearest first, at most [`crate::limits::ANCESTORS_MAX`].
    pub parents: Vec<Ancestor>,
}

impl Workload {
    /// The stable name of who this is across restarts: unit, else container, else uid. Grants and indexes are kept
    /// under it. The executable is no part of it: every script is the same `python3`.
    #[must_use]
    pub fn key(&self) -> String {
        match (&self.unit, &self.container) {
            (Some(unit), _) => format!("unit:{unit}"),
            (None, Some(container)) => format!("container:{container}"),
            (None, None) => format!("uid:{}", self.uid),
        }
    }

    /// Its unit and the slices that hold it. Only the leading slices of its cgroup path count: below a service or a scope
    /// the path may be delegated, and whoever it is delegated to chooses the names there.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        let path = self.cgroup.as_deref().unwrap_or_default();
        let slices = path.split('/').skip(1).take_while(|part| part.ends_with(".slice"));
        self.unit.as_deref().into_iter().chain(slices)
    }
}

/// A person or machine that proved itself with a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// The `[[identity_provider]]` that vouched.
    pub provider: String,
    /// The subject at that provider (`sub`).
    pub subject: String,
    /// Groups from the provider's groups claim.
    pub groups: Vec<String>,
    /// When the proof ends, in seconds since the Unix epoch.
    pub expires: i64,
    /// What else of the proof roles may ask for.
    pub proof: Proof,
}

/// What stands for an identity provider where a static key was shown.
pub const KEY_PROVIDER: &str = "key";

/// What a user showed, as far as some role asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Claims by path, and their values as JSON.
    pub claims: Vec<(String, Vec<String>)>,
    /// Seconds from the token's issue to its end; `None` where it does not say when it was issued.
    pub life: Option<i64>,
    /// The digest of the static key, where one was shown and no token.
    pub key: Option<Sha256>,
}

impl User {
    /// Who shows a static key: a user of its own, named by the key's digest.
    #[must_use]
    pub fn of_key(key: Sha256) -> Self {
        Self {
            provider: KEY_PROVIDER.to_owned(),
            subject: key.to_string(),
            groups: Vec::new(),
            expires: i64::MAX,
            proof: Proof { key: Some(key), ..Proof::default() },
        }
    }

    /// The stable name of who this is.
    #[must_use]
    pub fn key(&self) -> String {
        format!("user:{}/{}", self.provider, self.subject)
    }
}

/// Who asks. The principal is the user where the target requires one, else the workload (else, where the target
/// admits anyone, the peer address).
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// The proven user.
    pub user: Option<User>,
    /// The process, for local flows.
    pub workload: Option<Arc<Workload>>,
    /// The address the flow came from.
    pub peer: SocketAddr,
}

impl Subject {
    /// The stable name of the asking party, for grants and indexes: user, else workload, else peer address.
    #[must_use]
    pub fn key(&self) -> String {
        match (&self.user, &self.workload) {
            (Some(user), _) => user.key(),
            (None, Some(workload)) => workload.key(),
            (None, None) => format!("peer:{}", self.peer.ip()),
        }
    }
}

/// One command in protocol-neutral words, on one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The `[[target]]` it is for.
    pub target: String,
    /// The way it crosses the gate.
    pub direction: Direction,
    /// What it is.
    pub kind: Kind,
}

/// What an operation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Opening a connection.
    Open {
        /// Where to.
        address: IpAddr,
        /// TCP port.
        port: u16,
    },
    /// One HTTP request.
    Http(HttpRequest),
}

/// An HTTP request, normalised: what stands here is byte for byte what will be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Method token, as sent (methods are case-sensitive, RFC 9110 section 9.1).
    pub method: String,
    /// Host name or address literal, lower case, without port or brackets.
    pub host: String,
    /// Path, as sent: starts with `/`, canonical by construction (see `wire::uri`).
    pub path: String,
    /// Query, as sent, without the `?`.
    pub query: Option<String>,
    /// End-to-end header fields in the order and case they arrived. Includes `Host`; excludes hop-by-hop fields.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Declared length of the body in bytes; `None` when chunked; `Some(0)` when there is none.
    pub body_length: Option<u64>,
    /// What the target's `[[extract]]`s found in it. Follows from the rest of it and its body.
    pub extracted: Extracted,
}

/// What `[[extract]]`s found in one request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extracted {
    /// Attributes by name. What is not there was not sent, or is of another type.
    pub attributes: BTreeMap<String, Attribute>,
    /// The calls it carries, in order, each once. Empty where none was looked for.
    pub calls: Vec<String>,
    /// Whether a part of it that should be a call is none.
    pub uncalled: bool,
}

/// The value of one attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attribute {
    /// A string.
    String(String),
    /// A whole number.
    Long(i64),
    /// A truth value.
    Bool(bool),
    /// Strings, in order, each once.
    Strings(Vec<String>),
}

/// Proof that the judge allowed one operation. Made in one place (the judge), spent in one place (the upstream);
/// without one nothing reaches a target.
#[derive(Debug)]
#[must_use = "an operation that was allowed is either forwarded or recorded as broken"]
pub struct Permit {
    entry: EntryId,
    target: String,
}

impl Permit {
    /// Only the judge calls this (`cargo xtask tidy` checks it).
    pub(crate) fn issue(entry: EntryId, target: String) -> Self {
        Self { entry, target }
    }

    /// The entry the operation is recorded under.
    #[must_use]
    pub fn entry(&self) -> EntryId {
        self.entry
    }

    /// The target it may reach.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }
}
