//! Every policy directory that ships, and every example in the reference, is loaded and judged here.
//!
//! No example that fails its own cases, or has none, gets through.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::cases::CaseResult;
use super::files::Files;
use super::{Answer, cases, read};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn judge(dir: &Path, name: &str) -> Vec<CaseResult> {
    let set = read(dir).unwrap_or_else(|problems| panic!("{name}:\n{}", problems.render(false)));
    assert!(set.notes().is_empty(), "{name}: {:?}", set.notes());
    let files = Files::read(dir).unwrap();
    let run = cases::run(&files, &set).unwrap();
    assert!(!run.is_empty(), "{name} has no case");
    run
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
        drop(judge(&dir, &dir.display().to_string()));
        let notices = read(&dir).unwrap().notices(Timestamp::now());
        assert!(!notices.iter().any(|notice| notice.warning), "{}: {notices:?}", dir.display());
    }
}

/// The examples, whatever they are called: every directory below `policies/examples`.
fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("policies/examples")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

#[test]
fn every_example_shows_what_goes_through_and_what_does_not() {
    let examples = examples();
    assert!(examples.len() >= 11, "{examples:?}");
    for dir in examples {
        let name = dir.display().to_string();
        let run = judge(&dir, &name);
        let answers = |wanted: fn(&Answer) -> bool| run.iter().any(|case| wanted(&case.decision.answer));
        assert!(answers(|answer| *answer == Answer::Allow), "{name}: no case is allowed");
        assert!(answers(|answer| *answer == Answer::Deny), "{name}: no case is refused");
    }
}

#[test]
fn every_file_of_an_example_says_what_it_is_for_what_to_change_and_how_to_try_it() {
    for dir in examples() {
        for file in fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()) {
            let text = fs::read_to_string(&file).unwrap();
            let comment = |line: &&str| line.starts_with('#') || line.starts_with("//");
            let top: String = text.lines().take_while(comment).map(|line| format!("{line}\n")).collect();
            for word in ["For: ", "Change: ", "Try: tidegate policy "] {
                assert!(top.contains(word), "{}: no `{word}` at its top", file.display());
            }
        }
    }
}

#[test]
fn the_list_of_examples_names_every_one_and_no_other() {
    let text = fs::read_to_string(root().join("policies/examples/README.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_suffix("` |")?.rsplit_once("| `"));
    let mut named: Vec<&str> = rows.map(|(_, command)| command).collect();
    let mut there: Vec<String> = examples()
        .iter()
        .map(|dir| dir.file_name().unwrap().to_string_lossy().into_owned())
        .map(|name| format!("tidegate policy check policies/examples/{name}"))
        .collect();
    named.sort_unstable();
    there.sort_unstable();
    assert_eq!(named, there);
}

/// The fenced blocks of a section: nouns, rules and cases, each kind as one text.
#[derive(Debug, Default, Clone)]
struct Section {
    title: String,
    files: [String; 3],
}

const NAMES: [&str; 3] = ["doc.toml", "doc.cedar", "doc.cases.toml"];

/// The sections of a document, in order.
fn sections(text: &str) -> Vec<Section> {
    let mut all = vec![Section::default()];
    let mut inside: Option<usize> = None;
    for line in text.lines() {
        match (inside, line) {
            (Some(_), "```") => inside = None,
            (Some(kind), line) => {
                if let Some(section) = all.last_mut() {
                    section.files[kind].push_str(line);
                    section.files[kind].push('\n');
                }
            }
            (None, "```toml") => inside = Some(0),
            (None, "```cedar") => inside = Some(1),
            (None, "```toml cases") => inside = Some(2),
            (None, line) if line.starts_with("```") => panic!("a block of no known kind: {line}"),
            (None, line) if line.starts_with('#') => {
                all.push(Section {
                    title: line.trim_start_matches(['#', ' ']).to_owned(),
                    ..Section::default()
                });
            }
            (None, _) => {}
        }
    }
    all
}

#[test]
fn every_example_of_the_reference_is_sound_and_does_what_its_cases_say() {
    let text = fs::read_to_string(root().join("docs/POLICY.md")).unwrap();
    let sections: Vec<Section> = sections(&text)
        .into_iter()
        .filter(|section| section.files.iter().any(|file| !file.is_empty()))
        .collect();
    let (first, others) = sections.split_first().unwrap();
    assert_eq!(first.title, "A first directory");
    assert!(others.len() >= 6, "the reference has lost its examples");
    for section in std::iter::once(first).chain(others) {
        let dir = tempfile::tempdir().unwrap();
        for (index, name) in NAMES.iter().enumerate() {
            fs::write(dir.path().join(format!("first.{name}")), &first.files[index]).unwrap();
            if section.title != first.title {
                fs::write(dir.path().join(name), &section.files[index]).unwrap();
            }
        }
        drop(judge(dir.path(), &section.title));
    }
}

#[test]
fn the_reference_names_every_key_and_every_refusal() {
    let text = fs::read_to_string(root().join("docs/POLICY.md")).unwrap();
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy");
    let mut source = fs::read_to_string(home.join("declare.rs")).unwrap();
    for file in fs::read_dir(home.join("declare")).unwrap() {
        source.push_str(&fs::read_to_string(file.unwrap().path()).unwrap());
    }
    let keys = source.split("fields.").skip(1).filter_map(|call| {
        let (method, rest) = call.split_once("(\"")?;
        let plain = method.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        plain.then(|| rest.split('"').next().unwrap_or_default())
    });
    let keys: std::collections::BTreeSet<&str> = keys.collect();
    assert!(keys.len() > 30, "the keys are no longer found: {keys:?}");
    for key in keys {
        assert!(text.contains(&format!("`{key}")), "`{key}` is missing in the reference");
    }
}

/// All Rust files below a directory, as one text.
fn source_below(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_below(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_reference_names_exists() {
    let text = fs::read_to_string(root().join("docs/POLICY.md")).unwrap();
    let (_, table) = text.split_once("## Which test proves which clause").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut source = String::new();
    for dir in ["gateway-user/src", "gateway-user/tests", "tests/tests"] {
        source_below(&root().join(dir), &mut source);
    }
    let mut named = 0;
    for row in rows {
        let tests = row.trim_end_matches(['|', ' ']).rsplit_once(" | ").unwrap().1;
        let mut found = tests.split('`').skip(1).step_by(2).peekable();
        assert!(found.peek().is_some(), "no test is named for: {row}");
        for name in found {
            assert!(source.contains(&format!("fn {name}(")), "`{name}` is no test: {row}");
            named += 1;
        }
    }
    assert!(named > 40, "the table has lost its tests: {named}");
}
