//! A body of any kind in any character encoding, masked in pieces, is what it is in one, and is refused the same way.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tidegate::mask::{Packing, Plan};
use tidegate::policy::nouns::{Detector, Mask, On, Style};

static PLANS: LazyLock<[Plan; 2]> = LazyLock::new(|| {
    let mask = |keys: &[&str]| {
        Arc::new(Mask {
            name: "m".to_owned(),
            targets: vec!["t".to_owned()],
            find: Detector::ALL.to_vec(),
            declared: Vec::new(),
            paths: Vec::new(),
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
            columns: Vec::new(),
            headers: Vec::new(),
            on: On::Both,
            style: Style::KeepLast4,
        })
    };
    [Plan::new(&[mask(&[])]), Plan::new(&[mask(&["pin", "a"])])]
});

const KINDS: [&str; 10] = [
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "text/csv",
    "text/tab-separated-values",
    "application/xml",
    "text/event-stream",
    "text/html",
    "text/plain; charset=shift_jis",
    "text/csv; charset=utf-16",
    "application/xml; charset=gbk",
];

fn run(plan: &Plan, packing: &Packing, pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let mut unpacker = plan.unpack(packing);
    let mut out = Vec::new();
    for piece in pieces {
        unpacker.give(piece.to_vec().into());
        while unpacker.take(&mut out).ok()? {}
    }
    unpacker.finish(&mut out).ok()?;
    Some(out)
}

fuzz_target!(|data: &[u8]| {
    let [first, cut, body @ ..] = data else { return };
    let packing = Packing::new(Some(KINDS[usize::from(*first) % KINDS.len()]), []);
    for plan in &*PLANS {
        let whole = run(plan, &packing, &[body]);
        let (before, after) = body.split_at(usize::from(*cut) % (body.len() + 1));
        assert_eq!(whole, run(plan, &packing, &[before, after]));
        assert_eq!(whole, run(plan, &packing, &body.chunks(1).collect::<Vec<_>>()));
    }
});
