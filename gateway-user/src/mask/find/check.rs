//! What a number must satisfy beyond its shape: check digits, lengths, dates. Facts of public standards, as functions
//! of the matched bytes.
//!
//! A number that only looks right is no find.

use super::number::luhn;

/// A check by the name rules use.
pub(super) type Check = fn(&[u8]) -> bool;

/// The check of this name.
pub(super) fn named(name: &str) -> Option<Check> {
    CHECKS.iter().find(|(known, _)| *known == name).map(|(_, check)| *check)
}

const CHECKS: &[(&str, Check)] = &[
    ("luhn", |text| luhn(&digits(text))),
    ("verhoeff", |text| verhoeff(&digits(text))),
    ("iban", iban),
    ("ipv4", ipv4),
    ("ipv6", ipv6),
    ("phone-international", |text| counts(text, 8, 15)),
    ("phone-nanp", |text| one_separator(text)),
    ("phone-trunk", |text| counts(text, 9, 11) && one_separator(text) && !date(text)),
    ("phone-near", |text| counts(text, 7, 15) && !date(text)),
    ("phone-grouped", |text| counts(text, 7, 13) && groups(text).len() > 1 && !date(text)),
    ("itin", |text| itin(&digits(text))),
    ("au-tfn", |text| weighted(&digits(text), &[1, 4, 3, 7, 5, 8, 6, 9, 10], 11)),
    ("au-medicare", |text| au_medicare(&digits(text))),
    ("be", |text| belgian(&digits(text))),
    ("br-cpf", |text| cpf(&digits(text))),
    ("ch-ahv", |text| ean13(&digits(text))),
    ("cl-rut", rut),
    ("cn", chinese),
    ("cz", |text| birth_number(&digits(text))),
    ("de-steuer-id", |text| steuer_id(&digits(text))),
    ("dk-cpr", |text| day_month(&digits(text))),
    ("es-dni", dni),
    ("fi-hetu", hetu),
    ("fr-nir", nir),
    ("gb-nino", nino),
    ("gb-nhs", |text| nhs(&digits(text))),
    ("hk-id", hong_kong),
    ("it-cf", codice_fiscale),
    ("kr-rrn", |text| korean(&digits(text))),
    ("mx-curp", curp),
    ("nl-bsn", |text| bsn(&digits(text))),
    ("no", |text| norwegian(&digits(text))),
    ("pl-pesel", |text| pesel(&digits(text))),
    ("pt-nif", |text| nif(&digits(text))),
    ("ro-cnp", |text| cnp(&digits(text))),
    ("se", |text| swedish(&digits(text))),
    ("sg-nric", nric),
    ("tr", |text| turkish(&digits(text))),
    ("za", |text| south_african(&digits(text))),
];

fn digits(text: &[u8]) -> Vec<u8> {
    text.iter().filter(|b| b.is_ascii_digit()).map(|b| b - b'0').collect()
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |n, &d| n * 10 + u64::from(d))
}

fn dot(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(&d, w)| u32::from(d) * w).sum()
}

fn weighted(digits: &[u8], weights: &[u32], modulus: u32) -> bool {
    digits.len() == weights.len() && varied(digits) && dot(digits, weights).is_multiple_of(modulus)
}

/// Not all digits alike: 000000000 satisfies every sum.
fn varied(digits: &[u8]) -> bool {
    digits.iter().any(|d| Some(d) != digits.first())
}

fn is_day_month(day: u64, month: u64) -> bool {
    (1..=31).contains(&day) && (1..=12).contains(&month)
}

/// Lengths of groups of digits, extension and all.
fn groups(text: &[u8]) -> Vec<usize> {
    text.split(|b| !b.is_ascii_digit()).map(<[u8]>::len).filter(|&long| long > 0).collect()
}

/// Digits without those of an extension.
fn counts(text: &[u8], least: usize, most: usize) -> bool {
    let end = text.iter().position(u8::is_ascii_alphabetic).unwrap_or(text.len());
    let count = digits(&text[..end]).len();
    (least..=most).contains(&count) && varied(&digits(&text[..end]))
}

/// Whether the groups outside brackets are parted by one and the same character.
fn one_separator(text: &[u8]) -> bool {
    let end = text.iter().position(u8::is_ascii_alphabetic).unwrap_or(text.len());
    let from = text.iter().position(|&b| b == b')').map_or(0, |at| at + 2).min(end);
    let mut seen = text[from..end].iter().filter(|b| matches!(b, b' ' | b'-' | b'.' | b'/'));
    let Some(first) = seen.next() else { return true };
    // An extension may follow a space.
    seen.all(|b| b == first) || text[end..].first().is_some()
}

/// `2024-01-31`, `31.01.2024` and what else is a day.
fn date(text: &[u8]) -> bool {
    match groups(text).as_slice() {
        [4, 2, 2] | [4, 2, 2, 2] => {
            let n = digits(text);
            (1800..2200).contains(&number(&n[..4])) && is_day_month(number(&n[6..8]), number(&n[4..6]))
        }
        [2, 2, 4] | [2, 2, 4, 2] => {
            let n = digits(text);
            let (a, b) = (number(&n[..2]), number(&n[2..4]));
            (1800..2200).contains(&number(&n[4..8])) && (is_day_month(a, b) || is_day_month(b, a))
        }
        _ => false,
    }
}

/// ISO 13616 lengths of registered countries, and mod 97 (ISO/IEC 7064).
fn iban(text: &[u8]) -> bool {
    const LENGTHS: &[(&[u8; 2], usize)] = &[
        (b"AD", 24), (b"AE", 23), (b"AL", 28), (b"AT", 20), (b"AZ", 28), (b"BA", 20), (b"BE", 16), (b"BG", 22),
        (b"BH", 22), (b"BI", 27), (b"BR", 29), (b"BY", 28), (b"CH", 21), (b"CR", 22), (b"CY", 28), (b"CZ", 24),
        (b"DE", 22), (b"DJ", 27), (b"DK", 18), (b"DO", 28), (b"EE", 20), (b"EG", 29), (b"ES", 24), (b"FI", 18),
        (b"FK", 18), (b"FO", 18), (b"FR", 27), (b"GB", 22), (b"GE", 22), (b"GI", 23), (b"GL", 18), (b"GR", 27),
        (b"GT", 28), (b"HN", 28), (b"HR", 21), (b"HU", 28), (b"IE", 22), (b"IL", 23), (b"IQ", 23), (b"IS", 26),
        (b"IT", 27), (b"JO", 30), (b"KW", 30), (b"KZ", 20), (b"LB", 28), (b"LC", 32), (b"LI", 21), (b"LT", 20),
        (b"LU", 20), (b"LV", 21), (b"LY", 25), (b"MC", 27), (b"MD", 24), (b"ME", 22), (b"MK", 19), (b"MN", 20),
        (b"MR", 27), (b"MT", 31), (b"MU", 30), (b"NI", 28), (b"NL", 18), (b"NO", 15), (b"OM", 23), (b"PK", 24),
        (b"PL", 28), (b"PS", 29), (b"PT", 25), (b"QA", 29), (b"RO", 24), (b"RS", 22), (b"RU", 33), (b"SA", 24),
        (b"SC", 31), (b"SD", 18), (b"SE", 24), (b"SI", 19), (b"SK", 24), (b"SM", 27), (b"SO", 23), (b"ST", 25),
        (b"SV", 28), (b"TL", 23), (b"TN", 24), (b"TR", 26), (b"UA", 29), (b"VA", 22), (b"VG", 24), (b"XK", 20),
        (b"YE", 30),
    ];
    let letters: Vec<u8> =
        text.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_uppercase).collect();
    let known = LENGTHS.iter().any(|(country, long)| letters.starts_with(*country) && letters.len() == *long);
    if !known {
        return false;
    }
    let turned = letters[4..].iter().chain(&letters[..4]);
    let rest = turned.fold(0u32, |rest, &b| match b {
        b'0'..=b'9' => (rest * 10 + u32::from(b - b'0')) % 97,
        _ => (rest * 100 + u32::from(b - b'A') + 10) % 97,
    });
    rest == 1
}

fn text_of(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

/// Four numbers of a byte; one below 8 in front of nothing but digits alone is more likely a version.
fn ipv4(text: &[u8]) -> bool {
    text_of(text).parse::<std::net::Ipv4Addr>().is_ok_and(|address| {
        let octets = address.octets();
        octets[0] != 0 && octets.iter().any(|&octet| octet > 9)
    })
}

/// An address that names a host: not `::`, not `::1`, and not a path of a programming language (`de::fa`).
fn ipv6(text: &[u8]) -> bool {
    let groups = text.split(|&b| b == b':').filter(|group| !group.is_empty()).count();
    let figures = text.iter().any(u8::is_ascii_digit);
    groups >= 3 && figures && text_of(text).parse::<std::net::Ipv6Addr>().is_ok()
}

/// J. Verhoeff, 1969: the dihedral group D5.
fn verhoeff(digits: &[u8]) -> bool {
    const TIMES: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const TURN: [u8; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    let sum = digits.iter().rev().enumerate().fold(0u8, |sum, (place, &digit)| {
        let turned = (0..place % 8).fold(digit, |digit, _| TURN[usize::from(digit)]);
        TIMES[usize::from(sum)][usize::from(turned)]
    });
    varied(digits) && sum == 0
}

/// 9NN with a group that the IRS issues: 50 to 65, 70 to 88, 90 to 92, 94 to 99.
fn itin(digits: &[u8]) -> bool {
    digits.len() == 9
        && digits[0] == 9
        && matches!(number(&digits[3..5]), 50..=65 | 70..=88 | 90..=92 | 94..=99)
        && digits[5..] != [0; 4]
}

fn au_medicare(digits: &[u8]) -> bool {
    matches!(digits, [2..=6, ..]) && digits.len() >= 10 && {
        u32::from(digits[8]) == dot(&digits[..8], &[1, 3, 7, 9, 1, 3, 7, 9]) % 10 && digits[9] != 0
    }
}

fn belgian(digits: &[u8]) -> bool {
    if digits.len() != 11 {
        return false;
    }
    let (body, check) = (number(&digits[..9]), number(&digits[9..]));
    let month = number(&digits[2..4]);
    is_day_month(number(&digits[4..6]), month)
        && (97 - body % 97 == check || 97 - (2_000_000_000 + body) % 97 == check)
}

fn cpf(digits: &[u8]) -> bool {
    let check = |long: usize| {
        let sum: u32 = digits[..long].iter().zip((2..=u32::try_from(long).unwrap_or(0) + 1).rev()).map(|(&d, w)| u32::from(d) * w).sum();
        u32::from(digits[long]) == (sum * 10 % 11) % 10
    };
    digits.len() == 11 && varied(digits) && check(9) && check(10)
}

fn ean13(digits: &[u8]) -> bool {
    digits.len() == 13 && dot(digits, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]).is_multiple_of(10)
}

/// Mod 11 with a last digit or `K`.
fn rut(text: &[u8]) -> bool {
    let Some((last, body)) = text.split_last() else { return false };
    let body = digits(body);
    let sum: u32 = body.iter().rev().zip([2u32, 3, 4, 5, 6, 7].iter().cycle()).map(|(&d, w)| u32::from(d) * w).sum();
    let check = match 11 - sum % 11 {
        11 => b'0',
        10 => b'K',
        n => u8::try_from(n).map_or(b'?', |n| b'0' + n),
    };
    varied(&body) && last.eq_ignore_ascii_case(&check)
}

/// GB 11643: a date of birth, and ISO 7064 mod 11-2.
fn chinese(text: &[u8]) -> bool {
    if text.len() != 18 {
        return false;
    }
    let body = digits(&text[..17]);
    let born = (number(&body[6..10]), number(&body[10..12]), number(&body[12..14]));
    let sum = dot(&body, &[7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]);
    let check = b"10X98765432"[sum as usize % 11];
    body.len() == 17
        && (1900..2100).contains(&born.0)
        && is_day_month(born.2, born.1)
        && text[17].eq_ignore_ascii_case(&check)
}

fn birth_number(digits: &[u8]) -> bool {
    let month = number(&digits[2..4]) % 50;
    let month = if month > 20 { month - 20 } else { month };
    digits.len() == 10 && is_day_month(number(&digits[4..6]), month) && number(digits).is_multiple_of(11)
}

/// In the first ten digits one digit stands twice or three times and no other does; ISO 7064 mod 11, 10.
fn steuer_id(digits: &[u8]) -> bool {
    if digits.len() != 11 || digits[0] == 0 {
        return false;
    }
    let times = (0..10u8).map(|d| digits[..10].iter().filter(|&&x| x == d).count());
    let (mut repeated, mut most) = (0, 0);
    for count in times {
        repeated += usize::from(count > 1);
        most = most.max(count);
    }
    let product = digits[..10].iter().fold(10u32, |product, &d| {
        let sum = (u32::from(d) + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    repeated == 1 && most <= 3 && (11 - product) % 10 == u32::from(digits[10])
}

fn day_month(digits: &[u8]) -> bool {
    digits.len() == 10 && is_day_month(number(&digits[..2]), number(&digits[2..4]))
}

const DNI: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";

fn dni(text: &[u8]) -> bool {
    let lead = match text.first().map(u8::to_ascii_uppercase) {
        Some(b'Y') => 1,
        Some(b'Z') => 2,
        _ => 0,
    };
    let body = digits(text);
    let foreign = text.first().is_some_and(u8::is_ascii_alphabetic);
    let value = number(&body) + if foreign { lead * 10_000_000 } else { 0 };
    varied(&body) && text.last().is_some_and(|b| b.to_ascii_uppercase() == DNI[usize::try_from(value % 23).unwrap_or(0)])
}

fn hetu(text: &[u8]) -> bool {
    let figures = digits(&text[..text.len() - 1]);
    figures.len() == 9
        && is_day_month(number(&figures[..2]), number(&figures[2..4]))
        && text.last().is_some_and(|b| {
            b.to_ascii_uppercase()
                == b"0123456789ABCDEFHJKLMNPRSTUVWXY"[usize::try_from(number(&figures) % 31).unwrap_or(0)]
        })
}

/// Sex, year, month, department (2A and 2B for Corsica), commune, order; 97 less the rest.
fn nir(text: &[u8]) -> bool {
    let letters: Vec<u8> = text.iter().filter(|b| b.is_ascii_alphanumeric()).copied().collect();
    if letters.len() != 15 {
        return false;
    }
    let (minus, plain): (u64, Vec<u8>) = match letters[6].to_ascii_uppercase() {
        b'A' => (1_000_000, letters[..13].iter().map(|&b| if b.is_ascii_digit() { b } else { b'0' }).collect()),
        b'B' => (2_000_000, letters[..13].iter().map(|&b| if b.is_ascii_digit() { b } else { b'0' }).collect()),
        _ => (0, letters[..13].to_vec()),
    };
    let month = number(&digits(&letters[3..5]));
    let value = number(&digits(&plain)).saturating_sub(minus);
    matches!(month, 1..=12 | 20..=42 | 50..=99) && 97 - value % 97 == number(&digits(&letters[13..]))
}

/// HMRC NIM39110: prefixes that are never issued.
fn nino(text: &[u8]) -> bool {
    let lead: Vec<u8> = text[..2].iter().map(u8::to_ascii_uppercase).collect();
    ![b"BG", b"GB", b"KN", b"NK", b"NT", b"TN", b"ZZ"].iter().any(|never| lead == **never)
        && varied(&digits(text))
}

fn nhs(digits: &[u8]) -> bool {
    digits.len() == 10 && varied(digits) && {
        let check = 11 - dot(&digits[..9], &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        check != 10 && check % 11 == u32::from(digits[9])
    }
}

fn hong_kong(text: &[u8]) -> bool {
    let letters: Vec<u8> =
        text.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_uppercase).collect();
    let value = |b: u8| if b.is_ascii_digit() { u32::from(b - b'0') } else { u32::from(b - b'A') + 10 };
    let Some((&check, body)) = letters.split_last() else { return false };
    let first = if body.len() == 7 { 36 * 9 } else { 0 };
    let weights: &[u32] = if body.len() == 7 { &[8, 7, 6, 5, 4, 3, 2] } else { &[9, 8, 7, 6, 5, 4, 3, 2] };
    let sum: u32 = first + body.iter().zip(weights).map(|(&b, w)| value(b) * w).sum::<u32>();
    let check = if check == b'A' { 10 } else { value(check) };
    (sum + check).is_multiple_of(11)
}

/// Ministerial decree of 23 December 1976: odd places have values of their own.
fn codice_fiscale(text: &[u8]) -> bool {
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let value = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b.to_ascii_uppercase() - b'A' };
    let Some((last, body)) = text.split_last().filter(|(_, body)| body.len() == 15) else { return false };
    let sum: u32 = body
        .iter()
        .enumerate()
        .map(|(place, &b)| if place % 2 == 0 { ODD[usize::from(value(b))] } else { u32::from(value(b)) })
        .sum();
    u32::from(value(*last)) == sum % 26
}

fn korean(digits: &[u8]) -> bool {
    digits.len() == 13 && is_day_month(number(&digits[4..6]), number(&digits[2..4]))
}

/// RENAPO: the base-37 alphabet with its N-tilde, last digit 10 less the rest.
fn curp(text: &[u8]) -> bool {
    let value = |b: u8| match b.to_ascii_uppercase() {
        b @ b'0'..=b'9' => u32::from(b - b'0'),
        b @ b'A'..=b'N' => u32::from(b - b'A') + 10,
        b => u32::from(b - b'A') + 11,
    };
    let Some((last, body)) = text.split_last().filter(|(_, body)| body.len() == 17) else { return false };
    let sum: u32 = body.iter().zip((2..=18u32).rev()).map(|(&b, w)| value(b) * w).sum();
    is_day_month(number(&digits(&text[8..10])), number(&digits(&text[6..8])))
        && (10 - sum % 10) % 10 == value(*last)
}

fn bsn(digits: &[u8]) -> bool {
    digits.len() == 9
        && varied(digits)
        && (dot(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) + 11 - u32::from(digits[8])).is_multiple_of(11)
}

fn norwegian(digits: &[u8]) -> bool {
    let check = |at: usize, weights: &[u32]| (11 - dot(&digits[..at], weights) % 11) % 11 == u32::from(digits[at]);
    digits.len() == 11
        && is_day_month(number(&digits[..2]) % 40, number(&digits[2..4]) % 40)
        && check(9, &[3, 7, 6, 1, 8, 9, 4, 5, 2])
        && check(10, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2])
}

fn pesel(digits: &[u8]) -> bool {
    digits.len() == 11
        && is_day_month(number(&digits[4..6]), number(&digits[2..4]) % 20)
        && (10 - dot(&digits[..10], &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]) % 10) % 10 == u32::from(digits[10])
}

fn nif(digits: &[u8]) -> bool {
    digits.len() == 9 && varied(digits) && {
        let rest = dot(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        (if rest < 2 { 0 } else { 11 - rest }) == u32::from(digits[8])
    }
}

fn cnp(digits: &[u8]) -> bool {
    digits.len() == 13 && is_day_month(number(&digits[5..7]), number(&digits[3..5])) && {
        let rest = dot(&digits[..12], &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11;
        (if rest == 10 { 1 } else { rest }) == u32::from(digits[12])
    }
}

/// Ten digits of which the first six are a day (a coordination number has 60 more), Luhn.
fn swedish(digits: &[u8]) -> bool {
    let ten = &digits[digits.len().saturating_sub(10)..];
    ten.len() == 10 && is_day_month(number(&ten[4..6]) % 60, number(&ten[2..4])) && luhn(ten)
}

fn nric(text: &[u8]) -> bool {
    let upper: Vec<u8> = text.iter().map(u8::to_ascii_uppercase).collect();
    let [lead, .., last] = upper.as_slice() else { return false };
    let extra = match lead {
        b'T' | b'G' => 4,
        b'M' => 3,
        _ => 0,
    };
    let rest = (dot(&digits(text), &[2, 7, 6, 5, 4, 3, 2]) + extra) as usize % 11;
    let check = match lead {
        b'S' | b'T' => b"JZIHGFEDCBA"[rest],
        b'M' => b"XWUTRQPNJLK"[10 - rest],
        _ => b"XWUTRQPNMLK"[rest],
    };
    *last == check
}

fn turkish(digits: &[u8]) -> bool {
    digits.len() == 11 && digits[0] != 0 && {
        let odd = dot(&digits[..9], &[1, 0, 1, 0, 1, 0, 1, 0, 1]);
        let even = dot(&digits[..8], &[0, 1, 0, 1, 0, 1, 0, 1]);
        let sum: u32 = digits[..10].iter().map(|&d| u32::from(d)).sum();
        (odd * 7 + 90 - even) % 10 == u32::from(digits[9]) && sum % 10 == u32::from(digits[10])
    }
}

fn south_african(digits: &[u8]) -> bool {
    digits.len() == 13
        && is_day_month(number(&digits[4..6]), number(&digits[2..4]))
        && digits[10] < 3
        && luhn(digits)
}
