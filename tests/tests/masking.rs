//! What a mask or a detector finds is hidden from the client and from everything the gate writes, however the upstream
//! cuts its answer; everything else passes byte for byte.

use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tidegate::record::entry::Side;
use tidegate_tests::recorded::{fault, status};
use tidegate_tests::{Answer, Client, Gate, Host, Response, Upstream};

const CARD: &str = "4111 1111 1111 1111";
const EMAIL: &str = "grace.hopper@navy.example";
const SSN: &str = "219-09-9999";

/// Joined at run time, so that no scanner of this repository takes them for real.
fn api_key() -> String {
    ["AKIA", "Z7Q4XJ5N2PLW8RTB"].concat()
}

fn jwt() -> String {
    ["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0NTY3ODkwIn0", "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"]
        .join(".")
}

fn private_key() -> String {
    format!(
        "-----BEGIN {0}-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nq1w2e3r4t5y6u7i8\n-----END {0}-----",
        "PRIVATE KEY"
    )
}

fn secrets() -> Vec<String> {
    vec![
        CARD.into(),
        EMAIL.into(),
        SSN.into(),
        api_key(),
        jwt(),
        "q1w2e3r4t5y6u7i8".into(),
        "hunter2-hunter2".into(),
    ]
}

fn document() -> String {
    let pem = private_key().replace('\n', "\\n");
    format!(
        "{{ \"card\" : \"{CARD}\",\n\t\"mail\":\"write to {EMAIL}, please\", \"ssn\": \"{SSN}\", \"key\":\"{}\",\n \
         \"auth\":\"Bearer {}\", \"pem\":\"{pem}\", \"customer\":{{\"password\":\"hunter2-hunter2\",\"name\":\"Zoë \\u00e9 \\\"q\\\"\"}}, \
         \"numbers\":[1, 2.50, -3e+7, true, null], \"empty\":\"\" }}\n",
        api_key(),
        jwt()
    )
}

struct World {
    host: Host,
    gate: Gate,
    next_port: AtomicU16,
}

const FIRST_PORT: u16 = 21_001;
const PORTS: u16 = 60;
const METRICS: u16 = 9464;

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let host = Host::new();
    let ports: Vec<String> = (FIRST_PORT..FIRST_PORT + PORTS).map(|port| port.to_string()).collect();
    let nouns = format!(
        r#"
        [[target]]
        name = "crm"
        direction = "outbound"
        addresses = ["127.0.0.1"]
        ports = [{}]

        [[target]]
        name = "plain"
        direction = "outbound"
        addresses = ["127.0.0.1"]
        ports = [22001, 22002, 22003]

        [[role]]
        name = "privacy-officer"
        uids = [1700]

        [[mask]]
        name = "personal"
        targets = ["crm"]
        find = ["card", "email", "us-ssn", "api-key", "jwt", "private-key"]

        [[mask]]
        name = "passwords"
        targets = ["crm"]
        fields = ["password", "$.deep[*].secret"]
        "#,
        ports.join(", ")
    );
    let rules = r#"
        permit (principal, action == Action::"http", resource == Target::"crm");
        permit (principal, action == Action::"http", resource == Target::"plain");
        permit (principal in Role::"privacy-officer", action == Action::"reveal", resource == Mask::"personal");
    "#;
    let gate = Gate::on(&host)
        .policy("a.toml", &nouns)
        .policy("a.cedar", rules)
        .option(&format!("--metrics-port={METRICS}"))
        .start();
    World { host, gate, next_port: AtomicU16::new(FIRST_PORT) }
});

fn upstream() -> Upstream {
    let port = WORLD.next_port.fetch_add(1, Ordering::Relaxed);
    assert!(port < FIRST_PORT + PORTS, "declare more ports");
    Upstream::start(&WORLD.host.client(), &format!("127.0.0.1:{port}"))
}

fn get(upstream: &Upstream, path: &str) -> Response {
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    client.get(&upstream.address().to_string(), path).unwrap()
}

fn unique(name: &str) -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!("/{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn json_head() -> [(&'static str, &'static str); 1] {
    [("Content-Type", "application/json")]
}

/// The document in chunks of this size.
fn chunked(document: &str, size: usize) -> Answer {
    let chunks = document.as_bytes().chunks(size);
    chunks.fold(Answer::chunked(200, &json_head()), Answer::chunk).last_chunk(&[])
}

fn assert_clean(what: &str, text: &str) {
    for secret in secrets() {
        assert!(!text.contains(&secret), "{what} holds {secret}:\n{text}");
    }
    assert!(!text.contains("4111111111111111"), "{what}:\n{text}");
}

#[test]
fn everything_that_a_mask_names_is_hidden_and_every_other_byte_is_kept() {
    let upstream = upstream();
    upstream.next(Answer::json(document()));
    let response = get(&upstream, "/all");
    assert_eq!(response.status, 200);
    let text = response.text();
    assert_clean("the answer", &text);
    let value: serde_json::Value = response.json();
    assert_eq!(value["customer"]["name"], "Zoë é \"q\"");
    assert!(text.contains("\"numbers\":[1, 2.50, -3e+7, true, null], \"empty\":\"\" }\n"), "{text}");
    assert!(text.contains("Zoë \\u00e9 \\\"q\\\""), "escapes are kept as they were: {text}");
    assert!(text.starts_with("{ \"card\" : \"") && text.contains(",\n\t\"mail\":\"write to "), "{text}");
}

#[test]
fn no_cut_of_the_answer_lets_a_masked_value_through_or_changes_the_result() {
    let upstream = upstream();
    upstream.next(Answer::json(document()));
    let whole = get(&upstream, "/whole").text();
    let document = document();
    for size in [1, 2, 3, 5, 7, 16, 31, 64, 127] {
        upstream.next(chunked(&document, size));
        assert_eq!(get(&upstream, "/cut").text(), whole, "chunks of {size} bytes");
    }
    // One cut, and time for the first half to arrive alone, at places inside each value and inside escapes.
    for needle in [CARD, EMAIL, SSN, &api_key(), &jwt(), "BEGIN", "hunter2", "\\u00e9", "\\n"] {
        let at = document.find(needle).unwrap() + needle.len() / 2;
        let (front, back) = document.as_bytes().split_at(at);
        upstream.next(
            Answer::chunked(200, &json_head())
                .chunk(front)
                .pause(Duration::from_millis(50))
                .chunk(back)
                .last_chunk(&[]),
        );
        assert_eq!(get(&upstream, "/halves").text(), whole, "cut inside {needle}");
    }
}

#[test]
fn an_escape_hides_nothing() {
    let upstream = upstream();
    for body in [
        r#"{"c":"\u0034111 1111 1111 1111"}"#,
        r#"{"c":"4111\u00201111\u00201111\u00201111"}"#,
        r#"{"c":"\u0034\u0031\u0031\u0031111111111111"}"#,
        r#"{"c":"4111-1111-1111-1111"}"#,
        r#"{"c":4111111111111111}"#,
        r#"{"m":"grace.hopper\u0040navy.example"}"#,
        r#"{"m":"grace\u002ehopper@navy.example"}"#,
        r#"{"customer":{"pass\u0077ord":"hunter2-hunter2"}}"#,
        r#"{"customer":{"PASSWORD":"hunter2-hunter2"}}"#,
        r#"{"customer":{"password":["hunter2-hunter2",{"x":"hunter2-hunter2"}]}}"#,
        r#"{"deep":[{"secret":"hunter2-hunter2"},{"secret":{"a":"hunter2-hunter2"}}]}"#,
        "{\"4111 1111 1111 1111\":1}",
    ] {
        for size in [1, 4096] {
            upstream.next(chunked(body, size));
            let text = get(&upstream, "/escaped").text();
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{body} became {text}");
            let read = serde_json::from_str::<serde_json::Value>(&text).unwrap().to_string();
            for secret in ["4111", "1111 1111", "navy.example", "hunter2"] {
                assert!(!read.contains(secret) && !text.contains(secret), "{body} became {text}");
            }
        }
    }
}

#[test]
fn what_only_looks_like_a_secret_is_left_alone() {
    let upstream = upstream();
    for body in [
        r#"{"order":"4111 1111 1111 1112"}"#,
        r#"{"at":"not an @ address"}"#,
        r#"{"phone":"000-00-0000"}"#,
        r#"{"passwords":2,"wordpass":"x"}"#,
        r#"[]"#,
        r#""just text""#,
    ] {
        upstream.next(Answer::json(body));
        assert_eq!(get(&upstream, "/honest").text(), body);
    }
}

#[test]
fn lengths_and_validators_are_right_after_masking() {
    let upstream = upstream();
    let body = format!("{{\"mail\":\"{EMAIL}\"}}");
    upstream.next(Answer::new(
        200,
        &[("Content-Type", "application/json"), ("ETag", "\"v1\""), ("Content-MD5", "x")],
        &body,
    ));
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    let host = upstream.address().to_string();
    let response = client.get(&host, "/length").unwrap();
    match response.header("content-length") {
        Some(length) => assert_eq!(length.parse::<usize>().unwrap(), response.body.len()),
        None => assert!(!response.chunks.is_empty(), "{:?}", response.headers),
    }
    assert_eq!((response.header("etag"), response.header("content-md5")), (None, None));
    assert_eq!(client.get(&host, "/next").unwrap().status, 200, "the next answer is where it should be");
    let head = client.ask(format!("HEAD /length HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    assert_eq!(head.header("content-length"), None, "the masked length is not known");
}

#[test]
fn what_will_be_masked_is_asked_for_whole_and_in_codings_that_can_be_undone() {
    let upstream = upstream();
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    let host = upstream.address();
    let request = format!(
        "GET /z HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: gzip, br, compress\r\nIf-None-Match: \"v1\"\r\nRange: bytes=0-3\r\n\r\n"
    );
    assert_eq!(client.ask(request).unwrap().status, 200);
    let got = &upstream.requests()[0];
    assert_eq!((got.header("accept-encoding"), got.header("range")), (Some("gzip, br"), None));
    assert_eq!(got.header("if-none-match"), None, "no validator that a client has is of a masked answer");
}

#[test]
fn an_answer_that_cannot_be_read_is_refused_before_its_first_byte() {
    let upstream = upstream();
    for (what, answer) in [
        (
            "compressed",
            Answer::new(
                200,
                &[("Content-Type", "application/json"), ("Content-Encoding", "gzip")],
                b"\x1f\x8b\x08\0",
            ),
        ),
        (
            "compressed twice",
            Answer::new(
                200,
                &[("Content-Type", "application/json"), ("Content-Encoding", "br, compress")],
                b"xx",
            ),
        ),
        (
            "a part",
            Answer::new(
                206,
                &[("Content-Type", "application/json"), ("Content-Range", "bytes 0-1/9")],
                b"\"4",
            ),
        ),
    ] {
        let path = unique("unreadable");
        upstream.next(answer);
        let response = get(&upstream, &path);
        assert_eq!(response.status, 502, "{what}");
        let entry = WORLD.gate.entry_of(&path);
        assert_eq!((fault(&entry), status(&entry)), ("upstream", Some(502)), "{what}");
    }
}

#[test]
fn an_answer_that_turns_out_not_to_be_json_is_broken_off_and_leaks_nothing() {
    let upstream = upstream();
    for body in [
        format!("{{\"a\":1}} {{\"card\":\"{CARD}\""),
        format!("{{\"a\":1, card: '{CARD}'}}"),
        format!("<html>{CARD} {EMAIL}</html>"),
        format!("{{\"a\":\"{EMAIL}"),
        "[".repeat(100_000) + CARD,
    ] {
        let path = unique("nonsense");
        upstream.next(Answer::json(&body));
        let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
        client
            .send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", upstream.address()))
            .unwrap();
        let all = String::from_utf8_lossy(&client.to_end().unwrap_or_default()).into_owned();
        assert_clean("the broken answer", &all);
        assert!(!all.ends_with("\r\n0\r\n\r\n") || all.starts_with("HTTP/1.1 502"), "it looks whole: {all}");
        assert_eq!(fault(&WORLD.gate.entry_of(&path)), "upstream", "{body:.60}");
    }
}

#[test]
fn a_stream_of_text_is_masked_by_detectors_too() {
    let upstream = upstream();
    let answer = Answer::chunked(200, &[("Content-Type", "text/plain")])
        .chunk(format!("mail {}", &EMAIL[..8]))
        .pause(Duration::from_millis(50))
        .chunk(format!("{} and card {CARD}.\n", &EMAIL[8..]))
        .last_chunk(&[]);
    upstream.next(answer);
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    // The target also has a mask by key name, which a text cannot honour: refused or broken off, never passed blindly.
    let response = client.get(&upstream.address().to_string(), "/text");
    if let Ok(response) = response {
        assert_clean("the text", &response.text());
    }
}

#[test]
fn who_may_reveal_a_mask_sees_it_in_clear_and_the_record_does_not() {
    let upstream = upstream();
    let path = unique("reveal");
    upstream.next(Answer::json(document()));
    let mut officer: Client = WORLD.host.client().uid(1700).connect(upstream.address()).unwrap();
    let text = officer.get(&upstream.address().to_string(), &path).unwrap().text();
    assert!(text.contains(CARD) && text.contains(EMAIL), "{text}");
    assert!(!text.contains("hunter2"), "the other mask stays: {text}");
    let entry = WORLD.gate.entry_of(&path);
    assert_clean("the record", &WORLD.gate.recorded_body(&entry, Side::Response));
}

#[test]
fn each_mask_that_fired_is_counted_by_name() {
    let upstream = upstream();
    let path = unique("counted");
    upstream.next(Answer::json(format!("[\"{EMAIL}\", \"{EMAIL}\", {{\"password\":\"x\"}}]")));
    assert_eq!(get(&upstream, &path).status, 200);
    let closed = WORLD.gate.entry_of(&path).closed.unwrap();
    let count = |name: &str| closed.masks.iter().find(|(known, _)| known == name).map(|(_, count)| *count);
    assert_eq!((count("personal"), count("passwords")), (Some(2), Some(1)), "{:?}", closed.masks);
    assert_eq!(closed.response.masked, 3);
    let metrics = WORLD.gate.admin("GET", "/metrics", "").text();
    assert!(metrics.contains("tidegate_found_values_total{detector=\"email\",target=\"crm\"} "), "{metrics}");
}

#[test]
fn nothing_masked_stands_in_the_state_directory_the_log_the_metrics_or_what_is_shown() {
    let upstream = upstream();
    // In answers, in requests, in paths, queries and headers; also where no mask applies.
    upstream.next(Answer::json(document()));
    let _ = get(&upstream, "/grep-answer");
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    let (host, body) = (upstream.address(), document());
    let key = api_key();
    let request = format!(
        "POST /grep-request/{EMAIL}?card=4111111111111111&key={key} HTTP/1.1\r\nHost: {host}\r\nX-Mail: {EMAIL}\r\n\
         X-Api-Key: hunter2-hunter2\r\nCookie: sid=hunter2-hunter2\r\nAuthorization: Bearer {}\r\nX-Jwt: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        jwt(),
        jwt(),
        body.len()
    );
    let answered = client.ask(request).unwrap();
    assert_eq!(answered.status, 200, "{}", answered.text());
    let unmasked = Upstream::start(&WORLD.host.client(), "127.0.0.1:22001");
    let plain = document().replace("hunter2-hunter2", "no secret");
    unmasked.next(Answer::json(&plain));
    assert_eq!(get(&unmasked, "/grep-unmasked").text(), plain, "no mask, no change");
    let refused =
        format!("GET /grep-bad?card=4111111111111111 HTTP/1.1\r\nHost: {host}\r\nX-Mail : {EMAIL}\r\n\r\n");
    assert_eq!(WORLD.host.client().connect(host).unwrap().ask(refused).unwrap().status, 400);

    let sessions: Vec<_> = WORLD.gate.sessions();
    let mut shown = String::new();
    for session in sessions.iter().filter(|session| format!("{:?}", session.entries).contains("/grep-")) {
        let id = session.summary.opened.session.to_string();
        shown += &WORLD.gate.tidegate(&["--json", "sessions", "show", "--bodies", &id]).success().text();
        shown += &WORLD.gate.tidegate(&["sessions", "show", "--bodies", &id]).success().text();
    }
    assert!(
        shown.contains("/grep-answer") && shown.contains("/grep-request") && shown.contains("numbers"),
        "{shown}"
    );
    assert_clean("sessions show", &shown);
    assert_clean("sessions list", &WORLD.gate.tidegate(&["--json", "sessions", "list"]).success().text());
    assert_clean("the log", &WORLD.gate.log());
    assert_clean("the metrics", &WORLD.gate.admin("GET", "/metrics", "").text());
    let port = WORLD.host.client().curl(&[&format!("http://127.0.0.1:{METRICS}/metrics")]);
    assert_clean("the metrics port", &port.body);
    assert!(port.body.contains("tidegate_"), "{}", port.body);
    for secret in secrets() {
        grep(&WORLD.gate.state(), secret.as_bytes());
    }
    grep(&WORLD.gate.state(), b"4111111111111111");
}

/// Fails if any file below holds these bytes, also in the record's compressed parts, which [`Gate::sessions`] reads.
fn grep(folder: &Path, sought: &[u8]) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            grep(&path, sought);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(sought.len()).any(|window| window == sought);
            assert!(!found, "{} holds {}", path.display(), String::from_utf8_lossy(sought));
        }
    }
}

#[test]
fn compressed_parts_of_the_record_hold_nothing_masked_either() {
    let upstream = upstream();
    let path = unique("bodies");
    upstream.next(Answer::json(document()));
    let _ = get(&upstream, &path);
    let entry = WORLD.gate.entry_of(&path);
    let recorded = WORLD.gate.recorded_body(&entry, Side::Response);
    assert!(recorded.contains("numbers"), "{recorded}");
    assert_clean("the recorded body", &recorded);
    for entry in WORLD.gate.entries() {
        for side in [Side::Request, Side::Response] {
            assert_clean("a recorded body", &WORLD.gate.recorded_body(&entry, side));
        }
        assert_clean("a recorded entry", &format!("{entry:?}"));
    }
}
