//! Mistakes in `[[detector]]`, each at its place. None is in force that does not do what its examples say.

use super::*;

/// A sound detector with one line written in another way; its file is `b.toml`.
#[track_caller]
fn detector_mistake(old: &str, new: &str, place: &str, says: &[&str]) {
    let sound = r#"[[detector]]
name = "employee"
pattern = "EMP-[0-9]{6}"
keywords = ["staff"]
min_entropy = 1.0
match = ["staff EMP-482913"]
pass = ["EMP-482913", "staff EMP-48291377"]
"#;
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("b.toml", sound)]), Vec::<String>::new());
    assert!(sound.contains(old), "{old} is not in the detector");
    added_mistake(&sound.replacen(old, new, 1), place, says);
}

#[test]
fn a_pattern_that_cannot_be_used_is_refused_with_its_reason() {
    let pattern = "EMP-[0-9]{6}";
    for (other, why) in [
        ("EMP-[0-9", "unclosed"),
        ("EMP-[0-9]+", "it has no end"),
        ("EMP-[0-9]{6,300}", "beyond 256 bytes"),
        ("(?:EMP)?", "fewer than 3 bytes"),
        ("[0-9]{0,6}", "fewer than 3 bytes"),
        ("^EMP-[0-9]{6}", "an anchor or a word boundary"),
        ("EMP-[0-9]{6}$", "an anchor or a word boundary"),
        ("(?=EMP)[A-Z-]{4}", "look-around"),
        ("(EMP)-\\\\1", "backreferences"),
    ] {
        detector_mistake(pattern, other, "b.toml:3:11", &["this pattern cannot be used", why]);
    }
    detector_mistake("pattern = \"EMP-[0-9]{6}\"\n", "", "b.toml:1:1", &["has no `pattern`"]);
}

#[test]
fn a_detector_without_examples_is_refused() {
    detector_mistake("match = [\"staff EMP-482913\"]\n", "", "b.toml:1:1", &["has no `match`"]);
    detector_mistake("match = [\"staff EMP-482913\"]", "match = []", "b.toml:6:9", &["`match` is empty"]);
    let pass = "pass = [\"EMP-482913\", \"staff EMP-48291377\"]";
    detector_mistake(&format!("{pass}\n"), "", "b.toml:1:1", &["has no `pass`"]);
    detector_mistake(pass, "pass = []", "b.toml:7:8", &["`pass` is empty"]);
}

#[test]
fn an_example_that_goes_the_other_way_is_refused_at_its_place() {
    detector_mistake(
        "\"staff EMP-482913\"",
        "\"staff EMP-482913\", \"EMP-1\"",
        "b.toml:6:30",
        &["finds nothing"],
    );
    detector_mistake(
        "\"staff EMP-482913\"",
        "\"staff EMP-482913\", \"EMP-482913\"",
        "b.toml:6:30",
        &["finds nothing"],
    );
    detector_mistake(
        "min_entropy = 1.0",
        "min_entropy = 4.0",
        "b.toml:6:10",
        &["finds nothing", "min_entropy"],
    );
    detector_mistake("\"EMP-482913\", ", "\"staff EMP-482914\", ", "b.toml:7:9", &["finds something"]);
}

#[test]
fn a_keyword_and_an_entropy_have_bounds() {
    detector_mistake("[\"staff\"]", "[\"staff\", \"s\"]", "b.toml:4:22", &["2 to"]);
    let long = "s".repeat(crate::limits::DETECTOR_KEYWORD_BYTES_MAX + 1);
    detector_mistake("[\"staff\"]", &format!("[\"staff\", \"{long}\"]"), "b.toml:4:22", &["2 to"]);
    detector_mistake("[\"staff\"]", "[\"staff\", \"staff\"]", "b.toml:4:22", &["twice"]);
    detector_mistake("min_entropy = 1.0", "min_entropy = 9.0", "b.toml:5:15", &["8"]);
    detector_mistake("min_entropy = 1.0", "entropy = 1.0", "b.toml:5:1", &["entropy"]);
}

#[test]
fn the_name_of_a_detector_is_taken_once() {
    let taken = "is a built-in detector";
    detector_mistake("\"employee\"", "\"card\"", "b.toml:2:8", &["`card`", taken]);
    detector_mistake("\"employee\"", "\"national-id\"", "b.toml:2:8", &["`national-id`", taken]);
    detector_mistake("\"employee\"", "\"id-us\"", "b.toml:2:8", &["`id-us`", taken]);
    let one = "[[detector]]\nname = \"ticket\"\npattern = \"T-[0-9]{6}\"\nmatch = [\"T-123456\"]\npass = [\"T-1\"]\n";
    only(&[("a.toml", NOUNS), ("b.toml", one), ("c.toml", one)], "c.toml:2:8", &["ticket", "b.toml:2:8"]);
}

#[test]
fn more_detectors_than_an_engine_takes_are_refused() {
    let most = crate::limits::DETECTORS_MAX;
    let many = |count: usize| -> String {
        (0..count)
            .map(|n| format!("[[detector]]\nname = \"d{n}\"\npattern = \"D{n:03}-[0-9]{{6}}\"\nmatch = [\"D{n:03}-123456\"]\npass = [\"D\"]\n"))
            .collect()
    };
    assert_eq!(mistakes(&[("a.toml", NOUNS), ("b.toml", &many(most))]), Vec::<String>::new());
    added_mistake(
        &many(most + 1),
        &format!("b.toml:{}:8", most * 5 + 2),
        &["there are more than", &most.to_string()],
    );
}

#[test]
fn a_mask_that_names_no_detector_is_told_the_near_one() {
    noun_mistake("find = [\"card\"]", "find = [\"cards\"]", "a.toml:42:9", &["no detector `cards`", "card"]);
}
