//! The shapes of a tenant's own account: who asks, what was used, what was done.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Timestamp;
use crate::{
    flows::{
        account::{HistoryEntry, HistoryKind, TenantCounts},
        usage::{self, Usage, UsageDay},
    },
    http::problem::Problem,
};

/// Who is asking.
#[derive(Debug, Serialize, ToSchema)]
pub struct MeBody {
    /// Of the client or of the API key.
    #[schema(example = "cli_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub tenant_id: String,
    pub tenant_name: String,
    pub scopes: Vec<String>,
    /// `live` or `test`.
    #[schema(example = "live")]
    pub environment: &'static str,
}

/// How far back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Days, today included: 1 to 90; 30 unless told.
    #[param(minimum = 1, maximum = 90)]
    pub days: Option<u32>,
}

impl UsageQuery {
    pub fn days(&self) -> Result<u32, Problem> {
        let days = self.days.unwrap_or(30);
        if (1..=90).contains(&days) { Ok(days) } else { Err(Problem::invalid_field("days", "is not within 1 to 90")) }
    }
}

/// What your tenant used: enrolments and verifications together count against the day's quota.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageBody {
    pub quota_per_day: u32,
    pub used: i64,
    pub remaining: u64,
    /// The next midnight UTC.
    pub resets_at: Timestamp,
    /// Newest first; days without use are left out.
    pub days: Vec<UsageDayBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UsageDayBody {
    /// UTC.
    #[schema(example = "2026-11-21")]
    pub day: String,
    pub enrolments: i64,
    pub verifications: i64,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            quota_per_day: usage.quota_per_day,
            used: usage.today.total(),
            remaining: usage.remaining(),
            resets_at: usage.resets_at.into(),
            days: usage.days.into_iter().map(UsageDayBody::from).collect(),
        }
    }
}

impl From<UsageDay> for UsageDayBody {
    fn from(day: UsageDay) -> Self {
        let UsageDay { day, enrolments, verifications } = day;
        Self { day: usage::date(day).to_string(), enrolments, verifications }
    }
}

/// Which part of the history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// Only what was done about this person.
    #[param(pattern = "^sub_[0-9a-f]{32}$")]
    pub subject_id: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// That something was done, to whom and when; not how it came out.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryBody {
    #[schema(example = "ver_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    /// `enrolment` or `verification`.
    #[schema(example = "verification")]
    pub kind: &'static str,
    pub subject_id: String,
    pub model: String,
    /// Of a verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub false_match_rate: Option<&'static str>,
    pub created_at: Timestamp,
}

impl From<HistoryEntry> for HistoryBody {
    fn from(entry: HistoryEntry) -> Self {
        let (id, kind, rate) = match entry.kind {
            HistoryKind::Enrolment(id) => (id.to_string(), "enrolment", None),
            HistoryKind::Verification(id, rate) => (id.to_string(), "verification", Some(rate.as_str())),
        };
        Self {
            id,
            kind,
            subject_id: entry.subject.to_string(),
            model: entry.model.to_string(),
            false_match_rate: rate,
            created_at: entry.created_at.into(),
        }
    }
}

/// How much your tenant holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatsBody {
    pub subjects: i64,
    /// Consents that permit something now.
    pub active_consents: i64,
    pub enrolments: i64,
    pub verifications: i64,
}

impl From<TenantCounts> for StatsBody {
    fn from(counts: TenantCounts) -> Self {
        let TenantCounts { subjects, active_consents, enrolments, verifications } = counts;
        Self { subjects, active_consents, enrolments, verifications }
    }
}
