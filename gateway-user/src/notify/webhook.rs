//! A signed webhook, as the Standard Webhooks specification (1.0.0) describes it: the receiver can tell that it is from
//! this gate, whole, and fresh. Follows no redirect, reads next to nothing of the answer, and never shows the secret.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use jiff::Timestamp;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{Channel, Delivery, Message, Undelivered};
use crate::identity::fetch;
use crate::kernel::Exempt;
use crate::policy::nouns::Notify;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret, decoded, by the specification.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of the file of a secret: one, in base64, and room.
const SECRET_FILE_BYTES_MAX: u64 = 256;

/// One webhook.
#[derive(Debug)]
pub struct Webhook {
    noun: Notify,
    exempt: Exempt,
}

impl Webhook {
    /// The webhook of this noun. Its sockets pass the gate: the receiver may be a target.
    #[must_use]
    pub fn new(noun: Notify, exempt: Exempt) -> Self {
        Self { noun, exempt }
    }

    async fn post(&self, message: &Message, at: Timestamp) -> Result<(), Undelivered> {
        let path = self.noun.secret.clone();
        let secret = tokio::task::spawn_blocking(move || read_secret(&path)).await;
        let secret = secret.map_err(|error| error.to_string()).flatten().map_err(Undelivered::Later)?;
        let seconds = at.as_second().to_string();
        let headers = [
            ("content-type", "application/json"),
            ("webhook-id", message.id.as_str()),
            ("webhook-timestamp", seconds.as_str()),
            ("webhook-signature", &sign(&secret, &message.id, &seconds, &message.body)),
        ];
        let body = message.body.clone().into_bytes().into();
        let answer = fetch::post(&self.noun.url, &headers, body, &self.exempt).await;
        let status = answer.map_err(|error| Undelivered::Later(error.to_string()))?;
        match status {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(Undelivered::Later(format!("the receiver answered {status}"))),
            300..=399 => {
                Err(Undelivered::Never(format!("the receiver answered {status}; no redirect is followed")))
            }
            _ => Err(Undelivered::Never(format!("the receiver answered {status}"))),
        }
    }
}

impl Channel for Webhook {
    fn deliver<'a>(&'a self, message: &'a Message, at: Timestamp) -> Delivery<'a> {
        Box::pin(self.post(message, at))
    }
}

/// The signature over id, time and body.
#[must_use]
pub fn sign(secret: &[u8], id: &str, seconds: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(tag.as_ref()))
}

/// Reads a secret from its private file. What is wrong is said without a part of it.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |what: String| format!("the secret {}: {what}", path.display());
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed())
        .open(path);
    let file = opened.map_err(|error| failed(error.to_string()))?;
    let about = file.metadata().map_err(|error| failed(error.to_string()))?;
    if !about.is_file() {
        return Err(failed("it is no plain file".into()));
    }
    if about.mode() & 0o077 != 0 {
        return Err(failed(
            "others may read it; run chmod 600 on it, and have the receiver make another".into(),
        ));
    }
    let mut text = Zeroizing::new(String::with_capacity(SECRET_FILE_BYTES_MAX as usize + 1));
    file.take(SECRET_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    let encoded =
        text.trim().strip_prefix(PREFIX).ok_or_else(|| failed(format!("it does not begin with {PREFIX}")))?;
    let secret = BASE64.decode(encoded.as_bytes()).map(Zeroizing::new);
    let secret = secret.map_err(|_| failed(format!("what follows {PREFIX} is not base64")))?;
    match SECRET_BYTES.contains(&secret.len()) {
        true => Ok(secret),
        false => Err(failed("it must be 24 to 64 bytes in base64".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specifications_own_example() {
        let secret = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", "{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_others_may_read_or_that_is_none_signs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let good = format!("{PREFIX}{}\n", BASE64.encode(&[7; 24]));
        write(&good, 0o600);
        assert_eq!(read_secret(&path).unwrap().len(), 24);
        write(&good, 0o640);
        assert!(read_secret(&path).unwrap_err().contains("others may read it"));
        for bad in ["", "secret", "whsec_!!", "whsec_YQ==", &format!("{PREFIX}{}", BASE64.encode(&[7; 65]))] {
            write(bad, 0o600);
            let said = read_secret(&path).unwrap_err();
            assert!(!said.contains("YQ==") && !said.contains("BwcH"), "{said}");
        }
        assert!(read_secret(&dir.path().join("gone")).is_err());
        assert!(read_secret(dir.path()).is_err());
    }
}
