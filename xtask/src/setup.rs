//! Brings what a command needs and the machine lacks. Says first what, why and for how many minutes; does nothing when
//! it is all there; never touches what it did not have to.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::packages::{self, Need};
use crate::{build, place};

/// How the kernel programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelToolchain {
    /// Debian's `rustc-web` with its sources and LLVM.
    Debian,
    /// rustup's nightly with `rust-src`.
    Nightly,
}

/// Versions that were tried together with the compilers above.
const BPF_LINKER: &str = "0.13.0";
/// The newest major that runs on Debian 12's node 18 and on 20.
const OIDC_PROVIDER: &str = "8.8.1";
/// The checker of the archive format's published schema.
const HAR_VALIDATOR: &str = "5.1.5";
const CARGO_DENY: &str = "0.20.2";
const CARGO_FUZZ: &str = "0.13.2";
/// LLVM majors that this bpf-linker can be built against, newest first.
const LLVM: [u32; 3] = [23, 22, 21];

const LINKING: &[Need] = &[
    Need::command("cc", "gcc", "compiles the two C libraries in the tree and links"),
    Need::file("/usr/include/stdlib.h", "libc6-dev", "the C library's headers"),
];
const DEBIAN_KERNEL: &[Need] = &[
    Need::file("/usr/bin/rustc", "rustc-web", "compiles the kernel programs"),
    Need::file("/usr/bin/cargo", "cargo-web", "compiles the kernel programs"),
    Need::file(
        "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
        "rust-web-src",
        "`core`, built for the kernel",
    ),
];
const DEBIAN_LINKER: &[Need] = &[
    Need::command("c++", "g++", "links bpf-linker with LLVM"),
    Need::file("/usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev", "bpf-linker is built on it"),
    Need::file("/usr/lib/llvm-22/lib/libPolly.a", "libpolly-22-dev", "LLVM links with it"),
    Need::file("/usr/include/zstd.h", "libzstd-dev", "LLVM links with it"),
    Need::file("/usr/include/zlib.h", "zlib1g-dev", "LLVM links with it"),
];
const TESTS: &[Need] = &[
    Need::command("ip", "iproute2", "hosts of their own for the tests"),
    Need::command("curl", "curl", "an unmodified client"),
    Need::command("wget", "wget", "an unmodified client"),
    Need::file("/usr/bin/python3", "python3", "unmodified clients, the sample agent"),
    Need::python("requests", "python3-requests", "an unmodified client"),
    Need::python("aiohttp", "python3-aiohttp", "an unmodified client"),
    Need::command("node", "nodejs", "an unmodified client, the identity provider"),
    Need::command("nginx", "nginx", "a real server behind the gate"),
    Need::command("openssl", "openssl", "a second opinion on keys"),
    Need::command("tmux", "tmux", "a terminal for the pages that fill one"),
    Need::command("chromium", "chromium", "looks at the weekly review"),
    Need::command("shellcheck", "shellcheck", "checks the shell scripts"),
    Need::command("runc", "runc", "a real container runtime"),
    Need::command("bpftool", "bpftool", "what root can do to what is loaded, by another program than ours"),
    Need::command("tshark", "tshark", "reads the captures that are exported"),
    Need::command("tcpdump", "tcpdump", "writes the captures that are inspected"),
    Need::file("/lib/systemd/systemd-journald", "systemd", "a witness of the record"),
    Need::command("faketime", "faketime", "a clock that jumps"),
    Need::command("mkfs.ext4", "e2fsprogs", "a disk of its own for the record"),
    Need::command("unshare", "util-linux", "gives journald a file system of its own"),
];
const NPM: &[Need] = &[Need::command("npm", "npm", "brings the identity provider and the archive checker")];
const DEMO: &[Need] = &[
    Need::command("ip", "iproute2", "a host of its own for the demo"),
    Need::command("curl", "curl", "the client of the demo"),
    Need::command("setpriv", "util-linux", "puts the people of the demo on its hosts"),
    Need::file("/usr/bin/python3", "python3", "the sample agent"),
];
const BENCH: &[Need] = &[
    Need::command("ip", "iproute2", "a host of its own for the measurement"),
    Need::command("nginx", "nginx", "the upstream, and the proxy we compare with"),
    Need::command("wrk", "wrk", "makes the load"),
    Need::command("h2load", "nghttp2-client", "makes the load at a fixed rate"),
    Need::command("curl", "curl", "looks whether every way answers as it should"),
];

/// What `cargo build` and the kernel programs need.
pub(crate) fn for_build() -> Result<KernelToolchain> {
    let toolchain = choose_toolchain()?;
    let mut needs = LINKING.to_vec();
    let linker_there = toolchain.linker().exists();
    if toolchain == KernelToolchain::Debian {
        needs.extend(DEBIAN_KERNEL);
        needs.extend(if linker_there { &[][..] } else { DEBIAN_LINKER });
    }
    packages::bring("building", &needs)?;
    let sh = place::shell()?;
    if toolchain == KernelToolchain::Nightly && nightly_source().is_none() {
        say("rust-src for nightly, because `core` is built for the kernel: about 1 minute");
        cmd!(sh, "rustup toolchain install nightly --profile minimal --component rust-src")
            .run()
            .context("see https://rustup.rs; offline, a Debian machine needs only apt")?;
    }
    if !linker_there {
        build_linker(&sh, toolchain)?;
    }
    Ok(toolchain)
}

/// What the tests start: real servers and real clients.
pub(crate) fn for_test() -> Result<()> {
    packages::bring("the tests", TESTS)?;
    let wanted = [("oidc-provider", OIDC_PROVIDER), ("har-validator", HAR_VALIDATOR)];
    let modules = place::testbed().join("node_modules");
    if wanted.iter().all(|(name, _)| modules.join(name).join("package.json").exists()) {
        return Ok(());
    }
    packages::bring("the tests", NPM)?;
    say(
        "the npm packages oidc-provider and har-validator into target/testbed, a real identity provider and a checker \
         of HTTP archives for the tests: half a minute",
    );
    let sh = place::shell()?;
    sh.create_dir(place::testbed())?;
    let _there = sh.push_dir(place::testbed());
    sh.write_file("package.json", "{\"private\": true, \"type\": \"module\"}\n")?;
    let packages = &wanted.map(|(name, version)| format!("{name}@{version}"));
    cmd!(sh, "npm install --no-audit --no-fund --ignore-scripts {packages...}")
        .ignore_stdout()
        .run()
        .with_context(|| format!("npm cannot reach its registry; bring {} by hand", packages.join(" and ")))
}

/// What the demo starts.
pub(crate) fn for_demo() -> Result<()> {
    packages::bring("the demo", DEMO)
}

/// What the measurement starts.
pub(crate) fn for_bench() -> Result<()> {
    packages::bring("the measurement", BENCH)
}

/// The licence and ban checker. Gives its path.
pub(crate) fn for_check() -> Result<PathBuf> {
    let built = place::tool("cargo-deny");
    if let Some(installed) = place::command("cargo-deny").filter(|_| !built.exists()) {
        return Ok(installed);
    }
    if !built.exists() {
        say(
            "cargo-deny into target/tools, it checks licences, bans and advisories: about 4 minutes on two cores",
        );
        install(&place::shell()?, "cargo-deny", CARGO_DENY, &[], None)?;
    }
    Ok(built)
}

/// The fuzzer's driver and the nightly compiler it needs. Gives the driver's path.
pub(crate) fn for_fuzz() -> Result<PathBuf> {
    let sh = place::shell()?;
    packages::bring("fuzzing", &[Need::command("c++", "g++", "compiles libFuzzer")])?;
    let built = place::tool("cargo-fuzz");
    if !built.exists() {
        say("cargo-fuzz into target/tools: about 3 minutes on two cores");
        install(&sh, "cargo-fuzz", CARGO_FUZZ, &[], None)?;
    }
    Ok(built)
}

/// Everything that `build` and `test` need.
pub(crate) fn everything() -> Result<()> {
    for_build()?;
    for_test()?;
    for_demo()?;
    for_bench()
}

impl KernelToolchain {
    /// The bpf-linker to use: our own, unless nightly finds one that its owner installed.
    pub(crate) fn linker(self) -> PathBuf {
        let own = place::tool("bpf-linker");
        if self == Self::Nightly && !own.exists() {
            return place::command("bpf-linker").unwrap_or(own);
        }
        own
    }
}

fn choose_toolchain() -> Result<KernelToolchain> {
    match std::env::var("TIDEGATE_KERNEL_TOOLCHAIN").as_deref() {
        Ok("debian") => return Ok(KernelToolchain::Debian),
        Ok("nightly") => return Ok(KernelToolchain::Nightly),
        Ok(other) => bail!("TIDEGATE_KERNEL_TOOLCHAIN={other}: say `debian` or `nightly`"),
        Err(_) => {}
    }
    if packages::missing(DEBIAN_KERNEL).is_empty() {
        return Ok(KernelToolchain::Debian);
    }
    if nightly_source().is_some() && place::command("bpf-linker").is_some() {
        return Ok(KernelToolchain::Nightly);
    }
    if packages::is_debian() {
        return Ok(KernelToolchain::Debian);
    }
    if place::command("rustup").is_some() {
        return Ok(KernelToolchain::Nightly);
    }
    bail!(
        "no compiler for the kernel programs. Either, on Debian: apt-get install rustc-web cargo-web rust-web-src. \
         Or, elsewhere: install rustup (https://rustup.rs), and this command does the rest"
    )
}

/// Where nightly keeps the sources of `core`, if it has them.
fn nightly_source() -> Option<PathBuf> {
    let sources = installed_nightlies()
        .into_iter()
        .map(|path| path.join("lib/rustlib/src/rust/library/core/Cargo.toml"));
    sources.into_iter().find(|source| source.exists())
}

/// rustup's nightly toolchains.
fn installed_nightlies() -> Vec<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".rustup"))).unwrap_or_default();
    let installed =
        fs::read_dir(home.join("toolchains")).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_nightly =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly-"));
    installed.filter(is_nightly).collect()
}

fn build_linker(sh: &Shell, toolchain: KernelToolchain) -> Result<()> {
    let Some((version, prefix)) = llvm(toolchain) else {
        bail!(
            "bpf-linker is missing, and so is an LLVM to build it on ({LLVM:?}, with headers). Easiest: \
             `cargo binstall bpf-linker@{BPF_LINKER}`, or unpack the release from \
             https://github.com/aya-rs/bpf-linker/releases/tag/v{BPF_LINKER} into {}",
            place::tools().join("bin").display()
        );
    };
    say(&format!(
        "bpf-linker {BPF_LINKER} into target/tools, it links the kernel programs: about 2 minutes on two cores"
    ));
    let feature = format!("llvm-{version}");
    install(sh, "bpf-linker", BPF_LINKER, &["--no-default-features", "--features", &feature], Some(&prefix))
}

/// The LLVM to build the linker on: never older than the compiler's.
fn llvm(toolchain: KernelToolchain) -> Option<(u32, PathBuf)> {
    let wanted: &[u32] = if toolchain == KernelToolchain::Debian { &[22] } else { &LLVM };
    let places = |version| {
        [
            format!("/usr/lib/llvm-{version}"),
            format!("/usr/lib/llvm/{version}"),
            format!("/usr/lib64/llvm{version}"),
        ]
    };
    wanted
        .iter()
        .flat_map(|&version| places(version).map(|prefix| (version, PathBuf::from(prefix))))
        .find(|(_, prefix)| prefix.join("bin/llvm-config").exists())
}

fn install(sh: &Shell, tool: &str, version: &str, more: &[&str], llvm: Option<&Path>) -> Result<()> {
    let (tools, scratch) = (place::tools(), place::tools().join("build"));
    // Outside the workspace, so that its lock file, patches and profiles stay out of the tool.
    let _there = sh.push_dir(std::env::temp_dir());
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = build::without(
        cmd!(
            sh,
            "cargo install {tool} --version {version} --locked --root {tools} --target-dir {scratch} {more...}"
        ),
        true,
    );
    if let Some(prefix) = llvm {
        let folders =
            std::iter::once(prefix.join("bin")).chain(std::env::split_paths(&path).collect::<Vec<_>>());
        path = std::env::join_paths(folders)?;
        command = command.env("LLVM_PREFIX", prefix);
    }
    command.env("PATH", path).run().with_context(|| format!("{tool} does not build"))?;
    Ok(sh.remove_path(scratch)?)
}

/// Announces one thing that is about to be brought.
fn say(what: &str) {
    eprintln!("setup: brings {what}");
}
