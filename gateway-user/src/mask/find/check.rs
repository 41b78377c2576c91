//! What a number must satisfy beyond its shape: check digits, lengths, dates. Facts of public standards, as functions
//! of the matched bytes.
//!
//! A number that only looks right is no find.

mod national;

use super::number::luhn;

/// A check by the name rules use.
pub(super) type Check = fn(&[u8]) -> bool;

/// The check of this name.
pub(super) fn named(name: &str) -> Option<Check> {
    CHECKS.iter().find(|(known, _)| *known == name).map(|(_, check)| *check)
}

const CHECKS: &[(&str, Check)] = &[
    ("luhn", |text| luhn(&digits(text))),
    ("verhoeff", |text| national::verhoeff(&digits(text))),
    ("iban", iban),
    ("ipv4", ipv4),
    ("ipv6", ipv6),
    ("phone-international", |text| counts(text, 8, 15)),
    ("phone-nanp", |text| one_separator(text)),
    ("phone-trunk", |text| counts(text, 9, 11) && one_separator(text) && !date(text)),
    ("phone-near", |text| counts(text, 7, 15) && !date(text)),
    ("phone-grouped", |text| counts(text, 7, 13) && groups(text).len() > 1 && !date(text)),
    ("itin", |text| national::itin(&digits(text))),
    ("au-tfn", |text| weighted(&digits(text), &[1, 4, 3, 7, 5, 8, 6, 9, 10], 11)),
    ("au-medicare", |text| national::au_medicare(&digits(text))),
    ("be", |text| national::belgian(&digits(text))),
    ("br-cpf", |text| national::cpf(&digits(text))),
    ("ch-ahv", |text| national::ean13(&digits(text))),
    ("cl-rut", national::rut),
    ("cn", national::chinese),
    ("cz", |text| national::birth_number(&digits(text))),
    ("de-steuer-id", |text| national::steuer_id(&digits(text))),
    ("dk-cpr", |text| national::day_month(&digits(text))),
    ("es-dni", national::dni),
    ("fi-hetu", national::hetu),
    ("fr-nir", national::nir),
    ("gb-nino", national::nino),
    ("gb-nhs", |text| national::nhs(&digits(text))),
    ("hk-id", national::hong_kong),
    ("it-cf", national::codice_fiscale),
    ("kr-rrn", |text| national::korean(&digits(text))),
    ("mx-curp", national::curp),
    ("nl-bsn", |text| national::bsn(&digits(text))),
    ("no", |text| national::norwegian(&digits(text))),
    ("pl-pesel", |text| national::pesel(&digits(text))),
    ("pt-nif", |text| national::nif(&digits(text))),
    ("ro-cnp", |text| national::cnp(&digits(text))),
    ("se", |text| national::swedish(&digits(text))),
    ("sg-nric", national::nric),
    ("tr", |text| national::turkish(&digits(text))),
    ("za", |text| national::south_african(&digits(text))),
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
    seen.all(|b| b == first) || !text[end..].is_empty()
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

/// Countries of the IBAN registry (ISO 13616), each with the length of its numbers.
const IBAN_LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 \
    ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 \
    LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 \
    PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 \
    YE30";

/// A country of the registry, its length, and mod 97 (ISO/IEC 7064).
fn iban(text: &[u8]) -> bool {
    let letters: Vec<u8> =
        text.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_uppercase).collect();
    let known = IBAN_LENGTHS.split_ascii_whitespace().any(|entry| {
        let (country, long) = entry.split_at(2);
        letters.starts_with(country.as_bytes()) && long.parse() == Ok(letters.len())
    });
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
