//! A JWT taken apart and its claims judged: pure, no keys, no clock.
//!
//! Takes the compact form only, and refuses whatever it does not understand (RFC 7515, RFC 7519, RFC 8725).

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::token::TokenError;
use crate::limits::TOKEN_BYTES_MAX;
use crate::operation::Proof;
use crate::policy::nouns::IdentityProvider;

/// Seconds that the provider's clock may be ahead of ours.
const LEEWAY: i64 = 30;

/// A token, taken apart, nothing of it verified.
#[derive(Debug)]
pub(super) struct Parts<'t> {
    pub(super) header: Header,
    pub(super) claims: Map<String, Value>,
    /// What is signed.
    pub(super) message: &'t str,
    /// The signature, base64url.
    pub(super) signature: &'t str,
}

/// The header members that matter. Whatever brings keys along (`jwk`, `jku`, `x5c`, `x5u`) is never looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
    b64: Option<Value>,
    enc: Option<Value>,
}

/// What verified claims say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) subject: String,
    pub(super) groups: Vec<String>,
    pub(super) expires: i64,
    pub(super) proof: Proof,
}

/// Takes a token apart.
pub(super) fn parse(token: &str) -> Result<Parts<'_>, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let dots = token.bytes().filter(|&b| b == b'.').count();
    if dots == 4 {
        return Err(TokenError::Encrypted);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("it has no parts"))?;
    let (header, claims) = message.split_once('.').ok_or(TokenError::Malformed("it has no signature"))?;
    if dots != 2 {
        return Err(TokenError::Malformed("it has not three parts"));
    }
    let header: Header = serde_json::from_slice(&decode(header)?)
        .map_err(|_| TokenError::Malformed("its header is no JOSE header"))?;
    if header.enc.is_some() {
        return Err(TokenError::Encrypted);
    }
    if header.crit.is_some() || header.b64.is_some() {
        return Err(TokenError::Critical);
    }
    if let Some(typ) = &header.typ
        && !["jwt", "at+jwt", "application/jwt", "application/at+jwt"]
            .contains(&typ.to_ascii_lowercase().as_str())
    {
        return Err(TokenError::Type(brief(typ)));
    }
    if decode(signature)?.is_empty() {
        return Err(TokenError::Malformed("it is not signed"));
    }
    let claims = serde_json::from_slice(&decode(claims)?)
        .map_err(|_| TokenError::Malformed("its claims are no JSON object"))?;
    Ok(Parts { header, claims, message, signature })
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| TokenError::Malformed("a part is not base64url"))
}

/// Text of a token for a message: short, and unable to break out of it.
pub(super) fn brief(text: &str) -> String {
    let start: String = text.chars().take(80).collect();
    format!("{start:?}")
}

/// `iss`.
pub(super) fn issuer(claims: &Map<String, Value>) -> Result<&str, TokenError> {
    claims.get("iss").and_then(Value::as_str).ok_or(TokenError::Claim("iss"))
}

/// Judges the claims of a token whose signature is right. `now` is in seconds since the Unix epoch.
pub(super) fn check(
    claims: &Map<String, Value>,
    provider: &IdentityProvider,
    now: i64,
) -> Result<Said, TokenError> {
    if issuer(claims)? != provider.issuer {
        return Err(TokenError::Issuer(brief(issuer(claims)?)));
    }
    check_audience(claims.get("aud"), provider)?;
    let expires = seconds(claims, "exp")?.ok_or(TokenError::Claim("exp"))?;
    if expires <= now {
        return Err(TokenError::Expired { at: expires });
    }
    for name in ["nbf", "iat"] {
        if let Some(at) = seconds(claims, name)?
            && at > now + LEEWAY
        {
            return Err(TokenError::NotYet { claim: name, at });
        }
    }
    let subject = claims.get("sub").and_then(Value::as_str).filter(|sub| !sub.is_empty());
    let subject = subject.ok_or(TokenError::Claim("sub"))?.to_owned();
    let life = seconds(claims, "iat")?.and_then(|issued| expires.checked_sub(issued));
    let proof = Proof { claims: kept(claims, &provider.claims), life, key: None };
    Ok(Said { subject, groups: groups(claims, &provider.groups_claim)?, expires, proof })
}

fn check_audience(audience: Option<&Value>, provider: &IdentityProvider) -> Result<(), TokenError> {
    let ours = |one: &str| provider.audience.iter().any(|audience| audience == one);
    let named = match audience {
        Some(Value::String(one)) => ours(one),
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).any(ours),
        _ => return Err(TokenError::Claim("aud")),
    };
    if named { Ok(()) } else { Err(TokenError::Audience { provider: provider.name.clone() }) }
}

/// A NumericDate, rounded down; `None` where the claim is not there.
fn seconds(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, TokenError> {
    /// The year 9999.
    const FAR: f64 = 253_402_300_799.0;
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|n| (-FAR..=FAR).contains(n)).ok_or(TokenError::Claim(name))?;
    #[expect(clippy::cast_possible_truncation, reason = "bounded by FAR above")]
    Ok(Some(seconds.floor() as i64))
}

/// A claim by its name, or by a path with dots.
fn claim<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    claims.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
    })
}

/// The claims that roles ask for, with their plain values as JSON.
fn kept(claims: &Map<String, Value>, paths: &[String]) -> Vec<(String, Vec<String>)> {
    let plain = |value: &Value| match value {
        Value::String(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Number(number) => number.as_i64().map(|number| number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let values = |value: &Value| match value {
        Value::Array(many) => many.iter().filter_map(plain).collect(),
        one => plain(one).into_iter().collect::<Vec<_>>(),
    };
    let found = paths.iter().filter_map(|path| Some((path.clone(), values(claim(claims, path)?))));
    found.filter(|(_, values)| !values.is_empty()).collect()
}

/// The groups under a claim: an array of strings, or one string. The claim may be a name, or a path with dots.
fn groups(claims: &Map<String, Value>, claim: &str) -> Result<Vec<String>, TokenError> {
    match self::claim(claims, claim) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(many)) => {
            let names = many.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect::<Option<_>>().ok_or(TokenError::Groups)
        }
        Some(_) => Err(TokenError::Groups),
    }
}
