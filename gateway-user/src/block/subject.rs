//! What may be blocked, and whether an asking is it. Refuses names that nothing could ever have: a block that blocks
//! nobody is worse than none.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::BLOCK_SUBJECT_BYTES_MAX;
use crate::operation::{User, Workload};

/// Digits of the shortest container id that may be named, as in guards.
const CONTAINER_DIGITS_MIN: usize = 12;
/// Digits of a whole container id.
const CONTAINER_DIGITS: usize = 64;

/// Whom or what a block is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// A proven user: provider and subject.
    User(String, String),
    /// The processes of a systemd unit, or of all units in a slice.
    Unit(String),
    /// The processes of a container, by its id or the beginning of it.
    Container(String),
    /// The processes of a user of this host.
    Uid(u32),
    /// A target, whoever asks.
    Target(String),
}

/// Why a text names nothing that can be blocked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{why}; write user:PROVIDER/SUBJECT, unit:NAME.service (or .scope, .slice), container:ID, uid:N or target:NAME"
)]
pub struct Misnamed {
    why: String,
}

fn misnamed<T>(why: impl Into<String>) -> Result<T, Misnamed> {
    Err(Misnamed { why: why.into() })
}

impl FromStr for Subject {
    type Err = Misnamed;

    fn from_str(text: &str) -> Result<Self, Misnamed> {
        if text.len() > BLOCK_SUBJECT_BYTES_MAX {
            return misnamed(format!("a name of more than {BLOCK_SUBJECT_BYTES_MAX} bytes names nobody"));
        }
        if text.chars().any(|c| c.is_control()) {
            return misnamed("there is a control character in it");
        }
        let Some((kind, name)) = text.split_once(':') else {
            return misnamed(format!("{text:?} does not say what it names"));
        };
        match kind {
            "user" => match name.split_once('/') {
                Some((provider, subject)) if !provider.is_empty() && !subject.is_empty() => {
                    Ok(Self::User(provider.to_owned(), subject.to_owned()))
                }
                _ => misnamed(format!("{name:?} does not say which identity provider vouches for the user")),
            },
            "unit" => unit(name),
            "container" => {
                let digits = name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                match digits && (CONTAINER_DIGITS_MIN..=CONTAINER_DIGITS).contains(&name.len()) {
                    true => Ok(Self::Container(name.to_owned())),
                    false => misnamed(format!(
                        "{name:?} is no container id: {CONTAINER_DIGITS_MIN} to {CONTAINER_DIGITS} of 0-9 and a-f"
                    )),
                }
            }
            "uid" => match name.parse::<u32>() {
                // One spelling for one user, so that it is found again to be lifted.
                Ok(uid) if uid.to_string() == name => Ok(Self::Uid(uid)),
                _ => misnamed(format!("{name:?} is no user id")),
            },
            "target" if !name.is_empty() => Ok(Self::Target(name.to_owned())),
            _ => misnamed(format!("{text:?} names nothing that can be blocked")),
        }
    }
}

fn unit(name: &str) -> Result<Subject, Misnamed> {
    let ends = [".service", ".scope", ".slice"];
    let is_unit = ends.iter().any(|end| name.len() > end.len() && name.ends_with(end));
    match is_unit && !name.contains('/') {
        true => Ok(Subject::Unit(name.to_owned())),
        false => misnamed(format!("{name:?} is no unit: processes are in services, scopes and slices")),
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(provider, subject) => write!(f, "user:{provider}/{subject}"),
            Self::Unit(name) => write!(f, "unit:{name}"),
            Self::Container(id) => write!(f, "container:{id}"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Target(name) => write!(f, "target:{name}"),
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = Misnamed;

    fn try_from(text: String) -> Result<Self, Misnamed> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.to_string()
    }
}

/// Who asks for what, as far as blocks look at it. What is not established is not met by a block of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asking<'a> {
    /// The proven user.
    pub user: Option<&'a User>,
    /// The process.
    pub workload: Option<&'a Workload>,
    /// The target.
    pub target: Option<&'a str>,
}

impl Asking<'_> {
    /// What of a table this asking is and `counts`, the first in the order target, user, process.
    pub(super) fn find<'t, T>(
        &self,
        table: &'t HashMap<Subject, T>,
        counts: impl Fn(&T) -> bool,
    ) -> Option<&'t T> {
        let get = |subject: Subject| table.get(&subject).filter(|found| counts(found));
        let target = self.target.map(|target| Subject::Target(target.to_owned()));
        let user = self.user.map(|user| Subject::User(user.provider.clone(), user.subject.clone()));
        let named = target.into_iter().chain(user).find_map(get);
        let Some(workload) = self.workload else { return named };
        let units = || workload.units().map(|unit| Subject::Unit(unit.to_owned()));
        let held = || units().chain([Subject::Uid(workload.uid)]).find_map(get);
        named.or_else(held).or_else(|| in_container(workload.container.as_deref()?, table, &counts))
    }
}

fn in_container<'t, T>(
    id: &str,
    table: &'t HashMap<Subject, T>,
    counts: &impl Fn(&T) -> bool,
) -> Option<&'t T> {
    let is = |subject: &Subject| matches!(subject, Subject::Container(begin) if id.starts_with(begin));
    table.iter().find(|(subject, found)| is(subject) && counts(found)).map(|(_, found)| found)
}
