//! Maps of the kernel programs, filled to the brim with rows that say nothing true.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One full map; what filled it is taken out on drop.
pub(crate) struct Filled {
    map: PathBuf,
    forgets: bool,
    keys: Vec<String>,
    value: String,
    /// Commands for `bpftool`.
    script: tempfile::NamedTempFile,
}

impl Filled {
    /// The maps below these pins that have room for rows of any key.
    pub(crate) fn can_be(pins: &Path) -> Vec<PathBuf> {
        let maps = fs::read_dir(pins.join("maps")).unwrap().map(|entry| entry.unwrap().path());
        let mut maps: Vec<PathBuf> = maps.filter(|map| kind(map).is_some()).collect();
        maps.sort();
        maps
    }

    pub(crate) fn by_junk(map: &Path) -> Self {
        let about = about(map);
        let number = |name: &str| usize::try_from(about[name].as_u64().unwrap()).unwrap();
        let kind = kind(map).unwrap();
        let (key_bytes, room) = (number("bytes_key"), number("max_entries"));
        let forgets = kind == "lru_hash";
        let keys = 0..u32::try_from(room).unwrap() * if forgets { 2 } else { 1 };
        let filled = Self {
            map: map.to_owned(),
            forgets,
            keys: keys.map(|number| key(number, key_bytes, kind == "lpm_trie")).collect(),
            value: "00 ".repeat(number("bytes_value")),
            script: tempfile::NamedTempFile::new().unwrap(),
        };
        filled.again();
        filled
    }

    /// Whether it makes room for new rows by itself.
    pub(crate) fn forgets(&self) -> bool {
        self.forgets
    }

    /// Every row once more.
    pub(crate) fn again(&self) {
        self.run(|line, map, key| {
            writeln!(line, "map update pinned {map} key hex {key} value hex {}", self.value)
        });
    }

    /// Until one is not taken: that there is no room is the aim, and what the gate took out by itself is out.
    fn run(&self, mut each: impl FnMut(&mut String, &str, &str) -> std::fmt::Result) {
        let map = self.map.to_str().unwrap();
        let mut script = String::new();
        for key in &self.keys {
            each(&mut script, map, key).unwrap();
        }
        fs::write(self.script.path(), script).unwrap();
        let done = Command::new("/usr/sbin/bpftool")
            .args(["-f", "batch", "file"])
            .arg(self.script.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        let taken_for_full = ["Argument list too long", "No space", "delete failed: No such file"];
        assert!(done.status.success() || taken_for_full.iter().any(|words| said.contains(words)), "{said}");
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let map = self.map.to_str().unwrap().to_owned();
        // One call each would take a minute: the first that is not there any more would end a whole list.
        self.run(|line, _, key| writeln!(line, "map delete pinned {map} key hex {key}"));
    }
}

fn about(map: &Path) -> Value {
    let done =
        Command::new("/usr/sbin/bpftool").args(["-j", "map", "show", "pinned"]).arg(map).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

fn kind(map: &Path) -> Option<String> {
    let kind = about(map)["type"].as_str()?.to_owned();
    matches!(kind.as_str(), "hash" | "lru_hash" | "lpm_trie").then_some(kind)
}

/// A key that no policy and no connection has. The whole of an LPM key is its prefix.
fn key(number: u32, bytes: usize, lpm: bool) -> String {
    let mut key = vec![0xee; bytes];
    let at = if lpm { 4 } else { 0 };
    if lpm {
        key[..4].copy_from_slice(&u32::try_from((bytes - 4) * 8).unwrap().to_ne_bytes());
    }
    let end = bytes.min(at + 20);
    key[end - 4..end].copy_from_slice(&(0xee00_0000 | number).to_be_bytes());
    key.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x} ");
        text
    })
}
