//! Every way round the gate, tried: builds the one program that needs nothing but a kernel, and runs its test.

use anyhow::{Context, Result};
use xshell::cmd;

use crate::packages::{self, Need};
use crate::{build, place, setup};

/// How to attack.
#[derive(clap::Args, Debug)]
pub(crate) struct Attack {
    /// Write what was found into docs/THREAT_MODEL.md, instead of holding it to what stands there.
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
        let test = crate::kernel::programs(&sh)?
            .into_iter()
            .find(|path| path.to_string_lossy().contains("/attack-"))
            .context("cargo did not build the tests `attack`")?;
        let mut command = place::privileged()?;
        command.push("env".to_owned());
        command.extend(self.write.then(|| "TIDEGATE_WRITE_ATTACKS=1".to_owned()));
        command.push(test.display().to_string());
        let (first, rest) = command.split_first().context("a command has a first word")?;
        Ok(cmd!(sh, "{first} {rest...} --nocapture").run()?)
    }
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
