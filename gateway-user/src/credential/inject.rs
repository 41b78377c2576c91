//! A credential as a target gets it, and as nobody else may see it.

use std::fmt::Write as _;
use std::sync::Arc;

use data_encoding::BASE64;
use http::header::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::Secret;
use crate::expression::Edge;
use crate::limits::{CREDENTIAL_BYTES_MIN, PATTERN_MATCH_BYTES_MAX};
use crate::policy::nouns::{Credential, DetectorNoun, Mask, On, Scheme, Style};

/// Why a credential is not put into a request.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// A header field cannot say it.
    #[error(
        "the credential `{name}` cannot be said in a header field: it has other characters than visible ASCII"
    )]
    Unsayable {
        /// Its name.
        name: String,
    },
    /// It could not be hidden where the target says it back.
    #[error(
        "of the credential `{name}` neither user nor password has {CREDENTIAL_BYTES_MIN} bytes: it could not be hidden"
    )]
    Short {
        /// Its name.
        name: String,
    },
}

/// What is put into one request.
#[derive(Clone)]
pub struct Injection {
    /// The field.
    pub header: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// Hides the credential wherever the target says it back, from the client and from the record.
    pub mask: Arc<Mask>,
}

impl Injection {
    /// What this credential is to a target.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn of(noun: &Credential, secret: &Secret) -> Result<Self, Unfit> {
        let unsayable = || Unfit::Unsayable { name: noun.name.clone() };
        let encoded = || Zeroizing::new(BASE64.encode(secret.bytes()).into_bytes());
        let (scheme, said) = match noun.scheme {
            Scheme::Bearer => ("Bearer ", Zeroizing::new(secret.bytes().to_vec())),
            Scheme::Basic => ("Basic ", encoded()),
            Scheme::Plain => ("", Zeroizing::new(secret.bytes().to_vec())),
        };
        if !said.iter().all(|b| (0x20..0x7F).contains(b)) {
            return Err(unsayable());
        }
        let whole = Zeroizing::new([scheme.as_bytes(), &said].concat());
        let mut value = HeaderValue::from_bytes(&whole).map_err(|_| unsayable())?;
        value.set_sensitive(true);
        let header = HeaderName::from_bytes(noun.header.as_bytes()).map_err(|_| unsayable())?;
        let forms = forms(noun.scheme, secret.bytes(), &said);
        let forms = forms.map_err(|()| Unfit::Short { name: noun.name.clone() })?;
        Ok(Self { header, value, mask: mask(noun, &forms) })
    }
}

/// What of a credential is looked for where a target answers: as it is and as it is said, base64 also without its padding; of
/// `user:password` each of the two, of several words (`Token abc`) the last, where they are long enough not to be a part of anything.
///
/// # Errors
/// Of `user:password` neither is.
fn forms<'s>(scheme: Scheme, secret: &'s [u8], said: &'s [u8]) -> Result<Vec<&'s [u8]>, ()> {
    let padding = said.iter().rev().take_while(|&&b| b == b'=').count();
    let mut forms = vec![secret, said];
    match scheme {
        Scheme::Basic => {
            let at = secret.iter().position(|&b| b == b':').unwrap_or(secret.len());
            let parts = [&secret[..at], secret.get(at + 1..).unwrap_or_default()];
            if parts.iter().all(|part| part.len() < CREDENTIAL_BYTES_MIN) {
                return Err(());
            }
            forms.extend(parts);
            forms.push(&said[..said.len() - padding]);
        }
        Scheme::Bearer | Scheme::Plain => forms.extend(secret.rsplit(|&b| b == b' ').next()),
    }
    forms.retain(|form| form.len() >= CREDENTIAL_BYTES_MIN);
    forms.sort_unstable();
    forms.dedup();
    Ok(forms)
}

/// Finds the credential in these forms.
fn mask(noun: &Credential, forms: &[&[u8]]) -> Arc<Mask> {
    let name = format!("credential {}", noun.name);
    let detector = DetectorNoun {
        name: name.clone(),
        pattern: forms.iter().map(|form| pattern(form)).collect::<Vec<_>>().join("|"),
        keywords: Vec::new(),
        min_entropy_milli: 0,
        edge: Edge::Free,
    };
    Arc::new(Mask {
        name,
        targets: noun.targets.clone(),
        find: Vec::new(),
        declared: vec![Arc::new(detector)],
        paths: Vec::new(),
        keys: Vec::new(),
        columns: Vec::new(),
        headers: Vec::new(),
        on: On::Response,
        style: Style::Stars,
    })
}

/// Bytes of a part that is found by itself: in percent-encoding (RFC 3986 section 2.1) each may take three.
const PART_BYTES: usize = PATTERN_MATCH_BYTES_MAX / 3;

/// These bytes as an expression, plain or in percent-encoding. A long one is found part by part.
fn pattern(form: &[u8]) -> String {
    let parts = form.len().div_ceil(PART_BYTES).max(1);
    let literal = |part: &[u8]| {
        part.iter().fold(String::with_capacity(4 * part.len()), |mut text, b| {
            // Writing to a string does not fail.
            let _ = match b {
                b if b.is_ascii_alphanumeric() => write!(text, "\\x{b:02x}"),
                // As forms say it.
                b' ' => write!(text, "(?:\\x20|\\+|%20)"),
                b => {
                    let encoded = format!("{b:02x}").bytes().fold(String::new(), |hex, digit| {
                        let digit = char::from(digit);
                        hex + &format!("[{digit}{}]", digit.to_ascii_uppercase())
                    });
                    write!(text, "(?:\\x{b:02x}|%{encoded})")
                }
            };
            text
        })
    };
    form.chunks(form.len().div_ceil(parts)).map(literal).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Plan;

    fn noun(scheme: Scheme) -> Credential {
        Credential { name: "crm".into(), targets: vec!["crm".into()], header: "authorization".into(), scheme }
    }

    fn secret(text: &str) -> Secret {
        Secret::new(Zeroizing::new(text.as_bytes().to_vec()))
    }

    fn seen(injection: &Injection, text: &str) -> String {
        Plan::new(std::slice::from_ref(&injection.mask)).scrub(text).into_owned()
    }

    #[test]
    fn a_scheme_stands_before_it_and_nothing_prints_it() {
        let of = |scheme, text: &str| Injection::of(&noun(scheme), &secret(text)).unwrap();
        let bearer = of(Scheme::Bearer, "k-0123456789");
        assert_eq!(bearer.value.as_bytes(), b"Bearer k-0123456789");
        assert!(!format!("{:?}", bearer.value).contains("k-0123456789"));
        assert!(!format!("{:?}", secret("k-0123456789")).contains("0123"));
        // RFC 7617 section 2.
        let basic = of(Scheme::Basic, "Aladdin:open sesame");
        assert_eq!(basic.value.as_bytes(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(of(Scheme::Plain, "k-0123456789").value.as_bytes(), b"k-0123456789");
        assert!(Injection::of(&noun(Scheme::Bearer), &secret("schlüssel-1")).is_err());
        assert!(Injection::of(&noun(Scheme::Basic), &secret("u:schlüssel-1")).is_ok());
    }

    #[test]
    fn what_a_target_says_back_is_hidden_in_every_form_and_inside_of_words() {
        let basic = Injection::of(&noun(Scheme::Basic), &secret("Aladdin:open sesame")).unwrap();
        for text in
            ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin:open sesame", "the password is open sesame!"]
        {
            let seen = seen(&basic, text);
            assert!(!seen.contains("QWxh") && !seen.contains("sesame"), "{seen}");
        }
        let bearer = Injection::of(&noun(Scheme::Bearer), &secret("k-0123456789")).unwrap();
        assert!(!seen(&bearer, "xk-0123456789y").contains("0123456789"));
        assert_eq!(seen(&bearer, "k-012345678 9"), "k-012345678 9");
    }

    #[test]
    fn its_parts_are_hidden_and_so_is_percent_encoding() {
        let hides = |scheme, text: &str, said: &str| {
            let injection = Injection::of(&noun(scheme), &secret(text)).unwrap();
            let shown = seen(&injection, said);
            assert!(shown.contains("****"), "{said}: {shown}");
            shown
        };
        hides(Scheme::Basic, "sk_live_0123456789:", "no such key: sk_live_0123456789");
        hides(Scheme::Basic, "0123456789abcdef:x", "no such key: 0123456789abcdef");
        hides(Scheme::Basic, "Aladdin:open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ%3D%3D");
        hides(Scheme::Basic, "Aladdin:open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ");
        hides(Scheme::Basic, "Aladdin:open sesame", "/login?password=open+sesame");
        hides(Scheme::Plain, "Token k-0123456789", "bad token \"k-0123456789\"");
        let shown = hides(Scheme::Bearer, "ab/cd+ef==gh", "/login?token=ab%2Fcd%2bef%3D%3dgh&n=1");
        assert_eq!(shown, "/login?token=********&n=1");
        let short = Injection::of(&noun(Scheme::Basic), &secret("admin:hunter2"));
        assert!(matches!(short, Err(Unfit::Short { .. })));
    }

    #[test]
    fn beside_all_that_a_policy_may_declare_the_longest_one_is_hidden_all_the_same() {
        let declared = |n: usize| {
            let pattern = format!("D{n:02}-[0-9a-f]{{64}}[g-z]{{1,100}}");
            let (keywords, edge) = (Vec::new(), Edge::Word);
            Arc::new(DetectorNoun { name: format!("d{n}"), pattern, keywords, min_entropy_milli: 0, edge })
        };
        let declared: Vec<_> = (0..crate::limits::DETECTORS_MAX).map(declared).collect();
        // What takes most room in the automaton: none of it is a letter or digit.
        let password: String =
            (0..4080).map(|n| char::from(b"!#$&()*+,-./:;<=>?@[]^_{|}~"[n * 11 % 27])).collect();
        let basic = Injection::of(&noun(Scheme::Basic), &secret(&format!("+user+-+:{password}"))).unwrap();
        let plan = Plan::everything(&[basic.mask], &declared);
        assert!(!plan.scrub(&format!("x{password}y")).contains(&password[..8]));
        let other = format!("D59-{}g", "0f".repeat(32));
        assert!(!plan.scrub(&other).contains("0f0f"), "and what is declared, too");
    }

    #[test]
    fn the_longest_credential_is_hidden_whole() {
        let long: String = (0..4096).map(|n| char::from(b'!' + (n * 7 % 90) as u8)).collect();
        let bearer = Injection::of(&noun(Scheme::Bearer), &secret(&long)).unwrap();
        let seen = seen(&bearer, &format!("before {long} after"));
        assert!(seen.starts_with("before *") && seen.ends_with("* after"), "{seen}");
        assert!(
            !long.as_bytes().windows(8).any(|part| seen.as_bytes().windows(8).any(|other| other == part))
        );
    }
}
