//! Finds, in a Cedar file that Cedar has parsed, where each statement, annotation and entity literal stands.
//!
//! Judges nothing: Cedar has already refused what is not Cedar. This only gives places back to names.

use std::ops::Range;

use crate::limits::{RULE_DEPTH_MAX, RULE_OPERATORS_MAX};

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

/// Where a rule is nested deeper or goes on longer than the bounds, and what is wrong there. Asked before Cedar is: its
/// parser would overflow the stack, and its validator would pass over what it cannot walk.
pub(super) fn excess(source: &str) -> Option<(Range<usize>, String)> {
    let (mut depth, mut conditions, mut operators) = (0_usize, 0_usize, 0_usize);
    for (token, span) in tokens(source) {
        match (token, &source[span.clone()]) {
            (Token::End, _) => (depth, conditions, operators) = (0, 0, 0),
            (Token::Other, "(" | "[" | "{") => depth += 1,
            (Token::Other, ")" | "]" | "}") => depth = depth.saturating_sub(1),
            (Token::Word, "if") => conditions += 1,
            (Token::Other, ",") => {}
            (Token::Other, _) | (Token::Word, "in" | "has" | "like" | "is") => operators += 1,
            _ => {}
        }
        if depth + conditions > RULE_DEPTH_MAX {
            return Some((span, format!("this is more than {RULE_DEPTH_MAX} brackets and `if`s deep")));
        }
        if operators > RULE_OPERATORS_MAX {
            return Some((span, format!("this rule has more than {RULE_OPERATORS_MAX} operators")));
        }
    }
    None
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
                // Whole characters, so that every span can be cut out of the text.
                at += source[start..].chars().next().map_or(1, char::len_utf8);
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
    fn a_rule_at_its_bounds_is_read_and_one_beyond_is_not() {
        let nested = |depth: usize| format!("x {}{};", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(excess(&nested(RULE_DEPTH_MAX)), None);
        assert_eq!(excess(&nested(RULE_DEPTH_MAX + 1)).unwrap().0.start, 2 + RULE_DEPTH_MAX);
        assert!(excess(&"if x then y else ".repeat(RULE_DEPTH_MAX + 1)).is_some());
        let long = |operators: usize| format!("a{};", "+".repeat(operators));
        assert_eq!(excess(&long(RULE_OPERATORS_MAX).repeat(3)), None);
        assert!(excess(&long(RULE_OPERATORS_MAX + 1)).is_some());
        assert_eq!(excess("// ((((\n\"((((\";"), None);
    }

    #[test]
    fn an_unfinished_file_is_no_panic() {
        for source in ["é", "a::é\"x", "\"é", "\"\\", "::\"x", "@", "a::", "/", "//"] {
            assert!(statements(source).is_empty() && excess(source).is_none(), "{source}");
        }
    }
}
