//! Everything that can be said about the code without running it. Runs every check, also after one failed, and says
//! which did.

use std::path::Path;

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::build::{self, cargo_command};
use crate::{place, setup, tidy};

/// Formatting, lints, the project's own rules, dependencies, documentation.
pub(crate) fn run() -> Result<()> {
    let toolchain = setup::for_build()?;
    let deny = setup::for_check()?;
    let sh = place::shell()?;
    build::kernel_object(&sh, toolchain)?;
    let outcomes = [
        ("fmt", format(&sh)),
        ("clippy", lint(&sh)),
        ("tidy", tidy::run()),
        ("deny", dependencies(&sh, &deny)),
        ("doc", documentation(&sh)),
    ];
    let failed: Vec<_> =
        outcomes.iter().filter_map(|(name, outcome)| Some((name, outcome.as_ref().err()?))).collect();
    for (name, error) in &failed {
        eprintln!("check: {name} failed: {error:#}");
    }
    match failed.len() {
        0 => Ok(()),
        count => bail!("{count} of {} checks failed", outcomes.len()),
    }
}

fn format(sh: &Shell) -> Result<()> {
    build::cargo(sh, &["fmt", "--all", "--check"], false)?;
    build::cargo(sh, &["fmt", "--manifest-path", "gateway-ebpf/Cargo.toml", "--check"], false)
}

fn lint(sh: &Shell) -> Result<()> {
    // Length of functions is part of the style (clippy.toml has the bound), and no default of clippy.
    let strict = ["--", "--deny", "warnings", "--deny", "clippy::too_many_lines"];
    build::cargo(sh, &[&["clippy", "--workspace", "--all-targets"][..], &strict].concat(), false)?;
    let contract = [
        "clippy",
        "--manifest-path",
        "gateway-ebpf/Cargo.toml",
        "--target-dir",
        "target/ebpf-host",
        "--all-targets",
    ];
    build::cargo(sh, &[&contract[..], &strict].concat(), false)
}

fn dependencies(sh: &Shell, deny: &Path) -> Result<()> {
    cmd!(sh, "{deny} check bans licenses sources").run()?;
    // The advisories come from a git repository of their own; a closed network has no way to it.
    let fetched = cmd!(sh, "{deny} fetch db").quiet().ignore_stderr().run();
    if fetched.is_err() {
        eprintln!("check: the advisory database cannot be reached from here, so advisories were NOT checked");
        return Ok(());
    }
    Ok(cmd!(sh, "{deny} check --disable-fetch advisories").run()?)
}

fn documentation(sh: &Shell) -> Result<()> {
    Ok(cargo_command(sh, &["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "--deny warnings")
        .run()?)
}
