//! Builds the kernel object and the programs. The object is replaced only when its bytes changed, so that an
//! unchanged one rebuilds nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Cmd, Shell, cmd};

use crate::setup::KernelToolchain;
use crate::{place, setup};

/// What to build.
#[derive(clap::Args, Debug, Clone, Copy, Default)]
pub(crate) struct Build {
    /// Optimised (what packages ship). Takes minutes the first time.
    #[arg(long)]
    pub(crate) release: bool,
}

impl Build {
    /// Builds everything; gives the built `tidegate`.
    pub(crate) fn run(self) -> Result<PathBuf> {
        let toolchain = setup::for_build()?;
        let sh = place::shell()?;
        kernel_object(&sh, toolchain)?;
        cargo(&sh, &["build", "--package", "tidegate"], self.release)?;
        place::tidegate(self.release)
    }
}

/// Runs a cargo command on the workspace, as if typed by the user.
pub(crate) fn cargo(sh: &Shell, arguments: &[&str], release: bool) -> Result<()> {
    let profile = release.then_some("--release");
    Ok(cargo_command(sh, arguments).args(profile).run()?)
}

/// The command, not yet run.
pub(crate) fn cargo_command<'a>(sh: &'a Shell, arguments: &[&str]) -> Cmd<'a> {
    without(cmd!(sh, "cargo {arguments...}"), false)
}

/// Takes the outer cargo's settings out of a command's environment.
pub(crate) fn without(command: Cmd<'_>, also_toolchain: bool) -> Cmd<'_> {
    place::leaked_settings(also_toolchain).iter().fold(command, |command, name| command.env_remove(name))
}

/// Builds the kernel programs into the object that `gateway-user` embeds.
pub(crate) fn kernel_object(sh: &Shell, toolchain: KernelToolchain) -> Result<()> {
    let target = place::root().join("target/bpf-build");
    let _there = sh.push_dir(place::root().join("gateway-ebpf"));
    let linker = format!("-Clinker={}", toolchain.linker().display());
    // What comes after the program's own flags: line numbers for the verifier's log, and the BTF that maps need.
    let flags = [linker.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f");
    let arguments = "build --release --target bpfel-unknown-none -Z build-std=core --features programs --bin tidegate-bpf";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let command = match toolchain {
        KernelToolchain::Debian => without(cmd!(sh, "/usr/bin/cargo {arguments...}"), true)
            .env("RUSTC", "/usr/bin/rustc")
            .env("RUSTC_BOOTSTRAP", "1"),
        KernelToolchain::Nightly => {
            without(cmd!(sh, "cargo {arguments...}"), true).env("RUSTUP_TOOLCHAIN", "nightly")
        }
    };
    command
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .run()
        .context("the kernel programs do not build")?;
    replace_if_changed(&target.join("bpfel-unknown-none/release/tidegate-bpf"), &place::kernel_object())
}

fn replace_if_changed(built: &Path, kept: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(kept).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = kept.parent().context("the kernel object lies in a folder")?;
    fs::create_dir_all(folder)?;
    let new = kept.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, kept).with_context(|| format!("cannot replace {}", kept.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_time() {
        let folder = std::env::temp_dir().join(format!("tidegate-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (built, kept) = (folder.join("built"), folder.join("kept/object.o"));
        fs::write(&built, b"one").unwrap();
        replace_if_changed(&built, &kept).unwrap();
        let first = fs::metadata(&kept).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        replace_if_changed(&built, &kept).unwrap();
        assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), first);
        fs::write(&built, b"two").unwrap();
        replace_if_changed(&built, &kept).unwrap();
        assert_eq!(fs::read(&kept).unwrap(), b"two");
        fs::remove_dir_all(&folder).unwrap();
    }
}
