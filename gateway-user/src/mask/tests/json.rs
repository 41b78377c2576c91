//! JSON: what paths, keys and detectors name is gone, and every other byte is the same.

use super::*;

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
        Plan::everything(&fields(), &[]),
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
            JsonStep::Any | JsonStep::Element => true,
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
fn the_name_of_a_member_says_what_its_value_is() {
    let plan = Plan::new(&[mask("m", &Detector::ALL, &[], &[], Style::Stars)]);
    for (body, expected) in [
        (r#"{"homePhone":"467 3395","fax":4673395123}"#, r#"{"homePhone":"********","fax":"********"}"#),
        (r#"{"order":"467 3395","count":4673395123}"#, r#"{"order":"467 3395","count":4673395123}"#),
        (r#"{"bsn":111222333,"x":111222333}"#, r#"{"bsn":"********","x":111222333}"#),
        (
            r#"{"client_secret":"k3Jx9pQ2vW7zk3Jx","x":"k3Jx9pQ2vW7zk3Jx"}"#,
            r#"{"client_secret":"********","x":"k3Jx9pQ2vW7zk3Jx"}"#,
        ),
        (r#"{"tel":"\u0034673395 ok","list":["467 3395"]}"#, r#"{"tel":"******** ok","list":["467 3395"]}"#),
    ] {
        assert_eq!(json_of(&plan, body), expected);
        same_in_every_split(&plan, &Media::Json, body.as_bytes());
    }
}
