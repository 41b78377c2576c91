//! Promises of token checking, kept with keys made for each test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD as B64;
use jsonwebtoken::EncodingKey;
use serde_json::json;

use super::super::keyset::{AGE_MAX, RETRY, STALE_MAX};
use super::*;
use crate::limits::TOKEN_BYTES_MAX;
use crate::policy::nouns::Jwks;

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

/// A P-256 key of a provider.
struct Signer {
    kid: &'static str,
    private: EncodingKey,
    public: Value,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        let point = pair.public_key().as_ref();
        let public = json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig",
            "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..])});
        Self { kid, private: EncodingKey::from_ec_der(pkcs8.as_ref()), public }
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"}), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        sign(&self.private, Algorithm::ES256, header, claims)
    }
}

fn sign(key: &EncodingKey, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
    let message = unsigned(header, claims);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", B64.encode(header.to_string().as_bytes()), B64.encode(claims.to_string().as_bytes()))
}

fn claims() -> Value {
    json!({"iss": "https://id.example", "aud": ["other", "gate"], "sub": "alice", "exp": NOW + 600,
        "iat": NOW - 5, "nbf": NOW - 5, "groups": ["eng", "ops"]})
}

/// Claims with one of them set, or taken away.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// A key set file that ends with its test.
struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    fn of(signers: &[&Signer]) -> Self {
        let keys = Self { dir: tempfile::tempdir().unwrap() };
        keys.write(&set(signers));
        keys
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("jwks.json")
    }

    fn write(&self, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn provider(&self) -> IdentityProvider {
        provider(Jwks::File(self.path()))
    }
}

fn checking(providers: &[IdentityProvider]) -> Verifier {
    Verifier::new(providers, Exempt::new(|_| Ok(())))
}

fn set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| &signer.public).collect::<Vec<_>>()}).to_string()
}

fn provider(jwks: Jwks) -> IdentityProvider {
    IdentityProvider {
        name: "corp".to_owned(),
        issuer: "https://id.example".to_owned(),
        audience: vec!["gate".to_owned()],
        algorithms: vec!["ES256".to_owned()],
        jwks,
        groups_claim: "groups".to_owned(),
        claims: Vec::new(),
    }
}

#[tokio::test]
async fn a_good_token_proves_its_user() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let verifier = checking(&[keys.provider()]);
    let user = verifier.verify(&signer.token(&claims()), at(NOW)).await.unwrap();
    let groups = vec!["eng".to_owned(), "ops".to_owned()];
    assert_eq!(
        user,
        User {
            provider: "corp".into(),
            subject: "alice".into(),
            groups,
            expires: NOW + 600,
            proof: crate::operation::Proof { life: Some(605), ..Default::default() }
        }
    );
    for header in
        [json!({"alg": "ES256"}), json!({"alg": "ES256", "kid": "a", "typ": "at+JWT", "jku": "https://evil"})]
    {
        assert!(verifier.verify(&signer.token_with(&header, &claims()), at(NOW)).await.is_ok());
    }
    assert!(verifier.verify(&signer.token(&with("aud", json!("gate"))), at(NOW)).await.is_ok());
    assert!(verifier.verify(&signer.token(&with("nbf", json!(NOW + 30))), at(NOW)).await.is_ok());
}

#[tokio::test]
async fn a_token_with_a_wrong_claim_is_refused_with_the_reason() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let verifier = checking(&[keys.provider()]);
    let audience = TokenError::Audience { provider: "corp".into() };
    for (claims, expected) in [
        (with("exp", json!(NOW)), TokenError::Expired { at: NOW }),
        (with("exp", json!(NOW as f64 + 0.9)), TokenError::Expired { at: NOW }),
        (with("exp", Value::Null), TokenError::Claim("exp")),
        (with("exp", json!("1900000000")), TokenError::Claim("exp")),
        (with("exp", json!(1e300)), TokenError::Claim("exp")),
        (with("nbf", json!(NOW + 31)), TokenError::NotYet { claim: "nbf", at: NOW + 31 }),
        (with("iat", json!(NOW + 31)), TokenError::NotYet { claim: "iat", at: NOW + 31 }),
        (with("nbf", json!([])), TokenError::Claim("nbf")),
        (with("aud", json!(["other"])), audience.clone()),
        (with("aud", json!("gate2")), audience.clone()),
        (with("aud", json!("Gate")), audience.clone()),
        (with("aud", json!([["gate"]])), audience),
        (with("aud", Value::Null), TokenError::Claim("aud")),
        (with("iss", json!("https://id.example/")), TokenError::Issuer("\"https://id.example/\"".into())),
        (with("iss", json!(["https://id.example"])), TokenError::Claim("iss")),
        (with("iss", Value::Null), TokenError::Claim("iss")),
        (with("sub", Value::Null), TokenError::Claim("sub")),
        (with("sub", json!("")), TokenError::Claim("sub")),
        (with("groups", json!(["eng", 1])), TokenError::Groups),
        (with("groups", json!({"a": 1})), TokenError::Groups),
    ] {
        assert_eq!(verifier.verify(&signer.token(&claims), at(NOW)).await, Err(expected), "{claims}");
    }
}

#[tokio::test]
async fn the_algorithm_is_the_policys_choice_never_the_tokens() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let verifier = checking(&[keys.provider()]);
    let refused =
        |name: &str| TokenError::Algorithm { algorithm: format!("{name:?}"), provider: "corp".into() };
    // The public key as an HMAC secret: the classic confusion.
    let public = signer.public.to_string();
    for secret in [public.as_bytes(), signer.public["x"].as_str().unwrap().as_bytes()] {
        let header = json!({"alg": "HS256", "kid": "a"});
        let token = sign(&EncodingKey::from_secret(secret), Algorithm::HS256, &header, &claims());
        assert_eq!(verifier.verify(&token, at(NOW)).await, Err(refused("HS256")));
    }
    for name in ["none", "None", "ES384", "RS256", "EdDSA", "es256", ""] {
        let token = signer.token_with(&json!({"alg": name, "kid": "a"}), &claims());
        assert_eq!(verifier.verify(&token, at(NOW)).await, Err(refused(name)));
    }
    let bare = unsigned(&json!({"alg": "none"}), &claims()) + ".";
    assert_eq!(verifier.verify(&bare, at(NOW)).await, Err(TokenError::Malformed("it is not signed")));
}

#[tokio::test]
async fn a_key_serves_only_the_algorithm_and_use_it_is_published_for() {
    let signer = Signer::new("a");
    for change in [
        json!({"use": "enc"}),
        json!({"key_ops": ["sign"]}),
        json!({"alg": "ES384"}),
        json!({"crv": "P-384"}),
    ] {
        let keys = Keys::of(&[&signer, &Signer::new("b")]);
        let mut changed = signer.public.clone();
        for (name, value) in change.as_object().unwrap() {
            changed[name] = value.clone();
        }
        keys.write(&json!({"keys": [changed, Signer::new("b").public]}).to_string());
        let result = checking(&[keys.provider()]).verify(&signer.token(&claims()), at(NOW)).await;
        assert_eq!(result, Err(TokenError::Key { kid: "\"a\"".into(), provider: "corp".into() }), "{change}");
    }
}

#[tokio::test]
async fn every_listed_family_of_keys_verifies() {
    let rsa = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8 = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
    // jsonwebtoken signs with the key inside the PKCS#8 wrapping of 26 bytes.
    let private = EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]);
    let public = rsa.public_key();
    let strip = |bytes: &[u8]| B64.encode(&bytes[bytes.iter().take_while(|b| **b == 0).count()..]);
    let rsa_key = json!({"kty": "RSA", "kid": "r", "n": strip(public.modulus().big_endian_without_leading_zero()),
        "e": strip(public.exponent().big_endian_without_leading_zero())});
    let seed = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(seed.as_ref()).unwrap();
    let ed_key =
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "d", "x": B64.encode(pair.public_key().as_ref())});
    let keys = Keys::of(&[]);
    keys.write(&json!({"keys": [rsa_key, ed_key, {"kty": "new-thing"}]}).to_string());
    let algorithms = ["RS256", "PS256", "EdDSA"].map(str::to_owned).to_vec();
    let verifier = checking(&[IdentityProvider { algorithms, ..keys.provider() }]);
    let ed = EncodingKey::from_ed_der(seed.as_ref());
    for (name, kid, key, algorithm) in [
        ("RS256", "r", &private, Algorithm::RS256),
        ("PS256", "r", &private, Algorithm::PS256),
        ("EdDSA", "d", &ed, Algorithm::EdDSA),
    ] {
        let token = sign(key, algorithm, &json!({"alg": name, "kid": kid}), &claims());
        assert_eq!(verifier.verify(&token, at(NOW)).await.unwrap().subject, "alice", "{name}");
    }
    // A signature of one kind under the name of another.
    let crossed = sign(&private, Algorithm::RS256, &json!({"alg": "PS256", "kid": "r"}), &claims());
    let refused = verifier.verify(&crossed, at(NOW)).await;
    assert_eq!(refused, Err(TokenError::Signature { provider: "corp".into() }));
    let crossed = sign(&ed, Algorithm::EdDSA, &json!({"alg": "RS256", "kid": "d"}), &claims());
    assert!(matches!(verifier.verify(&crossed, at(NOW)).await, Err(TokenError::Key { .. })));
}

#[tokio::test]
async fn a_token_changed_anywhere_is_refused() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let verifier = checking(&[keys.provider()]);
    let token = signer.token(&claims());
    assert!(verifier.verify(&token, at(NOW)).await.is_ok());
    for place in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verifier.verify(&changed, at(NOW)).await.is_err(), "byte {place}");
    }
    for changed in [
        format!("{token}="),
        format!(" {token}"),
        format!("{token}."),
        format!("{token}.x"),
        format!("{token}.x.y"),
        token[..token.len() - 2].to_owned(),
        token.replace('.', ".."),
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{{\"payload\":\"{token}\"}}"),
    ] {
        assert!(verifier.verify(&changed, at(NOW)).await.is_err(), "{changed}");
    }
}

#[tokio::test]
async fn what_asks_for_more_than_a_signed_token_is_refused() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let verifier = checking(&[keys.provider()]);
    for (header, expected) in [
        (json!({"alg": "ES256", "kid": "a", "crit": ["exp"]}), TokenError::Critical),
        (json!({"alg": "ES256", "kid": "a", "crit": []}), TokenError::Critical),
        (json!({"alg": "ES256", "kid": "a", "b64": false}), TokenError::Critical),
        (json!({"alg": "ES256", "kid": "a", "enc": "A128GCM"}), TokenError::Encrypted),
        (json!({"alg": "ES256", "kid": "a", "typ": "logout+jwt"}), TokenError::Type("\"logout+jwt\"".into())),
        (json!({"alg": "ES256", "kid": ["a"]}), TokenError::Malformed("its header is no JOSE header")),
        (json!({"kid": "a"}), TokenError::Malformed("its header is no JOSE header")),
        (json!("ES256"), TokenError::Malformed("its header is no JOSE header")),
    ] {
        assert_eq!(
            verifier.verify(&signer.token_with(&header, &claims()), at(NOW)).await,
            Err(expected),
            "{header}"
        );
    }
    assert_eq!(verifier.verify("a.b.c.d.e", at(NOW)).await, Err(TokenError::Encrypted));
}

#[tokio::test]
async fn a_token_is_taken_to_the_bound_and_refused_beyond() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let verifier = checking(&[keys.provider()]);
    let empty = signer.token(&with("pad", json!(""))).len();
    let room = (TOKEN_BYTES_MAX - empty) / 4 * 3 - 3;
    let fits = signer.token(&with("pad", json!("x".repeat(room))));
    assert!(fits.len() <= TOKEN_BYTES_MAX && fits.len() > TOKEN_BYTES_MAX - 16);
    assert!(verifier.verify(&fits, at(NOW)).await.is_ok());
    let over = signer.token(&with("pad", json!("x".repeat(room + 16))));
    assert_eq!(verifier.verify(&over, at(NOW)).await, Err(TokenError::TooLong));
}

#[tokio::test]
async fn one_provider_does_not_vouch_for_another() {
    let (ours, theirs) = (Signer::new("a"), Signer::new("a"));
    let (keys, other_keys) = (Keys::of(&[&ours]), Keys::of(&[&theirs]));
    let issuer = "https://other.example".to_owned();
    let other = IdentityProvider { name: "other".into(), issuer, ..other_keys.provider() };
    let verifier = checking(&[keys.provider(), other]);
    let from_other = with("iss", json!("https://other.example"));
    assert_eq!(verifier.verify(&theirs.token(&from_other), at(NOW)).await.unwrap().provider, "other");
    let refused = |provider: &str| Err(TokenError::Signature { provider: provider.into() });
    assert_eq!(verifier.verify(&theirs.token(&claims()), at(NOW)).await, refused("corp"));
    assert_eq!(verifier.verify(&ours.token(&from_other), at(NOW)).await, refused("other"));
    // The same issuer with another audience is another provider.
    let audience = vec!["desk".to_owned()];
    let desk = IdentityProvider { name: "desk".into(), audience, ..keys.provider() };
    let verifier = checking(&[keys.provider(), desk]);
    let token = ours.token(&with("aud", json!("desk")));
    assert_eq!(verifier.verify(&token, at(NOW)).await.unwrap().provider, "desk");
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_time_and_with_its_key() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let keys = Keys::of(&[&old]);
    let verifier = checking(&[keys.provider()]);
    let token = old.token(&claims());
    assert!(verifier.verify(&token, at(NOW)).await.is_ok());
    assert_eq!(verifier.verified.lock().unwrap().len(), 1);
    assert!(verifier.verify(&token, at(NOW + 599)).await.is_ok());
    let expired = Err(TokenError::Expired { at: NOW + 600 });
    assert_eq!(verifier.verify(&token, at(NOW + 600)).await, expired);
    assert!(verifier.verify(&token, at(NOW)).await.is_ok());
    // The provider rotates: the new key serves at once, the old one no longer.
    keys.write(&set(&[&new]));
    assert!(verifier.verify(&new.token(&claims()), at(NOW)).await.is_ok());
    assert!(matches!(verifier.verify(&token, at(NOW)).await, Err(TokenError::Key { .. })));
}

#[tokio::test]
async fn a_broken_key_set_leaves_the_good_one_serving_for_a_day() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let verifier = checking(&[keys.provider()]);
    let late = with("exp", json!(NOW + 2 * STALE_MAX));
    let token = signer.token(&late);
    assert!(verifier.verify(&token, at(NOW)).await.is_ok());
    let mut private = signer.public.clone();
    private["d"] = json!("AAAA");
    let again = Signer::new("a").public;
    for broken in [
        "{".to_owned(),
        "[]".to_owned(),
        json!({"keys": []}).to_string(),
        json!({"keys": [private]}).to_string(),
        json!({"keys": [signer.public, {"kty": "oct", "k": "AAAA"}]}).to_string(),
        json!({"keys": [signer.public, again]}).to_string(),
        format!("{}{}", set(&[&signer]), " ".repeat(crate::limits::JWKS_BYTES_MAX)),
    ] {
        keys.write(&broken);
        assert!(verifier.verify(&token, at(NOW)).await.is_ok(), "{broken:.100}");
        let fresh = checking(&[keys.provider()]).verify(&token, at(NOW)).await;
        assert!(matches!(fresh, Err(TokenError::Keys { .. })), "{broken:.100}");
    }
    std::fs::remove_file(keys.path()).unwrap();
    assert!(verifier.verify(&token, at(NOW + STALE_MAX)).await.is_ok());
    let ended = verifier.verify(&token, at(NOW + STALE_MAX + 1)).await;
    assert!(matches!(ended, Err(TokenError::Keys { .. })), "{ended:?}");
    keys.write(&set(&[&signer]));
    assert!(verifier.verify(&token, at(NOW + STALE_MAX + 2)).await.is_ok(), "and it recovers");
}

#[tokio::test]
async fn a_new_policy_keeps_the_keys_and_asks_again_about_every_token() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let verifier = checking(&[keys.provider()]);
    let token = signer.token(&claims());
    assert!(verifier.verify(&token, at(NOW)).await.is_ok());
    std::fs::remove_file(keys.path()).unwrap();
    let narrower = IdentityProvider { audience: vec!["nobody".to_owned()], ..keys.provider() };
    let refused = verifier.renewed(&[narrower]).verify(&token, at(NOW)).await;
    assert_eq!(refused, Err(TokenError::Audience { provider: "corp".into() }));
    assert!(verifier.renewed(&[keys.provider()]).verify(&token, at(NOW)).await.is_ok());
}

#[tokio::test]
async fn groups_may_be_one_string_a_name_with_dots_or_a_path() {
    let signer = Signer::new("a");
    let keys = Keys::of(&[&signer]);
    let claim = |name: &str| IdentityProvider { groups_claim: name.to_owned(), ..keys.provider() };
    for (name, extra, expected) in [
        ("groups", with("groups", json!("solo")), vec!["solo"]),
        ("realm_access.roles", with("realm_access", json!({"roles": ["x", "y"]})), vec!["x", "y"]),
        ("https://h.example/groups", with("https://h.example/groups", json!(["z"])), vec!["z"]),
        ("absent", claims(), vec![]),
        ("realm_access.roles", with("realm_access", json!("roles")), vec![]),
    ] {
        let user = checking(&[claim(name)]).verify(&signer.token(&extra), at(NOW)).await.unwrap();
        assert_eq!(user.groups, expected, "{name}");
    }
}

/// A key server on loopback: serves what it is told, and counts.
struct Server {
    url: String,
    body: Arc<Mutex<(String, String)>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(body: String) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let body = Arc::new(Mutex::new(("200 OK\r\nCache-Control: max-age=99999".to_owned(), body)));
        let asked = Arc::new(AtomicUsize::new(0));
        let (told, count) = (body.clone(), asked.clone());
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                count.fetch_add(1, Ordering::SeqCst);
                let (status, body) = told.lock().unwrap().clone();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, body, asked, task }
    }

    fn serve(&self, status: &str, body: String) {
        *self.body.lock().unwrap() = (status.to_owned(), body);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_key_server_is_asked_for_unknown_keys_but_not_hammered() {
    let (old, new, stranger) = (Signer::new("old"), Signer::new("new"), Signer::new("stranger"));
    let server = Server::start(set(&[&old])).await;
    let verifier = checking(&[provider(Jwks::Url(server.url.clone()))]);
    let late = with("exp", json!(NOW + 2 * STALE_MAX));
    for _ in 0..3 {
        assert!(verifier.verify(&old.token(&late), at(NOW)).await.is_ok());
    }
    assert_eq!(server.asked(), 1);
    for _ in 0..20 {
        assert!(matches!(
            verifier.verify(&stranger.token(&late), at(NOW + 1)).await,
            Err(TokenError::Key { .. })
        ));
    }
    assert_eq!(server.asked(), 1, "too soon to look again");
    server.serve("200 OK", set(&[&old, &new]));
    assert!(verifier.verify(&new.token(&late), at(NOW + RETRY)).await.is_ok(), "rotation is seen");
    assert_eq!(server.asked(), 2);
    assert!(verifier.verify(&old.token(&late), at(NOW + RETRY)).await.is_ok());
    assert_eq!(server.asked(), 2);
    assert!(verifier.verify(&old.token(&late), at(NOW + RETRY + AGE_MAX)).await.is_ok());
    assert_eq!(server.asked(), 3, "kept no longer than the bound, whatever the server says");
}

#[tokio::test]
async fn a_key_server_that_fails_gives_no_keys_and_takes_none_away() {
    let signer = Signer::new("a");
    let server = Server::start(set(&[&signer])).await;
    let verifier = checking(&[provider(Jwks::Url(server.url.clone()))]);
    let late = with("exp", json!(NOW + 2 * STALE_MAX));
    let token = signer.token(&late);
    server.serve("500 Oops", set(&[&signer]));
    let refused = verifier.verify(&token, at(NOW)).await.unwrap_err();
    assert!(matches!(&refused, TokenError::Keys { why, .. } if why.contains("500")), "{refused}");
    server.serve("302 Found\r\nLocation: /other", set(&[&signer]));
    assert!(matches!(verifier.verify(&token, at(NOW + RETRY)).await, Err(TokenError::Keys { .. })));
    server.serve("200 OK", set(&[&signer]) + &" ".repeat(crate::limits::JWKS_BYTES_MAX));
    assert!(matches!(verifier.verify(&token, at(NOW + 2 * RETRY)).await, Err(TokenError::Keys { .. })));
    server.serve("200 OK", set(&[&signer]));
    assert!(verifier.verify(&token, at(NOW + 3 * RETRY)).await.is_ok());
    server.serve("500 Oops", String::new());
    assert!(verifier.verify(&token, at(NOW + STALE_MAX)).await.is_ok(), "an outage of the provider");
    let ended = verifier.verify(&token, at(NOW + 3 * RETRY + STALE_MAX + 1)).await;
    assert!(matches!(ended, Err(TokenError::Keys { .. })));
}

#[test]
fn no_message_lets_a_token_write_the_log() {
    let hostile = format!("x\n\u{1b}[2J\u{202e}{}", "y".repeat(500));
    let message = TokenError::Issuer(brief(&hostile)).to_string();
    assert!(message.len() < 250 && !message.contains(['\n', '\u{1b}', '\u{202e}']), "{message}");
}
