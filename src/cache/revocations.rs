//! A copy of the revocations, in Redis, so that a request need not ask the database whether its token was ended.
//!
//! One sorted set: a member for each ended token (`t:` and its id) and each disabled client (`c:` and its id), scored by the
//! moment in seconds from which it says nothing new; and the member `version`, scored by minus the database's version up to
//! which the copy is complete. One key, so that Redis loses, evicts or restores all of it or nothing.
//!
//! The copy is believed only while it is known to be complete. Each process compares its version with the database's several
//! times a second ([`RevocationCopy::believe`]); from the moment before it looked, the copy counts for [`BELIEVED`]. So a
//! revocation that could not be written to Redis is seen within that time, by every process: it falls back to the database.
//! An emptied or older Redis has no version, or a lower one, and is not believed from the next request on.

use std::{
    sync::{LazyLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use redis::{Script, cmd};

use super::{CacheError, redis::Redis};
use crate::domain::revocation::Revocation;

const VERSION: &str = "version";

/// How long a copy counts as complete after it was found to be. Half of the second within which a revocation must hold.
const BELIEVED: Duration = Duration::from_millis(500);

/// How long a member stays past its end: a process whose clock is ahead must not bring a token back to life.
const KEPT_S: i64 = 3_600;

/// Members in one write.
const CHUNK: usize = 1_000;

#[derive(Clone, Copy)]
struct Belief {
    version: i64,
    until: Instant,
}

pub struct RevocationCopy {
    redis: Redis,
    /// Bears the name of the installation: versions of two databases cannot be compared.
    key: String,
    belief: RwLock<Option<Belief>>,
}

impl RevocationCopy {
    pub(super) fn new(redis: Redis, installation: &str) -> Self {
        Self { redis, key: format!("velum:revoked:{installation}"), belief: RwLock::default() }
    }

    /// Whether any of `members` was revoked; `None` where only the database knows.
    pub async fn any_revoked(&self, members: &[&str]) -> Option<bool> {
        let belief = (*self.belief.read().unwrap_or_else(PoisonError::into_inner))?;
        if Instant::now() >= belief.until {
            return None;
        }
        let mut command = cmd("ZMSCORE");
        command.arg(&self.key).arg(VERSION).arg(members);
        let scores: Vec<Option<f64>> = self.redis.query(&command).await.ok()?;
        let complete = scores.first().copied().flatten().is_some_and(|score| -score >= belief.version as f64);
        if !complete {
            self.doubt();
            return None;
        }
        Some(scores[1..].iter().any(Option::is_some))
    }

    /// Up to which version the copy is complete; 0 for none.
    pub async fn version(&self) -> Result<i64, CacheError> {
        let score: Option<f64> = self.redis.query(cmd("ZSCORE").arg(&self.key).arg(VERSION)).await?;
        Ok(score.map_or(0, |score| -score as i64))
    }

    /// Brings the copy from one version to another; `now` in seconds. Where somebody else has brought it further meanwhile, the
    /// members are added and the version stays.
    pub async fn extend(&self, from: i64, to: i64, added: &[Revocation], now: i64) -> Result<(), CacheError> {
        // KEYS: the set. ARGV: from, to, now, and pairs of score and member. The version is written last: what is there
        // of a script that was cut off is at worst too old.
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
            Script::new(
                r"
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, ARGV[3])
for at = 4, #ARGV, 2 do redis.call('ZADD', KEYS[1], ARGV[at], ARGV[at + 1]) end
local version = -(tonumber(redis.call('ZSCORE', KEYS[1], 'version') or 0))
if ARGV[1] ~= ARGV[2] and version == tonumber(ARGV[1]) then redis.call('ZADD', KEYS[1], -tonumber(ARGV[2]), 'version') end
return version",
            )
        });
        let mut chunks = added.chunks(CHUNK).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let is_last = chunks.peek().is_none();
            let mut call = SCRIPT.key(&self.key);
            call.arg(from).arg(if is_last { to } else { from }).arg(now - KEPT_S);
            for revocation in chunk {
                call.arg(revocation.expires_at.unix_timestamp()).arg(&revocation.member);
            }
            let _before: i64 = self.redis.invoke(&call).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// For a copy that is ahead of the database, which was set back.
    pub async fn empty(&self) -> Result<(), CacheError> {
        self.doubt();
        self.redis.query(cmd("DEL").arg(&self.key)).await
    }

    /// The copy was found complete up to `version`, by somebody who began to look at `looked`.
    pub fn believe(&self, version: i64, looked: Instant) {
        let belief = Belief { version, until: looked + BELIEVED };
        *self.belief.write().unwrap_or_else(PoisonError::into_inner) = Some(belief);
    }

    fn doubt(&self) {
        *self.belief.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
