//! Message heads as the record may hold them: credentials replaced whole, every other value scrubbed by every
//! detector. Never stores a token.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::mask::{self, Plan};
use crate::operation::User;
use crate::policy::Set;
use crate::record::entry::Head;
use crate::wire::field::is_twin;

/// A head for the record.
#[must_use]
pub fn recorded<'a>(line: &str, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Head {
    Head {
        line: mask::scrub(line).into_owned(),
        fields: fields.map(|(name, value)| (name.to_owned(), recorded_value(name, value))).collect(),
    }
}

/// A head for the record, by the detectors and masks of this plan.
#[must_use]
pub fn recorded_by<'a>(plan: &Plan, line: &str, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Head {
    let value =
        |name: &str, value: &[u8]| plan.scrub_header(name, &String::from_utf8_lossy(value)).into_owned();
    Head {
        line: plan.scrub(line).into_owned(),
        fields: fields.map(|(name, text)| (name.to_owned(), value(name, text))).collect(),
    }
}

/// The head without what this plan hides: the values of the header fields that masks name, and what their detectors and
/// those that the policy declares find in the line and in every value.
#[must_use]
pub(super) fn hiding(plan: &Plan, mut head: Head) -> Head {
    if let Cow::Owned(line) = plan.scrub(&head.line) {
        head.line = line;
    }
    for (name, value) in &mut head.fields {
        if let Cow::Owned(shown) = plan.scrub_header(name, value) {
            *value = shown;
        }
    }
    head
}

/// Fields as approvers see them.
pub(super) fn shown(plan: &Plan, set: &Set, fields: &[(String, Vec<u8>)]) -> Vec<(String, String)> {
    let keys = kept_back(set);
    let value = |name: &str, value: &[u8]| match keys.iter().any(|key| is_twin(key, name)) {
        true => "[masked: credential]".to_owned(),
        false => plan.scrub_header(name, &String::from_utf8_lossy(value)).into_owned(),
    };
    fields.iter().map(|(name, text)| (name.clone(), value(name, text))).collect()
}

/// Fields that static keys come in, and those that credentials are put into: a client may send its own there.
fn kept_back(set: &Set) -> BTreeSet<&str> {
    let credentials = set.credentials().iter().map(|credential| credential.header.as_str());
    set.key_headers().into_iter().chain(credentials).filter(|name| *name != "authorization").collect()
}

/// The same without the values of the fields that keys and credentials come in.
pub(super) fn without_keys(set: &Set, mut head: Head) -> Head {
    let headers = kept_back(set);
    for (name, value) in head.fields.iter_mut().filter(|_| !headers.is_empty()) {
        if headers.iter().any(|key| is_twin(key, name)) {
            "********".clone_into(value);
        }
    }
    head
}

/// A user as the record may hold them.
pub(super) fn recorded_user(user: &User) -> User {
    let mut user = user.clone();
    for value in user.proof.claims.iter_mut().flat_map(|(_, values)| values) {
        *value = mask::scrub(value).into_owned();
    }
    user
}

/// A reason as the record may hold it: some name the path or the call that was refused.
pub(super) fn told(reason: &str) -> String {
    mask::scrub(reason).into_owned()
}

/// The value of one field.
pub(super) fn recorded_value(name: &str, value: &[u8]) -> String {
    mask::scrub_header(name, &String::from_utf8_lossy(value)).into_owned()
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
        assert_eq!(head.fields[0].1, "Bearer ********");
    }

    #[test]
    fn what_is_no_secret_stays_readable() {
        let head = recorded("GET /v1/runs/7 HTTP/1.1", [("Accept", &b"application/json"[..])].into_iter());
        assert_eq!(head.line, "GET /v1/runs/7 HTTP/1.1");
        assert_eq!(head.fields, [("Accept".into(), "application/json".into())]);
    }
}
