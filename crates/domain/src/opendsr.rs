//! Words of OpenDSR 2.0, the protocol in which a controller passes the wish of a person on to those who process for it.

use std::{fmt, str::FromStr};

use uuid::{Uuid, Version};

use super::erasure::ErasureState;

/// The controller's own name for a request: a UUID of version 4 in lower case, as the specification wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubjectRequestId(Uuid);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is a UUID of version 4, in lower case and with hyphens")]
pub struct InvalidSubjectRequestId;

impl FromStr for SubjectRequestId {
    type Err = InvalidSubjectRequestId;

    /// One request has one spelling.
    fn from_str(text: &str) -> Result<Self, InvalidSubjectRequestId> {
        let id = Uuid::try_parse(text).map_err(|_| InvalidSubjectRequestId)?;
        let is_fourth = id.get_version() == Some(Version::Random);
        if is_fourth && id.hyphenated().to_string() == text { Ok(Self(id)) } else { Err(InvalidSubjectRequestId) }
    }
}

impl fmt::Display for SubjectRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Where a request is, in the four words of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestStatus {
    Pending,
    InProgress,
    Completed,
    Cancelled,
}

impl RequestStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<ErasureState> for RequestStatus {
    fn from(state: ErasureState) -> Self {
        match state {
            // A hold ends one day, and until then the controller may cancel, as it may while a request is pending.
            ErasureState::Received | ErasureState::Verified | ErasureState::OnHold => Self::Pending,
            ErasureState::InProgress => Self::InProgress,
            ErasureState::Completed => Self::Completed,
            // Nothing will come of it. There is no other word for that; our own state stands beside it.
            ErasureState::Cancelled | ErasureState::Rejected => Self::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_controller_has_one_spelling() {
        let good = "a7551968-d5d6-44b2-9831-815ac9017798";
        assert_eq!(good.parse::<SubjectRequestId>().unwrap().to_string(), good);
        for bad in [
            "A7551968-D5D6-44B2-9831-815AC9017798",
            "a7551968d5d644b29831815ac9017798",
            "{a7551968-d5d6-44b2-9831-815ac9017798}",
            "a7551968-d5d6-14b2-9831-815ac9017798",
            "00000000-0000-0000-0000-000000000000",
            "a7551968-d5d6-44b2-9831-815ac901779",
            "",
        ] {
            assert_eq!(bad.parse::<SubjectRequestId>(), Err(InvalidSubjectRequestId), "{bad}");
        }
    }

    #[test]
    fn what_has_ended_here_has_ended_there() {
        for state in ErasureState::ALL {
            let status = RequestStatus::from(state);
            let has_ended = matches!(status, RequestStatus::Completed | RequestStatus::Cancelled);
            assert_eq!(has_ended, state.is_end(), "{state} is {}", status.as_str());
        }
    }
}
