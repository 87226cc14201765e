//! Consent: one person's permission for one purpose, with its whole life as a small state machine.

use std::{fmt, str::FromStr};

use time::OffsetDateTime;

use super::id::{ConsentId, SubjectId};

/// What a person agreed to. Lower-case words joined by `_`, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// Where a consent stands at a given moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsentState {
    Granted,
    Withdrawn,
    Expired,
}

impl ConsentState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    pub id: ConsentId,
    pub subject: SubjectId,
    pub purpose: Purpose,
    /// Version of the notice that the person was shown, as the tenant names it.
    pub notice_version: String,
    pub granted_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub withdrawn_at: Option<OffsetDateTime>,
}

impl Consent {
    /// Withdrawal wins over expiry: it is what the person said.
    pub fn state(&self, now: OffsetDateTime) -> ConsentState {
        if self.withdrawn_at.is_some() {
            ConsentState::Withdrawn
        } else if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            ConsentState::Expired
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

    fn consent() -> Consent {
        Consent {
            id: ConsentId::generate(),
            subject: SubjectId::generate(),
            purpose: Purpose::face_verification(),
            notice_version: "2026-11".to_owned(),
            granted_at: NOW,
            expires_at: None,
            withdrawn_at: None,
        }
    }

    #[test]
    fn consent_ends_at_its_expiry_to_the_instant() {
        let expiring = Consent { expires_at: Some(NOW), ..consent() };
        assert_eq!(expiring.state(NOW - Duration::nanoseconds(1)), ConsentState::Granted);
        assert_eq!(expiring.state(NOW), ConsentState::Expired);
    }

    #[test]
    fn withdrawal_wins_over_expiry() {
        let both = Consent { expires_at: Some(NOW), withdrawn_at: Some(NOW), ..consent() };
        assert_eq!(both.state(NOW), ConsentState::Withdrawn);
    }

    #[test]
    fn purposes_are_plain_words() {
        for bad in ["", "Face", "face verification", "1face", "_face", &"a".repeat(65)] {
            assert_eq!(bad.parse::<Purpose>(), Err(InvalidPurpose), "{bad:?}");
        }
    }
}
