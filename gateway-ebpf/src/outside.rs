//! What is outside of a guard: another process, a socket, a file, a mount. Reads the kernel's own structures; what cannot be
//! read is outside.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::helpers::generated as helper;
use gateway_ebpf::abi::{
    GUARD_LEVELS_MAX, HOME, InodeKey, SEALED_INSIDE, SEALED_PROGRAM, SEALED_WAY, UNIX_NAME_BYTES, UnixKey,
};

use crate::look::{
    self, CRED_UID, FILE_INODE, INODE_NUMBER, INODE_SUPER, MM_EXE, SUPER_DEVICE, TASK_COMM, TASK_CRED,
    TASK_MM, TASK_TGID, kernel_word, kernel_word_at, offsets,
};
use crate::{GUARD_CGROUPS, SEALED};

offsets! {
    TASK_CGROUPS, SET_CGROUP, CGROUP_LEVEL, CGROUP_ANCESTORS, CGROUP_NODE, NODE_ID, SOCK_CGROUP, SOCK_UID,
    SOCK_FAMILY, SOCKET_SOCK, UNIX_ADDRESS, ADDRESS_LENGTH, ADDRESS_NAME, FILE_MODE, FILE_ENTRY, FILE_DATA, PATH_MOUNT,
    PATH_ENTRY, ENTRY_PARENT, ENTRY_INODE, ENTRY_NAME, INODE_MODE, SUPER_MAGIC, SUPER_ROOT, MOUNT_ROOT, MOUNT_PARENT_BACK, MOUNT_INNER,
    MOUNT_SHARED_AT, MOUNT_SHARED, FILE_FLAGS,
    TASK_EFFECTIVE, CRED_RIGHTS, TASK_SPACES, SPACES_MOUNTS, MOUNTS_NUMBER,
    INODE_ENTRIES, ENTRY_ALIAS, PROC_INODE, PROC_PID, PID_TASKS, TASK_LINKS, INODE_DEVICE,
}

/// Directories above a file that are looked at.
const DEPTH_MAX: u32 = 16;
/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2: u64 = 0x6367_7270;
/// `CGROUP_SUPER_MAGIC`: version 1.
const CGROUP1: u64 = 0x27_e0eb;
/// `PROC_SUPER_MAGIC`.
const PROC: u64 = 0x9fa0;
/// `BPF_FS_MAGIC`.
const BPFFS: u64 = 0xcafe_4a11;
/// `BINFMTFS_MAGIC`.
const PROGRAM_KINDS: u64 = 0x4249_4e4d;
/// `SYSFS_MAGIC`.
const SYSFS: u64 = 0x6265_6572;

/// The half of a word that a 32-bit field is.
#[inline(always)]
fn half(base: u64, offset: &'static u32) -> u32 {
    kernel_word(base, offset) as u32
}

/// Where a field stands that is no pointer but a structure.
#[inline(always)]
fn within(base: u64, offset: &'static u32) -> u64 {
    // SAFETY: read-only data, patched before load, hence volatile.
    base.wrapping_add(u64::from(unsafe { ptr::read_volatile(offset) }))
}

/// The structure that this field stands in.
#[inline(always)]
fn around(field: u64, offset: &'static u32) -> u64 {
    // SAFETY: as above.
    field.wrapping_sub(u64::from(unsafe { ptr::read_volatile(offset) }))
}

/// The id of the cgroup above this one, at this level; 0: there is none.
#[inline(always)]
fn ancestor(cgroup: u64, level: u32) -> u64 {
    if cgroup == 0 || level > half(cgroup, &CGROUP_LEVEL) {
        return 0;
    }
    let ancestor = kernel_word(cgroup.wrapping_add(u64::from(level) * 8), &CGROUP_ANCESTORS);
    kernel_word(kernel_word(ancestor, &CGROUP_NODE), &NODE_ID)
}

/// The guard of a process; 0: none.
#[inline(always)]
pub(crate) fn guard_of_task(task: u64) -> u32 {
    let cgroup = kernel_word(kernel_word(task, &TASK_CGROUPS), &SET_CGROUP);
    look::guard_by(|level| ancestor(cgroup, level), || half(kernel_word(task, &TASK_CRED), &CRED_UID))
}

/// The guard of whoever made a socket; 0: none.
#[inline(always)]
pub(crate) fn guard_of_sock(sock: u64) -> u32 {
    let cgroup = kernel_word(sock, &SOCK_CGROUP);
    look::guard_by(|level| ancestor(cgroup, level), || half(sock, &SOCK_UID))
}

/// The `sock` of a `socket`.
#[inline(always)]
pub(crate) fn sock_of(socket: u64) -> u64 {
    kernel_word(socket, &SOCKET_SOCK)
}

/// `AF_*`.
#[inline(always)]
pub(crate) fn family_of(sock: u64) -> u32 {
    half(sock, &SOCK_FAMILY) & 0xffff
}

/// `S_IFMT` of an open file's mode.
#[inline(always)]
fn kind_of(file: u64) -> u32 {
    half(kernel_word(file, &FILE_INODE), &INODE_MODE) & 0xf000
}

/// Whether a file is a block device, or makes one of another (`/dev/mapper/control`), which mount(2) takes without opening a file.
#[inline(always)]
pub(crate) fn is_disk(file: u64) -> bool {
    const BLOCK_DEVICE: u32 = 0x6000;
    const CHARACTER_DEVICE: u32 = 0x2000;
    const MAPPER: u32 = 10 << 20 | 236;
    let kind = kind_of(file);
    kind == BLOCK_DEVICE
        || (kind == CHARACTER_DEVICE && half(kernel_word(file, &FILE_INODE), &INODE_DEVICE) == MAPPER)
}

/// The `sock` behind an open file; 0: the file is no socket.
#[inline(always)]
pub(crate) fn sock_behind(file: u64) -> u64 {
    const SOCKET: u32 = 0xc000;
    if kind_of(file) != SOCKET {
        return 0;
    }
    sock_of(kernel_word(file, &FILE_DATA))
}

/// The name that a Unix socket was bound to, as a guard's key: as much of it as a policy can name. False: it has none.
#[inline(always)]
pub(crate) fn bound_name(sock: u64, key: &mut UnixKey) -> bool {
    let address = kernel_word(sock, &UNIX_ADDRESS);
    if address == 0 {
        return false;
    }
    // The family comes first, in two bytes.
    let mut length = u64::from(half(address, &ADDRESS_LENGTH)).wrapping_sub(2);
    if length > UNIX_NAME_BYTES as u64 {
        length = UNIX_NAME_BYTES as u64;
    }
    // SAFETY: changes nothing now; but what is compared below is then what the helper is given, also to the verifier.
    unsafe {
        core::arch::asm!("{length} &= 127", length = inout(reg) length);
    }
    if length == 0 || length > UNIX_NAME_BYTES as u64 {
        return true;
    }
    // SAFETY: at most as many bytes as the name has. One that cannot be read stays empty, which no policy names.
    unsafe {
        let from = within(address, &ADDRESS_NAME).wrapping_add(2) as *const c_void;
        helper::bpf_probe_read_kernel(key.name.as_mut_ptr().cast(), length as u32, from);
    }
    true
}

/// Process id and name of another process.
#[inline(always)]
pub(crate) fn named_task(task: u64, name: &mut [u8; UNIX_NAME_BYTES]) -> u32 {
    // SAFETY: 16 bytes of our own.
    unsafe {
        let from = within(task, &TASK_COMM) as *const c_void;
        helper::bpf_probe_read_kernel(name.as_mut_ptr().cast(), 16, from);
    }
    half(task, &TASK_TGID)
}

/// The last part of a path.
#[inline(always)]
pub(crate) fn named_entry(entry: u64, name: &mut [u8; UNIX_NAME_BYTES]) {
    let text = kernel_word(entry, &ENTRY_NAME);
    // SAFETY: at most as many bytes as we have, zero-terminated.
    unsafe {
        helper::bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), name.len() as u32, text as *const c_void);
    }
}

/// What of the gate's an inode is: `SEALED_*`.
#[inline(always)]
fn sealed(inode: u64) -> u32 {
    if inode == 0 {
        return 0;
    }
    let device = kernel_word(kernel_word(inode, &INODE_SUPER), &SUPER_DEVICE) & 0xffff_ffff;
    let key = InodeKey { device, inode: kernel_word(inode, &INODE_NUMBER) };
    // SAFETY: a map value the lookup just gave.
    SEALED.get_ptr(&key).map_or(0, |flags| unsafe { *flags })
}

/// Whether this process runs the gate's program.
#[inline(always)]
pub(crate) fn runs_the_gate(task: u64) -> bool {
    let file = kernel_word(kernel_word(task, &TASK_MM), &MM_EXE);
    sealed(kernel_word(file, &FILE_INODE)) & SEALED_PROGRAM != 0
}

/// Whether root runs now without a right to kernel programs: a container's, or a service's that was given few. The kernel asks for
/// none to open what is pinned by his user id, nor to detach it.
#[inline(always)]
pub(crate) fn is_root_with_few_rights() -> bool {
    /// CAP_SYS_ADMIN, CAP_BPF.
    const RIGHTS: u64 = 1 << 21 | 1 << 39;
    // SAFETY: both helpers only read the current task.
    let (uid, task) = unsafe { (helper::bpf_get_current_uid_gid() as u32, helper::bpf_get_current_task()) };
    uid == 0 && kernel_word(kernel_word(task, &TASK_EFFECTIVE), &CRED_RIGHTS) & RIGHTS == 0
}

/// Whether this is whoever runs now, by his process.
#[inline(always)]
pub(crate) fn is_current(task: u64) -> bool {
    half(task, &TASK_TGID) == look::current_tgid()
}

/// The directory entry of a `path`.
#[inline(always)]
pub(crate) fn entry_of(path: u64) -> u64 {
    kernel_word(path, &PATH_ENTRY)
}

/// The directory entry of an open file. On 6.1 what an overlay opens below itself has the overlay's: then one that
/// is its own.
#[inline(always)]
pub(crate) fn entry_of_file(file: u64) -> u64 {
    let (entry, inode) = (kernel_word(file, &FILE_ENTRY), kernel_word(file, &FILE_INODE));
    if kernel_word(entry, &ENTRY_INODE) == inode {
        return entry;
    }
    match kernel_word(inode, &INODE_ENTRIES) {
        0 => entry,
        alias => around(alias, &ENTRY_ALIAS),
    }
}

/// The process that this file of /proc is about; 0: none.
#[inline(always)]
pub(crate) fn task_behind(entry: u64) -> u64 {
    let inode = kernel_word(entry, &ENTRY_INODE);
    if magic(inode) != PROC {
        return 0;
    }
    match kernel_word(kernel_word(around(inode, &PROC_INODE), &PROC_PID), &PID_TASKS) {
        0 => 0,
        link => around(link, &TASK_LINKS),
    }
}

/// Whether a file was opened to be written, or is emptied by being opened.
#[inline(always)]
pub(crate) fn is_written(file: u64) -> bool {
    const WRITE: u32 = 2;
    /// `O_TRUNC`.
    const EMPTY: u32 = 0o1000;
    half(file, &FILE_MODE) & WRITE != 0 || half(file, &FILE_FLAGS) & EMPTY != 0
}

/// Whether writing this file stops the machine, or has the kernel start a program of the writer's choice.
#[inline(always)]
pub(crate) fn is_the_kernels_trigger(entry: u64) -> bool {
    const BYTES: usize = 14;
    let of = magic(kernel_word(entry, &ENTRY_INODE));
    if of != PROC && of != SYSFS {
        return of == PROGRAM_KINDS;
    }
    let mut name = [0u8; BYTES];
    let text = kernel_word(entry, &ENTRY_NAME);
    // SAFETY: at most as many bytes as we have.
    unsafe {
        helper::bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), BYTES as u32, text as *const c_void);
    }
    // Each with its zero, or cut: the helper ends every text with one.
    if of == PROC { name == *b"sysrq-trigger\0" } else { name == *b"uevent_helper\0" }
}

/// Whether this is the gate's, or on the way there: it keeps its name, and nothing is mounted over it.
#[inline(always)]
pub(crate) fn is_on_the_way(entry: u64) -> bool {
    sealed(kernel_word(entry, &ENTRY_INODE)) & SEALED_WAY != 0
}

/// Whether this is, or lies in, a directory with one of these flags (`SEALED_*`), or may do so unseen.
#[inline(always)]
pub(crate) fn is_inside(entry: u64, flags: u32) -> bool {
    let mut entry = entry;
    let mut depth = 0;
    while depth < DEPTH_MAX {
        if sealed(kernel_word(entry, &ENTRY_INODE)) & flags != 0 {
            return true;
        }
        let parent = kernel_word(entry, &ENTRY_PARENT);
        if parent == entry {
            return is_cut_off(entry);
        }
        entry = parent;
        depth += 1;
    }
    false
}

/// Whether an entry without a parent is none of its file system's root, and that file system has something of the gate's:
/// opened by its handle (open_by_handle_at(2)), where it lies is not known.
#[inline(always)]
fn is_cut_off(entry: u64) -> bool {
    let root = kernel_word(kernel_word(kernel_word(entry, &ENTRY_INODE), &INODE_SUPER), &SUPER_ROOT);
    root != entry && sealed(kernel_word(root, &ENTRY_INODE)) != 0
}

#[inline(always)]
fn magic(inode: u64) -> u64 {
    kernel_word(kernel_word(inode, &INODE_SUPER), &SUPER_MAGIC)
}

/// Whether this is a file of the cgroup v2 tree that belongs to no cgroup of this guard.
#[inline(always)]
pub(crate) fn is_foreign_cgroup(entry: u64, guard: u32) -> bool {
    let tree = magic(kernel_word(entry, &ENTRY_INODE));
    if tree != CGROUP2 {
        // Guards are of version 2: what the other one has is foreign to all.
        return tree == CGROUP1;
    }
    let mut entry = entry;
    let mut depth = 0;
    while depth < GUARD_LEVELS_MAX {
        let parent = kernel_word(entry, &ENTRY_PARENT);
        if parent == entry {
            return true;
        }
        entry = parent;
        // A cgroup's id is its directory's inode.
        if let Some(found) =
            GUARD_CGROUPS.get_ptr(&kernel_word(kernel_word(entry, &ENTRY_INODE), &INODE_NUMBER))
        {
            // SAFETY: a map value the lookup just gave.
            return unsafe { *found } != guard;
        }
        depth += 1;
    }
    true
}

/// The mount that a mount is at a place of. Both as the kernel hands them out: a structure inside of another one.
#[inline(always)]
fn above(mount: u64) -> u64 {
    // SAFETY: read-only data, patched before load, hence volatile.
    let back = u64::from(unsafe { ptr::read_volatile(&raw const MOUNT_PARENT_BACK) });
    within(kernel_word_at(mount.wrapping_sub(back)), &MOUNT_INNER)
}

/// Whether what happens to this mount happens in other namespaces, too.
#[inline(always)]
fn is_shared(mount: u64) -> bool {
    // SAFETY: read-only data, patched before load, hence volatile.
    let bit = unsafe { ptr::read_volatile(&raw const MOUNT_SHARED) };
    half(mount, &MOUNT_SHARED_AT) & bit != 0
}

/// Whether whoever runs now is in the host's mount namespace, or it is not known which that is.
#[inline(always)]
pub(crate) fn is_at_home() -> bool {
    if SEALED.get_ptr(&InodeKey { device: HOME, inode: 0 }).is_none() {
        return true;
    }
    // SAFETY: reads the current task.
    let task = unsafe { helper::bpf_get_current_task() };
    let space = kernel_word(kernel_word(task, &TASK_SPACES), &SPACES_MOUNTS);
    let key = InodeKey { device: HOME, inode: u64::from(half(space, &MOUNTS_NUMBER)) };
    SEALED.get_ptr(&key).is_some()
}

/// Whether something mounted here would hide what is the gate's from the host.
#[inline(always)]
pub(crate) fn hides(path: u64) -> bool {
    let entry = entry_of(path);
    (is_on_the_way(entry) || is_inside(entry, SEALED_INSIDE | SEALED_PROGRAM))
        && (is_shared(kernel_word(path, &PATH_MOUNT)) || is_at_home())
}

/// The mount of a `path`.
#[inline(always)]
pub(crate) fn mount_of(path: u64) -> u64 {
    kernel_word(path, &PATH_MOUNT)
}

/// Whether the host would lose what is the gate's with this mount. What spreads is an unmount at a place of the mount above.
#[inline(always)]
pub(crate) fn holds(mount: u64) -> bool {
    let inode = kernel_word(kernel_word(mount, &MOUNT_ROOT), &ENTRY_INODE);
    if magic(inode) == BPFFS || magic(inode) == CGROUP2 {
        return true;
    }
    sealed(inode) != 0 && (is_shared(above(mount)) || is_at_home())
}

/// Whether this file system has what is the gate's at its root: remounted, it is so for everybody.
#[inline(always)]
pub(crate) fn is_of_the_gate(system: u64) -> bool {
    let inode = kernel_word(kernel_word(system, &SUPER_ROOT), &ENTRY_INODE);
    magic(inode) == BPFFS || magic(inode) == CGROUP2 || sealed(inode) != 0
}

/// The file system of a directory entry.
#[inline(always)]
pub(crate) fn system_of(entry: u64) -> u64 {
    kernel_word(kernel_word(entry, &ENTRY_INODE), &INODE_SUPER)
}
