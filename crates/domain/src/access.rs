//! A request of a person to be given what is known of them (GDPR, Art. 15 and 20).
//!
//! ```text
//! received ──> completed ──> expired      completed: there is a package
//!    │             │
//!    │             └──> cancelled         the package is destroyed before its time
//!    └──> rejected, cancelled
//! ```

use std::{fmt, str::FromStr};

use time::OffsetDateTime;

use super::consent::words;

words! {
    AccessState(UnknownAccessState: "is none of received, completed, rejected, cancelled, expired") {
        /// Asked for; whether by the person is not known yet.
        Received = "received",
        /// What is known of the person was put together, and can be fetched.
        Completed = "completed",
        Rejected = "rejected",
        Cancelled = "cancelled",
        /// It could have been fetched, and is gone.
        Expired = "expired",
    }
    /// What opens a package.
    LockKind(UnknownLockKind: "is neither recipient nor passphrase") {
        /// The key of which the person gave the public half.
        Recipient = "recipient",
        Passphrase = "passphrase",
    }
}

impl fmt::Display for AccessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AccessState {
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Received => matches!(next, Self::Completed | Self::Rejected | Self::Cancelled),
            Self::Completed => matches!(next, Self::Expired | Self::Cancelled),
            Self::Rejected | Self::Cancelled | Self::Expired => false,
        }
    }

    /// At a moment: a package is out of reach at the instant of its end, whether or not a worker has been there.
    pub fn at(self, now: OffsetDateTime, expires_at: Option<OffsetDateTime>) -> Self {
        match self {
            Self::Completed if expires_at.is_some_and(|expires_at| expires_at <= now) => Self::Expired,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    #[test]
    fn a_package_is_made_of_a_request_that_waits_and_of_no_other() {
        use AccessState::*;
        for state in AccessState::ALL.iter().copied() {
            assert_eq!(state.may_become(Completed), state == Received, "{state}");
            assert!(!state.may_become(state) && !state.may_become(Received), "{state}");
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!(Completed.may_become(Cancelled) && !Completed.may_become(Rejected));
    }

    #[test]
    fn a_package_ends_at_its_expiry_to_the_instant() {
        let end = datetime!(2026-11-28 12:00 UTC);
        let at = |now| AccessState::Completed.at(now, Some(end));
        assert_eq!((at(end - Duration::NANOSECOND), at(end)), (AccessState::Completed, AccessState::Expired));
        assert_eq!(AccessState::Cancelled.at(end, Some(end)), AccessState::Cancelled);
    }
}
