//! What may be lost: counters of requests, and a copy of the revocations.
//!
//! Redis holds both, so that every process counts and refuses alike. It is never the truth: where it is away or behind,
//! counting goes on in each process with tighter limits, and the database is asked what it would have known. Nothing here
//! is a secret and nothing names a person: keys are ids of clients and keyed hashes of addresses.

mod limits;
mod redis;
mod revocations;

use std::time::Duration;

use self::limits::LocalLimits;
pub use self::{
    limits::{Policy, Rate, Rates, Verdict},
    redis::{Redis, RedisTls},
    revocations::RevocationCopy,
};

/// Where the answer of Redis cannot be had. The caller goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("Redis cannot be used as it is set")]
    Setup(#[source] ::redis::RedisError),
    #[error("Redis is away")]
    Away(#[source] Option<::redis::RedisError>),
}

pub struct Cache {
    rates: Rates,
    shared: Option<Shared>,
    local: LocalLimits,
}

struct Shared {
    redis: Redis,
    revocations: RevocationCopy,
}

impl Cache {
    /// Without Redis this process counts alone, and has the whole of each rate for itself.
    pub fn new(redis: Option<Redis>, rates: Rates) -> Self {
        let shared = redis.map(|redis| Shared { revocations: RevocationCopy::new(redis.clone()), redis });
        let local = if shared.is_some() { LocalLimits::tighter(rates) } else { LocalLimits::whole(rates) };
        Self { rates, shared, local }
    }

    /// Counts `cost` requests of `key` under a policy, if they are within its rate.
    pub async fn take(&self, policy: Policy, key: &str, cost: u32) -> Verdict {
        if let Some(shared) = &self.shared
            && let Ok(verdict) = limits::take(&shared.redis, policy, self.rates.of(policy), key, cost).await
        {
            return verdict;
        }
        self.local.take(policy, key, cost)
    }

    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// The copy of the revocations, where there is Redis to hold it.
    pub fn revocations(&self) -> Option<&RevocationCopy> {
        self.shared.as_ref().map(|shared| &shared.revocations)
    }

    /// Whether Redis answers; `None` where there is none.
    pub async fn answers(&self) -> Option<bool> {
        let shared = self.shared.as_ref()?;
        Some(shared.redis.query::<String>(&::redis::cmd("PING")).await.is_ok())
    }

    /// Lets go of what this process counted and nobody asks for any more. Call it every minute or so.
    pub fn tidy(&self) {
        self.local.tidy();
    }
}

/// Nobody waits longer for what may be lost.
const ANSWER_WAIT: Duration = Duration::from_millis(250);
