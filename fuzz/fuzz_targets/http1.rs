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

/// Whether this is the beginning of the input, but for empty lines (RFC 9112 section 2.2 forgives them between messages).
fn is_what_came(passed: &[u8], mut input: &[u8]) -> bool {
    passed.iter().all(|&byte| {
        while input.first() != Some(&byte) && input.starts_with(b"\r\n") {
            input = &input[2..];
        }
        input.split_off_first() == Some(&byte)
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, input)) = data.split_first() else { return };
    let whole = screened(std::iter::once(input));
    let split = screened(input.chunks(usize::from(size).max(1)));
    // How much of a bad line was there when it was refused may differ; what passes, and whether it ends, may not.
    let heads = |seen: &[Seen]| {
        seen.iter().map(|seen| matches!(seen, Seen::Head(_)).then(|| seen.clone())).collect::<Vec<_>>()
    };
    assert_eq!(
        (&whole.0, heads(&whole.1)),
        (&split.0, heads(&split.1)),
        "where the network cuts makes a difference"
    );
    assert!(is_what_came(&whole.0, input), "what passes is not what came");
    let faults = whole.1.iter().filter(|seen| matches!(seen, Seen::Fault(..))).count();
    assert!(faults <= 1, "it goes on after a fault");
});
