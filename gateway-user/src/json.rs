//! A strict reader of JSON (RFC 8259), byte by byte: says where names and values begin and end, wherever the network cut
//! them. Holds nothing of what it reads; refuses the first byte that no JSON text has there, and nesting past a bound.

#[cfg(test)]
mod tests;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    Text,
    /// A digit or `-`.
    Number,
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
}

/// What a byte means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A member's name begins with this byte, a quote.
    NameBegins,
    /// A member's name ends with this byte, a quote.
    NameEnds,
    /// A value begins with this byte.
    ValueBegins(Kind),
    /// A value ends: with this byte, or (a number) before it.
    ValueEnds {
        /// Whether this byte is the value's last.
        with_this: bool,
    },
    /// This byte is the colon after a name.
    Colon,
    /// This byte is a comma between members or elements.
    Comma,
}

/// Why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct NotJson {
    /// Offset of the byte that does not fit; the length of the text where it ends too soon.
    pub at: u64,
    /// What was met.
    pub what: &'static str,
}

/// What may come next, apart from white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Document,
    Value,
    ElementOrEnd,
    NameOrEnd,
    Name,
    Colon,
    CommaOrEnd,
    Nothing,
}

/// The token that is under way.
#[derive(Debug, Clone, Copy)]
enum Token {
    None,
    Text(Text),
    Number(Number),
    Word(&'static [u8]),
}

/// Inside a string.
#[derive(Debug, Clone, Copy)]
struct Text {
    name: bool,
    escape: Escape,
    /// The last escape was the first half of a surrogate pair.
    half: bool,
    /// Bytes that the character under way still needs, and the range of the next of them.
    more: u8,
    low: u8,
    high: u8,
}

#[derive(Debug, Clone, Copy)]
enum Escape {
    None,
    Begun,
    /// Hexadecimal digits still to come, and what they say so far.
    Unit(u8, u16),
}

/// Where in a number (RFC 8259 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// See the module. Exactly one value, with white space around it.
#[derive(Debug)]
pub struct Scanner {
    /// Open containers: whether each is an object.
    open: Vec<bool>,
    depth_max: usize,
    expect: Expect,
    token: Token,
    at: u64,
    odd: bool,
}

impl Scanner {
    /// Reads one text that nests at most `depth_max` deep.
    #[must_use]
    pub fn new(depth_max: usize) -> Self {
        Self { open: Vec::new(), depth_max, expect: Expect::Document, token: Token::None, at: 0, odd: false }
    }

    /// Containers open now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether a string so far held half a surrogate pair or a NUL: readers disagree on what such a string says.
    #[must_use]
    pub fn is_odd(&self) -> bool {
        self.odd
    }

    /// Whether nothing but white space was read.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.expect == Expect::Document
    }

    /// Takes the next byte; tells `sink` what it means.
    ///
    /// # Errors
    /// When no JSON text goes on so. Nothing may be pushed after that.
    pub fn push(&mut self, byte: u8, sink: &mut impl FnMut(Event)) -> Result<(), NotJson> {
        self.step(byte, sink).map_err(|what| NotJson { at: self.at, what })?;
        self.at += 1;
        Ok(())
    }

    /// The text is complete.
    ///
    /// # Errors
    /// When it ends in the middle of a value, or before one.
    pub fn finish(&mut self, sink: &mut impl FnMut(Event)) -> Result<(), NotJson> {
        let ended = match self.token {
            Token::Number(number) => self.end_number(number, sink),
            _ => Ok(()),
        };
        let whole = ended.and(if self.expect == Expect::Nothing && matches!(self.token, Token::None) {
            Ok(())
        } else {
            Err("the text ends before its value does")
        });
        whole.map_err(|what| NotJson { at: self.at, what })
    }

    fn step(&mut self, byte: u8, sink: &mut impl FnMut(Event)) -> Result<(), &'static str> {
        match self.token {
            Token::Text(text) => return self.in_text(text, byte, sink),
            Token::Word(word) => return self.in_word(word, byte, sink),
            Token::Number(number) => match number.then(byte) {
                Some(next) => {
                    self.token = Token::Number(next);
                    return Ok(());
                }
                None => self.end_number(number, sink)?,
            },
            Token::None => {}
        }
        self.between(byte, sink)
    }

    /// A byte that is in no string, number or word.
    fn between(&mut self, byte: u8, sink: &mut impl FnMut(Event)) -> Result<(), &'static str> {
        let value = matches!(self.expect, Expect::Document | Expect::Value | Expect::ElementOrEnd);
        match (byte, self.expect) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => {}
            (b'"', Expect::Name | Expect::NameOrEnd) => {
                self.token = Token::Text(Text::new(true));
                sink(Event::NameBegins);
            }
            (b':', Expect::Colon) => {
                self.expect = Expect::Value;
                sink(Event::Colon);
            }
            (b',', Expect::CommaOrEnd) => {
                let object = self.open.last() == Some(&true);
                self.expect = if object { Expect::Name } else { Expect::Value };
                sink(Event::Comma);
            }
            (b'}', Expect::NameOrEnd) | (b']', Expect::ElementOrEnd) => self.close(sink),
            (b'}' | b']', Expect::CommaOrEnd) if (self.open.last() == Some(&true)) == (byte == b'}') => {
                self.close(sink);
            }
            (_, _) if value => return self.begin(byte, sink),
            (_, Expect::Nothing) => return Err("something after the end of the value"),
            _ => return Err("a byte that no JSON text has there"),
        }
        Ok(())
    }

    fn begin(&mut self, byte: u8, sink: &mut impl FnMut(Event)) -> Result<(), &'static str> {
        let kind = match byte {
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::Text,
            b'-' | b'0'..=b'9' => Kind::Number,
            b't' => Kind::True,
            b'f' => Kind::False,
            b'n' => Kind::Null,
            _ => return Err("something that starts no JSON value"),
        };
        if matches!(kind, Kind::Object | Kind::Array) && self.open.len() >= self.depth_max {
            return Err("nesting deeper than the bound");
        }
        sink(Event::ValueBegins(kind));
        match kind {
            Kind::Object | Kind::Array => {
                let object = kind == Kind::Object;
                self.open.push(object);
                self.expect = if object { Expect::NameOrEnd } else { Expect::ElementOrEnd };
            }
            Kind::Text => self.token = Token::Text(Text::new(false)),
            Kind::Number => {
                self.token = Token::Number(match byte {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Whole,
                });
            }
            Kind::True => self.token = Token::Word(b"rue"),
            Kind::False => self.token = Token::Word(b"alse"),
            Kind::Null => self.token = Token::Word(b"ull"),
        }
        Ok(())
    }

    fn close(&mut self, sink: &mut impl FnMut(Event)) {
        self.open.pop();
        self.after_value();
        sink(Event::ValueEnds { with_this: true });
    }

    fn after_value(&mut self) {
        self.token = Token::None;
        self.expect = if self.open.is_empty() { Expect::Nothing } else { Expect::CommaOrEnd };
    }

    fn end_number(&mut self, number: Number, sink: &mut impl FnMut(Event)) -> Result<(), &'static str> {
        if !matches!(number, Number::Zero | Number::Whole | Number::Fraction | Number::Exponent) {
            return Err("a number that is not whole");
        }
        self.after_value();
        sink(Event::ValueEnds { with_this: false });
        Ok(())
    }

    fn in_word(
        &mut self,
        word: &'static [u8],
        byte: u8,
        sink: &mut impl FnMut(Event),
    ) -> Result<(), &'static str> {
        match word.split_first() {
            Some((wanted, [])) if *wanted == byte => {
                self.after_value();
                sink(Event::ValueEnds { with_this: true });
            }
            Some((wanted, rest)) if *wanted == byte => self.token = Token::Word(rest),
            _ => return Err("a word that is no JSON value"),
        }
        Ok(())
    }

    fn in_text(
        &mut self,
        mut text: Text,
        byte: u8,
        sink: &mut impl FnMut(Event),
    ) -> Result<(), &'static str> {
        if byte == b'"' && matches!(text.escape, Escape::None) {
            if text.more > 0 {
                return Err("a string that is not UTF-8");
            }
            self.odd |= text.half;
            if text.name {
                self.token = Token::None;
                self.expect = Expect::Colon;
                sink(Event::NameEnds);
            } else {
                self.after_value();
                sink(Event::ValueEnds { with_this: true });
            }
            return Ok(());
        }
        match text.escape {
            Escape::None => self.plain(&mut text, byte)?,
            Escape::Begun => match byte {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                    self.odd |= std::mem::take(&mut text.half);
                    text.escape = Escape::None;
                }
                b'u' => text.escape = Escape::Unit(4, 0),
                _ => return Err("a wrong escape"),
            },
            Escape::Unit(left, unit) => {
                let digit = (byte as char).to_digit(16).and_then(|digit| u16::try_from(digit).ok());
                let unit = unit << 4 | digit.ok_or("a wrong escape")?;
                text.escape = if left == 1 { Escape::None } else { Escape::Unit(left - 1, unit) };
                if left == 1 {
                    self.unit(&mut text, unit);
                }
            }
        }
        self.token = Token::Text(text);
        Ok(())
    }

    fn plain(&mut self, text: &mut Text, byte: u8) -> Result<(), &'static str> {
        if text.more > 0 {
            if !(text.low..=text.high).contains(&byte) {
                return Err("a string that is not UTF-8");
            }
            (text.more, text.low, text.high) = (text.more - 1, 0x80, 0xBF);
            return Ok(());
        }
        if byte == b'\\' {
            text.escape = Escape::Begun;
            return Ok(());
        }
        self.odd |= std::mem::take(&mut text.half);
        // RFC 3629 section 4.
        (text.more, text.low, text.high) = match byte {
            0..0x20 => return Err("a control character in a string"),
            0x20..0x80 => (0, 0x80, 0xBF),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return Err("a string that is not UTF-8"),
        };
        Ok(())
    }

    /// A `\uXXXX` is complete.
    fn unit(&mut self, text: &mut Text, unit: u16) {
        let half = std::mem::take(&mut text.half);
        match unit {
            0xD800..0xDC00 => {
                self.odd |= half;
                text.half = true;
            }
            0xDC00..0xE000 => self.odd |= !half,
            _ => self.odd |= half || unit == 0,
        }
    }
}

impl Text {
    fn new(name: bool) -> Self {
        Self { name, escape: Escape::None, half: false, more: 0, low: 0x80, high: 0xBF }
    }
}

impl Number {
    /// Where the number is after one more byte; `None` where the byte is none of it.
    fn then(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus, b'1'..=b'9') | (Self::Whole, b'0'..=b'9') => Self::Whole,
            (Self::Zero | Self::Whole, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Whole | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::Sign,
            (Self::E | Self::Sign | Self::Exponent, b'0'..=b'9') => Self::Exponent,
            _ => return None,
        })
    }
}
