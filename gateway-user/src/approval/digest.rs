//! The name of one exact operation: an HMAC over everything that will be forwarded and who asks. Two operations that
//! differ in a byte that matters never share it, and without the key nobody can tell a guessed body from a digest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustix::fs::OFlags;

use crate::operation::{Direction, Kind, Operation, Sha256, Subject};

/// Fields that differ between two sends of the same request and carry no meaning for the target's effect.
const VOLATILE: [&str; 12] = [
    "b3",
    "date",
    "traceparent",
    "tracestate",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-correlation-id",
    "x-request-id",
    "x-trace-id",
];
/// The key's file in the state directory.
const FILE: &str = "approval.key";
/// Versions the canonical form: another form gives other digests.
const FORM: &[u8] = b"tidegate operation 2";

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error(
        "the approval key {path}: {source}; it must be a file of the gate's own user in a directory it may write"
    )]
    Io {
        /// The key's file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Others could read or replace it, or it is not a key.
    #[error(
        "the approval key {path} {what}; remove it to have a new one made (operations that wait are then asked anew)"
    )]
    Unfit {
        /// The key's file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// The key of this gate. Never shown, never leaves the state directory.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Opens the key of a state directory; the first time, makes it (0600, synced).
    ///
    /// # Errors
    /// The file cannot be read or made, or it is not a private file of 32 bytes of the same owner.
    pub fn open(state: &Path) -> Result<Self, KeyError> {
        let path = state.join(FILE);
        let failed = |source| KeyError::Io { path: path.clone(), source };
        match fs::symlink_metadata(&path) {
            Ok(_) => read(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(state, &path).map_err(failed)?;
                read(&path)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The digest of this operation with this body, asked by this subject, sent to this place. The subject stands in the
    /// place of its own token, so that a fresh token of the same user names the same operation.
    #[must_use]
    pub fn digest(&self, subject: &Subject, place: &str, operation: &Operation, body: &[u8]) -> Sha256 {
        let mut form = Form(hmac::Context::with_key(&self.0));
        form.part(FORM);
        form.part(place.as_bytes());
        form.part(subject.key().as_bytes());
        form.part(operation.target.as_bytes());
        form.part(match operation.direction {
            Direction::Inbound => b"inbound",
            Direction::Outbound => b"outbound",
        });
        match &operation.kind {
            Kind::Open { address, port } => {
                form.part(b"open");
                form.part(address.to_string().as_bytes());
                form.part(&port.to_be_bytes());
            }
            Kind::Http(request) => {
                form.part(b"http");
                form.part(request.method.as_bytes());
                form.part(request.host.as_bytes());
                form.part(request.path.as_bytes());
                form.optional(request.query.as_deref().map(str::as_bytes));
                // Who is known by a static key is not known by what else stands in that field.
                let by_token = subject.user.as_ref().is_some_and(|user| user.proof.key.is_none());
                form.headers(&request.headers, by_token);
                form.part(body);
            }
        }
        form.end()
    }
}

/// A length before each part, so that no two lists of parts give the same bytes.
struct Form(hmac::Context);

impl Form {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn optional(&mut self, bytes: Option<&[u8]>) {
        self.part(&[u8::from(bytes.is_some())]);
        self.part(bytes.unwrap_or_default());
    }

    fn headers(&mut self, headers: &[(String, Vec<u8>)], token_is_the_subjects: bool) {
        let lasting: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .filter(|(name, _)| !VOLATILE.contains(&name.as_str()))
            .filter(|(name, _)| !(token_is_the_subjects && name == "authorization"))
            .collect();
        self.part(&(lasting.len() as u64).to_be_bytes());
        for (name, value) in lasting {
            self.part(name.as_bytes());
            self.part(value);
        }
    }

    fn end(self) -> Sha256 {
        let tag = self.0.sign();
        let mut digest = [0; 32];
        digest.copy_from_slice(tag.as_ref());
        Sha256(digest)
    }
}

fn read(path: &Path) -> Result<Key, KeyError> {
    let failed = |source| KeyError::Io { path: path.to_owned(), source };
    let unfit = |what| KeyError::Unfit { path: path.to_owned(), what };
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(unfit("is not a file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(unfit("may be read by others (chmod 0600)"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(unfit("belongs to another user"));
    }
    if meta.len() != 32 {
        return Err(unfit("is not 32 bytes long"));
    }
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    file.read_exact(bytes.as_mut()).map_err(failed)?;
    Ok(Key(hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref())))
}

/// Makes the file under another name first: a crash leaves a whole key or none.
fn make(state: &Path, path: &Path) -> io::Result<()> {
    let mut bytes = zeroize::Zeroizing::new([0_u8; 32]);
    SystemRandom::new().fill(bytes.as_mut()).map_err(|_| io::Error::other("no random bytes"))?;
    let scratch = state.join(format!("{FILE}.new"));
    match fs::remove_file(&scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&scratch)?;
    file.write_all(bytes.as_ref())?;
    file.sync_all()?;
    fs::rename(&scratch, path)?;
    File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::operation::{HttpRequest, User};

    fn key() -> Key {
        Key(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]))
    }

    fn subject(user: Option<&str>) -> Subject {
        let user = user.map(|subject| User {
            provider: "corp".into(),
            subject: subject.into(),
            groups: Vec::new(),
            expires: 0,
            proof: crate::operation::Proof::default(),
        });
        Subject { user, workload: None, peer: "192.0.2.1:4711".parse().unwrap() }
    }

    fn request() -> HttpRequest {
        let field = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        HttpRequest {
            method: "PUT".into(),
            host: "react".into(),
            path: "/v1/models/a".into(),
            query: Some("dry=1".into()),
            headers: vec![
                field("Host", "react"),
                field("Authorization", "Bearer one"),
                field("X-Mode", "a"),
                field("Traceparent", "00-1"),
            ],
            body_length: Some(4),
            extracted: crate::operation::Extracted::default(),
        }
    }

    const PLACE: &str = "127.0.0.1:80";

    fn digest(subject: &Subject, request: &HttpRequest, body: &[u8]) -> Sha256 {
        let operation = Operation {
            target: "react".into(),
            direction: Direction::Inbound,
            kind: Kind::Http(request.clone()),
        };
        key().digest(subject, PLACE, &operation, body)
    }

    #[test]
    fn every_change_that_matters_names_another_operation() {
        type Change = fn(&mut HttpRequest);
        let changes: [(&str, Change); 11] = [
            ("method", |r| r.method = "PATCH".into()),
            ("host", |r| r.host = "react2".into()),
            ("path", |r| r.path.push('/')),
            ("query", |r| r.query = Some("dry=0".into())),
            ("no query", |r| r.query = None),
            ("empty query", |r| r.query = Some(String::new())),
            ("header value", |r| r.headers[2].1 = b"b".to_vec()),
            ("header name", |r| r.headers[2].0 = "X-Mod".into()),
            ("header added", |r| r.headers.push(("X-More".into(), b"1".to_vec()))),
            ("header removed", |r| drop(r.headers.remove(2))),
            ("header twice", |r| r.headers.push(r.headers[2].clone())),
        ];
        let ann = subject(Some("ann"));
        let original = digest(&ann, &request(), b"body");
        let mut seen = vec![original];
        for (what, change) in changes {
            let mut changed = request();
            change(&mut changed);
            let other = digest(&ann, &changed, b"body");
            assert!(!seen.contains(&other), "{what}");
            seen.push(other);
        }
        for (other, what) in [
            (digest(&ann, &request(), b"bodY"), "body"),
            (digest(&ann, &request(), b""), "no body"),
            (digest(&subject(Some("bob")), &request(), b"body"), "user"),
            (digest(&subject(None), &request(), b"body"), "no user"),
        ] {
            assert!(!seen.contains(&other), "{what}");
            seen.push(other);
        }
        let elsewhere =
            Operation { target: "crm".into(), direction: Direction::Inbound, kind: Kind::Http(request()) };
        assert!(!seen.contains(&key().digest(&ann, PLACE, &elsewhere, b"body")));
    }

    #[test]
    fn bytes_cannot_move_from_one_part_to_its_neighbour() {
        let ann = subject(Some("ann"));
        let mut moved = request();
        moved.path = "/v1/models/".into();
        moved.query = Some("adry=1".into());
        assert_ne!(digest(&ann, &request(), b"body"), digest(&ann, &moved, b"body"));
        let mut moved = request();
        moved.headers[2] = ("X-Mod".into(), b"ea".to_vec());
        assert_ne!(digest(&ann, &request(), b"body"), digest(&ann, &moved, b"body"));
    }

    #[test]
    fn a_fresh_token_and_fresh_trace_ids_name_the_same_operation() {
        let ann = subject(Some("ann"));
        let mut fresh = request();
        fresh.headers[1].1 = b"Bearer two".to_vec();
        fresh.headers[3].1 = b"00-2".to_vec();
        fresh.headers.push(("X-Request-Id".into(), b"9".to_vec()));
        fresh.headers[2].0 = "x-mode".into();
        assert_eq!(digest(&ann, &request(), b"body"), digest(&ann, &fresh, b"body"));
    }

    #[test]
    fn a_credential_that_is_not_the_subjects_own_token_counts() {
        let nobody = subject(None);
        let mut other = request();
        other.headers[1].1 = b"Basic two".to_vec();
        assert_ne!(digest(&nobody, &request(), b"body"), digest(&nobody, &other, b"body"));
    }

    #[test]
    fn beside_a_static_key_every_other_credential_counts() {
        let keyed = Subject { user: Some(User::of_key(Sha256::of(b"key"))), ..subject(None) };
        let mut other = request();
        for credential in [&b"Basic two"[..], b"Digest three"] {
            other.headers[1].1 = credential.to_vec();
            assert_ne!(digest(&keyed, &request(), b"body"), digest(&keyed, &other, b"body"));
        }
        other.headers.remove(1);
        assert_ne!(digest(&keyed, &request(), b"body"), digest(&keyed, &other, b"body"));
    }

    #[test]
    fn the_same_request_to_another_place_is_another_operation() {
        let operation =
            Operation { target: "react".into(), direction: Direction::Inbound, kind: Kind::Http(request()) };
        let at = |place: &str| key().digest(&subject(None), place, &operation, b"");
        assert_eq!(at("127.0.0.1:8000"), at("127.0.0.1:8000"));
        assert_ne!(at("127.0.0.1:8000"), at("127.0.0.1:8001"));
        assert_ne!(at("127.0.0.1:8000"), at("127.0.0.2:8000"));
    }

    #[test]
    fn another_gates_key_gives_other_digests() {
        let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let operation =
            Operation { target: "react".into(), direction: Direction::Inbound, kind: Kind::Http(request()) };
        let of = |dir: &Path| Key::open(dir).unwrap().digest(&subject(None), PLACE, &operation, b"");
        assert_eq!(of(a.path()), of(a.path()));
        assert_ne!(of(a.path()), of(b.path()));
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_cut_or_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        Key::open(dir.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Key::open(dir.path()), Err(KeyError::Unfit { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert!(matches!(Key::open(dir.path()), Err(KeyError::Unfit { .. })));
        fs::rename(&path, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("moved"), &path).unwrap();
        assert!(matches!(Key::open(dir.path()), Err(KeyError::Io { .. })));
    }
}
