//! What a person is told before agreeing. A notice is never changed: what has to be said otherwise is another version.
//!
//! Versions of one purpose's notices are counted in generations. A version that changes materially what is agreed to begins a
//! new one, and from then on a consent given under an earlier generation permits nothing: the person is asked again. All
//! languages of a version are of its generation; so are later versions that change nothing that matters. What was agreed to
//! under notices that are not registered here is of generation 0.

use std::{fmt, str::FromStr};

use time::OffsetDateTime;

use super::{
    consent::Purpose,
    id::{NoticeId, TenantId},
};

/// How many material changes of a purpose's notices there had been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Generation(pub i64);

impl Generation {
    /// Of a new version, `newest` being that of the versions before it.
    pub fn after(newest: Option<Self>, material_change: bool) -> Self {
        Self(newest.unwrap_or_default().0 + i64::from(material_change))
    }
}

/// A language as BCP 47 writes it: `en`, `de-AT`, `zh-Hant`. At most 35 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Language(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a language is a BCP 47 tag such as en, de-AT or zh-Hant")]
pub struct InvalidLanguage;

impl FromStr for Language {
    type Err = InvalidLanguage;

    fn from_str(text: &str) -> Result<Self, InvalidLanguage> {
        let mut parts = text.split('-');
        let primary = parts.next().unwrap_or_default();
        let plain = |part: &str, shortest: usize, longest: usize| {
            (shortest..=longest).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let good = plain(primary, 2, 3) && primary.bytes().all(|byte| byte.is_ascii_alphabetic());
        if good && parts.all(|part| plain(part, 1, 8)) && text.len() <= 35 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidLanguage)
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who decides why and how data is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    pub name: String,
    /// How a person reaches them.
    pub contact: String,
}

/// One version in one language, but for its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub id: NoticeId,
    pub tenant: TenantId,
    pub purpose: Purpose,
    pub version: String,
    pub language: Language,
    /// SHA-256 of the text's UTF-8 bytes.
    pub text_sha256: [u8; 32],
    pub controller: Controller,
    /// How long what is collected is kept, in words or as an ISO 8601 duration.
    pub retention: String,
    pub data_categories: Vec<String>,
    pub recipients: Vec<String>,
    /// Whose law, such as `DE` or `US-IL`.
    pub jurisdiction: Option<String>,
    pub policy_url: Option<String>,
    /// How a person withdraws.
    pub withdrawal_method: Option<String>,
    /// Whoever agreed before must be asked again.
    pub material_change: bool,
    pub generation: Generation,
    pub published_at: OffsetDateTime,
    /// Id of the credential that published it.
    pub published_by: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_material_change_begins_a_generation() {
        assert_eq!(Generation::after(None, false), Generation(0));
        assert_eq!(Generation::after(None, true), Generation(1));
        assert_eq!(Generation::after(Some(Generation(1)), false), Generation(1));
        assert_eq!(Generation::after(Some(Generation(1)), true), Generation(2));
    }

    #[test]
    fn languages_are_tags() {
        for good in ["en", "de-AT", "zh-Hant-TW", "sl-rozaj-biske-1994"] {
            assert_eq!(good.parse::<Language>().unwrap().to_string(), good);
        }
        for bad in ["", "e", "english", "en_US", "en-", "12", "de-Österreich", &format!("en{}", "-abcdefgh".repeat(4))]
        {
            assert_eq!(bad.parse::<Language>(), Err(InvalidLanguage), "{bad}");
        }
    }
}
