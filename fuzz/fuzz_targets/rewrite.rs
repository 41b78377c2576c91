//! Bodies under rewrites, cut in pieces: the result never depends on the cut, and another reader finds in it what was
//! there, but for what was set or removed.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidegate::policy::nouns::{Part, Rewrite, Side};
use tidegate::rewrite::{Plan, RewriteError};

static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    let rewrite = |name: &str, set: Option<Value>| {
        Arc::new(Rewrite {
            name: name.into(),
            targets: vec!["t".into()],
            operations: Vec::new(),
            on: Side::Request,
            part: Part::Field(name.into()),
            set,
        })
    };
    Plan::new(&[rewrite("a", None), rewrite("b", Some(true.into())), rewrite("é", Some("\"".into()))])
});

fn rewritten(body: &[u8], size: usize) -> Result<Vec<u8>, RewriteError> {
    let (mut json, mut out) = (PLAN.body(), Vec::new());
    for piece in body.chunks(size.max(1)) {
        json.push(piece, &mut out)?;
    }
    json.finish(&mut out)?;
    Ok(out)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, body)) = data.split_first() else { return };
    let whole = rewritten(body, body.len());
    assert_eq!(whole, rewritten(body, usize::from(size)), "where the network cuts makes a difference");
    let (Ok(whole), Ok(Value::Object(mut before))) = (whole, serde_json::from_slice::<Value>(body)) else { return };
    let Ok(Value::Object(after)) = serde_json::from_slice::<Value>(&whole) else {
        panic!("it is no object any more: {}", String::from_utf8_lossy(&whole));
    };
    let folded = |name: &str| name.to_uppercase().to_lowercase();
    before.retain(|name, _| !["a", "b", "é"].contains(&folded(name).as_str()));
    before.insert("b".into(), true.into());
    before.insert("é".into(), "\"".into());
    assert_eq!(before, after);
});
