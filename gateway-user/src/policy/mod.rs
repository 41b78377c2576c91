//! What may be done, by whom: a directory of Cedar rules and TOML nouns, read, checked, and asked.
//!
//! Refuses a directory with any mistake in it, whole. What no rule allows is denied.

mod attributes;
pub mod cases;
mod changes;
mod check;
mod credentials;
mod decide;
mod declare;
mod detectors;
mod document;
mod editor;
mod entities;
mod explain;
mod extract;
pub mod files;
mod hours;
mod json_path;
mod last_good;
mod lex;
mod listing;
mod memo;
mod nearest;
mod notice;
pub mod nouns;
mod parse;
pub mod problem;
mod read;
mod rewrites;
mod rules;
pub mod sample;
mod schema;
mod scope;
mod set;
mod shelf;
mod watching;
pub mod when;
mod words;

pub use changes::{Change, Inventory};
pub use decide::{Answer, Cause, Decision, Question};
pub use editor::toml_schema;
pub use explain::{Considered, Explanation, Met};
pub use extract::{Unread, readable};
pub use listing::Listed;
pub use nearest::{Meets, Nearest, Part};
pub use notice::Notice;
pub use parse::is_path_pattern;
pub use problem::{Problem, Problems};
pub use read::{read, read_files, tried, without_cases};
pub use sample::Sample;
pub use schema::cedar_json;
pub use set::{Captures, Set};
pub use shelf::{NoPolicy, Reloaded, Shelf, State};

#[cfg(test)]
mod examples;
