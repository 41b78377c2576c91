//! No token, however it is made, does more than be refused where nobody is declared to vouch for it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::identity::token::Verifier;

fuzz_target!(|token: &str| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let verdict = runtime.block_on(Verifier::new(&[]).verify(token, jiff::Timestamp::UNIX_EPOCH));
    assert!(verdict.is_err());
});
