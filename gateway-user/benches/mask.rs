//! What masking costs per body: `cargo bench -p tidegate --bench mask`. Prints microseconds per body and MiB per second.

#![expect(clippy::print_stdout, reason = "a bench reports on standard output")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use tidegate::mask::{Media, Plan};
use tidegate::policy::nouns::{Detector, Mask, On, Style};

fn mask(name: &str, find: &[Detector], keys: &[&str]) -> Arc<Mask> {
    Arc::new(Mask {
        name: name.to_owned(),
        targets: vec!["bench".to_owned()],
        find: find.to_vec(),
        declared: Vec::new(),
        paths: Vec::new(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        columns: Vec::new(),
        headers: Vec::new(),
        on: On::Response,
        style: Style::Stars,
    })
}

/// About `size` bytes of an API's answer.
fn body(size: usize, secret: bool) -> Vec<u8> {
    let mut body = String::from("{\"customers\":[");
    let mut n = 0;
    while body.len() < size {
        let card = if secret { "4111 1111 1111 1111" } else { "none on file" };
        let row = format!(
            "{}{{\"id\":{},\"name\":\"Customer {n}\",\"city\":\"Oslo\",\"note\":\"prefers calls in the morning\",\"card\":\"{card}\",\"ok\":true}}",
            if n == 0 { "" } else { "," },
            100_000 + n
        );
        body.push_str(&row);
        n += 1;
    }
    body.push_str("]}");
    body.into_bytes()
}

fn measure(name: &str, plan: &Plan, media: &Media, body: &[u8]) {
    let mut out = Vec::with_capacity(2 * body.len());
    let mut once = || {
        out.clear();
        let mut stream = plan.stream(media.clone());
        let pushed = stream.push(black_box(body), &mut out);
        black_box((pushed, stream.finish(&mut out)).1.is_ok())
    };
    let rounds = (40_000_000 / body.len().max(1)).max(10);
    for _ in 0..rounds / 10 {
        once();
    }
    let start = Instant::now();
    for _ in 0..rounds {
        once();
    }
    let each = start.elapsed().as_secs_f64() / f64::from(u32::try_from(rounds).unwrap_or(u32::MAX));
    #[expect(clippy::cast_precision_loss, reason = "a size of some kilobytes")]
    let speed = body.len() as f64 / each / 1_048_576.0;
    println!("{name:<44} {:>8} bytes {:>9.2} us {speed:>8.0} MiB/s", body.len(), each * 1e6);
}

fn main() {
    let three = Plan::new(&[mask("pii", &[Detector::Card, Detector::Email, Detector::ApiKey], &[])]);
    let fields = Plan::new(&[mask("fields", &[], &["password", "ssn", "iban"])]);
    let everything = Plan::everything(&[mask("pii", &[Detector::Card], &["password"])], &[]);
    for size in [1024, 64 * 1024] {
        let (clean, secret) = (body(size, false), body(size, true));
        measure("JSON, three detectors, nothing to hide", &three, &Media::Json, &clean);
        measure("JSON, three detectors, a card in every row", &three, &Media::Json, &secret);
        measure("JSON, three key names, nothing to hide", &fields, &Media::Json, &clean);
        measure("JSON, everything the record hides", &everything, &Media::Json, &secret);
        measure("text, three detectors, a card in every row", &three, &Media::Text, &secret);
    }
    let start = Instant::now();
    for _ in 0..100_000 {
        black_box(Plan::everything(&[mask("pii", &[Detector::Card], &["password"])], &[]));
    }
    println!("a plan for the record, made: {:.2} us", start.elapsed().as_secs_f64() * 10.0);
}
