//! No text makes the reader of key files panic, and what it takes comes back as it was written. No bytes are taken for
//! something sealed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::store::keyring::{Keyring, Ring, generation_of};

fuzz_target!(|text: &str| {
    let _ = generation_of(text.as_bytes());
    assert!(Keyring::empty().open_sealed(b"", text.as_bytes()).is_err());
    if let Ok(ring) = Ring::parse(text) {
        let again = Ring::parse(&ring.text()).expect("what was written is read");
        assert_eq!(again.generations(), ring.generations());
    }
});
