//! Bodies that rules depend on: what is taken out of one is what another strict reader finds there, and a body that this
//! reader finds two readings in is never taken.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidegate::operation::{Attribute, Extracted, HttpRequest};
use tidegate::policy::{Set, files::Files, without_cases};

const NOUNS: &str = r#"
[[target]]
name = "t"
direction = "outbound"
ports = [80]
addresses = ["10.0.0.1"]
[[extract]]
target = "t"
from = "$.a.b"
as = "text"
[[extract]]
target = "t"
from = "$.n"
as = "number"
type = "long"
[[extract]]
target = "t"
from = ["$.list[*].x", "$..deep"]
as = "texts"
type = "strings"
"#;

static SET: LazyLock<Set> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("tidegate-fuzz-extract-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("a.toml"), NOUNS).expect("a file");
    let set = Files::read(&dir).and_then(|files| without_cases(&files));
    std::fs::remove_dir_all(&dir).expect("it is there");
    set.unwrap_or_else(|problems| panic!("{}", problems.render(false)))
});

fn request() -> HttpRequest {
    HttpRequest {
        method: "POST".into(),
        host: "t".into(),
        path: "/".into(),
        query: None,
        headers: vec![("Content-Type".into(), b"application/json".to_vec())],
        body_length: None,
        extracted: Extracted::default(),
    }
}

fuzz_target!(|body: &[u8]| {
    let Ok(found) = SET.extract("t", &request(), body) else { return };
    if body.is_empty() {
        return assert_eq!(found, Extracted::default());
    }
    let value = match serde_json::from_slice::<Value>(body) {
        Ok(value) => value,
        Err(error) => {
            // The other reader bounds depth lower, and takes no number that a double cannot hold.
            let depth = body.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
            let bounds = depth > 100 || error.to_string().starts_with("number out of range");
            return assert!(bounds, "it takes what is no JSON: {error}");
        }
    };
    let text = value.pointer("/a/b").and_then(Value::as_str).map(|text| Attribute::String(text.to_owned()));
    let text = text.filter(|_| value["a"].is_object());
    assert_eq!(found.attributes.get("text"), text.as_ref());
    if let Some(number) = value.get("n").and_then(Value::as_i64) {
        assert_eq!(found.attributes.get("number"), Some(&Attribute::Long(number)));
    }
});
