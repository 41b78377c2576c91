//! Whom the enforcer runs as. Refuses root: there would be nothing to gain.

use std::fs;
use std::path::Path;
use std::str::FromStr;

/// An account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id; never 0.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
}

/// There is no such account.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} {why}")]
pub struct NoUser {
    name: String,
    why: &'static str,
}

impl FromStr for User {
    type Err = NoUser;

    /// A name in `/etc/passwd`, or a number (then the group is its own, or the same number).
    fn from_str(name: &str) -> Result<Self, NoUser> {
        let accounts = fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
        let failed = |why| NoUser { name: name.to_owned(), why };
        let user = find(&accounts, name).ok_or_else(|| {
            failed("is no user of this host: `useradd --system --no-create-home NAME` makes one")
        })?;
        match user.uid {
            0 => Err(failed("is root: the enforcer is to run without privilege")),
            _ => Ok(user),
        }
    }
}

fn find(accounts: &str, name: &str) -> Option<User> {
    let number = name.parse::<u32>().ok();
    let known = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (account, uid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        let gid = fields.next()?.parse().ok()?;
        (account == name || number == Some(uid)).then_some(User { uid, gid })
    });
    known.or_else(|| number.map(|uid| User { uid, gid: uid }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str =
        "root:x:0:0:root:/root:/bin/bash\ntidegate:x:998:997::/:/usr/sbin/nologin\nbroken:x\n";

    #[test]
    fn an_account_is_found_by_name_or_number() {
        assert_eq!(find(ACCOUNTS, "tidegate"), Some(User { uid: 998, gid: 997 }));
        assert_eq!(find(ACCOUNTS, "998"), Some(User { uid: 998, gid: 997 }));
        assert_eq!(find(ACCOUNTS, "4711"), Some(User { uid: 4711, gid: 4711 }));
        assert_eq!(find(ACCOUNTS, "broken"), None);
        assert_eq!(find(ACCOUNTS, "nobody-here"), None);
    }

    #[test]
    fn root_is_refused() {
        assert!("0".parse::<User>().unwrap_err().to_string().contains("root"));
        assert!("root".parse::<User>().is_err());
    }
}
