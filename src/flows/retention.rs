//! What was kept long enough goes: once a day as a job, or when the operator says so.

use std::{collections::BTreeMap, time::Duration};

use time::OffsetDateTime;
use tokio::time::sleep;

use super::{FlowError, Flows};
use crate::{
    domain::{
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
    let gone = delete(&flows.store, &flows.retention, flows.now()).await?;
    for (kind, rows) in gone.into_iter().filter(|(_, rows)| *rows > 0) {
        tracing::info!(event = "retention", record = kind.as_str(), rows, "what was kept long enough is deleted");
    }
    Ok(())
}

/// Deletes everything that was kept long enough at `now`, a few rows at a time; how much that was.
pub async fn delete(store: &Store, schedule: &RetentionSchedule, now: OffsetDateTime) -> Result<Counts, StoreError> {
    let gone = each(store, async |tenant, kind| {
        let mut gone = 0;
        loop {
            let deleted = store.retention().delete(tenant, kind, now - schedule.kept(kind), AT_ONCE).await?;
            gone += deleted;
            if deleted < AT_ONCE.into() {
                return Ok(gone);
            }
            sleep(PAUSE).await;
        }
    })
    .await?;
    if gone.values().any(|rows| *rows > 0) {
        store.retention().scrub().await?;
    }
    Ok(gone)
}

/// What [`delete`] would do.
pub async fn report(store: &Store, schedule: &RetentionSchedule, now: OffsetDateTime) -> Result<Counts, StoreError> {
    each(store, async |tenant, kind| store.retention().count(tenant, kind, now - schedule.kept(kind)).await).await
}

/// Tenant by tenant, each within its own rows.
async fn each(
    store: &Store,
    work: impl AsyncFn(Option<TenantId>, RecordKind) -> Result<u64, StoreError>,
) -> Result<Counts, StoreError> {
    let tenants: Vec<_> = store.tenants().list().await?.into_iter().map(|tenant| tenant.id).collect();
    let mut counts = Counts::new();
    for kind in RecordKind::ALL {
        let mut rows = 0;
        if kind.of_tenants() {
            for tenant in &tenants {
                rows += work(Some(*tenant), kind).await?;
            }
        } else {
            rows = work(None, kind).await?;
        }
        counts.insert(kind, rows);
    }
    Ok(counts)
}

impl Flows {
    pub fn retention(&self) -> &RetentionSchedule {
        &self.retention
    }
}
