//! Removes what tests make: at drop, at an interrupt, and at the next start for those that were killed. Touches only
//! what carries the name of a test process: `tgPID-N`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

/// Where test hosts have their pins.
const PINS: &str = "/sys/fs/bpf";
/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";

static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A new name for a host of this process. The first call removes what dead test processes left.
pub(crate) fn name() -> String {
    static FIRST: Once = Once::new();
    static NEXT: AtomicU32 = AtomicU32::new(1);
    FIRST.call_once(|| {
        mount_bpffs();
        sweep();
        sweep_at_interrupt();
        sweep_at_exit();
    });
    let name = format!("tg{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    live().insert(name.clone());
    name
}

fn live() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    LIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The mount point of cgroup v2.
#[must_use]
pub fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let of_cgroup2 = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let point = of_cgroup2.and_then(|line| line.split(' ').nth(1));
    point.expect("cgroup v2 is mounted somewhere (the gate needs it too)").into()
}

pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

pub(crate) fn pins_path(name: &str) -> PathBuf {
    Path::new(PINS).join(name)
}

pub(crate) fn folder_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Removes everything of one host: processes, pins, cgroups, namespaces, folder.
pub(crate) fn remove(name: &str) {
    let cgroups = [cgroup_root().join(name), cgroup_root().join(format!("{name}-remote"))];
    for cgroup in &cgroups {
        kill_all_in(cgroup);
    }
    remove_pins(&pins_path(name));
    for cgroup in &cgroups {
        remove_cgroup(cgroup);
    }
    for netns in [name.to_owned(), format!("{name}-remote")] {
        if netns_path(&netns).exists() {
            ip(&["netns", "delete", &netns]);
        }
    }
    report("folder", &folder_path(name), fs::remove_dir_all(folder_path(name)));
    live().remove(name);
}

/// Runs `ip`. Says what failed; the caller's next step will fail on it.
pub(crate) fn ip(arguments: &[&str]) -> bool {
    let output =
        Command::new("ip").args(arguments).stdin(Stdio::null()).output().expect("iproute2 is installed");
    if !output.status.success() {
        eprintln!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// Held while a test loads programs at the root cgroup, so that two such tests never run at once, in any checkout.
pub struct RootCgroup {
    _file: File,
}

/// Waits for the right to attach at the root cgroup. Other tests, in their own cgroups, run on.
///
/// # Panics
/// When the lock file cannot be made.
#[must_use]
pub fn root_cgroup_lock() -> RootCgroup {
    let file = File::create(std::env::temp_dir().join("tidegate-root-cgroup.lock"))
        .expect("the folder for temporary files is writable");
    file.lock().expect("a local file can be locked");
    RootCgroup { _file: file }
}

fn mount_bpffs() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(PINS)) {
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf", PINS]).status();
        assert!(mounted.is_ok_and(|status| status.success()), "cannot mount bpffs: the tests need root");
    }
}

/// Removes what test processes left that are dead now, or that had this process's id before it.
fn sweep() {
    let places = [PathBuf::from(NETNS), PINS.into(), cgroup_root(), std::env::temp_dir()];
    let names = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let stale: BTreeSet<String> =
        names.filter_map(|entry| stale_name(&entry.file_name().to_string_lossy())).collect();
    stale.iter().for_each(|name| remove(name));
}

/// The host's name in the name of one of its objects, if its process is gone.
fn stale_name(object: &str) -> Option<String> {
    let host = object.strip_suffix("-remote").unwrap_or(object);
    let (pid, number) = host.strip_prefix("tg")?.split_once('-')?;
    let pid: u32 = pid.parse().ok()?;
    number.parse::<u32>().ok()?;
    let gone = pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists();
    gone.then(|| host.to_owned())
}

fn sweep_at_interrupt() {
    use std::os::fd::AsRawFd;
    static WRITE_END: std::sync::OnceLock<io::PipeWriter> = std::sync::OnceLock::new();
    extern "C" fn wake(_signal: libc::c_int) {
        if let Some(end) = WRITE_END.get() {
            rustix::io::write(end, b"!").ok();
        }
    }
    let (mut reader, writer) = io::pipe().expect("a pipe");
    debug_assert!(writer.as_raw_fd() > 2);
    WRITE_END.set(writer).ok();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler = wake as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler only reads an initialised cell and calls write(2), which is async-signal-safe.
        #[expect(unsafe_code, reason = "std has no signal handling, and a crate for three lines is too much")]
        unsafe {
            libc::signal(signal, handler);
        }
    }
    thread::spawn(move || {
        use std::io::Read;
        if reader.read(&mut [0]).is_ok() {
            let names: Vec<String> = live().iter().cloned().collect();
            names.iter().for_each(|name| remove(name));
            std::process::exit(130);
        }
    });
}

/// A host that all tests of a file share lies in a static, which is never dropped.
fn sweep_at_exit() {
    extern "C" fn remove_live() {
        let names: Vec<String> = live().iter().cloned().collect();
        names.iter().for_each(|name| remove(name));
    }
    // SAFETY: registers a function; it runs on an ordinary thread when the process leaves `main` or calls exit.
    #[expect(unsafe_code, reason = "std has no way to run something at exit")]
    unsafe {
        libc::atexit(remove_live);
    }
}

fn kill_all_in(cgroup: &Path) {
    if !cgroup.exists() {
        return;
    }
    report("processes of", cgroup, fs::write(cgroup.join("cgroup.kill"), "1"));
    let start = Instant::now();
    let populated = || {
        fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
    };
    while populated() && start.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn remove_pins(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_pins(&path);
        } else {
            report("pin", &path, fs::remove_file(&path));
        }
    }
    report("pins", folder, fs::remove_dir(folder));
}

/// Leaves first; the kernel may need a moment until the last exiting process has let go.
fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let start = Instant::now();
    let mut removed = fs::remove_dir(cgroup);
    while removed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        && start.elapsed() < Duration::from_secs(5)
    {
        thread::sleep(Duration::from_millis(5));
        removed = fs::remove_dir(cgroup);
    }
    report("cgroup", cgroup, removed);
}

fn report(what: &str, path: &Path, outcome: io::Result<()>) {
    if let Err(error) = outcome
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("left behind: {what} {}: {error}", path.display());
    }
}
