//! Message heads as the record may hold them: credentials replaced whole, every other value scrubbed by every
//! detector. Never stores a token.

use crate::mask;
use crate::record::entry::Head;

/// What stands in the place of a credential.
const HIDDEN: &str = "[hidden]";

/// Fields whose whole value is a credential, lower case.
const CREDENTIALS: [&str; 12] = [
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
    "x-amz-security-token",
    "x-goog-api-key",
];

/// A head for the record.
#[must_use]
pub fn recorded<'a>(line: &str, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Head {
    Head {
        line: mask::scrub(line).into_owned(),
        fields: fields.map(|(name, value)| (name.to_owned(), recorded_value(name, value))).collect(),
    }
}

fn recorded_value(name: &str, value: &[u8]) -> String {
    if CREDENTIALS.iter().any(|credential| name.eq_ignore_ascii_case(credential)) {
        // The scheme says how somebody authenticated and is no secret.
        let scheme = value.split(|&b| b == b' ').next().filter(|s| s.len() < value.len() && s.len() <= 16);
        return match scheme.and_then(|s| std::str::from_utf8(s).ok()) {
            Some(scheme) if name.eq_ignore_ascii_case("authorization") => format!("{scheme} {HIDDEN}"),
            _ => HIDDEN.to_owned(),
        };
    }
    mask::scrub(&String::from_utf8_lossy(value)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_in_no_recorded_head() {
        let fields = [
            ("Authorization", &b"Bearer eyJ.secret"[..]),
            ("authorization", b"secret-without-scheme"),
            ("COOKIE", b"sid=secret"),
            ("X-Api-Key", b"secret"),
            ("X-Note", b"card 4111 1111 1111 1111"),
        ];
        let head = recorded("GET /?mail=a@secret.example HTTP/1.1", fields.into_iter());
        let text = format!("{head:?}");
        assert!(!text.contains("secret") && !text.contains("4111"), "{text}");
        assert_eq!(head.fields[0].1, "Bearer [hidden]");
    }

    #[test]
    fn what_is_no_secret_stays_readable() {
        let head = recorded("GET /v1/runs/7 HTTP/1.1", [("Accept", &b"application/json"[..])].into_iter());
        assert_eq!(head.line, "GET /v1/runs/7 HTTP/1.1");
        assert_eq!(head.fields, [("Accept".into(), "application/json".into())]);
    }
}
