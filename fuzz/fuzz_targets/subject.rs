//! Whom a block names is read in one way: what is shown of it names the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::block::Subject;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(subject) = text.parse::<Subject>() else { return };
    let shown = subject.to_string();
    assert_eq!(shown.parse::<Subject>().ok(), Some(subject), "{shown:?}");
    assert!(!shown.chars().any(char::is_control));
});
