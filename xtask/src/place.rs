//! Where things are: the workspace, what is built in it, and the machine it stands on. Looks; changes nothing.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::Shell;

/// The project's root folder.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A shell that stands in the project's root.
pub(crate) fn shell() -> Result<Shell> {
    let sh = Shell::new().context("no current directory")?;
    sh.change_dir(root());
    Ok(sh)
}

/// Tools this project builds for itself: `target/tools`.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// A tool that `setup` built.
pub(crate) fn tool(name: &str) -> PathBuf {
    tools().join("bin").join(name)
}

/// Servers for tests that come from npm: `target/testbed`.
pub(crate) fn testbed() -> PathBuf {
    root().join("target/testbed")
}

/// The kernel object, where `gateway-user` embeds it from.
pub(crate) fn kernel_object() -> PathBuf {
    root().join("target/bpf/tidegate-bpf.o")
}

/// Where cargo puts the workspace's own programs.
pub(crate) fn cargo_target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The built `tidegate`.
pub(crate) fn tidegate(release: bool) -> Result<PathBuf> {
    let built = cargo_target().join(if release { "release" } else { "debug" }).join("tidegate");
    if !built.exists() {
        bail!("{} is not built yet: run `cargo xtask build`", built.display());
    }
    Ok(built)
}

/// Whether a command is in PATH or where system tools are kept.
pub(crate) fn command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// How a normal user becomes root for one command; what the tests look at goes with it.
pub(crate) const SUDO: [&str; 2] =
    ["sudo", "--preserve-env=PATH,CI,TIDEGATE_FULL,TIDEGATE_BIN,PROPTEST_CASES,RUST_LOG,RUST_BACKTRACE"];

/// The command line prefix that makes the rest privileged: nothing for root, sudo otherwise.
pub(crate) fn privileged() -> Result<Vec<String>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if command("sudo").is_none() {
        bail!("this needs root and there is no sudo here: run it as root");
    }
    Ok(SUDO.map(str::to_owned).to_vec())
}

/// Settings of the cargo that runs us, which would mislead another cargo or another toolchain. `CARGO_HOME`, network
/// and registry settings stay: they are the user's.
pub(crate) fn leaked_settings(also_toolchain: bool) -> Vec<String> {
    let users = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| is_leak(name, also_toolchain) && !users.iter().any(|kept| name.starts_with(kept)))
        .collect()
}

fn is_leak(name: &str, also_toolchain: bool) -> bool {
    let of_cargo_run = name == "CARGO"
        || name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(
            name,
            "OUT_DIR" | "LD_LIBRARY_PATH" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE"
        );
    let of_toolchain = name.starts_with("CARGO")
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTFLAGS")
        || name == "RUSTDOC"
        || name == "RUSTUP_TOOLCHAIN";
    of_cargo_run || (also_toolchain && of_toolchain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_toolchain_sees_nothing_of_ours() {
        for name in [
            "RUSTUP_TOOLCHAIN",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
        ] {
            assert!(is_leak(name, true), "{name} would reach the kernel build");
            assert!(!is_leak(name, false), "{name} is the user's setting for the workspace");
        }
        assert!(is_leak("CARGO_PKG_NAME", false) && is_leak("LD_LIBRARY_PATH", false));
    }

    #[test]
    fn a_command_that_is_not_there_is_not_found() {
        assert!(command("sh").is_some());
        assert!(command("tidegate-no-such-command").is_none());
    }
}
