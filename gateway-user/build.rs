//! Finds the kernel programs, which `cargo xtask build` compiles with another toolchain, and says so where they are missing.

#![allow(clippy::print_stdout, reason = "this is how a build script answers cargo")]

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=TIDEGATE_BPF");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let object =
        std::env::var_os("TIDEGATE_BPF").map_or_else(|| root.join("target/bpf/tidegate-bpf.o"), Into::into);
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo::rustc-env=TIDEGATE_BPF_OBJECT={}", object.display()),
        Err(error) => println!(
            "cargo::error=the kernel programs are not built ({}: {error}); run `cargo xtask build`, which makes them first",
            object.display()
        ),
    }
}
