//! What Prometheus is told: every name, its labels and its help stand in this file.
//!
//! A label says what kind of thing was measured, and has few values; it never says whose it was. Subjects, tenants, clients,
//! addresses and ids have no place in this file.
//!
//! Until [`start`] was called nothing is kept, and a call of this room costs next to nothing.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use time::OffsetDateTime;

const HTTP_REQUEST_DURATION: &str = "velum_http_request_duration_seconds";
const HTTP_REQUESTS_IN_FLIGHT: &str = "velum_http_requests_in_flight";
const VERIFICATIONS: &str = "velum_verifications_total";
const ENROLMENTS: &str = "velum_enrolments_total";
const TOKEN_REQUESTS: &str = "velum_token_requests_total";
const STAGE_DURATION: &str = "velum_stage_duration_seconds";
const COMPUTE_PLACES_TAKEN: &str = "velum_compute_places_taken";
const COMPUTE_PLACES_MAX: &str = "velum_compute_places_max";
const UPLOAD_BYTES_TAKEN: &str = "velum_upload_bytes_taken";
const JOB_RUNS: &str = "velum_job_runs_total";
const ACCESS_REQUESTS_OPEN: &str = "velum_access_requests_open";
const ACCESS_REQUESTS_OVERDUE: &str = "velum_access_requests_overdue_seconds";
const ACCESS_REQUESTS_FIRST_DUE: &str = "velum_access_requests_first_due_timestamp_seconds";
const ERASURES_OPEN: &str = "velum_erasures_open";
const ERASURES_OVERDUE: &str = "velum_erasures_overdue_seconds";
const ERASURES_FIRST_DUE: &str = "velum_erasures_first_due_timestamp_seconds";
const JOBS: &str = "velum_jobs";
const JOBS_OLDEST_DUE_AGE: &str = "velum_jobs_oldest_due_age_seconds";
const DEPENDENCY_UP: &str = "velum_dependency_up";
const DATABASE_POOL_WAITING: &str = "velum_database_pool_waiting";
const LIMIT_REFUSALS: &str = "velum_limit_refusals_total";
const REVOCATION_CHECKS: &str = "velum_revocation_checks_total";
const SIGN_INS: &str = "velum_sign_ins_total";
const AUDIT_LOG_BREAKS: &str = "velum_audit_log_breaks_total";
const KEYHOLDER_OPENINGS: &str = "velum_keyholder_openings_total";
const KEYHOLDER_BUDGET_USED: &str = "velum_keyholder_budget_used_ratio";
const CERTIFICATE_EXPIRES: &str = "velum_certificate_expires_timestamp_seconds";
const PROCESS_START: &str = "process_start_time_seconds";
const PROCESS_MEMORY: &str = "process_resident_memory_bytes";
const BUILD_INFO: &str = "velum_build_info";

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every figure there is.
const FIGURES: &[(&str, Kind, &str)] = &[
    (HTTP_REQUEST_DURATION, Kind::Histogram, "From a request's head to the head of its answer."),
    (HTTP_REQUESTS_IN_FLIGHT, Kind::Gauge, "Requests that are being worked on."),
    (VERIFICATIONS, Kind::Counter, "Verifications by outcome; match and no_match are told in batches."),
    (ENROLMENTS, Kind::Counter, "Enrolments by outcome."),
    (TOKEN_REQUESTS, Kind::Counter, "Requests for access tokens by outcome."),
    (STAGE_DURATION, Kind::Histogram, "Time spent in one stage of an enrolment or a verification."),
    (COMPUTE_PLACES_TAKEN, Kind::Gauge, "Places of the compute pool in use, waiting work included."),
    (COMPUTE_PLACES_MAX, Kind::Gauge, "Places of the compute pool."),
    (UPLOAD_BYTES_TAKEN, Kind::Gauge, "Memory spoken for by images on their way in."),
    (JOB_RUNS, Kind::Counter, "Jobs that this process carried out, by kind and outcome."),
    (ACCESS_REQUESTS_OPEN, Kind::Gauge, "Access requests that wait to be answered."),
    (ACCESS_REQUESTS_OVERDUE, Kind::Gauge, "Seconds since the first of them was due; 0 while none is late."),
    (ACCESS_REQUESTS_FIRST_DUE, Kind::Gauge, "When the first of them is due; +Inf where there is none."),
    (ERASURES_OPEN, Kind::Gauge, "Erasure requests that have not ended."),
    (ERASURES_OVERDUE, Kind::Gauge, "Seconds since the first of them was due; 0 while none is late."),
    (ERASURES_FIRST_DUE, Kind::Gauge, "When the first of them is due; +Inf where there is none."),
    (JOBS, Kind::Gauge, "Jobs of the queue by state: due, later, dead."),
    (JOBS_OLDEST_DUE_AGE, Kind::Gauge, "How long the oldest due job has been due."),
    (DEPENDENCY_UP, Kind::Gauge, "1 where a dependency answers, 0 where it does not."),
    (DATABASE_POOL_WAITING, Kind::Gauge, "Pieces of work that wait for a connection to a database."),
    (LIMIT_REFUSALS, Kind::Counter, "Requests refused because a limit was reached."),
    (REVOCATION_CHECKS, Kind::Counter, "Tokens looked up among the revoked, by who was asked."),
    (SIGN_INS, Kind::Counter, "Sign-ins to the console by outcome."),
    (AUDIT_LOG_BREAKS, Kind::Counter, "Audit logs that were found not to be what was signed."),
    (KEYHOLDER_OPENINGS, Kind::Counter, "Decisions that the keyholder was asked to open, by outcome."),
    (KEYHOLDER_BUDGET_USED, Kind::Gauge, "Part of the day's budget of all openings that is spent, 0 to 1."),
    (CERTIFICATE_EXPIRES, Kind::Gauge, "When a certificate that this process has loaded ends."),
    (PROCESS_START, Kind::Gauge, "When this process began to measure, which is when it started."),
    (PROCESS_MEMORY, Kind::Gauge, "Resident memory of this process."),
    (BUILD_INFO, Kind::Gauge, "Always 1; the version stands in its label."),
];

/// What alerts look at, with the outcomes that they name.
const OUTCOMES: &[(&str, &[&str])] = &[
    (VERIFICATIONS, &["match", "no_match", "refused", "failed"]),
    (ENROLMENTS, &["enrolled", "refused", "failed"]),
    (TOKEN_REQUESTS, &["granted", "invalid_client", "refused", "failed"]),
    (SIGN_INS, &["granted", "refused", "failed"]),
];

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS_S: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Measured durations wait in memory until they are folded into their buckets, whether or not anybody scrapes.
const FOLD_INTERVAL: Duration = Duration::from_secs(5);

/// The names of all figures.
pub fn names() -> impl Iterator<Item = &'static str> {
    FIGURES.iter().map(|(name, ..)| *name)
}

/// What was measured so far in this process.
#[derive(Clone)]
pub struct Measurements(PrometheusHandle);

impl Measurements {
    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// Begins to keep what is measured. There is one recorder for the whole process: a second call gives the first one's.
pub fn start() -> io::Result<Measurements> {
    static STARTED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*started {
        return Ok(Measurements(handle.clone()));
    }
    let handle = PrometheusBuilder::new().set_buckets(&BUCKETS_S).and_then(PrometheusBuilder::install_recorder);
    let handle = handle.map_err(io::Error::other)?;
    let folding = handle.clone();
    thread::Builder::new().name("velum-measure".to_owned()).spawn(move || {
        loop {
            thread::sleep(FOLD_INTERVAL);
            folding.run_upkeep();
        }
    })?;
    describe();
    // A first one is to be seen as a rise, which a series that was not there before does not show.
    counter!(AUDIT_LOG_BREAKS).absolute(0);
    for (name, outcomes) in OUTCOMES {
        for outcome in *outcomes {
            counter!(*name, "outcome" => *outcome).absolute(0);
        }
    }
    for limit in Limit::ALL {
        counter!(LIMIT_REFUSALS, "limit" => limit.as_str()).absolute(0);
    }
    gauge!(PROCESS_START).set(timestamp(OffsetDateTime::now_utc()));
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
    Ok(Measurements(started.insert(handle).clone()))
}

fn describe() {
    for (name, kind, help) in FIGURES {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, Unit::Seconds, *help),
        }
    }
}

/// A request that is being worked on, until it is dropped.
pub struct InFlight(());

impl InFlight {
    pub fn begin() -> Self {
        gauge!(HTTP_REQUESTS_IN_FLIGHT).increment(1);
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(HTTP_REQUESTS_IN_FLIGHT).decrement(1);
    }
}

/// `route` is the pattern of the route, never the path.
pub fn request(method: &str, route: &str, status: u16, duration: Duration) {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    // A method may be any word that a stranger makes up; each would be a series of its own.
    let method = KNOWN.into_iter().find(|known| *known == method).unwrap_or("other");
    let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
    histogram!(HTTP_REQUEST_DURATION, &labels).record(duration);
}

/// How a piece of work ended that one can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Match,
    NoMatch,
    Enrolled,
    Granted,
    /// The caller's credential was wrong.
    InvalidClient,
    /// The caller's request cannot be fulfilled.
    Refused,
    /// Ours could not be done.
    Failed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::NoMatch => "no_match",
            Self::Enrolled => "enrolled",
            Self::Granted => "granted",
            Self::InvalidClient => "invalid_client",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

pub fn verification(outcome: Outcome) {
    static UNTOLD: Mutex<Decisions> = Mutex::new(Decisions { matches: 0, others: 0 });
    let is_match = match outcome {
        Outcome::Match => true,
        Outcome::NoMatch => false,
        _ => return counter!(VERIFICATIONS, "outcome" => outcome.as_str()).increment(1),
    };
    let batch = UNTOLD.lock().unwrap_or_else(PoisonError::into_inner).add(is_match);
    if let Some(Decisions { matches, others }) = batch {
        counter!(VERIFICATIONS, "outcome" => Outcome::Match.as_str()).increment(matches);
        counter!(VERIFICATIONS, "outcome" => Outcome::NoMatch.as_str()).increment(others);
    }
}

pub fn enrolment(outcome: Outcome) {
    counter!(ENROLMENTS, "outcome" => outcome.as_str()).increment(1);
}

pub fn token_request(outcome: Outcome) {
    counter!(TOKEN_REQUESTS, "outcome" => outcome.as_str()).increment(1);
}

/// Decisions that were not told yet.
///
/// An outcome is sealed in the database, while the time of a verification is not: a counter that moved with each decision
/// would say, to whoever can read both, how that one came out. So the counters move by whole batches.
#[derive(Debug, PartialEq, Eq)]
struct Decisions {
    matches: u64,
    others: u64,
}

impl Decisions {
    const BATCH: u64 = 20;

    /// Gives the batch that this decision completes.
    fn add(&mut self, is_match: bool) -> Option<Self> {
        *(if is_match { &mut self.matches } else { &mut self.others }) += 1;
        let complete = self.matches + self.others >= Self::BATCH;
        complete.then(|| std::mem::replace(self, Self { matches: 0, others: 0 }))
    }
}

/// A stage of an enrolment or a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The image comes in, at the caller's pace.
    Receive,
    /// For a thread of the compute pool.
    Wait,
    /// From the image to the embedding.
    Face,
    Encrypt,
    /// Scores and thresholds, on ciphertexts.
    Decide,
    /// By the keyholder.
    Open,
    /// The result goes into the database.
    Store,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Wait => "wait",
            Self::Face => "face",
            Self::Encrypt => "encrypt",
            Self::Decide => "decide",
            Self::Open => "open",
            Self::Store => "store",
        }
    }

    pub fn took(self, duration: Duration) {
        histogram!(STAGE_DURATION, "stage" => self.as_str()).record(duration);
    }

    /// Measures work that blocks.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.took(started.elapsed());
        done
    }

    /// Measures work that waits.
    pub async fn complete<T>(self, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let done = work.await;
        self.took(started.elapsed());
        done
    }
}

/// How one run of a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOutcome {
    Done,
    /// To be tried again.
    Failed,
    /// Given up.
    Dead,
}

pub fn job(kind: &'static str, outcome: JobOutcome) {
    let outcome = match outcome {
        JobOutcome::Done => "done",
        JobOutcome::Failed => "failed",
        JobOutcome::Dead => "dead",
    };
    counter!(JOB_RUNS, "kind" => kind, "outcome" => outcome).increment(1);
}

/// Access requests at this moment: how many are open, and when the first of them is due.
pub fn access_requests(open: i64, first_due: Option<OffsetDateTime>, now: OffsetDateTime) {
    gauge!(ACCESS_REQUESTS_OPEN).set(open as f64);
    gauge!(ACCESS_REQUESTS_FIRST_DUE).set(first_due.map_or(f64::INFINITY, timestamp));
    gauge!(ACCESS_REQUESTS_OVERDUE).set(overdue(first_due, now));
}

/// Erasure requests, in the same way.
pub fn erasures(open: i64, first_due: Option<OffsetDateTime>, now: OffsetDateTime) {
    gauge!(ERASURES_OPEN).set(open as f64);
    gauge!(ERASURES_FIRST_DUE).set(first_due.map_or(f64::INFINITY, timestamp));
    gauge!(ERASURES_OVERDUE).set(overdue(first_due, now));
}

fn overdue(first_due: Option<OffsetDateTime>, now: OffsetDateTime) -> f64 {
    first_due.map_or(0.0, |due| (now - due).as_seconds_f64().max(0.0))
}

fn timestamp(at: OffsetDateTime) -> f64 {
    at.unix_timestamp() as f64
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The rate of a client, or of an address.
    Client,
    Address,
    /// A tenant's day.
    Quota,
    /// Failed verifications of one person.
    Attempts,
}

impl Limit {
    const ALL: [Self; 4] = [Self::Client, Self::Address, Self::Quota, Self::Attempts];

    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Address => "address",
            Self::Quota => "quota",
            Self::Attempts => "attempts",
        }
    }
}

pub fn limit_reached(limit: Limit) {
    counter!(LIMIT_REFUSALS, "limit" => limit.as_str()).increment(1);
}

/// This process at this moment. Where the kernel does not say, nothing is told.
pub fn process() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok());
    if let Some(kibibytes) = resident {
        let kibibytes: f64 = kibibytes;
        gauge!(PROCESS_MEMORY).set(kibibytes * 1024.0);
    }
}

/// `source`: who was asked, `redis` or `database`.
pub fn revocation_check(source: &'static str) {
    counter!(REVOCATION_CHECKS, "source" => source).increment(1);
}

pub fn sign_in(outcome: Outcome) {
    counter!(SIGN_INS, "outcome" => outcome.as_str()).increment(1);
}

pub fn audit_log_broken() {
    counter!(AUDIT_LOG_BREAKS).increment(1);
}

/// `outcome`: `opened`, or the code of the refusal.
pub fn opening(outcome: &'static str) {
    counter!(KEYHOLDER_OPENINGS, "outcome" => outcome).increment(1);
}

pub fn keyholder_budget_used(ratio: f64) {
    gauge!(KEYHOLDER_BUDGET_USED).set(ratio);
}

pub fn database_pool(database: &'static str, waiting: usize) {
    gauge!(DATABASE_POOL_WAITING, "database" => database).set(waiting as f64);
}

/// `certificate`: what this process shows it for.
pub fn certificate(certificate: &'static str, expires_at: OffsetDateTime) {
    gauge!(CERTIFICATE_EXPIRES, "certificate" => certificate).set(timestamp(expires_at));
}

/// The queue at this moment.
pub fn jobs(due: i64, later: i64, dead: i64, oldest_due_age_s: f64) {
    for (state, jobs) in [("due", due), ("later", later), ("dead", dead)] {
        gauge!(JOBS, "state" => state).set(jobs as f64);
    }
    gauge!(JOBS_OLDEST_DUE_AGE).set(oldest_due_age_s);
}

pub fn dependency(name: &'static str, up: bool) {
    gauge!(DEPENDENCY_UP, "dependency" => name).set(if up { 1 } else { 0 });
}

/// How full the pool and the memory for images are at this moment.
pub fn load(places_taken: usize, places_max: usize, upload_bytes_taken: usize) {
    gauge!(COMPUTE_PLACES_TAKEN).set(places_taken as f64);
    gauge!(COMPUTE_PLACES_MAX).set(places_max as f64);
    gauge!(UPLOAD_BYTES_TAKEN).set(upload_bytes_taken as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_told_in_batches_and_none_is_forgotten() {
        let mut untold = Decisions { matches: 0, others: 0 };
        let told: Vec<_> = (0..50).filter_map(|index| untold.add(index % 10 != 0)).collect();
        assert_eq!(told, [Decisions { matches: 18, others: 2 }, Decisions { matches: 18, others: 2 }]);
        assert_eq!(untold, Decisions { matches: 9, others: 1 });
    }

    #[test]
    fn names_end_with_their_unit() {
        for (name, kind, help) in FIGURES {
            let unit_given = match kind {
                Kind::Counter => name.ends_with("_total"),
                Kind::Histogram => name.ends_with("_seconds"),
                Kind::Gauge => true,
            };
            let ours = name.starts_with("velum_") || name.starts_with("process_");
            assert!(ours && unit_given && help.ends_with('.'), "{name}");
        }
    }
}
