//! The project's own rules, each with its reason, checked on every source file. Changes nothing; names file and line.

use std::collections::BTreeSet;
use std::fs;

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

/// Folders of tests and measurements; modules of tests are found by how they are declared.
const TEST_FOLDERS: [&str; 3] = ["tests/", "gateway-user/tests/", "gateway-user/benches/"];

const NO_PROMISE: &str = "opens with no `//!`: a file says what it promises and what it refuses";

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
    // What cannot be read is deleted but still in the index, or no text.
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(place::root().join(name)).ok()?));
    let files: Vec<(String, String)> = listed.lines().filter_map(read).collect();
    let sources: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(".rs")).collect();
    let mut tests: BTreeSet<String> =
        sources.iter().flat_map(|(name, text)| test_modules(name, text)).collect();
    tests.extend(TEST_FOLDERS.map(str::to_owned));
    let mut findings: BTreeSet<Finding> =
        files.iter().flat_map(|(name, text)| machine_paths(name, text)).collect();
    let (mut long, mut edges) = (Vec::new(), layers::Edges::default());
    for (name, text) in sources {
        let rust = RustText::of(text);
        findings.extend(every_file(name, text, &rust));
        if tests.iter().any(|test| name.starts_with(test)) {
            continue;
        }
        findings.extend(shipped_file(name, text, &rust));
        findings
            .extend(edges.add(name, &rust).into_iter().map(|(line, what)| Finding::new(name, line, what)));
        long.extend(length(name, &rust, &mut findings));
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

/// Rules for tests, too.
fn every_file(name: &str, text: &str, rust: &RustText) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in rust.comments.lines().enumerate() {
        if words(line).any(|word| matches!(word, "TODO" | "FIXME" | "XXX")) {
            findings.push(Finding::new(name, index + 1, "a note to do something: do it, or write an issue"));
        }
    }
    // A program of tests is read on its own; the tests of a module belong to the module's promise.
    if name.starts_with("tests/") && !has_promise(text) {
        findings.push(Finding::new(name, 1, NO_PROMISE));
    }
    findings
}

fn has_promise(text: &str) -> bool {
    let opening = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    opening.is_some_and(|line| line.starts_with("//!"))
}

/// Rules for what is shipped.
fn shipped_file(name: &str, text: &str, rust: &RustText) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line, what: &str| findings.push(Finding::new(name, line, what));
    if !has_promise(text) {
        find(1, NO_PROMISE);
    }
    let owned_here = |owner: &str| !name.starts_with("gateway-user/src/") || name.starts_with(owner);
    for (line, code) in rust.shipped() {
        if code.contains(".unwrap()") {
            find(line, "`unwrap` in shipped code: handle it, or `expect` the invariant");
        }
        if ["todo!", "unimplemented!", "dbg!"].iter().any(|unfinished| code.contains(unfinished)) {
            find(line, "unfinished");
        }
        for (owned, owner, why) in OWNED.iter().filter(|(_, owner, _)| !owned_here(owner)) {
            if let Some(word) = words(code).find(|word| owned.contains(word)) {
                find(line, &format!("`{word}` belongs in {owner}: {why}"));
            }
        }
    }
    findings
}

/// Files, or folders, that a file declares as test modules: `#[cfg(test)] mod name;`.
fn test_modules(name: &str, text: &str) -> Vec<String> {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let own = match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ => name.trim_end_matches(".rs").to_owned(),
    };
    let mut modules = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while lines.by_ref().any(|line| line == "#[cfg(test)]") {
        let mut path = None;
        for line in lines.by_ref() {
            if let Some(value) = line.strip_prefix("#[path = \"") {
                path = value.split('"').next().map(|value| format!("{folder}/{value}"));
            } else if let Some((_, module)) = line.split_once("mod ").filter(|_| line.ends_with(';')) {
                let module = module.trim_end_matches(';');
                modules.extend(path.take().map_or_else(
                    || vec![format!("{own}/{module}.rs"), format!("{own}/{module}/")],
                    |path| vec![path],
                ));
                break;
            } else if !line.starts_with("#[") {
                break;
            }
        }
    }
    modules
}

/// A note for a long file, a finding for one too long.
fn length(name: &str, rust: &RustText, findings: &mut BTreeSet<Finding>) -> Option<String> {
    let lines = rust.shipped_lines();
    if lines <= LINES_TALKED_ABOUT {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Vec<String> {
        let rust = RustText::of(text);
        let findings = every_file(name, text, &rust).into_iter().chain(shipped_file(name, text, &rust));
        findings.map(|finding| format!("{}:{}", finding.line, finding.what)).collect()
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
    fn files_declared_as_tests_are_known_as_such() {
        let declared = |name: &str| {
            test_modules(name, "#[cfg(test)]\nmod tests;\n\nmod other;\n#[cfg(test)]\nmod tests {\n")
        };
        assert_eq!(declared("a/src/mask/mod.rs"), ["a/src/mask/tests.rs", "a/src/mask/tests/"]);
        assert_eq!(declared("a/src/wire/http1.rs"), ["a/src/wire/http1/tests.rs", "a/src/wire/http1/tests/"]);
        let elsewhere =
            test_modules("a/src/policy/shelf.rs", "#[cfg(test)]\n#[path = \"shelf_tests.rs\"]\nmod tests;\n");
        assert_eq!(elsewhere, ["a/src/policy/shelf_tests.rs"]);
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
