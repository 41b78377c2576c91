//! The record under a long run, shortened: what 200,000 entries of a busy gate leave of what it promises. The same with ten
//! million entries, and timed, is `cargo xtask bench soak`.

#[path = "../benches/soak/load.rs"]
mod load;
#[path = "../benches/soak/phases.rs"]
#[expect(dead_code, reason = "the bench prints what is only counted here")]
mod phases;

use std::time::Duration;

use tidegate::record::Retention;

const ENTRIES: u64 = 200_000;

#[test]
fn lists_by_every_index_are_right_and_new_keys_lose_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut asked = Vec::new();
    let kept = phases::keep(state.path(), ENTRIES, |load| {
        asked = phases::ask_all(state.path(), load, 1)?;
        Ok(())
    });
    let kept = kept.unwrap();
    assert!(kept.written.entries >= ENTRIES && kept.report.witnessed > 10, "{:?}", kept.report);
    assert!(asked.iter().any(|one| one.found == 0) && asked.iter().any(|one| one.found == 50));
}

#[test]
fn a_bounded_record_prunes_itself_stays_within_its_bound_and_verifies() {
    const BOUND: u64 = 32 * 1024 * 1024;
    let state = tempfile::tempdir().unwrap();
    let retention = Retention {
        bodies: Some(Duration::from_secs(5)),
        heads: Some(Duration::from_secs(10)),
        max_bytes: Some(BOUND),
        ..Retention::default()
    };
    let bounded = phases::bound(state.path(), ENTRIES, retention).unwrap();
    assert!(bounded.written.entries >= ENTRIES && bounded.left > 0);
    assert!(bounded.removed.commits > 0 && bounded.removed.segments > 0, "{:?}", bounded.removed);
    assert!(bounded.report.begins > 0 && bounded.report.witnessed_pruned > 0, "{:?}", bounded.report);
}
