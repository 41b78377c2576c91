//! Finds, in a Cedar file that Cedar has parsed, where each statement, annotation and entity literal stands.
//!
//! Judges nothing: Cedar has already refused what is not Cedar. This only gives places back to names.

use std::ops::Range;

/// What a statement has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// From its first token to its `;`.
    pub span: Range<usize>,
    /// Name and place of each annotation.
    pub annotations: Vec<(String, Range<usize>)>,
    /// Place of each entity literal, `Role::"x"`.
    pub literals: Vec<Range<usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Word,
    Text,
    Colons,
    At,
    End,
    Other,
}

/// The statements of a file, in order.
pub(super) fn statements(source: &str) -> Vec<Statement> {
    let tokens = tokens(source);
    let mut all = Vec::new();
    let mut current = Statement::default();
    let mut fresh = true;
    for (index, (token, span)) in tokens.iter().enumerate() {
        if fresh {
            current.span = span.clone();
            fresh = false;
        }
        let before = |back: usize| index.checked_sub(back).map(|at| &tokens[at]);
        match token {
            Token::End => {
                current.span.end = span.end;
                all.push(std::mem::take(&mut current));
                fresh = true;
            }
            Token::Word if before(1).is_some_and(|(token, _)| *token == Token::At) => {
                current.annotations.push((source[span.clone()].to_owned(), span.start - 1..span.end));
            }
            Token::Text if before(1).is_some_and(|(token, _)| *token == Token::Colons) => {
                current.literals.push(path_start(&tokens, index)..span.end);
            }
            _ => {}
        }
    }
    all
}

/// Where the `A::B::` before the text at `index` starts.
fn path_start(tokens: &[(Token, Range<usize>)], index: usize) -> usize {
    let mut at = index;
    while at >= 2 && tokens[at - 1].0 == Token::Colons && tokens[at - 2].0 == Token::Word {
        at -= 2;
    }
    tokens[at].1.start
}

fn tokens(source: &str) -> Vec<(Token, Range<usize>)> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        let token = match byte {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |end| start + end);
                continue;
            }
            b'"' => {
                at = text_end(bytes, at + 1);
                Token::Text
            }
            b':' if bytes.get(at + 1) == Some(&b':') => {
                at += 2;
                Token::Colons
            }
            b if b.is_ascii_alphanumeric() || *b == b'_' => {
                at = bytes[at..]
                    .iter()
                    .position(|b| !b.is_ascii_alphanumeric() && *b != b'_')
                    .map_or(bytes.len(), |end| start + end);
                Token::Word
            }
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b => {
                at += 1;
                match b {
                    b'@' => Token::At,
                    b';' => Token::End,
                    _ => Token::Other,
                }
            }
        };
        tokens.push((token, start..at));
    }
    tokens
}

fn text_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_comments_hide_nothing_and_add_nothing() {
        let source = "// @id(\"no\") Role::\"no\";\n@id(\"a;b\") @message(\"Role::\\\"x\\\"\")\n\
                      permit (principal in Role::\"it's \\\"x\\\"\", action, resource is N::Target in N :: T::\"t\");\nforbid(principal, action, resource);";
        let found = statements(source);
        assert_eq!(found.len(), 2);
        let names: Vec<&str> = found[0].annotations.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "message"]);
        let literals: Vec<&str> = found[0].literals.iter().map(|span| &source[span.clone()]).collect();
        assert_eq!(literals, ["Role::\"it's \\\"x\\\"\"", "N :: T::\"t\""]);
        assert!(source[found[1].span.clone()].starts_with("forbid"));
    }

    #[test]
    fn an_unfinished_file_is_no_panic() {
        for source in ["\"", "\"\\", "::\"x", "@", "a::", "/", "//"] {
            assert!(statements(source).is_empty(), "{source}");
        }
    }
}
