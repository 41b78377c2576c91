//! The record under a long run, shortened: what 30,000 entries of a busy gate (200,000 with `cargo xtask test --full`) leave
//! of what it promises. The same with ten million entries, and timed, is `cargo xtask bench soak`.

#[path = "../benches/soak/load.rs"]
mod load;
#[path = "../benches/soak/phases.rs"]
#[expect(dead_code, reason = "the bench prints what is only counted here")]
mod phases;

use std::time::Duration;

use tidegate::record::Retention;

fn entries() -> u64 {
    if std::env::var_os("TIDEGATE_FULL").is_some() { 200_000 } else { 30_000 }
}

#[test]
fn lists_by_every_index_are_right_and_new_keys_lose_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut asked = Vec::new();
    let kept = phases::keep(state.path(), entries(), |load| {
        asked = phases::ask_all(state.path(), load, 1)?;
        Ok(())
    });
    let kept = kept.unwrap();
    assert!(kept.written.entries >= entries() && kept.report.witnessed > 2, "{:?}", kept.report);
    assert!(asked.iter().any(|one| one.found == 0) && asked.iter().any(|one| one.found > 0));
}

#[test]
fn a_bounded_record_prunes_itself_stays_within_its_bound_and_verifies() {
    /// Of commits and bodies; index and free pages of the database come on top.
    const BOUND: u64 = 8 * 1024 * 1024;
    let state = tempfile::tempdir().unwrap();
    let retention = Retention {
        bodies: Some(Duration::from_secs(2)),
        heads: Some(Duration::from_secs(4)),
        max_bytes: Some(BOUND),
        ..Retention::default()
    };
    let bounded = phases::bound(state.path(), entries(), retention).unwrap();
    assert!(bounded.written.entries >= entries() && bounded.left > 0);
    assert!(bounded.removed.commits > 0, "{:?}", bounded.removed);
    assert!(bounded.report.begins > 0 && bounded.report.witnessed_pruned > 0, "{:?}", bounded.report);
    // The space of what went is used again: 200,000 entries without a bound take more than 150 MiB.
    assert!(bounded.written.peak < 4 * BOUND, "{} bytes on disk", bounded.written.peak);
}
