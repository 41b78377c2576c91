//! The one spelling of a request's target and host. Refuses every other spelling instead of repairing it, so that
//! what is judged is what the upstream will read (RFC 3986 section 6, RFC 9110 section 4.2, RFC 9112 section 3.2).

use super::fault::Fault;

/// A request target taken apart; borrowed from the request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestTarget<'a> {
    /// Canonical path: starts with `/`, or is `*`.
    pub path: &'a str,
    /// Query without the `?`.
    pub query: Option<&'a str>,
    /// Authority of an absolute-form target.
    pub authority: Option<&'a str>,
}

/// Reads origin-form and absolute-form (`http` only) targets, and `*` for OPTIONS.
///
/// # Errors
/// A [`Fault`] for every other form and for every path with a second spelling.
pub fn request_target<'a>(method: &str, target: &'a [u8]) -> Result<RequestTarget<'a>, Fault> {
    let text = std::str::from_utf8(target).map_err(|_| Fault::bad("the request target is not ASCII"))?;
    if !text.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
        return Err(Fault::bad("the request target has bytes that belong percent-encoded"));
    }
    if method == "CONNECT" {
        return Err(Fault::new(405, "CONNECT asks for a tunnel, and a tunnel cannot be judged"));
    }
    if text == "*" {
        return if method == "OPTIONS" {
            Ok(RequestTarget { path: "*", query: None, authority: None })
        } else {
            Err(Fault::bad("only OPTIONS may ask for *"))
        };
    }
    let (authority, rest) = match text.strip_prefix('/') {
        Some(_) => (None, text),
        None => {
            let rest = strip_scheme(text)?;
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let path = if path.is_empty() && authority.is_some() { "/" } else { path };
    if rest.contains('#') {
        return Err(Fault::bad("a request target has no fragment"));
    }
    canonical_path(path)?;
    if query.is_some_and(|q| q.bytes().any(|b| matches!(b, b'"' | b'<' | b'>'))) {
        return Err(Fault::bad("the query has bytes that belong percent-encoded"));
    }
    Ok(RequestTarget { path, query, authority })
}

fn strip_scheme(text: &str) -> Result<&str, Fault> {
    let scheme = text.get(..7).ok_or(Fault::bad("the request target is neither a path nor an http URL"))?;
    if scheme.eq_ignore_ascii_case("http://") {
        return Ok(&text[7..]);
    }
    Err(Fault::bad("the request target is neither a path nor an http URL"))
}

/// Checks that a path has exactly one spelling: this one.
///
/// # Errors
/// A [`Fault`] for dot segments, empty segments (a trailing slash is one of its own and allowed), encoded slashes,
/// encoded unreserved characters, lower-case escapes, encoded control characters and escapes that are not UTF-8.
pub fn canonical_path(path: &str) -> Result<(), Fault> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(Fault::bad("the path does not start with /"));
    };
    let last = rest.matches('/').count();
    for (index, segment) in rest.split('/').enumerate() {
        if segment.is_empty() && index != last {
            return Err(Fault::bad("the path has an empty segment"));
        }
        // `..;x` is `..` to servers that strip path parameters.
        if matches!(segment.split(';').next(), Some("." | "..")) {
            return Err(Fault::bad("the path has a dot segment"));
        }
        canonical_segment(segment)?;
    }
    Ok(())
}

fn canonical_segment(segment: &str) -> Result<(), Fault> {
    let bytes = segment.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            if !is_path_byte(byte) {
                return Err(Fault::bad("the path has bytes that belong percent-encoded"));
            }
            decoded.push(byte);
            at += 1;
            continue;
        }
        let value = escape(bytes.get(at + 1..at + 3))?;
        decoded.push(value);
        at += 3;
    }
    match std::str::from_utf8(&decoded) {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::bad("the path's escapes are not UTF-8")),
    }
}

fn escape(digits: Option<&[u8]>) -> Result<u8, Fault> {
    let value = digits
        .filter(|digits| digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'A'..=b'F')))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .ok_or(Fault::bad("the path has an escape that is not % and two upper-case hexadecimal digits"))?;
    match value {
        b'/' | b'\\' => Err(Fault::bad("the path has an encoded slash")),
        0..=0x1f | 0x7f => Err(Fault::bad("the path has an encoded control character")),
        _ if is_unreserved(value) => {
            Err(Fault::bad("the path has an encoded character that needs no encoding"))
        }
        _ => Ok(value),
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 section 3.3, without the escapes.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'@')
}

/// A `Host` value taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Name or address, lower case, without brackets and without a trailing dot.
    pub host: String,
    /// The port, where one is written.
    pub port: Option<u16>,
}

/// Reads `host[:port]` (RFC 9110 section 7.2).
///
/// # Errors
/// A [`Fault`] for user information, an empty host, a bad port, or bytes outside names and addresses.
pub fn authority(value: &str) -> Result<Authority, Fault> {
    let bad = Fault::bad("the Host is not a host name or address with an optional port");
    let (host, port) = match value.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(bad.clone())?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad.clone())?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(bad.clone())?) })
        }
        None => match value.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (value, None),
        },
    };
    let plain = host.strip_suffix('.').unwrap_or(host);
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    let labels = host.contains(':') || plain.split('.').all(|label| !label.is_empty());
    if plain.is_empty() || plain.len() > 253 || !plain.bytes().all(known) || !labels {
        return Err(bad);
    }
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| bad.clone())?)
        }
        Some(_) => return Err(bad),
    };
    Ok(Authority { host: plain.to_ascii_lowercase(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> bool {
        request_target("GET", path.as_bytes()).is_err()
    }

    #[test]
    fn canonical_paths_pass_untouched() {
        for path in [
            "/",
            "/v1/models/a",
            "/v1/models/a/",
            "/a%20b",
            "/%C3%A9",
            "/a;v=1",
            "/~x/@y:z",
            "/a?b=[c]&d=/../",
        ] {
            let read = request_target("GET", path.as_bytes()).unwrap();
            assert_eq!(read.path, path.split('?').next().unwrap());
        }
    }

    #[test]
    fn every_second_spelling_is_refused() {
        for path in [
            "",
            "v1",
            "//v1",
            "/v1//x",
            "/v1/../x",
            "/v1/./x",
            "/..",
            "/.",
            "/a/..;x/b",
            "/%2e%2e/x",
            "/%2E/x",
            "/a%2Fb",
            "/a%2fb",
            "/a%5Cb",
            "/%61",
            "/%c3%a9",
            "/%C0%AE",
            "/%",
            "/%4",
            "/%zz",
            "/%00",
            "/%0A",
            "/%7F",
            "/a\\b",
            "/a#b",
            "/é",
            "/a b",
            "/a\"b",
            "/a|b",
            "/?<a>",
            "/?q=\"x\"",
        ] {
            assert!(refused(path), "{path} passed");
        }
    }

    #[test]
    fn absolute_form_gives_the_authority_and_the_path() {
        let read = request_target("GET", b"http://crm:9000/a?b").unwrap();
        assert_eq!(read, RequestTarget { path: "/a", query: Some("b"), authority: Some("crm:9000") });
        assert_eq!(request_target("GET", b"HTTP://crm").unwrap().path, "/");
        assert!(request_target("GET", b"https://crm/").is_err());
        assert!(request_target("GET", b"ftp://crm/").is_err());
    }

    #[test]
    fn only_options_may_ask_for_the_server_itself_and_nobody_for_a_tunnel() {
        assert!(request_target("OPTIONS", b"*").is_ok());
        assert!(request_target("GET", b"*").is_err());
        assert_eq!(request_target("CONNECT", b"crm:443").unwrap_err().status, 405);
    }

    #[test]
    fn a_host_is_read_in_one_way_or_refused() {
        assert_eq!(
            authority("CRM.Example.:80").unwrap(),
            Authority { host: "crm.example".into(), port: Some(80) }
        );
        assert_eq!(authority("[::1]:8080").unwrap(), Authority { host: "::1".into(), port: Some(8080) });
        for value in [
            "",
            ":80",
            "a b",
            "user@host",
            "a:b",
            "a:99999",
            "a:1:2",
            "[::1",
            "[::1]x",
            "[crm]",
            "a/b",
            "a,b",
            ".",
        ] {
            assert!(authority(value).is_err(), "{value} passed");
        }
    }
}
