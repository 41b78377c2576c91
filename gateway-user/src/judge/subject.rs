//! Who asks, for one operation: the flow's process, and the user whose token it carries where the target asks for
//! one. An invalid token is refused, never taken for "nobody".

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::{Asked, Judge};
use crate::limits::TOKEN_BYTES_MAX;
use crate::operation::{Direction, Sha256, Subject, User};
use crate::policy::Set;
use crate::policy::nouns::{Require, Target};

impl Judge {
    /// The subject, or why it is not established (for the operator).
    pub(super) async fn subject(&self, set: &Set, target: &Target, asked: &Asked) -> Result<Subject, String> {
        let token = bearer(asked.authorization.as_deref())?;
        let user = match (looks_for_users(set, target), key_of(set, token, &asked.request.headers)?, token) {
            (false, _, _) => None,
            (true, Some(key), _) => Some(User::of_key(key)),
            (true, None, Some(token)) => Some(self.user(set, token).await?),
            (true, None, None) => None,
        };
        Ok(Subject { user, workload: self.flow.workload.clone(), peer: self.flow.peer })
    }

    async fn user(&self, set: &Set, token: &str) -> Result<User, String> {
        let mut tokens = self.bench.tokens.load_full();
        if tokens.0 != set.digest() {
            // The first operation under a new policy set brings its providers' verifier.
            tokens = std::sync::Arc::new((set.digest(), tokens.1.renewed(set.providers())));
            self.bench.tokens.store(tokens.clone());
        }
        tokens.1.verify(token, jiff::Timestamp::now()).await.map_err(|error| error.to_string())
    }
}

/// A bearer token is ours to check where users are asked for, and at our own services wherever a provider is
/// declared. Elsewhere (the agent's own key for an outside API) it is the upstream's business.
pub(super) fn looks_for_users(set: &Set, target: &Target) -> bool {
    match target.require {
        Require::User | Require::Both => true,
        _ => target.direction == Direction::Inbound && (!set.providers().is_empty() || set.has_keys()),
    }
}

/// The declared static key that a request shows: as its bearer token, or in the field it is declared for. Every declared
/// key is compared, in a time that tells nothing of any.
fn key_of(set: &Set, token: Option<&str>, fields: &[(String, Vec<u8>)]) -> Result<Option<Sha256>, String> {
    if !set.has_keys() {
        return Ok(None);
    }
    let headers = set.key_headers();
    let in_fields = fields.iter().filter_map(|(name, value)| {
        let header = headers.get(name.to_ascii_lowercase().as_str())?;
        Some((Some(*header), Sha256::of(value.trim_ascii())))
    });
    let shown = token.map(|token| (None, Sha256::of(token.as_bytes()))).into_iter().chain(in_fields);
    let mut found: Option<(Option<&str>, Sha256)> = None;
    for (header, digest) in shown {
        let mut known = false;
        for (place, key) in set.keys() {
            known |= verify_slices_are_equal(&digest.0, &key.0).is_ok() & (place == header);
        }
        if !known {
            continue;
        }
        if found.is_some_and(|(_, first)| first != digest) {
            return Err("it shows two static keys, and each is a user of its own".into());
        }
        found = Some((header, digest));
    }
    match (found, token) {
        (Some((Some(header), _)), Some(_)) => Err(format!(
            "it shows a static key in {header} and a bearer token, and each is a user of its own"
        )),
        (found, _) => Ok(found.map(|(_, digest)| digest)),
    }
}

/// The token of a `Bearer` credential (RFC 6750 section 2.1); `None` for no credential or another scheme.
fn bearer(authorization: Option<&[u8]>) -> Result<Option<&str>, String> {
    let Some(value) = authorization else { return Ok(None) };
    let Ok(text) = std::str::from_utf8(value) else {
        return Err("the Authorization header is not ASCII".into());
    };
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let token = token.trim_matches(' ');
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err("the bearer token is empty or larger than any real one".into());
    }
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed() -> Set {
        let dir = tempfile::tempdir().unwrap();
        let key = |key: &str| Sha256::of(key.as_bytes()).to_string();
        let roles = format!(
            "[[target]]\nname = \"t\"\ndirection = \"inbound\"\nports = [80]\n\
             [[role]]\nname = \"bearer\"\nkey_sha256 = \"{}\"\n\
             [[role]]\nname = \"header\"\nkey_sha256 = [\"{}\", \"{}\"]\nkey_header = \"x-api-key\"\n",
            key("bearer-key"),
            key("header-key"),
            key("other-key")
        );
        std::fs::write(dir.path().join("a.toml"), roles).unwrap();
        crate::policy::read(dir.path()).unwrap()
    }

    fn shown(token: Option<&str>, fields: &[(&str, &str)]) -> Result<Option<Sha256>, String> {
        let fields: Vec<(String, Vec<u8>)> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        key_of(&keyed(), token, &fields)
    }

    #[test]
    fn a_declared_key_is_known_where_it_is_declared_and_nowhere_else() {
        let key = |text: &str| Ok(Some(Sha256::of(text.as_bytes())));
        assert_eq!(shown(Some("bearer-key"), &[]), key("bearer-key"));
        assert_eq!(shown(None, &[("X-API-Key", " header-key")]), key("header-key"));
        for nothing in [
            shown(None, &[]),
            shown(Some("header-key"), &[]),
            shown(Some("bearer-key "), &[]),
            shown(None, &[("x-api-key", "bearer-key")]),
            shown(None, &[("x-api-key", "")]),
            shown(None, &[("x-key", "header-key")]),
            shown(Some("eyJ.a.b"), &[("x-api-key", "somebody else's")]),
        ] {
            assert_eq!(nothing, Ok(None));
        }
    }

    #[test]
    fn who_shows_two_users_is_refused() {
        assert!(shown(None, &[("x-api-key", "header-key"), ("x-api-key", "other-key")]).is_err());
        assert!(shown(Some("bearer-key"), &[("x-api-key", "header-key")]).is_err());
        assert!(shown(Some("eyJ.a.b"), &[("x-api-key", "header-key")]).is_err());
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(Some(b"bearer abc")).unwrap(), Some("abc"));
        assert_eq!(bearer(Some(b"Basic abc")).unwrap(), None);
        assert_eq!(bearer(None).unwrap(), None);
    }

    #[test]
    fn an_unreadable_bearer_credential_is_not_nobody() {
        assert!(bearer(Some(b"Bearer ")).is_err());
        assert!(bearer(Some(b"Bearer")).is_err());
        assert!(bearer(Some(&[b'B', 0xff])).is_err());
        let long = format!("Bearer {}", "a".repeat(TOKEN_BYTES_MAX + 1));
        assert!(bearer(Some(long.as_bytes())).is_err());
    }
}
