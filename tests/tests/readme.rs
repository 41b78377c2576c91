//! What the README shows works: its policies are sound and do what its cases say, and its commands are there.

use std::fs;
use std::process::Command;

use tidegate_tests::{built, workspace};

fn readme() -> String {
    fs::read_to_string(workspace().join("README.md")).unwrap()
}

/// Fenced blocks of one section: what they are (`toml`, `cedar`, `cases.toml`), and their text.
fn blocks(section: &str) -> Vec<(&'static str, String)> {
    let pieces: Vec<&str> = section.split("```").collect();
    let fenced = pieces.chunks(2).filter_map(|pair| pair.get(1));
    fenced
        .map(|block| {
            let (kind, text) = block.split_once('\n').unwrap();
            let kind = match kind {
                "toml" if text.contains("[[case]]") => "cases.toml",
                "toml" => "toml",
                "cedar" => "cedar",
                other => panic!("a block of kind {other:?} is not tried by any test"),
            };
            (kind, text.to_owned())
        })
        .collect()
}

#[test]
fn every_policy_in_it_is_sound_and_does_what_its_cases_say() {
    let readme = readme();
    let sections: Vec<_> = readme.split("\n## ").map(blocks).filter(|blocks| !blocks.is_empty()).collect();
    assert_eq!(sections.len(), 2, "a port, and an agent");
    for blocks in sections {
        let folder = tempfile::tempdir().unwrap();
        assert!(blocks.iter().any(|(kind, _)| *kind == "cases.toml"), "a policy without cases shows nothing");
        for (number, (kind, text)) in blocks.iter().enumerate() {
            fs::write(folder.path().join(format!("block-{number}.{kind}")), text).unwrap();
        }
        let tested =
            Command::new(built("tidegate")).args(["policy", "test"]).arg(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&tested.stdout) + String::from_utf8_lossy(&tested.stderr);
        assert!(tested.status.success(), "{said}");
        assert!(said.contains(" 0 failed"), "{said}");
    }
}

#[test]
fn every_command_in_it_is_there() {
    let readme = readme();
    let lines = readme.lines().filter_map(|line| {
        let line = line.strip_prefix("    ")?;
        line.strip_prefix("sudo ").unwrap_or(line).strip_prefix("tidegate ")
    });
    let mut tried = 0;
    for line in lines {
        // The words up to the explanation; names of what the reader has stand in capitals.
        let words = line.split("  ").next().unwrap_or_default().split('#').next().unwrap_or_default();
        let words = words.split_whitespace().filter(|word| word.chars().any(char::is_lowercase));
        let help = Command::new(built("tidegate")).args(words).arg("--help").output().unwrap();
        assert!(help.status.success(), "`tidegate {line}`: {}", String::from_utf8_lossy(&help.stderr));
        tried += 1;
    }
    assert!(tried >= 10, "only {tried} commands were found");
}
