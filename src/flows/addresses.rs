//! Callers' addresses, known by their hash alone; and the key behind it, which changes with every period.
//!
//! The key of a period that is over is given up within seconds, whatever happens. While the key store cannot give the next
//! one, a process hashes under a key that it made for itself: then processes do not recognise each other's callers (a limit
//! for each address counts in each process apart), but nobody can hash as in the period before, and no request waits.

use std::sync::{Arc, PoisonError, RwLock};

use time::{Duration, OffsetDateTime};

use super::Flows;
use crate::{
    domain::network::{AddressHash, ClientAddress},
    store::{KeyStore, StoreError},
    vault::AddressKey,
};

/// The key in use.
pub struct AddressKeys {
    /// How long a key lives. Periods are counted from 1970-01-01 UTC, so that all processes turn at the same moment.
    period: Duration,
    current: RwLock<Arc<Current>>,
}

struct Current {
    key: AddressKey,
    starts_at: OffsetDateTime,
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Every process has it.
    KeyStore,
    /// Made by this process, for the key store was away.
    Own,
}

impl AddressKeys {
    pub async fn load(keystore: &KeyStore, period: Duration, now: OffsetDateTime) -> Result<Self, StoreError> {
        let starts_at = start_of_period(period, now);
        let current = Current { key: keystore.address_key(starts_at).await?, starts_at, origin: Origin::KeyStore };
        Ok(Self { period, current: RwLock::new(Arc::new(current)) })
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, current: Current) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }
}

/// What of an address may be logged, stored and counted.
pub fn hash(flows: &Flows, address: ClientAddress) -> AddressHash {
    flows.address_keys.current().key.hash(address)
}

/// Takes the key of a new period as soon as that has begun, or a shared one in place of one's own. To be called every
/// moment; nearly always there is nothing to do.
pub async fn renew_key(flows: &Flows) {
    let keys = &flows.address_keys;
    let (current, starts_at) = (keys.current(), start_of_period(keys.period, flows.now()));
    let is_over = current.starts_at != starts_at;
    if !is_over && current.origin == Origin::KeyStore {
        return;
    }
    match flows.keystore.address_key(starts_at).await {
        Ok(key) => {
            keys.replace(Current { key, starts_at, origin: Origin::KeyStore });
            tracing::info!(event = "address_key_changed", "addresses are hashed under the key of a new period");
        }
        Err(error) if is_over => {
            tracing::error!(
                event = "address_key_of_its_own",
                error = &error as &dyn std::error::Error,
                "the key store does not give the key for addresses; this process uses one of its own"
            );
            match AddressKey::generate() {
                Ok(key) => keys.replace(Current { key, starts_at, origin: Origin::Own }),
                Err(error) => tracing::error!(
                    event = "address_key_missing",
                    error = &error as &dyn std::error::Error,
                    "no key for addresses"
                ),
            }
        }
        Err(_) => {} // told when the period began
    }
}

fn start_of_period(period: Duration, now: OffsetDateTime) -> OffsetDateTime {
    let into_period = now.unix_timestamp_nanos().rem_euclid(period.whole_nanoseconds());
    now - Duration::nanoseconds(into_period as i64) // a period has at most a week
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn periods_begin_at_fixed_moments_whenever_a_process_starts() {
        for (hours, now, start) in [
            (24, datetime!(2026-11-21 00:00 UTC), datetime!(2026-11-21 00:00 UTC)),
            (24, datetime!(2026-11-21 23:59:59.999999 UTC), datetime!(2026-11-21 00:00 UTC)),
            (1, datetime!(2026-11-21 13:37 UTC), datetime!(2026-11-21 13:00 UTC)),
            (168, datetime!(2026-11-21 13:37 UTC), datetime!(2026-11-19 00:00 UTC)),
        ] {
            assert_eq!(start_of_period(Duration::hours(hours), now), start, "{hours} h at {now}");
        }
    }
}
