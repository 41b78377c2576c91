//! Packages of the operating system: what is needed, what is missing, and apt to bring it. Starts no service.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::place;

/// Something the machine must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    probe: Probe,
    package: &'static str,
    why: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    Command(&'static str),
    File(&'static str),
    Python(&'static str),
}

impl Need {
    /// A command in PATH.
    pub(crate) const fn command(name: &'static str, package: &'static str, why: &'static str) -> Self {
        Self { probe: Probe::Command(name), package, why }
    }

    /// A file at one place.
    pub(crate) const fn file(path: &'static str, package: &'static str, why: &'static str) -> Self {
        Self { probe: Probe::File(path), package, why }
    }

    /// A module of the system's python.
    pub(crate) const fn python(module: &'static str, package: &'static str, why: &'static str) -> Self {
        Self { probe: Probe::Python(module), package, why }
    }

    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Command(name) => place::command(name).is_some(),
            Probe::File(path) => Path::new(path).exists(),
            Probe::Python(module) => python_folders().any(|folder| folder.join(module).exists()),
        }
    }

    fn describe(&self) -> String {
        let what = match self.probe {
            Probe::Command(name) => format!("the command `{name}`"),
            Probe::File(path) => format!("the file {path}"),
            Probe::Python(module) => format!("the module `{module}` for /usr/bin/python3"),
        };
        format!("{what} ({}; Debian's package: {})", self.why, self.package)
    }
}

/// Those that are not there.
pub(crate) fn missing(needs: &[Need]) -> Vec<Need> {
    needs.iter().filter(|need| !need.is_there()).copied().collect()
}

/// Whether apt can bring things.
pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && place::command("apt-get").is_some()
}

/// Brings what is missing. Free when nothing is.
pub(crate) fn bring(purpose: &str, needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.iter().map(|need| format!("\n  - {}", need.describe())).collect::<String>();
    if !is_debian() {
        bail!("missing for {purpose}:{list}\nInstall it with your package manager and run this again.");
    }
    eprintln!("setup: missing for {purpose}; apt brings it, about {} min:{list}", minutes(&missing));
    let mut names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    names.sort_unstable();
    names.dedup();
    apt(&names)?;
    let still = self::missing(&missing);
    if !still.is_empty() {
        let list = still.iter().map(|need| format!("\n  - {}", need.describe())).collect::<String>();
        bail!("apt ran, and this is still missing:{list}");
    }
    Ok(())
}

fn minutes(missing: &[Need]) -> usize {
    1 + missing.iter().filter(|need| matches!(need.package, "rustc-web" | "llvm-22-dev" | "npm")).count()
}

fn python_folders() -> impl Iterator<Item = std::path::PathBuf> {
    let versions = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()));
    versions
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .flat_map(|path| [path.join("dist-packages"), path.join("site-packages")])
}

fn apt(names: &[&str]) -> Result<()> {
    let sh = place::shell()?;
    let _quiet = Services::held_back(&sh)?;
    let lists_are_there = fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("Packages"))
    });
    if !lists_are_there {
        privileged(&sh, &["apt-get", "update", "--quiet"])?;
    }
    let install = [
        &[
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "--yes",
            "--quiet",
            "--no-install-recommends",
        ][..],
        names,
    ]
    .concat();
    if privileged(&sh, &install).is_err() {
        eprintln!("setup: apt could not; its lists may be old, so they are fetched again");
        privileged(&sh, &["apt-get", "update", "--quiet"])?;
        privileged(&sh, &install).with_context(|| format!("apt cannot bring {}", names.join(" ")))?;
    }
    Ok(())
}

fn privileged(sh: &Shell, command: &[&str]) -> Result<()> {
    let prefix = place::privileged()?;
    let words: Vec<&str> = prefix.iter().map(String::as_str).chain(command.iter().copied()).collect();
    let (first, rest) = words.split_first().context("an empty command")?;
    Ok(cmd!(sh, "{first} {rest...}").run()?)
}

/// Holds back the services that packages would start (nginx on port 80 is nobody's wish here). Undone on drop.
struct Services<'a> {
    sh: &'a Shell,
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Tells our file there from somebody else's.
const MARK: &str = "# held back by cargo xtask setup";

impl<'a> Services<'a> {
    fn held_back(sh: &'a Shell) -> Result<Self> {
        if Path::new(POLICY).exists() {
            // One of ours is there when an earlier set-up was cut off: it goes with this one.
            let ours = std::fs::read_to_string(POLICY).is_ok_and(|text| text.contains(MARK));
            return Ok(Self { sh, ours });
        }
        let script = format!("printf '#!/bin/sh\\n{MARK}\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
        let held = Self { sh, ours: true };
        privileged(sh, &["sh", "-c", &script])?;
        Ok(held)
    }
}

impl Drop for Services<'_> {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = privileged(self.sh, &["rm", "-f", POLICY])
        {
            eprintln!("setup: {POLICY} stays behind, remove it: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_asked_for() {
        let needs =
            [Need::command("sh", "dash", "a shell"), Need::file("/proc/self/stat", "linux", "a kernel")];
        assert!(missing(&needs).is_empty());
    }

    #[test]
    fn what_is_missing_is_named_with_its_package_and_reason() {
        let needs = [Need::command("tidegate-no-such-command", "no-such-package", "nothing")];
        let missing = missing(&needs);
        assert_eq!(missing.len(), 1);
        let text = missing[0].describe();
        assert!(
            text.contains("tidegate-no-such-command")
                && text.contains("no-such-package")
                && text.contains("nothing")
        );
    }

    #[test]
    fn a_python_module_that_is_not_installed_is_missing() {
        assert!(!Need::python("tidegate_no_such_module", "none", "nothing").is_there());
    }
}
