//! The published shapes of API keys: a literal that issuers put in front, and the alphabet and length of what follows.
//!
//! Each shape is written from the issuer's own documentation of its token format. A shape says what a key must look
//! like, never which key it is; published placeholders are hidden like real ones.

use super::class::{ALNUM, B64, DIGIT, DOT, EQUALS, HEX, TILDE, UPPER, URL, WORD};

/// One shape: `literal`, then at least `min` and at most `max` (0: any number) bytes of `class`.
pub(super) struct Shape {
    pub(super) literal: &'static str,
    pub(super) class: u16,
    pub(super) min: usize,
    pub(super) max: usize,
    /// What the first `min` bytes must hold where the literal alone is an ordinary word.
    pub(super) mixed: Mixed,
    /// What must stand right before the literal and belongs to the key: class, least, most.
    pub(super) behind: Option<(u16, usize, usize)>,
}

/// What tells a key from words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mixed {
    /// Nothing is asked.
    Any,
    /// Letters and digits.
    Digits,
    /// Letters of both cases, upper case also after the first.
    Cases,
}

const fn at_least(literal: &'static str, class: u16, min: usize) -> Shape {
    Shape { literal, class, min, max: 0, mixed: Mixed::Any, behind: None }
}

const fn exactly(literal: &'static str, class: u16, length: usize) -> Shape {
    Shape { literal, class, min: length, max: length, mixed: Mixed::Any, behind: None }
}

const fn mixed(literal: &'static str, class: u16, min: usize) -> Shape {
    Shape { literal, class, min, max: 0, mixed: Mixed::Digits, behind: None }
}

const fn behind(class: u16, least: usize, most: usize, shape: Shape) -> Shape {
    Shape { behind: Some((class, least, most)), ..shape }
}

const URL_DOT: u16 = URL | DOT;
const B64_PADDED: u16 = B64 | EQUALS;

/// All shapes, by issuer.
pub(super) const SHAPES: &[Shape] = &[
    // Amazon Web Services: access key ids, session tokens, Bedrock keys.
    exactly("AKIA", UPPER, 16),
    exactly("ASIA", UPPER, 16),
    exactly("ABIA", UPPER, 16),
    exactly("ACCA", UPPER, 16),
    at_least("IQoJb3JpZ2luX2Vj", B64_PADDED, 50),
    at_least("FwoGZXIvYXdz", B64_PADDED, 50),
    at_least("FQoGZXIvYXdz", B64_PADDED, 50),
    at_least("ABSK", B64_PADDED, 100),
    at_least("bedrock-api-key-", B64_PADDED, 20),
    // Source code hosts.
    at_least("ghp_", WORD, 36),
    at_least("gho_", WORD, 36),
    at_least("ghu_", WORD, 36),
    at_least("ghs_", WORD, 36),
    at_least("ghr_", WORD, 36),
    at_least("github_pat_", WORD, 36),
    at_least("glpat-", URL_DOT, 20),
    at_least("gldt-", URL_DOT, 20),
    at_least("glrt-", URL_DOT, 20),
    at_least("glrtr-", URL_DOT, 20),
    at_least("glcbt-", URL_DOT, 20),
    at_least("glptt-", URL_DOT, 20),
    at_least("glft-", URL_DOT, 20),
    at_least("glsoat-", URL_DOT, 20),
    at_least("glimt-", URL_DOT, 20),
    at_least("glagent-", URL_DOT, 20),
    at_least("gloas-", URL_DOT, 20),
    at_least("glffct-", URL_DOT, 20),
    at_least("GR1348941", URL, 20),
    at_least("ATATT3", URL | EQUALS, 100),
    at_least("ATCTT3", URL | EQUALS, 100),
    at_least("ATBB", URL | EQUALS, 24),
    at_least("sgp_", WORD, 40),
    at_least("bkua_", HEX, 40),
    at_least("CCIPAT_", WORD, 40),
    at_least("CCIPRJ_", WORD, 40),
    // Package registries.
    at_least("npm_", ALNUM, 36),
    at_least("pypi-", URL, 50),
    at_least("rubygems_", HEX, 48),
    exactly("oy2", ALNUM, 43),
    at_least("dckr_pat_", URL, 24),
    at_least("dckr_oat_", URL, 24),
    at_least("AKCp", ALNUM, 60),
    at_least("cmVmdGtu", ALNUM, 56),
    at_least("CLOJARS_", ALNUM, 60),
    // Chat.
    at_least("xoxa-", URL, 20),
    at_least("xoxb-", URL, 20),
    at_least("xoxc-", URL, 20),
    at_least("xoxd-", URL | B64, 20),
    at_least("xoxe-", URL, 20),
    at_least("xoxo-", URL, 20),
    at_least("xoxp-", URL, 20),
    at_least("xoxr-", URL, 20),
    at_least("xoxs-", URL, 20),
    at_least("xapp-", URL, 20),
    at_least("hooks.slack.com/services/", B64, 30),
    at_least("discord.com/api/webhooks/", URL | B64, 40),
    behind(DIGIT, 8, 10, at_least(":AA", URL, 32)),
    // Payments.
    at_least("sk_live_", WORD, 10),
    at_least("sk_test_", WORD, 10),
    at_least("rk_live_", WORD, 10),
    at_least("rk_test_", WORD, 10),
    at_least("sk_prod_", WORD, 10),
    at_least("rk_prod_", WORD, 10),
    at_least("whsec_", B64_PADDED, 24),
    at_least("sq0atp-", URL, 22),
    at_least("sq0csp-", URL, 40),
    at_least("EAAA", URL, 60),
    at_least("shpat_", HEX, 32),
    at_least("shpca_", HEX, 32),
    at_least("shppa_", HEX, 32),
    at_least("shpss_", HEX, 32),
    at_least("access-production-", URL, 36),
    at_least("access-sandbox-", URL, 36),
    at_least("EZAK", ALNUM, 54),
    at_least("EZTK", ALNUM, 54),
    // Model providers.
    at_least("sk-ant-", URL, 20),
    mixed("sk-proj-", URL, 20),
    mixed("sk-svcacct-", URL, 20),
    mixed("sk-admin-", URL, 20),
    mixed("sk-or-v1-", URL, 20),
    mixed("sk-", URL, 32),
    at_least("AIza", URL, 35),
    at_least("AQ.Ab8", URL, 30),
    exactly("hf_", ALNUM, 34),
    exactly("api_org_", ALNUM, 34),
    at_least("gsk_", ALNUM, 48),
    at_least("pplx-", ALNUM, 40),
    exactly("r8_", ALNUM, 37),
    at_least("xai-", ALNUM, 60),
    at_least("nvapi-", URL, 50),
    at_least("lsv2_pt_", WORD, 32),
    at_least("lsv2_sk_", WORD, 32),
    at_least("tvly-", URL, 24),
    at_least("pcsk_", WORD, 40),
    exactly("sk_", HEX, 48),
    // Clouds and infrastructure.
    at_least("ya29.", URL, 20),
    at_least("GOCSPX-", URL, 24),
    at_least("dop_v1_", HEX, 64),
    at_least("doo_v1_", HEX, 64),
    at_least("dor_v1_", HEX, 64),
    at_least("hvs.", URL_DOT, 20),
    at_least("hvb.", URL_DOT, 20),
    at_least("hvr.", URL_DOT, 20),
    behind(ALNUM, 14, 14, at_least(".atlasv1.", URL | EQUALS, 50)),
    behind(WORD | DOT | TILDE, 4, 4, Shape { max: 34, ..at_least("Q~", URL_DOT | TILDE, 31) }),
    at_least("AccountKey=", B64_PADDED, 40),
    at_least("SharedAccessKey=", B64_PADDED, 40),
    exactly("LTAI", ALNUM, 20),
    exactly("AKID", ALNUM, 32),
    at_least("dapi", HEX, 32),
    at_least("HRKU-", URL, 36),
    at_least("fo1_", URL, 40),
    at_least("fm1a_", B64_PADDED, 60),
    at_least("fm1r_", B64_PADDED, 60),
    at_least("fm2_", B64_PADDED, 60),
    at_least("sha256~", URL, 43),
    at_least("tskey-", URL, 20),
    at_least("pul-", HEX, 40),
    at_least("pscale_tkn_", URL_DOT, 32),
    at_least("pscale_pw_", URL_DOT, 32),
    at_least("pscale_oauth_", URL_DOT, 32),
    at_least("sbp_", HEX, 40),
    at_least("sb_secret_", URL, 20),
    at_least("nfp_", ALNUM, 36),
    at_least("dp.pt.", ALNUM, 40),
    at_least("dp.st.", URL_DOT, 40),
    at_least("dp.sa.", ALNUM, 40),
    exactly("API-", UPPER, 26),
    at_least("pnu_", ALNUM, 36),
    at_least("pnb_", ALNUM, 36),
    // Mail, monitoring, office.
    at_least("SG.", URL_DOT, 60),
    exactly("SK", HEX, 32),
    exactly("key-", HEX, 32),
    behind(HEX, 32, 32, Shape { max: 2, ..at_least("-us", DIGIT, 1) }),
    at_least("xkeysib-", URL, 64),
    mixed("re_", WORD, 30),
    at_least("glc_", B64_PADDED, 32),
    at_least("glsa_", WORD, 40),
    at_least("eyJrIjoi", B64_PADDED, 60),
    exactly("NRAK-", UPPER, 27),
    at_least("NRJS-", HEX, 19),
    at_least("sntrys_", WORD | B64_PADDED, 60),
    at_least("sntryu_", HEX, 64),
    at_least("dt0c01.", URL_DOT, 80),
    at_least("dt0s16.", URL_DOT, 80),
    at_least("EAA", ALNUM, 80),
    behind(DIGIT, 15, 16, exactly("|", URL, 27)),
    at_least("ntn_", ALNUM, 40),
    exactly("secret_", ALNUM, 43),
    at_least("lin_api_", ALNUM, 40),
    at_least("figd_", URL, 36),
    at_least("PMAK-", URL, 59),
    exactly("pat", ALNUM | DOT, 79),
    at_least("pat-na1-", URL, 36),
    at_least("pat-eu1-", URL, 36),
    at_least("tfp_", URL, 40),
    at_least("CFPAT-", URL, 40),
    at_least("rdme_", ALNUM, 60),
    exactly("4b1d", ALNUM, 38),
    at_least("ops_eyJ", URL | B64_PADDED, 100),
    at_least("AGE-SECRET-KEY-1", UPPER, 58),
    // Any issuer, where the text says what it is.
    mixed("Bearer ", URL_DOT | TILDE | B64_PADDED, 16),
    mixed("bearer ", URL_DOT | TILDE | B64_PADDED, 16),
    Shape { mixed: Mixed::Cases, ..at_least("Basic ", B64_PADDED, 12) },
];

/// Bytes of different value that a key's first `min` bytes have, if `min` is at least [`VARIED_FROM`]: `xxxxxxxx` is none.
pub(super) const VARIED_MIN: usize = 5;
/// See [`VARIED_MIN`].
pub(super) const VARIED_FROM: usize = 16;

/// Secrets that have no literal of their own but are exactly so long, and stand after a word that names their issuer.
pub(super) struct Announced {
    pub(super) words: &'static [&'static str],
    pub(super) class: u16,
    pub(super) length: usize,
    /// `8-4-4-4-12` hexadecimal digits.
    pub(super) uuid: bool,
}

/// See [`Announced`].
pub(super) const ANNOUNCED: &[Announced] = &[
    // AWS secret access keys.
    Announced { words: &["secret", "Secret", "SECRET"], class: B64, length: 40, uuid: false },
    Announced {
        words: &["heroku", "Heroku", "HEROKU", "snyk", "Snyk", "SNYK"],
        class: URL,
        length: 36,
        uuid: true,
    },
    Announced {
        words: &["jira", "JIRA", "atlassian", "ATLASSIAN", "confluence", "CONFLUENCE"],
        class: ALNUM,
        length: 24,
        uuid: false,
    },
];

/// Bytes of the longest literal or announcing word, and the most that a shape looks back.
pub(super) const LITERAL_BYTES_MAX: usize = 32;

const _: () = {
    let mut n = 0;
    while n < SHAPES.len() {
        assert!(SHAPES[n].literal.len() <= LITERAL_BYTES_MAX);
        if let Some((_, least, most)) = SHAPES[n].behind {
            assert!(least <= most && most <= LITERAL_BYTES_MAX);
        }
        n += 1;
    }
};
