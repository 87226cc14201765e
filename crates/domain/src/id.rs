//! Typed identifiers: a prefix that says what the id names, and a UUIDv7 (time-ordered, RFC 9562) in 32 hex digits.

use std::{fmt, str::FromStr};

use time::OffsetDateTime;
use uuid::Uuid;

/// A text that is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form {prefix}_ followed by 32 hexadecimal digits")]
pub struct InvalidId {
    pub prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id; later ids sort after earlier ones.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            pub fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse($prefix, text).map(Self)
            }
        }
    )*};
}

ids! {
    /// A customer of the service; owns subjects, clients and settings.
    TenantId = "ten";
    /// An app's credential.
    ClientId = "cli";
    /// A key of a server that calls without tokens.
    ApiKeyId = "key";
    /// A person, known to the tenant by its own `external_ref`.
    SubjectId = "sub";
    /// One consent of one subject for one purpose.
    ConsentId = "con";
    /// One version of a notice, in one language.
    NoticeId = "ntc";
    /// One stored template.
    EnrolmentId = "enr";
    /// One 1:1 comparison; single use at the keyholder.
    VerificationId = "ver";
    /// A piece of work that is done later.
    JobId = "job";
    /// One request of a person to be given what is known of them.
    AccessId = "acr";
    /// One request to erase a person.
    ErasureId = "ers";
    /// A person who signs in at the console.
    OfficerId = "off";
    /// A form of the console, as it was shown once.
    FormId = "frm";
    /// One HTTP request.
    RequestId = "req";
}

impl OfficerId {
    /// The name under which the officer's data key lies in the key store, among those of subjects: an officer is a person too.
    pub fn key_holder(self) -> SubjectId {
        SubjectId(self.0)
    }

    pub fn of_key_holder(holder: SubjectId) -> Self {
        Self(holder.0)
    }
}

impl VerificationId {
    /// A fresh id that says it was made at that moment.
    pub fn generate_at(at: OffsetDateTime) -> Self {
        let mut random = [0; 10];
        random.copy_from_slice(&Uuid::now_v7().as_bytes()[6..]);
        Self(uuid::Builder::from_unix_timestamp_millis(millis(at), &random).into_uuid())
    }

    /// When it says it was made, to the millisecond; `None` for an id of another version.
    pub fn made_at(self) -> Option<OffsetDateTime> {
        let (seconds, nanoseconds) = self.0.get_timestamp()?.to_unix();
        let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
        at.replace_nanosecond(nanoseconds).ok()
    }

    /// Sorts, as text, after every id made before that moment and before every other.
    pub fn text_at(at: OffsetDateTime) -> String {
        format!("{}_{:012x}", Self::PREFIX, millis(at))
    }
}

fn millis(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// Only the canonical form is an id: one id has one spelling, so that it can be compared and logged as text.
fn parse(prefix: &'static str, text: &str) -> Result<Uuid, InvalidId> {
    let digits = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
    digits
        .filter(|digits| digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .and_then(|digits| Uuid::try_parse(digits).ok())
        .ok_or(InvalidId { prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_round_trips_through_its_text() {
        let id = SubjectId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("sub_"));
    }

    #[test]
    fn another_prefix_or_spelling_is_no_id() {
        let text = SubjectId::generate().to_string();
        assert!(text.parse::<ConsentId>().is_err());
        assert!(text.to_uppercase().parse::<SubjectId>().is_err());
        assert!(text[..text.len() - 1].parse::<SubjectId>().is_err());
        assert!("sub_".parse::<SubjectId>().is_err());
        assert!("".parse::<SubjectId>().is_err());
    }

    #[test]
    fn a_verification_says_when_it_was_made() {
        use time::{Duration, macros::datetime};
        let at = datetime!(2026-11-20 12:00:00.123 UTC);
        let id = VerificationId::generate_at(at);
        assert_eq!(id.made_at(), Some(at));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, VerificationId::generate_at(at));
        assert!(VerificationId::text_at(at) < id.to_string());
        assert!(id.to_string() < VerificationId::text_at(at + Duration::MILLISECOND));
        assert_eq!("ver_00000000000040008000000000000000".parse::<VerificationId>().unwrap().made_at(), None);
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let first = EnrolmentId::generate();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(first.to_string() < EnrolmentId::generate().to_string());
    }
}
