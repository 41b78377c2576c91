//! Whatever comes over the lines between the keeper and its children, it is a message or none; what is one is packed the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::keeper::message::{Answer, Errand, Request, pack, unpack};
use tidegate::record::entry::CredentialClaimed;
use tidegate::record::line::{self, Frames};

fuzz_target!(|data: &[u8]| {
    if let Some((number, request)) = unpack::<Request>(data) {
        let again = pack(number, &request).expect("it came in one message");
        assert_eq!(unpack::<Request>(&again), Some((number, request)));
    }
    if let Some((number, answer)) = unpack::<Answer>(data) {
        let again = pack(number, &answer).expect("it came in one message");
        assert_eq!(unpack::<Answer>(&again), Some((number, answer)));
    }
    let mut claims = Frames::default();
    claims.push(data);
    while let Ok(Some(claim)) = claims.message::<CredentialClaimed>() {
        let mut again = Frames::default();
        again.push(&line::pack(&claim).expect("it came in one message"));
        assert_eq!(again.message::<CredentialClaimed>().ok().flatten(), Some(claim));
    }
    if let Some((number, errand)) = unpack::<Errand>(data) {
        let again = pack(number, &errand).expect("it came in one message");
        assert_eq!(unpack::<Errand>(&again), Some((number, errand)));
    }
});
