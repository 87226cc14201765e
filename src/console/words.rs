//! How pages say what the program knows: moments, deadlines, states.

use std::fmt;

use askama::filters::HtmlSafe;
use time::{
    Date, Duration, OffsetDateTime, UtcOffset, format_description::StaticFormatDescription,
    format_description::well_known::Rfc3339, macros::format_description,
};

use crate::{
    domain::{access::AccessState, consent::ConsentState, erasure::ErasureState, erasure::Regulation},
    flows::erasures::ErasureRequest,
};

const TO_THE_MINUTE: StaticFormatDescription =
    format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute] UTC");
const TO_THE_SECOND: StaticFormatDescription =
    format_description!("[day padding:none] [month repr:short] [year], [hour]:[minute]:[second]");
const DAY: StaticFormatDescription = format_description!("[day padding:none] [month repr:long] [year]");
/// As browsers send and take a date.
const DATE_FIELD: StaticFormatDescription = format_description!("[year]-[month]-[day]");

/// A moment, for persons and for programs that read the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub OffsetDateTime);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0.to_offset(UtcOffset::UTC);
        let (exact, words) = (at.format(&Rfc3339), at.format(TO_THE_MINUTE));
        write!(f, "<time datetime=\"{}\">{}</time>", exact.unwrap_or_default(), words.unwrap_or_default())
    }
}

/// Digits, letters and our own element.
impl HtmlSafe for Moment {}

/// A moment as the audit log writes it, to the second.
pub fn logged(stamp: &str) -> String {
    let at = OffsetDateTime::parse(stamp, &Rfc3339).ok();
    at.and_then(|at| at.format(TO_THE_SECOND).ok()).unwrap_or_else(|| stamp.to_owned())
}

pub fn day(date: Date) -> String {
    date.format(DAY).unwrap_or_default()
}

pub fn date_field(date: Date) -> String {
    date.format(DATE_FIELD).unwrap_or_default()
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is a date like 2026-11-21")]
pub struct NotADate;

/// The beginning of a day that was entered, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayEntered(pub OffsetDateTime);

impl std::str::FromStr for DayEntered {
    type Err = NotADate;

    fn from_str(text: &str) -> Result<Self, NotADate> {
        let date = Date::parse(text, DATE_FIELD).map_err(|_| NotADate)?;
        // Our moments have a form in RFC 3339, and a day more or less is still one.
        if (1970..9999).contains(&date.year()) { Ok(Self(date.midnight().assume_utc())) } else { Err(NotADate) }
    }
}

/// A state in words, and the class of its look. The look says nothing that the word does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub word: &'static str,
    pub css: &'static str,
}

const fn state(word: &'static str, css: &'static str) -> State {
    State { word, css }
}

impl From<ErasureState> for State {
    fn from(from: ErasureState) -> Self {
        match from {
            ErasureState::Received => state("received, to be verified", "open"),
            ErasureState::Verified => state("verified, about to begin", "open"),
            ErasureState::InProgress => state("being carried out", "open"),
            ErasureState::OnHold => state("on hold", "held"),
            ErasureState::Completed => state("completed", "good"),
            ErasureState::Rejected => state("rejected", "ended"),
            ErasureState::Cancelled => state("cancelled", "ended"),
        }
    }
}

impl From<AccessState> for State {
    fn from(from: AccessState) -> Self {
        match from {
            AccessState::Received => state("received, to be answered", "open"),
            AccessState::Completed => state("answered, package there", "good"),
            AccessState::Rejected => state("rejected", "ended"),
            AccessState::Cancelled => state("cancelled", "ended"),
            AccessState::Expired => state("answered, package gone", "ended"),
        }
    }
}

impl From<ConsentState> for State {
    fn from(from: ConsentState) -> Self {
        match from {
            ConsentState::Granted => state("granted", "good"),
            ConsentState::Withdrawn => state("withdrawn", "ended"),
            ConsentState::Expired => state("expired", "ended"),
            ConsentState::Superseded => state("notice has changed: ask again", "held"),
        }
    }
}

pub fn law(regulation: Regulation) -> &'static str {
    match regulation {
        Regulation::Gdpr => "GDPR",
        Regulation::Dpdp => "DPDP Act",
        Regulation::Ccpa => "CCPA",
    }
}

/// By when a request is to be answered, and how that looks today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub day: Moment,
    pub words: String,
    pub late: bool,
}

impl Due {
    pub fn of(request: &ErasureRequest, now: OffsetDateTime) -> Self {
        Self::at(request.due_at, request.ended_at, now)
    }

    pub fn at(due_at: OffsetDateTime, ended_at: Option<OffsetDateTime>, now: OffsetDateTime) -> Self {
        let late = ended_at.unwrap_or(now) > due_at;
        let words = match ended_at {
            Some(ended_at) if late => format!("answered {} late", distance(ended_at - due_at)),
            Some(_) => "answered in time".to_owned(),
            None if late => format!("overdue by {}", distance(now - due_at)),
            None => format!("{} left", distance(due_at - now)),
        };
        Self { day: Moment(due_at), words, late }
    }
}

/// Whole days, or hours where it is less than two.
pub fn distance(time: Duration) -> String {
    match (time.whole_days(), time.whole_hours()) {
        (0 | 1, 0) => "less than an hour".to_owned(),
        (0 | 1, hours) => counted(hours, "hour"),
        (days, _) => counted(days, "day"),
    }
}

/// How long something is kept.
pub fn span(time: Duration) -> String {
    match (time.whole_days(), time.whole_hours()) {
        (0, 0) => "not beyond it".to_owned(),
        (0, hours) => counted(hours, "hour"),
        (days, _) if days % 365 == 0 => counted(days / 365, "year"),
        (days, _) => counted(days, "day"),
    }
}

pub fn counted(number: i64, of: &str) -> String {
    if number == 1 { format!("1 {of}") } else { format!("{number} {of}s") }
}

/// What an entry of the audit log about a request says; `None` for one that only programs read.
pub fn deed(action: &str) -> Option<&'static str> {
    Some(match action {
        "erasure.requested" => "Opened",
        "erasure.verified" => "Verified: it was the person who asked",
        "erasure.held" => "Put on hold",
        "erasure.released" => "Released from hold",
        "erasure.rejected" => "Rejected",
        "erasure.cancelled" => "Cancelled",
        "erasure.begun" => "Begun: from here there is no way back",
        "subject.erased" => "Data key destroyed and rows removed",
        "erasure.completed" => "Completed and certified",
        "access.requested" => "Opened",
        "access.completed" => "Verified and answered with a package",
        "access.rejected" => "Rejected",
        "access.cancelled" => "Cancelled",
        "access.fetched" => "Package fetched",
        "access.expired" => "Package destroyed, its time was over",
        "erasure.replayed" => "Replayed after a restore",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::audit::Action;

    #[test]
    fn a_deadline_is_told_in_words() {
        assert_eq!(distance(Duration::minutes(30)), "less than an hour");
        assert_eq!(distance(Duration::minutes(90)), "1 hour");
        assert_eq!(distance(Duration::hours(47)), "47 hours");
        assert_eq!(distance(Duration::hours(49)), "2 days");
        assert_eq!(
            (span(Duration::days(1095)), span(Duration::days(30))),
            ("3 years".to_owned(), "30 days".to_owned())
        );
        assert_eq!((span(Duration::HOUR), span(Duration::ZERO)), ("1 hour".to_owned(), "not beyond it".to_owned()));
    }

    #[test]
    fn moments_and_days_are_read_and_written() {
        let at = datetime!(2026-11-05 09:03:07 UTC);
        assert_eq!(Moment(at).to_string(), "<time datetime=\"2026-11-05T09:03:07Z\">5 November 2026, 09:03 UTC</time>");
        assert_eq!(logged("2026-11-05T09:03:07.123456Z"), "5 Nov 2026, 09:03:07");
        assert_eq!(date_field(at.date()).parse(), Ok(DayEntered(datetime!(2026-11-05 0:00 UTC))));
        assert_eq!("5.11.2026".parse::<DayEntered>(), Err(NotADate));
        assert_eq!("9999-12-31".parse::<DayEntered>(), Err(NotADate));
    }

    #[test]
    fn every_act_on_a_request_has_words() {
        let of_requests = Action::ALL
            .iter()
            .filter(|action| ["erasure.", "access."].iter().any(|kind| action.as_str().starts_with(kind)));
        let untold: Vec<_> = of_requests.filter(|action| deed(action.as_str()).is_none()).collect();
        assert!(untold.is_empty(), "{untold:?}");
    }
}
