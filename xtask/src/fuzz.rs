//! Throws hostile bytes at every parser, for a bounded time. A crash is kept and named; the corpus stays for next time.

use anyhow::{Context, Result, bail};
use xshell::cmd;

use crate::{build, place, setup};

/// Bytes of one input: longer than any bound a parser has on one line, short enough to be quick.
const INPUT_BYTES_MAX: &str = "20000";

/// What to fuzz, and for how long.
#[derive(clap::Args, Debug)]
pub(crate) struct Fuzz {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// The target [default: all].
    target: Option<String>,
}

impl Fuzz {
    /// Fuzzes everything for so long each.
    pub(crate) fn all(seconds: u32) -> Self {
        Self { seconds, target: None }
    }

    /// Builds and runs. Gives the number of targets that held.
    pub(crate) fn run(&self) -> Result<usize> {
        let kernel = setup::for_build()?;
        let tool = setup::for_fuzz()?;
        let sh = place::shell()?;
        build::kernel_object(&sh, kernel)?;
        let targets = self.targets()?;
        let target_folder = place::root().join("target/fuzz");
        let limits = &[format!("-max_total_time={}", self.seconds), format!("-max_len={INPUT_BYTES_MAX}")];
        for target in &targets {
            let corpus = place::root().join("fuzz/corpus").join(target);
            sh.create_dir(&corpus)?;
            // Without a sanitizer: the parsers have no unsafe code, so a panic is all there is to find. Unoptimised: most of the
            // time would go into compiling the rest of the tree.
            let run = cmd!(
                sh,
                "{tool} run --dev --sanitizer none --target-dir {target_folder} {target} {corpus} -- {limits...}"
            );
            // The workspace's own toolchain will do: it only has to accept flags that are not stable yet.
            let run = build::without(run, true).env("RUSTC_BOOTSTRAP", "1");
            run.run()
                .with_context(|| format!("fuzzing {target} found something: see fuzz/artifacts/{target}"))?;
        }
        Ok(targets.len())
    }

    fn targets(&self) -> Result<Vec<String>> {
        let files = place::root().join("fuzz/fuzz_targets").read_dir()?;
        let names =
            files.filter_map(|file| Some(file.ok()?.path().file_stem()?.to_string_lossy().into_owned()));
        let mut names: Vec<String> =
            names.filter(|name| self.target.as_ref().is_none_or(|wanted| wanted == name)).collect();
        names.sort();
        if names.is_empty() {
            bail!("no such fuzz target; they are in fuzz/fuzz_targets");
        }
        Ok(names)
    }
}
