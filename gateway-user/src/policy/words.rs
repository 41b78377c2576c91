//! Words of nouns that mean something outside of policy files: units, containers, executables, algorithms, key sets.
//!
//! Refuses what merely looks like one, and says what would be one.

use std::path::Path;

use crate::operation::Sha256;

use super::nouns::{Detector, ExecutableMatch, Jwks, Owned};
use super::parse::Misread;
use super::problem::did_you_mean;

fn refuse<T>(message: String, help: &str) -> Result<T, Misread> {
    Err(Misread { message, help: Some(help.to_owned()) })
}

/// The whole name of a systemd unit.
pub(super) fn unit(text: &str) -> Result<String, Misread> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let end =
        [".service", ".slice", ".scope"].iter().any(|end| text.len() > end.len() && text.ends_with(end));
    if end && text.len() < 256 && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let help = "write the whole name: react-worker.service, agents.slice or session-2.scope";
    refuse(format!("`{}` is not the name of a systemd unit", text.escape_debug()), help)
}

/// A container id, or at least its first 12 digits.
pub(super) fn container(text: &str) -> Result<String, Misread> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if (12..=64).contains(&text.len()) && text.bytes().all(hex) {
        return Ok(text.to_owned());
    }
    let help = "give 12 to 64 lower-case hexadecimal digits; names of containers can be changed by anyone";
    refuse(format!("`{}` is not a container id", text.escape_debug()), help)
}

/// What a person answers for: `unit:`, `container:`, `uid:` or `guard:`, and its name.
pub(super) fn owned(text: &str) -> Result<Owned, Misread> {
    let help = "write unit:NAME.service, container:ID, uid:NUMBER or guard:NAME";
    match text.split_once(':') {
        Some(("unit", name)) => unit(name).map(Owned::Unit),
        Some(("container", id)) => container(id).map(Owned::Container),
        Some(("guard", name)) => super::parse::name(name).map(Owned::Guard),
        Some(("uid", uid)) => match uid.parse::<u32>() {
            Ok(uid) if uid != u32::MAX => Ok(Owned::Uid(uid)),
            _ => refuse(format!("`{}` is not a user id", uid.escape_debug()), help),
        },
        _ => refuse(format!("`{}` is nothing that a person can own", text.escape_debug()), help),
    }
}

/// A path below the cgroup v2 root.
pub(super) fn cgroup(text: &str) -> Result<String, Misread> {
    let segment = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
    match text.strip_prefix('/') {
        Some("") => refuse("`/` is every process of the host, ours too".to_owned(), "name a group below it"),
        Some(rest) if rest.split('/').all(segment) && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => refuse(
            format!("`{}` is not a cgroup path", text.escape_debug()),
            "write it as below the cgroup v2 root, without a final slash: /agents/react",
        ),
    }
}

/// Bytes of a Unix socket's name, as unix(7) bounds it; a path needs one more for its end.
const UNIX_NAME_MAX: usize = 107;

/// The name of a Unix socket: an absolute path, or `@` and an abstract name.
pub(super) fn unix_socket(text: &str) -> Result<String, Misread> {
    let plain = |text: &str| text.len() > 1 && !text.contains(char::is_control);
    if text.starts_with(['/', '@']) && plain(text) && text.len() <= UNIX_NAME_MAX {
        return Ok(text.to_owned());
    }
    refuse(
        format!("`{}` is not the name of a Unix socket", text.escape_debug()),
        "write what its server bound, at most 107 bytes: /run/postgresql/.s.PGSQL.5432, or @ and an abstract name",
    )
}

/// The name of a column.
pub(super) fn column(text: &str) -> Result<String, Misread> {
    if text.is_empty() || text.starts_with('$') || text.contains(char::is_control) {
        let help = "write it as the table's first row has it; JSON paths stand in `fields`";
        return refuse(format!("`{}` is not the name of a column", text.escape_debug()), help);
    }
    Ok(text.to_owned())
}

/// The name of a header field whose value may be hidden without breaking the message around it.
pub(super) fn masked_header(text: &str) -> Result<String, Misread> {
    const NEEDED: [&str; 16] = [
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "date",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
    ];
    let lower = text.to_ascii_lowercase();
    if NEEDED.contains(&lower.as_str()) {
        return refuse(
            format!("`{text}` is how a message is read, and cannot be hidden"),
            "name a field that carries a value: X-Api-Key, Set-Cookie, ...",
        );
    }
    match http::HeaderName::try_from(lower) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => refuse(
            format!("`{}` is not the name of a header field", text.escape_debug()),
            "write it as it stands in the message, without the colon",
        ),
    }
}

/// A path or a `sha256:` digest.
pub(super) fn executable(text: &str) -> Result<ExecutableMatch, Misread> {
    if let Some(hex) = text.strip_prefix("sha256:") {
        let help = "write sha256: and 64 hexadecimal digits, as sha256sum prints them";
        return match Sha256::from_hex(hex) {
            Some(digest) => Ok(ExecutableMatch::Digest(digest)),
            None => refuse(format!("`{}` is not a digest", text.escape_debug()), help),
        };
    }
    if text.starts_with('/') && !text.ends_with('/') {
        return Ok(ExecutableMatch::Path(text.to_owned()));
    }
    refuse(
        format!("`{}` is not an executable", text.escape_debug()),
        "write its whole path, or sha256:DIGEST",
    )
}

/// The digest of a static key.
pub(super) fn key_digest(text: &str) -> Result<Sha256, Misread> {
    Sha256::from_hex(text.strip_prefix("sha256:").unwrap_or(text)).map_or_else(
        || {
            refuse(
                format!("`{}` is no SHA-256 digest of a key", text.escape_debug()),
                "write 64 hexadecimal digits: printf %s \"$KEY\" | sha256sum. The key itself never stands here",
            )
        },
        |digest| {
            if digest == Sha256::of(b"") {
                return refuse("this is the digest of nothing".to_owned(), "printf %s \"$KEY\" | sha256sum, with the key set");
            }
            Ok(digest)
        },
    )
}

/// A header field that a static key comes in, lower case.
pub(super) fn key_header(text: &str) -> Result<String, Misread> {
    const TAKEN: [&str; 8] = [
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "te",
        "transfer-encoding",
    ];
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let name = text.to_ascii_lowercase();
    if TAKEN.contains(&name.as_str()) {
        return refuse(
            format!("`{text}` has a meaning of its own"),
            "without `key_header` the key is looked for as a bearer token; else name a field such as x-api-key",
        );
    }
    if name.is_empty() || name.len() > 64 || !name.bytes().all(token) {
        return refuse(
            format!("`{}` is no header field", text.escape_debug()),
            "write a name such as x-api-key",
        );
    }
    Ok(name)
}

/// A `key=value` label.
pub(super) fn label(text: &str) -> Result<String, Misread> {
    let fits = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c))
    };
    match text.split_once('=') {
        Some((key, value)) if text.len() <= 128 && fits(key) && fits(value) => Ok(text.to_owned()),
        _ => refuse(
            format!("`{}` is not a label", text.escape_debug()),
            "write key=value, such as environment=production",
        ),
    }
}

/// Every name of built-in detectors.
pub(super) fn detector_names<'n>() -> impl Iterator<Item = &'n str> {
    Detector::ALL
        .into_iter()
        .map(|detector| -> &'n str { detector.name() })
        .chain([Detector::NATIONAL_IDS, "id-us"])
}

/// An asymmetric signature algorithm.
pub(super) fn algorithm(text: &str) -> Result<String, Misread> {
    const ASYMMETRIC: [&str; 9] =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    if ASYMMETRIC.contains(&text) {
        return Ok(text.to_owned());
    }
    let message = format!("`{}` is not accepted as a signature algorithm", text.escape_debug());
    if text.starts_with("HS") || text.eq_ignore_ascii_case("none") {
        return refuse(
            message,
            "who can verify it can forge it; take an asymmetric one, such as ES256 or RS256",
        );
    }
    Err(Misread { message, help: did_you_mean(text, ASYMMETRIC) })
}

/// Whether this is an `http://` URL of this host itself.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let port =
        |text: &str| text.is_empty() || text.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| authority.strip_prefix(host).is_some_and(port))
}

/// Where a webhook goes: by `https://`, or by `http://` to this host itself.
pub(super) fn receiver(text: &str) -> Result<String, Misread> {
    let has_host = |uri: &http::Uri| uri.host().is_some_and(|host| !host.is_empty());
    let whole = text.parse::<http::Uri>().is_ok_and(|uri| has_host(&uri)) && !text.contains('@');
    if whole && (text.starts_with("https://") || text.strip_prefix("http://").is_some_and(is_loopback)) {
        return Ok(text.to_owned());
    }
    let help = "write an https:// URL without a user name; http:// is accepted on loopback only";
    refuse(format!("`{}` is not where a webhook can go", text.escape_debug()), help)
}

/// Where a key set is; a relative path is relative to `home`.
pub(super) fn key_set(text: &str, home: &Path) -> Result<Jwks, Misread> {
    if text.starts_with("https://") {
        return Ok(Jwks::Url(text.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("http://") {
        if is_loopback(rest) {
            return Ok(Jwks::Url(text.to_owned()));
        }
        let help = "use https://; http:// is accepted on loopback only";
        return refuse(
            format!("`{}` would fetch keys over a line that anyone can rewrite", text.escape_debug()),
            help,
        );
    }
    if text.is_empty() || text.contains("://") {
        let help = "write a path, or an https:// URL";
        return refuse(format!("`{}` is not where a key set can be", text.escape_debug()), help);
    }
    Ok(Jwks::File(home.join(text)))
}
