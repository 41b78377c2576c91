//! `tidegate credential`: what lies in the vault. Takes a credential on standard input, so that it stands in no command line,
//! and shows none.

use std::io::{self, IsTerminal, Read};
use std::time::UNIX_EPOCH;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde::Serialize;
use zeroize::Zeroizing;

use super::output::{escape_line, time};
use super::{Context, Failure};
use crate::credential::Vault;
use crate::kernel::{Check, Found};
use crate::limits::CREDENTIAL_BYTES_MAX;
use crate::policy;

/// Set, list and remove the credentials that the gate puts into requests.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is set counts from the next operation on; nothing is restarted. Which target gets it says `[[credential]]` in a policy file.

Examples:
  sudo tidegate credential set crm < token.txt
  sudo tidegate credential list")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put a credential into the vault, in the place of the one of this name. Reads it from standard input: one line.
    #[command(after_help = "\
Example:
  systemd-ask-password | sudo tidegate credential set crm")]
    Set {
        /// The name of the `[[credential]]`.
        name: String,
    },
    /// List the credentials by name: when each was set, and which targets get it.
    #[command(
        after_help = "Exit code 1: a policy file declares one that the vault does not hold.\n\nExample:\n  sudo tidegate credential list"
    )]
    List,
    /// Remove a credential: operations that need it are refused from now on.
    #[command(after_help = "Example:\n  sudo tidegate credential remove crm")]
    Remove {
        /// Its name.
        name: String,
    },
}

/// Bytes of a line of a terminal, its end with it.
const TERMINAL_LINE_BYTES_MAX: usize = 4095;

/// Runs the command.
pub(super) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let vault = Vault::of(&context.settings);
    match args.command {
        Command::Set { name } => {
            let secret = read().map_err(|error| Failure::cannot(format!("standard input: {error}")))?;
            vault.set(&name, secret).map_err(|error| Failure::from_error(&error))?;
            context.out.line(format!("{} is set", escape_line(&name)))
        }
        Command::List => list(&vault, context),
        Command::Remove { name } => {
            vault.remove(&name).map_err(|error| Failure::from_error(&error))?;
            context.out.line(format!("{} is removed", escape_line(&name)))
        }
    }
}

/// One line of standard input, unseen where a terminal would show it.
fn read() -> io::Result<Zeroizing<Vec<u8>>> {
    let _unseen = Unseen::begin()?;
    // One more than fits, so that what is too long is seen to be.
    let mut text = Zeroizing::new(Vec::with_capacity(CREDENTIAL_BYTES_MAX + 3));
    let room = CREDENTIAL_BYTES_MAX as u64 + 3;
    let mut stdin = io::stdin().lock().take(room);
    if io::stdin().is_terminal() {
        eprint!("credential: ");
        io::BufRead::read_until(&mut io::BufReader::with_capacity(1, stdin), b'\n', &mut text)?;
        eprintln!();
        // Where a line is longer, the terminal passes on a part of it (termios(3), "Canonical and noncanonical mode").
        if text.len() >= TERMINAL_LINE_BYTES_MAX {
            return Err(io::Error::other("a terminal cuts such a long line off: give it from a file"));
        }
    } else {
        stdin.read_to_end(&mut text)?;
    }
    let length =
        text.strip_suffix(b"\n").map_or(text.len(), |line| line.strip_suffix(b"\r").unwrap_or(line).len());
    text.truncate(length);
    Ok(text)
}

/// The terminal shows nothing of what is typed, until dropped.
struct Unseen(Option<rustix::termios::Termios>);

impl Unseen {
    fn begin() -> io::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(io::stdin())?;
        let mut unseen = before.clone();
        // Ctrl-C is read as a part of the line, which is refused then: the terminal is as before in any case.
        unseen.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone shows nothing either.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

/// Whether the vault holds all that the policy gives to targets; `None` where it gives nothing.
pub(super) fn check(context: &Context) -> Option<Check> {
    let set = policy::read(&context.settings.policies).ok().filter(|set| !set.credentials().is_empty())?;
    let check = |found, seen: String, means: String| {
        Some(Check { name: "credentials in the vault", found, seen, means })
    };
    let kept = match Vault::of(&context.settings).list() {
        Ok(kept) => kept,
        Err(error) => return check(Found::Unknown, error.to_string(), "run as root to find out".to_owned()),
    };
    let is_kept = |name: &str| kept.iter().any(|kept| kept.name == name);
    let missing = set.credentials().iter().map(|credential| credential.name.as_str());
    let missing: Vec<&str> = missing.filter(|name| !is_kept(name)).collect();
    match missing.as_slice() {
        [] => check(Found::Ok, format!("{} of {0}", set.credentials().len()), String::new()),
        [first, ..] => check(
            Found::Reduced,
            format!("missing: {}", missing.join(", ")),
            format!("their targets are refused: `tidegate credential set {first}`"),
        ),
    }
}

/// One credential, as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// When it was set, in microseconds since the epoch; absent where the vault does not hold it.
    set: Option<i64>,
    /// The targets that get it; absent where the policy files cannot be read.
    targets: Option<Vec<String>>,
}

fn list(vault: &Vault, context: &Context) -> Result<(), Failure> {
    let set = policy::read(&context.settings.policies).ok();
    if set.is_none() {
        context.out.note("the policy files cannot be read, so which targets get what is not known: `tidegate policy check`");
    }
    let declared = |name: &str| {
        let set = set.as_ref()?;
        Some(
            set.credentials()
                .iter()
                .filter(|one| one.name == name)
                .flat_map(|one| one.targets.clone())
                .collect(),
        )
    };
    let kept = vault.list().map_err(|error| Failure::from_error(&error))?;
    let mut listed: Vec<Listed> = kept
        .into_iter()
        .map(|kept| Listed {
            set: kept.set.duration_since(UNIX_EPOCH).ok().and_then(|set| i64::try_from(set.as_micros()).ok()),
            targets: declared(&kept.name),
            name: kept.name,
        })
        .collect();
    for missing in set.iter().flat_map(|set| set.credentials()) {
        if listed.iter().all(|known| known.name != missing.name) {
            let targets = Some(missing.targets.clone());
            listed.push(Listed { name: missing.name.clone(), set: None, targets });
        }
    }
    let is_whole = listed.iter().all(|one| one.set.is_some());
    if context.out.is_json() {
        context.out.json(&listed)?;
    } else if listed.is_empty() {
        context.out.note("the vault is empty, and the policy names no credential ([[credential]])");
    } else {
        let rows = listed.iter().map(|one| {
            let set = one.set.map_or_else(|| "missing".to_owned(), time);
            let targets = match &one.targets {
                None => "?".to_owned(),
                Some(targets) if targets.is_empty() => "none".to_owned(),
                Some(targets) => targets.join(", "),
            };
            vec![one.name.clone(), set, targets]
        });
        context.out.table(&["credential", "set", "targets"], rows.collect())?;
    }
    if is_whole { Ok(()) } else { Err(Failure::No) }
}
