//! The HTTP/1.1 screen, fed in pieces: what passes is what came, cut at the first doubt, and never depends on where
//! the network cut it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::limits::PIPELINED_MAX;
use tidegate::wire::http1::{Screen, Seen};

/// Everything the screen says of these pieces, taking each head as soon as it is there.
fn screened<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Vec<Seen>) {
    let (mut screen, mut passed, mut seen) = (Screen::default(), Vec::new(), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            let taken = screen.push(piece, &mut passed);
            assert!(screen.waiting() <= PIPELINED_MAX + 1);
            assert!(taken > 0 || screen.waiting() > 0, "it takes nothing and says nothing");
            piece = &piece[taken..];
            seen.extend(std::iter::from_fn(|| screen.next_seen()));
        }
    }
    (passed, seen)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, input)) = data.split_first() else { return };
    let whole = screened(std::iter::once(input));
    let split = screened(input.chunks(usize::from(size).max(1)));
    assert_eq!(whole, split, "where the network cuts makes a difference");
    assert!(input.starts_with(&whole.0), "what passes is not what came");
    let faults = whole.1.iter().filter(|seen| matches!(seen, Seen::Fault(..))).count();
    assert!(faults <= 1, "it goes on after a fault");
});
