//! What was kept long enough goes: once a day as a job, or when the operator says so.

use std::{collections::BTreeMap, time::Duration};

use time::OffsetDateTime;
use tokio::time::sleep;

use super::{FlowError, Flows, audit, jobs, opendsr};
use crate::{
    audit::Actor,
    domain::{
        id::TenantId,
        retention::{Line, RecordKind, RetentionSchedule, Serves},
    },
    store::{Store, StoreError},
};

/// Rows of one transaction: short enough that nobody who writes at the same time waits for long.
const AT_ONCE: u32 = 500;
/// Between two of them others have their turn: SQLite's one writer at a time is not kept waiting in any order.
const PAUSE: Duration = Duration::from_millis(20);

/// Rows by kind; a kind of which there are none has a zero.
pub type Counts = BTreeMap<RecordKind, u64>;

/// What went, and the first thing that could not.
#[derive(Debug)]
pub struct Sweep {
    pub gone: Counts,
    pub failed: Option<StoreError>,
}

/// A run that was cut short is taken up by the next one: what is gone is gone, and what is left is found again.
pub async fn run(flows: &Flows) -> Result<(), FlowError> {
    let Sweep { gone, failed } = delete(&flows.store, &flows.retention, Actor::service(), flows.now()).await;
    for (kind, rows) in gone.into_iter().filter(|(_, rows)| *rows > 0) {
        tracing::info!(event = "retention", record = kind.as_str(), rows, "what was kept long enough is deleted");
    }
    let forgotten = opendsr::forget_old_addresses(flows).await;
    if let Err(error) = &forgotten {
        tell("callback_addresses", None, error);
    }
    failed.map_or(Ok(()), |error| Err(error.into())).and(forgotten)
}

/// Deletes everything that was kept long enough at `now`, a few rows at a time. What cannot be deleted keeps nothing else.
pub async fn delete(store: &Store, schedule: &RetentionSchedule, actor: Actor, now: OffsetDateTime) -> Sweep {
    let mut sweep = Sweep { gone: none(), failed: None };
    match shares(store, schedule).await {
        Ok(shares) => sweep.delete(store, shares, &(actor, now)).await,
        Err(error) => sweep.failed = Some(error),
    }
    sweep
}

impl Sweep {
    async fn delete(&mut self, store: &Store, shares: Vec<Share>, by: &(Actor, OffsetDateTime)) {
        for share in &shares {
            let rows = self.gone.entry(share.line.kind).or_default();
            if let Err(error) = share.delete(store, by, rows).await {
                tell(share.line.kind.as_str(), share.tenant, &error);
                self.failed.get_or_insert(error);
                // A database that is away is away for the rest as well: each of them would wait for it.
                if store.database().check_schema().await.is_err() {
                    return;
                }
            }
        }
        if self.gone.values().any(|rows| *rows > 0)
            && let Err(error) = store.retention().scrub().await
        {
            self.failed.get_or_insert(error);
        }
    }
}

fn tell(record: &str, tenant: Option<TenantId>, error: &(dyn std::error::Error + 'static)) {
    let tenant = tenant.map(|tenant| tenant.to_string());
    tracing::error!(
        event = "retention_failed",
        record,
        tenant,
        error,
        "what was kept long enough could not be deleted"
    );
}

/// What [`delete`] would do.
pub async fn report(store: &Store, schedule: &RetentionSchedule, now: OffsetDateTime) -> Result<Counts, StoreError> {
    let mut counts = none();
    for Share { tenant, line } in shares(store, schedule).await? {
        let rows = store.retention().count(tenant, &line, now).await?;
        *counts.entry(line.kind).or_default() += rows;
    }
    Ok(counts)
}

/// The schedule, and what the next daily run deletes of one tenant's rows as they are now: `None` of what belongs to no tenant,
/// and of what goes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    pub at: OffsetDateTime,
    pub records: Vec<(Kept, Option<u64>)>,
}

pub async fn forecast(flows: &Flows, tenant: TenantId) -> Result<Forecast, FlowError> {
    let (at, mut records) = (jobs::next_daily(flows.now()), vec![]);
    for line in flows.retention.lines() {
        let rows = match line.kind.of_tenants() {
            true => Some(flows.store.retention().count(Some(tenant), &line, at).await?),
            false => None,
        };
        records.push((Kept::from(line), rows));
    }
    records.extend(kept_otherwise(flows.access_policy.package_kept).map(|kept| (kept, None)));
    Ok(Forecast { at, records })
}

fn none() -> Counts {
    RecordKind::ALL.into_iter().map(|kind| (kind, 0)).collect()
}

/// The rows of one line: of one tenant, or of a kind that belongs to none.
struct Share {
    tenant: Option<TenantId>,
    line: Line,
}

async fn shares(store: &Store, schedule: &RetentionSchedule) -> Result<Vec<Share>, StoreError> {
    let tenants: Vec<_> = store.tenants().list().await?.into_iter().map(|tenant| Some(tenant.id)).collect();
    let of_line = |line: Line| {
        let owners = if line.kind.of_tenants() { tenants.clone() } else { vec![None] };
        owners.into_iter().map(move |tenant| Share { tenant, line: line.clone() })
    };
    Ok(schedule.lines().into_iter().flat_map(of_line).collect())
}

impl Share {
    /// Counts into `gone` what went, also before an error.
    async fn delete(&self, store: &Store, by: &(Actor, OffsetDateTime), gone: &mut u64) -> Result<(), StoreError> {
        let Self { tenant, line } = self;
        if let (Some(tenant), RecordKind::AuditEvents) = (*tenant, line.kind)
            && !audit::shorten(store, tenant, line.cutoff(by.1)).await?
        {
            return Ok(());
        }
        loop {
            let rows = store.retention().delete(*tenant, line, AT_ONCE, by.clone()).await?;
            *gone += rows;
            if rows < AT_ONCE.into() {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }
}

/// A line of what everybody may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub record: &'static str,
    pub serves: Serves,
    pub time: time::Duration,
    pub counted_from: &'static str,
}

impl From<Line> for Kept {
    fn from(line: Line) -> Self {
        let (record, counted_from) = (line.kind.as_str(), line.kind.counted_from());
        Self { record, serves: line.serves, time: line.kept, counted_from }
    }
}

/// What goes in its time too, one by one, and not with the rest once a day.
pub fn kept_otherwise(packages_kept: time::Duration) -> impl Iterator<Item = Kept> {
    let kept = |record, time, counted_from| Kept { record, serves: Serves::Service, time, counted_from };
    [
        kept("access_packages", packages_kept, "the package"),
        kept("callback_addresses", opendsr::ADDRESSES_KEPT, "the end of the request that came in with them"),
    ]
    .into_iter()
}

impl Flows {
    pub fn retention(&self) -> &RetentionSchedule {
        &self.retention
    }

    /// What is kept for a time, and how long.
    pub fn kept(&self) -> Vec<Kept> {
        let lines = self.retention.lines().into_iter().map(Kept::from);
        lines.chain(kept_otherwise(self.access_policy.package_kept)).collect()
    }
}
