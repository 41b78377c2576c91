//! Whatever comes as a coded body, the decoder ends, keeps its bounds, and says the same in pieces as in one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::limits::DECODED_PIECE_BYTES;
use tidegate::wire::coding::{Codings, DecodeError, Decoder};

const NAMES: [&str; 8] = ["gzip", "deflate", "br", "zstd", "gzip, br", "zstd, gzip", "deflate, deflate", "br, zstd"];

fn run(codings: Codings, pieces: &[&[u8]]) -> (Vec<u8>, Result<(), DecodeError>) {
    let mut decoder = Decoder::new(codings);
    let mut all = Vec::new();
    for piece in pieces {
        decoder.give(piece.to_vec().into());
        loop {
            let before = all.len();
            match decoder.take(&mut all) {
                Ok(true) => assert!(all.len() - before <= DECODED_PIECE_BYTES),
                Ok(false) => break,
                Err(error) => return (all, Err(error)),
            }
        }
    }
    (all, decoder.finish())
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, body)) = data.split_first() else { return };
    let codings = Codings::read([NAMES[usize::from(first) % NAMES.len()].as_bytes()]).expect("they are known");
    let whole = run(codings, &[body]);
    let single = run(codings, &body.chunks(1).collect::<Vec<_>>());
    // A damaged stream may be found out a little sooner or later; what is whole is the same.
    assert_eq!(whole.1.is_ok(), single.1.is_ok());
    if whole.1.is_ok() {
        assert_eq!(whole.0, single.0);
    }
});
