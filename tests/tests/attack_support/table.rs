//! Outcomes, and the table of them in the threat model: written by one run, held to by all others.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tidegate_attack::WAYS;

use super::who::WHO;

/// What one kernel's run found, cell by cell.
const ATTACKS: [&str; 2] = ["<!-- attacks: begin -->", "<!-- attacks: end -->"];
/// What other kernels' runs found that is not the same.
const KERNELS: [&str; 2] = ["<!-- kernels: begin -->", "<!-- kernels: end -->"];

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

/// The kernel that runs, as `6.12`.
pub fn kernel() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// One line of JSON per cell.
pub fn json(sheet: &Sheet) -> String {
    let cells = sheet.iter().flat_map(|(row, cells)| cells.iter().map(move |(who, found)| (row, who, found)));
    cells
        .map(|(row, who, found)| {
            let errno = if let Found::Refused(number) = found { *number } else { 0 };
            let line = serde_json::json!({ "kernel": kernel(), "way": row, "who": who, "found": found.word(), "errno": errno });
            format!("{line}\n")
        })
        .collect()
}

/// What runs on other kernels found: files of such lines, in this folder. By kernel, row and attacker.
fn others(folder: &Path) -> BTreeMap<String, BTreeMap<(String, String), String>> {
    let mut others: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for file in fs::read_dir(folder).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let cell: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| cell[name].as_str().unwrap().to_owned();
            others.entry(text("kernel")).or_default().insert((text("way"), text("who")), text("found"));
        }
    }
    others
}

fn path() -> PathBuf {
    tidegate_tests::workspace().join("docs/THREAT_MODEL.md")
}

/// What stands between two marks of the threat model.
fn between<'a>(text: &'a str, [begin, end]: [&str; 2]) -> &'a str {
    let (_, rest) = text.split_once(begin).expect("the threat model marks where the table begins");
    rest.split_once(end).expect("and where it ends").0
}

/// Puts what was found here, and on other kernels, into the threat model.
pub fn write(sheet: &Sheet, folder: &Path) {
    let mut text = fs::read_to_string(path()).unwrap();
    for (marks, table) in [(ATTACKS, of_this_kernel(sheet)), (KERNELS, of_others(sheet, &others(folder)))] {
        let old = format!("{}{}{}", marks[0], between(&text, marks), marks[1]);
        text = text.replace(&old, &format!("{}\n\n{table}\n{}", marks[0], marks[1]));
    }
    fs::write(path(), text).unwrap();
}

fn of_this_kernel(sheet: &Sheet) -> String {
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
    table
}

/// One line for each way and outcome that is another one elsewhere, and who meets it.
fn of_others(sheet: &Sheet, others: &BTreeMap<String, BTreeMap<(String, String), String>>) -> String {
    let mut table = format!("| way | who | {} |", kernel());
    others.keys().for_each(|kernel| table.push_str(&format!(" {kernel} |")));
    table.push_str("\n|---|---|---|");
    others.keys().for_each(|_| table.push_str("---|"));
    table.push('\n');
    for (row, _) in rows() {
        let mut met: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
        for who in WHO {
            let here = sheet.get(&row).and_then(|cells| cells.get(who.name)).map_or("", |found| found.word());
            let key = (row.clone(), who.name.to_owned());
            let there = others.values().map(|cells| cells.get(&key).map_or("not tried", String::as_str));
            let outcomes: Vec<&str> = std::iter::once(here).chain(there).collect();
            if outcomes.iter().any(|outcome| *outcome != here) {
                met.entry(outcomes).or_default().push(who.name);
            }
        }
        for (outcomes, who) in met {
            table.push_str(&format!("| `{row}` | {} | {} |\n", who.join("; "), outcomes.join(" | ")));
        }
    }
    table
}

/// What the threat model says of a way, an attacker and this kernel.
fn named<'a>(text: &'a str, row: &str, who: &str, kernel: &str) -> Option<&'a str> {
    let cells = |line: &'a str| line.split('|').map(str::trim).collect::<Vec<_>>();
    let mut differing = between(text, KERNELS).lines().map(cells);
    let column = differing.find_map(|heads| heads.iter().position(|head| *head == kernel));
    let way = format!("`{row}`");
    let elsewhere = differing.find(|line| {
        line.get(1) == Some(&way.as_str())
            && line.get(2).is_some_and(|met| met.split("; ").any(|name| name == who))
    });
    if let (Some(column), Some(line)) = (column, elsewhere) {
        return line.get(column).copied();
    }
    let start = format!("| {way}:");
    let line = between(text, ATTACKS).lines().find(|line| line.starts_with(&start))?;
    let column = WHO.iter().position(|known| known.name == who)? + 2;
    cells(line).get(column).copied()
}

/// What is open and not named as open. What is named as open and is not any more is said, and no fault: kernels differ.
pub fn not_allowed(sheet: &Sheet) -> Vec<String> {
    let (text, kernel) = (fs::read_to_string(path()).unwrap(), kernel());
    let mut faults = Vec::new();
    for (row, cells) in sheet {
        for (who, found) in cells {
            let is_allowed = named(&text, row, who, &kernel) == Some(Found::Reached.word());
            match (*found == Found::Reached, is_allowed) {
                (true, false) => faults.push(format!("`{row}` is open to {who} on {kernel}")),
                (false, true) => println!("`{row}` is not open to {who} on {kernel}: {found:?}"),
                _ => {}
            }
        }
    }
    faults
}
