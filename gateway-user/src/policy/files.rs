//! The files of a policy directory, read whole into memory, in the order of their names.
//!
//! Refuses what is too large, too many or not UTF-8; passes over what is not a policy file, and says so.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::limits::{POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX};
use crate::operation::Sha256;

use super::problem::{Problem, Problems, Source};

/// The directory, below that of the policy, of the rules for when approvers cannot be reached.
pub const SAFE_MODE: &str = "safe-mode";

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
    /// The user id that owns it.
    pub uid: u32,
    /// When it was last written, in microseconds since the Unix epoch.
    pub modified: i64,
}

/// What the file system says about a file, apart from its content: device, inode, size, and when it last changed.
type Stamp = (u64, u64, u64, i128, i128);

/// What a directory looks like from outside: names, and what the file system says about each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looks(Vec<(String, Option<Stamp>)>);

impl Looks {
    /// How the directory looks now. One that cannot be listed looks like nothing.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let stamped = |name: String| {
            let stamp = fs::metadata(dir.join(&name)).ok().map(|about| stamp(&about));
            (name, stamp)
        };
        let safe = names(&dir.join(SAFE_MODE)).unwrap_or_default().into_iter();
        let safe = safe.map(|name| format!("{SAFE_MODE}/{name}"));
        Self(names(dir).unwrap_or_default().into_iter().chain(safe).map(stamped).collect())
    }
}

fn stamp(about: &fs::Metadata) -> Stamp {
    (
        about.dev(),
        about.ino(),
        about.size(),
        moment(about.mtime(), about.mtime_nsec()),
        moment(about.ctime(), about.ctime_nsec()),
    )
}

fn moment(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// All files of a directory, read at one moment.
#[derive(Debug, Clone)]
pub struct Files {
    /// The directory that relative paths inside the files are relative to.
    pub home: PathBuf,
    /// Policy files, by name.
    pub all: Vec<PolicyFile>,
    /// Rules and cases for when approvers cannot be reached, by name, which begins with [`SAFE_MODE`]; `None` where there
    /// is no such directory.
    pub safe: Option<Vec<PolicyFile>>,
    /// What was passed over, one sentence each.
    pub notes: Vec<String>,
    /// When they were read; `None` where they were in force before, and what they say of time was checked then.
    pub read_at: Option<Timestamp>,
}

/// How often a directory that changes while it is read is read again, and how long to wait in between.
const READS_MAX: u32 = 50;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(5);

impl Files {
    /// Reads a directory. One that changes meanwhile is read again, so that no two states of it are mixed.
    ///
    /// # Errors
    /// Every file that cannot be read or is out of bounds; or the directory itself.
    pub fn read(dir: &Path) -> Result<Self, Problems> {
        for _ in 0..READS_MAX {
            let before = Looks::of(dir);
            let files = Self::read_once(dir);
            if Looks::of(dir) == before {
                return files;
            }
            std::thread::sleep(READ_AGAIN_AFTER);
        }
        let restless = format!("{} changes whenever it is read", dir.display());
        Err(alone(
            Problem::whole(restless).help("put changes into place in one step: write beside, then rename"),
        ))
    }

    fn read_once(dir: &Path) -> Result<Self, Problems> {
        let (home, read_at) = (dir.to_owned(), Some(Timestamp::now()));
        let mut files = Self { home, all: Vec::new(), safe: None, notes: Vec::new(), read_at };
        let names = names(dir).map_err(|error| {
            let unread = format!("the policy directory {} cannot be read: {error}", dir.display());
            alone(Problem::whole(unread).help("create it, or name the right one"))
        })?;
        let mut problems = Problems::default();
        for name in names {
            let path = dir.join(&name);
            if name == SAFE_MODE && path.is_dir() {
                files.safe = Some(read_safe_mode(&path, &mut problems));
                continue;
            }
            let Some(kind) = FileKind::of(&name) else {
                files.pass_over(&path);
                continue;
            };
            match read_file(&path) {
                Ok((text, uid, modified)) => {
                    let source = Source::new(path.display().to_string(), text);
                    files.all.push(PolicyFile { name, kind, source, uid, modified });
                }
                Err(why) => problems.push(Problem::whole(format!("{}: {why}", path.display()))),
            }
        }
        let count = files.all.len() + files.safe.as_ref().map_or(0, Vec::len);
        if count > POLICY_FILES_MAX {
            let many =
                format!("{} holds {count} policy files; at most {POLICY_FILES_MAX} are read", dir.display());
            problems.push(Problem::whole(many));
        }
        if count == 0 && problems.is_empty() {
            let empty = format!("{} holds no policy file", dir.display());
            problems.push(
                Problem::whole(empty).help("it needs *.toml files with nouns and *.cedar files with rules"),
            );
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
        for file in self.every() {
            for part in [file.name.as_bytes(), file.source.text().as_bytes()] {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part);
            }
        }
        Sha256::of(&bytes)
    }

    /// All of them, those of the safe mode last.
    pub fn every(&self) -> impl Iterator<Item = &PolicyFile> {
        self.all.iter().chain(self.safe.iter().flatten())
    }

    /// The directory as it is in safe mode: these nouns, with the rules and cases of the safe mode and no others.
    #[must_use]
    pub fn safe_mode(&self) -> Option<Self> {
        let safe = self.safe.as_ref()?;
        let all = self.of(FileKind::Nouns).chain(safe).cloned().collect();
        Some(Self { home: self.home.clone(), all, safe: None, notes: Vec::new(), read_at: self.read_at })
    }

    /// The files of one kind.
    pub fn of(&self, kind: FileKind) -> impl Iterator<Item = &PolicyFile> {
        self.all.iter().filter(move |file| file.kind == kind)
    }

    fn pass_over(&mut self, path: &Path) {
        let what = if path.is_dir() { "is a directory" } else { "is no *.cedar, *.toml or *.cases.toml" };
        self.notes.push(format!("{} {what}: not read", path.display()));
    }
}

/// The files of the safe mode. Nouns are those of the directory above: another target of the same name would be another
/// target.
fn read_safe_mode(dir: &Path, problems: &mut Problems) -> Vec<PolicyFile> {
    let mut files = Vec::new();
    let names = match names(dir) {
        Ok(names) => names,
        Err(error) => {
            problems.push(Problem::whole(format!("{} cannot be read: {error}", dir.display())));
            return files;
        }
    };
    for name in names {
        let path = dir.join(&name);
        match FileKind::of(&name) {
            Some(kind @ (FileKind::Rules | FileKind::Cases)) => match read_file(&path) {
                Ok((text, uid, modified)) => {
                    let source = Source::new(path.display().to_string(), text);
                    let name = format!("{SAFE_MODE}/{name}");
                    files.push(PolicyFile { name, kind, source, uid, modified });
                }
                Err(why) => problems.push(Problem::whole(format!("{}: {why}", path.display()))),
            },
            _ => {
                let other = format!("{} is neither rules nor cases", path.display());
                problems.push(Problem::whole(other).help(
                    "safe-mode/ holds *.cedar and *.cases.toml; nouns are those of the directory above it",
                ));
            }
        }
    }
    files
}

fn alone(problem: Problem) -> Problems {
    let mut problems = Problems::default();
    problems.push(problem);
    problems
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

/// Its text, whose it is, and when it was last written.
fn read_file(path: &Path) -> Result<(String, u32, i64), String> {
    // Not blocking, so that a FIFO under a policy file's name is refused below and not waited for.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
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
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("is not UTF-8 from byte {at} on")
    })?;
    let modified = about.mtime().saturating_mul(1_000_000).saturating_add(about.mtime_nsec() / 1_000);
    Ok((text, about.uid(), modified))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn the_same_files_give_the_same_digest_anywhere() {
        let one = dir(&[("a.toml", "x"), ("b.cedar", "y"), (".hidden.toml", "z"), ("a.toml~", "z")]);
        let two = dir(&[("b.cedar", "y"), ("a.toml", "x"), ("README.md", "no policy")]);
        let (one, two) = (Files::read(one.path()).unwrap(), Files::read(two.path()).unwrap());
        assert_eq!(one.digest(), two.digest());
        assert!(one.notes.is_empty());
        assert_eq!(two.notes.len(), 1);
    }

    #[test]
    fn text_that_moves_between_names_changes_the_digest() {
        let one = dir(&[("a.toml", "xy"), ("b.toml", "z")]);
        let two = dir(&[("a.toml", "x"), ("b.toml", "yz")]);
        assert_ne!(Files::read(one.path()).unwrap().digest(), Files::read(two.path()).unwrap().digest());
    }

    #[test]
    fn what_is_no_readable_policy_file_is_refused() {
        let latin = dir(&[("a.toml", "")]);
        fs::write(latin.path().join("a.toml"), b"x = \"\xff\"").unwrap();
        assert!(Files::read(latin.path()).unwrap_err().to_string().contains("not UTF-8 from byte 5"));
        let large = dir(&[("a.toml", &"#".repeat(1024 * 1024 + 1))]);
        assert!(Files::read(large.path()).unwrap_err().to_string().contains("larger than"));
        let folder = dir(&[]);
        fs::create_dir(folder.path().join("a.toml")).unwrap();
        assert!(Files::read(folder.path()).unwrap_err().to_string().contains("not a regular file"));
        assert!(Files::read(dir(&[]).path()).unwrap_err().to_string().contains("holds no policy file"));
        assert!(Files::read(&folder.path().join("gone")).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn a_file_at_its_bound_is_read() {
        let full = dir(&[("a.toml", &"#".repeat(1024 * 1024))]);
        assert!(Files::read(full.path()).is_ok());
    }

    #[test]
    fn one_file_too_many_is_refused() {
        let many = dir(&[]);
        for index in 0..=POLICY_FILES_MAX {
            fs::write(many.path().join(format!("{index}.toml")), "").unwrap();
        }
        assert!(Files::read(many.path()).unwrap_err().to_string().contains("at most"));
        fs::remove_file(many.path().join("0.toml")).unwrap();
        assert_eq!(Files::read(many.path()).unwrap().all.len(), POLICY_FILES_MAX);
    }
}
