//! `tidegate mask test`: what would be hidden in a file, by which rule, with exit codes that a script can go by. Needs
//! neither a running gate nor a privilege.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tidegate_tests::Finished;

const POLICY: &str = r#"
[[target]]
name = "crm"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [80]

[[detector]]
name = "employee"
pattern = "EMP-[0-9]{6}"
keywords = ["staff"]
match = ["staff EMP-482913"]
pass = ["EMP-482913"]

[[mask]]
name = "people"
targets = ["crm"]
find = ["employee"]
fields = ["pin"]
"#;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn tidegate(dir: &Path, words: &[&str]) -> Finished {
    let mut command = Command::new(tidegate_tests::built("tidegate"));
    command.args(["--color=never", "--policies"]).arg(dir).args(words).current_dir(dir);
    Finished::of(command, Duration::from_secs(60))
}

#[test]
fn what_would_be_hidden_is_told_with_its_place_and_rule() {
    let dir = directory(&[
        ("a.txt", "one\nmail bob@x.io, 4111 1111 1111 1111\n"),
        ("b.txt", "nothing of anyone\n"),
        ("p.toml", POLICY),
    ]);
    let found = tidegate(dir.path(), &["mask", "test", "a.txt"]);
    assert_eq!(found.code(), Some(1));
    let text = found.text();
    for line in ["2:6: email: bob@x.io", "2:16: card: 4111 1111 1111 1111", "2 values would be hidden"] {
        assert!(text.lines().any(|have| have == line), "{line}\nin\n{text}");
    }
    assert_eq!(tidegate(dir.path(), &["mask", "test", "a.txt", "--find", "iban"]).code(), Some(0));
    let nothing = tidegate(dir.path(), &["mask", "test", "b.txt"]);
    assert_eq!((nothing.code(), nothing.text().trim()), (Some(0), "0 values would be hidden"));
    assert_eq!(tidegate(dir.path(), &["mask", "test", "c.txt"]).code(), Some(3));
    let unknown = tidegate(dir.path(), &["mask", "test", "a.txt", "--find", "cards"]);
    assert_eq!(unknown.code(), Some(2));
    assert!(unknown.errors().contains("no detector \"cards\""), "{}", unknown.errors());
}

#[test]
fn the_masked_body_and_every_find_are_told_in_json() {
    let body = r#"{"note":"staff EMP-482913","pin":7,"mail":"bob@x.io"}"#;
    let dir = directory(&[("p.toml", POLICY), ("a.json", body)]);
    let words = ["--json", "mask", "test", "a.json", "--mask", "people", "--type", "application/json"];
    let found = tidegate(dir.path(), &words);
    assert_eq!(found.code(), Some(1), "{}", found.errors());
    let told: Value = found.json();
    assert_eq!(told["masked"], r#"{"note":"staff ********","pin":"********","mail":"bob@x.io"}"#);
    assert_eq!((&told["mask"], &told["values"]), (&"people".into(), &2.into()));
    let finds = told["finds"].as_array().unwrap();
    assert_eq!(finds.len(), 1, "{finds:?}");
    assert_eq!((&finds[0]["detector"], &finds[0]["column"]), (&"employee".into(), &16.into()));
    fs::write(dir.path().join("a.txt"), "pin: 7").unwrap();
    let text = tidegate(dir.path(), &["mask", "test", "a.txt", "--mask", "people"]);
    assert_eq!(text.code(), Some(3), "text has no fields: {}", text.text());
    assert!(text.errors().contains("has no fields that it could name"), "{}", text.errors());
}

#[test]
fn a_body_that_cannot_be_masked_is_an_error_and_an_unsound_detector_too() {
    let unsound = POLICY.replace("EMP-[0-9]{6}", "EMP-[0-9]+");
    let dir = directory(&[("p.toml", unsound.as_str()), ("a.json", "{\"x\":")]);
    let words = ["mask", "test", "a.json", "--type", "application/json", "--find", "card"];
    let broken = tidegate(dir.path(), &words);
    assert_eq!(broken.code(), Some(3));
    assert!(broken.errors().contains("ends in the middle"), "{}", broken.errors());
    let unsound = tidegate(dir.path(), &["mask", "test", "a.json", "--find", "employee"]);
    assert_eq!(unsound.code(), Some(3));
    let errors = unsound.errors();
    assert!(errors.contains("p.toml:10:11") && errors.contains("it has no end"), "{errors}");
}

#[test]
fn labelled_texts_are_measured() {
    let right = r#"{"text":"to bob@x.io","spans":[{"kind":"email","start":3,"end":11}]}"#;
    let wrong =
        r#"{"text":"at bob@x.io and 4111111111111112","spans":[{"kind":"card","start":16,"end":32}]}"#;
    let dir = directory(&[("right.jsonl", right), ("wrong.jsonl", wrong)]);
    assert_eq!(tidegate(dir.path(), &["mask", "test", "right.jsonl", "--labels"]).code(), Some(0));
    let measured = tidegate(dir.path(), &["--json", "mask", "test", "wrong.jsonl", "--labels"]);
    assert_eq!(measured.code(), Some(1));
    let kinds = &measured.json()["kinds"];
    assert_eq!((&kinds["card"]["labelled"], &kinds["card"]["found"]), (&1.into(), &0.into()));
    assert_eq!((&kinds["email"]["finds"], &kinds["email"]["wrong"]), (&1.into(), &1.into()));
}
