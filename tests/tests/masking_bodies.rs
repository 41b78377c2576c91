//! Bodies in both directions, packed as real servers and clients pack them: unpacked under bounds, masked, and sent on
//! with heads that say what is true of them. What cannot be unpacked is refused or broken off, and recorded.

use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tidegate::record::entry::{Gap, Side};
use tidegate_tests::recorded::{fault, status};
use tidegate_tests::{Answer, Gate, Host, Nginx, Upstream, eventually};

const CARD: &str = "4111111111111111";

struct World {
    host: Host,
    gate: Gate,
    next_port: AtomicU16,
}

const FIRST_PORT: u16 = 23_001;
const PORTS: u16 = 40;
const PLAIN: u16 = 23_500;

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
        ports = [{PLAIN}, {}]

        [[operation]]
        name = "held"
        target = "crm"
        methods = ["PUT"]
        paths = ["/held/**"]

        [[operation]]
        name = "any"
        target = "crm"
        methods = ["GET", "HEAD", "POST"]
        paths = ["/**"]

        [[mask]]
        name = "cards"
        targets = ["crm"]
        on = "both"
        find = ["card", "email"]
        fields = ["pin"]

        [[mask]]
        name = "keys"
        targets = ["crm"]
        on = "both"
        headers = ["X-Customer"]

        [[detector]]
        name = "employee"
        pattern = "EMP-[0-9]{{6}}"
        match = ["EMP-482913"]
        pass = ["EMP-4829"]

        [[role]]
        name = "officer"
        uids = [1700]

        [[person]]
        name = "ann"
        uid = 1500

        [[approval]]
        name = "people"
        approvers = ["ann"]
        "#,
        ports.join(", "),
        PLAIN + 1
    );
    let rules = r#"
        permit (principal, action in [Action::"any", Action::"held"], resource == Target::"crm");
        permit (principal, action == Action::"http", resource == Target::"plain");
        permit (principal in Role::"officer", action == Action::"reveal", resource == Mask::"cards");
        @id("held") @approval("people")
        forbid (principal, action == Action::"held", resource == Target::"crm");
    "#;
    let gate = Gate::on(&host).policy("a.toml", &nouns).policy("a.cedar", rules).start();
    World { host, gate, next_port: AtomicU16::new(FIRST_PORT) }
});

fn port() -> u16 {
    let port = WORLD.next_port.fetch_add(1, Ordering::Relaxed);
    assert!(port < FIRST_PORT + PORTS, "declare more ports");
    port
}

fn upstream() -> Upstream {
    Upstream::start(&WORLD.host.client(), &format!("127.0.0.1:{}", port()))
}

fn unique(name: &str) -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!("/{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn gzip(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_ref()).unwrap();
    gzip.finish().unwrap()
}

fn coded(kind: &str, body: &[u8]) -> Answer {
    Answer::new(200, &[("Content-Type", kind), ("Content-Encoding", "gzip"), ("ETag", "\"v\"")], body)
}

fn url(upstream: &Upstream, path: &str) -> String {
    format!("http://{}{path}", upstream.address())
}

#[test]
fn a_mask_of_a_header_field_hides_it_in_trailers_too_where_no_body_is_masked() {
    let upstream = upstream();
    let trailer = [("X-Customer", "ann-7"), ("X-Sum", "3")];
    upstream
        .next(Answer::chunked(200, &[("Trailer", "X-Customer, X-Sum")]).chunk("abc").last_chunk(&trailer));
    let mut officer = WORLD.host.client().uid(1700).connect(upstream.address()).unwrap();
    let path = unique("late");
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nTE: trailers\r\nTrailer: X-Customer\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Customer: bob-9\r\n\r\n",
        upstream.address()
    );
    let answer = officer.ask(request).unwrap();
    assert_eq!(answer.text(), "abc", "the officer sees bodies in clear");
    let shown = format!("{:?}", answer.trailers);
    assert!(!shown.contains("ann-7") && shown.contains("******") && shown.contains('3'), "{shown}");
    let got =
        eventually("the whole request", || upstream.requests().pop().filter(|got| !got.trailers.is_empty()));
    assert!(!format!("{:?}", got.trailers).contains("bob-9"), "{:?}", got.trailers);
}

#[test]
fn curl_compressed_gets_a_masked_answer_from_nginx_that_compresses() {
    let files = WORLD.host.folder().join("files");
    std::fs::create_dir_all(&files).unwrap();
    let rows: Vec<String> =
        (0..500).map(|n| format!("{{\"n\":{n},\"pin\":\"12\",\"c\":\"{CARD}\"}}")).collect();
    std::fs::write(files.join("rows.json"), format!("[{}]", rows.join(","))).unwrap();
    let folder = files.display();
    let server = format!("root {folder}; gzip on; gzip_types application/json; gzip_min_length 1;");
    let nginx = Nginx::start(&WORLD.host.client(), port(), &server);
    let url = format!("http://127.0.0.1:{}/rows.json", nginx.port());
    let client = WORLD.host.client();
    let coded =
        client.run("curl", &["-s", "-D", "-", "-o", "/dev/null", "--compressed", &url]).success().text();
    assert!(
        !coded.to_lowercase().contains("etag") && !coded.to_lowercase().contains("accept-ranges"),
        "{coded}"
    );
    assert!(!coded.to_lowercase().contains("content-encoding"), "it is sent as it is: {coded}");
    let (compressed, plain) = (client.curl(&["--compressed", &url]), client.curl(&[&url]));
    assert_eq!(compressed.body, plain.body);
    assert!(
        !plain.body.contains(CARD) && plain.body.matches("********").count() == 1000,
        "{:.300}",
        plain.body
    );
    assert_eq!(client.curl(&["-r", "0-9", &url]).body, plain.body, "no part of it: all of it");
    let clear = client.uid(1700).curl(&["--compressed", &url]);
    assert!(clear.body.contains(CARD), "who may reveal it gets nginx's own bytes");
    for entry in WORLD.gate.entries_of("/rows.json") {
        let recorded = WORLD.gate.recorded_body(&entry, Side::Response);
        assert!(recorded.contains("\"n\":499") && !recorded.contains(CARD), "{recorded:.300}");
    }
}

#[test]
fn a_request_body_is_masked_before_it_goes_to_its_target() {
    let upstream = upstream();
    let client = WORLD.host.client();
    let body = format!("{{\"pin\":\"12\",\"note\":\"bob@x.io\",\"n\":1,\"c\":{CARD}}}");
    let masked = "{\"pin\":\"********\",\"note\":\"********\",\"n\":1,\"c\":\"********\"}";
    for (what, flags) in [
        (
            "JSON",
            &["-H", "Content-Type: application/json", "-H", "Content-Digest: x", "-H", "X-Customer: bob"][..],
        ),
        ("JSON called a form", &[]),
        ("chunked", &["-H", "Content-Type: application/json", "-H", "Transfer-Encoding: chunked"]),
    ] {
        let path = unique("ask");
        let url = url(&upstream, &path);
        let answered = client.curl(&[flags, &["-d", &body, &url]].concat());
        assert_eq!(answered.status, 200, "{what}: {}", answered.body);
        let got = upstream.requests().into_iter().find(|request| request.target.contains(&path)).unwrap();
        assert_eq!(String::from_utf8_lossy(&got.body), masked, "{what}");
        assert_eq!(got.header("content-digest"), None);
        if what == "JSON" {
            assert_eq!(got.header("x-customer"), Some("********"));
            assert_eq!(got.header("content-length"), Some(masked.len().to_string().as_str()));
        }
        let closed = WORLD.gate.entry_of(&path).closed.unwrap();
        assert!(closed.request.masked >= 3, "{what}: {closed:?}");
    }
    let path = unique("form");
    let sent = client.curl(&["-F", "pin=12", "-F", "note=to bob@x.io", &url(&upstream, &path)]);
    assert_eq!(sent.status, 200);
    let got = upstream.requests().into_iter().find(|request| request.target.contains(&path)).unwrap();
    let text = String::from_utf8_lossy(&got.body).into_owned();
    assert!(text.contains("to ********") && !text.contains("bob@x.io") && !text.contains("12\r\n"), "{text}");
    assert!(!String::from_utf8_lossy(&upstream.received()).contains(CARD));
}

#[test]
fn a_compressed_request_is_unpacked_and_one_that_cannot_be_is_refused_with_415_or_400() {
    let upstream = upstream();
    let send = |path: &str, coding: &str, body: &[u8]| {
        let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\n\
             Content-Length: {}\r\n\r\n",
            upstream.address(),
            body.len()
        );
        client.ask([head.as_bytes(), body].concat()).unwrap().status
    };
    let path = unique("packed");
    assert_eq!(send(&path, "gzip", &gzip("{\"pin\":1}")), 200);
    let got = &upstream.requests()[0];
    assert_eq!(String::from_utf8_lossy(&got.body), "{\"pin\":\"********\"}");
    assert_eq!(got.header("content-encoding"), None);
    let bytes = upstream.received().len();
    let path = unique("unknown");
    assert_eq!(send(&path, "compress", b"xx"), 415);
    assert_eq!(upstream.received().len(), bytes, "nothing of it was sent");
    assert_eq!(
        (fault(&WORLD.gate.entry_of(&path)), status(&WORLD.gate.entry_of(&path))),
        ("client", Some(415))
    );
    let path = unique("truncated");
    let whole = gzip("{\"pin\":1}");
    assert_eq!(send(&path, "gzip", &whole[..whole.len() - 4]), 400);
    assert_eq!(fault(&WORLD.gate.entry_of(&path)), "client");
}

/// What a client gets of an answer until it ends or breaks off.
fn all_of(upstream: &Upstream, path: &str) -> String {
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    client
        .send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", upstream.address()))
        .unwrap();
    String::from_utf8_lossy(&client.to_end().unwrap_or_default()).into_owned()
}

#[test]
fn bad_bodies_are_refused_or_broken_off_and_recorded() {
    let upstream = upstream();
    let bomb = gzip(format!("[\"{}\"]", "x".repeat(64 * 1024 * 1024)));
    let deep = gzip("[".repeat(10_000) + CARD);
    let whole = gzip(format!("{{\"c\":\"{CARD}\"}}"));
    let twice = [whole.clone(), whole.clone()].concat();
    let mut damaged = whole.clone();
    let at = damaged.len() - 6;
    damaged[at] ^= 1;
    let json = "application/json";
    for (what, answer) in [
        ("a bomb", coded(json, &bomb)),
        ("10,000 deep", coded(json, &deep)),
        ("truncated", coded(json, &whole[..whole.len() - 9])),
        ("two members", coded(json, &twice)),
        ("a wrong checksum", coded(json, &damaged)),
        ("not gzip", coded(json, format!("{{\"c\":\"{CARD}\"}}").as_bytes())),
        ("not UTF-8", Answer::json(b"{\"a\":\"\xFF\xFE\"}")),
        (
            "multipart without end",
            Answer::new(
                200,
                &[("Content-Type", "multipart/form-data; boundary=b")],
                format!("--b\r\nContent-Disposition: form-data; name=x\r\n\r\n{CARD}"),
            ),
        ),
        ("a part", Answer::new(206, &[("Content-Type", json), ("Content-Range", "bytes 0-1/9")], "[]")),
    ] {
        let path = unique("bad");
        upstream.next(answer);
        let all = all_of(&upstream, &path);
        assert!(!all.contains(CARD), "{what}: {all:.500}");
        assert!(all.len() < 20 * 1024 * 1024, "{what}: {} bytes", all.len());
        assert!(
            all.starts_with("HTTP/1.1 502") || !all.ends_with("\r\n0\r\n\r\n"),
            "{what} looks whole: {all:.500}"
        );
        assert_eq!(fault(&WORLD.gate.entry_of(&path)), "upstream", "{what}");
    }
}

#[test]
fn an_event_stream_in_gzip_is_passed_on_event_by_event() {
    let upstream = upstream();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(b"data: {\"pin\":1}\n\n").unwrap();
    encoder.flush().unwrap();
    let first = std::mem::take(encoder.get_mut());
    encoder.write_all(b"data: {\"mail\":\"bob@x.io\"}\n\n").unwrap();
    let second = encoder.finish().unwrap();
    upstream.next(
        Answer::chunked(200, &[("Content-Type", "text/event-stream"), ("Content-Encoding", "gzip")])
            .chunk(&first)
            .pause(Duration::from_secs(3))
            .chunk(&second)
            .last_chunk(&[("Content-Digest", "x"), ("X-Customer", "bob")]),
    );
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    let began = std::time::Instant::now();
    client.send(format!("GET /sse HTTP/1.1\r\nHost: {}\r\n\r\n", upstream.address())).unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("data: {\"pin\":\"********\"}\n\n") {
        seen.extend(client.exactly(1).unwrap());
    }
    assert!(began.elapsed() < Duration::from_secs(3), "the first event did not wait for the second");
    while !String::from_utf8_lossy(&seen).ends_with("0\r\n") {
        seen.extend(client.exactly(1).unwrap());
    }
    let text = String::from_utf8_lossy(&seen).into_owned();
    assert!(text.contains("{\"mail\":\"********\"}") && !text.contains("Content-Digest"), "{text}");
}

#[test]
fn where_no_mask_applies_bytes_pass_unchanged_and_the_record_keeps_them_unpacked_or_says_why_not() {
    let upstream = Upstream::start(&WORLD.host.client(), &format!("127.0.0.1:{PLAIN}"));
    let body = gzip(format!("{{\"c\":\"{CARD}\",\"n\":1}}"));
    let path = unique("plain");
    upstream.next(coded("application/json", &body));
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    let response = client.get(&upstream.address().to_string(), &path).unwrap();
    assert_eq!(response.body, body, "byte for byte");
    assert_eq!((response.header("etag"), response.header("content-encoding")), (Some("\"v\""), Some("gzip")));
    let entry = WORLD.gate.entry_of(&path);
    assert_eq!(WORLD.gate.recorded_body(&entry, Side::Response), "{\"c\":\"********\",\"n\":1}");
    assert_eq!(entry.closed.unwrap().response.decoded.to_string(), "gzip");
    for (coding, bytes) in [("compress", &b"xx"[..]), ("gzip", &body[..body.len() - 9])] {
        let path = unique("unread");
        upstream.next(Answer::new(
            200,
            &[("Content-Type", "text/plain"), ("Content-Encoding", coding)],
            bytes,
        ));
        let response = client.get(&upstream.address().to_string(), &path).unwrap();
        assert_eq!(response.body, bytes, "{coding}");
        let end = WORLD.gate.entry_of(&path).closed.unwrap().response;
        assert_eq!((end.gap, end.truncated_at.is_some()), (Some(Gap::Coding), true), "{coding}");
    }
}

#[test]
fn what_people_approve_is_the_body_as_it_will_be_sent() {
    let upstream = upstream();
    let path = unique("held/x");
    let target = url(&upstream, &path);
    let client = WORLD.host.client();
    let body = format!("{{\"pin\":\"hunter2\",\"n\":\"{CARD}\"}}");
    let asking = client
        .spawn("curl", &["-s", "-X", "PUT", "-H", "Content-Type: application/json", "-d", &body, &target]);
    let demand = eventually("the demand", || {
        let listed = WORLD.gate.tidegate(&["--json", "approvals", "list"]).text();
        listed.contains(&path).then_some(listed)
    });
    assert!(!demand.contains("hunter2") && !demand.contains(CARD), "{demand}");
    drop(asking);
    assert!(!String::from_utf8_lossy(&upstream.received()).contains(&path), "nothing was sent");
}

#[test]
fn what_a_declared_detector_finds_is_in_no_recorded_head_and_named_to_approvers() {
    let upstream = upstream();
    let path = unique("declared");
    upstream.next(Answer::new(
        200,
        &[("Content-Type", "application/json"), ("X-Next", "/of/EMP-482914")],
        "{}",
    ));
    let client = WORLD.host.client();
    let target = url(&upstream, &format!("{path}/EMP-482911?who=EMP%2D482912"));
    let answered = client.curl(&["-i", "-H", "X-Who: EMP-482913", &target]);
    assert!(answered.body.contains("EMP-482914"), "no mask names it: {}", answered.body);
    let entry = WORLD.gate.entry_of(&path);
    let heads = format!("{:?} {:?}", entry.intent.head, entry.responded);
    assert!(!heads.contains("48291") && heads.to_lowercase().contains("x-next"), "{heads}");
    assert!(entry.intent.head.line.contains("/********?who=********"), "{heads}");

    let path = unique("held/declared");
    let target = url(&upstream, &format!("{path}?who=EMP-482915"));
    let asking = client.spawn(
        "curl",
        &[
            "-s",
            "-X",
            "PUT",
            "-H",
            "X-Who: EMP-482916",
            "-H",
            "Content-Type: application/json",
            "-d",
            r#"{"who":"EMP-482917"}"#,
            &target,
        ],
    );
    let demands = eventually("the demand", || {
        let listed = WORLD.gate.tidegate(&["--json", "approvals", "list"]).json();
        let found = listed.as_array().or_else(|| listed["demands"].as_array()).cloned().unwrap_or_default();
        found.into_iter().find(|demand| demand.to_string().contains(&path))
    });
    let shown = WORLD.gate.tidegate(&["approvals", "show", demands["id"].as_str().unwrap()]).text();
    assert_eq!(shown.matches("[masked: employee]").count(), 3, "{shown}");
    assert!(!shown.contains("48291"), "{shown}");
    drop(asking);
}

#[test]
fn a_head_answer_says_no_length_and_a_304_has_no_body() {
    let upstream = upstream();
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    let host = upstream.address().to_string();
    let head = client.ask(format!("HEAD /h HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, None));
    upstream.next(Answer::new(304, &[("ETag", "\"v\"")], ""));
    let response = client.get(&host, "/304").unwrap();
    assert_eq!((response.status, response.body.len(), response.header("etag")), (304, 0, None));
    assert_eq!(client.get(&host, "/next").unwrap().status, 200);
}

#[test]
fn text_in_another_encoding_is_masked_and_sent_as_utf_8() {
    let upstream = upstream();
    let utf16: Vec<u8> = "{\"pin\":\"é\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    upstream.next(Answer::new(200, &[("Content-Type", "application/json; charset=utf-16le")], utf16));
    let mut client = WORLD.host.client().connect(upstream.address()).unwrap();
    let response = client.get(&upstream.address().to_string(), "/utf16").unwrap();
    assert_eq!(response.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(response.text(), "{\"pin\":\"********\"}");
}
