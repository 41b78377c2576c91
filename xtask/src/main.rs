//! `cargo xtask`: builds, loads and tests Tidegate. Every command first brings what it needs, and does nothing twice.

#![expect(clippy::print_stdout, reason = "what tests say, and their sum, is the output of this command")]

mod attack;
mod bench;
mod build;
mod check;
mod demo;
mod emulator;
mod fuzz;
mod gate;
mod kernel;
mod layers;
mod package;
mod packages;
mod place;
mod ramdisk;
mod rust_text;
mod setup;
mod test;
mod tidy;
mod traces;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, loads and tests Tidegate", max_term_width = 100)]
struct Line {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring what is missing on this machine for building and testing; says what, why and for how long.
    Setup,
    /// Build the kernel programs and `tidegate`.
    Build(build::Build),
    /// Load the kernel programs, pin them, and leave (asks for root).
    Load(gate::Words),
    /// Remove everything that `load` pinned.
    Unload(gate::Words),
    /// Replace the loaded programs and tables in place, without an open window.
    Reload(gate::Words),
    /// Show programs, links, maps, counters and the enforcer's health.
    Status(gate::Words),
    /// Show the gate at work, with real commands on hosts of its own (asks for root).
    Demo(demo::Demo),
    /// Build, load, and run the enforcer in the foreground.
    Run(gate::Words),
    /// Make the Debian package: programs, units, manual pages. Installing it needs no Rust.
    Package(package::Package),
    /// Run every test: what CI runs.
    Test(test::Test),
    /// Try every way round the gate, as everybody who may (asks for root), and hold what is open to the threat model.
    Attack(attack::Attack),
    /// Everything without running: formatting, lints, tidy, licences and bans, documentation.
    Check,
    /// The project's own rules: layers, owners of names, lengths, openings.
    Tidy,
    /// Measure the gate beside nginx and beside nothing, and the record beside naive rows.
    Bench(bench::Bench),
    /// Hostile bytes for every parser, for a while.
    Fuzz(fuzz::Fuzz),
}

fn main() -> ExitCode {
    match run(Line::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::everything(),
        Task::Build(build) => build.run().map(drop),
        Task::Load(words) => words.run("load"),
        Task::Unload(words) => words.run("unload"),
        Task::Reload(words) => words.run("load"),
        Task::Status(words) => words.run("status"),
        Task::Demo(demo) => demo.run(),
        Task::Run(words) => words.run("run"),
        Task::Package(package) => package.run(),
        Task::Test(test) => test.run(),
        Task::Attack(attack) => attack.run(),
        Task::Check => check::run(),
        Task::Tidy => tidy::run(),
        Task::Bench(bench) => bench.run(),
        Task::Fuzz(fuzz) => fuzz.run().map(drop),
    }
}
