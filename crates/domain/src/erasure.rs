//! A request to erase a person, with its whole life as a small state machine.
//!
//! ```text
//! received ──> verified ──> in_progress ──> completed
//!    │  ╲        ╱  │
//!    │   on_hold    │        on_hold goes back to where it came from
//!    └──> rejected, cancelled <──┘           and from there too; nothing but its release ends a hold otherwise
//! ```

use std::{fmt, str::FromStr};

use time::{Date, Duration, Month, OffsetDateTime};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureState {
    /// Asked for; whether by the person is not known yet.
    Received,
    /// The tenant is satisfied that the person, or somebody who may, asked.
    Verified,
    /// Something may be destroyed already; there is no way back.
    InProgress,
    Completed,
    Rejected,
    /// A duty to keep stands against it.
    OnHold,
    Cancelled,
}

impl ErasureState {
    pub const ALL: [Self; 7] = [
        Self::Received,
        Self::Verified,
        Self::InProgress,
        Self::Completed,
        Self::Rejected,
        Self::OnHold,
        Self::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Verified => "verified",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Rejected => "rejected",
            Self::OnHold => "on_hold",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Rejected | Self::Cancelled)
    }

    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Received => matches!(next, Self::Verified | Self::Rejected | Self::OnHold | Self::Cancelled),
            Self::Verified => matches!(next, Self::InProgress | Self::Rejected | Self::OnHold | Self::Cancelled),
            Self::OnHold => matches!(next, Self::Received | Self::Verified | Self::Rejected | Self::Cancelled),
            Self::InProgress => next == Self::Completed,
            Self::Completed | Self::Rejected | Self::Cancelled => false,
        }
    }
}

impl fmt::Display for ErasureState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is none of received, verified, in_progress, completed, rejected, on_hold, cancelled")]
pub struct UnknownErasureState;

impl FromStr for ErasureState {
    type Err = UnknownErasureState;

    fn from_str(text: &str) -> Result<Self, UnknownErasureState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownErasureState)
    }
}

/// Under which law a request is made: it says until when it must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regulation {
    /// GDPR, Art. 12(3): one month.
    Gdpr,
    /// DPDP Act 2023 and Rules 2025: what the data fiduciary publishes; a setting here.
    Dpdp,
    /// CCPA, 1798.130(a)(2): 45 days.
    Ccpa,
}

impl Regulation {
    pub const ALL: [Self; 3] = [Self::Gdpr, Self::Dpdp, Self::Ccpa];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gdpr => "gdpr",
            Self::Dpdp => "dpdp",
            Self::Ccpa => "ccpa",
        }
    }

    /// Until when a request received at `received_at` must have been answered.
    pub fn due_at(self, received_at: OffsetDateTime, dpdp_days: u16) -> OffsetDateTime {
        match self {
            Self::Gdpr => a_month_after(received_at),
            Self::Dpdp => received_at + Duration::days(i64::from(dpdp_days)),
            Self::Ccpa => received_at + Duration::days(45),
        }
    }
}

/// The same day of the next month, or its last day (Regulation (EEC, Euratom) No 1182/71, Art. 3(2)(c)).
fn a_month_after(moment: OffsetDateTime) -> OffsetDateTime {
    let (year, month, day) = moment.to_calendar_date();
    let (year, month) = if month == Month::December { (year + 1, Month::January) } else { (year, month.next()) };
    let date = Date::from_calendar_date(year, month, day.min(month.length(year)));
    date.map_or(moment + Duration::days(28), |date| moment.replace_date(date))
}

impl fmt::Display for Regulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is none of gdpr, dpdp, ccpa")]
pub struct UnknownRegulation;

impl FromStr for Regulation {
    type Err = UnknownRegulation;

    fn from_str(text: &str) -> Result<Self, UnknownRegulation> {
        Self::ALL.into_iter().find(|regulation| regulation.as_str() == text).ok_or(UnknownRegulation)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_request_ends_once_and_what_has_begun_is_finished() {
        use ErasureState::*;
        for state in ErasureState::ALL {
            assert_eq!(ErasureState::ALL.into_iter().all(|next| !state.may_become(next)), state.is_end(), "{state}");
            assert!(!state.may_become(state), "{state}");
            assert_eq!(state.may_become(InProgress), state == Verified, "{state}");
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!([Rejected, OnHold, Cancelled].into_iter().all(|next| !InProgress.may_become(next)));
    }

    #[test]
    fn a_month_is_a_month() {
        let due = |received_at| Regulation::Gdpr.due_at(received_at, 1);
        assert_eq!(due(datetime!(2026-11-21 13:30 UTC)), datetime!(2026-12-21 13:30 UTC));
        assert_eq!(due(datetime!(2026-12-31 00:00 UTC)), datetime!(2027-01-31 00:00 UTC));
        assert_eq!(due(datetime!(2027-01-31 08:00 UTC)), datetime!(2027-02-28 08:00 UTC));
        assert_eq!(due(datetime!(2028-01-30 08:00 UTC)), datetime!(2028-02-29 08:00 UTC));
        assert_eq!(Regulation::Ccpa.due_at(datetime!(2026-01-01 0:00 UTC), 1), datetime!(2026-02-15 0:00 UTC));
        assert_eq!(Regulation::Dpdp.due_at(datetime!(2026-01-01 0:00 UTC), 7), datetime!(2026-01-08 0:00 UTC));
    }
}
