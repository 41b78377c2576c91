//! No token, however it is made, does more than be refused where nobody is declared to vouch for it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::identity::token::Verifier;
use tidegate::kernel::Exempt;

fuzz_target!(|token: &str| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // Nor is anybody called on the way.
    let verifier = Verifier::new(&[], Exempt::new(|_| panic!("a token made the gate call somebody")));
    let verdict = runtime.block_on(verifier.verify(token, jiff::Timestamp::UNIX_EPOCH));
    assert!(verdict.is_err());
});
