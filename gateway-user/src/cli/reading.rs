//! Every reading of the record is announced to the enforcer first, so that the record says who read what. Refuses to
//! read where an enforcer runs and the announcement failed.

use super::{Context, Failure};
use crate::admin::client::{Client, ClientError};
use crate::admin::view::ReadingView;
use crate::limits::READING_BYTES_MAX;
use crate::record::RecordError;
use crate::record::read::Reader;

/// Announces a reading, and opens the record. `about` is what was asked for: ids and filters as given.
///
/// With no enforcer running there is nobody to write it down: that is said on standard error, and who may open the
/// files reads them.
pub(super) fn open(command: &str, about: &str, context: &Context) -> Result<Reader, Failure> {
    announce(command, about, context)?;
    super::record::reader(context).map_err(|error| Failure::from_error(&error))
}

fn announce(command: &str, about: &str, context: &Context) -> Result<(), Failure> {
    let (socket, state) = (&context.settings.admin_socket, &context.settings.state);
    let room = READING_BYTES_MAX - command.len();
    let about = about.chars().scan(0, |bytes, c| {
        *bytes += c.len_utf8();
        (*bytes <= room).then_some(c)
    });
    let reading = ReadingView { command: command.to_owned(), about: about.collect() };
    let unreachable = match Client::new(socket).announce(&reading) {
        Ok(_) => return Ok(()),
        Err(error @ ClientError::Unreachable { .. }) => error,
        Err(other) => return Err(Failure::cannot(format!("nothing was read: {other}"))),
    };
    if Reader::is_being_written(state).map_err(|error| Failure::from_error(&error))? {
        return Err(Failure::cannot(format!(
            "nothing was read: an enforcer writes this record, and a reading must be announced to it: {unreachable}"
        )));
    }
    context.out.note("note: no enforcer runs, so it is not on record that this was read");
    Ok(())
}

/// What was asked for in words: each given option as the command line has it.
pub(super) fn asked<'a>(options: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let given = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let words = given.map(|(name, value)| match (name, value.is_empty()) {
        ("", _) => value,
        (name, true) => format!("--{name}"),
        (name, false) => format!("--{name} {value}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::from_error(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_said_as_it_was_typed() {
        let options = [
            ("", Some("card".into())),
            ("user", Some("ann".into())),
            ("kind", None),
            ("bodies", Some(String::new())),
        ];
        assert_eq!(asked(options), "card --user ann --bodies");
    }
}
