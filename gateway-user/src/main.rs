//! The `tidegate` command. Everything it does is in the library.

use std::process::ExitCode;

/// Requests are made on one thread and freed on another, the record's; this allocator is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::main()
}
