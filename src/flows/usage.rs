//! What a tenant uses of its day.

use time::{Date, Duration, OffsetDateTime, Time};

use super::{FlowError, Flows};
pub use crate::store::UsageDay;
use crate::{
    domain::{id::TenantId, usage::Operation},
    measure::{self, Limit},
    store::StoreError,
};

/// An operation that was counted.
#[derive(Debug, Clone, Copy)]
pub struct Charge {
    tenant: TenantId,
    day: i64,
    operation: Operation,
}

/// A tenant has used up its day.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the day's quota of {quota} enrolments and verifications is spent")]
pub struct QuotaSpent {
    pub quota: u32,
    pub retry_after_s: u64,
}

/// Counts an operation before it is done, so that no two share the last place of a day.
pub async fn charge(flows: &Flows, tenant: TenantId, operation: Operation) -> Result<Charge, FlowError> {
    let now = flows.now();
    let day = day(now);
    match flows.store.usage().charge(tenant, day, operation, flows.quota_per_day).await? {
        Ok(()) => Ok(Charge { tenant, day, operation }),
        Err(quota) => {
            measure::limit_reached(Limit::Quota);
            Err(QuotaSpent { quota, retry_after_s: FlowError::seconds_until(now, midnight_after(now)) }.into())
        }
    }
}

/// For an operation that failed on our side, or was not carried out again. What failed may have been the database itself: it
/// is asked again until it is back, for a while.
pub async fn refund(flows: &Flows, charge: Charge) {
    const TRIES: u32 = 60;
    for _ in 0..TRIES {
        match flows.store.usage().refund(charge.tenant, charge.day, charge.operation).await {
            Ok(()) => return,
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
            Err(error) => {
                return tracing::error!(
                    event = "refund_failed",
                    error = &error as &dyn std::error::Error,
                    "nothing was given back"
                );
            }
        }
    }
    tracing::error!(event = "refund_lost", tenant = %charge.tenant, "the database stayed away; nothing was given back");
}

/// A tenant's day, and the days before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub quota_per_day: u32,
    pub today: UsageDay,
    pub resets_at: OffsetDateTime,
    /// Newest first; days without use are left out.
    pub days: Vec<UsageDay>,
}

impl Usage {
    pub fn remaining(&self) -> u64 {
        u64::try_from(i64::from(self.quota_per_day) - self.today.total()).unwrap_or(0)
    }
}

pub async fn usage(flows: &Flows, tenant: TenantId, days: u32) -> Result<Usage, FlowError> {
    let now = flows.now();
    let today = day(now);
    let days = flows.store.usage().days(tenant, today + 1 - i64::from(days)).await?;
    let none = UsageDay { day: today, enrolments: 0, verifications: 0 };
    Ok(Usage {
        quota_per_day: flows.store.usage().quota(tenant).await?.unwrap_or(flows.quota_per_day),
        today: days.first().copied().filter(|first| first.day == today).unwrap_or(none),
        resets_at: midnight_after(now),
        days,
    })
}

/// Days since 1970-01-01 UTC.
fn day(at: OffsetDateTime) -> i64 {
    at.unix_timestamp().div_euclid(86_400)
}

/// The date of such a day.
pub fn date(day: i64) -> Date {
    (OffsetDateTime::UNIX_EPOCH + Duration::days(day)).date()
}

fn midnight_after(now: OffsetDateTime) -> OffsetDateTime {
    (now + Duration::DAY).replace_time(Time::MIDNIGHT)
}
