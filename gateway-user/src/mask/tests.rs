//! Promises of masking: what is named is gone, what is not named is untouched, wherever the body was cut.

mod json;
mod packed;
mod text;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{HashKey, MaskError, Media, Plan, scrub, scrub_header};
use crate::limits::{JSON_DEPTH_MAX, MASK_HOLD_BACK_BYTES_MAX};
use crate::policy::nouns::{Detector, JsonPath, JsonStep, Mask, On, Style};

fn mask(name: &str, find: &[Detector], paths: &[&str], keys: &[&str], style: Style) -> Arc<Mask> {
    Arc::new(Mask {
        name: name.to_owned(),
        targets: vec!["t".to_owned()],
        find: find.to_vec(),
        declared: Vec::new(),
        paths: paths.iter().map(|text| path(text)).collect(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        columns: Vec::new(),
        headers: Vec::new(),
        on: On::Response,
        style,
    })
}

/// `$.a[0][*]..b`, enough for tests.
fn path(text: &str) -> JsonPath {
    let spaced = text[1..].replace("..", " !").replace('[', " [").replace('.', " ").replace(']', "");
    let steps = spaced.split_whitespace().map(|step| match step {
        "*" | "[*" => JsonStep::Any,
        step if step.starts_with('!') => JsonStep::Descendant(step[1..].to_owned()),
        step if step.starts_with('[') => JsonStep::Index(step[1..].parse().unwrap()),
        step => JsonStep::Member(step.to_owned()),
    });
    JsonPath { text: text.to_owned(), steps: steps.collect() }
}

fn all_detectors(style: Style) -> Plan {
    Plan::new(&[mask("m", &Detector::ALL, &[], &[], style)])
}

/// The output of pushing these pieces, or the error with what had been let go before it.
fn run<'b>(
    plan: &Plan,
    media: &Media,
    pieces: impl IntoIterator<Item = &'b [u8]>,
) -> Result<(Vec<u8>, u64), (MaskError, Vec<u8>)> {
    let mut out = Vec::new();
    let mut stream = plan.stream(media.clone());
    for piece in pieces {
        if let Err(error) = stream.push(piece, &mut out) {
            assert_eq!(
                stream.push(b"4111111111111111", &mut out.clone()),
                Err(error.clone()),
                "errors stick"
            );
            return Err((error, out));
        }
    }
    match stream.finish(&mut out) {
        Ok(hits) => Ok((out, hits.total())),
        Err(error) => Err((error, out)),
    }
}

fn whole(plan: &Plan, media: &Media, body: &[u8]) -> String {
    let (out, _) = run(plan, media, [body]).unwrap();
    String::from_utf8(out).unwrap()
}

fn json_of(plan: &Plan, body: &str) -> String {
    whole(plan, &Media::Json, body.as_bytes())
}

fn text_of(plan: &Plan, body: &str) -> String {
    whole(plan, &Media::Text, body.as_bytes())
}

/// Cuts the body at every offset, in single bytes, and in random pieces; the result is always that of the whole.
fn same_in_every_split(plan: &Plan, media: &Media, body: &[u8]) {
    let expected = run(plan, media, [body]);
    let check = |got: Result<(Vec<u8>, u64), (MaskError, Vec<u8>)>, how: String| match (&expected, got) {
        (Ok(expected), Ok(got)) => {
            assert_eq!(
                String::from_utf8_lossy(&expected.0),
                String::from_utf8_lossy(&got.0),
                "{how} of {:?}",
                String::from_utf8_lossy(body)
            );
            assert_eq!(expected.1, got.1, "hits, {how} of {:?}", String::from_utf8_lossy(body));
        }
        (Err((expected, _)), Err((got, _))) => assert_eq!(*expected, got, "{how}"),
        (expected, got) => panic!("{how}: {expected:?} became {got:?}"),
    };
    for cut in 0..=body.len() {
        check(run(plan, media, [&body[..cut], &body[cut..]]), format!("cut at {cut}"));
    }
    check(run(plan, media, body.chunks(1)), "single bytes".to_owned());
    let mut random = Random(body.len() as u64 + 1);
    for _ in 0..20 {
        let mut pieces = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + random.below(40)).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        check(run(plan, media, pieces), "random pieces".to_owned());
    }
}

/// A small generator of reproducible numbers (Steele and Vigna, SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}

/// Values that every detector must hide, alone or inside other text.
const SECRETS: [&str; 12] = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "3782-822463-10005",
    "bob.o'hara+x@mail.example.com",
    "jörg@bücher.example",
    "123-45-6789",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "sk-proj-abc123def456ghi789jkl012mno345",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "-----BEGIN PRIVATE KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQEF\nAAAA\n-----END PRIVATE KEY-----",
    "xoxb-123456789012-abcdefghijkl",
];

const HARMLESS: [&str; 14] = [
    "",
    "plain",
    "4111 1111",
    "user@localhost",
    "@home",
    "logo@2x.png",
    "0.4111111111111111",
    "2024-01-02T03:04:05Z",
    "ä€😀",
    "a\\b\"c/d\n\t\u{1}",
    "eyewitness-report.html and more",
    "-----BEGIN CERTIFICATE-----",
    "key-value store sk-eleton task-force",
    "000-12-3456 666-12-3456 900-12-3456",
];

#[test]
fn keep_last_4_shows_four_characters_and_no_more() {
    let plan = Plan::new(&[mask("m", &[Detector::Card], &[], &["k"], Style::KeepLast4)]);
    for (body, expected) in [
        (r#"["4111 1111 1111 1234"]"#, r#"["4111 1111 1111 1234"]"#),
        (r#"["5555-5555-5555-4444."]"#, r#"["********4444."]"#),
        (r#"[4111111111111111]"#, r#"["********1111"]"#),
        (r#"{"k":"short"}"#, r#"{"k":"********"}"#),
        (r#"{"k":"elevenchars"}"#, r#"{"k":"********"}"#),
        (r#"{"k":"twelve chars"}"#, r#"{"k":"********hars"}"#),
        (r#"{"k":"twelve cha\"\\é😀"}"#, r#"{"k":"********\"\\é😀"}"#),
        (r#"{"k":["twelve chars"]}"#, r#"{"k":"********"}"#),
        (r#"{"k":123456789012.5}"#, r#"{"k":"********12.5"}"#),
    ] {
        assert_eq!(json_of(&plan, body), expected);
        same_in_every_split(&plan, &Media::Json, body.as_bytes());
    }
}

#[test]
fn the_strictest_style_wins_and_every_mask_is_counted() {
    let masks = [
        mask("loose", &[Detector::Card], &["$.c"], &[], Style::KeepLast4),
        mask("tight", &[], &[], &["C"], Style::Stars),
        mask("cards", &[Detector::Card], &[], &[], Style::KeepLast4),
    ];
    let mut out = Vec::new();
    let mut stream = Plan::new(&masks).stream(Media::Json);
    stream.push(br#"{"c":"4111111111111111","d":"4111111111111111"}"#, &mut out).unwrap();
    let hits = stream.finish(&mut out).unwrap();
    assert_eq!(out, br#"{"c":"********","d":"********1111"}"#);
    assert_eq!(hits.masks, [("loose".to_owned(), 2), ("tight".to_owned(), 1), ("cards".to_owned(), 1)]);
}

#[test]
fn the_same_value_has_the_same_token_and_without_a_key_there_is_none() {
    let masks = [mask("m", &[Detector::Card], &[], &["k"], Style::KeyedHash)];
    let key = HashKey::of(&[7; 32]);
    let plan = Plan::new(&masks).with_key(Some(&key));
    let body = r#"["4111111111111111 4111111111111111.",{"k":"4111111111111111"},4111111111111111,{"k":[1]},{"k":true},"4012888888881881"]"#;
    let out: Value = serde_json::from_str(&json_of(&plan, body)).unwrap();
    let token = out[2].as_str().unwrap().to_owned();
    assert!(token.starts_with("hash:") && token.len() == 29, "{token}");
    assert_eq!(out[0], format!("{token} {token}."));
    assert_eq!(out[1]["k"], token);
    assert_eq!((&out[3]["k"], &out[4]["k"]), (&json!("********"), &json!("********")));
    assert_ne!(out[5], token);
    same_in_every_split(&plan, &Media::Json, body.as_bytes());
    same_in_every_split(&plan, &Media::Text, b"4111111111111111 and 4012888888881881");
    let other = Plan::new(&masks).with_key(Some(&HashKey::of(&[8; 32])));
    assert_ne!(json_of(&other, "[4111111111111111]"), json_of(&plan, "[4111111111111111]"));
    assert_eq!(json_of(&Plan::new(&masks), "[4111111111111111]"), r#"["********"]"#);
}

#[test]
fn what_is_dropped_leaves_nothing_and_json_stays_json() {
    let plan = Plan::new(&[mask("m", &[Detector::Card], &["$.p"], &["k"], Style::Drop)]);
    for (body, expected) in [
        (r#"{"x":"a 4111111111111111 b","k":"secret","p":{"q":[1]}}"#, r#"{"x":"a  b","k":null,"p":null}"#),
        (r#"[4111111111111111,{"K":12}]"#, r#"[null,{"K":null}]"#),
    ] {
        assert_eq!(json_of(&plan, body), expected);
        same_in_every_split(&plan, &Media::Json, body.as_bytes());
    }
    let found = Plan::new(&[mask("m", &[Detector::Card], &[], &[], Style::Drop)]);
    assert_eq!(text_of(&found, "a 4111111111111111 b"), "a  b");
    let long = format!(r#"{{"k":"{}"}}"#, "x".repeat(2 * MASK_HOLD_BACK_BYTES_MAX));
    let (got, _) = run(&plan, &Media::Json, long.as_bytes().chunks(1000)).unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), r#"{"k":null}"#);
    assert_eq!(json_of(&plan, &long), r#"{"k":null}"#);
}

#[test]
fn of_two_styles_the_one_that_shows_less_is_written() {
    let key = HashKey::of(&[7; 32]);
    for (one, other, starts) in [
        (Style::KeepLast4, Style::KeyedHash, "\"hash:"),
        (Style::KeyedHash, Style::Stars, "\"********\""),
        (Style::Drop, Style::Stars, "null"),
    ] {
        for (one, other) in [(one, other), (other, one)] {
            let masks =
                [mask("a", &[Detector::Card], &[], &[], one), mask("b", &[Detector::Card], &[], &[], other)];
            let out = json_of(&Plan::new(&masks).with_key(Some(&key)), "4111111111111111");
            assert!(out.starts_with(starts), "{out}");
        }
    }
}

#[test]
fn a_declared_detector_is_honoured_by_its_mask_and_by_every_record() {
    let noun = Arc::new(crate::policy::nouns::DetectorNoun {
        name: "employee".to_owned(),
        pattern: "EMP-[0-9]{6}".to_owned(),
        keywords: vec!["staff".to_owned()],
        min_entropy_milli: 500,
        edge: crate::expression::Edge::Word,
    });
    let mut own = (*mask("m", &[], &[], &[], Style::Stars)).clone();
    own.declared.push(Arc::clone(&noun));
    let plan = Plan::new(&[Arc::new(own)]);
    let text = "staff EMP-482913, EMP-4829130; staff EMP-000000";
    assert_eq!(text_of(&plan, text), "staff ********, EMP-4829130; staff ********");
    same_in_every_split(&plan, &Media::Text, text.as_bytes());
    assert_eq!(text_of(&Plan::new(&[]), text), text);
    let recorded = Plan::everything(&[], &[noun]);
    assert_eq!(text_of(&recorded, "staff EMP-482913"), "staff ********");
    assert_eq!(recorded.scrub("/staff/EMP-482913?staff=EMP%2D482913"), "/staff/********?staff=********");
    assert_eq!(recorded.scrub_header("Referer", "/staff/EMP-482913"), "/staff/********");
    assert_eq!(scrub("/staff/EMP-482913"), "/staff/EMP-482913");
}

#[test]
fn approvers_read_by_what_each_value_is_hidden_and_nothing_of_it() {
    let masks = [
        mask("pins", &[], &["$.p"], &["pin"], Style::Drop),
        mask("cards \"]\n", &[Detector::Card], &[], &[], Style::KeepLast4),
    ];
    let mut named = (*mask("fields", &[], &[], &[], Style::KeyedHash)).clone();
    named.headers = vec!["x-customer".to_owned()];
    let plan = Plan::labelled(&[&masks[..], &[Arc::new(named)]].concat(), &[]);
    let body =
        r#"{"pin":"123","p":{"q":[1]},"x":"4111 1111 1111 1111 bob@x.io","n":4111111111111111,"PIN":null}"#;
    let shown: Value = serde_json::from_str(&json_of(&plan, body)).unwrap();
    let expected = json!({
        "pin": "[masked: pins]", "p": "[masked: pins]", "x": "[masked: cards____] [masked: email]",
        "n": "[masked: cards____]", "PIN": "[masked: pins]",
    });
    assert_eq!(shown, expected);
    same_in_every_split(&plan, &Media::Json, body.as_bytes());
    let form = Plan::labelled(&[mask("pins", &[], &[], &["pin"], Style::Stars)], &[]);
    assert_eq!(whole(&form, &Media::Form, b"pin=1&x=bob%40x.io"), "pin=[masked: pins]&x=[masked: email]");
    assert_eq!(
        plan.scrub("/u/bob@x.io?token=abc&c=4111111111111111"),
        "/u/[masked: email]?token=[masked: credential]&c=[masked: cards____]"
    );
    assert_eq!(plan.scrub_header("X-Customer", "ann"), "[masked: fields]");
    assert_eq!(plan.scrub_header("Authorization", "Bearer abc"), "Bearer [masked: credential]");
}

#[test]
fn what_detectors_found_is_counted_by_detector_too() {
    let masks = [
        mask("a", &[Detector::Card], &[], &["pin"], Style::Stars),
        mask("b", &[Detector::Card, Detector::Email], &[], &[], Style::Stars),
    ];
    let mut out = Vec::new();
    let mut stream = Plan::new(&masks).stream(Media::Json);
    stream.push(br#"{"pin":1,"x":"4111111111111111 bob@x.io","y":4111111111111111}"#, &mut out).unwrap();
    let hits = stream.finish(&mut out).unwrap();
    assert_eq!(hits.masks, [("a".to_owned(), 3), ("b".to_owned(), 3)]);
    assert_eq!(hits.detectors, [("card".to_owned(), 2), ("email".to_owned(), 1)]);
}

#[test]
fn the_record_hides_what_the_client_may_see() {
    let plan = Plan::everything(&[mask("m", &[Detector::Card], &[], &["pin"], Style::KeepLast4)], &[]);
    let mut out = Vec::new();
    let mut stream = plan.stream(Media::Json);
    stream.push(br#"{"pin":1,"x":"4111111111111111","y":"bob@x.io"}"#, &mut out).unwrap();
    let hits = stream.finish(&mut out).unwrap();
    assert_eq!(out, br#"{"pin":"********","x":"********1111","y":"********"}"#);
    assert_eq!(hits.masks, [("m".to_owned(), 2), ("email".to_owned(), 1)]);
    assert!(Plan::new(&[]).is_empty() && !Plan::everything(&[], &[]).is_empty());
}

#[test]
fn a_secret_in_a_string_longer_than_may_be_held_is_hidden_wherever_it_lies() {
    let plan = Plan::new(&[mask("m", &Detector::ALL, &["$.whole"], &[], Style::KeepLast4)]);
    let filler = "lorem ipsum \\u00e9 \\\" ".repeat(2 * MASK_HOLD_BACK_BYTES_MAX / 20);
    let pem =
        format!("-----BEGIN RSA PRIVATE KEY-----\\n{}-----END RSA PRIVATE KEY-----", "QUJD\\n".repeat(5000));
    let jwt = format!("eyJhbGciOiJIUzI1NiJ9.{}.sig_nature", "abcDEF123".repeat(4000));
    for secret in ["4111 1111 1111 1111", "\\u0062ob@example.com", &pem, &jwt] {
        let body = format!("{{\"x\":\"{filler}{secret} {filler}{secret}\",\"whole\":\"{filler}last\"}}");
        let expected = json_of(&plan, &body);
        let parsed: Value = serde_json::from_str(&expected).unwrap();
        assert_eq!(parsed["whole"], "********last");
        assert_eq!(expected.matches("********").count(), 3, "{secret}");
        assert!(!expected.contains("QUJD") && !expected.contains("ob@") && !expected.contains("abcDEF"));
        for pieces in [97, 1000, 4096, 16_411] {
            let (got, _) = run(&plan, &Media::Json, body.as_bytes().chunks(pieces)).unwrap();
            assert!(got == expected.as_bytes(), "{secret} in pieces of {pieces}");
        }
    }
}

#[test]
fn what_is_held_back_is_bounded() {
    let plan = all_detectors(Style::Stars);
    let word = "eyJ".to_owned() + &"abc-".repeat(50_000);
    for (media, body) in [
        (Media::Json, format!("[\"{word}\"]")),
        (Media::Json, format!("[\"{}\"]", "\\ud83d\\ude00".repeat(20_000))),
        (Media::Text, word.clone()),
        (Media::Text, "4111 ".repeat(20_000)),
        (Media::Text, "a@b.cd@".repeat(20_000)),
        (Media::Text, format!("-----BEGIN PRIVATE KEY-----{}", "QUJD ".repeat(20_000))),
        (Media::Opaque, word),
    ] {
        let mut stream = plan.stream(media);
        let (mut taken, mut out) = (0, Vec::new());
        let mut hidden_from = None;
        for piece in body.as_bytes().chunks(500) {
            stream.push(piece, &mut out).unwrap();
            taken += piece.len();
            if stream.hits().total() > 0 {
                hidden_from.get_or_insert(taken);
            }
            let held = taken - out.len().min(taken);
            assert!(
                held <= MASK_HOLD_BACK_BYTES_MAX + 1000 || hidden_from.is_some(),
                "{held} bytes of {}",
                &body[..20]
            );
        }
    }
}

#[test]
fn a_form_and_a_lying_content_type_hide_nothing_from_detectors() {
    let plan = all_detectors(Style::Stars);
    assert_eq!(
        whole(&plan, &Media::Form, b"a=bob%40example.com&c=4111+1111+1111+1111&d=%zz"),
        "a=********&c=********&d=%zz"
    );
    assert_eq!(
        whole(&plan, &Media::Opaque, b"GIF89a bob@example.com 4111111111111111"),
        "GIF89a ******** ********"
    );
    let image: Vec<u8> = (0..200_000u64).map(|n| Random(n).next().to_le_bytes()[0]).collect();
    assert_eq!(run(&plan, &Media::Opaque, image.chunks(4096)).unwrap().0, image);
}

#[test]
fn a_mask_by_field_meets_a_body_with_fields_or_is_refused() {
    let plan = Plan::new(&[mask("m", &[], &[], &["pin"], Style::Stars)]);
    for media in [Media::Text, Media::Opaque, Media::Html] {
        assert_eq!(whole(&plan, &media, b""), "");
        assert_eq!(whole(&plan, &media, b" \n {\"pin\":1}"), " \n {\"pin\":\"********\"}");
        for body in [&b"pin=1"[..], b"\"pin\"", b"<html>", b"\xEF\xBBx", b"\0{"] {
            let (error, out) = run(&plan, &media, [body]).unwrap_err();
            assert_eq!((error, out), (MaskError::NoFields, vec![]));
            same_in_every_split(&plan, &media, body);
        }
        same_in_every_split(&plan, &media, b"\xEF\xBB\xBF [{\"pin\":1}]");
    }
    assert!(run(&plan, &Media::Text, [&b"[INFO] not json"[..]]).is_err());
}

#[test]
fn scrub_hides_secrets_as_they_stand_and_as_they_are_escaped() {
    for (text, expected) in [
        ("curl/8.5.0", "curl/8.5.0"),
        ("/users/bob@example.com/x", "/users/********/x"),
        ("/u?e=a%40b.com&x=1", "/u?e=********&x=1"),
        ("/u?e=a%2540b.com", "/u?e=********"),
        ("c=4111+1111+1111+1111&d=%34111111111111111", "c=********&d=********"),
        ("bob+tag@example.com", "********"),
        (
            "/cb?code=abc&state=x&access_token=zzz;sig=1#f",
            "/cb?code=********&state=x&access_token=********;sig=********#f",
        ),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "********"),
        ("passkeys=1&monkey=2", "passkeys=1&monkey=2"),
        ("50% of é", "50% of é"),
    ] {
        assert_eq!(scrub(text), expected);
    }
}

#[test]
fn a_credential_header_keeps_its_scheme_and_nothing_else() {
    assert_eq!(scrub_header("AUTHORIZATION", "Bearer abc"), "Bearer ********");
    assert_eq!(scrub_header("Authorization", "abc def"), "********");
    assert_eq!(scrub_header("cookie", "a=b; c=d"), "********");
    assert_eq!(scrub_header("X-Api-Key", "hunter2"), "********");
    assert_eq!(scrub_header("Referer", "http://h/?token=1"), "http://h/?token=********");
    assert_eq!(scrub_header("Accept", "*/*"), "*/*");
}
