//! The nouns of a policy directory, checked: what a `*.toml` file may declare, in types the rest may rely on.
//!
//! Nothing here can be made except by `policy::read`, which reports every mistake with its place.

mod detector;

pub use detector::{Detector, DetectorNoun};

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::operation::{Direction, Sha256};

/// A block of addresses (CIDR). A single address is a block of full length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// First address; host bits are zero.
    pub address: IpAddr,
    /// Leading bits that count: at most 32 for IPv4, 128 for IPv6.
    pub prefix: u8,
}

/// Something protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Unique name.
    pub name: String,
    /// Which way.
    pub direction: Direction,
    /// TCP ports; never empty.
    pub ports: Vec<u16>,
    /// Where it is. Outbound: every process's connects to these are intercepted. Inbound: empty means every local address.
    pub addresses: Vec<Block>,
    /// Host names, lower case; `*.example.com` matches one or more labels in front. Guarded processes reach these by name.
    pub hosts: Vec<String>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whom it admits.
    pub require: Require,
    /// Whether the user's own bearer token goes on to the upstream.
    pub forward_token: bool,
    /// `key=value` labels; parents of the target in Cedar.
    pub labels: Vec<String>,
    /// An inbound target's processes, where it runs in other network namespaces, too; a guard in form alone: by units,
    /// containers and cgroups.
    pub runs: Option<Guard>,
    /// Until when it is only observed: judged and recorded, and nothing refused, held or masked. Enforced from then on.
    pub observed_until: Option<Timestamp>,
}

impl Target {
    /// Whether it is only observed at this moment.
    #[must_use]
    pub fn is_observed(&self, at: Timestamp) -> bool {
        self.observed_until.is_some_and(|until| at < until)
    }
}

/// What a target speaks. TLS and HTTP/2 are refused at load ("not supported yet").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 in clear.
    Http,
}

/// Whom a target admits. Where the file does not say: a user for inbound flows from another host, a workload otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Require {
    /// The default above.
    Unstated,
    /// A user, whatever process is in front of them.
    User,
    /// A local process that the kernel identified; remote flows are refused.
    Workload,
    /// Both; the user is the principal.
    Both,
    /// Anyone: a process where there is one, else the peer address.
    Peer,
}

/// What a request on a target *is*. Becomes a Cedar action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationNoun {
    /// Name, unique; one name may be declared for several targets.
    pub name: String,
    /// The target it belongs to.
    pub target: String,
    /// Methods, upper case; empty means any.
    pub methods: Vec<String>,
    /// Path patterns.
    pub paths: Vec<PathPattern>,
    /// Patterns of the calls that a request on such a path carries; `*` stands for any characters. Empty: the path says it
    /// all.
    pub calls: Vec<String>,
}

/// A value of a request that rules may depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extract {
    /// The target.
    pub target: String,
    /// Only for requests that are, by method and path, one of these operations; empty means all of the target.
    pub operations: Vec<String>,
    /// Where it stands; several only where several values are one attribute, or calls.
    pub from: Vec<Source>,
    /// What it becomes.
    pub gives: Gives,
}

/// Where a value stands in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the JSON body.
    Body(JsonPath),
    /// A parameter of the query, by its decoded name.
    Query(String),
    /// A header field, by its name in lower case.
    Header(String),
}

/// What an extracted value becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gives {
    /// An attribute of `context`.
    Attribute(String, AttributeType),
    /// Calls: each is the operation whose `calls` it matches.
    Calls,
}

/// The type of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeType {
    /// `String`
    String,
    /// `Long`
    Long,
    /// `Bool`
    Bool,
    /// `Set<String>`
    Strings,
}

/// A change to messages on their way.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewrite {
    /// Unique name.
    pub name: String,
    /// Targets it applies to; never empty.
    pub targets: Vec<String>,
    /// Only for requests that are, by method and path, one of these operations; empty means all of the targets.
    pub operations: Vec<String>,
    /// Which messages.
    pub on: Side,
    /// What is changed.
    pub part: Part,
    /// What it becomes; `None` means that it is removed. A header's is a string.
    pub set: Option<serde_json::Value>,
}

/// A credential that the gate puts into what a target is sent. What it is lies in the vault, under the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Unique name, also in the vault.
    pub name: String,
    /// Targets that get it; never empty. A target gets at most one.
    pub targets: Vec<String>,
    /// The header field it is put into, in lower case. What the client sends in it goes no further.
    pub header: String,
    /// How the field's value is made of it.
    pub scheme: Scheme,
}

/// How a header field says a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `Bearer` and the credential (RFC 6750 section 2.1).
    Bearer,
    /// `Basic` and the credential in base64, which is `user:password` (RFC 7617).
    Basic,
    /// The credential alone.
    Plain,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// To the target.
    Request,
    /// To the client.
    Response,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A header field, by its name in lower case.
    Header(String),
    /// A member at the top level of the JSON body.
    Field(String),
}

/// A path pattern: `/v1/models/{model}/**`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    /// As written.
    pub text: String,
    /// Parsed.
    pub parts: Vec<PathPart>,
}

/// One part of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPart {
    /// Exactly this segment.
    Literal(String),
    /// Any one segment, captured under this name.
    Capture(String),
    /// Every segment that remains, also none. Only last.
    Rest,
}

/// A set of processes whose whole traffic is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Unique name.
    pub name: String,
    /// systemd units or slices.
    pub units: Vec<String>,
    /// Container ids, or unique prefixes of at least 12 digits.
    pub containers: Vec<String>,
    /// User ids.
    pub uids: Vec<u32>,
    /// Paths below the cgroup v2 root, for hosts without systemd.
    pub cgroups: Vec<String>,
    /// DNS servers its processes may ask over UDP and TCP; nothing else may leave them by UDP.
    pub dns: Vec<std::net::SocketAddr>,
    /// Unix sockets of processes outside that its own may connect to, by the name that their server bound: a path, or `@` and
    /// an abstract name.
    pub unix_sockets: Vec<String>,
}

/// Processes that stay outside the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exempt {
    /// Unique name.
    pub name: String,
    /// Real user ids. At least one.
    pub uids: Vec<u32>,
    /// systemd units or slices that a process must be in besides; empty: wherever it is.
    pub units: Vec<String>,
    /// Why, for whoever reads it later.
    pub reason: String,
}

/// A role and its ways in. A principal has it if *any* way matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Unique name.
    pub name: String,
    /// Groups of a user.
    pub groups: Vec<String>,
    /// Narrows `groups` and `claims` to one identity provider.
    pub provider: Option<String>,
    /// Claims of a user's token: all of them must be there.
    pub claims: Vec<ClaimMatch>,
    /// Narrows the ways in by token to tokens that live no longer than this in all.
    pub max_token_life: Option<Duration>,
    /// Digests of static keys that callers send.
    pub keys: Vec<Sha256>,
    /// The header field such a key comes in, lower case; `None`: as a bearer token.
    pub key_header: Option<String>,
    /// systemd units of a workload.
    pub units: Vec<String>,
    /// User ids of a workload.
    pub uids: Vec<u32>,
    /// Narrows `units` and `uids` (and, alone, is refused: every script is the same python3): path or `sha256:` digest.
    pub executables: Vec<ExecutableMatch>,
}

/// What a claim of a token must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimMatch {
    /// The claim's name, or a path with dots.
    pub path: String,
    /// One of these values, as JSON.
    pub any: Vec<String>,
}

/// How a role narrows to a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutableMatch {
    /// Its path.
    Path(String),
    /// Its digest.
    Digest(Sha256),
}

/// One human, so that one human votes once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Unique name.
    pub name: String,
    /// `provider/subject` at identity providers.
    pub subjects: Vec<(String, String)>,
    /// Login uid on this host; never 0.
    pub uid: Option<u32>,
    /// Roles they hold as an approver.
    pub roles: Vec<String>,
    /// The processes they answer for: they cannot vote on what these ask.
    pub owns: Vec<Owned>,
}

/// Processes that a person answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owned {
    /// Those of a systemd unit, or below a slice.
    Unit(String),
    /// Those of a container, by its id or the start of it.
    Container(String),
    /// Those of a user id.
    Uid(u32),
    /// Those that a `[[guard]]` holds.
    Guard(String),
}

/// Who vouches for users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityProvider {
    /// Unique name.
    pub name: String,
    /// `iss`, compared exactly.
    pub issuer: String,
    /// `aud`: one of these must be in the token.
    pub audience: Vec<String>,
    /// Signature algorithms accepted, asymmetric only: RS256, PS256, ES256, ES384, EdDSA, ...
    pub algorithms: Vec<String>,
    /// Where the keys are.
    pub jwks: Jwks,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// The claims that some role asks for; nothing else of a token is kept.
    pub claims: Vec<String>,
}

/// Where a key set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// A file, read again when it changes.
    File(PathBuf),
    /// An `https://` URL (`http://` only on loopback).
    Url(String),
}

/// What is hidden, where, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Unique name.
    pub name: String,
    /// Targets it applies to; never empty.
    pub targets: Vec<String>,
    /// Detectors.
    pub find: Vec<Detector>,
    /// Detectors of the directory itself.
    pub declared: Vec<Arc<DetectorNoun>>,
    /// JSON paths (`$.customer.email`, `$.items[*].card`).
    pub paths: Vec<JsonPath>,
    /// Key names, at any depth, compared without case.
    pub keys: Vec<String>,
    /// Names of columns of tables; where a body is no table, names of fields.
    pub columns: Vec<String>,
    /// Names of header fields, lower case.
    pub headers: Vec<String>,
    /// Which way it works.
    pub on: On,
    /// What stands in the place.
    pub style: Style,
}

/// Which messages a mask works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// What the target answers.
    Response,
    /// What the target is sent.
    Request,
    /// Both.
    Both,
}

impl On {
    /// Whether it works on requests.
    #[must_use]
    pub fn requests(self) -> bool {
        self != Self::Response
    }

    /// Whether it works on answers.
    #[must_use]
    pub fn responses(self) -> bool {
        self != Self::Request
    }
}

/// A JSON path of the supported kind: `$`, then `.name`, `["name"]`, `[0]`, `[*]`, `.*` and `..name` steps (RFC 9535 subset).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    /// As written.
    pub text: String,
    /// Parsed.
    pub steps: Vec<JsonStep>,
}

/// One step of a JSON path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonStep {
    /// `.name` or `["name"]`.
    Member(String),
    /// `[7]`.
    Index(u64),
    /// `[*]` or `.*`.
    Any,
    /// `[*]` where only the elements of an array are meant.
    Element,
    /// `..name`: this member here or at any depth below.
    Descendant(String),
}

/// What stands in the place of a masked value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `[name-of-the-mask]`... written as stars: `********`, always eight, so that the length tells nothing.
    Stars,
    /// Stars, then the last four characters of the value where it has at least twelve.
    KeepLast4,
    /// `hash:` and a keyed hash of the value: the same value has the same token in this gate, so that joins survive.
    KeyedHash,
    /// Nothing: text is removed, a JSON value becomes `null`.
    Drop,
}

/// Who must say yes, how many, and how long it lasts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approval {
    /// Unique name; what `@approval("...")` names.
    pub name: String,
    /// Names of `[[role]]`s or `[[person]]`s.
    pub approvers: Vec<String>,
    /// Distinct persons needed; at least 1.
    pub needed: u32,
    /// From the demand to its expiry.
    pub timeout: Duration,
    /// What approval gives: one run, or, where this is set, every run of the same subject under the same rules on the same
    /// target for so long.
    pub window: Option<Duration>,
    /// What the client does meanwhile.
    pub hold: Hold,
    /// Whether the requester must say why.
    pub reason_required: bool,
    /// Whether each approver must say why.
    pub comment_required: bool,
    /// Whether what a process asks must have an owner.
    pub owner_required: bool,
    /// The `[[notify]]`s that hear of its demands.
    pub notify: Vec<String>,
    /// What becomes of a demand while all of those fail.
    pub on_unavailable: OnUnavailable,
}

/// What becomes of an operation whose approvers cannot be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnUnavailable {
    /// Refused.
    #[default]
    Deny,
    /// Refused, unless both the rules without that approval and those of the safe mode allow it.
    SafeMode,
}

/// Where people hear of demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Unique name.
    pub name: String,
    /// An `https://` URL (`http://` only on loopback) that takes signed webhooks.
    pub url: String,
    /// The file of its signing secret.
    pub secret: PathBuf,
}

/// What a client does while people decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hold {
    /// Waits on its connection.
    #[default]
    Wait,
    /// Is told to ask again later.
    Retry,
}
