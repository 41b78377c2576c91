//! Names of this host's accounts, for people who read the record. Decides nothing by a name.

use std::fs::File;
use std::io::Read as _;

/// Bytes of `/etc/passwd` that are read: thousands of accounts.
const PASSWD_BYTES_MAX: u64 = 1024 * 1024;

/// The name of the local account with this uid, where there is one.
#[must_use]
pub fn account_name(uid: u32) -> Option<String> {
    let mut text = Vec::new();
    File::open("/etc/passwd").ok()?.take(PASSWD_BYTES_MAX).read_to_end(&mut text).ok()?;
    name_in(&String::from_utf8_lossy(&text), uid)
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_uid_and_nothing_else() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:7::\nada:x:1001:1001::/:/bin/sh\n";
        assert_eq!(name_in(passwd, 1001).as_deref(), Some("ada"));
        assert_eq!(name_in(passwd, 0).as_deref(), Some("root"));
        assert_eq!((name_in(passwd, 7), name_in(passwd, 5)), (None, None));
    }
}
