//! The detectors beside Presidio, over labelled texts that are not part of the repository.
//!
//! Needs Python and a package index for Presidio itself, the first time; a language model is not used.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{build, place};

/// Where the labelled texts are.
#[derive(clap::Args, Debug)]
pub(crate) struct Masking {
    /// Directory with synth_dataset_v2*.json.gz (presidio-research) and gitleaks_cases*.jsonl.gz.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

impl Masking {
    /// Builds, brings Presidio, measures both, prints a table.
    pub(crate) fn run(&self) -> Result<()> {
        let (synth, keys) =
            (self.file("synth_dataset_v2", ".json.gz")?, self.file("gitleaks_cases", ".jsonl.gz")?);
        let sh = place::shell()?;
        build::cargo(&sh, &["build", "--workspace", "--bins"], false)?;
        let python = presidio()?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench/presidio.py");
        let status =
            Command::new(python).arg(script).arg(place::tidegate(false)?).arg(synth).arg(keys).status()?;
        if status.success() { Ok(()) } else { bail!("the measurement: {status}") }
    }

    fn file(&self, start: &str, end: &str) -> Result<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.data)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(start) && name.ends_with(end) {
                found.push(path);
            }
        }
        found.sort();
        match found.into_iter().next() {
            Some(path) => Ok(path),
            None => bail!("{} has no {start}*{end}", self.data.display()),
        }
    }
}

/// A Python that has Presidio, in the target directory.
fn presidio() -> Result<PathBuf> {
    let home = place::root().join("target/presidio/venv");
    let python = home.join("bin/python");
    if !home.join("bin/pip").exists() {
        run(Command::new("python3").arg("-m").arg("venv").arg(&home))?;
    }
    let known = Command::new(&python).args(["-c", "import presidio_analyzer"]).output()?;
    if !known.status.success() {
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "presidio-analyzer"]))?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { bail!("{command:?}: {status}") }
}
