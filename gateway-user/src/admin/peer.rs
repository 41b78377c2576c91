//! Who is at the other end of the admin socket, by the kernel's word. Whoever cannot be established beyond doubt (a
//! recycled pid, changed credentials, another pid namespace) is nobody.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::approval::{Account, Electorate};
use crate::identity::account_name;
use crate::policy::Set;
use crate::policy::nouns::Guard;

/// What `/proc/PID/loginuid` says where nobody logged in.
const NO_LOGIN: u32 = u32::MAX;
/// `/proc` counts process starts in these (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// The other end of a connection: who it is by the kernel, and what the policy then in force makes of it. Whoever accepts
/// finds it out; who answers needs no policy, and may be another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its effective user id when it connected.
    pub(super) uid: u32,
    /// Its account, if its process could be established.
    pub(super) account: Option<Account>,
    /// Root and the gate's own user.
    pub(super) operator: bool,
    /// Why it decides nothing at the gate, if so.
    bound: Option<Bound>,
    /// The declared person it is; or why it is none.
    pub(super) person: Result<String, String>,
    /// Its name for the record: of the person who logged in, else of the account.
    pub(super) name: String,
}

/// Why a process decides nothing at the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Bound {
    /// The kernel cannot say whose it is.
    Unknown,
    /// What a guard is there to hold back decides nothing, whoever it runs as.
    Guard(String),
}

impl Peer {
    /// Reads who it is. To be called right after accept.
    pub(super) fn of(stream: &UnixStream, set: &Set) -> Option<Self> {
        let accepted = uptime_ticks();
        let credentials = stream.peer_cred().ok()?;
        let uid = credentials.uid();
        let known = credentials.pid().and_then(|pid| account(pid, uid, accepted?));
        Some(Self::known(uid, known, set, set.guards()))
    }

    fn known(
        uid: u32,
        known: Option<(Account, Option<Arc<str>>)>,
        people: &dyn Electorate,
        guards: &[Guard],
    ) -> Self {
        let (account, cgroup) = known.map_or((None, None), |(account, cgroup)| (Some(account), cgroup));
        let bound = match (account, cgroup) {
            (Some(account), Some(cgroup)) => {
                let held = |guard: &&Guard| [uid, account.uid].iter().any(|uid| holds(guard, *uid, &cgroup));
                guards.iter().find(held).map(|guard| Bound::Guard(guard.name.clone()))
            }
            _ => Some(Bound::Unknown),
        };
        let person = account.ok_or_else(|| UNKNOWN.to_owned()).and_then(|account| {
            account.person(people).map(|person| person.name.clone()).map_err(|error| error.to_string())
        });
        let login = account.and_then(|account| account.login_uid).unwrap_or(uid);
        let name = person.clone().ok().or_else(|| account_name(login));
        Self {
            uid,
            account,
            operator: uid == 0 || uid == rustix::process::geteuid().as_raw(),
            bound,
            person,
            name: name.unwrap_or_else(|| format!("uid {login}")),
        }
    }

    /// An operator whose process is known, and is not one that a guard holds, may do this.
    ///
    /// # Errors
    /// Why it may not, for the caller.
    pub(super) fn may_command(&self, what: &str) -> Result<(), String> {
        if !self.operator {
            return Err(format!("only root or the gate's own user may {what}"));
        }
        self.outside(what).map(drop)
    }

    /// Its account, where its process is known, and is not one that a guard holds.
    ///
    /// # Errors
    /// Why it may not do this, for the caller.
    pub(super) fn outside(&self, what: &str) -> Result<Account, String> {
        match (&self.bound, self.account) {
            (Some(Bound::Guard(name)), _) => Err(format!("a process that guard {name} holds may not {what}")),
            (None, Some(account)) => Ok(account),
            _ => Err(UNKNOWN.into()),
        }
    }

    /// Operators, and declared people.
    pub(super) fn may_read(&self) -> bool {
        self.operator || self.person.is_ok()
    }
}

const UNKNOWN: &str =
    "the kernel cannot say beyond doubt whose process this is; ask again from a shell of your own";

/// Who knocks at the admin socket, for the process that answers there. A process of one of the gate's own users is nobody: it may have
/// been taken over. To be called right after accept.
#[must_use]
pub fn caller(stream: &UnixStream, set: &Set, own: &[u32]) -> Option<Peer> {
    let mut peer = Peer::of(stream, set)?;
    if own.contains(&peer.uid) || peer.account.is_some_and(|account| own.contains(&account.uid)) {
        let why = "this is a process of the gate itself".to_owned();
        (peer.operator, peer.bound, peer.person) = (false, Some(Bound::Guard("tidegate".into())), Err(why));
    }
    Some(peer)
}

/// Who asks the recorder for something, by name, where he may: an operator whom no guard of this policy holds. To be called
/// right after accept.
///
/// # Errors
/// Why he may not.
pub fn may_order(stream: &UnixStream, set: &Set) -> Result<String, String> {
    let peer = Peer::of(stream, set).ok_or("the kernel does not say who this is")?;
    peer.may_command("change the record's keys or remove from it")?;
    Ok(peer.name)
}

/// The account of a process that connected with this effective uid before `accepted` (ticks since boot).
///
/// The pidfd proves that the process whose files were read lived on until all were read; its start and its effective
/// uid, that it is the one that connected and not a later owner of the same pid.
fn account(pid: i32, connected_as: u32, accepted: u64) -> Option<(Account, Option<Arc<str>>)> {
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let started = start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let (uid, effective) = uids(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    let login_uid = login_uid(pid)?;
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok().and_then(|text| cgroup_path(&text));
    let same = started <= accepted && effective == connected_as && is_alive(&handle);
    same.then_some((Account { uid, login_uid }, cgroup))
}

/// The cgroup v2 path in the text of `/proc/PID/cgroup`.
fn cgroup_path(text: &str) -> Option<Arc<str>> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.starts_with('/').then(|| Arc::from(path))
}

/// Whether a guard holds a process of this user in this cgroup: as the kernel's tables say it, and by any unit of the
/// name wherever it lies.
fn holds(guard: &Guard, uid: u32, cgroup: &str) -> bool {
    let below = |listed: &String| {
        let listed = listed.trim_matches('/');
        let path = cgroup.trim_start_matches('/');
        path == listed || path.strip_prefix(listed).is_some_and(|rest| rest.starts_with('/'))
    };
    let named = |part: &str| {
        let id = part.strip_suffix(".scope").and_then(|name| name.rsplit('-').next()).unwrap_or(part);
        guard.units.iter().any(|unit| unit == part)
            || guard.containers.iter().any(|begin| id.starts_with(begin.as_str()))
    };
    guard.uids.contains(&uid)
        || guard.cgroups.iter().any(below)
        || cgroup.split('/').filter(|part| !part.is_empty()).any(named)
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
        let (account, cgroup) = account(pid, uid, uptime_ticks().unwrap()).unwrap();
        assert!(cgroup.is_some());
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
    fn a_process_that_a_guard_holds_is_known_by_each_of_its_ways() {
        let guard = |set: fn(&mut Guard)| {
            let mut guard = Guard { name: "agents".into(), ..Guard::default() };
            set(&mut guard);
            guard
        };
        let unit = guard(|guard| guard.units = vec!["agents.slice".into()]);
        assert!(holds(&unit, 0, "/agents.slice/a.service") && holds(&unit, 0, "/agents.slice"));
        assert!(!holds(&unit, 0, "/other.slice") && !holds(&unit, 0, "/"));
        let listed = guard(|guard| guard.cgroups = vec!["/test/agent".into()]);
        assert!(holds(&listed, 0, "/test/agent/below") && !holds(&listed, 0, "/test/agents"));
        assert!(holds(&guard(|guard| guard.uids = vec![0]), 0, "/"));
        let container = guard(|guard| guard.containers = vec!["0123456789ab".into()]);
        assert!(holds(&container, 0, &format!("/system.slice/docker-0123456789ab{}.scope", "0".repeat(52))));
    }

    struct Nobody;

    impl Electorate for Nobody {
        fn digest(&self) -> crate::operation::Sha256 {
            crate::operation::Sha256::default()
        }
        fn persons(&self) -> &[crate::policy::nouns::Person] {
            &[]
        }
        fn approval(&self, _: &str) -> Option<&crate::policy::nouns::Approval> {
            None
        }
        fn rule(&self, _: &str) -> Option<crate::operation::Sha256> {
            None
        }
    }

    type Known = (Account, Option<Arc<str>>);

    fn me() -> (u32, Known) {
        let (pid, uid) = here();
        (uid, account(pid, uid, uptime_ticks().unwrap()).unwrap())
    }

    fn peer(uid: u32, known: Option<Known>, guards: &[Guard]) -> Peer {
        Peer::known(uid, known, &Nobody, guards)
    }

    #[test]
    fn who_cannot_be_established_or_is_no_operator_commands_nothing() {
        let (uid, (account, cgroup)) = me();
        assert_eq!(peer(uid, Some((account, cgroup.clone())), &[]).may_command("block"), Ok(()));
        assert!(peer(uid, None, &[]).may_command("block").is_err());
        assert!(peer(uid, Some((account, None)), &[]).may_command("block").is_err());
        assert!(peer(uid + 1, Some((account, cgroup)), &[]).may_command("block").is_err());
    }

    #[test]
    fn a_guarded_process_decides_nothing_by_its_real_uid_or_the_one_it_took_on() {
        let guard = Guard { name: "agents".into(), uids: vec![1700], ..Guard::default() };
        let guards = [guard];
        let (uid, (account, cgroup)) = me();
        assert!(peer(uid, Some((account, cgroup.clone())), &guards).outside("vote").is_ok());
        let real = Account { uid: 1700, ..account };
        let real = peer(uid, Some((real, cgroup.clone())), &guards);
        assert!(real.outside("vote").unwrap_err().contains("guard agents"));
        assert!(peer(1700, Some((account, cgroup)), &guards).outside("vote").is_err());
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
