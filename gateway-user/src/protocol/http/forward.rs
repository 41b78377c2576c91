//! Header fields on their way through: hop-by-hop fields end here (RFC 9110 section 7.6.1), forwarding fields are
//! the gate's own, and a masked answer sheds what would no longer be true. Refuses responses with two lengths.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::intercept::Flow;
use crate::judge::{Duties, recorded_by};
use crate::mask::{Hits, Packing, Plan};
use crate::operation::Direction;
use crate::record::entry::Head;
use crate::wire::coding::Codings;
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

/// What becomes of an answer's body on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed {
    /// It is masked: unpacked for that, where it is packed.
    pub(super) masked: bool,
    /// Members of its JSON are set or removed; it must come plain for that.
    pub(super) rewritten: bool,
}

/// Turns a client's request fields into those the target gets.
/// `changed`: what becomes of the answer. `safe`: the method asks for nothing but an answer.
pub(super) fn request(
    headers: &mut HeaderMap,
    flow: &Flow,
    forward_token: bool,
    changed: Changed,
    safe: bool,
) {
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
    if changed.masked || changed.rewritten {
        ask_for_whole(headers, safe);
    }
    if changed.rewritten {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if flow.direction == Direction::Inbound {
        name_client(headers, flow);
    }
}

/// An answer that will be rewritten must come whole, and in codings that can be undone. No validator of it reaches a
/// client, so none that a client has is of what it would get now: asked without.
fn ask_for_whole(headers: &mut HeaderMap, safe: bool) {
    for name in [header::RANGE, header::IF_RANGE] {
        headers.remove(name);
    }
    if safe {
        for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE] {
            headers.remove(name);
        }
    }
    let asked: Vec<String> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|coding| {
            let name = coding.split(';').next().unwrap_or_default().trim();
            name.eq_ignore_ascii_case("identity")
                || Codings::read([name.as_bytes()]).is_ok_and(|c| !c.is_identity())
        })
        .map(str::to_owned)
        .collect();
    let asked = if asked.is_empty() { "identity".to_owned() } else { asked.join(", ") };
    if let Ok(value) = HeaderValue::try_from(asked) {
        headers.insert(header::ACCEPT_ENCODING, value);
    }
}

/// Takes out what a client proves itself by, where that does not go on, and puts in what the gate has for the target.
pub(super) fn credentials(headers: &mut HeaderMap, duties: &Duties) {
    duties.stripped.iter().for_each(|name| drop(headers.remove(name.as_str())));
    if let Some(injection) = &duties.injection {
        without(headers, injection.header.as_str());
        headers.insert(injection.header.clone(), injection.value.clone());
    }
}

/// Removes a field, in each spelling that some reader takes for it.
pub(super) fn without(headers: &mut HeaderMap, name: &str) {
    let twins: Vec<HeaderName> =
        headers.keys().filter(|other| field::is_twin(other.as_str(), name)).cloned().collect();
    twins.into_iter().for_each(|twin| drop(headers.remove(twin)));
}

/// Fields that say something about exact bytes, which masking changes.
const OF_EXACT_BYTES: [&str; 8] = [
    "content-length",
    "content-encoding",
    "etag",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
    "accept-ranges",
];

/// Removes from a message, or from its trailers, what no longer holds once its body was unpacked and masked.
pub(super) fn shed(headers: &mut HeaderMap, packing: &Packing) {
    for name in OF_EXACT_BYTES {
        headers.remove(name);
    }
    let renamed = packing.renamed().and_then(|renamed| HeaderValue::try_from(renamed).ok());
    if let Some(renamed) = renamed.filter(|_| headers.contains_key(header::CONTENT_TYPE)) {
        headers.insert(header::CONTENT_TYPE, renamed);
    }
}

/// Hides the values of header fields that masks name.
pub(super) fn hide(headers: &mut HeaderMap, plan: &Plan) -> Hits {
    let mut all = Hits::default();
    if !plan.has_headers() {
        return all;
    }
    for (name, value) in headers.iter_mut() {
        let Some((shown, hits)) = plan.header(name.as_str(), value.as_bytes()) else { continue };
        *value = HeaderValue::try_from(shown).unwrap_or_else(|_| HeaderValue::from_static("********"));
        all.masks.extend(hits.masks);
    }
    all
}

/// An answer's head as the record may hold it.
pub(super) fn recorded<'a>(
    plan: &Plan,
    status: StatusCode,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Head {
    let line = format!("HTTP/1.1 {} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    recorded_by(plan, line.trim_end(), fields)
}

/// How the body of a message with these fields is packed.
pub(super) fn packing(headers: &HeaderMap) -> Packing {
    Packing::of(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
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
pub(super) fn response(
    status: StatusCode,
    headers: &mut HeaderMap,
    packing: &Packing,
    changed: Changed,
) -> Result<(), Unfit> {
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Unfit("the upstream's response has both Content-Length and Transfer-Encoding"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => return Err(Unfit("the upstream used a transfer coding that was not asked for")),
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Unfit("the upstream switched to another protocol"));
    }
    strip(headers);
    if !changed.masked && !changed.rewritten {
        return Ok(());
    }
    let is_plain = packing.codings().is_ok_and(|codings| codings.is_identity());
    if changed.rewritten && !is_plain {
        return Err(Unfit("the upstream coded a body that must be rewritten, though asked not to"));
    }
    if packing.codings().is_err() {
        return Err(Unfit("the upstream coded a body that must be masked in a way that cannot be undone"));
    }
    if status == StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_RANGE) {
        return Err(Unfit("the upstream sent a part of a body that must be masked whole"));
    }
    if changed.masked {
        shed(headers, packing);
    } else {
        OF_EXACT_BYTES.iter().for_each(|name| drop(headers.remove(*name)));
    }
    Ok(())
}

/// Removes hop-by-hop fields and those that `Connection` names.
fn strip(headers: &mut HeaderMap) {
    end_named(headers);
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes `Connection` and the fields that it names, but for those of the connection itself, which are still to be read.
pub(super) fn end_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE)
        .collect();
    for name in named.iter().filter(|name| !HOP_BY_HOP.contains(&name.as_str())) {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASKED: Changed = Changed { masked: true, rewritten: false };
    const PLAIN: Changed = Changed { masked: false, rewritten: false };
    use crate::kernel::Login;
    use crate::operation::SessionId;

    fn flow(direction: Direction) -> Flow {
        Flow {
            space: None,
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
        request(&mut sent, &flow(Direction::Inbound), true, PLAIN, true);
        assert_eq!(sent["x-forwarded-for"], "192.0.2.7");
        assert_eq!(sent["forwarded"], "for=192.0.2.7;host=\"react\";proto=http");
        assert!(!sent.contains_key("x-real-ip"));
        request(&mut sent, &flow(Direction::Outbound), true, PLAIN, true);
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
        request(&mut sent, &flow(Direction::Outbound), true, PLAIN, true);
        assert!(
            !sent.contains_key("x-hop") && !sent.contains_key("keep-alive") && !sent.contains_key("upgrade")
        );
        assert_eq!(
            (&sent["x-end"], &sent["te"]),
            (&HeaderValue::from_static("2"), &HeaderValue::from_static("trailers"))
        );
    }

    #[test]
    fn a_masked_answer_is_asked_for_whole_and_in_codings_that_can_be_undone() {
        for (sent, asked) in [
            ("gzip, br", "gzip, br"),
            ("zstd;q=0.5, compress, *, dcb, x-gzip", "zstd;q=0.5, x-gzip"),
            ("compress", "identity"),
            ("gzip;q=0, identity", "gzip;q=0, identity"),
        ] {
            let mut sent = headers(&[("range", "bytes=0-9"), ("if-range", "x"), ("accept-encoding", sent)]);
            request(&mut sent, &flow(Direction::Outbound), true, MASKED, true);
            assert!(!sent.contains_key("range") && !sent.contains_key("if-range"));
            assert_eq!(sent["accept-encoding"], asked);
        }
        let mut silent = headers(&[]);
        request(&mut silent, &flow(Direction::Outbound), true, MASKED, true);
        assert_eq!(silent["accept-encoding"], "identity");
    }

    #[test]
    fn a_condition_on_what_a_client_had_unmasked_is_not_asked_but_one_on_a_write_is() {
        let conditions = [("if-none-match", "\"v1\""), ("if-modified-since", "x"), ("if-match", "\"v1\"")];
        let mut sent = headers(&conditions);
        request(&mut sent, &flow(Direction::Outbound), true, MASKED, true);
        assert_eq!(
            (sent.contains_key("if-none-match"), sent.contains_key("if-modified-since")),
            (false, false)
        );
        assert!(sent.contains_key("if-match"));
        let mut sent = headers(&conditions);
        request(&mut sent, &flow(Direction::Outbound), true, MASKED, false);
        assert!(sent.contains_key("if-none-match"));
    }

    #[test]
    fn a_token_goes_on_only_where_the_target_wants_it() {
        let mut sent = headers(&[("authorization", "Bearer x")]);
        request(&mut sent, &flow(Direction::Inbound), false, PLAIN, true);
        assert!(!sent.contains_key("authorization"));
    }

    fn fit(pairs: &[(&'static str, &'static str)], masked: bool) -> Result<HeaderMap, Unfit> {
        let mut headers = headers(pairs);
        let packing = packing(&headers);
        response(http::StatusCode::OK, &mut headers, &packing, if masked { MASKED } else { PLAIN })
            .map(|()| headers)
    }

    #[test]
    fn answers_that_cannot_be_masked_are_unfit() {
        for bad in [&[("content-encoding", "compress")][..], &[("content-range", "bytes 0-1/2")]] {
            assert!(fit(bad, true).is_err());
            assert!(fit(bad, false).is_ok());
        }
        assert!(fit(&[("content-length", "1"), ("transfer-encoding", "chunked")], false).is_err());
        for coding in ["gzip, chunked", "gzip", "identity"] {
            assert!(fit(&[("transfer-encoding", coding)], false).is_err(), "{coding}");
        }
    }

    #[test]
    fn a_masked_answer_sheds_what_was_true_of_the_unmasked_one() {
        let sent = [
            ("content-length", "5"),
            ("content-encoding", "gzip"),
            ("etag", "x"),
            ("content-md5", "x"),
            ("digest", "x"),
            ("content-digest", "x"),
            ("repr-digest", "x"),
            ("accept-ranges", "bytes"),
            ("content-type", "text/plain; charset=Shift_JIS; x=y"),
        ];
        let masked = fit(&sent, true).unwrap();
        assert_eq!(masked.len(), 1);
        assert_eq!(masked["content-type"], "text/plain; charset=utf-8; x=y");
        assert_eq!(fit(&sent, false).unwrap().len(), sent.len());
    }
}
