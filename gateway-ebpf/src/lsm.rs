//! Where the kernel runs LSM programs: what a guarded process may not do with what is outside of its guard. It makes no socket
//! that carries bytes off the host unseen, asks nobody outside to dial in its stead, does not leave its cgroup, and does nothing
//! to the gate.

use core::ffi::c_void;

use aya_ebpf::programs::LsmContext;
use gateway_ebpf::abi::{
    Counter, SEALED_INSIDE, SEALED_PINS, SEALED_PROGRAM, SEALED_SECRET, UNIX_NAME_BYTES, UnixKey,
};
use gateway_ebpf::choose;

use crate::report::{To, Tried, attempted, refused};
use crate::{UNIX_ALLOWED, look, outside};

/// What programs at a cgroup answer.
const ALLOW: i32 = 1;
const DENY: i32 = 0;

#[inline(always)]
pub(crate) fn socket_create(ctx: &LsmContext) -> i32 {
    // socket_create(family, type, protocol, kern)
    let (family, protocol, kern): (i32, i32, i32) = (ctx.arg(0), ctx.arg(2), ctx.arg(3));
    if kern != 0 || !choose::is_off_host_family(family) {
        return ALLOW;
    }
    let guard = look::current_guard();
    if guard == 0 {
        return ALLOW;
    }
    refused(ctx, Counter::GuardSocket, &To { address: &[0; 16], port: 0, protocol: protocol as u32, guard });
    DENY
}

/// What the others answer: nothing against it, or `-EPERM`.
const PASS: i32 = 0;
const REFUSE: i32 = -1;
const NAMELESS: &[u8; UNIX_NAME_BYTES] = &[0; UNIX_NAME_BYTES];

/// A pointer that the hook was given.
#[inline(always)]
fn pointer(ctx: &LsmContext, at: usize) -> u64 {
    ctx.arg::<*const c_void>(at) as u64
}

/// The guard of whoever runs now, if these rules are for him; 0: they are not.
#[inline(always)]
fn caller() -> u32 {
    barred(look::current_guard())
}

/// The same by his cgroup alone: who is guarded by his uid takes it along wherever he goes.
#[inline(always)]
fn caller_by_cgroup() -> u32 {
    barred(look::guard_by_cgroup(look::current_cgroup))
}

#[inline(always)]
fn barred(guard: u32) -> u32 {
    if guard == 0 || !look::is_watched() {
        return 0;
    }
    if look::is_over_the_gate(guard) { 0 } else { guard }
}

/// bpf(cmd, ..): the way to the pins, to the maps and to the links.
#[inline(always)]
pub(crate) fn bpf(ctx: &LsmContext) -> i32 {
    /// `BPF_OBJ_GET`, `BPF_LINK_UPDATE`, `BPF_LINK_DETACH`: what takes no right but a file's.
    const OWNERS: [i32; 3] = [7, 29, 34];
    let guard = caller();
    let number: i32 = ctx.arg(0);
    let owners = number == OWNERS[0] || number == OWNERS[1] || number == OWNERS[2];
    if guard == 0 && !(owners && look::is_watched() && outside::is_root_with_few_rights()) {
        return PASS;
    }
    attempted(Counter::GuardBpf, &Tried { guard, other: 0, number: number as u32, name: NAMELESS });
    REFUSE
}

/// ptrace_access_check(child, mode): memory, descriptors, environment of another process.
#[inline(always)]
pub(crate) fn trace(ctx: &LsmContext) -> i32 {
    /// `PTRACE_MODE_NOAUDIT`: whoever lists processes asks this of each, and is not told of it.
    const NO_AUDIT: u32 = 4;
    let guard = caller();
    let task = pointer(ctx, 0);
    // The gate's stays the gate's, also where it was pulled into the guard.
    if guard == 0 || (outside::guard_of_task(task) == guard && !outside::runs_the_gate(task)) {
        return PASS;
    }
    let mode: u32 = ctx.arg(1);
    if mode & NO_AUDIT == 0 {
        about_task(Counter::GuardTrace, guard, task, mode);
    }
    REFUSE
}

/// task_kill(p, info, sig, ..).
#[inline(always)]
pub(crate) fn signal(ctx: &LsmContext) -> i32 {
    let guard = caller();
    let (task, signal): (u64, i32) = (pointer(ctx, 0), ctx.arg(2));
    // 0 asks whether it is there.
    if guard == 0 || signal == 0 || !outside::runs_the_gate(task) {
        return PASS;
    }
    about_task(Counter::GuardSignal, guard, task, signal as u32);
    REFUSE
}

/// file_send_sigiotask(tsk, fown, sig): a signal that comes with input. Whoever it comes from may have ended, and the gate wants none.
#[inline(always)]
pub(crate) fn input_signal(ctx: &LsmContext) -> i32 {
    let task = pointer(ctx, 0);
    if !outside::runs_the_gate(task) {
        return PASS;
    }
    let number: i32 = ctx.arg(2);
    about_task(Counter::GuardSignal, 0, task, number as u32);
    REFUSE
}

/// task_setrlimit(p, resource, new_rlim), task_setscheduler(p), task_setnice(p, nice), task_setioprio(p, ioprio): what starves it.
#[inline(always)]
pub(crate) fn starve(ctx: &LsmContext) -> i32 {
    let guard = caller();
    let task = pointer(ctx, 0);
    if guard == 0 || !outside::runs_the_gate(task) || outside::is_current(task) {
        return PASS;
    }
    about_task(Counter::GuardSignal, guard, task, 0);
    REFUSE
}

#[inline(always)]
fn about_task(counter: Counter, guard: u32, task: u64, number: u32) {
    let mut name = [0; UNIX_NAME_BYTES];
    let other = outside::named_task(task, &mut name);
    attempted(counter, &Tried { guard, other, number, name: &name });
}

/// task_alloc(task, clone_flags): a child that begins in another cgroup.
#[inline(always)]
pub(crate) fn clone(ctx: &LsmContext) -> i32 {
    /// `CLONE_INTO_CGROUP`.
    const INTO_CGROUP: u64 = 1 << 33;
    let flags: u64 = ctx.arg(1);
    if flags & INTO_CGROUP == 0 {
        return PASS;
    }
    let guard = caller_by_cgroup();
    if guard == 0 {
        return PASS;
    }
    attempted(Counter::GuardCgroup, &Tried { guard, other: 0, number: 0, name: NAMELESS });
    REFUSE
}

/// sb_mount(dev_name, path, type, flags, data).
#[inline(always)]
pub(crate) fn mount(ctx: &LsmContext) -> i32 {
    /// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`: to whom later mounts spread; nothing is hidden by that.
    const SPREAD: u64 = 0xf << 17;
    /// `MS_BIND` and `MS_REMOUNT` come before it, `MS_MOVE` after it.
    const BIND: u64 = 1 << 12;
    const REMOUNT: u64 = 1 << 5;
    const MOVE: u64 = 1 << 13;
    let flags: u64 = ctx.arg(3);
    let path = pointer(ctx, 1);
    if flags & (BIND | REMOUNT) == 0 {
        if flags & SPREAD != 0 {
            return PASS;
        }
        // What is moved is not said here; in another namespace it is nobody else's.
        if flags & MOVE != 0 && outside::is_at_home() {
            let guard = caller();
            return if guard == 0 {
                PASS
            } else {
                about_entry(Counter::GuardMount, guard, outside::entry_of(path))
            };
        }
    }
    mount_at(path)
}

/// move_mount(from_path, to_path).
#[inline(always)]
pub(crate) fn move_mount(ctx: &LsmContext) -> i32 {
    let from = pointer(ctx, 0);
    let guard = caller();
    if guard != 0 && outside::holds(outside::mount_of(from)) {
        return about_entry(Counter::GuardMount, guard, outside::entry_of(from));
    }
    mount_at(pointer(ctx, 1))
}

/// sb_pivotroot(old_path, new_path): another root for everybody.
#[inline(always)]
pub(crate) fn pivot_root(ctx: &LsmContext) -> i32 {
    let guard = caller();
    if guard == 0 || !outside::is_at_home() {
        return PASS;
    }
    about_entry(Counter::GuardMount, guard, outside::entry_of(pointer(ctx, 1)))
}

/// sb_remount(sb, mnt_opts).
#[inline(always)]
pub(crate) fn remount(ctx: &LsmContext) -> i32 {
    let guard = caller();
    if guard == 0 || !outside::is_of_the_gate(pointer(ctx, 0)) {
        return PASS;
    }
    attempted(Counter::GuardMount, &Tried { guard, other: 0, number: 0, name: NAMELESS });
    REFUSE
}

#[inline(always)]
fn mount_at(path: u64) -> i32 {
    let guard = caller();
    if guard == 0 || !outside::hides(path) {
        return PASS;
    }
    about_entry(Counter::GuardMount, guard, outside::entry_of(path))
}

/// sb_umount(mnt, flags).
#[inline(always)]
pub(crate) fn unmount(ctx: &LsmContext) -> i32 {
    let guard = caller();
    if guard == 0 || !outside::holds(pointer(ctx, 0)) {
        return PASS;
    }
    attempted(Counter::GuardMount, &Tried { guard, other: 0, number: 0, name: NAMELESS });
    REFUSE
}

#[inline(always)]
fn about_entry(counter: Counter, guard: u32, entry: u64) -> i32 {
    let mut name = [0; UNIX_NAME_BYTES];
    outside::named_entry(entry, &mut name);
    attempted(counter, &Tried { guard, other: 0, number: 0, name: &name });
    REFUSE
}

/// unix_stream_connect(sock, other, newsk).
#[inline(always)]
pub(crate) fn unix_connect(ctx: &LsmContext) -> i32 {
    talk(pointer(ctx, 1))
}

/// unix_may_send(sock, other), of sockets.
#[inline(always)]
pub(crate) fn unix_send(ctx: &LsmContext) -> i32 {
    talk(outside::sock_of(pointer(ctx, 1)))
}

/// To a Unix socket. One without a name was given by whoever made the pair.
#[inline(always)]
fn talk(other: u64) -> i32 {
    let guard = caller();
    if guard == 0 || outside::guard_of_sock(other) == guard {
        return PASS;
    }
    let mut key = UnixKey { guard, name: [0; UNIX_NAME_BYTES] };
    if !outside::bound_name(other, &mut key) || UNIX_ALLOWED.get_ptr(&key).is_some() {
        return PASS;
    }
    attempted(Counter::GuardUnix, &Tried { guard, other: 0, number: 0, name: &key.name });
    REFUSE
}

/// file_receive(file): an open file that somebody passed, or that was taken by pidfd_getfd(2).
#[inline(always)]
pub(crate) fn passed(ctx: &LsmContext) -> i32 {
    /// `AF_UNIX` and `AF_NETLINK` carry nothing off the host.
    const LOCAL: [u32; 2] = [1, 16];
    let guard = caller();
    if guard == 0 {
        return PASS;
    }
    let sock = outside::sock_behind(pointer(ctx, 0));
    if sock == 0 {
        return PASS;
    }
    let number = outside::family_of(sock);
    if number == LOCAL[0] || number == LOCAL[1] || outside::guard_of_sock(sock) == guard {
        return PASS;
    }
    attempted(Counter::GuardPassed, &Tried { guard, other: 0, number, name: NAMELESS });
    REFUSE
}

/// locked_down(what): memory of the kernel, its ports, its tracing, modules without signature; see lockdown(7).
#[inline(always)]
pub(crate) fn lockdown(ctx: &LsmContext) -> i32 {
    let number: u32 = ctx.arg(0);
    kernel(number)
}

/// perf_event_open(..): samples of other processes' stacks.
#[inline(always)]
pub(crate) fn perf(_: &LsmContext) -> i32 {
    kernel(0)
}

/// `READING_FIRMWARE`: what a device asks for when it is set up.
const FIRMWARE: u32 = 1;

/// kernel_read_file(file, id, contents): a module, or another kernel, from a file.
#[inline(always)]
pub(crate) fn kernel_read_file(ctx: &LsmContext) -> i32 {
    let number: u32 = ctx.arg(1);
    if number == FIRMWARE { PASS } else { kernel(number) }
}

/// kernel_load_data(id, contents): the same from memory.
#[inline(always)]
pub(crate) fn kernel_load_data(ctx: &LsmContext) -> i32 {
    let number: u32 = ctx.arg(0);
    if number == FIRMWARE { PASS } else { kernel(number) }
}

#[inline(always)]
fn kernel(number: u32) -> i32 {
    let guard = caller();
    if guard == 0 {
        return PASS;
    }
    attempted(Counter::GuardKernel, &Tried { guard, other: 0, number, name: NAMELESS });
    REFUSE
}

/// file_open(file): a disk; what is secret; or written, what is the gate's, or a cgroup's of others.
#[inline(always)]
pub(crate) fn file_open(ctx: &LsmContext) -> i32 {
    let guard = caller();
    if guard == 0 {
        return PASS;
    }
    let file = pointer(ctx, 0);
    let entry = outside::entry_of_file(file);
    if outside::is_disk(file) {
        return about_entry(Counter::GuardKernel, guard, entry);
    }
    if !outside::is_written(file) {
        return if outside::is_inside(entry, SEALED_SECRET) {
            about_entry(Counter::GuardFile, guard, entry)
        } else {
            PASS
        };
    }
    if outside::is_the_kernels_trigger(entry) {
        return about_entry(Counter::GuardKernel, guard, entry);
    }
    let task = outside::task_behind(entry);
    if outside::runs_the_gate(task) && !outside::is_current(task) {
        about_task(Counter::GuardSignal, guard, task, 0);
        return REFUSE;
    }
    let by_cgroup = caller_by_cgroup();
    if by_cgroup != 0 && outside::is_foreign_cgroup(entry, by_cgroup) {
        return about_entry(Counter::GuardCgroup, guard, entry);
    }
    change_by(guard, entry)
}

/// file_ioctl(file, cmd, arg), file_ioctl_compat: keys that nobody pressed; and what makes a file, or its whole file system, one
/// that the gate cannot write.
#[inline(always)]
pub(crate) fn ioctl(ctx: &LsmContext) -> i32 {
    /// `TIOCSTI`, and `TIOCLINUX`, whose selection is typed, too.
    const TYPE: [u32; 2] = [0x5412, 0x541c];
    /// `FS_IOC_SETFLAGS`, `FS_IOC32_SETFLAGS`, `FS_IOC_FSSETXATTR`.
    const PROTECT: [u32; 3] = [0x4008_6602, 0x4004_6602, 0x401c_5820];
    /// `FIFREEZE`, and the shutdown of ext4 and XFS.
    const STOP: [u32; 2] = [0xc004_5877, 0x8004_587d];
    let number: u32 = ctx.arg(1);
    let types = number == TYPE[0] || number == TYPE[1];
    let protects = number == PROTECT[0] || number == PROTECT[1] || number == PROTECT[2];
    let stops = number == STOP[0] || number == STOP[1];
    if !types && !protects && !stops {
        return PASS;
    }
    let guard = caller();
    if guard == 0 {
        return PASS;
    }
    let entry = outside::entry_of_file(pointer(ctx, 0));
    if types {
        return about_entry(Counter::GuardKernel, guard, entry);
    }
    if protects {
        return change_by(guard, entry);
    }
    if outside::is_of_the_gate(outside::system_of(entry)) {
        about_entry(Counter::GuardMount, guard, entry)
    } else {
        PASS
    }
}

/// path_notify(path, mask, obj_type): whoever opens or reads this would wait for the asker's word.
#[inline(always)]
pub(crate) fn notify(ctx: &LsmContext) -> i32 {
    /// `FAN_OPEN_PERM`, `FAN_ACCESS_PERM`, `FAN_OPEN_EXEC_PERM`, `FAN_PRE_ACCESS`.
    const WAIT: u64 = 0x17_0000;
    let mask: u64 = ctx.arg(1);
    if mask & WAIT == 0 {
        return PASS;
    }
    let (guard, entry) = (caller(), outside::entry_of(pointer(ctx, 0)));
    if guard == 0 || !outside::is_of_the_gate(outside::system_of(entry)) {
        return PASS;
    }
    about_entry(Counter::GuardFile, guard, entry)
}

/// path_truncate(path), path_chmod(path, mode), path_chown(path, uid, gid).
#[inline(always)]
pub(crate) fn change_path(ctx: &LsmContext) -> i32 {
    change(outside::entry_of(pointer(ctx, 0)))
}

/// inode_create(dir, dentry, ..), and as it: inode_unlink, inode_mkdir, inode_rmdir, inode_mknod, inode_symlink.
#[inline(always)]
pub(crate) fn change_entry(ctx: &LsmContext) -> i32 {
    change(pointer(ctx, 1))
}

/// inode_rename(old_dir, old_dentry, new_dir, new_dentry).
#[inline(always)]
pub(crate) fn rename(ctx: &LsmContext) -> i32 {
    let (old, new) = (pointer(ctx, 1), pointer(ctx, 3));
    let guard = caller();
    if guard == 0 {
        return pins(old);
    }
    if outside::is_on_the_way(old) || outside::is_inside(old, CHANGED) {
        return about_entry(Counter::GuardFile, guard, old);
    }
    if outside::is_on_the_way(new) || outside::is_inside(new, CHANGED) {
        return about_entry(Counter::GuardFile, guard, new);
    }
    PASS
}

/// inode_link(old_dentry, dir, new_dentry).
#[inline(always)]
pub(crate) fn hard_link(ctx: &LsmContext) -> i32 {
    let guard = caller();
    if guard == 0 {
        return PASS;
    }
    // A name outside of the gate's directories for what is in them would be a way in.
    if change_by(guard, pointer(ctx, 0)) == REFUSE {
        return REFUSE;
    }
    change_by(guard, pointer(ctx, 2))
}

/// Where nothing is changed.
const CHANGED: u32 = SEALED_INSIDE | SEALED_PROGRAM;

#[inline(always)]
fn change(entry: u64) -> i32 {
    let guard = caller();
    if guard == 0 { pins(entry) } else { change_by(guard, entry) }
}

/// What is pinned, by somebody whom no guard holds.
#[inline(always)]
fn pins(entry: u64) -> i32 {
    if outside::is_root_with_few_rights() && look::is_watched() && outside::is_inside(entry, SEALED_PINS) {
        return about_entry(Counter::GuardFile, 0, entry);
    }
    PASS
}

#[inline(always)]
fn change_by(guard: u32, entry: u64) -> i32 {
    if outside::is_inside(entry, CHANGED) { about_entry(Counter::GuardFile, guard, entry) } else { PASS }
}
