//! Every policy directory that ships, and every example in the reference, is loaded and judged here.
//!
//! No example that fails its own cases, or has none, gets through.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::Files;
use super::{cases, read};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn judge(dir: &Path, name: &str) {
    let set = read(dir).unwrap_or_else(|problems| panic!("{name}:\n{}", problems.render(false)));
    assert!(set.notes().is_empty(), "{name}: {:?}", set.notes());
    let files = Files::read(dir).unwrap();
    let run = cases::run(&files, &set).unwrap();
    assert!(!run.is_empty(), "{name} has no case");
}

fn directories(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    if entries.iter().any(|path| path.extension().is_some_and(|end| end == "toml" || end == "cedar")) {
        found.push(dir.to_owned());
    }
    entries.iter().filter(|path| path.is_dir()).for_each(|path| directories(path, found));
}

#[test]
fn every_directory_that_ships_is_sound_and_does_what_its_cases_say() {
    let mut found = Vec::new();
    directories(&root().join("policies"), &mut found);
    assert!(found.len() >= 2, "{found:?}");
    for dir in found {
        judge(&dir, &dir.display().to_string());
    }
}
