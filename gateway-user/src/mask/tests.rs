//! Promises of masking: what is named is gone, what is not named is untouched, wherever the body was cut.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{MaskError, Media, Plan, scrub, scrub_header};
use crate::limits::{JSON_DEPTH_MAX, MASK_HOLD_BACK_BYTES_MAX};
use crate::policy::nouns::{Detector, JsonPath, JsonStep, Mask, Style};

fn mask(name: &str, find: &[Detector], paths: &[&str], keys: &[&str], style: Style) -> Arc<Mask> {
    Arc::new(Mask {
        name: name.to_owned(),
        targets: vec!["t".to_owned()],
        find: find.to_vec(),
        paths: paths.iter().map(|text| path(text)).collect(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
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

/// A JSON string literal for this text, each character written in one of the ways JSON allows.
fn literal(random: &mut Random, text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        let must = matches!(character, '"' | '\\') || character < ' ';
        match (random.below(8), character) {
            (0, _) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
            (_, '\n') => out.push_str("\\n"),
            (1, '/') => out.push_str("\\/"),
            (_, '"' | '\\') => out.extend(['\\', character]),
            (_, _) if must => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

fn space(random: &mut Random) -> &'static str {
    random.pick::<&str>(&["", "", "", " ", "\n ", "\t", "\r\n"])
}

/// A JSON text with distinct member names in each object, and the secrets it was given.
fn document(random: &mut Random, depth: usize, secrets: &mut Vec<&'static str>) -> String {
    match random.below(if depth == 0 { 6 } else { 9 }) {
        0 => random.pick(&["true", "false", "null"]).to_string(),
        1 => random
            .pick(&["0", "-1.5e+3", "123456789", "1700000000000", "3.141592653589793", "1E2"])
            .to_string(),
        2 | 3 => {
            let text = *random.pick(&HARMLESS);
            literal(random, text)
        }
        4 | 5 => {
            let secret = *random.pick(&SECRETS);
            secrets.push(secret);
            let text = format!(
                "{}{secret}{}",
                random.pick(&["", "see ", "<", "\""]),
                random.pick(&["", " ok", ">", ", "])
            );
            literal(random, &text)
        }
        6 => {
            let elements: Vec<String> =
                (0..random.below(4)).map(|_| document(random, depth - 1, secrets)).collect();
            format!("[{}{}]", space(random), elements.join(&format!("{},{}", space(random), space(random))))
        }
        _ => {
            let mut names = vec!["a", "b", "Card", "password", "näme", "x/y", "items"];
            let mut members = Vec::new();
            for _ in 0..random.below(5) {
                let name = names.swap_remove(random.below(names.len()));
                let value = document(random, depth - 1, secrets);
                members.push(format!("{}{}:{}{value}", literal(random, name), space(random), space(random)));
            }
            format!("{{{}{}{}}}", space(random), members.join(","), space(random))
        }
    }
}

fn fields() -> Vec<Arc<Mask>> {
    vec![
        mask("keys", &[], &[], &["PASSWORD", "NÄME"], Style::Stars),
        mask("paths", &[], &["$.a", "$.items[*].b", "$..Card", "$[1].a[0]", "$.b..a"], &[], Style::KeepLast4),
    ]
}

#[test]
fn a_masked_value_never_leaves_in_any_split() {
    let plans = [
        all_detectors(Style::Stars),
        all_detectors(Style::KeepLast4),
        Plan::new(&fields()),
        Plan::everything(&fields()),
    ];
    let mut random = Random(1);
    for _ in 0..60 {
        let mut secrets = Vec::new();
        let body = document(&mut random, 4, &mut secrets);
        for (n, plan) in plans.iter().enumerate() {
            same_in_every_split(plan, &Media::Json, body.as_bytes());
            let out = json_of(plan, &body);
            let parsed: Value =
                serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {body} -> {out}"));
            let said = strings(&parsed).join("\u{0}");
            for secret in secrets.iter().filter(|_| n != 2) {
                assert!(!said.contains(secret), "{secret} of {body} is in {out}");
            }
        }
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(elements) => elements.iter().flat_map(strings).collect(),
        Value::Object(members) => {
            members.iter().flat_map(|(name, value)| [vec![name.clone()], strings(value)].concat()).collect()
        }
        other => vec![other.to_string()],
    }
}

/// Every place of `value` that the steps lead to, by a walk that knows nothing of streams.
fn select(value: &Value, steps: &[JsonStep], here: &str, found: &mut Vec<String>) {
    let Some((step, rest)) = steps.split_first() else { return found.push(here.to_owned()) };
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (format!("{here}/m{name}"), value)).collect()
        }
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(n, value)| (format!("{here}/{n}"), value)).collect()
        }
        _ => return,
    };
    for (place, child) in &children {
        let last = &place[here.len() + 1..];
        let leads = match step {
            JsonStep::Member(name) | JsonStep::Descendant(name) => last == format!("m{name}"),
            JsonStep::Index(index) => last == index.to_string(),
            JsonStep::Any => true,
        };
        if leads {
            select(child, rest, place, found);
        }
        if let JsonStep::Descendant(_) = step {
            select(child, steps, place, found);
        }
    }
}

fn replaced(value: &Value, here: &str, hit: &dyn Fn(&str) -> Option<Style>) -> Value {
    if let Some(style) = hit(here) {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let count = text.chars().count();
        let last = if style == Style::KeepLast4 && count >= 12 {
            text.chars().skip(count - 4).collect()
        } else {
            String::new()
        };
        return json!(format!("********{last}"));
    }
    match value {
        Value::Array(elements) => elements
            .iter()
            .enumerate()
            .map(|(n, value)| replaced(value, &format!("{here}/{n}"), hit))
            .collect(),
        Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(name, value)| (name.clone(), replaced(value, &format!("{here}/m{name}"), hit)))
                .collect(),
        ),
        other => other.clone(),
    }
}

#[test]
fn paths_and_keys_hide_what_an_independent_walk_selects() {
    let masks = fields();
    let plan = Plan::new(&masks);
    let mut random = Random(7);
    let mut hidden = 0;
    for _ in 0..600 {
        let body = document(&mut random, 5, &mut Vec::new());
        let value: Value = serde_json::from_str(&body).unwrap();
        let mut selected = Vec::new();
        for path in &masks[1].paths {
            select(&value, &path.steps, "", &mut selected);
        }
        let hit = |place: &str| match place.rsplit("/m").next() {
            Some("password" | "näme") if !place.ends_with(|c: char| c.is_ascii_digit()) => {
                Some(Style::Stars)
            }
            _ => selected.iter().any(|one| one == place).then_some(Style::KeepLast4),
        };
        let expected = replaced(&value, "", &hit);
        hidden += usize::from(expected != value);
        let got: Value = serde_json::from_str(&json_of(&plan, &body)).unwrap();
        assert_eq!(got, expected, "{body}");
    }
    assert!(hidden > 100, "only {hidden} documents had anything to hide");
}

#[test]
fn every_byte_outside_a_masked_value_is_the_same() {
    let plan = Plan::new(&[mask("m", &Detector::ALL, &["$.deep.er"], &["pin"], Style::Stars)]);
    for (body, expected) in [
        (r#"{ "a" : 1.50e+00 , "b":[ ]  }"#, r#"{ "a" : 1.50e+00 , "b":[ ]  }"#),
        (
            r#"{"pin":1234,"pin":{"x":[1,{"y":"]}"}]},"n":null}"#,
            r#"{"pin":"********","pin":"********","n":null}"#,
        ),
        (r#"{"PIN" : null ,"\u0070in":true}"#, r#"{"PIN" : "********" ,"\u0070in":"********"}"#),
        (r#"{"deep":{"er":"x","e":"y"}}"#, r#"{"deep":{"er":"********","e":"y"}}"#),
        (r#"["\u0034111111111111111 \u00e9 \/"]"#, r#"["******** \u00e9 \/"]"#),
        (r#"["é \ud83d\ude00 bob@x.io,\u0041\n"]"#, r#"["é \ud83d\ude00 ********,\u0041\n"]"#),
        (
            r#"[4111111111111111,-4111111111111111,4111111111111112]"#,
            r#"["********","********",4111111111111112]"#,
        ),
        (
            r#"[4.111111111111111e15,4111111111111111.0,411111111111111.1]"#,
            r#"["********","********",411111111111111.1]"#,
        ),
        (r#"{"bob@x.io":{"z":1}}"#, r#"{"********":{"z":1}}"#),
        ("\u{feff}{\"pin\":1}\n{\"pin\":2}", "\u{feff}{\"pin\":\"********\"}\n{\"pin\":\"********\"}"),
        (r#"["\\u0034111111111111111"]"#, r#"["\\u0034111111111111111"]"#),
        (r#"["\ud800 bob@x.io \udc00"]"#, r#"["\ud800 ******** \udc00"]"#),
        ("\u{1e}{\"pin\":1}\n\u{1e}[]\n", "\u{1e}{\"pin\":\"********\"}\n\u{1e}[]\n"),
        (
            r#"{"ssn":"123456789","n":{"SSN":123456789},"id":123456789}"#,
            r#"{"ssn":"********","n":{"SSN":"********"},"id":123456789}"#,
        ),
        (
            r#"{"SecretAccessKey":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}"#,
            r#"{"SecretAccessKey":"********"}"#,
        ),
        (r#"{"authorization":"x","author":"x"}"#, r#"{"authorization":"********","author":"x"}"#),
        ("", ""),
        (" \n", " \n"),
    ] {
        assert_eq!(json_of(&plan, body), expected);
        same_in_every_split(&plan, &Media::Json, body.as_bytes());
    }
}

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
    assert_eq!(hits.0, [("loose".to_owned(), 2), ("tight".to_owned(), 1), ("cards".to_owned(), 1)]);
}

#[test]
fn the_record_hides_what_the_client_may_see() {
    let plan = Plan::everything(&[mask("m", &[Detector::Card], &[], &["pin"], Style::KeepLast4)]);
    let mut out = Vec::new();
    let mut stream = plan.stream(Media::Json);
    stream.push(br#"{"pin":1,"x":"4111111111111111","y":"bob@x.io"}"#, &mut out).unwrap();
    let hits = stream.finish(&mut out).unwrap();
    assert_eq!(out, br#"{"pin":"********","x":"********1111","y":"********"}"#);
    assert_eq!(hits.0, [("m".to_owned(), 2), ("email".to_owned(), 1)]);
    assert!(Plan::new(&[]).is_empty() && !Plan::everything(&[]).is_empty());
}

#[test]
fn what_is_not_json_is_stopped_before_anything_unsure_leaves() {
    let plan = all_detectors(Style::Stars);
    for body in [
        "{",
        "[1,]",
        "{\"a\"}",
        "{\"a\":}",
        "{,}",
        "[1 2]",
        "]",
        "{]",
        "nul",
        "nulll",
        "01",
        "1.",
        "-",
        "1e",
        "+1",
        "\"",
        "[\"",
        "\"\\x\"",
        "\"\\u12G4\"",
        "\"\\u12",
        "\"a\nb\"",
        "[1}",
        "{\"a\":1]",
        "{\"a\":1,}",
        "{1:2}",
        "true1",
        "1\"a\"",
        "'a'",
        "\u{feff}\u{feff}1",
        "[1]x",
        ",",
        "{\"a\" 1}",
        "\"bob@x.io",
        "[\"4111111111111111",
    ] {
        let (error, out) = run(&plan, &Media::Json, [body.as_bytes()]).unwrap_err();
        assert!(matches!(error, MaskError::NotJson { .. } | MaskError::Truncated { .. }), "{body}: {error}");
        assert!(!out.windows(4).any(|four| four == b"4111") && !out.contains(&b'@'), "{body}");
        same_in_every_split(&plan, &Media::Json, body.as_bytes());
    }
    for body in
        [&b"[\"\xff\"]"[..], b"[\"a\xc3\"]", b"[\"\xed\xa0\x80\"]", b"\xef\xbb1", b"[\"\xc3\\n\"]", b"{\0"]
    {
        let (error, _) = run(&plan, &Media::Json, [body]).unwrap_err();
        assert!(matches!(error, MaskError::NotJson { .. }), "{body:?}: {error}");
        same_in_every_split(&plan, &Media::Json, body);
    }
}

#[test]
fn nesting_is_taken_to_the_bound_and_refused_beyond() {
    let plan = Plan::new(&[mask("m", &[], &["$..x"], &[], Style::Stars)]);
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(json_of(&plan, &nested(JSON_DEPTH_MAX)), nested(JSON_DEPTH_MAX));
    let (error, _) = run(&plan, &Media::Json, [nested(JSON_DEPTH_MAX + 1).as_bytes()]).unwrap_err();
    assert_eq!(error, MaskError::TooDeep { at: JSON_DEPTH_MAX as u64 });
}

#[test]
fn a_key_is_taken_to_the_bound_and_refused_beyond_and_so_is_a_number() {
    let plan = all_detectors(Style::Stars);
    let body = |long: usize| format!("{{\"{}\":1}}", "k".repeat(long));
    let digits = |long: usize| format!("[{}]", "1".repeat(long));
    for make in [&body as &dyn Fn(usize) -> String, &digits] {
        let fits = make(MASK_HOLD_BACK_BYTES_MAX);
        let over = make(MASK_HOLD_BACK_BYTES_MAX + 1);
        assert_eq!(json_of(&plan, &fits), fits);
        for pieces in [over.len(), 1000, 1] {
            assert_eq!(run(&plan, &Media::Json, fits.as_bytes().chunks(pieces)).unwrap().0, fits.as_bytes());
            let (error, _) = run(&plan, &Media::Json, over.as_bytes().chunks(pieces)).unwrap_err();
            assert!(matches!(error, MaskError::TooLong { .. }), "{error}");
        }
    }
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
fn text_is_masked_the_same_in_any_split() {
    let texts = [
        "Pay 4111 1111 1111 1111, 5555-5555-5555-4444;37828224631000,5 or 378282246310005. 123-45-6789, 000-12-3456",
        "mailto:bob@example.com, <a.b@c.de>, x@y, @z.de, jo@x.com. jo@x.com.. \"q\"@x.com a@b.cd@e.fg josé@exämple.org",
        "log: token=ghp_abcdefghijklmnopqrstuvwxyz0123456789, AKIAIOSFODNN7EXAMPLE AKIAIOSFODNN7EXAMPLEX sk_live_abcdefghij1",
        "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln. And eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0. eyJx.y",
        "a\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----\nb -----BEGIN PUBLIC KEY-----\nMFk\n",
        "-----BEGIN PRIVATE KEY-----\nMHcCAQEEIA -----END nothing",
        "aws_secret_access_key = \"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\" secret da39a3ee5e6b4b0d3255bfef95601890afd80709x",
        "ssn: 123456789, SSN 12345678 and 987654321 social security number 123456789.",
        "{\"e\":\"\\u0062ob@example.com\",\"n\":\"a\\nbob@x.io\"} \\ud83d\\ude00 \\u00",
        "a1b2c3d4e5f60718293a4b5c6d7e8f90-us12 123456789:AAabcdefghijklmnopqrstuvwxyz0123456 Abc8Q~abcdefghijklmnopqrstuvwxyz-_12345",
        "secret_key=\",\"4111 1111 1111 1111123456789:AAabcdefghijklmnopqrstuvwxyz012345ghp_abcdefghijklmnopqrstuvwxyz01234567894111 1",
        "Authorization: Bearer abcdef0123456789abcdef, Basic dXNlcjpwYXNzd29yZA== ",
        "authorization=Token 22cb987851bc5659229114c6 Authorization: required, HEROKU_KEY = 12345678-ABCD-ABCD-ABCD-1234567890AB",
        "JIRA_TOKEN='HXe8DGg1iJd2AopzyxkFB7F2' GB90YNTU67299444055881 ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx 911602140448729|AY-lRJZq9BoDLobvAiP25L7RcMg",
    ];
    for text in texts {
        for style in [Style::Stars, Style::KeepLast4] {
            for media in [Media::Text, Media::Form, Media::Opaque] {
                same_in_every_split(&all_detectors(style), &media, text.as_bytes());
            }
        }
    }
    let plan = all_detectors(Style::Stars);
    assert_eq!(
        text_of(&plan, texts[0]),
        "Pay ********, ********;37828224631000,5 or ********. ********, 000-12-3456"
    );
    assert_eq!(
        text_of(&plan, texts[1]),
        "mailto:********, <********>, x@y, @z.de, ********. ********.. \"q\"@x.com ******** ********"
    );
    assert_eq!(text_of(&plan, texts[2]), "log: token=********, ******** AKIAIOSFODNN7EXAMPLEX ********");
    assert_eq!(text_of(&plan, texts[3]), "jwt ********. And ********. eyJx.y");
    assert_eq!(text_of(&plan, texts[4]), "a\n********\nb -----BEGIN PUBLIC KEY-----\nMFk\n");
    assert_eq!(text_of(&plan, texts[5]), "********nothing");
    assert_eq!(
        text_of(&plan, texts[6]),
        "aws_secret_access_key = \"********\" secret da39a3ee5e6b4b0d3255bfef95601890afd80709x"
    );
    assert_eq!(
        text_of(&plan, texts[7]),
        "ssn: ********, SSN 12345678 and 987654321 social security number ********."
    );
    assert_eq!(text_of(&plan, texts[8]), "{\"e\":\"********\",\"n\":\"a\\n********\"} \\ud83d\\ude00 \\u00");
    assert_eq!(text_of(&plan, texts[9]), "******** ******** ********");
    assert_eq!(text_of(&plan, texts[11]), "Authorization: ********, ******** ");
    assert_eq!(
        text_of(&plan, texts[12]),
        "authorization=Token ******** Authorization: required, HEROKU_KEY = ********"
    );
    assert_eq!(
        text_of(&plan, texts[13]),
        "JIRA_TOKEN='********' GB90YNTU67299444055881 ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ********"
    );
}

#[test]
fn random_text_of_secrets_and_noise_is_masked_the_same_in_any_split() {
    let plan = all_detectors(Style::KeepLast4);
    let noise = [
        " ", ".", "-", "@", "4", "1111", "eyJ", "sk-", "secret", "\\", "\\n", "%40", "é", "-----", "END",
        "a", "_", ":", "\n",
    ];
    let mut random = Random(3);
    for _ in 0..40 {
        let mut text = String::new();
        for _ in 0..12 {
            let (secret, other) = (*random.pick(&SECRETS), *random.pick(&noise));
            text.push_str(if random.below(3) == 0 { secret } else { other });
        }
        for media in [Media::Text, Media::Form, Media::Opaque] {
            same_in_every_split(&plan, &media, text.as_bytes());
        }
    }
}

#[test]
fn text_that_is_not_utf8_is_masked_the_same_in_any_split() {
    let plan = all_detectors(Style::Stars);
    for text in [
        &b"[\"\xa3bob@example.com .\""[..],
        b"a \x80\x80\x80\x80\x80bob@x.io\xff",
        b"\xc3bob@x.io\xc3 ",
        b"\xe9t\xe9@x.fr",
    ] {
        same_in_every_split(&plan, &Media::Text, text);
        same_in_every_split(&plan, &Media::Opaque, text);
    }
    assert_eq!(run(&plan, &Media::Text, [&b"[\"\xa3bob@example.com"[..]]).unwrap().0, b"[\"********");
    assert_eq!(run(&plan, &Media::Opaque, [&b"[\"\xa3bob@example.com"[..]]).unwrap().0, b"[\"\xa3********");
}

#[test]
fn a_find_never_parts_a_character() {
    let plan = all_detectors(Style::Stars);
    let host = format!("bob@x.{}", "é".repeat(200));
    let key = format!("-----BEGIN PRIVATE KEY-----{}", "é".repeat(40_000));
    for secret in [
        "-----BEGIN PRIVATE KEY-----\\nAAAA\\n-----END PRIVATE 0123456789012345678901234567890123456789012345678901é",
        &host,
        &format!("{host}."),
        &format!("{}@x.io", "é".repeat(100)),
        &key,
    ] {
        for body in [format!("[\"{secret} ok\"]"), format!("[\"x{secret}\"]")] {
            let expected = json_of(&plan, &body);
            assert!(
                serde_json::from_str::<Value>(&expected).is_ok() && expected.contains("********"),
                "{expected}"
            );
            let (got, _) = run(&plan, &Media::Text, body.as_bytes().chunks(7)).unwrap();
            assert_eq!(String::from_utf8(got).unwrap(), expected);
        }
    }
}

#[test]
fn a_second_key_block_that_starts_inside_the_first_is_hidden_to_its_own_end() {
    let text = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----BEGIN PRIVATE KEY------END x\nQUJD\n-----END PRIVATE KEY----- ok";
    let plan = all_detectors(Style::Stars);
    assert_eq!(text_of(&plan, text), "******** ok");
    same_in_every_split(&plan, &Media::Text, text.as_bytes());
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
fn a_mask_by_field_meets_only_json_or_is_refused() {
    let plan = Plan::new(&[mask("m", &[], &[], &["pin"], Style::Stars)]);
    for media in [Media::Text, Media::Opaque, Media::Form] {
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
fn text_that_detectors_cannot_read_is_refused() {
    let plan = all_detectors(Style::Stars);
    let utf16: Vec<u8> = "4111111111111111".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for media in [
        Media::Text,
        Media::of(Some("text/plain; charset=utf-16")),
        Media::of(Some("application/json;charset=utf-32")),
    ] {
        let (error, out) = run(&plan, &media, [&utf16[..]]).unwrap_err();
        assert!(matches!(error, MaskError::Encoding(_)), "{error}");
        assert_eq!(out, b"");
        assert_eq!(whole(&plan, &media, b""), "");
    }
    // Without a mask nothing is read, so nothing is refused.
    assert_eq!(run(&Plan::new(&[]), &Media::Unreadable("x".into()), [&utf16[..]]).unwrap().0, utf16);
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
