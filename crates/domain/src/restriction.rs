//! Restriction: what is known of a person is kept, and nothing else is done with it (GDPR, Art. 18).

use std::str::FromStr;

use time::OffsetDateTime;

use super::consent::words;

words! {
    /// Why a person's data rest. A word, not a text: it stands in the audit log.
    Ground(InvalidGround: "a reason is accuracy_contested, unlawful_processing, legal_claims, objection or other") {
        /// Art. 18(1)(a): until it is known who is right.
        AccuracyContested = "accuracy_contested",
        /// Art. 18(1)(b): the person wants no erasure.
        UnlawfulProcessing = "unlawful_processing",
        /// Art. 18(1)(c): the person needs them for claims.
        LegalClaims = "legal_claims",
        /// Art. 18(1)(d): until it is known whose grounds are stronger.
        Objection = "objection",
        /// Another law's, or the tenant's own.
        Other = "other",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restriction {
    pub ground: Ground,
    pub since: OffsetDateTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grounds_are_read_as_they_are_written() {
        for ground in Ground::ALL {
            assert_eq!(ground.as_str().parse(), Ok(*ground));
        }
        assert_eq!("Other".parse::<Ground>(), Err(InvalidGround));
    }
}
