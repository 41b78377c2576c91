//! A root file system in memory for a kernel that is booted to be tested: files under the names they have here, packed
//! as the kernel unpacks them ("newc" cpio). Needs no privilege and no mount.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A folder, for the kernel: mode and type.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// The console, which the first process writes to.
const CONSOLE: (u32, u32, u32) = (0o020_600, 5, 1);

/// A root file system in the making.
#[derive(Default)]
pub(crate) struct Ramdisk {
    archive: Vec<u8>,
    known: BTreeSet<PathBuf>,
    files: u32,
}

impl Ramdisk {
    /// With a console.
    pub(crate) fn new() -> Result<Self> {
        let mut disk = Self::default();
        disk.folders(Path::new("/dev/console"))?;
        let (mode, major, minor) = CONSOLE;
        disk.entry(Path::new("/dev/console"), mode, (major, minor), &[])?;
        Ok(disk)
    }

    /// A file of its own.
    pub(crate) fn text(&mut self, at: &str, text: &str) -> Result<()> {
        self.file(Path::new(at), text.as_bytes())
    }

    /// An empty folder.
    pub(crate) fn folder(&mut self, at: &str) -> Result<()> {
        self.folders(&Path::new(at).join("anything"))
    }

    /// A file of this machine, under another name.
    pub(crate) fn copy(&mut self, from: &Path, at: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(at, &bytes)
    }

    /// A program of this machine with the libraries it names, under their own names; without what only debuggers read.
    pub(crate) fn program(&mut self, program: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(program).output().context("ldd does not start")?;
        // One that is linked statically names none, and ldd says so by failing.
        let libraries = String::from_utf8_lossy(&output.stdout).into_owned();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = Path::new(library);
            if !self.known.contains(library) {
                self.copy(library, library)?;
            }
        }
        self.stripped(program, program)
    }

    /// A program of this machine under another name, without what only debuggers read.
    pub(crate) fn stripped(&mut self, program: &Path, at: &Path) -> Result<()> {
        let slim = std::env::temp_dir().join(format!("tidegate-xtask-{}.slim", std::process::id()));
        let stripped = Command::new("strip").arg("-o").arg(&slim).arg(program).status();
        let copied = match stripped {
            Ok(status) if status.success() => self.copy(&slim, at),
            _ => self.copy(program, at),
        };
        if slim.exists() {
            fs::remove_file(slim)?;
        }
        copied
    }

    /// Ends the archive and writes it.
    pub(crate) fn write(mut self, to: &Path) -> Result<()> {
        self.entry(Path::new("/TRAILER!!!"), 0, (0, 0), &[])?;
        let mut file = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        Ok(file.write_all(&self.archive)?)
    }

    fn file(&mut self, at: &Path, bytes: &[u8]) -> Result<()> {
        if !self.known.insert(at.to_owned()) {
            return Ok(());
        }
        self.folders(at)?;
        self.entry(at, PROGRAM, (0, 0), bytes)
    }

    /// The folders above a path, each once.
    fn folders(&mut self, of: &Path) -> Result<()> {
        let above: Vec<PathBuf> = of.ancestors().skip(1).map(Path::to_owned).collect();
        for folder in above.into_iter().rev().filter(|folder| folder != Path::new("/")) {
            if self.known.insert(folder.clone()) {
                self.entry(&folder, FOLDER, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// One header of 110 characters, the name with its zero, the bytes; each part filled up to a multiple of four.
    fn entry(&mut self, at: &Path, mode: u32, device: (u32, u32), bytes: &[u8]) -> Result<()> {
        let name = at.to_str().and_then(|name| name.strip_prefix('/')).context("a name from the root on")?;
        let Ok(size) = u32::try_from(bytes.len()) else { bail!("{name} is too long for an archive") };
        self.files += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        let name_size = u32::try_from(name.len())? + 1;
        let fields = [self.files, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.archive.extend(b"070701");
        for field in fields {
            self.archive.extend(format!("{field:08x}").bytes());
        }
        self.archive.extend(name.bytes());
        self.archive.push(0);
        self.fill();
        self.archive.extend(bytes);
        self.fill();
        Ok(())
    }

    fn fill(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_starts_at_a_multiple_of_four_and_folders_come_first() {
        let mut disk = Ramdisk::new().unwrap();
        disk.text("/a/b/c", "12345").unwrap();
        disk.text("/a/b/c", "again").unwrap();
        let text = String::from_utf8_lossy(&disk.archive).into_owned();
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(starts.iter().all(|start| start % 4 == 0), "{starts:?}");
        assert_eq!(starts.len(), 5, "dev, dev/console, a, a/b, a/b/c");
        let at = |name: &str| text.find(name).unwrap();
        let mut disk = Ramdisk::default();
        disk.folder("/proc").unwrap();
        assert!(String::from_utf8_lossy(&disk.archive).contains("proc\0"));
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/c\0") && !text.contains("again"));
    }
}
