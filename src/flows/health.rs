//! Can work be done now?

use super::Flows;

/// Each dependency by name, and whether it answers.
pub async fn check(flows: &Flows) -> Vec<(&'static str, bool)> {
    let (store, keystore, keyholder) = tokio::join!(
        flows.store.database().check_schema(),
        flows.keystore.database().check_schema(),
        flows.keyholder.ready()
    );
    vec![("store", store.is_ok()), ("keystore", keystore.is_ok()), ("keyholder", keyholder.is_ok())]
}
