//! Every kind of content, in every content coding and character encoding, cut at every place: the same comes out, and no
//! secret is in it. What cannot be read is refused.

use std::io::Write;

use bytes::Bytes;

use super::*;
use crate::mask::Packing;

const CARD: &str = "4111111111111111";

fn fields() -> Plan {
    Plan::new(&[mask("m", &Detector::ALL, &[], &["pin"], Style::Stars)])
}

fn encode(coding: &str, text: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(text).unwrap();
            gzip.finish().unwrap()
        }
        "deflate" => {
            let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            zlib.write_all(text).unwrap();
            zlib.finish().unwrap()
        }
        "br" => {
            let mut coded = Vec::new();
            let mut br = brotli::CompressorWriter::new(&mut coded, 4096, 5, 22);
            br.write_all(text).unwrap();
            drop(br);
            coded
        }
        "zstd" => zstd::stream::encode_all(text, 3).unwrap(),
        _ => text.to_vec(),
    }
}

/// The text in this encoding; `None` where it cannot be written in it.
fn written(charset: &str, text: &str) -> Option<Vec<u8>> {
    match charset {
        "utf-16le" => Some(text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        "utf-16" => Some(
            [&[0xFE, 0xFF][..], &text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>()].concat(),
        ),
        label => {
            let (bytes, _, lost) = encoding_rs::Encoding::for_label(label.as_bytes()).unwrap().encode(text);
            (!lost).then(|| bytes.into_owned())
        }
    }
}

fn unpack<'b>(
    plan: &Plan,
    packing: &Packing,
    pieces: impl IntoIterator<Item = &'b [u8]>,
) -> Result<(String, u64), MaskError> {
    let mut unpacker = plan.unpack(packing);
    let mut out = Vec::new();
    for piece in pieces {
        unpacker.give(Bytes::copy_from_slice(piece));
        while unpacker.take(&mut out)? {}
    }
    let hits = unpacker.finish(&mut out)?;
    Ok((String::from_utf8(out).unwrap(), hits.total()))
}

/// As [`unpack`]; at no moment more is out than the start of what is expected.
fn unpack_watched<'b>(
    plan: &Plan,
    packing: &Packing,
    pieces: impl IntoIterator<Item = &'b [u8]>,
    (expected, hits): &(String, u64),
    how: &dyn std::fmt::Display,
) {
    let mut unpacker = plan.unpack(packing);
    let mut out = Vec::new();
    let clean =
        |out: &[u8]| assert!(expected.as_bytes().starts_with(out), "{how}: {}", String::from_utf8_lossy(out));
    for piece in pieces {
        unpacker.give(Bytes::copy_from_slice(piece));
        while unpacker.take(&mut out).unwrap() {
            clean(&out);
        }
        clean(&out);
    }
    let found = unpacker.finish(&mut out).unwrap();
    assert_eq!((String::from_utf8(out).unwrap(), found.total()), (expected.clone(), *hits), "{how}");
}

/// Content that has no fields, or none that a mask by field could name: detectors alone look at it.
fn texts() -> Vec<(&'static str, String, String)> {
    let both = |kind, body: &str, masked: &str| (kind, body.to_owned(), masked.to_owned());
    vec![
        both(
            "text/plain",
            "to bob@x.io, 4111 1111 1111 1111; t=ghp_abcdefghijklmnopqrstuvwxyz0123456789\n",
            "to ********, ********; t=********\n",
        ),
        both(
            "text/html",
            "<p title=\"bob&#64;x.io\">&#52;111111111111111 \\u0062ob@x.io &amp; é</p>",
            "<p title=\"********\">******** ******** &amp; é</p>",
        ),
        both("text/yaml", "pin: 4111-1111-1111-1111\nto: [bob@x.io]\n", "pin: ********\nto: [********]\n"),
        both(
            "application/javascript",
            "f(\"bob\\u0040x.io\", 4111111111111111)",
            "f(\"********\", ********)",
        ),
        both(
            "application/octet-stream",
            "GIF\u{1} bob@example.com 4111111111111111 \u{2}",
            "GIF\u{1} ******** ******** \u{2}",
        ),
        both(
            "application/problem+json",
            "[\"bob\\u0040x.io\",4111111111111111]",
            "[\"********\",\"********\"]",
        ),
        both("application/json-seq", "\u{1e}[\"bob@x.io\"]\n\u{1e}1\n", "\u{1e}[\"********\"]\n\u{1e}1\n"),
        both("text/csv", "a,b\nbob@x.io,\"4111 1111 1111 1111\"\n", "a,b\n********,\"********\"\n"),
        both(
            "application/x-www-form-urlencoded",
            "a=bob%40x.io&c=4111+1111+1111+1111",
            "a=********&c=********",
        ),
        both("image/svg+xml", "<a b='bob&#64;x.io'>4111111111111111</a>", "<a b='********'>********</a>"),
        both(
            "text/event-stream",
            ": hi\n\ndata: to bob@x.io\n\ndata: [\"bob@x.io\"]\n\n",
            ": hi\n\ndata: to ********\n\ndata: [\"********\"]\n\n",
        ),
    ]
}

/// Content types, bodies, and what becomes of them under a mask by field.
fn samples() -> Vec<(&'static str, String, String)> {
    let both = |kind, body: &str, masked: &str| (kind, body.to_owned(), masked.to_owned());
    vec![
        both(
            "application/json",
            "{\"pin\":1,\"x\":\"4111111111111111\",\"é\":[1]}",
            "{\"pin\":\"********\",\"x\":\"********\",\"é\":[1]}",
        ),
        both(
            "application/x-ndjson",
            "{\"pin\":\"a\"}\n{\"c\":4111111111111111}\n",
            "{\"pin\":\"********\"}\n{\"c\":\"********\"}\n",
        ),
        both(
            "application/x-www-form-urlencoded",
            "a=b%20c&pin=1234&user%5Bpin%5D=%31&c=4111+1111+1111+1111&PIN=x",
            "a=b%20c&pin=********&user%5Bpin%5D=********&c=********&PIN=********",
        ),
        both(
            "multipart/form-data; boundary=XyZ",
            "--XyZ\r\nContent-Disposition: form-data; name=\"pin\"\r\n\r\n1234\r\n--XyZ\r\nContent-Disposition: form-data; \
             name=\"note\"\r\n\r\nmail bob@x.io\r\n--XyZ\r\nContent-Disposition: form-data; name=\"f\"; \
             filename=\"bob@x.io.json\"\r\nContent-Type: application/json\r\n\r\n{\"pin\":1}\r\n--XyZ--\r\n",
            "--XyZ\r\nContent-Disposition: form-data; name=\"pin\"\r\n\r\n********\r\n--XyZ\r\nContent-Disposition: form-data; \
             name=\"note\"\r\n\r\nmail ********\r\n--XyZ\r\nContent-Disposition: form-data; name=\"f\"; \
             filename=\"********\"\r\nContent-Type: application/json\r\n\r\n{\"pin\":\"********\"}\r\n--XyZ--\r\n",
        ),
        both(
            "text/csv",
            "name,Pin,note\r\nZoë,12,\"say \"\"hi\"\" to bob@x.io\"\r\n\"a,\nb\",\"3\"\"4\",4111111111111111\r\n",
            "name,Pin,note\r\nZoë,********,\"say \"\"hi\"\" to ********\"\r\n\"a,\nb\",\"********\",********\r\n",
        ),
        both("text/tab-separated-values", "pin\tx\n1\tb\n\t2\n", "pin\tx\n********\tb\n\t2\n"),
        both("text/csv", "id;pin\n1;2,5\n", "id;pin\n1;********\n"),
        both(
            "application/xml",
            "<?xml version=\"1.0\"?><!DOCTYPE r><r a=\"bob&#64;x.io\" p:pin='1&lt;'><p:pin x=\"1\">se<b>c</b>ret</p:pin><!-- bob@x.io \
             --><c><![CDATA[4111111111111111]]></c>é &#52;111111111111111<pin/></r>",
            "<?xml version=\"1.0\"?><!DOCTYPE r><r a=\"********\" p:pin='********'><p:pin x=\"1\">********</p:pin><!-- ******** \
             --><c><![CDATA[********]]></c>é ********<pin/></r>",
        ),
        both(
            "text/event-stream",
            ": hi\n\nevent: m\ndata: {\"pin\":1}\n\ndata: {\"x\":\ndata: \"bob@x.io\"}\nid: 4111111111111111\n\ndata: [DONE]\n\n",
            ": hi\n\nevent: m\ndata: {\"pin\":\"********\"}\n\ndata: {\"x\":\ndata: \"********\"}\nid: ********\n\ndata: [DONE]\n\n",
        ),
    ]
}

#[test]
fn every_kind_of_content_is_masked_the_same_in_any_coding_encoding_and_split() {
    everywhere(&fields(), &samples());
}

#[test]
fn every_kind_of_text_is_searched_the_same_in_any_coding_encoding_and_split() {
    everywhere(&all_detectors(Style::Stars), &texts());
}

fn everywhere(plan: &Plan, samples: &[(&str, String, String)]) {
    for (kind, body, masked) in samples {
        for charset in ["utf-8", "utf-16le", "utf-16", "iso-8859-1", "windows-1252", "shift_jis", "gbk"] {
            // Their parts, or nobody, say how their characters are coded.
            let bare = kind.starts_with("multipart") || *kind == "application/octet-stream";
            let Some(text) = written(charset, body).filter(|_| !bare || charset == "utf-8") else {
                continue;
            };
            let named = if bare { (*kind).to_owned() } else { format!("{kind}; charset={charset}") };
            let expected = if charset == "utf-16" { format!("\u{feff}{masked}") } else { masked.clone() };
            for coding in ["identity", "gzip", "deflate", "br", "zstd", "gzip, br"] {
                let coded = coding.split(", ").fold(text.clone(), |text, coding| encode(coding, &text));
                let packing = Packing::new(Some(&named), [coding.as_bytes()]);
                let what = format!("{named} in {coding}");
                let whole = unpack(plan, &packing, [&coded[..]]).unwrap();
                assert_eq!(whole.0, expected, "{what}");
                for secret in [CARD, "bob@", "secret", "1234"] {
                    assert!(!whole.0.contains(secret), "{what}: {}", whole.0);
                }
                for cut in 0..=coded.len() {
                    let cuts = [&coded[..cut], &coded[cut..]];
                    unpack_watched(plan, &packing, cuts, &whole, &format_args!("{what} cut at {cut}"));
                }
                unpack_watched(plan, &packing, coded.chunks(1), &whole, &format_args!("{what} byte by byte"));
                if coding == "identity" && charset == "utf-8" {
                    two_cuts(plan, &packing, &coded, &whole, &what);
                }
                assert_eq!(packing.renamed().is_some(), charset != "utf-8" && !bare, "{what}");
            }
        }
    }
}

/// Two cuts at every pair of places that lie within the longest value of a sample of each other.
fn two_cuts(plan: &Plan, packing: &Packing, body: &[u8], whole: &(String, u64), what: &str) {
    const APART_MAX: usize = 48;
    for first in 0..=body.len() {
        for second in first + 1..=body.len().min(first + APART_MAX) {
            let cuts = [&body[..first], &body[first..second], &body[second..]];
            unpack_watched(plan, packing, cuts, whole, &format_args!("{what} cut at {first} and {second}"));
        }
    }
}

#[test]
fn what_has_two_readings_or_none_is_refused_under_a_mask_by_field() {
    let plan = fields();
    let deep = "<a>".repeat(600);
    for (kind, body) in [
        ("application/x-www-form-urlencoded", "%FF=1"),
        ("multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1234"),
        ("multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n--b"),
        ("multipart/form-data; boundary=b", "--b\r\nno colon\r\n\r\n1\r\n--b--"),
        ("multipart/form-data; boundary=b", "--b\r\nContent-Transfer-Encoding: base64\r\n\r\nMQ==\r\n--b--"),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n--b--",
        ),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=a; name=pin\r\n\r\n1\r\n--b--",
        ),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\nany\r\n--b--",
        ),
        ("multipart/form-data; boundary=b", "preamble --b--"),
        ("multipart/form-data; boundary=b", "--b--after"),
        ("multipart/form-data", "--b--"),
        ("text/csv", "a,pin\n1,2,3\n"),
        ("text/csv", "id|uuid,pin\n7|a,1\n"),
        ("text/csv", "sep=,\na,pin\n1,2\n"),
        ("text/csv; header=absent", "a,pin\n1,2\n"),
        ("text/tab-separated-values", "a,pin\n1,2\n"),
        ("application/x-www-form-urlencoded, text/csv", "a,pin\n1,2\n"),
        ("multipart/form-data; boundary=b; boundary=c", "--b--"),
        ("application/json; charset=utf-16le", "{\"pin\": 1234}"),
        ("text/csv", "a,pin\n1\"2\",3\n"),
        ("text/csv", "a,pin\n\"1\"2,3\n"),
        ("text/csv", "a,pin\n\"1,2"),
        ("text/csv", "a,pin\r1,2\r"),
        ("application/xml", "<!DOCTYPE r [<!ENTITY e 'x'>]><r/>"),
        ("application/xml", "<a><pin>1</a></pin>"),
        ("application/xml", "<a><pin>1"),
        ("application/xml", "<a pin=1/>"),
        ("application/xml", "<?xml version='1.0' encoding='utf-7'?><a/>"),
        ("application/xml", &deep),
        ("text/event-stream", "data: plain\n\n"),
        ("text/event-stream", "data: {\"pin\":\n\n"),
        ("text/plain", "pin: 1"),
        ("application/json; charset=utf-7", "{}"),
        ("application/json; charset=utf-8; charset=utf-16le", "{}"),
        ("text/csv; charset=shift_jis", "a\n\u{1}"),
    ] {
        let packing = Packing::new(Some(kind), []);
        let whole = unpack(&plan, &packing, [body.as_bytes()]);
        let single = unpack(&plan, &packing, body.as_bytes().chunks(1));
        if kind.contains("shift_jis") {
            assert!(whole.is_ok());
            continue;
        }
        assert!(whole.is_err() && single.is_err(), "{kind}: {body} became {whole:?}");
        assert_eq!(unpack(&plan, &packing, []).unwrap(), (String::new(), 0), "no byte is fine: {kind}");
    }
}

#[test]
fn a_mask_by_json_path_is_not_honoured_elsewhere_so_it_refuses() {
    let plan = Plan::new(&[mask("m", &[], &["$.pin"], &[], Style::Stars)]);
    for kind in ["application/x-www-form-urlencoded", "text/csv", "application/xml"] {
        let packing = Packing::new(Some(kind), []);
        assert_eq!(unpack(&plan, &packing, [&b"pin=1"[..]]), Err(MaskError::NoFields), "{kind}");
        // Many clients send JSON under any name.
        let (shown, _) = unpack(&plan, &packing, [&b"{\"pin\":1}"[..]]).unwrap();
        assert_eq!(shown, "{\"pin\":\"********\"}", "{kind}");
    }
}

fn chat(pieces: &[&str]) -> String {
    let event = |piece: &&str| {
        format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": piece}}]}))
    };
    let end =
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    pieces.iter().map(event).collect::<String>() + end
}

/// The text that a reader of the stream puts together.
fn together(stream: &str, pointer: &str) -> String {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let values = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    values.filter_map(|value| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)).collect()
}

#[test]
fn a_secret_spread_over_the_pieces_of_a_models_answer_is_hidden() {
    let plan = all_detectors(Style::Stars);
    let packing = Packing::new(Some("text/event-stream"), []);
    for pieces in [
        &["My card is 41", "11 1111 ", "1111 11", "11, ok"][..],
        &["write to bob", "@", "example", ".com", " now"],
        &["b", "o", "b", "@", "x", ".", "i", "o"],
        &["no secret", " here at", " all"],
        &["key ghp_abcdefghij", "klmnopqrstuvwxyz", "0123456789"],
        &["-----BEGIN PRIVATE KEY-----\n", "QUJD\n", "REVG\n", "-----END PRIVATE KEY-----", "\nbye"],
    ] {
        let stream = chat(pieces);
        let (shown, _) = unpack(&plan, &packing, [stream.as_bytes()]).unwrap();
        let expected = text_of(&plan, &pieces.concat());
        assert_eq!(together(&shown, "/choices/0/delta/content"), expected);
        assert_eq!(shown.matches("data: ").count(), pieces.len() + 2, "no event is lost: {shown}");
        assert_eq!(unpack(&plan, &packing, stream.as_bytes().chunks(1)).unwrap().0, shown);
        if !expected.contains('*') {
            assert_eq!(shown, stream, "what hides nothing keeps its bytes");
        }
    }
}

#[test]
fn the_streams_of_every_known_model_api_are_put_together() {
    let plan = all_detectors(Style::Stars);
    let packing = Packing::new(Some("text/event-stream"), []);
    let parts = ["mail bob@ex", "ample.com please"];
    for (pointer, event) in [
        (
            "/delta/text",
            (|p| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}}))
                as fn(&str) -> Value,
        ),
        (
            "/delta/partial_json",
            |p| json!({"type": "content_block_delta", "index": 1, "delta": {"partial_json": p}}),
        ),
        ("/delta", |p| json!({"type": "response.output_text.delta", "item_id": "a", "delta": p})),
        ("/choices/0/text", |p| json!({"choices": [{"index": 0, "text": p}]})),
        (
            "/choices/0/delta/tool_calls/0/function/arguments",
            |p| json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": p}}]}}]}),
        ),
        (
            "/candidates/0/content/parts/0/text",
            |p| json!({"candidates": [{"content": {"parts": [{"text": p}]}}]}),
        ),
    ] {
        let stream: String =
            parts.iter().map(|part| format!("event: x\ndata: {}\n\n", event(part))).collect();
        let (shown, hits) = unpack(&plan, &packing, [stream.as_bytes()]).unwrap();
        assert_eq!(together(&shown, pointer), "mail ******** please", "{pointer}");
        assert_eq!(hits, 1, "{pointer}");
    }
}

#[test]
fn an_event_waits_only_for_what_is_undecided_and_a_text_that_went_quiet_has_ended() {
    let plan = all_detectors(Style::Stars);
    let mut unpacker = plan.unpack(&Packing::new(Some("text/event-stream"), []));
    let mut out = Vec::new();
    let mut give = |text: &str, out: &mut Vec<u8>| {
        unpacker.give(Bytes::copy_from_slice(text.as_bytes()));
        while unpacker.take(out).unwrap() {}
    };
    let piece = |text: &str| format!("data: {}\n\n", json!({"delta": {"text": text}, "index": 0}));
    give(&piece("Hello there,\n"), &mut out);
    assert!(String::from_utf8_lossy(&out).contains("Hello"), "what is decided goes on at once");
    out.clear();
    give(&piece("bob"), &mut out);
    assert!(out.is_empty(), "this may become an address");
    give(": still here\n\n", &mut out);
    assert_eq!(out, b": still here\n\n", "a comment does not wait");
    for n in 0..40 {
        give(&format!("data: {{\"n\":{n}}}\n\n"), &mut out);
    }
    assert!(String::from_utf8_lossy(&out).contains("bob"), "nothing was added for a while");
}

#[test]
fn text_that_calls_itself_utf_16_is_refused_and_not_read_past() {
    let plan = all_detectors(Style::Stars);
    for name in ["utf-16le", "utf-16be"] {
        let packing = Packing::new(Some(&format!("text/plain; charset={name}")), []);
        for text in ["4111 1111 1111 1111", &"write to bob@example.com. ".repeat(400)] {
            assert!(unpack(&plan, &packing, [text.as_bytes()]).is_err(), "{name}");
            assert!(unpack(&plan, &packing, text.as_bytes().chunks(1)).is_err(), "{name}");
        }
        let bytes = |text: &str| -> Vec<u8> {
            let wide = text.encode_utf16();
            wide.flat_map(if name == "utf-16le" { u16::to_le_bytes } else { u16::to_be_bytes }).collect()
        };
        let long = format!("{} bob@example.com", "\u{6f6e}\u{9580}".repeat(400));
        let (shown, hits) = unpack(&plan, &packing, bytes(&long).chunks(3)).unwrap();
        assert_eq!((shown.ends_with(" ********"), hits), (true, 1), "what is UTF-16 is read");
    }
}

#[test]
fn a_part_that_is_read_in_another_encoding_is_relabelled() {
    let plan = fields();
    let packing = Packing::new(Some("multipart/form-data; boundary=b"), []);
    let body = b"--b\r\nContent-Disposition: form-data; name=f; filename=x\r\nContent-Type: text/csv; charset=iso-8859-1\r\n\r\n\
                 a,pin\nzo\xEB,1234\n\r\n--b--";
    let (shown, _) = unpack(&plan, &packing, [&body[..]]).unwrap();
    assert!(
        shown.contains("Content-Type: text/csv; charset=utf-8\r\n\r\na,pin\nzo\u{eb},********\n"),
        "{shown}"
    );
}

#[test]
fn many_short_events_and_events_with_many_texts_are_no_burden() {
    let plan = all_detectors(Style::Stars);
    let packing = Packing::new(Some("text/event-stream"), []);
    let blank = "\n".repeat(1024 * 1024);
    assert_eq!(unpack(&plan, &packing, [blank.as_bytes()]).unwrap(), (blank, 0));
    let choices = |count: usize| {
        let choices: Vec<Value> = (0..count).map(|n| json!({"index": n, "text": "x"})).collect();
        format!("data: {}\n\n", json!({ "choices": choices }))
    };
    assert!(unpack(&plan, &packing, [choices(256).as_bytes()]).is_ok());
    let refused = unpack(&plan, &packing, [choices(20_000).as_bytes()]);
    assert!(matches!(refused, Err(MaskError::Unreadable { kind: "an event stream", .. })), "{refused:?}");
    // Many events that wait for one another: each is looked at once.
    let key = format!("data: {}\n\n", json!({"delta": {"text": "-----BEGIN PRIVATE KEY-----\n"}}));
    let waiting = key + &format!("data: {}\n\n", json!({"delta": {"text": "A"}})).repeat(20_000);
    assert!(unpack(&plan, &packing, [waiting.as_bytes()]).is_ok());
}

#[test]
fn events_that_wait_are_bounded() {
    let plan = all_detectors(Style::Stars);
    let mut unpacker = plan.unpack(&Packing::new(Some("text/event-stream"), []));
    let padding = "x".repeat(2000);
    let key = format!("data: {}\n\n", json!({"delta": {"text": "-----BEGIN PRIVATE KEY-----\n"}}));
    let more = format!("data: {}\n\n", json!({"delta": {"text": "A"}, "padding": padding}));
    let (mut out, mut given) = (Vec::new(), 0);
    let refused = std::iter::once(&key).chain(std::iter::repeat(&more)).find_map(|event| {
        given += event.len();
        assert!(given < 8 * 1024 * 1024, "it must end");
        unpacker.give(Bytes::copy_from_slice(event.as_bytes()));
        loop {
            match unpacker.take(&mut out) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(error),
            }
        }
    });
    assert!(matches!(refused, Some(MaskError::Unreadable { kind: "an event stream", .. })), "{refused:?}");
    let long = format!("data: {}", "x".repeat(2 * 1024 * 1024));
    assert!(unpack(&plan, &Packing::new(Some("text/event-stream"), []), [long.as_bytes()]).is_err());
}

#[test]
fn a_bomb_a_truncated_stream_and_an_unknown_coding_are_refused_and_nothing_unclean_came_out() {
    let plan = fields();
    let bomb = encode("gzip", format!("[{}]", " ".repeat(64 * 1024 * 1024)).as_bytes());
    let json = |coding: &str| Packing::new(Some("application/json"), [coding.as_bytes()]);
    assert!(matches!(unpack(&plan, &json("gzip"), [&bomb[..]]), Err(MaskError::Decoding(_))));
    let coded = encode("br", format!("{{\"pin\":\"{CARD}\"}}").as_bytes());
    assert!(matches!(
        unpack(&plan, &json("br"), [&coded[..coded.len() - 2]]),
        Err(MaskError::Decoding(_) | MaskError::Truncated { .. })
    ));
    assert!(matches!(unpack(&plan, &json("compress"), [&coded[..]]), Err(MaskError::Coding(_))));
    let deep = encode("zstd", "[".repeat(10_000).as_bytes());
    assert!(matches!(
        unpack(&plan, &json("zstd"), [&deep[..]]),
        Err(MaskError::TooDeep { .. } | MaskError::Decoding(_))
    ));
}

#[test]
fn a_header_is_hidden_whole_by_its_name_and_by_no_other() {
    let mut named = (*mask("h", &[], &[], &[], Style::KeepLast4)).clone();
    named.headers = vec!["x-customer-card".to_owned()];
    let plan = Plan::new(&[Arc::new(named)]);
    assert!(plan.has_headers() && plan.is_empty(), "it has no body to mask");
    let (shown, hits) = plan.header("X-Customer-Card", CARD.as_bytes()).unwrap();
    assert_eq!((shown.as_slice(), hits.total()), (&b"********1111"[..], 1));
    assert!(plan.header("x-customer", CARD.as_bytes()).is_none());
}
