//! The user behind a bearer token: a JWT, checked against the keys and the claims its provider is declared with.
//!
//! What is accepted is said by the policy, never by the token: the algorithm, the keys, the issuer and the audience. A
//! token that is wrong in any way is an error, never "nobody".

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::claims::{self, Parts, brief};
use super::keys::algorithm;
use super::keyset::{Current, Source};
use crate::kernel::Exempt;
use crate::operation::{Sha256, User};
use crate::policy::nouns::IdentityProvider;

/// Verified tokens remembered.
const VERIFIED_MAX: usize = 16 * 1024;

/// Why a token is not accepted, for the operator. The client hears "invalid token" and no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`crate::limits::TOKEN_BYTES_MAX`].
    #[error("the token is longer than {} bytes", crate::limits::TOKEN_BYTES_MAX)]
    TooLong,
    /// No JWT in compact form.
    #[error("the token is no JWT: {0}")]
    Malformed(&'static str),
    /// A JWE.
    #[error("the token is encrypted; have the provider issue signed tokens (JWS)")]
    Encrypted,
    /// An extension that must be understood (`crit`, `b64`).
    #[error("the token's header demands an extension that is not supported")]
    Critical,
    /// A JWT made for something else, such as a logout token.
    #[error("the token's type is {0}, not an access or identity token")]
    Type(String),
    /// An algorithm that the provider's declaration does not list.
    #[error(
        "the token is signed with {algorithm}, which identity provider `{provider}` does not list in `algorithms`"
    )]
    Algorithm {
        /// What the token says.
        algorithm: String,
        /// The provider.
        provider: String,
    },
    /// No declared provider has this issuer.
    #[error("the token's issuer is {0}, which no identity provider declares")]
    Issuer(String),
    /// For somebody else.
    #[error("the token's audience is none of those of identity provider `{provider}`")]
    Audience {
        /// The provider.
        provider: String,
    },
    /// Its time is over.
    #[error("the token expired at {at} (seconds since 1970)")]
    Expired {
        /// `exp`.
        at: i64,
    },
    /// Its time has not come.
    #[error("the token's `{claim}` is {at} (seconds since 1970), which is still to come; compare the clocks")]
    NotYet {
        /// `nbf` or `iat`.
        claim: &'static str,
        /// Its value.
        at: i64,
    },
    /// The key it names is not in the provider's set, or it names none and several would fit.
    #[error("the token's key {kid} is not in the key set of identity provider `{provider}`")]
    Key {
        /// What the token says.
        kid: String,
        /// The provider.
        provider: String,
    },
    /// The signature is wrong.
    #[error("the token's signature does not match the key of identity provider `{provider}`")]
    Signature {
        /// The provider.
        provider: String,
    },
    /// The provider's keys are not available.
    #[error("the keys of identity provider `{provider}` are not available: {why}")]
    Keys {
        /// The provider.
        provider: String,
        /// Why.
        why: String,
    },
    /// A claim is missing or has the wrong type.
    #[error("the token's claim `{0}` is missing or malformed")]
    Claim(&'static str),
    /// The groups claim is neither a string nor an array of strings.
    #[error("the token's groups claim is neither a string nor an array of strings")]
    Groups,
}

/// Checks tokens against a fixed list of providers.
#[derive(Debug)]
pub struct Verifier {
    providers: Vec<Provider>,
    exempt: Exempt,
    verified: Mutex<HashMap<Sha256, Verified>>,
}

#[derive(Debug)]
struct Provider {
    declared: IdentityProvider,
    algorithms: Vec<Algorithm>,
    source: Arc<Source>,
}

/// A token that was verified, as long as it lasts and the keys stay the same.
#[derive(Debug, Clone)]
struct Verified {
    user: User,
    provider: usize,
    generation: u64,
}

impl Verifier {
    /// Checks against these providers. Keys are read when the first token comes, and fetched through sockets of
    /// `exempt` where they are not at hand.
    #[must_use]
    pub fn new(providers: &[IdentityProvider], exempt: Exempt) -> Self {
        Self::build(providers, &[], exempt)
    }

    /// Checks against these providers from now on, with the key sets that are known already. Nothing else is carried
    /// over: every token is verified again.
    #[must_use]
    pub fn renewed(&self, providers: &[IdentityProvider]) -> Self {
        Self::build(providers, &self.providers, self.exempt.clone())
    }

    fn build(providers: &[IdentityProvider], known: &[Provider], exempt: Exempt) -> Self {
        let providers = providers.iter().map(|declared| {
            let known = known.iter().find(|provider| provider.source.is(&declared.jwks));
            let source = known.map(|provider| provider.source.clone());
            let new = || Arc::new(Source::new(declared.jwks.clone(), exempt.clone()));
            Provider {
                declared: declared.clone(),
                algorithms: declared.algorithms.iter().filter_map(|name| algorithm(name)).collect(),
                source: source.unwrap_or_else(new),
            }
        });
        let providers = providers.collect();
        Self { providers, exempt, verified: Mutex::default() }
    }

    /// The user this token proves at `now`. May wait for a provider's keys to be fetched, for a few seconds at most.
    pub async fn verify(&self, token: &str, now: jiff::Timestamp) -> Result<User, TokenError> {
        let now = now.as_second();
        if token.len() > crate::limits::TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let name = Sha256::of(token.as_bytes());
        if let Some(user) = self.known(name, now).await? {
            return Ok(user);
        }
        let parts = claims::parse(token)?;
        let issuer = claims::issuer(&parts.claims)?;
        let mut refused = TokenError::Issuer(brief(issuer));
        // Several providers may share an issuer and differ in audience.
        for (index, provider) in self.providers.iter().enumerate() {
            if provider.declared.issuer != issuer {
                continue;
            }
            match provider.verify(&parts, now).await {
                Ok((user, generation)) => {
                    self.remember(name, Verified { user: user.clone(), provider: index, generation }, now);
                    return Ok(user);
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// The user of a token that was verified with the keys that still serve.
    async fn known(&self, name: Sha256, now: i64) -> Result<Option<User>, TokenError> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        let Some(verified) = verified else { return Ok(None) };
        if verified.user.expires <= now {
            self.verified.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            return Err(TokenError::Expired { at: verified.user.expires });
        }
        let Some(provider) = self.providers.get(verified.provider) else { return Ok(None) };
        let current = provider.keys(now).await?;
        Ok((current.generation == verified.generation).then_some(verified.user))
    }

    fn remember(&self, name: Sha256, verified: Verified, now: i64) {
        let mut all = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= VERIFIED_MAX {
            all.retain(|_, verified| verified.user.expires > now);
        }
        if all.len() >= VERIFIED_MAX {
            all.clear();
        }
        all.insert(name, verified);
    }
}

impl Provider {
    async fn keys(&self, now: i64) -> Result<Arc<Current>, TokenError> {
        self.source.current(now).await.map_err(|why| self.no_keys(why))
    }

    fn no_keys(&self, why: String) -> TokenError {
        TokenError::Keys { provider: self.declared.name.clone(), why }
    }

    /// The user, and the generation of the keys that proved it.
    async fn verify(&self, parts: &Parts<'_>, now: i64) -> Result<(User, u64), TokenError> {
        let name = &self.declared.name;
        let allowed = algorithm(&parts.header.alg).filter(|one| self.algorithms.contains(one));
        let Some(algorithm) = allowed else {
            return Err(TokenError::Algorithm {
                algorithm: brief(&parts.header.alg),
                provider: name.clone(),
            });
        };
        let kid = parts.header.kid.as_deref();
        let mut current = self.keys(now).await?;
        if current.keys.find(kid, algorithm).is_none() {
            current = self.source.newer(&current, now).await.map_err(|why| self.no_keys(why))?;
        }
        let Some(key) = current.keys.find(kid, algorithm) else {
            return Err(TokenError::Key {
                kid: kid.map_or("(unnamed)".to_owned(), brief),
                provider: name.clone(),
            });
        };
        let right = jsonwebtoken::crypto::verify(parts.signature, parts.message.as_bytes(), key, algorithm);
        if !right.unwrap_or(false) {
            return Err(TokenError::Signature { provider: name.clone() });
        }
        Ok((self.user(&parts.claims, now)?, current.generation))
    }

    fn user(&self, claims: &Map<String, Value>, now: i64) -> Result<User, TokenError> {
        let said = claims::check(claims, &self.declared, now)?;
        Ok(User {
            provider: self.declared.name.clone(),
            subject: said.subject,
            groups: said.groups,
            expires: said.expires,
            proof: said.proof,
        })
    }
}

#[cfg(test)]
#[path = "token/tests.rs"]
mod tests;
