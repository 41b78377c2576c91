//! What kind of body a Content-Type announces, as far as masking is concerned.
//!
//! Believes it only so far: what is called text and looks like JSON is read as JSON where that matters.

/// The kind of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// JSON, one value or a sequence of them (NDJSON, JSON text sequences).
    Json,
    /// Text in UTF-8 or another superset of ASCII.
    Text,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// Bytes of any kind; detectors look for ASCII in them.
    Opaque,
    /// Text in an encoding that is no superset of ASCII, by its name. Refused under any mask.
    Unreadable(String),
}

/// Encodings in which every ASCII byte means itself wherever it stands.
const READABLE: [&str; 6] = ["utf-8", "utf8", "us-ascii", "ascii", "latin1", "binary"];
const READABLE_FAMILIES: [&str; 4] = ["iso-8859-", "iso8859-", "windows-125", "koi8-"];

impl Media {
    /// Reads the value of a Content-Type field; `None` where there is no such field.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> Self {
        let Some(content_type) = content_type else { return Self::Opaque };
        let mut parts = content_type.split(';');
        let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let charsets = parts.filter_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("charset")
                .then(|| value.trim().trim_matches('"').to_ascii_lowercase())
        });
        for charset in charsets {
            let family = READABLE_FAMILIES.iter().any(|start| charset.starts_with(start));
            if !family && !READABLE.contains(&charset.as_str()) {
                return Self::Unreadable(charset);
            }
        }
        Self::of_essence(&essence)
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
        match (is_json, is_text) {
            (true, _) => Self::Json,
            (_, true) => Self::Text,
            _ if essence == "application/x-www-form-urlencoded" => Self::Form,
            _ => Self::Opaque,
        }
    }
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
    fn an_encoding_that_detectors_cannot_read_is_named() {
        assert_eq!(Media::of(Some("text/plain; charset=UTF-16")), Media::Unreadable("utf-16".into()));
        assert_eq!(Media::of(Some("application/json;x=y; Charset=utf-7")), Media::Unreadable("utf-7".into()));
        assert_eq!(Media::of(Some("text/html; charset=iso-8859-1")), Media::Text);
    }

    #[test]
    fn what_is_not_known_to_be_text_is_opaque() {
        for name in [None, Some(""), Some("image/png"), Some("application/octet-stream"), Some("nonsense")] {
            assert_eq!(Media::of(name), Media::Opaque, "{name:?}");
        }
        assert_eq!(Media::of(Some("image/svg+xml")), Media::Text);
    }
}
