//! What masks look for by its shape: the detectors that come along, and those that a policy declares.

use crate::expression::{Edge, Rule};

/// What a detector finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detector {
    /// Payment card number, 12 to 19 digits with or without separators, Luhn-checked (ISO/IEC 7812-1).
    Card,
    /// E-mail address.
    Email,
    /// US social security number, or individual taxpayer identification number.
    UsSsn,
    /// API key or token of a well-known issuer, by its published shape.
    ApiKey,
    /// JSON Web Token (RFC 7519).
    Jwt,
    /// PEM private key block.
    PrivateKey,
    /// International bank account number (ISO 13616), of its country's length, mod 97.
    Iban,
    /// Telephone number, international or as countries write it.
    Phone,
    /// IPv4 or IPv6 address.
    Ip,
    /// High entropy after a word that announces a secret.
    Secret,
    /// Australian tax file and Medicare numbers.
    IdAu,
    /// Belgian national numbers.
    IdBe,
    /// Brazilian CPF.
    IdBr,
    /// Canadian social insurance numbers.
    IdCa,
    /// Swiss AHV numbers.
    IdCh,
    /// Chilean RUT.
    IdCl,
    /// Chinese resident identity numbers.
    IdCn,
    /// Czech and Slovak birth numbers.
    IdCz,
    /// German tax identification numbers.
    IdDe,
    /// Danish CPR numbers.
    IdDk,
    /// Spanish DNI and NIE.
    IdEs,
    /// Finnish personal identity codes.
    IdFi,
    /// French NIR.
    IdFr,
    /// UK National Insurance and NHS numbers.
    IdGb,
    /// Hong Kong identity cards.
    IdHk,
    /// Indian Aadhaar and PAN.
    IdIn,
    /// Italian codice fiscale.
    IdIt,
    /// South Korean resident registration numbers.
    IdKr,
    /// Mexican CURP.
    IdMx,
    /// Dutch BSN.
    IdNl,
    /// Norwegian birth numbers.
    IdNo,
    /// Polish PESEL.
    IdPl,
    /// Portuguese NIF.
    IdPt,
    /// Romanian CNP.
    IdRo,
    /// Swedish personal identity numbers.
    IdSe,
    /// Singapore NRIC and FIN.
    IdSg,
    /// Turkish identity numbers.
    IdTr,
    /// South African identity numbers.
    IdZa,
}

impl Detector {
    /// All of them.
    pub const ALL: [Self; 38] = [
        Self::Card,
        Self::Email,
        Self::UsSsn,
        Self::ApiKey,
        Self::Jwt,
        Self::PrivateKey,
        Self::Iban,
        Self::Phone,
        Self::Ip,
        Self::Secret,
        Self::IdAu,
        Self::IdBe,
        Self::IdBr,
        Self::IdCa,
        Self::IdCh,
        Self::IdCl,
        Self::IdCn,
        Self::IdCz,
        Self::IdDe,
        Self::IdDk,
        Self::IdEs,
        Self::IdFi,
        Self::IdFr,
        Self::IdGb,
        Self::IdHk,
        Self::IdIn,
        Self::IdIt,
        Self::IdKr,
        Self::IdMx,
        Self::IdNl,
        Self::IdNo,
        Self::IdPl,
        Self::IdPt,
        Self::IdRo,
        Self::IdSe,
        Self::IdSg,
        Self::IdTr,
        Self::IdZa,
    ];

    /// The name that stands for every national id in `find`.
    pub const NATIONAL_IDS: &str = "national-id";

    /// Those meant by a name in `find`: one, or all national ids. `None`: no built-in detector has this name.
    #[must_use]
    pub fn named(text: &str) -> Option<Vec<Self>> {
        let meant = |detector: &Self| match text {
            Self::NATIONAL_IDS => detector.is_national_id(),
            "id-us" => *detector == Self::UsSsn,
            _ => detector.name() == text,
        };
        let named: Vec<Self> = Self::ALL.into_iter().filter(meant).collect();
        (!named.is_empty()).then_some(named)
    }

    /// Its name in policy files: `card`, `email`, `us-ssn`, `id-gb`, ...
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Email => "email",
            Self::UsSsn => "us-ssn",
            Self::ApiKey => "api-key",
            Self::Jwt => "jwt",
            Self::PrivateKey => "private-key",
            Self::Iban => "iban",
            Self::Phone => "phone",
            Self::Ip => "ip",
            Self::Secret => "secret",
            Self::IdAu => "id-au",
            Self::IdBe => "id-be",
            Self::IdBr => "id-br",
            Self::IdCa => "id-ca",
            Self::IdCh => "id-ch",
            Self::IdCl => "id-cl",
            Self::IdCn => "id-cn",
            Self::IdCz => "id-cz",
            Self::IdDe => "id-de",
            Self::IdDk => "id-dk",
            Self::IdEs => "id-es",
            Self::IdFi => "id-fi",
            Self::IdFr => "id-fr",
            Self::IdGb => "id-gb",
            Self::IdHk => "id-hk",
            Self::IdIn => "id-in",
            Self::IdIt => "id-it",
            Self::IdKr => "id-kr",
            Self::IdMx => "id-mx",
            Self::IdNl => "id-nl",
            Self::IdNo => "id-no",
            Self::IdPl => "id-pl",
            Self::IdPt => "id-pt",
            Self::IdRo => "id-ro",
            Self::IdSe => "id-se",
            Self::IdSg => "id-sg",
            Self::IdTr => "id-tr",
            Self::IdZa => "id-za",
        }
    }

    /// Whether it finds numbers that a state gives to persons.
    #[must_use]
    pub fn is_national_id(self) -> bool {
        self == Self::UsSsn || self.name().starts_with("id-")
    }

    /// Whether the record hides what it finds whatever the policy says. An address is what an auditor looks for, and
    /// is no credential: it is hidden in the record of a target only where a mask of that target names it.
    #[must_use]
    pub fn is_always_recorded_hidden(self) -> bool {
        self != Self::Ip
    }
}

/// A detector that a policy directory declares: `[[detector]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectorNoun {
    /// Unique name, unlike any built-in one.
    pub name: String,
    /// What a find looks like: a regular expression of bounded length.
    pub pattern: String,
    /// Words of which one must stand shortly before a find, or in the name of its member; none: anywhere.
    pub keywords: Vec<String>,
    /// Thousandths of a bit of entropy per character that a find has at least.
    pub min_entropy_milli: u32,
    /// What may not stand beside a find.
    pub edge: Edge,
}

impl DetectorNoun {
    /// The rule it stands for.
    #[must_use]
    pub fn rule(&self) -> Rule {
        Rule {
            pattern: self.pattern.clone(),
            keywords: self.keywords.clone(),
            entropy_milli: self.min_entropy_milli,
            edge: self.edge,
            ..Rule::default()
        }
    }
}
