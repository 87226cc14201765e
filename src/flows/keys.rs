//! What may be told about keys: names and times, never a key.

use super::Flows;
pub use crate::auth::jwt::KeyStatus;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Wrap the persons' data keys.
    pub wrapping: Vec<WrappingKey>,
    /// The key that templates and probes are encrypted under.
    pub fhe: String,
    /// While keys are changed: the key from which templates are brought under that one.
    pub older_fhe: Option<String>,
    /// Sign access tokens.
    pub tokens: Vec<KeyStatus>,
    /// Sign receipts, certificates and checkpoints.
    pub evidence: Vec<KeyStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappingKey {
    pub id: String,
    /// Whether it wraps; the others only open what they wrapped.
    pub wraps: bool,
}

pub fn status(flows: &Flows) -> Keys {
    let current = flows.keystore.current_kek();
    let known = flows.keystore.known_keks().into_iter();
    Keys {
        wrapping: known.map(|id| WrappingKey { wraps: id == current, id: id.to_string() }).collect(),
        fhe: flows.public_key.key_id().to_string(),
        older_fhe: flows.older_key(),
        tokens: flows.tokens.key_status(),
        evidence: flows.evidence.status(flows.now()),
    }
}
