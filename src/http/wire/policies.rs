//! The shape of the retention schedule.

use serde::Serialize;
use utoipa::ToSchema;

use crate::flows::retention::Kept;

#[derive(Debug, Serialize, ToSchema)]
pub struct RetentionBody {
    /// What is kept for a time. Everything else goes with the person or the tenant it belongs to.
    pub records: Vec<RetainedBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RetainedBody {
    #[schema(example = "unused_templates")]
    pub record: &'static str,
    /// Whom it serves; `*`: every purpose without a line of its own; absent for the running of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "face_verification")]
    pub purpose: Option<String>,
    /// ISO 8601; deleted within a day after it.
    #[schema(example = "P1095D")]
    pub kept_for: String,
    #[schema(example = "the person's last enrolment or verification")]
    pub counted_from: &'static str,
}

impl From<Vec<Kept>> for RetentionBody {
    fn from(kept: Vec<Kept>) -> Self {
        let body = |kept: Kept| RetainedBody {
            record: kept.record,
            purpose: kept.serves.as_str().map(str::to_owned),
            kept_for: iso_8601(kept.time),
            counted_from: kept.counted_from,
        };
        Self { records: kept.into_iter().map(body).collect() }
    }
}

/// Whole days where it is days, else seconds.
fn iso_8601(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds();
    if seconds % 86_400 == 0 { format!("P{}D", seconds / 86_400) } else { format!("PT{seconds}S") }
}
