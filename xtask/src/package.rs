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
/// Where documents are in it.
const DOCUMENTS: &str = "usr/share/doc/tidegate";
const PROGRAM: u32 = 0o755;
const FILE: u32 = 0o644;

const NEEDS: [Need; 4] = [
    Need::command("dpkg-deb", "dpkg", "packs the package"),
    Need::command("dpkg-shlibdeps", "dpkg-dev", "finds which version of the C library the program needs"),
    Need::command("strip", "binutils", "takes what only debuggers read out of the program"),
    Need::command("gzip", "gzip", "packs manual pages"),
];

/// Files that go in as they are: from below [`PARTS`] to below the root.
const FILES: [(&str, &str); 11] = [
    ("debian/lintian-overrides", "usr/share/lintian/overrides/tidegate"),
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
        println!("{}", make(&program()?, VERSION, &self.out)?.display());
        Ok(())
    }
}

/// Packs that program as that version.
fn make(program: &Path, version: &str, out: &Path) -> Result<PathBuf> {
    packages::bring("the package", &NEEDS)?;
    let sh = place::shell()?;
    let out = place::root().join(out);
    let tree = Tree::of(&sh, program, &out)?;
    let package = tree.pack(version, "xz")?;
    sh.remove_path(tree.root)?;
    Ok(package)
}

/// Everything that is in the package, below a folder that stands for the root.
struct Tree<'a> {
    sh: &'a Shell,
    root: PathBuf,
}

impl<'a> Tree<'a> {
    fn of(sh: &'a Shell, program: &Path, out: &Path) -> Result<Self> {
        let tree = Self { sh, root: out.join("tree") };
        sh.remove_path(&tree.root)?;
        sh.create_dir(tree.root.join("DEBIAN"))?;
        let parts = place::root().join(PARTS);
        for (from, to) in FILES {
            tree.put(to, &fs::read(parts.join(from))?)?;
        }
        for script in SCRIPTS {
            tree.put(&format!("DEBIAN/{script}"), &fs::read(parts.join("debian").join(script))?)?;
        }
        let slim = tree.root.join("usr/bin/tidegate");
        sh.create_dir(tree.root.join("usr/bin"))?;
        cmd!(sh, "strip --strip-unneeded -o {slim} {program}").quiet().run()?;
        tree.manual(program)?;
        tree.documents()?;
        Ok(tree)
    }

    /// Manual pages and completions: the program writes them itself.
    fn manual(&self, program: &Path) -> Result<()> {
        let sh = self.sh;
        let settings = std::env::vars_os().map(|(name, _)| name);
        let settings: Vec<_> =
            settings.filter(|name| name.to_string_lossy().starts_with("TIDEGATE_")).collect();
        // Their values would be written down as the defaults.
        let clean = |command| {
            settings.iter().fold(command, |command: xshell::Cmd<'_>, name| command.env_remove(name))
        };
        let pages = self.root.join("usr/share/man/man1");
        clean(cmd!(sh, "{program} man {pages}")).quiet().ignore_stdout().run()?;
        let pages = sh.read_dir(&pages)?;
        cmd!(sh, "gzip -9 --no-name {pages...}").quiet().run()?;
        for (shell, to) in SHELLS {
            let script = clean(cmd!(sh, "{program} completions {shell}")).quiet().output()?.stdout;
            self.put(to, &script)?;
        }
        Ok(())
    }

    /// What there is to read, and examples to copy.
    fn documents(&self) -> Result<()> {
        let (parts, docs) = (place::root().join(PARTS), place::root().join("docs"));
        self.put(&format!("{DOCUMENTS}/examples/agent.conf"), &fs::read(parts.join("agent.conf"))?)?;
        for name in ["OPERATIONS.md", "POLICY.md", "KERNEL.md"] {
            self.put_packed(&format!("{DOCUMENTS}/{name}"), &fs::read(docs.join(name))?)?;
        }
        let examples = place::root().join("policies/examples");
        for example in self.sh.read_dir(&examples)?.into_iter().filter(|path| path.is_dir()) {
            for file in self.sh.read_dir(&example)? {
                let below = file.strip_prefix(&examples)?.display();
                self.put(&format!("{DOCUMENTS}/examples/policies/{below}"), &fs::read(&file)?)?;
            }
        }
        Ok(())
    }

    /// The package of that version, compressed by that method.
    fn pack(&self, version: &str, compression: &str) -> Result<PathBuf> {
        let (sh, tree, architecture) = (self.sh, &self.root, architecture(self.sh)?);
        self.changelog(version)?;
        // Modes and sizes as they will be, whatever the umask here.
        cmd!(sh, "chmod --recursive u=rwX,go=rX {tree}").quiet().run()?;
        let there = sh.push_dir(tree);
        let files = cmd!(sh, "find usr etc -type f").quiet().read()?;
        let mut files: Vec<&str> = files.lines().collect();
        files.sort_unstable();
        let size: u64 =
            files.iter().map(|file| fs::metadata(tree.join(file)).map_or(0, |file| file.len())).sum();
        let sums = cmd!(sh, "md5sum {files...}").quiet().read()?;
        drop(there);
        self.put("DEBIAN/md5sums", format!("{sums}\n").as_bytes())?;
        let about = place::root().join(PARTS).join("debian");
        let conffiles = fs::read(about.join("conffiles"))?;
        self.put("DEBIAN/conffiles", &conffiles)?;
        let control = fs::read_to_string(about.join("control"))?
            .replace("@VERSION@", version)
            .replace("@ARCHITECTURE@", &architecture)
            .replace("@SIZE@", &size.div_ceil(1024).to_string())
            .replace("@DEPENDS@", &libraries(sh, tree)?);
        self.put("DEBIAN/control", control.as_bytes())?;
        let package = tree.with_file_name(format!("tidegate_{version}_{architecture}.deb"));
        cmd!(sh, "dpkg-deb --root-owner-group -Z{compression} --build {tree} {package}")
            .env("SOURCE_DATE_EPOCH", made_at(sh)?.to_string())
            .quiet()
            .ignore_stdout()
            .run()?;
        Ok(package)
    }

    fn changelog(&self, version: &str) -> Result<()> {
        let (sh, date) = (self.sh, format!("@{}", made_at(self.sh)?));
        let date = cmd!(sh, "date --utc --rfc-email --date={date}").quiet().read()?;
        let control = fs::read_to_string(place::root().join(PARTS).join("debian/control"))?;
        let maintainer = control.lines().find_map(|line| line.strip_prefix("Maintainer: "));
        let changes = format!(
            "tidegate ({version}) unstable; urgency=medium\n\n  * What changed is in the project's history.\n\n -- {}  {date}\n",
            maintainer.context("the package has a maintainer")?
        );
        self.put_packed(&format!("{DOCUMENTS}/changelog"), changes.as_bytes())
    }

    fn put_packed(&self, at: &str, bytes: &[u8]) -> Result<()> {
        self.put(at, bytes)?;
        let (sh, at) = (self.sh, self.root.join(at));
        Ok(cmd!(sh, "gzip -9 --no-name --force {at}").quiet().run()?)
    }

    /// A file, which is a program where the package's own scripts are.
    fn put(&self, at: &str, bytes: &[u8]) -> Result<()> {
        let mode = if SCRIPTS.iter().any(|script| at == format!("DEBIAN/{script}")) { PROGRAM } else { FILE };
        put(self.sh, &self.root.join(at), bytes, mode)
    }
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
    let found = cmd!(sh, "dpkg-shlibdeps -O -e{program}").quiet().ignore_stderr().read()?;
    sh.remove_path(scratch)?;
    let depends = found.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(depends.context("dpkg-shlibdeps names no library")?.to_owned())
}

fn architecture(sh: &Shell) -> Result<String> {
    Ok(cmd!(sh, "dpkg --print-architecture").quiet().read()?)
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

/// The optimised program, built; or the one that is to be tried in its place.
fn program() -> Result<PathBuf> {
    match std::env::var_os("TIDEGATE_BIN") {
        Some(program) => Ok(program.into()),
        None => Build { release: true }.run(),
    }
}

/// The program that tries an installed package.
fn examiner(sh: &Shell) -> Result<PathBuf> {
    build::cargo(sh, &["build", "--package", "tidegate-installed"], false)?;
    Ok(place::cargo_target().join("debug/tidegate-installed"))
}
