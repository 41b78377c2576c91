//! A JSON body masked in two pieces is what it is in one, stays JSON, and is refused the same way.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tidegate::mask::{Media, Plan};
use tidegate::policy::nouns::{JsonPath, JsonStep, Mask, On, Style};

static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    let path = |steps: Vec<JsonStep>| JsonPath { text: String::new(), steps };
    let mask = Mask {
        name: "fields".to_owned(),
        targets: vec!["t".to_owned()],
        find: Vec::new(),
        declared: Vec::new(),
        paths: vec![
            path(vec![JsonStep::Member("a".to_owned()), JsonStep::Any, JsonStep::Index(1)]),
            path(vec![JsonStep::Descendant("b".to_owned())]),
        ],
        keys: vec!["pin".to_owned()],
        columns: Vec::new(),
        headers: Vec::new(),
        on: On::Both,
        style: Style::KeepLast4,
    };
    Plan::everything(&[Arc::new(mask)], &[])
});

fn run(pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut stream = PLAN.stream(Media::Json);
    for piece in pieces {
        stream.push(piece, &mut out).map_err(|error| error.to_string())?;
    }
    stream.finish(&mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, body)) = data.split_first() else { return };
    let whole = run(&[body]);
    let (before, after) = body.split_at(usize::from(cut) % (body.len() + 1));
    assert_eq!(whole, run(&[before, after]));
    assert_eq!(whole, run(&body.chunks(1).collect::<Vec<_>>()));
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    if serde_json::from_slice::<serde_json::Value>(body).is_ok() {
        let out = whole.expect("what is JSON can be masked");
        let out = out.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&out);
        serde_json::from_slice::<serde_json::Value>(out).expect("what was JSON stays JSON");
    }
});
