//! The project's own rules, each with its reason, checked on every source file. Changes nothing; names file and line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xshell::cmd;

use crate::layers;
use crate::place;
use crate::rust_text::{RustText, words};

/// Shipped lines of one file. Beyond the first, think; beyond the second, split.
const LINES_TALKED_ABOUT: usize = 450;
const LINES_MAX: usize = 600;

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    place: String,
    line: usize,
    what: String,
}

/// Names that only one folder may use, and why.
const OWNED: &[(&[&str], &str, &str)] = &[
    (
        &["aya", "aya_log", "aya_obj", "libc", "unsafe"],
        "gateway-user/src/kernel/",
        "privileged and unsafe acts have one narrow door (STYLE, habit 15)",
    ),
    (&["redb"], "gateway-user/src/store/", "the store is the only module that knows its engine"),
];

/// Checks every source file of the project.
pub(crate) fn run() -> Result<()> {
    let sh = place::shell()?;
    let listed = cmd!(sh, "git ls-files --cached --others --exclude-standard").quiet().read();
    let listed = listed.context("tidy reads the list of files from git")?;
    let mut findings = BTreeSet::new();
    let mut long = Vec::new();
    let mut edges = layers::Edges::default();
    for name in listed.lines() {
        // Deleted, but not yet in the index; or not text.
        let Ok(text) = fs::read_to_string(place::root().join(name)) else { continue };
        findings.extend(machine_paths(name, &text));
        if Path::new(name).extension().is_some_and(|extension| extension == "rs") {
            let rust = RustText::of(&text);
            findings.extend(file_rules(name, &text, &rust));
            findings.extend(
                edges.add(name, &rust).into_iter().map(|(line, what)| Finding::new(name, line, what)),
            );
            long.extend(length(name, &rust, &mut findings));
        }
    }
    findings.extend(edges.cycle().map(|what| Finding::new("gateway-user/src", 0, what)));
    long.iter().for_each(|note| eprintln!("tidy: {note}"));
    for finding in &findings {
        eprintln!("{}:{}: {}", finding.place, finding.line, finding.what);
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

impl Finding {
    fn new(place: &str, line: usize, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line, what: what.into() }
    }
}

/// Paths of somebody's machine: they work nowhere else, and tell what is nobody's business.
fn machine_paths(name: &str, text: &str) -> Vec<Finding> {
    const PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/", "prep")];
    let lines = text.lines().enumerate().filter(|(_, line)| PATHS.iter().any(|path| line.contains(path)));
    lines.map(|(index, _)| Finding::new(name, index + 1, "names a path of one machine")).collect()
}

fn file_rules(name: &str, text: &str, rust: &RustText) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line, what: &str| findings.push(Finding::new(name, line, what));
    let opening = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    // The tests of a module, in a file of their own, belong to the module's promise.
    let has_promise = opening.is_some_and(|line| line.starts_with("//!")) || name.ends_with("/tests.rs");
    if !has_promise {
        find(1, "opens with no `//!`: a file says what it promises and what it refuses");
    }
    for (index, line) in rust.comments.lines().enumerate() {
        if words(line).any(|word| matches!(word, "TODO" | "FIXME" | "XXX")) {
            find(index + 1, "a note to do something: do it, or write an issue");
        }
    }
    if is_test(name) {
        return findings;
    }
    for (line, code) in rust.shipped() {
        if code.contains(".unwrap()") {
            find(line, "`unwrap` in shipped code: handle it, or `expect` the invariant");
        }
        if ["todo!", "unimplemented!", "dbg!"].iter().any(|unfinished| code.contains(unfinished)) {
            find(line, "unfinished");
        }
        for (owned, owner, why) in
            OWNED.iter().filter(|(_, owner, _)| name.starts_with("gateway-user/") && !name.starts_with(owner))
        {
            if let Some(word) = words(code).find(|word| owned.contains(word)) {
                find(line, &format!("`{word}` belongs in {owner}: {why}"));
            }
        }
    }
    findings
}

/// A note for a long file, a finding for one too long.
fn length(name: &str, rust: &RustText, findings: &mut BTreeSet<Finding>) -> Option<String> {
    let lines = rust.shipped_lines();
    if is_test(name) || lines <= LINES_TALKED_ABOUT {
        return None;
    }
    if lines > LINES_MAX {
        findings.insert(Finding::new(
            name,
            LINES_MAX,
            format!("{lines} lines without tests, at most {LINES_MAX}: split it"),
        ));
    }
    Some(format!("{name} has {lines} lines without tests"))
}

/// Files that are tests as a whole.
fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.ends_with("/tests.rs") || name.contains("/tests/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Vec<String> {
        let rust = RustText::of(text);
        file_rules(name, text, &rust)
            .into_iter()
            .map(|finding| format!("{}:{}", finding.line, finding.what))
            .collect()
    }

    fn is_found(name: &str, text: &str, what: &str) -> bool {
        found(name, text).iter().any(|finding| finding.contains(what))
    }

    #[test]
    fn a_clean_file_is_left_alone() {
        let text = "#![no_std]\n//! Promises.\n\n/// unsafe, aya: words in a comment.\nfn f() { g(\"redb\") }\n#[cfg(test)]\nmod tests {\n    fn t() { x.unwrap() }\n}\n";
        assert_eq!(found("gateway-user/src/judge.rs", text), Vec::<String>::new());
    }

    #[test]
    fn every_rule_finds_its_breach() {
        let judge = "gateway-user/src/judge.rs";
        assert!(is_found(judge, "fn f() {}\n", "no `//!`"));
        assert!(is_found(judge, "//! P.\nfn f() { x.unwrap() }\n", "2:`unwrap`"));
        assert!(is_found(judge, "//! P.\n// FIXME later\n", "2:a note"));
        assert!(is_found(judge, "//! P.\nfn f() { todo!() }\n", "2:unfinished"));
        assert!(is_found(judge, "//! P.\nuse libc::c_int;\n", "`libc` belongs in"));
        assert!(is_found(judge, "//! P.\nfn f() { unsafe { g() } }\n", "`unsafe` belongs in"));
        assert!(is_found(judge, "//! P.\nuse redb::Database;\n", "`redb` belongs in"));
        assert!(!is_found("gateway-user/src/kernel/load.rs", "//! P.\nuse aya::Ebpf;\n", "belongs"));
        assert!(!is_found("gateway-user/src/store/mod.rs", "//! P.\nuse redb::Database;\n", "belongs"));
    }

    #[test]
    fn a_path_of_one_machine_is_found_in_any_file() {
        let text = format!("fine\ncd {}\n", ["/wo", "rk/main"].concat());
        assert_eq!(machine_paths("docs/a.md", &text)[0].line, 2);
    }

    #[test]
    fn a_file_too_long_is_found_and_its_tests_do_not_count() {
        let mut findings = BTreeSet::new();
        let body = "x();\n".repeat(LINES_MAX);
        let at_the_limit = format!("{body}#[cfg(test)]\nmod tests {{\n{body}}}\n");
        assert!(length("a.rs", &RustText::of(&at_the_limit), &mut findings).is_some());
        assert!(findings.is_empty());
        length("a.rs", &RustText::of(&format!("{body}y();\n")), &mut findings);
        assert_eq!(findings.len(), 1);
    }
}
