//! Whom enforcer, recorder and admin run as. Refuses root: there would be nothing to gain.

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

/// Which of the gate's processes beside the enforcer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// The one that writes the record.
    Recorder,
    /// The one that talks to operators.
    Admin,
}

impl User {
    /// Whom one of the others runs as, beside an enforcer by this name, where nobody says: NAME-record and NAME-admin, and for a number the
    /// next one and the one after it, if that is no account of the host.
    ///
    /// # Errors
    /// There is no such account.
    pub fn beside(name: &str, which: Beside) -> Result<Self, NoUser> {
        let accounts = fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
        beside(&accounts, name, which)
    }
}

fn beside(accounts: &str, name: &str, which: Beside) -> Result<User, NoUser> {
    let (role, step, why) = match which {
        Beside::Recorder => (
            "record",
            1,
            "is no user of this host: name another one with --record-user, or `useradd --system --no-create-home` makes it",
        ),
        Beside::Admin => (
            "admin",
            2,
            "is no user of this host: name another one with --admin-user, or `useradd --system --no-create-home` makes it",
        ),
    };
    let own = format!("{name}-{role}");
    let next = name.parse::<u32>().ok().and_then(|uid| uid.checked_add(step));
    let next = next
        .filter(|uid| !accounts.lines().any(|line| line.split(':').nth(2) == Some(uid.to_string().as_str())));
    find(accounts, &own).or_else(|| next.map(|uid| User { uid, gid: uid })).ok_or(NoUser { name: own, why })
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
    fn recorder_and_admin_are_somebody_else_whom_nobody_is() {
        let (recorder, admin) = (Beside::Recorder, Beside::Admin);
        let accounts = format!(
            "{ACCOUNTS}tidegate-record:x:996:996::/:/usr/sbin/nologin\ntidegate-admin:x:995:994::/:/usr/sbin/nologin\n"
        );
        assert_eq!(beside(&accounts, "tidegate", recorder).unwrap(), User { uid: 996, gid: 996 });
        assert_eq!(beside(&accounts, "tidegate", admin).unwrap(), User { uid: 995, gid: 994 });
        assert_eq!(beside(&accounts, "61000", recorder).unwrap(), User { uid: 61_001, gid: 61_001 });
        assert_eq!(beside(&accounts, "61000", admin).unwrap(), User { uid: 61_002, gid: 61_002 });
        assert!(beside(&accounts, "997", recorder).is_err(), "998 is an account");
        assert!(beside(&accounts, "996", admin).is_err(), "998 is an account");
        assert!(beside(ACCOUNTS, "tidegate", recorder).unwrap_err().to_string().contains("--record-user"));
        assert!(beside(ACCOUNTS, "tidegate", admin).unwrap_err().to_string().contains("--admin-user"));
    }

    #[test]
    fn root_is_refused() {
        assert!("0".parse::<User>().unwrap_err().to_string().contains("root"));
        assert!("root".parse::<User>().is_err());
    }
}
