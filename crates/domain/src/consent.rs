//! Consent: one person's permission for one purpose, with its whole life as a small state machine.
//!
//! ```text
//!            expires_at is reached
//!          ┌──────────────────────▶ expired ────┐
//!          │                                    │ withdraw
//!  granted ┼─────── withdraw ───────────────────┼─────────▶ withdrawn
//!          │                                    │ withdraw
//!          └──────────────────────▶ superseded ─┘
//!            the notice changed materially
//! ```
//! Only `granted` permits anything, and nothing leads back to it: who agrees again gives another consent.

use std::{fmt, str::FromStr};

use time::OffsetDateTime;

use super::{
    id::{ConsentId, NoticeId, SubjectId},
    notice::Generation,
};

/// What a person agreed to. Lower-case words joined by `_`, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Purpose(String);

impl Purpose {
    pub const LENGTH_MAX: usize = 64;

    /// One-to-one comparison of a fresh image with the person's own templates.
    pub fn face_verification() -> Self {
        Self("face_verification".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it takes biometric data, of which law is especially careful.
    pub fn is_biometric(&self) -> bool {
        self.0.starts_with("face_")
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a purpose is 1 to 64 characters of a-z, 0-9 and _, starting with a letter")]
pub struct InvalidPurpose;

impl FromStr for Purpose {
    type Err = InvalidPurpose;

    fn from_str(text: &str) -> Result<Self, InvalidPurpose> {
        let starts_with_letter = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if starts_with_letter && plain && text.len() <= Self::LENGTH_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPurpose)
        }
    }
}

/// A word out of a short list, as it is written in requests, answers and rows.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident($error:ident: $sentence:literal) { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error($sentence)]
        pub struct $error;

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or($error)
            }
        }
    )*};
}
pub(super) use words;

words! {
    /// How somebody said yes or no.
    Method(InvalidMethod: "a method is in_person, paper, web_form, app or phone") {
        InPerson = "in_person",
        Paper = "paper",
        WebForm = "web_form",
        App = "app",
        Phone = "phone",
    }
    /// Who agreed: the person, or for a minor whoever may.
    GivenBy(InvalidGivenBy: "a consent is given by self, parent or guardian") {
        Oneself = "self",
        Parent = "parent",
        Guardian = "guardian",
    }
}

/// What the tenant finds a document by: a signed form, a recording. It may name somebody, so it rests sealed and is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Reference(String);

impl Reference {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reference(…)")
    }
}

/// Yes or no: when, recorded by whom, said how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub at: OffsetDateTime,
    /// Id of the credential or officer that recorded it; unknown of rows from before it was kept.
    pub by: Option<String>,
    pub method: Option<Method>,
    pub evidence: Option<Reference>,
}

/// What the person was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownNotice {
    /// As the tenant names it.
    pub version: String,
    /// Where it is registered here.
    pub id: Option<NoticeId>,
    pub generation: Generation,
}

/// Where a consent stands at a given moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsentState {
    Granted,
    Withdrawn,
    Expired,
    /// The notice has changed materially: the person has to be asked again.
    Superseded,
}

impl ConsentState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    pub id: ConsentId,
    pub subject: SubjectId,
    pub purpose: Purpose,
    pub notice: ShownNotice,
    pub granted: Statement,
    pub given_by: GivenBy,
    /// The parent or guardian.
    pub guardian: Option<Reference>,
    pub expires_at: Option<OffsetDateTime>,
    pub withdrawn: Option<Statement>,
    /// When it was read, notices of a later generation were there.
    pub superseded: bool,
}

impl Consent {
    /// Withdrawal wins over all else: it is what the person said.
    pub fn state(&self, now: OffsetDateTime) -> ConsentState {
        if self.withdrawn.is_some() {
            ConsentState::Withdrawn
        } else if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            ConsentState::Expired
        } else if self.superseded {
            ConsentState::Superseded
        } else {
            ConsentState::Granted
        }
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);

    fn said(at: OffsetDateTime) -> Statement {
        Statement { at, by: Some("cli_1".to_owned()), method: Some(Method::Paper), evidence: None }
    }

    fn consent() -> Consent {
        Consent {
            id: ConsentId::generate(),
            subject: SubjectId::generate(),
            purpose: Purpose::face_verification(),
            notice: ShownNotice { version: "2026-11".to_owned(), id: None, generation: Generation(0) },
            granted: said(NOW),
            given_by: GivenBy::Oneself,
            guardian: None,
            expires_at: None,
            withdrawn: None,
            superseded: false,
        }
    }

    #[test]
    fn consent_ends_at_its_expiry_to_the_instant() {
        let expiring = Consent { expires_at: Some(NOW), ..consent() };
        assert_eq!(expiring.state(NOW - Duration::nanoseconds(1)), ConsentState::Granted);
        assert_eq!(expiring.state(NOW), ConsentState::Expired);
    }

    #[test]
    fn every_state_leads_to_withdrawn_and_none_back_to_granted() {
        let expired = Consent { expires_at: Some(NOW), ..consent() };
        let superseded = Consent { superseded: true, ..consent() };
        for (from, state) in [
            (consent(), ConsentState::Granted),
            (expired, ConsentState::Expired),
            (superseded, ConsentState::Superseded),
        ] {
            assert_eq!(from.state(NOW), state);
            let withdrawn = Consent { withdrawn: Some(said(NOW)), ..from };
            assert_eq!(withdrawn.state(NOW), ConsentState::Withdrawn);
        }
    }

    #[test]
    fn a_notice_that_changed_ends_a_consent_that_would_still_stand() {
        let superseded = Consent { superseded: true, expires_at: Some(NOW), ..consent() };
        assert_eq!(superseded.state(NOW - Duration::SECOND), ConsentState::Superseded);
        assert_eq!(superseded.state(NOW), ConsentState::Expired);
    }

    #[test]
    fn purposes_are_plain_words() {
        for bad in ["", "Face", "face verification", "1face", "_face", &"a".repeat(65)] {
            assert_eq!(bad.parse::<Purpose>(), Err(InvalidPurpose), "{bad:?}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written_and_references_are_not_printed() {
        for method in Method::ALL {
            assert_eq!(method.as_str().parse(), Ok(*method));
        }
        assert_eq!("fax".parse::<Method>(), Err(InvalidMethod));
        assert_eq!("self".parse(), Ok(GivenBy::Oneself));
        let printed = format!("{:?}", Reference::new("form of Ada L.".to_owned()));
        assert!(!printed.contains("Ada"), "{printed}");
    }
}
