//! Every way round the gate, tried: builds the one program that needs nothing but a kernel, and runs its test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::cmd;

use crate::kernel::{self, Kernel};
use crate::packages::{self, Need};
use crate::{build, place, setup};

/// How to attack.
#[derive(clap::Args, Debug)]
pub(crate) struct Attack {
    /// Write what was found, here and on other kernels in an emulator, into docs/THREAT_MODEL.md, instead of holding it to what
    /// stands there.
    #[arg(long)]
    write: bool,
    /// Only build the program, linked statically, to be put into a container or onto another machine; says where it is.
    #[arg(long)]
    build: bool,
}

impl Attack {
    /// Builds; then runs the test with all it says.
    pub(crate) fn run(&self) -> Result<()> {
        let toolchain = setup::for_build()?;
        let sh = place::shell()?;
        if self.build {
            return build_static(&sh);
        }
        packages::bring(
            "the attacks",
            &[Need::command("ip", "iproute2", "hosts of their own for the attacks")],
        )?;
        build::kernel_object(&sh, toolchain)?;
        let test = kernel::programs(&sh)?
            .into_iter()
            .find(|path| path.to_string_lossy().contains("/attack-"))
            .context("cargo did not build the tests `attack`")?;
        let mut command = place::privileged()?;
        command.push("env".to_owned());
        if self.write {
            let folder = on_other_kernels(&sh, &test)?;
            command.push(format!("TIDEGATE_WRITE_ATTACKS={}", folder.display()));
        }
        command.push(test.display().to_string());
        let (first, rest) = command.split_first().context("a command has a first word")?;
        Ok(cmd!(sh, "{first} {rest...} --nocapture").run()?)
    }
}

/// Tries them on every other kernel; the folder with what was found, a file for each.
fn on_other_kernels(sh: &xshell::Shell, test: &Path) -> Result<PathBuf> {
    let folder = place::root().join("target/attacks");
    sh.remove_path(&folder)?;
    sh.create_dir(&folder)?;
    for kernel in Kernel::ALL {
        eprintln!("\n=== attacks on the kernel {kernel:?}");
        let outcome = kernel.run(&[test.to_owned()], &[], Some("TIDEGATE_WRITE_ATTACKS="))?;
        let found: Vec<&String> = outcome.lines.iter().filter(|line| line.starts_with("{\"")).collect();
        if found.is_empty() || !outcome.broken.is_empty() {
            bail!("the attacks did not run to their end on {kernel:?}: {}", outcome.broken.join("; "));
        }
        let lines = found.iter().fold(String::new(), |text, line| text + line + "\n");
        sh.write_file(folder.join(format!("{kernel:?}.jsonl")), lines)?;
    }
    Ok(folder)
}

fn build_static(sh: &xshell::Shell) -> Result<()> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = place::root().join("target/static");
    let arguments = ["build", "--release", "--package", "tidegate-attack", "--target", &target];
    build::cargo_command(sh, &arguments)
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .run()?;
    println!("{}", folder.join(target).join("release/tidegate-attack").display());
    Ok(())
}
