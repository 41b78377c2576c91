//! The screen byte by byte: what has one reading passes untouched in every split, what has two does not pass.

use super::*;

/// Pushes `input` in pieces of `size` bytes; gives what passed and what was seen, a fault in a body last.
fn screen(input: &[u8], size: usize) -> (Vec<u8>, Vec<Seen>) {
    let mut screen = Screen::default();
    let (mut passed, mut seen) = (Vec::new(), Vec::new());
    for piece in input.chunks(size) {
        let mut left = piece;
        while !left.is_empty() {
            let taken = screen.push(left, &mut passed);
            left = &left[taken..];
            seen.extend(std::iter::from_fn(|| screen.next_seen()));
        }
    }
    seen.extend(screen.fault_in_body().map(|fault| Seen::Fault(fault, String::new())));
    (passed, seen)
}

fn fault(input: &str) -> Option<Fault> {
    let (passed, seen) = screen(input.as_bytes(), usize::MAX);
    match seen.into_iter().next_back() {
        Some(Seen::Fault(fault, _)) => {
            assert!(passed.is_empty() || input.contains("\r\n\r\n"), "bytes of a refused head passed");
            Some(fault)
        }
        _ => None,
    }
}

const HONEST: &str = "POST /v1/run?x=1 HTTP/1.1\r\nHost: React:8080\r\nX-A: b\r\nContent-Length: 3\r\n\r\na\ncGET / HTTP/1.1\r\nhost: react\r\n\r\n\
    PUT /c HTTP/1.1\r\nHost: react\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3;a=b\r\nabc\r\n1\r\nd\r\n0\r\nX-Sum: 9\r\n\r\nGET /d HTTP/1.0\r\nHost: r\r\n\r\n";

#[test]
fn honest_messages_pass_byte_for_byte_in_every_split() {
    for size in 1..HONEST.len() {
        let (passed, seen) = screen(HONEST.as_bytes(), size);
        assert_eq!(String::from_utf8(passed).unwrap(), HONEST, "in pieces of {size}");
        assert_eq!(seen.len(), 4);
        assert!(seen.iter().all(|s| matches!(s, Seen::Head(_))), "{seen:?}");
    }
}

#[test]
fn a_head_is_told_as_it_was_sent() {
    let (_, seen) = screen(HONEST.as_bytes(), 7);
    let Seen::Head(head) = &seen[0] else { panic!("no head") };
    assert_eq!(
        (head.method.as_str(), head.path.as_str(), head.query.as_deref()),
        ("POST", "/v1/run", Some("x=1"))
    );
    assert_eq!(head.authority, uri::Authority { host: "react".into(), port: Some(8080) });
    assert_eq!(head.fields[1], ("X-A".into(), b"b".to_vec()));
    assert_eq!(head.framing, Framing::Length(3));
    let Seen::Head(head) = &seen[2] else { panic!("no head") };
    assert_eq!((head.framing, head.expects_continue), (Framing::Chunked, true));
}

#[test]
fn messages_with_two_readings_are_refused_in_every_split() {
    let heads = [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET //x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX-HTTP-Method-Override: DELETE\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\r\n\r\n",
        "GET /?q=\"x\" HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "{\"jsonrpc\":1}\r\n\r\n",
    ];
    for head in heads {
        for size in [1, 2, 3, 5, usize::MAX] {
            let (passed, seen) = screen(head.as_bytes(), size.min(head.len()));
            assert!(
                matches!(seen.last(), Some(Seen::Fault(..))) || head.starts_with("SSH"),
                "{head:?} passed: {seen:?}"
            );
            assert!(passed.is_empty(), "bytes of {head:?} passed");
        }
    }
}

#[test]
fn bodies_with_two_readings_are_refused_where_they_turn_bad() {
    let start = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        "-1\r\n",
        "0x3\r\nabc\r\n",
        "3 3\r\nabc\r\n",
        "3;\x01\r\nabc\r\n",
        "ffffffffffffffffff\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nX-HTTP-Method-Override: PUT\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n",
        "3;=\r\nabc\r\n",
    ] {
        for size in [1, 4, usize::MAX] {
            let all = format!("{start}{body}");
            let (_, seen) = screen(all.as_bytes(), size.min(all.len()));
            assert!(matches!(seen.last(), Some(Seen::Fault(..))), "{body:?} passed");
        }
    }
}

#[test]
fn nothing_passes_after_a_fault() {
    let (passed, seen) = screen(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET // HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 9);
    assert_eq!(seen.len(), 2);
    assert!(!String::from_utf8(passed).unwrap().contains("smuggled"));
}

#[test]
fn every_bound_holds_at_its_maximum_and_refuses_one_more() {
    let line =
        |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(n - "GET / HTTP/1.1\r".len()));
    assert_eq!(fault(&line(REQUEST_LINE_BYTES_MAX)), None);
    assert_eq!(fault(&line(REQUEST_LINE_BYTES_MAX + 1)).unwrap().status, 414);

    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let head = |n: usize| format!("{start}{}\r\n\r\n", "a".repeat(n - start.len() - 4));
    assert_eq!(fault(&head(HEAD_BYTES_MAX)), None);
    assert_eq!(fault(&head(HEAD_BYTES_MAX + 1)).unwrap().status, 431);

    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    assert_eq!(fault(&fields(HEADERS_MAX)), None);
    assert_eq!(fault(&fields(HEADERS_MAX + 1)).unwrap().status, 431);

    let start = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |n: usize| format!("{start}3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(n - 4));
    assert_eq!(fault(&chunk(CHUNK_LINE_BYTES_MAX)), None);
    assert_eq!(fault(&chunk(CHUNK_LINE_BYTES_MAX + 1)).unwrap().status, 400);

    let trailer = |n: usize| format!("{start}0\r\nX: {}\r\n\r\n", "a".repeat(n - 7));
    assert_eq!(fault(&trailer(TRAILER_BYTES_MAX)), None);
    assert_eq!(fault(&trailer(TRAILER_BYTES_MAX + 1)).unwrap().status, 431);
}

#[test]
fn a_pipeline_waits_for_its_answers() {
    let mut screen = Screen::default();
    let many = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(PIPELINED_MAX + 3);
    let mut passed = Vec::new();
    let taken = screen.push(many.as_bytes(), &mut passed);
    assert_eq!(screen.waiting(), PIPELINED_MAX);
    assert_eq!(taken, many.len() / (PIPELINED_MAX + 3) * PIPELINED_MAX);
    screen.next_seen().unwrap();
    assert!(screen.push(&many.as_bytes()[taken..], &mut passed) > 0);
}

#[test]
fn an_endless_line_is_refused_without_waiting_for_its_end() {
    assert_eq!(fault(&"A".repeat(REQUEST_LINE_BYTES_MAX + 2)).unwrap().status, 414);
}
