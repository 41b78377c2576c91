//! Request targets and hosts: what is accepted has one spelling, decodes to itself, and hides no second path.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::wire::uri::{authority, canonical_path, request_target};

fuzz_target!(|data: &[u8]| {
    if let Ok(target) = request_target("GET", data) {
        assert!(canonical_path(target.path).is_ok(), "accepted as part, refused as a whole");
        let (head, query) = (target.path, target.query.map_or(0, |query| query.len() + 1));
        assert!(head == "/" || data.len() >= head.len() + query, "longer than what came");
        let lower = target.path.to_ascii_lowercase();
        for second in ["//", "/../", "/./", "%2f", "%5c", "%00", "%2e", "\\"] {
            assert!(!lower.contains(second), "{second} in {lower}");
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(read) = authority(text)
    {
        let brackets = read.host.contains(':');
        let again = if brackets { format!("[{}]", read.host) } else { read.host.clone() };
        assert_eq!(authority(&again).map(|again| again.host), Ok(read.host), "its own spelling is refused");
    }
});
