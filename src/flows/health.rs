//! Can work be done now?

use std::time::Duration;

use tokio::time::timeout;

use super::{
    Flows,
    ledger::{self, LedgerState},
};
use crate::measure;

/// A dependency that says nothing for so long counts as away: whoever asks has a limit of his own.
const PATIENCE: Duration = Duration::from_secs(4);

/// How one dependency is doing, and what that means for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Well,
    /// Away, and work goes on without it.
    Missed,
    /// Away, and no work is done without it.
    Needed,
}

impl Health {
    fn of_needed(ok: bool) -> Self {
        if ok { Self::Well } else { Self::Needed }
    }

    fn of_missed(ok: bool) -> Self {
        if ok { Self::Well } else { Self::Missed }
    }
}

/// Each dependency by name.
pub async fn check(flows: &Flows) -> Vec<(&'static str, Health)> {
    let (store, keystore, ledger, keyholder, redis) = tokio::join!(
        answers(flows.store.database().check_schema()),
        answers(flows.keystore.database().check_schema()),
        agrees_with_ledger(flows),
        answers(flows.keyholder.ready()),
        flows.cache.answers()
    );
    let mut found = vec![
        ("store", Health::of_needed(store)),
        ("keystore", Health::of_needed(keystore)),
        ("erasure_ledger", Health::of_needed(ledger)),
        ("keyholder", Health::of_needed(keyholder)),
    ];
    found.extend(redis.map(|answers| ("redis", Health::of_missed(answers))));
    found
}

/// A database that was restored must not serve before who was erased since is erased again.
async fn agrees_with_ledger(flows: &Flows) -> bool {
    match timeout(PATIENCE, ledger::check(flows)).await {
        Ok(Ok(LedgerState::Settled)) => true,
        Ok(Ok(LedgerState::ReplayNeeded)) => {
            tracing::error!(
                event = "replay_needed",
                "a restored database has erased persons in it: velum erasures replay"
            );
            false
        }
        Ok(Ok(LedgerState::LedgerBehind)) => {
            tracing::error!(event = "ledger_behind", "the erasure ledger lacks entries that a database remembers");
            false
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

async fn answers<E>(asking: impl Future<Output = Result<(), E>>) -> bool {
    matches!(timeout(PATIENCE, asking).await, Ok(Ok(())))
}

/// Tells [`measure`] how things stand now: what is away, and how full the process is.
pub async fn measure(flows: &Flows) {
    for (name, health) in check(flows).await {
        measure::dependency(name, health == Health::Well);
    }
    let now = flows.now();
    if let Ok(Ok(backlog)) = timeout(PATIENCE, flows.store.jobs().backlog(now)).await {
        let waits_since = backlog.oldest_due_at.unwrap_or(now);
        measure::jobs(backlog.due, backlog.later, backlog.dead, (now - waits_since).as_seconds_f64());
    }
    if let Ok(Ok((open, first_due))) = timeout(PATIENCE, flows.store.erasures().open_and_first_due()).await {
        let overdue = first_due.map_or(0.0, |due| (now - due).as_seconds_f64().max(0.0));
        measure::erasures(open, overdue);
    }
    if let Ok(Ok((open, first_due))) = timeout(PATIENCE, flows.store.access_requests().open_and_first_due()).await {
        let overdue = first_due.map_or(0.0, |due| (now - due).as_seconds_f64().max(0.0));
        measure::access_requests(open, overdue);
    }
    let compute = &flows.compute;
    measure::load(compute.places_taken(), compute.places_max(), flows.uploads.bytes_taken());
}
