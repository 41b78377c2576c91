//! A day of a busy gate on one record, shortened. Needs no root, about 12 GB on disk for ten million entries while it runs,
//! and leaves nothing.

use std::process::Command;

use anyhow::{Result, bail};

use super::built_bench;
use crate::{build, place, setup};

/// How much to write.
#[derive(clap::Args, Debug)]
pub(crate) struct Soak {
    /// Entries that are written and all kept, and then listed.
    #[arg(long, default_value_t = 10_000_000)]
    entries: u64,
    /// Entries that are written to a record of bounded size [default: as many].
    #[arg(long)]
    bounded: Option<u64>,
}

impl Soak {
    /// Builds, writes, lists, verifies, prints.
    pub(crate) fn run(&self) -> Result<()> {
        let sh = place::shell()?;
        build::kernel_object(&sh, setup::for_build()?)?;
        build::cargo(&sh, &["build", "--workspace", "--bench", "soak"], true)?;
        let entries = ["--entries".to_owned(), self.entries.to_string()];
        let bounded = ["--bounded".to_owned(), self.bounded.unwrap_or(self.entries).to_string()];
        let status = Command::new(built_bench("soak")?).args(entries).args(bounded).status()?;
        if status.success() { Ok(()) } else { bail!("the soak: {status}") }
    }
}
