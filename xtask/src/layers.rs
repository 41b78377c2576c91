//! The layers of `gateway-user`: a module names only modules in lower rows, or in its own row as long as that makes no
//! ring. Without this check every crate of this size grows one knot of modules that all reach each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust_text::{RustText, words};

/// Low to high.
const ROWS: [&[&str]; 10] = [
    &["config", "expression", "json", "limits", "operation", "service", "telemetry"],
    &["kernel", "policy", "wire", "store"],
    &[
        "intercept",
        "identity",
        "approval",
        "credential",
        "mask",
        "record",
        "rewrite",
        "upstream",
        "block",
        "notify",
        "tally",
    ],
    &["judge", "signals"],
    &["protocol"],
    &["session", "inspect"],
    &["admin"],
    &["keeper"],
    &["app"],
    &["cli"],
];

const SOURCE: &str = "gateway-user/src/";

/// Which module names which, within a row.
#[derive(Default)]
pub(crate) struct Edges {
    level: BTreeMap<String, BTreeSet<String>>,
}

impl Edges {
    /// Reads one file. Gives the lines that break the order.
    pub(crate) fn add(&mut self, name: &str, rust: &RustText) -> Vec<(usize, String)> {
        let Some(path) = name.strip_prefix(SOURCE).filter(|path| !matches!(*path, "lib.rs" | "main.rs"))
        else {
            return Vec::new();
        };
        let module = path.split(['/', '.']).next().unwrap_or_default();
        let Some(own) = row(module) else {
            return vec![(1, format!("`{module}` has no row: give it one in xtask/src/layers.rs"))];
        };
        let mut breaches = Vec::new();
        for (line, named) in named_modules(rust, depth(path)) {
            match row(&named) {
                Some(other) if other > own => {
                    breaches.push((line, format!("`{module}` names `{named}`, which lies above it")))
                }
                Some(other) if other == own && named != module => {
                    self.level.entry(module.to_owned()).or_default().insert(named);
                }
                _ => {}
            }
        }
        breaches
    }

    /// A ring of modules of one row, if there is one.
    pub(crate) fn cycle(&self) -> Option<String> {
        self.level
            .keys()
            .find_map(|start| self.path_back_to(start, start, &mut BTreeSet::new()))
            .map(|path| format!("modules in a ring: {path}"))
    }

    fn path_back_to(&self, start: &str, at: &str, seen: &mut BTreeSet<String>) -> Option<String> {
        for next in self.level.get(at)? {
            if next == start {
                return Some(format!("{at} -> {start}"));
            }
            if seen.insert(next.clone())
                && let Some(rest) = self.path_back_to(start, next, seen)
            {
                return Some(format!("{at} -> {rest}"));
            }
        }
        None
    }
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// How many `super::` lead from a file to the root of the crate.
fn depth(path: &str) -> usize {
    let path = path.strip_suffix("/mod.rs").or_else(|| path.strip_suffix(".rs")).unwrap_or(path);
    path.split('/').count()
}

/// Top-level modules that shipped code names, by `crate::` or by enough `super::`.
fn named_modules(rust: &RustText, depth: usize) -> Vec<(usize, String)> {
    let code: Vec<&str> = rust.shipped().map(|(_, line)| line).collect();
    let code = code.join("\n");
    let to_root = "super::".repeat(depth);
    let mut named = Vec::new();
    for root in ["crate::", to_root.as_str()] {
        for (at, _) in code.match_indices(root) {
            let continues =
                |character: char| character.is_alphanumeric() || character == '_' || character == ':';
            if code[..at].ends_with(continues) || code[at + root.len()..].starts_with("super::") {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            named.extend(heads(&code[at + root.len()..]).into_iter().map(|head| (line, head)));
        }
    }
    named
}

/// The first names of a path or of a group in braces: `{a::b, c::{d, e}}` gives `a` and `c`.
fn heads(after: &str) -> Vec<String> {
    let first = |text: &str| words(text).next().map(str::to_owned);
    let Some(group) = after.strip_prefix('{') else { return first(after).into_iter().collect() };
    let (mut level, mut heads, mut start) = (0_usize, Vec::new(), 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => level += 1,
            '}' if level > 0 => level -= 1,
            ',' | '}' if level == 0 => {
                heads.extend(first(&group[start..at]));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(name: &str, text: &str) -> Vec<(usize, String)> {
        Edges::default().add(name, &RustText::of(text))
    }

    #[test]
    fn naming_a_higher_module_is_found_however_it_is_written() {
        for text in [
            "use crate::session::Session;",
            "use crate::{limits, session::{Session, Ending}};",
            "fn f() { crate::session::serve() }",
            "use crate::{\n    limits,\n    session,\n};",
        ] {
            assert_eq!(breaches("gateway-user/src/mask/mod.rs", text).len(), 1, "{text}");
        }
        assert_eq!(breaches("gateway-user/src/judge.rs", "use super::session::Session;").len(), 1);
        assert_eq!(breaches("gateway-user/src/mask/find.rs", "use super::super::session::Session;").len(), 1);
    }

    #[test]
    fn lower_modules_comments_and_tests_are_free_to_name() {
        for text in [
            "use crate::limits::JSON_DEPTH_MAX;",
            "// crate::session\n",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::session::Session;\n}\n",
            "use super::session::Local;",
            "use crate::{policy::nouns::{Mask, session}, wire};",
        ] {
            assert_eq!(breaches("gateway-user/src/mask/find.rs", text), [], "{text}");
        }
    }

    #[test]
    fn a_module_without_a_row_is_refused() {
        assert_eq!(breaches("gateway-user/src/misc.rs", "").len(), 1);
        assert_eq!(breaches("gateway-user/src/lib.rs", "use crate::session;"), []);
    }

    #[test]
    fn neighbours_may_name_each_other_but_not_in_a_ring() {
        let mut edges = Edges::default();
        edges.add("gateway-user/src/approval/desk.rs", &RustText::of("use crate::record::Recorder;"));
        assert_eq!(edges.cycle(), None);
        edges.add("gateway-user/src/record/read.rs", &RustText::of("use crate::mask::scrub;"));
        edges.add("gateway-user/src/mask/mod.rs", &RustText::of("use crate::approval::Desk;"));
        assert!(edges.cycle().is_some_and(|ring| ring.contains("approval -> record -> mask -> approval")));
    }
}
