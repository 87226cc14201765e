//! Typed identifiers: a prefix that says what the id names, and a UUIDv7 (time-ordered, RFC 9562) in 32 hex digits.

use std::{fmt, str::FromStr};

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
    /// One stored template.
    EnrolmentId = "enr";
    /// One 1:1 comparison; single use at the keyholder.
    VerificationId = "ver";
    /// A piece of work that is done later.
    JobId = "job";
    /// One request to erase a person.
    ErasureId = "ers";
    /// One HTTP request.
    RequestId = "req";
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
    fn later_ids_sort_after_earlier_ones() {
        let first = EnrolmentId::generate();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(first.to_string() < EnrolmentId::generate().to_string());
    }
}
