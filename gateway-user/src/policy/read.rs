//! Reads a policy directory whole: files, nouns, rules, cases. All mistakes at once, or a set.
//!
//! Refuses the directory if anything in it is wrong; no set is ever made of a part of it.

use std::cell::RefCell;
use std::path::Path;

use cedar_policy::Schema;

use crate::limits::POLICY_STACK_BYTES;

use super::cases::{self, CaseResult};
use super::check::check;
use super::files::Files;
use super::problem::{Problem, Problems};
use super::set::Set;
use super::{declare, rules, schema};

/// Reads a directory, checks everything, and runs its cases.
///
/// # Errors
/// Every mistake in it.
pub fn read(dir: &Path) -> Result<Set, Problems> {
    read_files(&Files::read(dir)?)
}

/// The same for files already in memory.
///
/// # Errors
/// Every mistake in them.
pub fn read_files(files: &Files) -> Result<Set, Problems> {
    let (set, results) = tried(files)?;
    let mut problems = Problems::default();
    results.into_iter().filter_map(|result| result.problem).for_each(|problem| problems.push(problem));
    if problems.is_empty() { Ok(set) } else { Err(problems) }
}

/// The same, with what became of each case, those of the safe mode last; a case that failed is no error here.
///
/// # Errors
/// Every mistake in the nouns, the rules and the form of the cases.
pub fn tried(files: &Files) -> Result<(Set, Vec<CaseResult>), Problems> {
    let mut set = without_cases(files)?;
    let mut results = cases::run(files, &set)?;
    match files.safe_mode() {
        Some(mode) => {
            let safe = without_cases(&mode)?;
            results.extend(cases::run(&mode, &safe)?);
            set.arm(safe)?;
        }
        None => set.is_whole()?,
    }
    Ok((set, results))
}

/// Nouns and rules only; the cases are not looked at.
///
/// # Errors
/// Every mistake in them.
pub fn without_cases(files: &Files) -> Result<Set, Problems> {
    // Cedar recurses, and beyond its stack it refuses or passes over rules: the stack must not depend on the caller.
    let thread = std::thread::Builder::new().name("policy-read".to_owned()).stack_size(POLICY_STACK_BYTES);
    let failed = |what: String| {
        let mut problems = Problems::default();
        problems.push(Problem::whole(what));
        problems
    };
    std::thread::scope(|scope| {
        let reading = thread
            .spawn_scoped(scope, || checked(files))
            .map_err(|error| failed(format!("no thread to read policy files: {error}")))?;
        reading.join().unwrap_or_else(|_| {
            Err(failed("reading the policy files failed unexpectedly; please report the files".to_owned()))
        })
    })
}

fn checked(files: &Files) -> Result<Set, Problems> {
    let problems = RefCell::new(Problems::default());
    let draft = declare::read(files, &problems);
    check(&draft, &problems);
    let operations = draft.operations.iter().map(|entry| &entry.noun).filter(|noun| !noun.name.is_empty());
    let extracts: Vec<_> = draft.extracts.iter().map(|entry| &entry.noun).collect();
    let text = schema::text(operations, &extracts);
    let schema = if draft.broken { None } else { compiled(&text, &problems) };
    let rules = rules::read(files, (&text, schema.as_ref()), &draft, &problems);
    let about = (files.digest(), text, files.notes.clone());
    let set = Set::index(draft, rules, about, &problems);
    let mut problems = problems.into_inner();
    if problems.is_empty() {
        return Ok(set);
    }
    problems.sort();
    Err(problems)
}

fn compiled(text: &str, problems: &RefCell<Problems>) -> Option<Schema> {
    match Schema::from_cedarschema_str(text) {
        Ok((schema, _)) => Some(schema),
        Err(error) => {
            let problem =
                Problem::whole(format!("the nouns give a schema that Cedar does not take: {error}"));
            problems
                .borrow_mut()
                .push(problem.help("this is a defect of Tidegate; please report it with the nouns"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
