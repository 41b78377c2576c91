//! HTTP/1.1 through the gate: what is judged is what is sent, what has two readings is refused, and whatever either side
//! does, it is bounded, answered and recorded, with whose fault it was.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tidegate::record::entry::{Side, Verdict};
use tidegate_tests::recorded::{fault, status};
use tidegate_tests::{Answer, Client, Gate, Host, Response, Upstream, eventually};

/// One host for all of this file: each test takes a port of its own.
struct World {
    host: Host,
    gate: Gate,
    next_port: AtomicU16,
}

const FIRST_PORT: u16 = 20_001;
const PORTS: u16 = 100;

static WORLD: LazyLock<World> = LazyLock::new(World::new);

impl World {
    fn new() -> Self {
        let host = Host::new();
        let ports: Vec<String> = (FIRST_PORT..FIRST_PORT + PORTS).map(|port| port.to_string()).collect();
        let nouns = format!(
            "[[target]]\nname = \"api\"\ndirection = \"outbound\"\naddresses = [\"127.0.0.1\", \"::1\"]\nports = [{}]\n",
            ports.join(", ")
        );
        let rules = r#"
            permit (principal, action == Action::"http", resource == Target::"api");
            @id("no") @message("not that one")
            forbid (principal, action == Action::"http", resource == Target::"api")
            when { context.segments.contains("denied") };
        "#;
        let gate = Gate::on(&host).policy("api.toml", &nouns).policy("api.cedar", rules).start();
        Self { host, gate, next_port: AtomicU16::new(FIRST_PORT) }
    }

    fn upstream(&self) -> Upstream {
        Upstream::start(&self.host.client(), &format!("127.0.0.1:{}", self.port()))
    }

    fn port(&self) -> u16 {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed);
        assert!(port < FIRST_PORT + PORTS, "declare more ports");
        port
    }

    fn connect(&self, to: SocketAddr) -> Client {
        self.host.client().connect(to).expect("the gate takes the connection")
    }
}

/// A new upstream, a connection to it through the gate, and its `Host`.
fn line() -> (Upstream, Client, String) {
    let upstream = WORLD.upstream();
    let client = WORLD.connect(upstream.address());
    let host = upstream.address().to_string();
    (upstream, client, host)
}

/// A path of this test alone, to find its entries by.
fn unique(name: &str) -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!("/{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn is_problem(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    assert_eq!(response.json()["status"], status);
}

#[test]
fn an_allowed_request_reaches_the_upstream_as_it_was_written_and_is_recorded() {
    let (upstream, mut client, host) = line();
    let path = unique("allowed");
    let response = client
        .ask(format!(
            "POST {path}?q=a%20b HTTP/1.1\r\nhOsT: {host}\r\nX-CaSe: Kept\r\nContent-Length: 5\r\n\r\nhello"
        ))
        .unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, r#"{"ok":true}"#));
    let got = &upstream.requests()[0];
    assert_eq!((got.method.as_str(), got.target.as_str()), ("POST", format!("{path}?q=a%20b").as_str()));
    assert!(got.headers.contains(&("X-CaSe".into(), "Kept".into())), "{:?}", got.headers);
    assert!(got.headers.contains(&("hOsT".into(), host)), "{:?}", got.headers);
    assert_eq!(got.body, b"hello");
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!((entry.intent.verdict, status(&entry), fault(&entry)), (Verdict::Allow, Some(200), "nobody"));
    assert_eq!(WORLD.gate.recorded_body(&entry, Side::Request), "hello");
    assert_eq!(WORLD.gate.recorded_body(&entry, Side::Response), r#"{"ok":true}"#);
}

#[test]
fn a_get_with_a_body_of_unknown_length_is_forwarded_with_that_body() {
    let (upstream, mut client, host) = line();
    let path = unique("search");
    let response = client
        .ask(format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(upstream.requests()[0].body, b"query");
    assert_eq!(WORLD.gate.recorded_body(&WORLD.gate.entry_of(&path), Side::Request), "query");
}

#[test]
fn what_the_engine_would_refuse_in_silence_is_refused_and_recorded_by_the_gate() {
    for (what, target, field) in [
        ("a quote in the query", "?q=\"x\"", ""),
        ("a carriage return at a value's end", "", "X-A: b\r\r\n"),
        ("a form feed before a value", "", "X-A: \x0cb\r\n"),
        ("two credentials", "", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"),
    ] {
        let (upstream, mut client, host) = line();
        let path = unique("silent");
        let response =
            client.ask(format!("GET {path}{target} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n")).unwrap();
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "{what}");
        is_problem(&response, 400);
        let entry = WORLD.gate.entry_of(&path);
        assert_eq!((entry.intent.verdict, status(&entry)), (Verdict::Refuse, Some(400)), "{what}");
        assert_eq!(upstream.received(), b"", "{what}");
    }
}

#[test]
fn a_denied_request_sends_no_byte_upstream() {
    let (upstream, mut client, host) = line();
    let path = unique("denied/x");
    let response = client.get(&host, &path).unwrap();
    is_problem(&response, 403);
    assert_eq!(response.json()["detail"], "not that one");
    assert_eq!((upstream.connections(), upstream.received().len()), (0, 0));
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!(response.json()["instance"], format!("urn:uuid:{}", entry.intent.entry));
    assert_eq!((entry.intent.verdict, status(&entry), fault(&entry)), (Verdict::Deny, Some(403), "refused"));
    assert!(entry.intent.rules.iter().any(|rule| rule.ends_with("#no")), "{:?}", entry.intent.rules);
    assert_eq!(client.get(&host, "/after").unwrap().status, 200, "the connection goes on");
}

#[test]
fn a_denied_body_is_read_over_and_never_forwarded() {
    let (upstream, mut client, host) = line();
    let path = unique("denied/body");
    let body = "x".repeat(20_000);
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    is_problem(&client.ask(request).unwrap(), 403);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_refusal_tells_the_client_no_rule_and_no_reason() {
    let (_upstream, mut client, host) = line();
    let text = client.get(&host, &unique("denied/quiet")).unwrap().text();
    assert!(!text.contains("cedar") && !text.contains("#no") && !text.contains("forbid"), "{text}");
}

/// Heads with more than one reading, and what each gets. `{host}` stands for the right one.
const AMBIGUOUS: &[(&str, u16, &str)] = &[
    (
        "length and chunked",
        400,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths",
        400,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ),
    ("list of lengths", 400, "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("signed length", 400, "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: +5\r\n\r\nhello"),
    (
        "unknown coding",
        501,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked twice",
        400,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "hidden coding",
        400,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    ("underscored coding", 400, "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer_Encoding: chunked\r\n\r\n"),
    ("two hosts", 400, "GET {path} HTTP/1.1\r\nHost: {host}\r\nHost: other\r\n\r\n"),
    ("no host", 400, "GET {path} HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    ("absolute form that disagrees", 400, "GET http://other.example{path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("bare LF in the head", 400, "GET {path} HTTP/1.1\nHost: {host}\n\n"),
    ("bare LF after a field", 400, "GET {path} HTTP/1.1\r\nHost: {host}\nX: 1\r\n\r\n"),
    ("bare CR in a value", 400, "GET {path} HTTP/1.1\r\nHost: {host}\r\nX: a\rb\r\n\r\n"),
    ("NUL in a value", 400, "GET {path} HTTP/1.1\r\nHost: {host}\r\nX: a\0b\r\n\r\n"),
    ("folded line", 400, "GET {path} HTTP/1.1\r\nHost: {host}\r\nX: a\r\n b\r\n\r\n"),
    ("space before the colon", 400, "GET {path} HTTP/1.1\r\nHost : {host}\r\n\r\n"),
    ("no colon", 400, "GET {path} HTTP/1.1\r\nHost: {host}\r\nnonsense\r\n\r\n"),
    ("encoded slash", 400, "GET {path}%2Fadmin HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("encoded backslash", 400, "GET {path}%5Cadmin HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("backslash", 400, "GET {path}\\admin HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("dot segment", 400, "GET {path}/../admin HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("encoded dot segment", 400, "GET {path}/%2E%2E/admin HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("dot segment with parameter", 400, "GET {path}/..;x/admin HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("empty segment", 400, "GET {path}//admin HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("needless escape", 400, "GET {path}%61 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("lower-case escape", 400, "GET {path}%c3%bc HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("broken escape", 400, "GET {path}%zz HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("encoded NUL", 400, "GET {path}%00 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("fragment", 400, "GET {path}#x HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("raw space", 400, "GET {path} x HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("tab for a space", 400, "GET\t{path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    (
        "method override",
        400,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nX-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n",
    ),
    ("path override", 400, "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Original-URL: /admin\r\n\r\n"),
    ("hop-by-hop Host", 400, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: host\r\n\r\n"),
    ("tunnel", 405, "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nX: {path}\r\n\r\n"),
    ("another version", 505, "GET {path} HTTP/2.0\r\nHost: {host}\r\n\r\n"),
    (
        "another expectation",
        417,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nExpect: a-miracle\r\nContent-Length: 0\r\n\r\n",
    ),
    ("user in the host", 400, "GET {path} HTTP/1.1\r\nHost: me@{host}\r\n\r\n"),
];

#[test]
fn a_message_with_two_readings_is_refused_and_recorded_and_not_one_byte_is_forwarded() {
    let upstream = WORLD.upstream();
    let host = upstream.address().to_string();
    for (what, expected, request) in AMBIGUOUS {
        let path = unique("two");
        let mut client = WORLD.connect(upstream.address());
        let request = request.replace("{host}", &host).replace("{path}", &path);
        let response = client.ask(&request).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(response.status, *expected, "{what}: {}", response.text());
        assert!(client.is_closed_within(Duration::from_secs(5)), "{what}: nothing may follow it");
        let entry = WORLD.gate.entry_in(&response);
        assert_eq!((entry.intent.verdict, status(&entry)), (Verdict::Refuse, Some(*expected)), "{what}");
    }
    assert_eq!((upstream.connections(), upstream.received()), (0, Vec::new()));
}

#[test]
fn a_request_smuggled_behind_another_is_never_read() {
    let (upstream, mut client, host) = line();
    let (path, hidden) = (unique("front"), unique("smuggled"));
    client
        .send(format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
             GET {hidden} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.response("POST").unwrap().status, 400);
    assert!(client.is_closed_within(Duration::from_secs(5)));
    assert_eq!(upstream.connections(), 0);
    assert!(WORLD.gate.entries_of(&hidden).is_empty());
}

#[test]
fn a_chunk_with_two_readings_ends_the_request_before_its_end_is_forwarded() {
    for (what, chunks) in [
        ("no CRLF after the data", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("bare LF", "5\nhello\n0\n\n"),
        ("signed size", "+5\r\nhello\r\n0\r\n\r\n"),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("huge size", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("framing in a trailer", "5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n"),
    ] {
        let (upstream, mut client, host) = line();
        let path = unique("chunk");
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(head + chunks).unwrap();
        match client.response("POST") {
            Ok(response) => assert!((400..500).contains(&response.status), "{what}: {}", response.status),
            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "{what}: hung"),
        }
        assert!(!upstream.received().ends_with(b"0\r\n\r\n"), "{what}: a whole request was made of it");
        let entry = WORLD.gate.entry_of(&path);
        // Where head and fault come in one piece, nothing of it is forwarded at all.
        assert!(matches!(fault(&entry), "client" | "refused"), "{what}: {:?}", entry.closed);
    }
}

#[test]
fn what_is_not_http_is_refused_and_recorded() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"EHLO there\r\n",
    ] {
        let (upstream, mut client, _) = line();
        client.send(bytes).unwrap();
        let response = client.response("GET").unwrap();
        assert!((400..=505).contains(&response.status), "{bytes:?}: {}", response.status);
        assert!(client.is_closed_within(Duration::from_secs(5)));
        assert_eq!(upstream.connections(), 0, "{bytes:?}");
        let session = eventually("a closed session", || {
            let found = WORLD.gate.sessions_to(&upstream.address().to_string()).pop();
            found.filter(|session| session.summary.closed.is_some())
        });
        assert_eq!(session.entries.len(), 1, "{bytes:?}");
        assert_eq!(session.entries[0].intent.verdict, Verdict::Refuse, "{bytes:?}");
    }
}

#[test]
fn hop_by_hop_fields_stop_at_the_gate_both_ways() {
    let (upstream, mut client, host) = line();
    upstream.next(Answer::bytes(
        "HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nX-Public: 2\r\nContent-Length: 2\r\n\r\nok",
    ));
    let response = client
        .ask(format!(
            "GET /hop HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: keep-alive\r\nUpgrade: websocket\r\nTE: trailers\r\nX-Open: 2\r\n\r\n"
        ))
        .unwrap();
    assert_eq!((response.header("x-private"), response.header("keep-alive")), (None, None));
    assert_eq!(response.header("x-public"), Some("2"));
    let got = &upstream.requests()[0];
    for name in ["x-secret", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(got.header(name), None, "{name}");
    }
    assert_eq!((got.header("x-open"), got.header("te")), (Some("2"), Some("trailers")));
}

#[test]
fn clients_cannot_forge_forwarding_fields_on_the_way_out() {
    let (upstream, mut client, host) = line();
    let forged = format!(
        "GET /f HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\r\n"
    );
    assert_eq!(client.ask(forged).unwrap().status, 200);
    let received = String::from_utf8_lossy(&upstream.received()).into_owned();
    assert!(!received.contains("1.2.3.4"), "{received}");
}

#[test]
fn trailers_pass_both_ways() {
    let (upstream, mut client, host) = line();
    upstream.next(Answer::chunked(200, &[("Trailer", "X-Sum")]).chunk("abc").last_chunk(&[("X-Sum", "7")]));
    let response = client
        .ask(format!(
            "POST /t HTTP/1.1\r\nHost: {host}\r\nTE: trailers\r\nTrailer: X-Digest\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nX-Digest: 9\r\n\r\n"
        ))
        .unwrap();
    let lower = |fields: &[(String, String)]| {
        fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(lower(&response.trailers), [("x-sum".into(), "7".into())]);
    let got =
        eventually("the whole request", || upstream.requests().pop().filter(|got| !got.trailers.is_empty()));
    assert_eq!(
        (got.body.as_slice(), lower(&got.trailers)),
        (&b"abc"[..], vec![("x-digest".into(), "9".into())])
    );
}

#[test]
fn a_client_that_expects_100_gets_it_from_the_upstream_and_then_sends() {
    let (upstream, mut client, host) = line();
    upstream.next(Answer::json("{}").interim(100, &[]));
    client
        .send(format!(
            "POST /c HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.exactly(12).unwrap(), b"HTTP/1.1 100");
    let _ = client.exactly(b" Continue\r\n\r\n".len()).unwrap();
    client.send("hello").unwrap();
    assert_eq!(client.response("POST").unwrap().status, 200);
    assert_eq!(upstream.requests()[0].body, b"hello");
}

#[test]
fn an_upstream_that_refuses_an_expected_body_is_heard_before_the_body_is_sent() {
    let (upstream, mut client, host) = line();
    let path = unique("expected");
    upstream.next(Answer::new(413, &[], "too much").early());
    client
        .send(format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ))
        .unwrap();
    let response = client
        .response("POST")
        .unwrap_or_else(|error| panic!("{error}: {:?}", WORLD.gate.entry_of(&path).closed));
    assert_eq!((response.status, response.interim.len()), (413, 0), "{response:?}");
    assert!(!upstream.received().ends_with(b"hello"));
}

#[test]
fn early_hints_are_passed_on_before_the_answer() {
    let (upstream, mut client, host) = line();
    upstream.next(Answer::json("{}").interim(103, &[("Link", "</style.css>; rel=preload")]));
    let response = client.get(&host, "/hints").unwrap();
    assert_eq!(response.status, 200);
    let (code, fields) = &response.interim[0];
    assert_eq!((*code, fields[0].1.as_str()), (103, "</style.css>; rel=preload"));
}

#[test]
fn a_switch_of_protocols_is_not_passed_on() {
    let (upstream, mut client, host) = line();
    let path = unique("switch");
    upstream.next(Answer::bytes(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw",
    ));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    is_problem(&client.ask(request).unwrap(), 502);
    assert_eq!(fault(&WORLD.gate.entry_of(&path)), "upstream");
}

#[test]
fn head_has_a_length_and_no_body() {
    let (_upstream, mut client, host) = line();
    let response = client.ask(format!("HEAD /h HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    assert_eq!((response.status, response.header("content-length")), (200, Some("11")));
    assert_eq!(client.get(&host, "/next").unwrap().status, 200, "the next answer is where it should be");
}

#[test]
fn answers_without_a_body_stay_without_one() {
    let (upstream, mut client, host) = line();
    for code in [204, 304] {
        upstream.next(Answer::new(code, &[("ETag", "\"1\"")], ""));
        let response = client.get(&host, "/empty").unwrap();
        assert_eq!((response.status, response.body.len()), (code, 0));
    }
    assert_eq!(client.get(&host, "/next").unwrap().status, 200);
}

#[test]
fn many_requests_go_over_one_connection_and_each_is_an_entry_of_one_session() {
    let (upstream, mut client, host) = line();
    let path = unique("keep");
    for number in 0..10 {
        assert_eq!(client.get(&host, &format!("{path}/{number}")).unwrap().status, 200);
    }
    assert_eq!(upstream.connections(), 1, "one upstream connection for one client connection");
    drop(client);
    let session = eventually("a closed session", || {
        let found = WORLD.gate.sessions_to(&host).pop();
        found.filter(|session| session.summary.closed.is_some())
    });
    assert_eq!((session.entries.len(), session.summary.entries), (10, 10));
    assert_eq!(session.summary.closed.unwrap().entries, 10);
}

#[test]
fn pipelined_requests_are_judged_and_answered_one_by_one_in_order() {
    let (upstream, mut client, host) = line();
    let path = unique("pipe");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client
        .send(get(&format!("{path}/1")) + &get(&format!("{path}/denied/2")) + &get(&format!("{path}/3")))
        .unwrap();
    let statuses: Vec<u16> = (0..3).map(|_| client.response("GET").unwrap().status).collect();
    assert_eq!(statuses, [200, 403, 200]);
    let paths: Vec<String> = upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(paths, [format!("{path}/1"), format!("{path}/3")]);
}

#[test]
fn more_pipelined_requests_than_are_read_ahead_are_all_answered() {
    let (upstream, mut client, host) = line();
    let count = 3 * tidegate::limits::PIPELINED_MAX;
    client.send(format!("GET /p HTTP/1.1\r\nHost: {host}\r\n\r\n").repeat(count)).unwrap();
    for _ in 0..count {
        assert_eq!(client.response("GET").unwrap().status, 200);
    }
    assert_eq!(upstream.requests().len(), count);
}

#[test]
fn absolute_form_is_judged_and_sent_as_its_path() {
    let (upstream, mut client, host) = line();
    let path = unique("absolute");
    let response =
        client.ask(format!("GET http://{host}{path}?x=1 HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(upstream.requests()[0].target, format!("{path}?x=1"));
    let denied = client.ask(format!("GET http://{host}/denied HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    assert_eq!((denied.status, upstream.requests().len()), (403, 1));
}

#[test]
fn an_old_client_gets_an_old_answer() {
    let (_upstream, mut client, host) = line();
    client.send(format!("GET /old HTTP/1.0\r\nHost: {host}\r\n\r\n")).unwrap();
    let response = client.response("GET").unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, r#"{"ok":true}"#));
    assert!(client.is_closed_within(Duration::from_secs(5)));
}

#[test]
fn each_event_of_a_stream_arrives_before_the_next_is_sent() {
    let (upstream, mut client, host) = line();
    let gap = Duration::from_secs(2);
    let mut answer = Answer::chunked(200, &[("Content-Type", "text/event-stream")]);
    for number in 0..3 {
        answer = answer.chunk(format!("data: {number}\n\n")).pause(gap);
    }
    upstream.next(answer.last_chunk(&[]));
    let path = unique("events");
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    let start = Instant::now();
    let mut text = String::new();
    for (number, sent) in [(0, 0), (1, 1), (2, 2)] {
        while !text.contains(&format!("data: {number}\n\n")) {
            text.push_str(&String::from_utf8_lossy(&client.exactly(1).unwrap()));
        }
        assert!(start.elapsed() < gap * sent + gap, "event {number} came {:?} late", start.elapsed());
    }
    while !text.ends_with("0\r\n\r\n") {
        text.push_str(&String::from_utf8_lossy(&client.exactly(1).unwrap()));
    }
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!(WORLD.gate.recorded_body(&entry, Side::Response), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
}

#[test]
fn a_request_streams_while_it_is_sent() {
    let (upstream, mut client, host) = line();
    client
        .send(format!(
            "POST /up HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
        ))
        .unwrap();
    eventually("the first chunk", || {
        upstream.received().windows(5).any(|part| part == b"first").then_some(())
    });
    client.send("6\r\nsecond\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.response("POST").unwrap().status, 200);
    assert_eq!(upstream.requests()[0].body, b"firstsecond");
}

#[test]
fn a_client_that_does_not_read_holds_the_upstream_back_and_not_the_gates_memory() {
    const SIZE: usize = 64 * 1024 * 1024;
    let world = World::new();
    let upstream = world.upstream();
    let (mut client, host) = (world.connect(upstream.address()), upstream.address().to_string());
    let before = memory(&world.gate);
    upstream.next(Answer::new(200, &[("Content-Type", "application/octet-stream")], vec![b'x'; SIZE]));
    client.send(format!("GET /big HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let grown = memory(&world.gate).saturating_sub(before);
    assert!(grown < SIZE / 2, "the gate took {grown} bytes for a client that does not read");
    assert_eq!(client.response("GET").unwrap().body.len(), SIZE);
    let grown = memory(&world.gate).saturating_sub(before);
    assert!(grown < SIZE / 2, "the gate kept {grown} bytes of a body that passed");
}

/// Resident memory of the gate, in bytes.
fn memory(gate: &Gate) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_body_beyond_what_the_record_keeps_passes_whole_and_the_record_says_where_it_stops() {
    let (upstream, mut client, host) = line();
    let path = unique("long");
    let limit = usize::try_from(tidegate::limits::RECORDED_BODY_BYTES_MAX).unwrap();
    upstream.next(Answer::new(200, &[("Content-Type", "text/plain")], vec![b'x'; limit + 5]));
    assert_eq!(client.get(&host, &path).unwrap().body.len(), limit + 5);
    let entry = WORLD.gate.entry_of(&path);
    let end = entry.closed.clone().unwrap().response;
    assert_eq!((end.bytes, end.truncated_at), (limit as u64 + 5, Some(limit as u64)));
    assert_eq!(WORLD.gate.recorded_body(&entry, Side::Response).len(), limit);
}

#[test]
fn a_head_at_its_bounds_passes_and_one_beyond_is_refused() {
    let (_upstream, _, host) = line();
    let path_of = |line: usize| format!("/{}", "a".repeat(line - "GET / HTTP/1.1\r".len()));
    let line_max = tidegate::limits::REQUEST_LINE_BYTES_MAX;
    let fields_max = tidegate::limits::HEADERS_MAX;
    let head_max = tidegate::limits::HEAD_BYTES_MAX;
    let fields = |count: usize| (0..count).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let plain = format!("GET /b HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let padded = |size: usize| {
        let pad = size - plain.len() - "X-Pad: \r\n".len();
        format!("GET /b HTTP/1.1\r\nHost: {host}\r\nX-Pad: {}\r\n\r\n", "p".repeat(pad))
    };
    for (what, request, expected) in [
        ("line", format!("GET {} HTTP/1.1\r\nHost: {host}\r\n\r\n", path_of(line_max)), 200),
        ("line + 1", format!("GET {} HTTP/1.1\r\nHost: {host}\r\n\r\n", path_of(line_max + 1)), 414),
        ("fields", format!("GET /b HTTP/1.1\r\nHost: {host}\r\n{}\r\n", fields(fields_max - 1)), 200),
        ("fields + 1", format!("GET /b HTTP/1.1\r\nHost: {host}\r\n{}\r\n", fields(fields_max)), 431),
        ("head", padded(head_max), 200),
        ("head + 1", padded(head_max + 1), 431),
    ] {
        let mut client = WORLD.connect(host.parse().unwrap());
        let response = client.ask(request).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(response.status, expected, "{what}: {}", response.text());
    }
}

#[test]
fn a_client_that_leaves_is_recorded_as_such() {
    let (upstream, mut client, host) = line();
    let path = unique("leaves");
    upstream.next(Answer::silence());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    let _ = upstream.await_requests(1);
    drop(client);
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!((fault(&entry), status(&entry)), ("client", None), "{:?}", entry.closed);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_is_recorded_as_such() {
    let (_upstream, mut client, host) = line();
    let path = unique("half");
    client.send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nhalf")).unwrap();
    drop(client);
    assert_eq!(fault(&WORLD.gate.entry_of(&path)), "client");
}

#[test]
fn an_upstream_that_does_not_listen_is_a_502_and_recorded_as_its_fault() {
    let port = WORLD.port();
    let host = format!("127.0.0.1:{port}");
    let path = unique("nobody");
    let mut client = WORLD.connect(host.parse().unwrap());
    is_problem(&client.get(&host, &path).unwrap(), 502);
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!((fault(&entry), status(&entry)), ("upstream", Some(502)));
    assert_eq!(entry.intent.verdict, Verdict::Allow);
}

#[test]
fn an_upstream_that_breaks_off_or_talks_nonsense_is_a_502_and_recorded_as_its_fault() {
    for (what, answer) in [
        ("reset", Answer::default().reset()),
        ("close", Answer::default().close()),
        ("garbage", Answer::bytes("this is not HTTP at all\r\n\r\n").close()),
        ("half a head", Answer::bytes("HTTP/1.1 200 OK\r\nContent-").close()),
        (
            "length and chunked",
            Answer::bytes(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
        ),
        (
            "a coding nobody asked for",
            Answer::bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ),
        (
            "two lengths",
            Answer::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
        ),
        ("negative length", Answer::bytes("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok")),
        (
            "huge head",
            Answer::bytes(format!(
                "HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n",
                "x".repeat(200_000)
            )),
        ),
    ] {
        let (upstream, mut client, host) = line();
        let path = unique("broken");
        upstream.next(answer);
        let response = client.get(&host, &path).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(response.status, 502, "{what}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "{what}");
        let entry = WORLD.gate.entry_of(&path);
        assert_eq!((fault(&entry), status(&entry)), ("upstream", Some(502)), "{what}");
    }
}

#[test]
fn an_answer_that_breaks_off_midway_is_never_passed_on_as_whole() {
    for (what, answer) in [
        ("short of its length", Answer::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").close()),
        (
            "reset within its length",
            Answer::bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").reset(),
        ),
        ("without a last chunk", Answer::chunked(200, &[]).chunk("half").close()),
        ("a broken chunk", Answer::chunked(200, &[]).chunk("half").raw("zz\r\nmore\r\n").close()),
    ] {
        let (upstream, mut client, host) = line();
        let path = unique("midway");
        upstream.next(answer);
        match client.get(&host, &path) {
            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "{what}: hung"),
            Ok(response) => assert_eq!(response.status, 502, "{what}: {}", response.text()),
        }
        let entry = WORLD.gate.entry_of(&path);
        assert_eq!(fault(&entry), "upstream", "{what}: {:?}", entry.closed);
    }
}

#[test]
fn bytes_behind_an_answer_are_not_taken_for_the_next_one() {
    let (upstream, mut client, host) = line();
    upstream.next(Answer::bytes(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
    ));
    assert_eq!(client.get(&host, "/first").unwrap().text(), "ok");
    std::thread::sleep(Duration::from_millis(200));
    let second = client.get(&host, "/second").unwrap();
    assert_ne!(second.text(), "poisoned", "an answer nobody asked for became the answer to the next request");
}

#[test]
fn a_connection_that_the_upstream_closed_meanwhile_is_opened_again() {
    let (upstream, mut client, host) = line();
    upstream.next(Answer::json("{}").close());
    assert_eq!(client.get(&host, "/1").unwrap().status, 200);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(client.get(&host, "/2").unwrap().status, 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_head_that_never_ends_and_one_that_never_begins_are_cut_off_and_others_are_unharmed() {
    let (_upstream, mut silent, host) = line();
    let mut slow = WORLD.connect(host.parse().unwrap());
    let mut other = WORLD.connect(host.parse().unwrap());
    slow.send(format!("GET /slow HTTP/1.1\r\nHost: {host}\r\n")).unwrap();
    let limit = tidegate::limits::HEAD_TIMEOUT;
    let start = Instant::now();
    while start.elapsed() < limit - Duration::from_secs(1) {
        slow.send("X: 1\r\n").unwrap();
        assert_eq!(other.get(&host, "/other").unwrap().status, 200);
        std::thread::sleep(Duration::from_millis(900));
    }
    let response = slow.response("GET").unwrap();
    assert_eq!(response.status, 408, "{}", response.text());
    assert!(start.elapsed() < limit + Duration::from_secs(10));
    assert!(silent.is_closed_within(Duration::from_secs(10)), "a connection without a request is closed");
    assert_eq!(other.get(&host, "/other").unwrap().status, 200);
}

#[test]
fn a_body_that_never_ends_harms_nobody_else() {
    // A gate of its own: what other tests do to theirs would count here.
    let world = World::new();
    let upstream = world.upstream();
    let (mut endless, host) = (world.connect(upstream.address()), upstream.address().to_string());
    assert_eq!(endless.get(&host, "/before").unwrap().status, 200);
    let before = memory(&world.gate);
    endless.set_patience(Duration::from_secs(2));
    endless
        .send(format!("POST /endless HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"))
        .unwrap();
    let piece = format!("{:x}\r\n{}\r\n", 64 * 1024, "x".repeat(64 * 1024));
    let mut other = world.connect(upstream.address());
    for round in 0..400 {
        endless.send(&piece).unwrap();
        if round % 50 == 0 {
            assert_eq!(other.get(&host, "/other").unwrap().status, 200);
        }
    }
    let grown = memory(&world.gate).saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "the gate grew by {grown} bytes under a body of 25 MiB");
}

#[test]
fn many_idle_connections_leave_room_for_others() {
    let full = std::env::var_os("TIDEGATE_FULL").is_some();
    let count = if full { 10_000 } else { 2_000 };
    raise_open_files(count + 1_000);
    let (_upstream, mut client, host) = line();
    let to: SocketAddr = host.parse().unwrap();
    let seat = WORLD.host.client();
    let start = Instant::now();
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(seat.dialer().connect(to, None).unwrap());
        if idle.len() % 500 == 0 {
            assert_eq!(client.get(&host, "/while").unwrap().status, 200);
        }
    }
    assert_eq!(client.get(&host, "/after").unwrap().status, 200);
    let mut late = WORLD.connect(to);
    assert_eq!(late.get(&host, "/late").unwrap().status, 200);
    // Those that have waited less than the limit are still served.
    if start.elapsed() < tidegate::limits::HEAD_TIMEOUT - Duration::from_secs(3) {
        let last = idle.last_mut().unwrap();
        last.write_all(format!("GET /idle HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(Client::new(last.try_clone().unwrap()).response("GET").unwrap().status, 200);
    }
}

fn raise_open_files(wanted: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(wanted).unwrap();
    if now.current.is_some_and(|current| current < wanted) {
        let maximum = now.maximum.map(|maximum| maximum.max(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
}

#[test]
fn five_programs_that_people_use_see_nothing_unusual() {
    let upstream = WORLD.upstream();
    let url = format!("http://{}/pot", upstream.address());
    let seat = WORLD.host.client();
    let answers = [
        seat.curl(&["--data", "tea", &url]),
        seat.requests("POST", &url, &[("X-One", "1")], "tea"),
        seat.aiohttp("POST", &url, &[], "tea"),
        seat.fetch("POST", &url, &[], "tea"),
    ];
    for answered in &answers {
        assert_eq!((answered.status, answered.body.as_str()), (200, r#"{"ok":true}"#));
        assert_eq!(answered.peer, Some(upstream.address()), "they see the peer they dialled");
    }
    assert_eq!(seat.wget(&url, &[]).status, 200);
    assert!(upstream.requests()[..4].iter().all(|request| request.body == b"tea"));
    let denied = format!("http://{}/denied", upstream.address());
    assert_eq!(seat.wget(&denied, &[]).status, 403);
    assert_eq!(seat.fetch("GET", &denied, &[], "").status, 403);
}
