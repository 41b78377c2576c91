//! `tidegate-attack WAY key=value...`: takes on the rights it is told to, tries one way round the gate, and says what it
//! saw as one line of JSON. Decides nothing.

use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use tidegate_attack::{Aim, WAYS, find, sys};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let aim = Aim::of(&words);
    match words.first().map(String::as_str) {
        Some("list") => WAYS.iter().for_each(|way| println!("{:20} {}", way.name, way.about)),
        Some("give") => tidegate_attack::helpers::give(&aim),
        Some("relay") => tidegate_attack::helpers::relay(&aim),
        Some(name) if find(name).is_some() => attack(name, &aim),
        _ => {
            eprintln!("tidegate-attack list | WAY key=value...");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn attack(name: &str, aim: &Aim) {
    let way = find(name).expect("it was found just now");
    if let Err(error) = take_on(aim) {
        println!("{{\"way\":\"{name}\",\"failed\":\"cannot take on the rights: {error}\"}}");
        return;
    }
    let line = match (way.run)(aim) {
        Ok(heard) => format!("\"heard\":\"{}\"", escaped(&heard)),
        Err(error) => {
            format!(
                "\"errno\":{},\"error\":\"{}\"",
                error.raw_os_error().unwrap_or(0),
                escaped(&error.to_string())
            )
        }
    };
    println!("{{\"way\":\"{name}\",\"token\":\"{}\",{line}}}", aim.token());
}

fn escaped(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '"' | '\\' => '\'',
            letter if letter.is_control() => ' ',
            letter => letter,
        })
        .collect()
}

/// The capabilities we have: asking for another one is refused.
fn permitted() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap_or_default();
    u64::from_str_radix(hex.trim(), 16).map_err(Error::other)
}

/// Sees nothing pinned, as in a container.
fn hide_pins() -> Result<()> {
    // SAFETY: one thread, plain flags.
    sys::answer(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
    let (root, bpffs, tmpfs) = (sys::text("/"), sys::text("/sys/fs/bpf"), sys::text("tmpfs"));
    // SAFETY: live strings; the namespace is our own, so nobody else's mounts change.
    unsafe {
        let none = std::ptr::null();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        sys::answer(i64::from(libc::mount(none, root.as_ptr(), none, private, none.cast())))?;
        let (tmpfs, flags) = (tmpfs.as_ptr(), libc::MS_NOEXEC);
        sys::answer(i64::from(libc::mount(tmpfs, bpffs.as_ptr(), tmpfs, flags, none.cast()))).map(drop)
    }
}

/// cgroup=PATH, netns=PATH, then uid=NUMBER with only the capabilities of caps=HEX.
fn take_on(aim: &Aim) -> Result<()> {
    if !aim.get("cgroup").is_empty() {
        std::fs::write(format!("{}/cgroup.procs", aim.get("cgroup")), std::process::id().to_string())?;
    }
    if !aim.get("netns").is_empty() {
        let netns = std::fs::File::open(aim.get("netns"))?;
        // SAFETY: a live descriptor.
        sys::answer(i64::from(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }))?;
    }
    if aim.get("hide") == "pins" {
        hide_pins()?;
    }
    let wanted = u64::from_str_radix(aim.get("caps"), 16).map_err(|_| Error::other("caps=HEX is missing"))?;
    let kept = wanted & permitted()?;
    for capability in (0..64).filter(|bit| kept & (1 << bit) == 0) {
        // Numbers beyond the kernel's last are refused, and are none.
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let uid = aim.number("uid");
    // SAFETY: plain numbers; no supplementary groups are passed.
    unsafe {
        sys::answer(i64::from(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)))?;
        sys::answer(i64::from(libc::setgroups(0, std::ptr::null())))?;
        sys::answer(i64::from(libc::setresgid(uid, uid, uid)))?;
        sys::answer(i64::from(libc::setresuid(uid, uid, uid)))?;
    }
    let header = [0x2008_0522u32, 0];
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let data = [low, low, 0, high, high, 0];
    sys::call(libc::SYS_capset, [header.as_ptr() as u64, data.as_ptr() as u64, 0, 0, 0, 0])?;
    // A changed user id makes a process closed to its own ptrace and /proc: that is no part of any attack.
    // SAFETY: plain numbers.
    sys::answer(i64::from(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) })).map(drop)
}
