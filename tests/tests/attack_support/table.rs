//! Outcomes, and the table of them in the threat model: written by one run, held to by all others.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tidegate_attack::WAYS;

use super::who::WHO;

const BEGIN: &str = "<!-- attacks: begin -->";
const END: &str = "<!-- attacks: end -->";

/// By row and column.
pub type Sheet = BTreeMap<String, BTreeMap<&'static str, Found>>;

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The destination has it, or the attacker has what only the gate has.
    Reached,
    /// The gate has it, and knows who it was.
    Intercepted,
    /// The gate has it, as the call of the process outside that made it.
    InterceptedAsAnother,
    /// Error number.
    Refused(i32),
    /// Nobody refused, and nothing came.
    Nothing,
    /// The attacker may not even without a gate.
    NoRight,
    /// This kernel has no such thing.
    NotThere,
    /// It is about the host, and the attacker is elsewhere.
    Elsewhere,
}

impl Found {
    fn word(self) -> &'static str {
        match self {
            Self::Reached => "**open**",
            Self::Intercepted => "gate",
            Self::InterceptedAsAnother => "gate (as the helper)",
            Self::Refused(_) => "refused",
            Self::Nothing => "nothing came",
            Self::NoRight => "no right",
            Self::NotThere => "not there",
            Self::Elsewhere => "-",
        }
    }
}

/// The row of a way; one whose socket is older than the gate has its own.
pub fn row(way: &str, older: bool) -> String {
    if older { format!("{way}, older socket") } else { way.to_owned() }
}

fn rows() -> impl Iterator<Item = (String, &'static str)> {
    WAYS.iter().flat_map(|way| {
        let own = (row(way.name, false), way.about);
        std::iter::once(own)
            .chain(way.ages.then(|| (row(way.name, true), "made before the load, used after it")))
    })
}

/// One line of JSON per cell.
pub fn json(sheet: &Sheet) -> String {
    let cells = sheet.iter().flat_map(|(row, cells)| cells.iter().map(move |(who, found)| (row, who, found)));
    cells
        .map(|(row, who, found)| {
            let errno = if let Found::Refused(number) = found { *number } else { 0 };
            let line = serde_json::json!({ "way": row, "who": who, "found": found.word().trim_matches('*'), "errno": errno });
            format!("{line}\n")
        })
        .collect()
}

fn path() -> PathBuf {
    tidegate_tests::workspace().join("docs/THREAT_MODEL.md")
}

fn document() -> (String, String, String) {
    let text = fs::read_to_string(path()).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the threat model marks where the table begins");
    let (table, after) = rest.split_once(END).expect("and where it ends");
    (before.to_owned(), table.to_owned(), after.to_owned())
}

/// Puts what was found into the threat model.
pub fn write(sheet: &Sheet) {
    let (before, _, after) = document();
    let mut table = String::new();
    WHO.iter().for_each(|who| table.push_str(&format!("- **{}**: {}\n", who.name, who.about)));
    table.push_str("\n| way |");
    WHO.iter().for_each(|who| table.push_str(&format!(" {} |", who.name)));
    table.push_str("\n|---|");
    WHO.iter().for_each(|_| table.push_str("---|"));
    table.push('\n');
    for (row, about) in rows() {
        table.push_str(&format!("| `{row}`: {about} |"));
        for who in WHO {
            let found = sheet.get(&row).and_then(|cells| cells.get(who.name));
            table.push_str(&format!(" {} |", found.map_or("", |found| found.word())));
        }
        table.push('\n');
    }
    fs::write(path(), format!("{before}{BEGIN}\n\n{table}\n{END}{after}")).unwrap();
}

/// What is open and not named as open. What is named as open and is not any more is said, and no fault: kernels differ.
pub fn not_allowed(sheet: &Sheet) -> Vec<String> {
    let (_, table, _) = document();
    let mut faults = Vec::new();
    for (row, cells) in sheet {
        let start = format!("| `{row}`:");
        let allowed: Vec<&str> = table
            .lines()
            .find(|line| line.starts_with(&start))
            .unwrap_or("")
            .split('|')
            .map(str::trim)
            .collect();
        for (who, found) in cells {
            let column = WHO.iter().position(|known| known.name == *who).unwrap() + 2;
            let is_allowed = allowed.get(column) == Some(&"**open**");
            match (*found == Found::Reached, is_allowed) {
                (true, false) => faults.push(format!("`{row}` is open to {who}")),
                (false, true) => println!("`{row}` is not open to {who}: {found:?}"),
                _ => {}
            }
        }
    }
    faults
}
