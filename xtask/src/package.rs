//! Makes the Debian package: program, units, manual pages, completions, first policies. The same bytes from the same program.
//! Needs no privilege, and changes nothing of this machine but what it may have to install for itself.

mod trial;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::build::{self, Build};
use crate::packages::{self, Need};
use crate::place;

pub(crate) use trial::run as try_out;

/// Where its parts are, below the project.
const PARTS: &str = "gateway-user/package";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROGRAM: u32 = 0o755;
const FILE: u32 = 0o644;

const NEEDS: [Need; 4] = [
    Need::command("dpkg-deb", "dpkg", "packs the package"),
    Need::command("dpkg-shlibdeps", "dpkg-dev", "finds which version of the C library the program needs"),
    Need::command("strip", "binutils", "takes what only debuggers read out of the program"),
    Need::command("gzip", "gzip", "packs manual pages"),
];

/// Files that go in as they are: from below [`PARTS`] to below the root.
const FILES: [(&str, &str); 10] = [
    ("systemd/agents.slice", "usr/lib/systemd/system/agents.slice"),
    ("systemd/tidegate-gate.service", "usr/lib/systemd/system/tidegate-gate.service"),
    ("systemd/tidegate.service", "usr/lib/systemd/system/tidegate.service"),
    ("sysusers.conf", "usr/lib/sysusers.d/tidegate.conf"),
    ("tmpfiles.conf", "usr/lib/tmpfiles.d/tidegate.conf"),
    ("default", "etc/default/tidegate"),
    ("policies/example.cedar", "etc/tidegate/policies/example.cedar"),
    ("policies/example.cases.toml", "etc/tidegate/policies/example.cases.toml"),
    ("policies/example.toml", "usr/share/tidegate/example.toml"),
    ("debian/copyright", "usr/share/doc/tidegate/copyright"),
];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const SHELLS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/tidegate"),
    ("zsh", "usr/share/zsh/vendor-completions/_tidegate"),
    ("fish", "usr/share/fish/vendor_completions.d/tidegate.fish"),
];

/// The package to make.
#[derive(clap::Args, Debug)]
pub(crate) struct Package {
    /// Where to put it.
    #[arg(long, value_name = "DIR", default_value = "target/package")]
    out: PathBuf,
}

impl Package {
    /// Builds the optimised program and packs it. The last line is the path of the package.
    pub(crate) fn run(&self) -> Result<()> {
        let program = Build { release: true }.run()?;
        println!("{}", make(&program, VERSION, &self.out)?.display());
        Ok(())
    }
}

/// Packs that program as that version.
pub(crate) fn make(program: &Path, version: &str, out: &Path) -> Result<PathBuf> {
    packages::bring("the package", &NEEDS)?;
    let sh = place::shell()?;
    let out = place::root().join(out);
    let tree = out.join("tree");
    sh.remove_path(&tree)?;
    sh.create_dir(tree.join("DEBIAN"))?;
    let parts = place::root().join(PARTS);
    for (from, to) in FILES {
        put(&sh, &tree.join(to), &fs::read(parts.join(from))?, FILE)?;
    }
    let slim = out.join("slim");
    cmd!(sh, "strip --strip-unneeded -o {slim} {program}").run()?;
    put(&sh, &tree.join("usr/bin/tidegate"), &fs::read(&slim)?, PROGRAM)?;
    sh.remove_path(slim)?;
    manual(&sh, program, &tree)?;
    documents(&sh, &tree, version)?;
    control(&sh, &tree, version)?;
    let package = out.join(format!("tidegate_{version}_{}.deb", architecture(&sh)?));
    cmd!(sh, "dpkg-deb --root-owner-group -Zxz --build {tree} {package}")
        .env("SOURCE_DATE_EPOCH", made_at(&sh)?.to_string())
        .ignore_stdout()
        .run()?;
    sh.remove_path(tree)?;
    Ok(package)
}

/// Manual pages and completions: the program writes them itself.
fn manual(sh: &Shell, program: &Path, tree: &Path) -> Result<()> {
    let settings = std::env::vars_os().map(|(name, _)| name);
    let settings: Vec<_> = settings.filter(|name| name.to_string_lossy().starts_with("TIDEGATE_")).collect();
    // Their values would be written down as the defaults.
    let clean =
        |command| settings.iter().fold(command, |command: xshell::Cmd<'_>, name| command.env_remove(name));
    let pages = tree.join("usr/share/man/man1");
    clean(cmd!(sh, "{program} man {pages}")).ignore_stdout().run()?;
    for page in sh.read_dir(&pages)? {
        cmd!(sh, "gzip -9 --no-name {page}").run()?;
    }
    for (shell, to) in SHELLS {
        let script = clean(cmd!(sh, "{program} completions {shell}")).output()?.stdout;
        put(sh, &tree.join(to), &script, FILE)?;
    }
    Ok(())
}

/// What there is to read, and examples to copy.
fn documents(sh: &Shell, tree: &Path, version: &str) -> Result<()> {
    let folder = tree.join("usr/share/doc/tidegate");
    let date = format!("@{}", made_at(sh)?);
    let date = cmd!(sh, "date --utc --rfc-email --date={date}").read()?;
    let maintainer = fs::read_to_string(place::root().join(PARTS).join("debian/control"))?;
    let maintainer = maintainer.lines().find_map(|line| line.strip_prefix("Maintainer: "));
    let changes = format!(
        "tidegate ({version}) unstable; urgency=medium\n\n  * What changed is in the project's history.\n\n -- {}  {date}\n",
        maintainer.context("the package has a maintainer")?
    );
    let changelog = folder.join("changelog");
    put(sh, &changelog, changes.as_bytes(), FILE)?;
    cmd!(sh, "gzip -9 --no-name {changelog}").run()?;
    let parts = place::root().join(PARTS);
    put(sh, &folder.join("examples/agent.conf"), &fs::read(parts.join("agent.conf"))?, FILE)?;
    for name in ["OPERATIONS.md", "POLICY.md", "KERNEL.md"] {
        put(sh, &folder.join(name), &fs::read(place::root().join("docs").join(name))?, FILE)?;
        let page = folder.join(name);
        cmd!(sh, "gzip -9 --no-name {page}").run()?;
    }
    for example in sh.read_dir(place::root().join("policies/examples"))? {
        for file in sh.read_dir(&example).unwrap_or_default() {
            let below = file.strip_prefix(place::root().join("policies/examples"))?;
            put(sh, &folder.join("examples/policies").join(below), &fs::read(&file)?, FILE)?;
        }
    }
    Ok(())
}

fn control(sh: &Shell, tree: &Path, version: &str) -> Result<()> {
    let parts = place::root().join(PARTS).join("debian");
    for script in SCRIPTS {
        put(sh, &tree.join("DEBIAN").join(script), &fs::read(parts.join(script))?, PROGRAM)?;
    }
    put(sh, &tree.join("DEBIAN/conffiles"), &fs::read(parts.join("conffiles"))?, FILE)?;
    // Modes and sizes as they will be, whatever the umask here.
    cmd!(sh, "chmod --recursive u=rwX,go=rX {tree}").run()?;
    let _there = sh.push_dir(tree);
    let files = cmd!(sh, "find usr etc -type f").read()?;
    let mut files: Vec<&str> = files.lines().collect();
    files.sort_unstable();
    let size: u64 = files.iter().map(|file| fs::metadata(tree.join(file)).map_or(0, |file| file.len())).sum();
    let sums = cmd!(sh, "md5sum {files...}").read()?;
    put(sh, &tree.join("DEBIAN/md5sums"), format!("{sums}\n").as_bytes(), FILE)?;
    let text = fs::read_to_string(parts.join("control"))?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", &architecture(sh)?)
        .replace("@SIZE@", &size.div_ceil(1024).to_string())
        .replace("@DEPENDS@", &libraries(sh, tree)?);
    put(sh, &tree.join("DEBIAN/control"), text.as_bytes(), FILE)
}

/// The libraries that the program needs, with the oldest versions that do.
fn libraries(sh: &Shell, tree: &Path) -> Result<String> {
    // It looks for the control file of a source package, which this is not.
    let scratch = tree.with_file_name("shlibdeps");
    put(
        sh,
        &scratch.join("debian/control"),
        b"Source: tidegate\n\nPackage: tidegate\nArchitecture: any\n",
        FILE,
    )?;
    let program = tree.join("usr/bin/tidegate");
    let _there = sh.push_dir(&scratch);
    let found = cmd!(sh, "dpkg-shlibdeps -O -e{program}").ignore_stderr().read()?;
    sh.remove_path(scratch)?;
    let depends = found.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(depends.context("dpkg-shlibdeps names no library")?.to_owned())
}

fn architecture(sh: &Shell) -> Result<String> {
    Ok(cmd!(sh, "dpkg --print-architecture").read()?)
}

/// When the package was made, for whoever makes it again: seconds since 1970. What is asked for, else the last commit, else the
/// last change of the versions it is built from.
fn made_at(sh: &Shell) -> Result<u64> {
    if let Ok(asked) = std::env::var("SOURCE_DATE_EPOCH") {
        return asked.parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let commit = cmd!(sh, "git log -1 --format=%ct").ignore_stderr().quiet().read();
    if let Some(time) = commit.ok().and_then(|time| time.parse().ok()) {
        return Ok(time);
    }
    let changed = fs::metadata(place::root().join("Cargo.lock"))?.modified()?;
    Ok(changed.duration_since(UNIX_EPOCH)?.as_secs())
}

fn put(sh: &Shell, at: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    sh.write_file(at, bytes)?;
    fs::set_permissions(at, fs::Permissions::from_mode(mode)).with_context(|| at.display().to_string())
}

/// The optimised program, built.
fn program() -> Result<PathBuf> {
    Build { release: true }.run()
}

/// The program that tries an installed package, built with everything else so that nothing is built twice.
fn examiner(sh: &Shell) -> Result<PathBuf> {
    build::cargo(sh, &["build", "--workspace", "--bins"], false)?;
    Ok(place::cargo_target().join("debug/tidegate-installed"))
}
