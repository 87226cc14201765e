//! Can work be done now?

use super::Flows;

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
    let (store, keystore, keyholder, redis) = tokio::join!(
        flows.store.database().check_schema(),
        flows.keystore.database().check_schema(),
        flows.keyholder.ready(),
        flows.cache.answers()
    );
    let mut found = vec![
        ("store", Health::of_needed(store.is_ok())),
        ("keystore", Health::of_needed(keystore.is_ok())),
        ("keyholder", Health::of_needed(keyholder.is_ok())),
    ];
    found.extend(redis.map(|answers| ("redis", Health::of_missed(answers))));
    found
}
