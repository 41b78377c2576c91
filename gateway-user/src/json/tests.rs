//! The scanner beside another reader of JSON: what it takes and refuses, and where it says things are.

use super::*;

fn scan(text: &[u8]) -> Result<(Vec<(usize, Event)>, bool), NotJson> {
    let mut scanner = Scanner::new(4);
    let mut events = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        scanner.push(byte, &mut |event| events.push((at, event)))?;
    }
    scanner.finish(&mut |event| events.push((text.len(), event)))?;
    Ok((events, scanner.is_odd()))
}

#[test]
fn it_takes_and_refuses_what_another_reader_does() {
    let texts = [
        "{}",
        "[]",
        " [ 1 , -2.5e+3 , \"a\\n\\u00e9\" , true , false , null ] ",
        "{\"a\":{\"b\":[{\"c\":1}]}}",
        "0",
        "-0",
        "01",
        "-",
        "1.",
        "1e",
        "1e+",
        ".5",
        "+1",
        "tru",
        "truee",
        "nul",
        "{\"a\":1,}",
        "[1,]",
        "[,1]",
        "{a:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "[1 2]",
        "[}",
        "{]",
        "{\"a\"}",
        "\"a\tb\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"é€😀\"",
        "",
        " ",
        "1 2",
        "{} {}",
        "[1]]",
        "\u{feff}{}",
        "\"\u{7f}\"",
    ];
    for text in texts {
        let other = serde_json::from_str::<serde_json::Value>(text);
        assert_eq!(scan(text.as_bytes()).is_ok(), other.is_ok(), "{text}");
    }
}

#[test]
fn bytes_that_are_no_characters_are_refused_as_the_standard_library_refuses_them() {
    for first in 0x80..=0xFF_u8 {
        for second in [0x20, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF] {
            for rest in [&b""[..], b"\x80", b"\x80\x80", b"\xBF\xC0"] {
                let inside = [&[first, second], rest].concat();
                let text = [b"\"", inside.as_slice(), b"\""].concat();
                assert_eq!(scan(&text).is_ok(), std::str::from_utf8(&inside).is_ok(), "{inside:02x?}");
            }
        }
    }
}

#[test]
fn nesting_at_the_bound_passes_and_one_deeper_does_not() {
    assert!(scan(b"[[[[]]]]").is_ok());
    assert_eq!(scan(b"[[[[[]]]]]").unwrap_err(), NotJson { at: 4, what: "nesting deeper than the bound" });
}

#[test]
fn halves_of_surrogates_and_nul_are_odd() {
    for odd in [
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83dx\"",
        "\"\\ud83d\\n\"",
        "\"\\ud83d\\ud83d\\ude00\"",
        "\"\\u0000\"",
    ] {
        assert!(scan(odd.as_bytes()).unwrap().1, "{odd}");
    }
    for fine in ["\"\\ud83d\\ude00\"", "\"\\u00e9\\u0001\"", "\"\\\\ud83d\""] {
        assert!(!scan(fine.as_bytes()).unwrap().1, "{fine}");
    }
}

#[test]
fn every_name_and_value_is_said_where_it_stands() {
    use Event::{Colon, Comma, NameBegins, NameEnds, ValueBegins, ValueEnds};
    let (events, _) = scan(b"{\"a\": 12,\"b\":[]}").unwrap();
    let expected = [
        (0, ValueBegins(Kind::Object)),
        (1, NameBegins),
        (3, NameEnds),
        (4, Colon),
        (6, ValueBegins(Kind::Number)),
        (8, ValueEnds { with_this: false }),
        (8, Comma),
        (9, NameBegins),
        (11, NameEnds),
        (12, Colon),
        (13, ValueBegins(Kind::Array)),
        (14, ValueEnds { with_this: true }),
        (15, ValueEnds { with_this: true }),
    ];
    assert_eq!(events, expected);
}
