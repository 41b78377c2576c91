//! Small texts of policy files, read strictly: names, address blocks, host names, durations, path patterns.
//!
//! Each refusal says what is wrong and, where it can, what was meant. Nothing is corrected silently.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::nouns::{Block, PathPart, PathPattern};

/// What is wrong with a text, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misread {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Misread {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Characters of a noun's name. Names become ids in records, metrics and kernel tables.
/// All of them are ASCII.
const NAME_CHARS_MAX: usize = crate::limits::NAME_BYTES_MAX;

/// A noun's name: letters, digits, `.`, `_`, `-`; starts with a letter or digit.
///
/// # Errors
/// When it is anything else.
pub(super) fn name(text: &str) -> Result<String, Misread> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let starts = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !starts || text.len() > NAME_CHARS_MAX || !text.chars().all(fits) {
        return Err(Misread::new(format!("`{}` is not a name", text.escape_debug())).help(format!(
            "a name has 1 to {NAME_CHARS_MAX} of: A-Z a-z 0-9 . _ - and starts with a letter or digit"
        )));
    }
    Ok(text.to_owned())
}

/// An address or a CIDR block. An IPv4-mapped IPv6 address means the IPv4 address.
///
/// # Errors
/// When it is neither, or a block with host bits set.
pub(super) fn block(text: &str) -> Result<Block, Misread> {
    let wrong = || {
        Misread::new(format!("`{}` is not an address or a CIDR block", text.escape_debug())).help(
            "write 10.1.2.3, 10.0.0.0/8, 2001:db8::1 or 2001:db8::/32; a host name belongs into `hosts`",
        )
    };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| wrong())?,
        Some(_) => return Err(wrong()),
    };
    if prefix > bits {
        return Err(Misread::new(format!("/{prefix} is longer than an address of {bits} bits")));
    }
    let network = masked(address, prefix);
    if network != address {
        return Err(Misread::new(format!("`{text}` has bits set beyond its /{prefix}"))
            .help(format!("the block is {network}/{prefix}; the single address is {address}")));
    }
    Ok(unmapped(Block { address, prefix }))
}

fn unmapped(block: Block) -> Block {
    match block.address {
        IpAddr::V6(v6) if block.prefix >= 96 => match v6.to_ipv4_mapped() {
            Some(v4) => Block { address: IpAddr::V4(v4), prefix: block.prefix - 96 },
            None => block,
        },
        _ => block,
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

impl Block {
    /// Whether the address lies in the block. An IPv4-mapped IPv6 address counts as the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }

    /// Whether some address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (wide, narrow) = if self.prefix <= other.prefix { (self, other) } else { (other, self) };
        wide.contains(narrow.address)
    }
}

/// An address with an optional port.
///
/// # Errors
/// When it is neither `address` nor `address:port`.
pub(super) fn server(text: &str, port: u16) -> Result<SocketAddr, Misread> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    match text.parse::<SocketAddr>() {
        Ok(server) if server.port() != 0 => Ok(server),
        _ => Err(Misread::new(format!("`{}` is not the address of a server", text.escape_debug()))
            .help("write 10.0.0.53, 10.0.0.53:5353 or [2001:db8::53]:53")),
    }
}

/// A host name in lower case, or `*.` and a host name.
///
/// # Errors
/// When it is not a DNS name, has a port, or a star elsewhere.
pub(super) fn host(text: &str) -> Result<String, Misread> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(Misread::new(format!("`{text}` is an address")).help("put it into `addresses`"));
    }
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if bare.is_empty() || bare.len() > 253 || !bare.split('.').all(label) {
        return Err(Misread::new(format!("`{}` is not a host name", text.escape_debug()))
            .help("write api.example.com or *.example.com: no scheme, port, path or final dot"));
    }
    Ok(text.to_ascii_lowercase())
}

/// A span of time: `90s`, `15m`, `1h30m`, `2d`.
///
/// # Errors
/// When it is not one, or zero.
pub(super) fn duration(text: &str) -> Result<Duration, Misread> {
    let wrong = || {
        Misread::new(format!("`{}` is not a span of time", text.escape_debug()))
            .help("write 90s, 15m, 1h30m or 2d")
    };
    let mut rest = text;
    let mut seconds: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (count, tail) = rest.split_at(digits);
        let mut tail = tail.chars();
        let unit = match tail.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        let count: u64 = count.parse().map_err(|_| wrong())?;
        seconds = count.checked_mul(unit).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = tail.as_str();
    }
    match seconds {
        0 if text.is_empty() => Err(wrong()),
        0 => Err(Misread::new("a time of zero ends before it begins").help("write 90s, 15m, 1h30m or 2d")),
        _ => Ok(Duration::from_secs(seconds)),
    }
}

/// A pattern of calls: `*` stands for any characters.
///
/// # Errors
/// When it is empty, or has control characters.
pub(super) fn call(text: &str) -> Result<String, Misread> {
    if text.is_empty() || text.len() > 256 || text.contains(char::is_control) {
        return Err(Misread::new(format!("`{}` is no call", text.escape_debug()))
            .help("write a name, or a pattern in which `*` stands for any characters: \"wallet.*\""));
    }
    Ok(text.to_owned())
}

/// A method token in upper case.
///
/// # Errors
/// When it is not a token of RFC 9110 section 5.6.2, or has lower-case letters (methods are case-sensitive).
pub(super) fn method(text: &str) -> Result<String, Misread> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > 32 || !text.bytes().all(token) {
        return Err(Misread::new(format!("`{}` is not a method", text.escape_debug())));
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        let upper = text.to_ascii_uppercase();
        return Err(Misread::new(format!("`{text}` is not the method `{upper}`"))
            .help(format!("methods are case-sensitive; write `{upper}`")));
    }
    Ok(text.to_owned())
}

/// Names that a capture may not have, because the context has an attribute of that name, or soon will.
pub(super) const CAPTURES_RESERVED: [&str; 17] = [
    "body_length",
    "budgets",
    "direction",
    "fields",
    "guard",
    "headers",
    "host",
    "hours",
    "labels",
    "method",
    "path",
    "peer",
    "query",
    "segments",
    "target",
    "user",
    "workload",
];

/// A path pattern.
///
/// # Errors
/// When a segment could never be met in a canonical path, or a wildcard stands where none may.
/// Whether this can stand as a path pattern of an operation.
#[must_use]
pub fn is_path_pattern(text: &str) -> bool {
    path_pattern(text).is_ok()
}

pub(super) fn path_pattern(text: &str) -> Result<PathPattern, Misread> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(Misread::new(format!(
            "the path pattern `{}` does not start with `/`",
            text.escape_debug()
        )));
    };
    let mut parts = Vec::new();
    let mut segments = rest.split('/').peekable();
    if rest.is_empty() {
        segments.next();
    }
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let part = path_part(segment, last)?;
        if let PathPart::Capture(name) = &part
            && parts.contains(&part)
        {
            return Err(Misread::new(format!("`{{{name}}}` stands twice in `{text}`")));
        }
        parts.push(part);
    }
    Ok(PathPattern { text: text.to_owned(), parts })
}

/// A path as the gate would judge it.
///
/// # Errors
/// When the gate would refuse such a path before judging it.
pub(super) fn path(text: &str) -> Result<String, Misread> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(Misread::new(format!("the path `{}` does not start with `/`", text.escape_debug())));
    };
    if rest.contains('?') {
        return Err(Misread::new("the query is no part of the path").help("write it under `query`"));
    }
    if !rest.is_empty() {
        for segment in rest.split('/') {
            literal(segment)?;
        }
    }
    Ok(text.to_owned())
}

fn path_part(segment: &str, last: bool) -> Result<PathPart, Misread> {
    if segment == "**" {
        let early = Misread::new("`**` stands for every segment that remains, so it can only be last");
        return if last { Ok(PathPart::Rest) } else { Err(early.help("use `{name}` for one segment")) };
    }
    if let Some(name) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
        return capture(name).map(PathPart::Capture);
    }
    if segment.contains(['{', '}', '*']) {
        return Err(Misread::new(format!("`{}` is only partly a wildcard", segment.escape_debug()))
            .help("`{name}` is one whole segment, `**` is all that remain"));
    }
    literal(segment).map(PathPart::Literal)
}

fn capture(name: &str) -> Result<String, Misread> {
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    if !starts || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Err(Misread::new(format!("`{}` cannot name a capture", name.escape_debug()))
            .help("a capture becomes context.NAME: a-z, 0-9 and _, not starting with a digit"));
    }
    if CAPTURES_RESERVED.contains(&name) {
        return Err(Misread::new(format!(
            "a capture cannot be called `{name}`: the context has that already"
        ))
        .help(format!("write `{{{name}_id}}` or `{{{name}_name}}`")));
    }
    Ok(name.to_owned())
}

fn literal(segment: &str) -> Result<String, Misread> {
    let never = |why: &str| {
        Err(Misread::new(format!(
            "the segment `{}` {why}, so no request ever matches it",
            segment.escape_debug()
        )))
    };
    if segment.is_empty() {
        return never("is empty, and paths with empty segments are refused");
    }
    if segment == "." || segment == ".." {
        return never("is a dot segment, and paths with those are refused");
    }
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else {
                    return never("ends within a percent-encoding");
                };
                let hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
                if !hex(high) || !hex(low) {
                    return never("has a percent-encoding that is not two upper-case hexadecimal digits");
                }
                let value =
                    (high as char).to_digit(16).unwrap_or(0) * 16 + (low as char).to_digit(16).unwrap_or(0);
                if char::from_u32(value).is_some_and(|c| c.is_ascii_alphanumeric() || "-._~/\\".contains(c)) {
                    return never("encodes a character that must stand plain, or a slash");
                }
            }
            byte if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) => {}
            _ => return never("has a character that cannot stand in a path"),
        }
    }
    Ok(segment.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_exact() {
        let ten = block("10.0.0.0/8").unwrap();
        assert!(ten.contains("10.255.0.1".parse().unwrap()));
        assert!(ten.contains("::ffff:10.1.1.1".parse().unwrap()));
        assert!(!ten.contains("11.0.0.1".parse().unwrap()));
        assert!(!ten.contains("::a00:1".parse().unwrap()));
        assert_eq!(block("::ffff:1.2.3.4").unwrap(), block("1.2.3.4").unwrap());
        assert!(block("0.0.0.0/0").unwrap().overlaps(&ten));
        assert!(!block("::/0").unwrap().overlaps(&ten));
        assert!(block("2001:db8::/32").unwrap().overlaps(&block("2001:db8:1::1").unwrap()));
    }

    #[test]
    fn what_is_almost_a_block_is_refused() {
        for wrong in ["10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0", "10.0.0.0/", "10.0.0.0/+8", "crm", ""]
        {
            assert!(block(wrong).is_err(), "{wrong}");
        }
        assert!(block("10.0.0.1/8").unwrap_err().help.unwrap().contains("10.0.0.0/8"));
    }

    #[test]
    fn hosts_are_names_only() {
        assert_eq!(host("API.Example.com").unwrap(), "api.example.com");
        assert_eq!(host("*.example.com").unwrap(), "*.example.com");
        for wrong in
            ["", "*", "a.*.b", "a..b", "a.", "https://a", "a:80", "10.0.0.1", "-a", "a b", "*example.com"]
        {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_positive() {
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("2d").unwrap(), Duration::from_secs(172_800));
        for wrong in ["", "0s", "5", "m", "5x", "-5m", "99999999999999999999d", "9999999999999999d", "1 h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_that_no_canonical_path_can_meet_is_refused() {
        for wrong in [
            "",
            "v1",
            "//",
            "/v1/",
            "/v1//x",
            "/./x",
            "/../x",
            "/a%2Fb",
            "/%41",
            "/%zz",
            "/%c3",
            "/%C",
            "/**/x",
            "/*",
            "/a*",
            "/{x}.json",
            "/{}",
            "/{X}",
            "/{host}",
            "/{a}/{a}",
            "/a b",
            "/a?b",
            "/a#b",
            "/é",
            "/a\\b",
        ] {
            assert!(path_pattern(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_keeps_its_parts() {
        let pattern = path_pattern("/v1/models/{model}/**").unwrap();
        let literal = |text: &str| PathPart::Literal(text.to_owned());
        let capture = PathPart::Capture("model".to_owned());
        assert_eq!(pattern.parts, [literal("v1"), literal("models"), capture, PathPart::Rest]);
        assert!(path_pattern("/").unwrap().parts.is_empty());
        assert!(path_pattern("/caf%C3%A9/a:b@c").is_ok());
    }

    #[test]
    fn methods_keep_their_case() {
        assert_eq!(method("GET").unwrap(), "GET");
        assert!(method("get").unwrap_err().help.unwrap().contains("GET"));
        assert!(method("GET ").is_err());
    }

    #[test]
    fn names_are_plain() {
        assert!(name("crm-2.prod_eu").is_ok());
        for wrong in ["", "-a", "a b", "a/b", "é", &"a".repeat(65)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
