//! What was kept long enough goes: once a day as a job, or when the operator says so.

use std::{collections::BTreeMap, time::Duration};

use time::OffsetDateTime;
use tokio::time::sleep;

use super::{FlowError, Flows, audit, jobs, opendsr};
use crate::{
    audit::Actor,
    domain::{
        consent::Purpose,
        id::TenantId,
        retention::{RecordKind, RetentionSchedule},
    },
    store::{Store, StoreError},
};

/// Rows of one transaction: short enough that nobody who writes at the same time waits for long.
const AT_ONCE: u32 = 500;
/// Between two of them others have their turn: SQLite's one writer at a time is not kept waiting in any order.
const PAUSE: Duration = Duration::from_millis(20);

/// Rows by kind; a kind of which there are none has a zero.
pub type Counts = BTreeMap<RecordKind, u64>;

/// A run that was cut short is taken up by the next one: what is gone is gone, and what is left is found again.
pub async fn run(flows: &Flows) -> Result<(), FlowError> {
    let gone = delete(&flows.store, &flows.retention, Actor::service(), flows.now()).await?;
    for (kind, rows) in gone.into_iter().filter(|(_, rows)| *rows > 0) {
        tracing::info!(event = "retention", record = kind.as_str(), rows, "what was kept long enough is deleted");
    }
    opendsr::forget_old_addresses(flows).await
}

/// Deletes everything that was kept long enough at `now`, a few rows at a time; how much that was.
pub async fn delete(
    store: &Store,
    schedule: &RetentionSchedule,
    actor: Actor,
    now: OffsetDateTime,
) -> Result<Counts, StoreError> {
    let mut gone = none();
    for Share { tenant, kind } in shares(store).await? {
        let cutoff = now - schedule.kept(kind);
        if let (Some(tenant), RecordKind::AuditEvents) = (tenant, kind)
            && !audit::shorten(store, tenant, cutoff).await?
        {
            continue;
        }
        loop {
            let rows = store.retention().delete(tenant, kind, cutoff, AT_ONCE, (actor.clone(), now)).await?;
            *gone.entry(kind).or_default() += rows;
            if rows < AT_ONCE.into() {
                break;
            }
            sleep(PAUSE).await;
        }
    }
    if gone.values().any(|rows| *rows > 0) {
        store.retention().scrub().await?;
    }
    Ok(gone)
}

/// What [`delete`] would do.
pub async fn report(store: &Store, schedule: &RetentionSchedule, now: OffsetDateTime) -> Result<Counts, StoreError> {
    let mut counts = none();
    for Share { tenant, kind } in shares(store).await? {
        let rows = store.retention().count(tenant, kind, now - schedule.kept(kind)).await?;
        *counts.entry(kind).or_default() += rows;
    }
    Ok(counts)
}

/// What the next daily run deletes of one tenant's rows, as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    pub at: OffsetDateTime,
    pub rows: Counts,
}

pub async fn forecast(flows: &Flows, tenant: TenantId) -> Result<Forecast, FlowError> {
    let (at, mut rows) = (jobs::next_daily(flows.now()), Counts::new());
    for kind in RecordKind::ALL.into_iter().filter(|kind| kind.of_tenants()) {
        let cutoff = at - flows.retention.kept(kind);
        rows.insert(kind, flows.store.retention().count(Some(tenant), kind, cutoff).await?);
    }
    Ok(Forecast { at, rows })
}

fn none() -> Counts {
    RecordKind::ALL.into_iter().map(|kind| (kind, 0)).collect()
}

/// The rows of one kind: of one tenant, or of a kind that belongs to none.
#[derive(Clone, Copy)]
struct Share {
    tenant: Option<TenantId>,
    kind: RecordKind,
}

async fn shares(store: &Store) -> Result<Vec<Share>, StoreError> {
    let tenants: Vec<_> = store.tenants().list().await?.into_iter().map(|tenant| Some(tenant.id)).collect();
    let of_kind = |kind: RecordKind| {
        let owners = if kind.of_tenants() { tenants.clone() } else { vec![None] };
        owners.into_iter().map(move |tenant| Share { tenant, kind })
    };
    Ok(RecordKind::ALL.into_iter().flat_map(of_kind).collect())
}

/// A line of what everybody may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub record: &'static str,
    /// `None` for what serves the running of the service.
    pub purpose: Option<Purpose>,
    pub time: time::Duration,
    pub counted_from: &'static str,
}

impl Flows {
    pub fn retention(&self) -> &RetentionSchedule {
        &self.retention
    }

    /// What is kept for a time, and how long.
    pub fn kept(&self) -> Vec<Kept> {
        let of_kind = |kind: RecordKind| Kept {
            record: kind.as_str(),
            purpose: kind.purpose(),
            time: self.retention.kept(kind),
            counted_from: kind.counted_from(),
        };
        // Taken away one by one, and not with the rest once a day.
        let packages = Kept {
            record: "access_packages",
            purpose: None,
            time: self.access_policy.package_kept,
            counted_from: "the package",
        };
        RecordKind::ALL.into_iter().map(of_kind).chain([packages]).collect()
    }
}
