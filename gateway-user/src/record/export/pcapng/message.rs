//! Recorded messages as bytes that parse: the recorded head, with the length of the recorded body in the place of how it
//! was framed on the wire, and the body.

use crate::record::entry::{Head, Side};

use super::super::{Body, Whole};

/// The request; `None` where what came was no request line.
pub(super) fn request(whole: &Whole<'_>) -> Option<Vec<u8>> {
    let head = &whole.entry.intent.head;
    let mut parts = head.line.split(' ');
    let [Some(_), Some(_), Some(version), None] = [parts.next(), parts.next(), parts.next(), parts.next()]
    else {
        return None;
    };
    let has_body = !whole.request.bytes.is_empty() || framing(head).next().is_some();
    version.starts_with("HTTP/1.").then(|| message(head, &whole.request, has_body, Side::Request))
}

/// The response; `None` where there was none. The gate's own answer is shown by its status alone.
pub(super) fn response(whole: &Whole<'_>) -> Option<Vec<u8>> {
    let Some(responded) = whole.entry.responded.last() else {
        let status = whole.entry.closed.as_ref()?.status?;
        let reason = http::StatusCode::from_u16(status).ok()?.canonical_reason().unwrap_or("Refused");
        return Some(format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n\r\n").into_bytes());
    };
    let asked = &whole.entry.intent.head.line;
    let mut head = responded.head.clone();
    if head.line.is_empty() {
        head.line = format!("HTTP/1.1 {}", responded.status);
    }
    let bodiless = asked.starts_with("HEAD ") || matches!(responded.status, 100..200 | 204 | 304);
    if bodiless {
        // Its length, where it says one, is that of another answer.
        head.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("transfer-encoding"));
        return Some(bytes_of(&head, &[]));
    }
    Some(message(&head, &whole.response, true, Side::Response))
}

fn message(head: &Head, body: &Body, has_body: bool, side: Side) -> Vec<u8> {
    let mut head = head.clone();
    head.fields.retain(|(name, _)| !is_framing(name));
    for (name, _) in head.fields.iter_mut().filter(|(name, value)| is_undone(name, value, &body.bytes)) {
        *name = format!("X-Recorded-{name}");
    }
    if has_body {
        head.fields.push(("Content-Length".into(), body.bytes.len().to_string()));
    }
    if let Some(gap) = body.gap() {
        let side = if side == Side::Request { "Request" } else { "Response" };
        head.fields.push((format!("X-Recorded-{side}-Gap"), gap));
    }
    bytes_of(&head, &body.bytes)
}

/// Whether this says that the body is compressed, and the record holds it plain.
fn is_undone(name: &str, coding: &str, body: &[u8]) -> bool {
    if !name.eq_ignore_ascii_case("content-encoding") {
        return false;
    }
    match coding.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => !body.starts_with(&[0x1f, 0x8b]),
        "zstd" => !body.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        _ => std::str::from_utf8(body).is_ok(),
    }
}

fn is_framing(name: &str) -> bool {
    ["content-length", "transfer-encoding", "trailer"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn framing(head: &Head) -> impl Iterator<Item = &str> {
    head.fields.iter().map(|(name, _)| name.as_str()).filter(|name| is_framing(name))
}

fn bytes_of(head: &Head, body: &[u8]) -> Vec<u8> {
    let mut out = clean(&head.line).into_bytes();
    out.extend(b"\r\n");
    for (name, value) in &head.fields {
        out.extend(format!("{}: {}\r\n", clean(name), clean(value)).into_bytes());
    }
    out.extend(b"\r\n");
    out.extend(body);
    out
}

/// A line cannot become two, whatever the record holds.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
}
