//! Check digits of the numbers that states give to persons, country by country.
//!
//! Takes what has the right shape already; a number whose digits are all alike is no number of anybody.

use super::super::number::luhn;
use super::{digits, dot, is_day_month, number, varied};

/// J. Verhoeff, 1969: the dihedral group D5.
pub(super) fn verhoeff(digits: &[u8]) -> bool {
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
pub(super) fn itin(digits: &[u8]) -> bool {
    digits.len() == 9
        && digits[0] == 9
        && matches!(number(&digits[3..5]), 50..=65 | 70..=88 | 90..=92 | 94..=99)
        && digits[5..] != [0; 4]
}

pub(super) fn au_medicare(digits: &[u8]) -> bool {
    matches!(digits, [2..=6, ..]) && digits.len() >= 10 && {
        u32::from(digits[8]) == dot(&digits[..8], &[1, 3, 7, 9, 1, 3, 7, 9]) % 10 && digits[9] != 0
    }
}

pub(super) fn belgian(digits: &[u8]) -> bool {
    if digits.len() != 11 {
        return false;
    }
    let (body, check) = (number(&digits[..9]), number(&digits[9..]));
    let month = number(&digits[2..4]);
    is_day_month(number(&digits[4..6]), month)
        && (97 - body % 97 == check || 97 - (2_000_000_000 + body) % 97 == check)
}

pub(super) fn cpf(digits: &[u8]) -> bool {
    let check = |long: usize| {
        let sum: u32 = digits[..long]
            .iter()
            .zip((2..=u32::try_from(long).unwrap_or(0) + 1).rev())
            .map(|(&d, w)| u32::from(d) * w)
            .sum();
        u32::from(digits[long]) == (sum * 10 % 11) % 10
    };
    digits.len() == 11 && varied(digits) && check(9) && check(10)
}

pub(super) fn ean13(digits: &[u8]) -> bool {
    digits.len() == 13 && dot(digits, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]).is_multiple_of(10)
}

/// Mod 11 with a last digit or `K`.
pub(super) fn rut(text: &[u8]) -> bool {
    let Some((last, body)) = text.split_last() else { return false };
    let body = digits(body);
    let sum: u32 =
        body.iter().rev().zip([2u32, 3, 4, 5, 6, 7].iter().cycle()).map(|(&d, w)| u32::from(d) * w).sum();
    let check = match 11 - sum % 11 {
        11 => b'0',
        10 => b'K',
        n => u8::try_from(n).map_or(b'?', |n| b'0' + n),
    };
    varied(&body) && last.eq_ignore_ascii_case(&check)
}

/// GB 11643: a date of birth, and ISO 7064 mod 11-2.
pub(super) fn chinese(text: &[u8]) -> bool {
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

pub(super) fn birth_number(digits: &[u8]) -> bool {
    let month = number(&digits[2..4]) % 50;
    let month = if month > 20 { month - 20 } else { month };
    digits.len() == 10 && is_day_month(number(&digits[4..6]), month) && number(digits).is_multiple_of(11)
}

/// In the first ten digits one digit stands twice or three times and no other does; ISO 7064 mod 11, 10.
pub(super) fn steuer_id(digits: &[u8]) -> bool {
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

pub(super) fn day_month(digits: &[u8]) -> bool {
    digits.len() == 10 && is_day_month(number(&digits[..2]), number(&digits[2..4]))
}

const DNI: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";

pub(super) fn dni(text: &[u8]) -> bool {
    let lead = match text.first().map(u8::to_ascii_uppercase) {
        Some(b'Y') => 1,
        Some(b'Z') => 2,
        _ => 0,
    };
    let body = digits(text);
    let foreign = text.first().is_some_and(u8::is_ascii_alphabetic);
    let value = number(&body) + if foreign { lead * 10_000_000 } else { 0 };
    varied(&body)
        && text
            .last()
            .is_some_and(|b| b.to_ascii_uppercase() == DNI[usize::try_from(value % 23).unwrap_or(0)])
}

pub(super) fn hetu(text: &[u8]) -> bool {
    let figures = digits(&text[..text.len() - 1]);
    figures.len() == 9
        && is_day_month(number(&figures[..2]), number(&figures[2..4]))
        && text.last().is_some_and(|b| {
            b.to_ascii_uppercase()
                == b"0123456789ABCDEFHJKLMNPRSTUVWXY"[usize::try_from(number(&figures) % 31).unwrap_or(0)]
        })
}

/// Sex, year, month, department (2A and 2B for Corsica), commune, order; 97 less the rest.
pub(super) fn nir(text: &[u8]) -> bool {
    let letters: Vec<u8> = text.iter().filter(|b| b.is_ascii_alphanumeric()).copied().collect();
    if letters.len() != 15 {
        return false;
    }
    let (minus, plain): (u64, Vec<u8>) = match letters[6].to_ascii_uppercase() {
        b'A' => {
            (1_000_000, letters[..13].iter().map(|&b| if b.is_ascii_digit() { b } else { b'0' }).collect())
        }
        b'B' => {
            (2_000_000, letters[..13].iter().map(|&b| if b.is_ascii_digit() { b } else { b'0' }).collect())
        }
        _ => (0, letters[..13].to_vec()),
    };
    let month = number(&digits(&letters[3..5]));
    let value = number(&digits(&plain)).saturating_sub(minus);
    matches!(month, 1..=12 | 20..=42 | 50..=99) && 97 - value % 97 == number(&digits(&letters[13..]))
}

/// HMRC NIM39110: prefixes that are never issued.
pub(super) fn nino(text: &[u8]) -> bool {
    let lead: Vec<u8> = text[..2].iter().map(u8::to_ascii_uppercase).collect();
    ![b"BG", b"GB", b"KN", b"NK", b"NT", b"TN", b"ZZ"].iter().any(|never| lead == **never)
        && varied(&digits(text))
}

pub(super) fn nhs(digits: &[u8]) -> bool {
    digits.len() == 10 && varied(digits) && {
        let check = 11 - dot(&digits[..9], &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        check != 10 && check % 11 == u32::from(digits[9])
    }
}

pub(super) fn hong_kong(text: &[u8]) -> bool {
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
pub(super) fn codice_fiscale(text: &[u8]) -> bool {
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

pub(super) fn korean(digits: &[u8]) -> bool {
    digits.len() == 13 && is_day_month(number(&digits[4..6]), number(&digits[2..4]))
}

/// RENAPO: the base-37 alphabet with its N-tilde, last digit 10 less the rest.
pub(super) fn curp(text: &[u8]) -> bool {
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

pub(super) fn bsn(digits: &[u8]) -> bool {
    digits.len() == 9
        && varied(digits)
        && (dot(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) + 11 - u32::from(digits[8])).is_multiple_of(11)
}

pub(super) fn norwegian(digits: &[u8]) -> bool {
    let check =
        |at: usize, weights: &[u32]| (11 - dot(&digits[..at], weights) % 11) % 11 == u32::from(digits[at]);
    digits.len() == 11
        && is_day_month(number(&digits[..2]) % 40, number(&digits[2..4]) % 40)
        && check(9, &[3, 7, 6, 1, 8, 9, 4, 5, 2])
        && check(10, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2])
}

pub(super) fn pesel(digits: &[u8]) -> bool {
    digits.len() == 11
        && is_day_month(number(&digits[4..6]), number(&digits[2..4]) % 20)
        && (10 - dot(&digits[..10], &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]) % 10) % 10 == u32::from(digits[10])
}

pub(super) fn nif(digits: &[u8]) -> bool {
    digits.len() == 9 && varied(digits) && {
        let rest = dot(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        (if rest < 2 { 0 } else { 11 - rest }) == u32::from(digits[8])
    }
}

pub(super) fn cnp(digits: &[u8]) -> bool {
    digits.len() == 13 && is_day_month(number(&digits[5..7]), number(&digits[3..5])) && {
        let rest = dot(&digits[..12], &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11;
        (if rest == 10 { 1 } else { rest }) == u32::from(digits[12])
    }
}

/// Ten digits of which the first six are a day (a coordination number has 60 more), Luhn.
pub(super) fn swedish(digits: &[u8]) -> bool {
    let ten = &digits[digits.len().saturating_sub(10)..];
    ten.len() == 10 && is_day_month(number(&ten[4..6]) % 60, number(&ten[2..4])) && luhn(ten)
}

pub(super) fn nric(text: &[u8]) -> bool {
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

pub(super) fn turkish(digits: &[u8]) -> bool {
    digits.len() == 11 && digits[0] != 0 && {
        let odd = dot(&digits[..9], &[1, 0, 1, 0, 1, 0, 1, 0, 1]);
        let even = dot(&digits[..8], &[0, 1, 0, 1, 0, 1, 0, 1]);
        let sum: u32 = digits[..10].iter().map(|&d| u32::from(d)).sum();
        (odd * 7 + 90 - even) % 10 == u32::from(digits[9]) && sum % 10 == u32::from(digits[10])
    }
}

pub(super) fn south_african(digits: &[u8]) -> bool {
    digits.len() == 13
        && is_day_month(number(&digits[4..6]), number(&digits[2..4]))
        && digits[10] < 3
        && luhn(digits)
}
