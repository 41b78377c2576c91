//! Where the running kernel keeps the fields the programs read: byte offsets from its own type information (BTF).
//!
//! Refuses a kernel without BTF or without one of the fields it must have, by name: a guessed offset would be a wrong
//! identity.

use std::path::Path;

use super::KernelError;

/// Where the kernel shows its types.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The programs' globals, with the structure and field each stands for.
const WANTED: &[(&str, &str, &str)] = &[
    ("TASK_LEADER", "task_struct", "group_leader"),
    ("TASK_COMM", "task_struct", "comm"),
    ("TASK_CRED", "task_struct", "real_cred"),
    ("CRED_UID", "cred", "uid"),
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_START", "task_struct", "start_boottime"),
    ("TASK_MM", "task_struct", "mm"),
    ("MM_EXE", "mm_struct", "exe_file"),
    ("FILE_INODE", "file", "f_inode"),
    ("INODE_NUMBER", "inode", "i_ino"),
    ("INODE_SUPER", "inode", "i_sb"),
    ("SUPER_DEVICE", "super_block", "s_dev"),
    ("SOCK_FLAGS", "sock_common", "skc_flags"),
    ("SOCK_PORT", "sock_common", "skc_num"),
    ("TCP_COPIED", "tcp_sock", "copied_seq"),
    ("TCP_NEXT", "tcp_sock", "rcv_nxt"),
    ("TCP_RECEIVED", "tcp_sock", "bytes_received"),
    ("TCP_WRITTEN", "tcp_sock", "write_seq"),
    ("TCP_UNACKED", "tcp_sock", "snd_una"),
    ("TCP_ACKED", "tcp_sock", "bytes_acked"),
];

/// Those that a kernel may lack (logins come with CONFIG_AUDIT): their offset is then 0, where no such field can stand.
const OPTIONAL: &[(&str, &str, &str)] = &[("TASK_LOGIN", "task_struct", "loginuid")];

/// Those that the programs at LSM hooks read, which a kernel may do without.
const OUTSIDE: &[(&str, &[(&str, &str)])] = &[
    ("TASK_CGROUPS", &[("task_struct", "cgroups")]),
    ("SET_CGROUP", &[("css_set", "dfl_cgrp")]),
    ("CGROUP_LEVEL", &[("cgroup", "level")]),
    ("CGROUP_ANCESTORS", &[("cgroup", "ancestors")]),
    ("CGROUP_NODE", &[("cgroup", "kn")]),
    ("NODE_ID", &[("kernfs_node", "id")]),
    ("SOCK_CGROUP", &[("sock", "sk_cgrp_data"), ("sock_cgroup_data", "cgroup")]),
    ("SOCK_UID", &[("sock", "sk_uid")]),
    ("SOCK_FAMILY", &[("sock_common", "skc_family")]),
    ("SOCKET_SOCK", &[("socket", "sk")]),
    ("UNIX_ADDRESS", &[("unix_sock", "addr")]),
    ("ADDRESS_LENGTH", &[("unix_address", "len")]),
    ("ADDRESS_NAME", &[("unix_address", "name")]),
    ("FILE_MODE", &[("file", "f_mode")]),
    ("FILE_ENTRY", &[("file", "f_path"), ("path", "dentry")]),
    ("FILE_DATA", &[("file", "private_data")]),
    ("PATH_MOUNT", &[("path", "mnt")]),
    ("PATH_ENTRY", &[("path", "dentry")]),
    ("ENTRY_PARENT", &[("dentry", "d_parent")]),
    ("ENTRY_INODE", &[("dentry", "d_inode")]),
    ("ENTRY_NAME", &[("dentry", "d_name"), ("qstr", "name")]),
    ("INODE_MODE", &[("inode", "i_mode")]),
    ("SUPER_MAGIC", &[("super_block", "s_magic")]),
    ("MOUNT_ROOT", &[("vfsmount", "mnt_root")]),
    ("SUPER_ROOT", &[("super_block", "s_root")]),
    ("FILE_FLAGS", &[("file", "f_flags")]),
    ("TASK_EFFECTIVE", &[("task_struct", "cred")]),
    ("CRED_RIGHTS", &[("cred", "cap_effective")]),
    ("TASK_SPACES", &[("task_struct", "nsproxy")]),
    ("SPACES_MOUNTS", &[("nsproxy", "mnt_ns")]),
    ("MOUNTS_NUMBER", &[("mnt_namespace", "ns"), ("ns_common", "inum")]),
    ("INODE_DEVICE", &[("inode", "i_rdev")]),
    ("INODE_ENTRIES", &[("inode", "i_dentry")]),
    // A union of which the name among an inode's is one.
    ("ENTRY_ALIAS", &[("dentry", "d_u")]),
    ("PROC_INODE", &[("proc_inode", "vfs_inode")]),
    ("PROC_PID", &[("proc_inode", "pid")]),
    ("PID_TASKS", &[("pid", "tasks")]),
    ("TASK_LINKS", &[("task_struct", "pid_links")]),
];

/// Byte offsets of those, by the name of the global they are patched into; or the field that this kernel lacks.
pub(super) fn outside() -> Result<Vec<(&'static str, u32)>, KernelError> {
    let bytes = read()?;
    let types = parse(&bytes)?;
    let offset = |way: &[(&str, &str)]| {
        way.iter().try_fold(0, |sum, (structure, field)| {
            let offset = types.offset(structure, field).ok_or_else(|| no_field(structure, field))?;
            Ok(sum + offset)
        })
    };
    let mut found: Vec<(&str, u32)> = OUTSIDE
        .iter()
        .map(|(global, way)| Ok((*global, offset(way)?)))
        .collect::<Result<_, KernelError>>()?;
    found.extend(mounts(&types)?);
    Ok(found)
}

/// A mount's mount above it and whether it is shared, from where its `vfsmount` stands inside of it. Which propagation it has moved
/// from the flags of the one to the other.
fn mounts(types: &Types<'_>) -> Result<[(&'static str, u32); 4], KernelError> {
    /// `MNT_SHARED`, until it moved.
    const SHARED_OF_VFSMOUNT: u32 = 0x1000;
    /// `T_SHARED`.
    const SHARED_OF_MOUNT: u32 = 1;
    let offset = |structure, field| types.offset(structure, field).ok_or_else(|| no_field(structure, field));
    let inner = offset("mount", "mnt")?;
    let (at, bit) = match types.offset("mount", "mnt_t_flags") {
        Some(at) => (at.checked_sub(inner).ok_or_else(|| no_field("mount", "mnt_t_flags"))?, SHARED_OF_MOUNT),
        None => (offset("vfsmount", "mnt_flags")?, SHARED_OF_VFSMOUNT),
    };
    let above = offset("mount", "mnt_parent")?;
    let back = inner.checked_sub(above).ok_or_else(|| no_field("mount", "mnt_parent"))?;
    Ok([("MOUNT_SHARED_AT", at), ("MOUNT_SHARED", bit), ("MOUNT_PARENT_BACK", back), ("MOUNT_INNER", inner)])
}

fn read() -> Result<Vec<u8>, KernelError> {
    std::fs::read(Path::new(VMLINUX))
        .map_err(|source| KernelError::NoBtf { why: format!("{VMLINUX}: {source}") })
}

fn parse(bytes: &[u8]) -> Result<Types<'_>, KernelError> {
    Types::parse(bytes).ok_or_else(|| KernelError::NoBtf { why: format!("{VMLINUX} is not BTF") })
}

fn no_field(structure: &str, field: &str) -> KernelError {
    KernelError::NoBtf { why: format!("this kernel's {structure} has no field {field}") }
}

/// Byte offsets by the name of the global they are patched into.
pub(super) fn offsets() -> Result<Vec<(&'static str, u32)>, KernelError> {
    let bytes = read()?;
    let types = parse(&bytes)?;
    let optional = OPTIONAL
        .iter()
        .map(|(global, structure, field)| Ok((*global, types.offset(structure, field).unwrap_or_default())));
    WANTED
        .iter()
        .map(|(global, structure, field)| {
            let offset = types.offset(structure, field).ok_or_else(|| no_field(structure, field))?;
            Ok((*global, offset))
        })
        .chain(optional)
        .collect()
}

/// Kinds of BTF types, by number, that matter here.
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Structures inside structures that are followed. Kernel structures nest two deep.
const NESTED_MAX: usize = 4;

/// BTF, read as far as structures and their members need it.
struct Types<'a> {
    strings: &'a [u8],
    /// Offset of each type in `types`, by id; id 0 is void.
    at: Vec<usize>,
    types: &'a [u8],
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..2)? != [0x9f, 0xeb] {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let (types_at, types_length) = (word(bytes, 8)? as usize, word(bytes, 12)? as usize);
        let (strings_at, strings_length) = (word(bytes, 16)? as usize, word(bytes, 20)? as usize);
        let body = bytes.get(header..)?;
        let types = body.get(types_at..types_at.checked_add(types_length)?)?;
        let strings = body.get(strings_at..strings_at.checked_add(strings_length)?)?;
        let mut at = vec![0];
        let mut next = 0;
        while next < types.len() {
            at.push(next);
            next += 12 + tail(word(types, next + 4)?)?;
        }
        Some(Self { strings, at, types })
    }

    /// Byte offset of a field, also inside anonymous members.
    fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        (1..self.at.len())
            .filter(|id| self.kind(*id).is_some_and(|kind| kind == STRUCT))
            .filter(|id| self.name(self.at[*id]) == Some(structure.as_bytes()))
            .find_map(|id| self.member(id, field, NESTED_MAX))
    }

    fn kind(&self, id: usize) -> Option<u32> {
        Some((word(self.types, self.at.get(id)? + 4)? >> 24) & 0x1f)
    }

    fn member(&self, id: usize, field: &str, depth: usize) -> Option<u32> {
        let at = *self.at.get(id)?;
        let about = word(self.types, at + 4)?;
        let depth = depth.checked_sub(1)?;
        (0..(about & 0xffff) as usize).find_map(|index| {
            let member = at + 12 + index * 12;
            let bits = word(self.types, member + 8)?;
            // With the flag, the upper 8 bits are the width of a bit field.
            let bytes = (if about >> 31 == 1 { bits & 0x00ff_ffff } else { bits }) / 8;
            let name = self.name(member)?;
            if name == field.as_bytes() {
                return Some(bytes);
            }
            let inner = word(self.types, member + 4)? as usize;
            if !name.is_empty() || !matches!(self.kind(inner)?, STRUCT | UNION) {
                return None;
            }
            Some(bytes + self.member(inner, field, depth)?)
        })
    }

    /// The string whose offset stands at `at`.
    fn name(&self, at: usize) -> Option<&'a [u8]> {
        let text = self.strings.get(word(self.types, at)? as usize..)?;
        text.split(|byte| *byte == 0).next()
    }
}

/// Bytes that follow the 12 of a type of this kind and count.
fn tail(about: u32) -> Option<usize> {
    let count = (about & 0xffff) as usize;
    Some(match (about >> 24) & 0x1f {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        4 | 5 | 15 | 19 => count * 12,
        6 | 13 => count * 8,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One structure `s { int a; struct { int b; }; }`, by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([0, 1 << 24, 4, 32]); // 1: int
        types.extend([0, (4 << 24) | 1, 4, 5, 1, 0]); // 2: anonymous { b at 0 }
        types.extend([1, (4 << 24) | 2, 8, 3, 1, 0, 0, 2, 32]); // 3: s { a at 0, anonymous at 4 }
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types.len(), types.len(), strings.len()] {
            bytes.extend((word as u32).to_le_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_field_is_found_also_inside_an_anonymous_member() {
        let bytes = sample();
        let types = Types::parse(&bytes).unwrap();
        assert_eq!(types.offset("s", "a"), Some(0));
        assert_eq!(types.offset("s", "b"), Some(4));
    }

    #[test]
    fn what_is_not_there_is_not_guessed() {
        let bytes = sample();
        let types = Types::parse(&bytes).unwrap();
        assert_eq!(types.offset("s", "c"), None);
        assert_eq!(types.offset("t", "a"), None);
    }

    #[test]
    fn cut_or_foreign_bytes_are_refused_without_a_panic() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            let _ = Types::parse(&bytes[..cut]).and_then(|types| types.offset("s", "b"));
        }
        assert!(Types::parse(b"\x7fELF............................").is_none());
    }
}
