//! Text: what detectors find is gone, wherever it was cut and however it is coded, or the body is refused.

use super::*;

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
        "JIRA_TOKEN='********' ******** ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ********"
    );
}

#[test]
fn random_text_of_secrets_and_noise_is_masked_the_same_in_any_split() {
    let plan = all_detectors(Style::KeepLast4);
    let noise = [
        " ",
        ".",
        "-",
        "@",
        "4",
        "1111",
        "eyJ",
        "sk-",
        "secret",
        "\\",
        "\\n",
        "%40",
        "é",
        "-----",
        "END",
        "a",
        "_",
        ":",
        "\n",
        "://",
        "ann:",
        "S3cretword@",
        " -u ",
        "XXXXXXXXXX",
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
fn text_with_zero_bytes_is_refused() {
    let plan = all_detectors(Style::Stars);
    let utf16: Vec<u8> = "4111111111111111".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (error, out) = run(&plan, &Media::Text, [&utf16[..]]).unwrap_err();
    assert!(matches!(error, MaskError::Encoding(_)), "{error}");
    assert_eq!(out, b"");
    assert_eq!(whole(&plan, &Media::Text, b""), "");
    // Without a mask nothing is read, so nothing is refused.
    assert_eq!(run(&Plan::new(&[]), &Media::Text, [&utf16[..]]).unwrap().0, utf16);
}

#[test]
fn numbers_of_people_are_masked_the_same_in_any_split() {
    let plan = all_detectors(Style::Stars);
    for (text, expected) in [
        ("IBAN: GB82 WEST 1234 5698 7654 32 and more", "IBAN: ******** and more"),
        ("DE89370400440532013000,GB82WEST12345698765433", "********,GB82WEST12345698765433"),
        ("call +44 20 7946 0958, (08) 8747 6301; 212-555-0123 x12.", "call ********, ********; ********."),
        ("Phone:\n60-56-85-91\n\nE-mail:\nx", "Phone:\n********\n\nE-mail:\nx"),
        ("from 192.0.2.17:443 to 2001:db8::8a2e:370:7334", "from ********:443 to ********"),
        ("nino AB 12 34 56 C; 12345678Z/RSSMRA85T10A562S", "nino ********; ********/********"),
        ("CPF 111.444.777-35 aadhaar 2341 2341 2346, 912-70-1234", "CPF ******** aadhaar ********, ********"),
        (
            "111222333 bsn=111222333 0000000000000 BSN 11122233",
            "111222333 bsn=******** 0000000000000 BSN 11122233",
        ),
        (
            "db_password = \"k3Jx9pQ2vW7z\" password: hunter2 token => 550e8400-e29b-41d4-a716-446655440000",
            "db_password = \"********\" password: hunter2 token => 550e8400-e29b-41d4-a716-446655440000",
        ),
    ] {
        assert_eq!(text_of(&plan, text), expected);
        for media in [Media::Text, Media::Form, Media::Opaque] {
            same_in_every_split(&plan, &media, text.as_bytes());
        }
    }
}

#[test]
fn credentials_on_command_lines_are_masked_the_same_in_any_split() {
    let plan = all_detectors(Style::Stars);
    for (text, expected) in [
        ("curl -u elastic:P@ssw0rd$1 https://h", "curl -u elastic:******** https://h"),
        ("curl --user 'd2LkV78zLx!t:' x", "curl --user '********:' x"),
        ("curl --user \"{ab3c-08}\":\"{ZqL5kVrX1n8tA2}\" -v", "curl --user \"{ab3c-08}\":\"********\" -v"),
        (
            "-H 'Token: 3fea6af1349166ea' -H \"X-ApiKey: 3a16750d-d363-41a4\"",
            "-H 'Token: ********' -H \"X-ApiKey: ********\"",
        ),
        ("-H \"Authorization: bRLFnzd5@=-.a+/hgdS\"", "-H \"Authorization: ********\""),
        (
            "BUNDLE_GEMS__CONTRIBSYS__COM=\"cafe1234:dead5678\"; x",
            "BUNDLE_GEMS__CONTRIBSYS__COM=\"********\"; x",
        ),
        (
            "docker run -u 1000:10000000 curl -u test:test -u user:password --user $NAME:$PASSWORD -u <user:password>",
            "docker run -u 1000:10000000 curl -u test:test -u user:password --user $NAME:$PASSWORD -u <user:password>",
        ),
    ] {
        assert_eq!(text_of(&plan, text), expected);
        for media in [Media::Text, Media::Form, Media::Opaque] {
            same_in_every_split(&plan, &media, text.as_bytes());
        }
    }
}

#[test]
fn passwords_in_addresses_are_masked_the_same_in_any_split() {
    let plan = all_detectors(Style::Stars);
    for (text, expected) in [
        ("https://cafe1234:d3adb33f@gems.example.com:80/x", "https://cafe1234:********:80/x"),
        ("postgres://app:S3cret:with/colon@db", "postgres://app:S3cret:with/colon@db"),
        (
            "redis://:k3Jx9pQ2vW7z@cache:6379/0 amqp://u:%70%61ss1234@mq",
            "redis://:********@cache:6379/0 amqp://u:********@mq",
        ),
        (
            "http://h:8080/a@b https://user:password@h https://$USER:$PASSWORD@h https://u:<token>@h ftp://ann@h http://[::1]:80/",
            "http://h:8080/a@b https://user:password@h https://$USER:$PASSWORD@h https://u:<token>@h ftp://ann@h http://[::1]:80/",
        ),
    ] {
        assert_eq!(text_of(&plan, text), expected);
        for media in [Media::Text, Media::Form, Media::Opaque] {
            same_in_every_split(&plan, &media, text.as_bytes());
        }
    }
}

#[test]
fn what_stands_where_a_key_would_is_left_alone() {
    let plan = all_detectors(Style::Stars);
    for text in [
        "oc login sha256~XXXXXXXXXXXX_the_one_you_were_given_XXXXXXX",
        "token = \"sha256~XXXXXXXXXXXX_the_one_you_were_given_XXXXXXX\"",
        "AIzaQ7w8E9r0T1y2U3i4O5p6A7s8D9f0G1h2J3k4L5z6",
        // Published by its owner, in samples.
        "AIzaSyabcdefghijklmnopqrstuvwxyz1234567",
        "sk-ant-api03-tooShort-toBeOneOfTheirs-0a1b2c3d4e",
        "ntn_098765432109876543210987654321098765432109876543",
    ] {
        assert_eq!(text_of(&plan, text), text);
        same_in_every_split(&plan, &Media::Text, text.as_bytes());
    }
}

#[test]
fn a_key_that_differs_from_a_published_one_is_hidden() {
    let plan = all_detectors(Style::Stars);
    for text in ["AIzaSyabcdefghijklmnopqrstuvwxyz1234568", "key=AIzaSyabcdefghijklmnopqrstuvwxyz7654321."] {
        assert!(!text_of(&plan, text).contains("AIza"), "{text}");
        same_in_every_split(&plan, &Media::Text, text.as_bytes());
    }
}

#[test]
fn a_text_full_of_beginnings_is_looked_through_once() {
    let plan = all_detectors(Style::Stars);
    for (beginning, rest) in [
        (".eyJhbGciOi", ""),
        ("-----BEGIN PRIVATE KEY-----", ""),
        ("-----BEGIN PRIVATE KEY-----\n", "QUJD\n-----END PRIVATE KEY-----"),
    ] {
        let text = beginning.repeat(1024 * 1024 / beginning.len()) + rest;
        let shown = text_of(&plan, &text);
        assert!(!shown.contains("QUJD") && shown.contains("********"), "{beginning}");
    }
    // A block that begins inside another, near the other's bound, is hidden to its own end.
    let filling = "A".repeat(64 * 1024 - 100);
    let nested = format!(
        "-----BEGIN PRIVATE KEY-----\n{filling}\n-----BEGIN PRIVATE KEY-----\n{}Q\n-----END PRIVATE KEY-----\nbye",
        "B".repeat(300)
    );
    let shown = text_of(&plan, &nested);
    assert!(!shown.contains("BBB") && shown.ends_with("bye"), "{}", &shown[shown.len().min(400)..]);
}

#[test]
fn what_only_looks_like_a_number_of_someone_is_left_alone() {
    let plan = all_detectors(Style::Stars);
    for text in [
        "550e8400-e29b-41d4-a716-446655440000",
        "2024-01-31T12:30:45.123456+02:00 1700000000 1700000000123 20240131123045",
        "version 10.1.2.3 v1.2.3.4 1.2.3 Chrome/120.0.6099.109 Linux/5.15.0-91",
        "d41d8cd98f00b204e9800998ecf8427e da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "$1,234,567.89 EUR 12 345 678,90 1.234.567,89 99.99 0.12345678901",
        "order 9498777106 invoice 2024-000123 sku 123-456-789 page 12/345",
        "00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15",
        "std::fmt de::fa a::b 12:30:45 00:1b:44:11:3a:b7 ::1",
        "lat 51.507351, lon -0.127758; 1920x1080; 10-12-2024; 01.02.2024 10:00",
        "token count: 123456 secret santa: maybe password: required token_type: Bearer",
        "9007199254740991 18446744073709551615 3.14159265358979",
    ] {
        assert_eq!(text_of(&plan, text), text);
        same_in_every_split(&plan, &Media::Text, text.as_bytes());
    }
}
