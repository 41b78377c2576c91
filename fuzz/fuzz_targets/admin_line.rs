//! Whatever comes over the lines of admin, to the enforcer and to the recorder, it is a message or none; what is one is packed the
//! same again, and a warrant covers what it is for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::admin::verb::{pack_outcome, pack_verb, unpack_outcome, unpack_verb};
use tidegate::record::line::vouch::{Vouch, Vouched};
use tidegate::record::line::{Frames, pack};
use tidegate::record::warrant::Warrants;

fuzz_target!(|data: &[u8]| {
    if let Some((number, verb)) = unpack_verb(data) {
        if let Some(deed) = verb.deed() {
            let warrants = Warrants::default();
            warrants.deposit((warrants.line(), number), deed).expect("the first one, no longer than its verb");
        }
        // A text may be another way of writing the same: it is packed in one.
        if let Ok(again) = pack_verb(number, &verb) {
            assert_eq!(unpack_verb(&again), Some((number, verb)));
        }
    }
    if let Some((number, outcome)) = unpack_outcome(data) {
        let again = pack_outcome(number, &outcome).expect("it came in one message");
        assert!(unpack_outcome(&again).is_some());
    }
    let (mut vouched, mut answered) = (Frames::default(), Frames::default());
    vouched.push(data);
    answered.push(data);
    while let Ok(Some(vouch)) = vouched.message::<Vouch>() {
        let mut again = Frames::default();
        again.push(&pack(&vouch).expect("it came in one message"));
        assert_eq!(again.message::<Vouch>().ok().flatten(), Some(vouch));
    }
    while let Ok(Some(_)) = answered.message::<Vouched>() {}
});
