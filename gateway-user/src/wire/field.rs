//! Header fields: which bytes they may hold, which belong to one hop only, and which a gate must not let pass.
//! Refuses fields that give a message a second reading (RFC 9110 section 5, RFC 9112 section 5).

use super::fault::Fault;

/// Whether two names are those of one field, also to servers that read `_` as `-`.
#[must_use]
pub fn is_twin(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.bytes().map(plain).eq(other.bytes().map(plain))
}

/// Fields that belong to one connection (RFC 9110 section 7.6.1, and the de facto `Proxy-Connection`, `Keep-Alive`).
pub const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields by which a client could name another client, address or scheme than its own; the gate writes its own.
pub const FORWARDED: [&str; 10] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
];

/// Fields that a client says to the gate alone; no target gets them.
pub const TO_THE_GATE: [&str; 1] = [REASON];

/// Why a request is made, in its requester's words, for whoever must approve it.
pub const REASON: &str = "tidegate-reason";

/// Fields that some servers obey instead of the request line.
const OVERRIDES: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-original-method",
];

/// End-to-end fields that a `Connection` field must not name, lest it strip what was judged.
const NEVER_HOP: [&str; 6] = ["host", "content-length", "content-type", "authorization", "cookie", "expect"];

/// RFC 9110 section 5.6.2.
#[must_use]
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A token of at least one byte.
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

/// Reads one field line without its CRLF: name, value without the white space around it.
///
/// # Errors
/// A [`Fault`] for folded lines, white space before the colon, bare CR, control characters, override fields, and
/// names that turn into a framing or forwarding field on servers that read `_` as `-`.
pub fn line(line: &[u8]) -> Result<(&str, &[u8]), Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::bad("a header line is folded"));
    }
    let colon = line.iter().position(|&b| b == b':').ok_or(Fault::bad("a header line has no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(Fault::bad("a header name is not a token"));
    }
    let name = std::str::from_utf8(name).map_err(|_| Fault::bad("a header name is not a token"))?;
    // White space around a value is spaces and tabs (RFC 9110 section 5.6.3); anything else stays, and is refused.
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    let value = &value[start..end];
    if !value.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f)) {
        return Err(Fault::bad("a header value has a control character"));
    }
    check_name(name)?;
    Ok((name, value))
}

fn check_name(name: &str) -> Result<(), Fault> {
    if OVERRIDES.iter().any(|o| name.eq_ignore_ascii_case(o)) {
        return Err(Fault::bad("a header asks for another method or path than the request line"));
    }
    if !name.contains('_') {
        return Ok(());
    }
    let dashed = name.replace('_', "-").to_ascii_lowercase();
    let twins = [&HOP_BY_HOP[..], &FORWARDED, &OVERRIDES, &NEVER_HOP].concat();
    if twins.contains(&dashed.as_str()) {
        return Err(Fault::bad("a header name with _ reads as another header on some servers"));
    }
    Ok(())
}

/// Names that the `Connection` values of this message make hop-by-hop, lower case.
///
/// # Errors
/// A [`Fault`] where `Connection` names a field that was judged as end-to-end.
pub fn connection_options<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    for value in values {
        let text =
            std::str::from_utf8(value).map_err(|_| Fault::bad("the Connection header is not ASCII"))?;
        for option in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            let option = option.to_ascii_lowercase();
            if NEVER_HOP.contains(&option.as_str()) || FORWARDED.contains(&option.as_str()) {
                return Err(Fault::bad("the Connection header names an end-to-end header"));
            }
            names.push(option);
        }
    }
    Ok(names)
}

/// Whether a trailer may carry this field (RFC 9110 section 6.5.1: not framing, routing, authentication or content).
#[must_use]
pub fn may_trail(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    !(HOP_BY_HOP.contains(&name)
        || FORWARDED.contains(&name)
        || NEVER_HOP.contains(&name)
        || matches!(
            name,
            "content-encoding" | "content-range" | "cache-control" | "range" | "set-cookie" | "te"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_field_is_read_without_its_padding() {
        assert_eq!(line(b"X-Run:  7\t").unwrap(), ("X-Run", &b"7"[..]));
        assert_eq!(line(b"X-Empty:").unwrap(), ("X-Empty", &b""[..]));
    }

    #[test]
    fn fields_with_two_readings_are_refused() {
        for bad in [
            &b" folded"[..],
            b"\tfolded",
            b"No colon",
            b"Space : x",
            b": x",
            b"A: b\rc",
            b"A: b\0c",
            b"A: b\x7f",
            b"X-HTTP-Method-Override: DELETE",
            b"x-original-url: /admin",
            b"Content_Length: 3",
            b"X_Forwarded_For: 1.1.1.1",
            b"Transfer_Encoding: chunked",
            b"A: b\r",
            b"A: \x0cb",
            b"A: b\x0c",
            b"X_HTTP_Method: PUT",
        ] {
            assert!(line(bad).is_err(), "{:?} passed", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn connection_may_not_strip_what_was_judged() {
        let names = connection_options([&b"close, X-Hop"[..]].into_iter()).unwrap();
        assert_eq!(names, ["close", "x-hop"]);
        assert!(connection_options([&b"Authorization"[..]].into_iter()).is_err());
        assert!(connection_options([&b"x-forwarded-for"[..]].into_iter()).is_err());
    }

    #[test]
    fn trailers_carry_no_framing_or_identity() {
        assert!(may_trail("X-Checksum") && may_trail("grpc-status"));
        assert!(!may_trail("Content-Length") && !may_trail("authorization") && !may_trail("Host"));
    }
}
