//! The files of a policy directory, read whole into memory, in the order of their names.
//!
//! Refuses what is too large, too many or not UTF-8; passes over what is not a policy file, and says so.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::limits::{POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX};
use crate::operation::Sha256;

use super::problem::{Problem, Problems, Source};

/// What a file of a policy directory holds, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `*.cedar`: rules.
    Rules,
    /// `*.toml`: nouns.
    Nouns,
    /// `*.cases.toml`: sample operations and the verdicts expected.
    Cases,
}

impl FileKind {
    fn of(name: &str) -> Option<Self> {
        let kinds = [(".cases.toml", Self::Cases), (".toml", Self::Nouns), (".cedar", Self::Rules)];
        kinds.into_iter().find(|(end, _)| name.len() > end.len() && name.ends_with(end)).map(|(_, kind)| kind)
    }
}

/// One file.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    /// Its name in the directory.
    pub name: String,
    /// What it holds.
    pub kind: FileKind,
    /// Its text, under the path that problems show.
    pub source: Arc<Source>,
}

/// All files of a directory, read at one moment.
#[derive(Debug, Clone)]
pub struct Files {
    /// The directory that relative paths inside the files are relative to.
    pub home: PathBuf,
    /// Policy files, by name.
    pub all: Vec<PolicyFile>,
    /// What was passed over, one sentence each.
    pub notes: Vec<String>,
}

impl Files {
    /// Reads a directory.
    ///
    /// # Errors
    /// Every file that cannot be read or is out of bounds; or the directory itself.
    pub fn read(dir: &Path) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut files = Self { home: dir.to_owned(), all: Vec::new(), notes: Vec::new() };
        let names = match names(dir) {
            Ok(names) => names,
            Err(error) => {
                problems.push(
                    Problem::whole(format!("the policy directory {} cannot be read: {error}", dir.display()))
                        .help("create it, or name another with --policies"),
                );
                return Err(problems);
            }
        };
        for name in names {
            let path = dir.join(&name);
            let Some(kind) = FileKind::of(&name) else {
                files.pass_over(&path, &name);
                continue;
            };
            match read_file(&path) {
                Ok(text) => {
                    let source = Source::new(path.display().to_string(), text);
                    files.all.push(PolicyFile { name, kind, source });
                }
                Err(why) => problems.push(Problem::whole(format!("{}: {why}", path.display()))),
            }
        }
        if files.all.len() > POLICY_FILES_MAX {
            problems.push(Problem::whole(format!(
                "{} holds {} policy files; at most {POLICY_FILES_MAX} are read",
                dir.display(),
                files.all.len()
            )));
        }
        if problems.is_empty() { Ok(files) } else { Err(problems) }
    }

    /// The same files as if they stood in another directory: relative paths inside them mean that one.
    #[must_use]
    pub fn at_home(mut self, home: &Path) -> Self {
        home.clone_into(&mut self.home);
        self
    }

    /// The digest of names and contents. The same files give the same digest, wherever they are.
    #[must_use]
    pub fn digest(&self) -> Sha256 {
        let mut bytes = Vec::new();
        for file in &self.all {
            for part in [file.name.as_bytes(), file.source.text().as_bytes()] {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part);
            }
        }
        Sha256::of(&bytes)
    }

    /// The files of one kind.
    pub fn of(&self, kind: FileKind) -> impl Iterator<Item = &PolicyFile> {
        self.all.iter().filter(move |file| file.kind == kind)
    }

    fn pass_over(&mut self, path: &Path, name: &str) {
        if is_hidden_or_backup(name) {
            return;
        }
        let what = if path.is_dir() { "is a directory" } else { "is no *.cedar, *.toml or *.cases.toml" };
        self.notes.push(format!("{} {what}: not read", path.display()));
    }
}

fn is_hidden_or_backup(name: &str) -> bool {
    let backups =
        ["~", ".bak", ".orig", ".rej", ".swp", ".swo", ".tmp", ".dpkg-old", ".dpkg-dist", ".rpmnew"];
    name.starts_with('.') || name.starts_with('#') || backups.iter().any(|end| name.ends_with(end))
}

/// Names in the directory, sorted. Hidden and backup files never count as policy files.
fn names(dir: &Path) -> Result<Vec<String>, std::io::Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !is_hidden_or_backup(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn read_file(path: &Path) -> Result<String, String> {
    // Not blocking, so that a FIFO under a policy file's name is refused below and not waited for.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| format!("cannot be read: {error}"))?;
    let about = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
    if !about.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(POLICY_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > POLICY_FILE_BYTES_MAX {
        return Err(format!("is larger than {POLICY_FILE_BYTES_MAX} bytes; split it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("is not UTF-8 from byte {at} on")
    })
}
