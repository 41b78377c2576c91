//! Hides everything any detector finds in short text: header values, paths, queries, messages of errors.
//!
//! Looks at the text as it stands and as forms escape it. Credentials that only their place gives away (an
//! `Authorization` header, `access_token=` in a query) are hidden whole.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::escape::{self, Piece};
use super::find::{Finder, Set, Span};
use super::window::STARS;

/// What the record hides whatever the policy says.
static ALWAYS: LazyLock<(Finder, Set)> = LazyLock::new(|| (Finder::new(Set::always(), &[]), Set::always()));

/// Header fields whose value is a credential, in lower case.
const CREDENTIAL_FIELDS: [&str; 20] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
    "private-token",
    "job-token",
    "x-vault-token",
    "x-gitlab-token",
    "x-functions-key",
    "ocp-apim-subscription-key",
];

/// Parameters whose value is a credential, in lower case, without `-` and `_`.
const CREDENTIAL_PARAMETERS: [&str; 22] = [
    "accesstoken",
    "refreshtoken",
    "idtoken",
    "token",
    "authtoken",
    "sessiontoken",
    "apikey",
    "key",
    "secret",
    "clientsecret",
    "clientassertion",
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "sig",
    "signature",
    "xamzsignature",
    "xamzsecuritytoken",
    "xgoogsignature",
    "code",
    "auth",
];

/// Text with stars in the place of everything that a detector finds which the record always hides, and of the values of parameters that are named like credentials.
#[must_use]
pub fn scrub(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut hidden: Vec<(usize, usize)> = Vec::new();
    let mut spans = Vec::new();
    let (finder, set) = &*ALWAYS;
    finder.find(bytes, 0, *set, false, b"", &mut spans);
    hidden.extend(spans.iter().map(|span| (span.start, span.end)));
    find_escaped(bytes, &mut spans, &mut hidden);
    find_parameters(text, &mut hidden);
    if hidden.is_empty() {
        return Cow::Borrowed(text);
    }
    hidden.sort_unstable();
    let mut out = String::with_capacity(text.len());
    let mut covered: Option<usize> = None;
    for (start, end) in hidden {
        let (start, end) = (floor(text, start), ceil(text, end));
        if covered.is_none_or(|covered| start > covered) {
            out.push_str(&text[covered.unwrap_or(0)..start]);
            out.push_str("********");
        }
        covered = Some(end.max(covered.unwrap_or(0)));
    }
    out.push_str(&text[covered.unwrap_or(0)..]);
    Cow::Owned(out)
}

/// The value of a header field: nothing of a credential field but its scheme, else what [`scrub`] leaves.
#[must_use]
pub fn scrub_header<'v>(name: &str, value: &'v str) -> Cow<'v, str> {
    if !CREDENTIAL_FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name)) {
        return scrub(value);
    }
    let stars = String::from_utf8_lossy(STARS);
    match value.split_once(' ') {
        Some((scheme, _)) if is_scheme(scheme) => Cow::Owned(format!("{scheme} {stars}")),
        _ => Cow::Owned(stars.into_owned()),
    }
}

fn is_scheme(word: &str) -> bool {
    [
        "bearer",
        "basic",
        "digest",
        "negotiate",
        "ntlm",
        "dpop",
        "hoba",
        "mutual",
        "token",
        "apikey",
        "aws4-hmac-sha256",
    ]
    .iter()
    .any(|scheme| scheme.eq_ignore_ascii_case(word))
}

/// Finds what shows once percent escapes are read, and again what shows once those are.
fn find_escaped(bytes: &[u8], spans: &mut Vec<Span>, hidden: &mut Vec<(usize, usize)>) {
    let mut text = bytes.to_vec();
    // Where each byte of the text comes from.
    let mut from: Vec<(usize, usize)> = (0..bytes.len()).map(|at| (at, at + 1)).collect();
    for _ in 0..2 {
        let mut read: Vec<u8> = Vec::with_capacity(text.len());
        let mut origin = Vec::with_capacity(text.len());
        let mut at = 0;
        escape::percent(&text, true, |piece| match piece {
            Piece::Plain(plain) => {
                read.extend_from_slice(plain);
                origin.extend_from_slice(&from[at..at + plain.len()]);
                at += plain.len();
            }
            Piece::Escaped { text, raw } => {
                read.extend_from_slice(text);
                origin.push((from[at].0, from[at + raw.len() - 1].1));
                at += raw.len();
            }
        });
        if read == text {
            return;
        }
        let (finder, set) = &*ALWAYS;
        finder.find(&read, 0, *set, false, b"", spans);
        hidden.extend(spans.iter().map(|span| (origin[span.start].0, origin[span.end - 1].1)));
        (text, from) = (read, origin);
    }
}

/// Finds the values of parameters that are named like credentials: `?access_token=...&`.
fn find_parameters(text: &str, hidden: &mut Vec<(usize, usize)>) {
    let bytes = text.as_bytes();
    for (equals, _) in text.match_indices('=') {
        let name_start =
            bytes[..equals].iter().rposition(|&b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')));
        let name_start = name_start.map_or(0, |n| n + 1);
        let parted =
            name_start == 0 || matches!(bytes[name_start - 1], b'?' | b'&' | b';' | b' ' | b',' | b'#');
        let name: String = text[name_start..equals]
            .chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .map(|c| c.to_ascii_lowercase())
            .collect();
        if !parted || !CREDENTIAL_PARAMETERS.contains(&name.as_str()) {
            continue;
        }
        let end =
            bytes[equals + 1..].iter().position(|b| matches!(b, b'&' | b';' | b' ' | b'#' | b',' | b'"'));
        let end = end.map_or(bytes.len(), |n| equals + 1 + n);
        if end > equals + 1 {
            hidden.push((equals + 1, end));
        }
    }
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0)
}

fn ceil(text: &str, at: usize) -> usize {
    (at..=text.len()).find(|&n| text.is_char_boundary(n)).unwrap_or(text.len())
}
