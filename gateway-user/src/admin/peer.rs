//! Who is at the other end of the admin socket, by the kernel's word. Whoever cannot be established beyond doubt (a
//! recycled pid, changed credentials, another pid namespace) is nobody.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::UnixStream;

use crate::approval::{Account, Electorate};

/// What `/proc/PID/loginuid` says where nobody logged in.
const NO_LOGIN: u32 = u32::MAX;
/// `/proc` counts process starts in these (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its effective user id when it connected.
    pub(super) uid: u32,
    /// Its account, if its process could be established.
    pub(super) account: Option<Account>,
}

impl Peer {
    /// Reads who it is. To be called right after accept.
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        let accepted = uptime_ticks();
        let credentials = stream.peer_cred().ok()?;
        let uid = credentials.uid();
        let account = credentials.pid().and_then(|pid| account(pid, uid, accepted?));
        Some(Self { uid, account })
    }

    /// Root and the gate's own user.
    pub(super) fn is_operator(&self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    /// Operators, and declared people.
    pub(super) fn may_read(&self, electorate: &dyn Electorate) -> bool {
        self.is_operator() || self.account.is_some_and(|account| account.person(electorate).is_ok())
    }
}

/// The account of a process that connected with this effective uid before `accepted` (ticks since boot).
///
/// The pidfd proves that the process whose files were read lived on until all were read; its start and its effective
/// uid, that it is the one that connected and not a later owner of the same pid.
fn account(pid: i32, connected_as: u32, accepted: u64) -> Option<Account> {
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let started = start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let (uid, effective) = uids(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    let login_uid = login_uid(pid)?;
    let same = started <= accepted && effective == connected_as && is_alive(&handle);
    same.then_some(Account { uid, login_uid })
}

fn is_alive(handle: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(handle, PollFlags::IN)];
    matches!(poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// `Some(None)`: this kernel keeps no login uid, or nobody logged in. `None`: it cannot be read, so nothing is known.
fn login_uid(pid: i32) -> Option<Option<u32>> {
    match fs::read_to_string(format!("/proc/{pid}/loginuid")) {
        Ok(text) => login_uid_of(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Gone with the process, or never there: only a kernel without audit has it for nobody.
            (!fs::exists("/proc/self/loginuid").ok()?).then_some(None)
        }
        Err(_) => None,
    }
}

fn login_uid_of(text: &str) -> Option<Option<u32>> {
    let uid: u32 = text.trim().parse().ok()?;
    Some((uid != NO_LOGIN).then_some(uid))
}

/// Real and effective user id.
fn uids(status: &str) -> Option<(u32, u32)> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut ids = line.split_ascii_whitespace().map(str::parse);
    Some((ids.next()?.ok()?, ids.next()?.ok()?))
}

/// Field 22 of `/proc/PID/stat`. The name before it may hold anything, also parentheses and spaces.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Ticks since boot. Rounded up: `/proc/uptime` is cut to hundredths, as starts are.
fn uptime_ticks() -> Option<u64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = text.split_ascii_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * TICKS_PER_SECOND + hundredths.parse::<u64>().ok()? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> (i32, u32) {
        (std::process::id().cast_signed(), rustix::process::geteuid().as_raw())
    }

    #[test]
    fn a_living_process_is_its_account() {
        let (pid, uid) = here();
        let account = account(pid, uid, uptime_ticks().unwrap()).unwrap();
        assert_eq!(account.uid, rustix::process::getuid().as_raw());
    }

    #[test]
    fn a_process_younger_than_the_connection_is_nobody() {
        let (pid, uid) = here();
        assert_eq!(account(pid, uid, 1), None);
    }

    #[test]
    fn a_process_with_other_credentials_than_the_connection_is_nobody() {
        let (pid, uid) = here();
        assert_eq!(account(pid, uid + 1, uptime_ticks().unwrap()), None);
    }

    #[test]
    fn a_process_that_is_gone_is_nobody() {
        let (_, uid) = here();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let zombie = loop {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            if stat.contains(") Z ") {
                break account(pid, uid, uptime_ticks().unwrap());
            }
        };
        assert_eq!(zombie, None, "dead, not yet waited for");
        child.wait().unwrap();
        assert_eq!(account(pid, uid, uptime_ticks().unwrap()), None);
        assert_eq!(account(0, uid, uptime_ticks().unwrap()), None, "another pid namespace");
    }

    #[test]
    fn a_name_cannot_forge_the_start() {
        let stat = "7 (a) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1 2) S 0 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        assert_eq!(start_ticks(stat), Some(4242));
        assert_eq!(start_ticks("garbage"), None);
    }

    #[test]
    fn nobody_logged_in_is_not_uid_four_billion() {
        assert_eq!(login_uid_of("4294967295"), Some(None));
        assert_eq!(login_uid_of("1002\n"), Some(Some(1002)));
        assert_eq!(login_uid_of(""), None);
        assert_eq!(uids("Name:\tx\nUid:\t1\t2\t3\t4\n"), Some((1, 2)));
        assert_eq!(uids("Gid:\t1\n"), None);
    }
}
