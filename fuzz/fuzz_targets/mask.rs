//! Masking, fed in pieces: the outcome never depends on where the body was cut, and nothing a detector finds is left.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tidegate::mask::{Media, Plan};
use tidegate::policy::nouns::{Detector, Mask, Style};

static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    Plan::new(&[Arc::new(Mask {
        name: "all".to_owned(),
        targets: vec!["target".to_owned()],
        find: Detector::ALL.to_vec(),
        paths: Vec::new(),
        keys: vec!["password".to_owned()],
        style: Style::Stars,
    })])
});

/// What comes out, and whether to the end.
fn masked<'a>(media: Media, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let (mut stream, mut out) = (PLAN.stream(media), Vec::new());
    for piece in pieces {
        if stream.push(piece, &mut out).is_err() {
            return (out, false);
        }
    }
    let whole = stream.finish(&mut out).is_ok();
    (out, whole)
}

fuzz_target!(|data: &[u8]| {
    let [size, kind, body @ ..] = data else { return };
    let media = [Media::Json, Media::Text, Media::Opaque][usize::from(*kind) % 3];
    let (once, whole) = masked(media, std::iter::once(body));
    let (pieces, also_whole) = masked(media, body.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, also_whole, "where the network cuts decides over success");
    if whole {
        assert_eq!(once, pieces, "where the network cuts makes a difference");
        let (again, _) = masked(media, std::iter::once(&once[..]));
        assert_eq!(again, once, "something was left that masking finds");
    }
});
