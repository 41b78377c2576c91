//! A body that is not JSON, masked in pieces, is what it is in one; no text makes `scrub` panic.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidegate::mask::{Media, Plan, scrub};

static PLAN: LazyLock<Plan> = LazyLock::new(|| Plan::everything(&[], &[]));

fn run<'b>(media: &Media, pieces: impl Iterator<Item = &'b [u8]>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut stream = PLAN.stream(media.clone());
    for piece in pieces {
        stream.push(piece, &mut out).map_err(|error| error.to_string())?;
    }
    stream.finish(&mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, body)) = data.split_first() else { return };
    for media in [Media::Text, Media::Form, Media::Opaque] {
        let whole = run(&media, std::iter::once(body));
        assert_eq!(whole, run(&media, body.chunks(1)));
        assert_eq!(whole, run(&media, body.chunks(1 + usize::from(first))));
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = scrub(text);
    }
});
