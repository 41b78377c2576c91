//! What kind of body a Content-Type announces, as far as masking is concerned.
//!
//! Believes it only so far: what is called text and looks like JSON is read as JSON where that matters.

use crate::wire::media_type::MediaType;

/// The kind of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// JSON, one value or a sequence of them (NDJSON, JSON text sequences).
    Json,
    /// Text in UTF-8 or another superset of ASCII.
    Text,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `multipart/*`, with its boundary.
    Multipart(Vec<u8>),
    /// A table, and what parts its cells where the type says so.
    Csv(Option<u8>),
    /// XML.
    Xml,
    /// HTML.
    Html,
    /// Server-sent events.
    Events,
    /// Bytes of any kind; detectors look for ASCII in them.
    Opaque,
}

impl Media {
    /// Reads the value of a Content-Type field; `None` where there is no such field.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> Self {
        let Some(content_type) = content_type else { return Self::Opaque };
        let read = MediaType::read(content_type);
        let essence = match read.essence() {
            Some(essence) => essence,
            // Whoever takes the first of several words reads parts.
            None if starts_with(content_type, "multipart/") => "multipart/",
            None => return Self::Opaque,
        };
        if essence.starts_with("multipart/") {
            // Without a boundary nobody can read it.
            return Self::Multipart(boundary(&read).unwrap_or_default());
        }
        match (Self::of_essence(essence), read.parameter("header")) {
            (kind @ Self::Csv(_), Ok(header)) if header.is_none_or(|header| header == "present") => kind,
            // Its first row names nothing (RFC 4180 section 3), so that no column is known.
            (Self::Csv(_), _) => Self::Text,
            (kind, _) => kind,
        }
    }

    fn of_essence(essence: &str) -> Self {
        let Some((kind, subtype)) = essence.split_once('/') else { return Self::Opaque };
        let is_json =
            ["json", "x-json", "ndjson", "x-ndjson", "jsonl", "jsonlines", "x-jsonlines", "json-seq"]
                .contains(&subtype)
                || subtype.ends_with("+json")
                || subtype.ends_with("+json-seq");
        let is_text = kind == "text"
            || [
                "xml",
                "yaml",
                "x-yaml",
                "javascript",
                "ecmascript",
                "x-javascript",
                "sql",
                "graphql",
                "toml",
                "csv",
            ]
            .contains(&subtype)
            || subtype.ends_with("+xml")
            || subtype.ends_with("+yaml");
        let is_xml = subtype == "xml" || subtype.ends_with("+xml");
        match (is_json, is_text) {
            (true, _) => Self::Json,
            _ if essence == "text/html" || essence == "application/xhtml+xml" => Self::Html,
            _ if is_xml => Self::Xml,
            _ if essence == "text/event-stream" => Self::Events,
            _ if subtype == "csv" => Self::Csv(None),
            _ if subtype == "tab-separated-values" => Self::Csv(Some(b'\t')),
            (_, true) => Self::Text,
            _ if essence == "application/x-www-form-urlencoded" => Self::Form,
            _ => Self::Opaque,
        }
    }
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.trim_start().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The boundary of a multipart body (RFC 2046 section 5.1.1).
fn boundary(read: &MediaType) -> Option<Vec<u8>> {
    read.essence()?;
    let value = read.parameter("boundary").ok()??;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    let within = !value.is_empty() && value.len() <= 70 && !value.ends_with(' ');
    (within && value.bytes().all(fits)).then(|| value.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::Media;

    #[test]
    fn json_goes_by_many_names() {
        for name in [
            "application/json",
            "Application/JSON; charset=\"UTF-8\"",
            "application/problem+json",
            "text/json",
        ] {
            assert_eq!(Media::of(Some(name)), Media::Json, "{name}");
        }
        assert_eq!(Media::of(Some("application/x-ndjson")), Media::Json);
    }

    #[test]
    fn what_is_not_known_to_be_text_is_opaque() {
        for name in [None, Some(""), Some("image/png"), Some("application/octet-stream"), Some("nonsense")] {
            assert_eq!(Media::of(name), Media::Opaque, "{name:?}");
        }
        let two = "application/x-www-form-urlencoded, application/a+json";
        assert_eq!(Media::of(Some(two)), Media::Opaque, "one reader takes the first, another the last");
        assert_eq!(Media::of(Some("image/svg+xml")), Media::Xml);
    }

    #[test]
    fn parts_between_unclear_boundaries_are_read_by_nobody() {
        let boundary = |text: &str| match Media::of(Some(text)) {
            Media::Multipart(boundary) => String::from_utf8(boundary).unwrap(),
            other => panic!("{text:?} is {other:?}"),
        };
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\"; charset=utf-8"), "a b");
        for unclear in [
            "multipart/form-data",
            "multipart/form-data; x=\"; boundary=A\"; boundary=B; boundary=C",
            "multipart/form-data; boundary=A; boundary=B",
            "multipart/form-data; boundary=\"A",
            "Multipart/form-data, text/plain; boundary=A",
        ] {
            assert_eq!(boundary(unclear), "", "{unclear:?}");
        }
        assert_eq!(boundary("multipart/form-data; x=\"; boundary=A\"; boundary=B"), "B");
    }
}
