//! Header fields on their way through: hop-by-hop fields end here (RFC 9110 section 7.6.1), forwarding fields are
//! the gate's own, and a masked answer sheds what would no longer be true. Refuses responses with two lengths.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::intercept::Flow;
use crate::operation::Direction;
use crate::wire::fault::Fault;
use crate::wire::field::{self, FORWARDED, HOP_BY_HOP, TO_THE_GATE};
use crate::wire::http1;

/// The end-to-end fields of a request, in order: what is judged and forwarded.
///
/// # Errors
/// A [`Fault`] where `Connection` names an end-to-end field.
pub(super) fn end_to_end(fields: &[(String, Vec<u8>)]) -> Result<Vec<(String, Vec<u8>)>, Fault> {
    let options = field::connection_options(http1::values(fields, "connection"))?;
    let dropped = |name: &str| {
        let name = name.to_ascii_lowercase();
        let lists: [&[&str]; 3] = [&HOP_BY_HOP, &FORWARDED, &TO_THE_GATE];
        lists.iter().any(|list| list.contains(&name.as_str())) || options.contains(&name)
    };
    Ok(fields.iter().filter(|(name, _)| !dropped(name)).cloned().collect())
}

/// Turns a client's request fields into those the target gets.
pub(super) fn request(headers: &mut HeaderMap, flow: &Flow, forward_token: bool, masked: bool) {
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip(headers);
    for name in FORWARDED.into_iter().chain(TO_THE_GATE) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if !forward_token {
        headers.remove(header::AUTHORIZATION);
    }
    if masked {
        // What will be rewritten must come whole and readable.
        for name in [header::RANGE, header::IF_RANGE, header::ACCEPT_ENCODING] {
            headers.remove(name);
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if flow.direction == Direction::Inbound {
        name_client(headers, flow);
    }
}

/// `Forwarded` (RFC 7239) and its older relatives, written by the gate alone.
fn name_client(headers: &mut HeaderMap, flow: &Flow) {
    let host = headers.get(header::HOST).cloned();
    let peer = flow.peer.ip();
    let node = if peer.is_ipv6() { format!("\"[{peer}]\"") } else { peer.to_string() };
    let shown =
        host.as_ref().and_then(|h| h.to_str().ok()).map(|h| format!(";host=\"{h}\"")).unwrap_or_default();
    let values = [
        ("forwarded", format!("for={node}{shown};proto=http")),
        ("x-forwarded-for", peer.to_string()),
        ("x-forwarded-proto", "http".to_owned()),
    ];
    for (name, value) in values {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Some(host) = host {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
}

/// Why a response cannot be passed on. Always the upstream's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(pub &'static str);

/// Turns a target's response fields into those the client gets.
///
/// # Errors
/// [`Unfit`] for a response with two lengths, and for one whose content cannot be read where it must be masked.
pub(super) fn response(status: http::StatusCode, headers: &mut HeaderMap, masked: bool) -> Result<(), Unfit> {
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Unfit("the upstream's response has both Content-Length and Transfer-Encoding"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => return Err(Unfit("the upstream used a transfer coding that was not asked for")),
    }
    if status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(Unfit("the upstream switched to another protocol"));
    }
    strip(headers);
    if !masked {
        return Ok(());
    }
    let coded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|c| !c.as_bytes().eq_ignore_ascii_case(b"identity"));
    if coded {
        return Err(Unfit("the upstream compressed a body that must be masked, though asked not to"));
    }
    if status == http::StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_RANGE) {
        return Err(Unfit("the upstream sent a part of a body that must be masked whole"));
    }
    for name in
        ["content-length", "etag", "content-md5", "digest", "content-digest", "repr-digest", "accept-ranges"]
    {
        headers.remove(name);
    }
    Ok(())
}

/// Removes hop-by-hop fields and those that `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Login;
    use crate::operation::SessionId;

    fn flow(direction: Direction) -> Flow {
        Flow {
            session: SessionId::now(),
            direction,
            peer: "192.0.2.7:5".parse().unwrap(),
            destination: "192.0.2.8:80".parse().unwrap(),
            workload: None,
            login: Login::Unknown,
            guard: None,
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_client_cannot_name_another_client() {
        let mut sent = headers(&[
            ("host", "react"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "1.1.1.1"),
        ]);
        request(&mut sent, &flow(Direction::Inbound), true, false);
        assert_eq!(sent["x-forwarded-for"], "192.0.2.7");
        assert_eq!(sent["forwarded"], "for=192.0.2.7;host=\"react\";proto=http");
        assert!(!sent.contains_key("x-real-ip"));
        request(&mut sent, &flow(Direction::Outbound), true, false);
        assert!(!sent.contains_key("forwarded") && !sent.contains_key("x-forwarded-for"));
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let mut sent = headers(&[
            ("connection", "x-hop, keep-alive"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-end", "2"),
        ]);
        request(&mut sent, &flow(Direction::Outbound), true, false);
        assert!(
            !sent.contains_key("x-hop") && !sent.contains_key("keep-alive") && !sent.contains_key("upgrade")
        );
        assert_eq!(
            (&sent["x-end"], &sent["te"]),
            (&HeaderValue::from_static("2"), &HeaderValue::from_static("trailers"))
        );
    }

    #[test]
    fn a_masked_body_is_asked_for_whole_and_plain() {
        let mut sent = headers(&[("range", "bytes=0-9"), ("accept-encoding", "gzip, br")]);
        request(&mut sent, &flow(Direction::Outbound), true, true);
        assert!(!sent.contains_key("range"));
        assert_eq!(sent["accept-encoding"], "identity");
    }

    #[test]
    fn a_token_goes_on_only_where_the_target_wants_it() {
        let mut sent = headers(&[("authorization", "Bearer x")]);
        request(&mut sent, &flow(Direction::Inbound), false, false);
        assert!(!sent.contains_key("authorization"));
    }

    #[test]
    fn answers_that_cannot_be_masked_are_unfit() {
        let ok = http::StatusCode::OK;
        for bad in [&[("content-encoding", "gzip")][..], &[("content-range", "bytes 0-1/2")]] {
            assert!(response(ok, &mut headers(bad), true).is_err());
            assert!(response(ok, &mut headers(bad), false).is_ok());
        }
        assert!(
            response(ok, &mut headers(&[("content-length", "1"), ("transfer-encoding", "chunked")]), false)
                .is_err()
        );
        for coding in ["gzip, chunked", "gzip", "identity"] {
            let mut coded = HeaderMap::new();
            coded.insert(header::TRANSFER_ENCODING, HeaderValue::from_static(coding));
            assert!(response(ok, &mut coded, false).is_err(), "{coding}");
        }
        let mut plain = headers(&[("content-length", "5"), ("etag", "x"), ("content-type", "text/plain")]);
        response(ok, &mut plain, true).unwrap();
        assert_eq!(plain.len(), 1);
    }
}
