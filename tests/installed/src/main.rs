//! Tries an installed package, inside the machine that it was made for: as root of a Debian with systemd, which is thrown away
//! afterwards. Says what it finds in the words of Rust's tests; the parts that agents and their target play are its own, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

mod boot;
mod install;
mod parts;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::run;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => parts::serve(),
        ["call", name] => parts::call(name),
        ["install"] => tried(install::promises()),
        ["boot"] => tried(boot::promises()),
        other => panic!("unknown: {other:?}"),
    }
}

/// What is promised, and how it is tried.
type Promise = (&'static str, fn());

fn tried(promises: &[Promise]) {
    let (mut passed, mut failed) = (0, 0);
    for (name, tried) in promises {
        match catch_unwind(AssertUnwindSafe(tried)) {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                println!("{}", run("journalctl --boot --no-pager --lines=40 --output=short-monotonic").text);
                failed += 1;
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed");
    println!("tidegate: the trial has run");
}
