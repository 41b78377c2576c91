//! Hides everything any detector finds in short text: header values, paths, queries, messages of errors. A plan that
//! records hides what its own detectors find as well.
//!
//! Looks at the text as it stands and as forms escape it. Credentials that only their place gives away (an
//! `Authorization` header, `access_token=` in a query) are hidden whole.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::escape::{self, Piece};
use super::find::{Finder, Set, Slot, Span};
use super::plan::Plan;

const STARS: &str = "********";

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
    let (finder, set) = &*ALWAYS;
    let find = |text: &[u8], spans: &mut Vec<Span>| {
        finder.find(text, 0, *set, false, b"", spans);
    };
    replace(text, &find, &|_| STARS)
}

/// The value of a header field: nothing of a credential field but its scheme, else what [`scrub`] leaves.
#[must_use]
pub fn scrub_header<'v>(name: &str, value: &'v str) -> Cow<'v, str> {
    credential(name, value, STARS).unwrap_or_else(|| scrub(value))
}

impl Plan {
    /// As [`scrub`], by the detectors of this plan, with what it writes for each.
    #[must_use]
    pub fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let find = |text: &[u8], spans: &mut Vec<Span>| {
            self.0.find(text, 0, self.0.set, false, b"", spans);
        };
        replace(text, &find, &|slot| match slot {
            None => self.place_label(),
            Some(slot) => self.0.rule(slot).and_then(|rule| self.0.label(rule.look)).unwrap_or(STARS),
        })
    }

    /// As [`scrub_header`], by the detectors of this plan and the fields that its masks name.
    #[must_use]
    pub fn scrub_header<'v>(&self, name: &str, value: &'v str) -> Cow<'v, str> {
        if let Some((shown, _)) = self.named_header(name, value.as_bytes()) {
            return Cow::Owned(String::from_utf8_lossy(&shown).into_owned());
        }
        credential(name, value, self.place_label()).unwrap_or_else(|| self.scrub(value))
    }

    /// What stands for a credential that only its place gives away.
    fn place_label(&self) -> &'static str {
        if self.0.is_labelled() { "[masked: credential]" } else { STARS }
    }
}

/// Finds in text, appending nothing but its finds.
type Find<'f> = &'f dyn Fn(&[u8], &mut Vec<Span>);

/// The first and the byte after the last of what is hidden, and the detector that found it.
type Hidden = (usize, usize, Option<Slot>);

/// Text with what is found replaced. Finds that touch are one, written for the first of them.
fn replace<'t, 's>(text: &'t str, find: Find<'_>, shown: &dyn Fn(Option<Slot>) -> &'s str) -> Cow<'t, str> {
    let bytes = text.as_bytes();
    let mut hidden: Vec<Hidden> = Vec::new();
    let mut spans = Vec::new();
    find(bytes, &mut spans);
    hidden.extend(spans.iter().map(|span| (span.start, span.end, Some(span.detector))));
    find_escaped(bytes, find, &mut spans, &mut hidden);
    find_parameters(text, &mut hidden);
    if hidden.is_empty() {
        return Cow::Borrowed(text);
    }
    hidden.sort_unstable();
    let mut out = String::with_capacity(text.len());
    let mut covered: Option<usize> = None;
    for (start, end, slot) in hidden {
        let (start, end) = (floor(text, start), ceil(text, end));
        if covered.is_none_or(|covered| start > covered) {
            out.push_str(&text[covered.unwrap_or(0)..start]);
            out.push_str(shown(slot));
        }
        covered = Some(end.max(covered.unwrap_or(0)));
    }
    out.push_str(&text[covered.unwrap_or(0)..]);
    Cow::Owned(out)
}

/// What is left of the value of a credential field: its scheme. `None`: it is another field.
fn credential(name: &str, value: &str, shown: &'static str) -> Option<Cow<'static, str>> {
    if !CREDENTIAL_FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name)) {
        return None;
    }
    Some(match value.split_once(' ') {
        Some((scheme, _)) if is_scheme(scheme) => Cow::Owned(format!("{scheme} {shown}")),
        _ => Cow::Borrowed(shown),
    })
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
fn find_escaped(bytes: &[u8], find: Find<'_>, spans: &mut Vec<Span>, hidden: &mut Vec<Hidden>) {
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
        find(&read, spans);
        let place = |span: &Span| (origin[span.start].0, origin[span.end - 1].1, Some(span.detector));
        hidden.extend(spans.iter().map(place));
        (text, from) = (read, origin);
    }
}

/// Finds the values of parameters that are named like credentials: `?access_token=...&`.
fn find_parameters(text: &str, hidden: &mut Vec<Hidden>) {
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
            hidden.push((equals + 1, end, None));
        }
    }
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0)
}

fn ceil(text: &str, at: usize) -> usize {
    (at..=text.len()).find(|&n| text.is_char_boundary(n)).unwrap_or(text.len())
}
