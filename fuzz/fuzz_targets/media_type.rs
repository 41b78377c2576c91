//! A media type is read in one way: what is written again from it reads the same, and no parameter changes but the one meant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::wire::media_type::MediaType;

fuzz_target!(|data: &[u8]| {
    let Ok(value) = std::str::from_utf8(data) else { return };
    let read = MediaType::read(value);
    if let Some(essence) = read.essence() {
        assert_eq!(essence, essence.to_ascii_lowercase());
        assert_eq!(essence.matches('/').count(), 1);
    }
    let Some(written) = read.with("charset", "utf-8") else { return };
    let again = MediaType::read(&written);
    assert_eq!(again.essence(), read.essence());
    assert!(again.is_clear(), "{written:?}");
    assert_eq!(again.parameter("boundary"), read.parameter("boundary"), "{written:?}");
    if read.parameter("charset").is_ok_and(|charset| charset.is_some()) {
        assert_eq!(again.parameter("charset"), Ok(Some("utf-8")));
    }
});
