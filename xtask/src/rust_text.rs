//! Rust source taken apart just far enough to check it: code without strings and comments, comments without code,
//! shipped lines without tests. No parser: what it cannot tell apart it leaves in.

/// One source file, seen two ways. Line numbers are those of the file.
pub(crate) struct RustText {
    /// The file with every comment and the inside of every string blanked.
    pub(crate) code: String,
    /// The file with everything but comments blanked.
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    BlockComment(u32),
    Str,
    RawStr(usize),
}

impl RustText {
    /// Takes a whole file.
    pub(crate) fn of(text: &str) -> Self {
        let mut views = Self { code: String::with_capacity(text.len()), comments: String::new() };
        let characters: Vec<char> = text.chars().collect();
        let mut state = State::Code;
        let mut at = 0;
        while at < characters.len() {
            let (next, taken) = step(state, &characters[at..]);
            for &character in &characters[at..at + taken] {
                let in_comment = |state| matches!(state, State::LineComment | State::BlockComment(_));
                let comment = in_comment(state) || in_comment(next);
                let code = state == State::Code && next == State::Code;
                let blank = |shown: bool| if shown || character == '\n' { character } else { ' ' };
                views.code.push(blank(code));
                views.comments.push(blank(comment));
            }
            (state, at) = (next, at + taken);
        }
        views
    }

    /// How many leading lines are shipped: everything before the tests at the end.
    pub(crate) fn shipped_lines(&self) -> usize {
        let lines: Vec<&str> = self.code.lines().map(str::trim).collect();
        let tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ");
        lines.windows(2).position(tests).unwrap_or(lines.len())
    }

    /// The shipped code, line by line, counted from 1.
    pub(crate) fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().take(self.shipped_lines()).enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// The state after the next piece, and how many characters that piece has.
fn step(state: State, rest: &[char]) -> (State, usize) {
    match (state, rest) {
        (State::Code, ['/', '/', ..]) => (State::LineComment, 2),
        (State::Code, ['/', '*', ..]) => (State::BlockComment(1), 2),
        (State::Code, ['"', ..]) => (State::Str, 1),
        (State::Code, ['r', ..]) => match raw_string(&rest[1..]) {
            Some(hashes) => (State::RawStr(hashes), hashes + 2),
            None => (State::Code, 1),
        },
        // A lifetime has no closing quote; a character has one, two places on or after its escape.
        (State::Code, ['\'', '\\', _, ..]) => {
            (State::Code, 3 + rest[3..].iter().take(10).position(|&next| next == '\'').map_or(0, |at| at + 1))
        }
        (State::Code, ['\'', _, '\'', ..]) => (State::Code, 3),
        (State::LineComment, ['\n', ..]) => (State::Code, 1),
        (State::BlockComment(depth), ['/', '*', ..]) => (State::BlockComment(depth + 1), 2),
        (State::BlockComment(1), ['*', '/', ..]) => (State::Code, 2),
        (State::BlockComment(depth), ['*', '/', ..]) => (State::BlockComment(depth - 1), 2),
        (State::Str, ['\\', _, ..]) => (State::Str, 2),
        (State::Str, ['"', ..]) => (State::Code, 1),
        (State::RawStr(hashes), ['"', after @ ..])
            if after.iter().take(hashes).filter(|&&next| next == '#').count() == hashes =>
        {
            (State::Code, 1 + hashes)
        }
        _ => (state, 1),
    }
}

/// `r"`, `r#"`...: how many hashes.
fn raw_string(after: &[char]) -> Option<usize> {
    let hashes = after.iter().take_while(|&&next| next == '#').count();
    (after.get(hashes) == Some(&'"')).then_some(hashes)
}

/// The identifiers of a line.
pub(crate) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|character: char| !character.is_alphanumeric() && character != '_')
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        RustText::of(text).code
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        assert_eq!(code("a(\"unsafe\"); // x\nb"), "a(        );     \nb");
        for text in [
            "x /* unsafe /* nested unsafe */ unsafe */ y",
            "r#\"unsafe \" unsafe\"# y",
            "\"\\\" unsafe\" y",
            "'\"' y // unsafe",
        ] {
            assert!(!code(text).contains("unsafe"), "{text}");
            assert!(code(text).contains('y'), "{text}");
        }
    }

    #[test]
    fn lifetimes_open_no_character() {
        assert!(code("fn f<'a>(x: &'a str) { unsafe {} }").contains("unsafe"));
        assert!(code("let q = '\\''; unsafe {}").contains("unsafe"));
    }

    #[test]
    fn comments_are_seen_alone() {
        let text = RustText::of("let a = \"FIXME\"; // later\n");
        assert!(text.comments.contains("later") && !text.comments.contains("FIXME"));
    }

    #[test]
    fn tests_at_the_end_are_not_shipped() {
        let text = RustText::of("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c.unwrap() }\n}\n");
        assert_eq!(text.shipped_lines(), 1);
    }
}
