//! One process through `/proc`, held by its open directory: once open, it shows that process or nothing, never the next
//! one with the same number.
//!
//! Gives nothing it cannot read.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, OFlags, openat, readlinkat};

/// `/proc/PID/stat` counts in ticks of this many nanoseconds on every architecture (USER_HZ is 100).
const TICK_NANOSECONDS: u64 = 10_000_000;
/// Bytes of any text file of `/proc` read here.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    directory: OwnedFd,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) command: String,
    pub(super) parent: u32,
    /// Clock ticks since boot.
    pub(super) started: u64,
}

impl Process {
    pub(super) fn open(pid: u32) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        Some(Self { directory })
    }

    pub(super) fn stat(&self) -> Option<Stat> {
        parse_stat(&self.text("stat")?)
    }

    /// The text of one of its files.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let file = openat(&self.directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = Vec::new();
        File::from(file).take(TEXT_BYTES_MAX).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// Its program, open, with device and inode.
    pub(super) fn program(&self) -> Option<(File, u64, u64)> {
        let file =
            File::from(openat(&self.directory, "exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?);
        let meta = file.metadata().ok()?;
        Some((file, meta.dev(), meta.ino()))
    }

    /// The path of its program, where that path leads *us* to the file with this device and inode. A deleted file, an
    /// anonymous one, and a file in another mount namespace have none.
    pub(super) fn program_path(&self, device: u64, inode: u64) -> Option<String> {
        let path = readlinkat(&self.directory, "exe", Vec::new()).ok()?.into_string().ok()?;
        let meta = std::fs::symlink_metadata(&path).ok()?;
        (path.starts_with('/') && meta.dev() == device && meta.ino() == inode).then_some(path)
    }

    /// The user it logged in as, for kernels whose programs cannot say.
    pub(super) fn login_uid(&self) -> Option<u32> {
        self.text("loginuid")?.trim().parse().ok().filter(|&uid| uid != u32::MAX)
    }
}

/// A time since boot in nanoseconds, as `stat` rounds it.
pub(super) fn ticks(nanoseconds: u64) -> u64 {
    nanoseconds / TICK_NANOSECONDS
}

/// The command stands in parentheses and may hold any, so the fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let fields: Vec<&str> = text.get(close + 1..)?.split_whitespace().collect();
    Some(Stat {
        command: text.get(open + 1..close)?.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_full_of_parentheses_moves_no_field() {
        let text = "7 (a) R 1 (b)) S 42 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1000 10";
        assert_eq!(
            parse_stat(text),
            Some(Stat { command: "a) R 1 (b)".to_owned(), parent: 42, started: 12345 })
        );
        for broken in
            ["", "7 (a", "7 (a) S", "7 )a( S 42", "7 (a) S x 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345"]
        {
            assert_eq!(parse_stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_process_that_ended_shows_nothing() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert_eq!(process.stat().unwrap().parent, std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process.stat(), None);
        assert!(process.program().is_none());
    }
}
