//! A gate in four processes under load, and what must hold whatever becomes of it.

pub(super) mod maps;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tidegate_tests::{Builder, Gate, Host, StopOnDrop, Upstream, eventually, eventually_within};

const NOUNS: &str = r#"
[[target]]
name = "api"
direction = "outbound"
addresses = ["127.0.0.1"]
ports = [7001]

[[guard]]
name = "flooder"
uids = [61777]
"#;

const RULES: &str = r#"
permit (principal, action == Action::"http", resource == Target::"api");
"#;

pub(super) const HOST: &str = "127.0.0.1:7001";
/// Whom the policy guards.
pub(super) const GUARDED: &str = "61777";
/// What the keeper's children are called on their command lines.
pub(super) const ENFORCER: &str = "--kept";
pub(super) const RECORDER: &str = "--recording";
pub(super) const ADMIN: &str = "--admitting";

/// How long a gate may take to be itself again. The slowest is a hung recorder that was given up.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);

pub(super) struct World {
    pub(super) host: Host,
    pub(super) upstream: Upstream,
    pub(super) gate: Gate,
}

/// What clients heard.
#[derive(Default)]
pub(super) struct Heard {
    answered: Mutex<Vec<String>>,
    pub(super) refused: AtomicUsize,
    stop: AtomicBool,
}

impl Heard {
    pub(super) fn answers(&self) -> usize {
        self.answered.lock().unwrap().len()
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|builder, _| builder)
    }

    /// With a gate that is set up further.
    pub(super) fn with(further: impl FnOnce(Builder, &Host) -> Builder) -> Self {
        let host = Host::new();
        let upstream = Upstream::start(&host.client(), HOST);
        let builder = Gate::on(&host).policy("a.toml", NOUNS).policy("a.cedar", RULES);
        let gate = further(builder.option_of_run("--user=61234"), &host).start();
        Self { host, upstream, gate }
    }

    /// Lets something happen while clients ask; afterwards the gate works again by itself, and every answer that was heard
    /// and every effect that was had is on record, and nothing got past.
    pub(super) fn survives(&mut self, happens: impl FnOnce(&mut Gate, &Host, &Heard)) {
        let heard = Heard::default();
        std::thread::scope(|scope| {
            let stop = StopOnDrop(&heard.stop);
            for name in 0..4 {
                let (host, heard) = (&self.host, &heard);
                scope.spawn(move || load(host, heard, name));
            }
            eventually("answers before anything happens", || (heard.answers() > 20).then_some(()));
            happens(&mut self.gate, &self.host, &heard);
            // Those that were under way are heard first.
            std::thread::sleep(Duration::from_millis(200));
            let after = heard.answers();
            eventually_within(RECOVERS_WITHIN, "answers again", || {
                (heard.answers() > after + 20).then_some(())
            });
            drop(stop);
        });
        self.holds(&heard);
    }

    fn holds(&self, heard: &Heard) {
        let entries = self.gate.entries();
        let lines = entries.iter().filter_map(|entry| entry.intent.head.line.split(' ').nth(1));
        let recorded: HashSet<&str> = lines.collect();
        let answered = heard.answered.lock().unwrap();
        let lost: Vec<&String> = answered.iter().filter(|path| !recorded.contains(path.as_str())).collect();
        assert!(lost.is_empty(), "{} of {} answers are unrecorded: {lost:?}", lost.len(), answered.len());
        // What has no effect may overlap with its intent.
        let effects = self.upstream.requests();
        let lost: Vec<_> = effects
            .iter()
            .filter(|effect| effect.method == "POST" && !recorded.contains(effect.target.as_str()))
            .map(|effect| &effect.target)
            .collect();
        assert!(lost.is_empty(), "{} of {} effects are unrecorded: {lost:?}", lost.len(), effects.len());
        let from_the_gate = |path: &str| path.starts_with("/load/");
        assert!(effects.iter().all(|effect| from_the_gate(&effect.target)), "nobody else asked");
        eventually("the end of every session", || {
            self.gate.sessions().iter().all(|session| session.summary.closed.is_some()).then_some(())
        });
        drop(self.gate.tidegate(&["record", "verify"]).success());
    }
}

/// Asks until it is to stop. Whatever the gate's state, a request is answered by it, or fails.
fn load(host: &Host, heard: &Heard, name: usize) {
    let seat = host.client();
    let mut number = 0_u64;
    while !heard.stop.load(Ordering::Relaxed) {
        let Ok(mut client) = seat.connect(HOST.parse().unwrap()) else {
            heard.refused.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        for _ in 0..20 {
            number += 1;
            let path = format!("/load/{name}/{number}.");
            let asked = match number % 2 {
                0 => client.post(HOST, &path, "some body"),
                _ => client.get(HOST, &path),
            };
            match asked {
                Ok(answer) if answer.status == 200 => heard.answered.lock().unwrap().push(path),
                Ok(answer) => {
                    assert!(answer.status >= 500, "{}: {}", answer.status, answer.text());
                    heard.refused.fetch_add(1, Ordering::Relaxed);
                }
                // A flow that cannot be recorded is closed.
                Err(_) => {
                    heard.refused.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            if heard.stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

pub(super) fn signal(pid: u32, what: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended by itself.
    let _ = kill_process(pid, what);
}

/// A number of milliseconds below this one, never the same for long.
pub(super) fn moment(below: u32) -> Duration {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Duration::from_millis(u64::from(now.subsec_micros() % below))
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A disk of its own, with ext4 on it, in the place of a folder. Taken away when dropped.
pub(super) struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (fs/ext4/ext4.h): nothing that was not synced gets to the disk.
const PULL_THE_PLUG: &str =
    "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], 0), 0x8004587D, struct.pack('I', 2))";

impl Disk {
    pub(super) fn at(folder: &Path, image: PathBuf) -> Self {
        fs::File::create(&image).unwrap().set_len(256 * 1024 * 1024).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        let disk = Self { image, folder: folder.to_owned() };
        disk.mount();
        disk
    }

    pub(super) fn mount(&self) {
        let options = "loop,errors=remount-ro";
        run("mount", &["-o", options, self.image.to_str().unwrap(), self.folder.to_str().unwrap()]);
    }

    pub(super) fn unmount(&self) {
        run("umount", &["--lazy", self.folder.to_str().unwrap()]);
    }

    /// From now on every access fails, and what was not synced is lost.
    pub(super) fn pull_the_plug(&self) {
        run("python3", &["-c", PULL_THE_PLUG, self.folder.to_str().unwrap()]);
    }

    /// The file system finds an error in itself, and from now on can only be read.
    pub(super) fn make_read_only(&self) {
        let device = run("findmnt", &["--noheadings", "--output", "SOURCE", self.folder.to_str().unwrap()]);
        let name = Path::new(&device).file_name().unwrap().to_str().unwrap();
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test of what depends on this disk")
            .unwrap();
    }

    /// Repairs it, as whoever mounts it after an error does.
    pub(super) fn repair(&self) {
        let repaired = Command::new("e2fsck").args(["-fy", self.image.to_str().unwrap()]).output().unwrap();
        assert!(repaired.status.code().is_some_and(|code| code < 4), "{repaired:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while Command::new("umount")
            .arg("--lazy")
            .arg(&self.folder)
            .output()
            .is_ok_and(|done| done.status.success())
        {}
        let _ = fs::remove_file(&self.image);
    }
}

/// A memory cgroup with a limit. Gone when dropped; what is in it must be gone before.
pub(super) struct Memory(pub(super) PathBuf);

impl Memory {
    pub(super) fn of(host: &Host, bytes: u64) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = if v1.exists() {
            (v1, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let name = host.folder().file_name().unwrap().to_owned();
        let folder = root.join(name).join("");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(limit), bytes.to_string()).unwrap();
        Self(folder)
    }

    /// Takes memory in there until the kernel has killed this process, which it takes first.
    pub(super) fn exhaust(&self, victim: u32) {
        fs::write(format!("/proc/{victim}/oom_score_adj"), "1000").unwrap();
        let hog = "import os, sys, time\n\
            open('/proc/self/oom_score_adj', 'w').write('-1000')\n\
            open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n\
            kept = []\n\
            while os.path.exists('/proc/' + sys.argv[2] + '/exe'):\n    kept.append(bytearray(1 << 20)); time.sleep(0.002)\n";
        let mut hog = Command::new("python3")
            .args(["-c", hog, self.0.to_str().unwrap(), &victim.to_string()])
            .spawn()
            .unwrap();
        let gone = || fs::read_link(format!("/proc/{victim}/exe")).is_err().then_some(());
        eventually_within(Duration::from_secs(60), "the kernel to run out of memory", gone);
        hog.kill().unwrap();
        hog.wait().unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
