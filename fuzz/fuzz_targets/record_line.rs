//! Whatever comes over the line between enforcer and recorder, and however it is cut, it is messages or the end of the line; what is
//! one is packed the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::record::line::{Ask, Frames, Said, pack};

fuzz_target!(|data: &[u8]| {
    let Some((step, rest)) = data.split_first() else { return };
    let (mut asked, mut said) = (Frames::default(), Frames::default());
    for part in rest.chunks(usize::from(*step) + 1) {
        asked.push(part);
        said.push(part);
        while let Ok(Some(ask)) = asked.message::<Ask>() {
            let mut again = Frames::default();
            again.push(&pack(&ask).expect("it came in one message"));
            // Not compared as values: no float is equal to itself when it is none.
            assert!(matches!(again.message::<Ask>(), Ok(Some(_))));
        }
        while let Ok(Some(answer)) = said.message::<Said>() {
            let mut again = Frames::default();
            again.push(&pack(&answer).expect("it came in one message"));
            assert!(matches!(again.message::<Said>(), Ok(Some(_))));
        }
    }
});
