//! Takes from this process what it does not need, for good: new privileges, most of the file system (Landlock), most
//! system calls (seccomp). Before its threads exist, so that all of them are held.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};
use rustix::process::{
    DumpableBehavior, Pid, Signal, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::set_no_new_privs;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// What a confined process may still open.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// To read, with all that is below. What is not there is left out.
    pub read: Vec<PathBuf>,
    /// To read, write, make and remove, with all that is below.
    pub write: Vec<PathBuf>,
    /// Whether it may make sockets of the network at all.
    pub network: bool,
    /// Whether it lives on where its parent, the keeper, ends, to put in order what it has.
    pub outlives: bool,
}

/// How far it could be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Whether the kernel keeps it to its [`Reach`]; else file permissions alone do (Linux before 5.13, or built without).
    pub landlock: bool,
}

/// What programs need of a host to run at all: libraries, accounts, certificates, names, time zones, and what the kernel
/// tells of processes and cgroups.
const SYSTEM: [&str; 8] =
    ["/etc", "/usr", "/lib", "/lib64", "/proc", "/sys/fs/cgroup", "/run", "/dev/urandom"];
/// Name spaces that a clone(2) may make.
const CLONE_NEW: u64 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS) as u64;
/// `PR_SET_VMA`, by which allocators name what they map.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// Confines this process.
///
/// # Errors
/// The kernel refuses; then the caller must not go on.
pub fn confine(reach: &Reach, keeper: Pid) -> io::Result<Confined> {
    if !reach.outlives {
        set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    if rustix::process::getppid() != Some(keeper) {
        return Err(io::Error::other("the keeper is gone already"));
    }
    // Nobody of the same user may look into its memory, or trace it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    let landlock = restrict_files(reach).map_err(io::Error::other)?;
    for filter in [unknown_calls()?, other_calls(reach.network)?] {
        apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(Confined { landlock })
}

fn restrict_files(reach: &Reach) -> Result<bool, landlock::RulesetError> {
    let abi = ABI::V5;
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(abi))?.create()?;
    let read = SYSTEM.iter().map(Path::new).chain(reach.read.iter().map(PathBuf::as_path));
    for path in read {
        // What is not there cannot be read either.
        if let Ok(place) = PathFd::new(path) {
            let access = match path.is_dir() {
                true => AccessFs::from_read(abi),
                false => AccessFs::ReadFile.into(),
            };
            ruleset = ruleset.add_rule(PathBeneath::new(place, access & !AccessFs::Execute))?;
        }
    }
    for path in &reach.write {
        if let Ok(place) = PathFd::new(path) {
            let all =
                AccessFs::from_all(abi) & !AccessFs::Execute & !AccessFs::MakeChar & !AccessFs::MakeBlock;
            ruleset = ruleset.add_rule(PathBeneath::new(place, all))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// clone3(2) hides its flags behind a pointer; the C library then falls back on clone(2).
fn unknown_calls() -> io::Result<BpfProgram> {
    let calls = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    filter(calls, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

/// All but those that are listed fail with EPERM.
fn other_calls(network: bool) -> io::Result<BpfProgram> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    calls.extend(OLD_CALLS.iter().map(|call| (*call, Vec::new())));
    let one_of = |argument, values: &[u64]| {
        let rules = values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value));
        rules.collect::<io::Result<Vec<_>>>()
    };
    let families =
        [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|family| family as u64);
    calls.insert(libc::SYS_socket, one_of(0, if network { &families } else { &families[..1] })?);
    // Threads, and no processes: a child would outlive this one, with all its descriptors.
    let thread = libc::CLONE_THREAD as u64;
    calls.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(CLONE_NEW | thread), thread)?]);
    calls.insert(
        libc::SYS_prctl,
        one_of(0, &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, PR_SET_VMA])?,
    );
    let requests = [libc::FIONBIO, libc::FIOCLEX, libc::TCGETS, libc::TIOCGWINSZ];
    calls.insert(libc::SYS_ioctl, one_of(1, &requests)?);
    filter(calls, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn rule(argument: u8, compare: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(io::Error::other)
}

fn filter(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(calls, otherwise, matching, arch).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

/// What the enforcer does: files, memory, threads, sockets, time. No program is started, no process looked into, no
/// privilege changed, nothing mounted, no BPF, no io_uring, no keyring.
const CALLS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_umask,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_copy_file_range,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_tid_address,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clone3,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_pidfd_open,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
];

/// The older names of the same, which other processors never had.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];
