#!/usr/bin/env bash
# Makes a fresh Debian 12 machine install Tidegate's package, or build Tidegate and run its demo. Run as root; may be run again.
#
#   TIDEGATE_PACKAGE            a package to install: then nothing is built, and neither Rust nor the source is needed
#   TIDEGATE_SOURCE             where the project is          (/vagrant)
#   TIDEGATE_HOME               where it is copied to and built (/opt/tidegate); its `target` survives
#   TIDEGATE_PROVISION_COMMAND  what is run there             (cargo xtask demo)
set -euo pipefail

source_folder=${TIDEGATE_SOURCE:-/vagrant}
home_folder=${TIDEGATE_HOME:-/opt/tidegate}
final_command=${TIDEGATE_PROVISION_COMMAND:-cargo xtask demo}
package=${TIDEGATE_PACKAGE:-}

say() { printf 'provision: %s\n' "$*"; }
fail() {
    printf 'provision: %s\n' "$*" >&2
    exit 1
}

check() {
    [ "$(id -u)" -eq 0 ] || fail "installs packages and loads kernel programs, so run it as root"
    if [ -n "$package" ]; then
        [ -f "$package" ] || fail "$package is no package (make one with \`cargo xtask package\`, or unset TIDEGATE_PACKAGE)"
        return
    fi
    [ -f "$source_folder/gateway-user/Cargo.toml" ] || fail "$source_folder is not the project (set TIDEGATE_SOURCE)"
    mkdir -p "$home_folder"
    [ ! "$source_folder" -ef "$home_folder" ] || fail "TIDEGATE_SOURCE and TIDEGATE_HOME are the same folder"
}

# The rest is brought by `cargo xtask`; this is what cargo itself, and rustup, need.
packages() {
    if command -v cc >/dev/null && command -v curl >/dev/null && [ -d /etc/ssl/certs ]; then
        return
    fi
    say "a C compiler, curl and the usual root certificates: a minute"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet
    apt-get install --yes --quiet --no-install-recommends gcc libc6-dev curl ca-certificates
}

rust() {
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if command -v cargo >/dev/null; then
        return
    fi
    say "rustup, which brings the compiler that rust-toolchain.toml names: two minutes"
    curl --proto '=https' --tlsv1.2 --silent --show-error --fail https://sh.rustup.rs \
        | sh -s -- -y --no-modify-path --profile minimal --default-toolchain none
}

copy() {
    say "the project into $home_folder"
    find "$home_folder" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
    tar -C "$source_folder" --exclude=./target --exclude=./gateway-ebpf/target --exclude=./.git -cf - . \
        | tar -C "$home_folder" --no-same-owner -xf -
}

install_package() {
    say "installs $package"
    # apt takes a path for one only where it has a slash.
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$(realpath "$package")"
}

check
if [ -n "$package" ]; then
    install_package
    say "done"
    exit
fi
packages
rust
copy
cd "$home_folder"
say "runs: $final_command"
bash -c "$final_command" </dev/null
say "done"
