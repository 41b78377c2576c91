//! HTTP Archive 1.2: what browsers' tools open. An operation that got no answer has status 0, as browsers write it.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::text::{Text, write_json};
use super::{Body, Whole, Writer};
use crate::record::entry::{Head, Micros, SessionClosed, SessionOpened, Verdict};
use crate::record::read::EntryView;

pub(super) struct Har<'a> {
    out: &'a mut dyn Write,
    entries: u64,
}

impl<'a> Har<'a> {
    pub(super) fn begin(out: &'a mut dyn Write) -> io::Result<Self> {
        let version = env!("CARGO_PKG_VERSION");
        write!(
            out,
            "{{\"log\":{{\"version\":\"1.2\",\"creator\":{{\"name\":\"tidegate\",\"version\":\"{version}\"}},\"entries\":["
        )?;
        Ok(Self { out, entries: 0 })
    }
}

impl Writer for Har<'_> {
    fn opened(&mut self, _: &SessionOpened) -> io::Result<()> {
        Ok(())
    }

    fn entry(&mut self, whole: &Whole<'_>) -> io::Result<bool> {
        let request = request(whole);
        let intent = &whole.entry.intent;
        let times = Times::of(whole.entry);
        let started = jiff::Timestamp::from_microsecond(intent.at).map_err(io::Error::other)?;
        let gaps = [("request", whole.request.gap()), ("response", whole.response.gap())];
        let gaps = gaps.into_iter().filter_map(|(side, gap)| Some(format!("{side}: {}", gap?)));
        let mut entry = json!({
            "startedDateTime": format!("{started:.6}"),
            "time": times.blocked + times.wait + times.receive,
            "request": request,
            "response": response(whole),
            "cache": {},
            "timings": { "blocked": times.blocked, "send": 0, "wait": times.wait, "receive": times.receive },
            "connection": whole.opened.session.to_string(),
            "comment": gaps.collect::<Vec<_>>().join("; "),
            "_tidegate": about(whole.entry),
        });
        if let Some(address) = address(&whole.opened.destination) {
            entry["serverIPAddress"] = address.into();
        }
        if self.entries > 0 {
            self.out.write_all(b",")?;
        }
        self.out.write_all(b"\n")?;
        self.entries += 1;
        write_json(self.out, &entry)?;
        Ok(true)
    }

    fn closed(&mut self, _: Option<&SessionClosed>) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n]}}\n")
    }
}

/// What the gate knows beyond the archive's own words.
fn about(entry: &EntryView) -> Value {
    let intent = &entry.intent;
    json!({
        "entry": intent.entry,
        "session": intent.session,
        "target": intent.target,
        "user": intent.user.as_ref().map(crate::operation::User::key),
        "workload": intent.workload,
        "verdict": intent.verdict,
        "decided": entry.decided,
        "rules": intent.rules,
        "reason": intent.reason,
        "policy": intent.policy,
        "masks": entry.closed.as_ref().map(|closed| &closed.masks),
        "ending": entry.ending(),
    })
}

/// Milliseconds.
struct Times {
    /// Held, waiting for people.
    blocked: f64,
    wait: f64,
    receive: f64,
}

impl Times {
    fn of(entry: &EntryView) -> Self {
        let judged = entry.intent.at;
        let held = entry.intent.verdict == Verdict::Hold;
        let released = entry.decided.last().filter(|_| held).map_or(judged, |decided| decided.at);
        let ended = entry.closed.as_ref().map_or(released, |closed| closed.at);
        let answered = entry.responded.last().map_or(ended, |responded| responded.at);
        let between = |from: Micros, to: Micros| to.saturating_sub(from).max(0) as f64 / 1000.0;
        Self {
            blocked: between(judged, released),
            wait: between(released, answered),
            receive: between(answered, ended),
        }
    }
}

/// The request. What was refused before it was one keeps what there is of it as its method, on the root.
fn request(whole: &Whole<'_>) -> Value {
    let head = &whole.entry.intent.head;
    let parts: Vec<&str> = head.line.split(' ').collect();
    let (method, target, version) = match parts[..] {
        [method, target, version] => (method, target, version),
        _ => (head.line.as_str(), "/", ""),
    };
    let host = field(head, "host").unwrap_or(&whole.opened.destination);
    let url = format!("http://{}{}", uri_text(host), uri_text(target));
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let mut request = json!({
        "method": method,
        "url": url,
        "httpVersion": version,
        "cookies": [],
        "headers": fields(head),
        "queryString": query_string(query),
        "headersSize": -1,
        "bodySize": whole.request.end.bytes,
    });
    if whole.request.end.bytes > 0 || !whole.request.bytes.is_empty() {
        request["postData"] = Value::Object(content("_encoding", head, &whole.request));
    }
    request
}

fn response(whole: &Whole<'_>) -> Value {
    let entry = whole.entry;
    let nothing = Head::default();
    let head = entry.responded.last().map_or(&nothing, |responded| &responded.head);
    let status = entry.responded.last().map(|responded| responded.status);
    let status = status.or(entry.closed.as_ref().and_then(|closed| closed.status)).unwrap_or(0);
    let mut line = head.line.splitn(3, ' ');
    let (version, reason) = (line.next().unwrap_or_default(), line.nth(1).unwrap_or_default());
    let mut content = content("encoding", head, &whole.response);
    content.insert("size".into(), whole.response.end.bytes.into());
    json!({
        "status": status,
        "statusText": reason,
        "httpVersion": if version.is_empty() { "HTTP/1.1" } else { version },
        "cookies": [],
        "headers": fields(head),
        "content": content,
        "redirectURL": field(head, "location").unwrap_or_default(),
        "headersSize": -1,
        "bodySize": whole.response.end.bytes,
    })
}

/// A body. Where it is no text it is base64, and says so under `encoding`: a word of the archive in answers,
/// one of ours in requests.
fn content(encoding: &str, head: &Head, body: &Body) -> Map<String, Value> {
    let mut content = Map::new();
    content
        .insert("mimeType".into(), field(head, "content-type").unwrap_or("application/octet-stream").into());
    let (text, is_base64) = match Text::of(body.bytes.clone()) {
        Text::Text(text) => (text, false),
        Text::Base64(text) => (text, true),
    };
    content.insert("text".into(), text.into());
    if is_base64 {
        content.insert(encoding.into(), "base64".into());
    }
    if let Some(gap) = body.gap() {
        content.insert("comment".into(), gap.into());
    }
    content
}

fn field<'a>(head: &'a Head, name: &str) -> Option<&'a str> {
    head.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn fields(head: &Head) -> Vec<Value> {
    head.fields.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
}

fn query_string(query: &str) -> Vec<Value> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        json!({ "name": name, "value": value })
    };
    pairs.map(pair).collect()
}

/// Text of a URI: what may not stand in one is percent-encoded.
fn uri_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'?' | b'[' | b']' | b'@' | b'!' | b'$' | b'&'
            | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b'%' => out.push(char::from(byte)),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn address(destination: &str) -> Option<String> {
    destination.parse::<std::net::SocketAddr>().ok().map(|address| address.ip().to_string())
}
