//! A throw-away identity provider on paper: one key, its JWKS file, and tokens signed by it. Signs whatever it is asked
//! to, also what no honest provider would.

use std::fs;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The issuer that [`Keys::claims`] names.
pub const ISSUER: &str = "https://issuer.test";
/// The audience that [`Keys::claims`] names.
pub const AUDIENCE: &str = "tidegate-tests";

/// An ES256 key of a provider.
pub struct Keys {
    key: EncodingKey,
    id: String,
    jwk: Value,
}

impl Keys {
    /// A new key.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn new(id: &str) -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())
            .expect("the key just made");
        // Uncompressed: 4, x, y.
        let point = pair.public_key().as_ref();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..65]));
        let jwk =
            json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": x, "y": y });
        Self { key: EncodingKey::from_ec_der(document.as_ref()), id: id.to_owned(), jwk }
    }

    /// The key set with this key alone.
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk] })
    }

    /// Writes the key set to a file.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_jwks(&self, path: &Path) {
        fs::write(path, self.jwks().to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Honest claims of this user: [`ISSUER`], [`AUDIENCE`], good for ten minutes. Change what the test is about.
    #[must_use]
    pub fn claims(subject: &str, groups: &[&str]) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "groups": groups, "iat": now, "exp": now + 600 })
    }

    /// An honest token of this user.
    #[must_use]
    pub fn token(&self, subject: &str, groups: &[&str]) -> String {
        self.sign(&Self::claims(subject, groups))
    }

    /// A token with these claims.
    ///
    /// # Panics
    /// When the claims are no object.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.key).expect("claims are an object")
    }

    /// A token with this header, these claims and this signature: for forgeries.
    #[must_use]
    pub fn forge(header: &Value, claims: &Value, signature: &[u8]) -> String {
        let part = |value: &Value| base64url(value.to_string().as_bytes());
        format!("{}.{}.{}", part(header), part(claims), base64url(signature))
    }
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let joined = group.iter().fold(0_u32, |joined, &byte| joined << 8 | u32::from(byte))
            << (8 * (3 - group.len()));
        let digits = [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(joined >> shift & 63) as usize]));
        text.extend(&digits[..=group.len()]);
    }
    text
}
