//! Paths as patterns: what looks like the name of one thing becomes a capture. Refuses paths that no pattern can say.

use crate::policy::is_path_pattern;

/// Letters of an operation's name, before a number that tells it from others.
const TITLE_MAX: usize = 48;
/// Digits and letters from which on a segment with a digit in it is taken for an id.
const ID_LENGTH: usize = 16;

/// A path with captures for what looks like ids: `/v1/runs/{id}/logs`. `None` where no pattern says it.
pub(super) fn pattern(path: &str) -> Option<String> {
    let mut captures = 0;
    let mut out = String::new();
    for segment in path.strip_prefix('/')?.split('/') {
        out.push('/');
        if is_id(segment) {
            captures += 1;
            out.push_str(&if captures == 1 { "{id}".to_owned() } else { format!("{{id{captures}}}") });
        } else if segment.contains(['{', '}', '*']) {
            return None;
        } else {
            out.push_str(segment);
        }
    }
    is_path_pattern(&out).then_some(out)
}

/// Whether a segment names one thing among many: a number, a UUID, a long run of digits and letters.
fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let plain = segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let hex = segment.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let number = digits > 0 && digits == segment.len();
    number || (digits > 0 && hex && segment.len() >= 8) || (digits > 1 && plain && segment.len() >= ID_LENGTH)
}

/// A name for the operation: `get-v1-runs-id`.
pub(super) fn title(method: &str, pattern: &str) -> String {
    let mut title = method.to_ascii_lowercase();
    for word in pattern.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        title.push('-');
        title.push_str(&word.to_ascii_lowercase());
    }
    title.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(TITLE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_an_id_becomes_a_capture_and_words_stay() {
        for (path, expected) in [
            ("/v1/runs/7", "/v1/runs/{id}"),
            ("/v1/runs/0198c0de-7d01-7c3a-9a55-0c8f2c7e4b1d/logs/12", "/v1/runs/{id}/logs/{id2}"),
            ("/objects/9f86d081884c7d65", "/objects/{id}"),
            ("/v1/customers", "/v1/customers"),
            ("/v2/decade/facade", "/v2/decade/facade"),
            ("/", "/"),
        ] {
            assert_eq!(pattern(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(pattern("/a/{b}"), None);
        assert_eq!(pattern("no-path"), None);
    }

    #[test]
    fn names_of_operations_are_names() {
        assert_eq!(title("GET", "/v1/runs/{id}"), "get-v1-runs-id");
        assert_eq!(title("M-SEARCH", "/"), "m-search");
        assert!(title("POST", &"/abc".repeat(100)).len() <= TITLE_MAX);
    }
}
