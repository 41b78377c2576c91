//! `tidegate completions` and `tidegate man`: made from the same definitions that parse the command line, so they
//! cannot say anything else.

use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Context, Failure};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidegate completions bash > /etc/bash_completion.d/tidegate\n  \
                        tidegate completions zsh > ~/.zfunc/_tidegate")]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

/// Write the manual pages, one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo tidegate man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Directory to write them to. Made if it is not there.
    dir: PathBuf,
}

pub(super) fn completions(args: &Completions, context: &Context) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tidegate", &mut script);
    context.out.raw(&script)
}

pub(super) fn man(args: &Man, context: &Context) -> Result<(), Failure> {
    let pages = write_pages(&args.dir).map_err(|error| {
        Failure::cannot(format!("writing manual pages to {}: {error}", args.dir.display()))
    })?;
    context.out.line(format_args!("{pages} manual pages in {}", args.dir.display()))
}

fn write_pages(dir: &Path) -> io::Result<usize> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), dir)?;
    Ok(std::fs::read_dir(dir)?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page() {
        let dir = tempfile::tempdir().unwrap();
        write_pages(dir.path()).unwrap();
        for page in
            ["tidegate.1", "tidegate-load.1", "tidegate-approvals-approve.1", "tidegate-record-verify.1"]
        {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
    }
}
