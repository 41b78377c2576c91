//! A JSON Web Key Set (RFC 7517), read for public signature keys only.
//!
//! Refuses a set that holds a secret or private key, or two keys that answer to one name: whoever published it should
//! hear of it. Passes over keys it has no use for.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Bytes of an RSA modulus: 2048 bits (NIST SP 800-131A) to 8192.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Usable keys.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

/// Why a key set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("it is no JSON Web Key Set: {0}")]
    Malformed(String),
    #[error("it holds a secret or private key; publish public keys only, and replace that one")]
    Private,
    #[error("two of its keys have the same id, {0}")]
    Ambiguous(String),
    #[error("it holds no public signature key that can be used here")]
    Empty,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<RawKey>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<Value>,
    p: Option<Value>,
    q: Option<Value>,
    k: Option<Value>,
}

impl KeySet {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        let raw: RawSet =
            serde_json::from_slice(bytes).map_err(|error| KeySetError::Malformed(error.to_string()))?;
        let is_secret = |key: &RawKey| {
            key.kty == "oct" || key.d.is_some() || key.p.is_some() || key.q.is_some() || key.k.is_some()
        };
        if raw.keys.iter().any(is_secret) {
            return Err(KeySetError::Private);
        }
        let keys: Vec<Key> = raw.keys.into_iter().filter_map(usable).collect();
        for (n, key) in keys.iter().enumerate() {
            let same = |other: &Key| {
                other.kid == key.kid && other.algorithms.iter().any(|one| key.algorithms.contains(one))
            };
            if let Some(kid) = &key.kid
                && keys[n + 1..].iter().any(same)
            {
                return Err(KeySetError::Ambiguous(super::claims::brief(kid)));
            }
        }
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self { keys }) }
    }

    /// The key for a token: the one it names, or, where it names none, the only one that fits its algorithm.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting = self.keys.iter().filter(|key| {
            key.algorithms.contains(&algorithm) && (kid.is_none() || key.kid.as_deref() == kid)
        });
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(&key.decoding),
            _ => None,
        }
    }
}

fn usable(raw: RawKey) -> Option<Key> {
    if raw.r#use.as_deref().is_some_and(|usage| usage != "sig")
        || raw.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
    {
        return None;
    }
    let (family, decoding) = match raw.kty.as_str() {
        "RSA" => rsa(&raw)?,
        "EC" => elliptic(&raw)?,
        "OKP" if raw.crv.as_deref() == Some("Ed25519") => {
            let x = raw.x.as_deref()?;
            (
                vec![Algorithm::EdDSA],
                (bytes(x)?.len() == 32).then(|| DecodingKey::from_ed_components(x).ok())??,
            )
        }
        _ => return None,
    };
    let algorithms: Vec<Algorithm> = match &raw.alg {
        Some(name) => family.into_iter().filter(|one| Some(*one) == algorithm(name)).collect(),
        None => family,
    };
    (!algorithms.is_empty()).then_some(Key { kid: raw.kid, algorithms, decoding })
}

fn rsa(raw: &RawKey) -> Option<(Vec<Algorithm>, DecodingKey)> {
    use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
    let (n, e) = (bytes(raw.n.as_deref()?)?, bytes(raw.e.as_deref()?)?);
    let odd = e.last().is_some_and(|last| last % 2 == 1) && e != [1] && e.len() <= 8;
    if !odd || !RSA_BYTES.contains(&n.len()) || is_roca(&n) {
        return None;
    }
    Some((vec![RS256, RS384, RS512, PS256, PS384, PS512], DecodingKey::from_rsa_raw_components(&n, &e)))
}

/// Whether an RSA modulus has the mark of the Infineon library whose keys can be factored (CVE-2017-15361): modulo
/// each of these primes it is a power of 65537. A sound key passes all of them once in some hundred million.
fn is_roca(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % prime);
        let powers = std::iter::successors(Some(1), |power| Some(power * 65_537 % prime));
        powers.take(*prime as usize).any(|power| power == rest)
    })
}

fn elliptic(raw: &RawKey) -> Option<(Vec<Algorithm>, DecodingKey)> {
    let (algorithm, long) = match raw.crv.as_deref()? {
        "P-256" => (Algorithm::ES256, 32),
        "P-384" => (Algorithm::ES384, 48),
        _ => return None,
    };
    let (x, y) = (raw.x.as_deref()?, raw.y.as_deref()?);
    if bytes(x)?.len() != long || bytes(y)?.len() != long {
        return None;
    }
    Some((vec![algorithm], DecodingKey::from_ec_components(x, y).ok()?))
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

/// An asymmetric algorithm by its registered name; anything else, `none` and `HS256` first of all, is `None`.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" | "Ed25519" => Algorithm::EdDSA,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modulus_with_the_infineon_mark_is_known() {
        // Powers of 65537 modulo every prime, as those keys are; and a product of two primes that is not.
        assert!(is_roca(&[1]));
        assert!(is_roca(&65_537u32.to_be_bytes()));
        assert!(!is_roca(&(4_294_967_291u64 * 4_294_967_279).to_be_bytes()));
    }

    #[test]
    fn only_asymmetric_algorithms_have_a_name_here() {
        for name in ["none", "HS256", "HS512", "A128KW", "ES256K", "ES512", "rs256", ""] {
            assert_eq!(algorithm(name), None, "{name}");
        }
    }

    #[test]
    fn keys_that_cannot_be_sound_are_passed_over() {
        let long = "A".repeat(342);
        for key in [
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.to_owned(),
            format!(r#"{{"kty":"RSA","n":"{long}","e":"AQ"}}"#),
            format!(r#"{{"kty":"RSA","n":"{long}","e":"AQAA"}}"#),
            format!(r#"{{"kty":"RSA","n":"{long}"}}"#),
            r#"{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}"#.to_owned(),
            r#"{"kty":"EC","crv":"secp256k1","x":"AQAB","y":"AQAB"}"#.to_owned(),
            r#"{"kty":"OKP","crv":"Ed25519","x":"AQAB"}"#.to_owned(),
            r#"{"kty":"OKP","crv":"X25519","x":"AQAB"}"#.to_owned(),
        ] {
            let set = format!(r#"{{"keys":[{key}]}}"#);
            assert_eq!(KeySet::parse(set.as_bytes()).err(), Some(KeySetError::Empty), "{key}");
        }
    }
}
