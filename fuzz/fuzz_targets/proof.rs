//! No bytes make the reader of proofs panic, and none prove anything against a key that signed nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::record::proof::parse;

fuzz_target!(|text: &[u8]| {
    if let Ok(proof) = parse(text) {
        assert!(proof.verify(&"00".repeat(32)).is_err());
        let _ = proof.verify(&proof.checkpoint.key);
    }
});
