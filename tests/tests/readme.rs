//! What the README shows works: its policies are sound and do what its cases say, and its commands are there.

use std::fs;
use std::process::Command;

use tidegate_tests::{Answer, Gate, Host, Upstream, built, workspace};

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

/// The policies of each section that has some, by the section's title, each in a folder of its own.
fn policies() -> Vec<(String, tempfile::TempDir)> {
    let readme = readme();
    let sections = readme.split("\n## ").map(|section| (section.lines().next(), blocks(section)));
    sections
        .filter(|(_, blocks)| !blocks.is_empty())
        .map(|(title, blocks)| {
            let folder = tempfile::tempdir().unwrap();
            for (number, (kind, text)) in blocks.iter().enumerate() {
                fs::write(folder.path().join(format!("block-{number}.{kind}")), text).unwrap();
            }
            (title.unwrap_or_default().to_owned(), folder)
        })
        .collect()
}

#[test]
fn every_policy_in_it_is_sound_and_does_what_its_cases_say() {
    let policies = policies();
    assert_eq!(policies.len(), 2, "a port, and an agent");
    for (title, folder) in policies {
        let tested =
            Command::new(built("tidegate")).args(["policy", "test"]).arg(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&tested.stdout) + String::from_utf8_lossy(&tested.stderr);
        assert!(tested.status.success() && said.contains(" 0 failed"), "{title}: {said}");
        assert!(!said.starts_with('0'), "{title}: a policy without cases shows nothing");
    }
}

#[test]
fn the_port_of_its_five_minutes_is_masked_and_read_only_and_back_to_normal_after_unload() {
    let (_, folder) = policies().into_iter().find(|(title, _)| title.starts_with("Protect")).unwrap();
    let host = Host::new();
    let service = Upstream::start(&host.seat("service"), "127.0.0.1:8080");
    let mut gate = Gate::on(&host).policies_of(folder.path()).build();
    gate.start();
    service.next(Answer::json(r#"{"card": "4111 1111 1111 1111"}"#));
    let read = host.client().curl(&["http://127.0.0.1:8080/"]);
    assert_eq!((read.status, read.body.as_str()), (200, r#"{"card": "********"}"#));
    let written = host.client().curl(&["-X", "POST", "http://127.0.0.1:8080/"]);
    assert_eq!(written.status, 403);
    assert!(written.body.contains("this port is read-only"), "{}", written.body);
    assert_eq!(service.requests().len(), 1, "the refused request reached the service");
    gate.stop();
    assert!(
        !host.client().try_curl(&["http://127.0.0.1:8080/"]).status.success(),
        "open without the enforcer"
    );
    drop(gate.tidegate(&["unload"]).success());
    assert_eq!(host.client().curl(&["-X", "POST", "http://127.0.0.1:8080/"]).status, 200);
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
