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
        Ok(Ok(LedgerState::LedgerBroken { sequence })) => {
            tracing::error!(event = "ledger_broken", sequence, "the erasure ledger is not what was written");
            false
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

async fn answers<E>(asking: impl Future<Output = Result<(), E>>) -> bool {
    matches!(timeout(PATIENCE, asking).await, Ok(Ok(())))
}

/// Tells [`measure`] how things stand now: what is away, and how full the process is. All are asked at once: Prometheus waits
/// ten seconds for everything, and a database that is away says nothing to each.
pub async fn measure(flows: &Flows) {
    let now = flows.now();
    let (jobs, erasures, access_requests) = (flows.store.jobs(), flows.store.erasures(), flows.store.access_requests());
    let (found, backlog, erasures, access_requests) = tokio::join!(
        check(flows),
        timeout(PATIENCE, jobs.backlog(now)),
        timeout(PATIENCE, erasures.open_and_first_due()),
        timeout(PATIENCE, access_requests.open_and_first_due()),
    );
    for (name, health) in found {
        measure::dependency(name, health == Health::Well);
    }
    if let Ok(Ok(backlog)) = backlog {
        let waits_since = backlog.oldest_due_at.unwrap_or(now);
        measure::jobs(backlog.due, backlog.later, backlog.dead, (now - waits_since).as_seconds_f64());
    }
    if let Ok(Ok((open, first_due))) = erasures {
        measure::erasures(open, first_due, now);
    }
    if let Ok(Ok((open, first_due))) = access_requests {
        measure::access_requests(open, first_due, now);
    }
    for database in [flows.store.database(), flows.keystore.database(), flows.ledger.database()] {
        measure::database_pool(database.name(), database.waiting());
    }
    let compute = &flows.compute;
    measure::load(compute.places_taken(), compute.places_max(), flows.uploads.bytes_taken());
}
