//! The parameters of a query, as forms write them. Refuses escapes that are none, and text that is not UTF-8.

use super::Unread;
use super::body::Found;

/// The values of the parameter with this name, in order.
///
/// # Errors
/// When the query has no single reading.
pub(super) fn values(query: &str, wanted: &str) -> Result<Vec<Found>, Unread> {
    let mut found = Vec::new();
    if query.contains(';') {
        return Err(Unread::twofold("some readers part the query at `;`"));
    }
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = decoded(name)?;
        if name == wanted {
            found.push(Found::Word(decoded(value)?));
        } else if is_like(&name, wanted) {
            let name = name.escape_debug();
            return Err(Unread::twofold(format!("some readers take the parameter `{name}` for `{wanted}`")));
        }
    }
    Ok(found)
}

/// Whether readers that pass over case, or for whom brackets make a list, a dot or a blank another name, take one for the
/// other.
fn is_like(name: &str, wanted: &str) -> bool {
    let read = |name: &str| {
        let name = name.trim().to_lowercase();
        let list = name.find('[').filter(|end| *end > 0 && !wanted.contains('['));
        name[..list.unwrap_or(name.len())].replace(['.', ' '], "_")
    };
    read(name) == read(wanted)
}

fn decoded(text: &str) -> Result<String, Unread> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| (byte as char).to_digit(16));
                let pair = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
                pair.ok_or_else(|| Unread::twofold("the query has a `%` that begins no escape"))?
            }
            byte => byte,
        });
    }
    if bytes.contains(&0) {
        return Err(Unread::twofold("the query holds a NUL"));
    }
    String::from_utf8(bytes).map_err(|_| Unread::twofold("the query is not UTF-8 once its escapes are read"))
}
