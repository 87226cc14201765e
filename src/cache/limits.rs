//! Rate limits by GCRA (the generic cell rate algorithm, ITU-T I.371): a rate of `n` a minute lets `n` requests through at
//! once and then one every 1/n minute. In Redis the whole of it is one script on the clock of Redis, so that several
//! processes count as one; without Redis it is the `governor` library in each process.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};
use redis::Script;

use super::{CacheError, redis::Redis};

/// What is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Requests of one client or API key.
    Client,
    /// Requests from one address, whoever sends them, good or bad.
    Address,
}

impl Policy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Address => "address",
        }
    }
}

/// Requests a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(NonZeroU32);

impl Rate {
    /// The window that rates are stated over.
    pub const WINDOW: Duration = Duration::from_secs(60);

    pub fn per_minute(requests: u32) -> Option<Self> {
        NonZeroU32::new(requests).map(Self)
    }

    pub const ONE: Self = Self(NonZeroU32::MIN);

    pub fn requests(self) -> u32 {
        self.0.get()
    }

    fn interval(self) -> Duration {
        Self::WINDOW / self.0.get()
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Rates {
    pub client: Rate,
    pub address: Rate,
}

impl Rates {
    pub fn of(&self, policy: Policy) -> Rate {
        match policy {
            Policy::Client => self.client,
            Policy::Address => self.address,
        }
    }
}

/// What came of asking for some requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// Requests that would be let through now.
    pub remaining: u32,
    /// Until the whole rate is there again.
    pub reset: Duration,
    /// Where not allowed: until the same would be.
    pub retry_after: Duration,
}

/// Whether there must be room for what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// What is not within the rate is refused, and not counted.
    WithinRate,
    /// It was done already: what goes beyond the rate is owed, up to one more window.
    Afterwards,
}

/// ARGV: microseconds between two requests, the window in microseconds, the cost, and 1 where it is counted afterwards.
/// The value is the moment at which the counter is empty again, in microseconds of Redis' own clock. `%.0f`, for Lua would
/// round a number of that size when it writes it.
const GCRA: &str = r"
local interval, window, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local empty = math.max(tonumber(redis.call('GET', KEYS[1])) or now, now)
local after = empty + interval * cost
if ARGV[4] == '1' then
    after = math.min(after, now + 2 * window)
elseif after - window > now then
    return {0, math.floor((window - (empty - now)) / interval), empty - now, after - window - now}
end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1)
return {1, math.floor((window - (after - now)) / interval), after - now, 0}
";

pub async fn take(
    redis: &Redis,
    policy: Policy,
    rate: Rate,
    key: &str,
    cost: u32,
    counting: Counting,
) -> Result<Verdict, CacheError> {
    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(GCRA));
    let mut call = SCRIPT.key(format!("velum:rate:{}:{key}", policy.as_str()));
    call.arg(rate.interval().as_micros() as u64).arg(Rate::WINDOW.as_micros() as u64).arg(cost);
    call.arg(u8::from(counting == Counting::Afterwards));
    let (allowed, remaining, reset, retry_after): (u8, i64, u64, u64) = redis.invoke(&call).await?;
    Ok(Verdict {
        allowed: allowed == 1,
        remaining: u32::try_from(remaining).unwrap_or(0),
        reset: Duration::from_micros(reset),
        retry_after: Duration::from_micros(retry_after),
    })
}

type Keyed = RateLimiter<String, DashMapStateStore<String>, DefaultClock, StateInformationMiddleware>;

/// What one process counts by itself.
pub struct LocalLimits {
    client: Keyed,
    address: Keyed,
    rates: Rates,
    /// What addresses owe: `governor` counts nothing for which there is no room.
    owed: Mutex<HashMap<String, Debt>>,
}

/// So many requests are owed, and nothing is let through until there is room for them.
#[derive(Clone, Copy)]
struct Debt {
    requests: u32,
    until: Instant,
}

/// With Redis away each process lets through this part of a rate: as many processes as that together keep to the whole.
const PROCESSES: u32 = 4;

impl LocalLimits {
    pub fn whole(rates: Rates) -> Self {
        let limiter = |rate: Rate| RateLimiter::dashmap(Quota::per_minute(rate.0)).with_middleware();
        Self { client: limiter(rates.client), address: limiter(rates.address), rates, owed: Mutex::default() }
    }

    pub fn tighter(rates: Rates) -> Self {
        let part = |rate: Rate| Rate(NonZeroU32::new(rate.requests() / PROCESSES).unwrap_or(NonZeroU32::MIN));
        Self::whole(Rates { client: part(rates.client), address: part(rates.address) })
    }

    pub fn take(&self, policy: Policy, key: &str, cost: u32) -> Verdict {
        match (policy == Policy::Address).then(|| self.still_owes(key)).flatten() {
            Some(wait) => Verdict { allowed: false, remaining: 0, reset: Rate::WINDOW + wait, retry_after: wait },
            None => self.within_rate(policy, key, cost),
        }
    }

    /// Counts what an address has done already.
    pub fn owe(&self, key: &str, cost: u32) {
        if self.within_rate(Policy::Address, key, cost).allowed {
            return;
        }
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = owed.get(key).map_or(0, |debt| debt.requests);
        let requests = (before + cost).min(self.rates.address.requests());
        owed.insert(
            key.to_owned(),
            Debt { requests, until: Instant::now() + self.rates.address.interval() * requests },
        );
    }

    /// How long an address still owes. Afterwards its counter has room for the debt, which is taken from it then.
    fn still_owes(&self, key: &str) -> Option<Duration> {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let debt = *owed.get(key)?;
        let wait = debt.until.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            return Some(wait);
        }
        owed.remove(key);
        drop(owed);
        self.within_rate(Policy::Address, key, debt.requests);
        None
    }

    fn within_rate(&self, policy: Policy, key: &str, cost: u32) -> Verdict {
        let limiter = match policy {
            Policy::Client => &self.client,
            Policy::Address => &self.address,
        };
        let rate = self.rates.of(policy);
        let cost = NonZeroU32::new(cost.min(rate.requests())).unwrap_or(NonZeroU32::MIN);
        match limiter.check_key_n(&key.to_owned(), cost) {
            Ok(Ok(state)) => {
                let remaining = state.remaining_burst_capacity();
                let reset = rate.interval() * (rate.requests() - remaining.min(rate.requests()));
                Verdict { allowed: true, remaining, reset, retry_after: Duration::ZERO }
            }
            Ok(Err(refusal)) => {
                let retry_after = refusal.wait_time_from(DefaultClock::default().now());
                Verdict { allowed: false, remaining: 0, reset: Rate::WINDOW, retry_after }
            }
            // More than the whole rate at once: never within it, and cut down to it above.
            Err(_) => Verdict { allowed: false, remaining: 0, reset: Rate::WINDOW, retry_after: Rate::WINDOW },
        }
    }

    pub fn tidy(&self) {
        for limiter in [&self.client, &self.address] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        // By then there would be room for everything.
        let past = |debt: &Debt| debt.until.elapsed() > Rate::WINDOW;
        self.owed.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, debt| !past(debt));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(requests: u32) -> Rates {
        let rate = Rate::per_minute(requests).unwrap();
        Rates { client: rate, address: rate }
    }

    #[test]
    fn a_rate_is_spent_by_key_and_policy_and_says_when_to_come_back() {
        let limits = LocalLimits::whole(rates(3));
        let left: Vec<u32> = (0..3).map(|_| limits.take(Policy::Client, "one", 1).remaining).collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = limits.take(Policy::Client, "one", 1);
        assert!(!refused.allowed && refused.retry_after > Duration::from_secs(15), "{refused:?}");
        assert!(refused.retry_after <= Duration::from_secs(20));
        assert!(limits.take(Policy::Client, "two", 1).allowed);
        assert!(limits.take(Policy::Address, "one", 3).allowed);
    }

    #[test]
    fn alone_a_process_lets_through_a_part() {
        let limits = LocalLimits::tighter(rates(8));
        let allowed = (0..8).filter(|_| limits.take(Policy::Client, "one", 1).allowed).count();
        assert_eq!(allowed, 2);
        assert!(LocalLimits::tighter(rates(1)).take(Policy::Client, "one", 1).allowed);
    }

    #[test]
    fn more_than_a_whole_rate_counts_as_the_whole() {
        let limits = LocalLimits::whole(rates(10));
        assert!(limits.take(Policy::Address, "one", 20).allowed);
        assert!(!limits.take(Policy::Address, "one", 1).allowed);
    }

    /// Each guess costs one request before and 19 afterwards, the last ones as the first.
    #[test]
    fn what_is_counted_afterwards_is_owed_where_there_is_no_room_for_it() {
        let limits = LocalLimits::whole(rates(6_000)); // one in 10 ms
        assert!(limits.take(Policy::Address, "one", 5_995).allowed);
        let (begin, mut guesses) = (Instant::now(), 0);
        while begin.elapsed() < Duration::from_secs(1) {
            if limits.take(Policy::Address, "one", 1).allowed {
                limits.owe("one", 19);
                guesses += 1;
            }
        }
        assert!((2..=7).contains(&guesses), "five a second: {guesses}");
        assert!(limits.take(Policy::Address, "two", 1).allowed);
        assert!(limits.take(Policy::Client, "one", 1).allowed, "clients owe nothing");
    }
}
