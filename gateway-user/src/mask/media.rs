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
}

impl Media {
    /// Reads the value of a Content-Type field; `None` where there is no such field.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> Self {
        let Some(content_type) = content_type else { return Self::Opaque };
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
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
    fn what_is_not_known_to_be_text_is_opaque() {
        for name in [None, Some(""), Some("image/png"), Some("application/octet-stream"), Some("nonsense")] {
            assert_eq!(Media::of(name), Media::Opaque, "{name:?}");
        }
        assert_eq!(Media::of(Some("image/svg+xml")), Media::Text);
    }
}
