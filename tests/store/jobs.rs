//! The queue: one worker at a time, whatever becomes of the one before.

use std::collections::BTreeSet;

use serde_json::json;
use time::{Duration, OffsetDateTime};
use velum::{
    audit::{Action, Actor, Event},
    domain::{
        id::{JobId, TenantId},
        job::{ATTEMPTS_MAX, JobKind},
    },
    store::{Conflict, Lease, LeasedJob, NewJob, Store, StoreError},
};

use crate::databases::*;

const LEASE: Duration = Duration::seconds(30);

fn job() -> NewJob {
    NewJob {
        kind: JobKind::Retention,
        tenant: None,
        payload: json!({ "request": "ers_1" }),
        unique_key: None,
        due_at: NOW,
        created_at: NOW,
    }
}

fn retry_of(job: JobId, at: OffsetDateTime) -> Event {
    Event::of(Actor::operator(), Action::JobRetried, job, at)
}

/// Asks for the jobs of which a tenant's log says that they were retried.
fn retried_in(tenant: TenantId) -> String {
    format!(
        "SELECT object AS value FROM audit_events WHERE action = 'job.retried' AND tenant_id = '{tenant}' ORDER BY sequence"
    )
}

async fn lease_at(store: &Store, now: OffsetDateTime) -> Option<LeasedJob> {
    store.jobs().lease(now, now + LEASE, 1).await.unwrap().pop()
}

/// Whether everything that is said under this lease is refused.
async fn is_lost(store: &Store, lease: &Lease) -> bool {
    let said = [
        store.jobs().prolong(lease, NOW + Duration::DAY).await,
        store.jobs().put_off(lease, NOW + Duration::DAY).await,
        store.jobs().fail(lease, "failed", Some(NOW + Duration::DAY), NOW).await,
        store.jobs().fail(lease, "failed", None, NOW).await,
        store.jobs().give_back(lease).await,
        store.jobs().finish(lease.clone()).await,
    ];
    let refused = |said: &Result<(), StoreError>| matches!(said, Err(StoreError::Conflict(Conflict::LeaseLost)));
    said.iter().all(refused)
}

#[test]
fn two_workers_never_have_one_job() {
    on_each_database(|database| async move {
        let (one, other) = (database.store().await, database.store_at(&database.url).await);
        for _ in 0..120 {
            one.jobs().enqueue(job()).await.unwrap();
        }
        let workers = (0..6).map(|number| {
            let store = if number % 2 == 0 { one.clone() } else { other.clone() };
            tokio::spawn(async move {
                let mut had = vec![];
                loop {
                    let leased = store.jobs().lease(NOW, NOW + LEASE, 3).await.unwrap();
                    assert!(leased.len() <= 3);
                    // Passed over while others were choosing, or really none left.
                    if leased.is_empty()
                        && store.jobs().list(false, 500).await.unwrap().iter().all(|job| job.leased_until.is_some())
                    {
                        return had;
                    }
                    had.extend(leased.into_iter().map(|job| job.lease.job()));
                }
            })
        });
        let had: Vec<JobId> =
            futures_util::future::join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(had.len(), 120);
        assert_eq!(had.into_iter().collect::<BTreeSet<_>>().len(), 120);
    });
}

#[test]
fn a_job_of_a_worker_that_vanished_is_taken_over_and_the_old_one_has_no_say_any_more() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        store.jobs().enqueue(NewJob { tenant: Some(tenant), ..job() }).await.unwrap();
        let first = lease_at(&store, NOW).await.unwrap();
        assert_eq!((first.kind, first.tenant, first.attempt), (JobKind::Retention, Some(tenant), 1));
        assert_eq!(first.payload, json!({ "request": "ers_1" }));

        let end = NOW + LEASE;
        assert!(lease_at(&store, end - Duration::microseconds(1)).await.is_none());
        store.jobs().prolong(&first.lease, end + LEASE).await.unwrap();
        assert!(lease_at(&store, end).await.is_none());

        let second = lease_at(&store, end + LEASE).await.unwrap();
        assert_eq!((second.lease.job(), second.attempt), (first.lease.job(), 2));
        assert!(is_lost(&store, &first.lease).await);
        store.jobs().prolong(&second.lease, end + LEASE * 2).await.unwrap();
        store.jobs().finish(second.lease.clone()).await.unwrap();
        assert!(is_lost(&store, &second.lease).await);
        assert_eq!(database.count("jobs"), 0);
    });
}

#[test]
fn a_job_that_failed_comes_back_when_it_is_due_and_is_dead_when_it_is_given_up() {
    on_each_database(|database| async move {
        let store = database.store().await;
        store.jobs().enqueue(job()).await.unwrap();
        let first = lease_at(&store, NOW).await.unwrap();
        let later = NOW + Duration::minutes(10);
        store.jobs().fail(&first.lease, "keyholder_away", Some(later), NOW).await.unwrap();
        assert!(is_lost(&store, &first.lease).await);
        assert!(lease_at(&store, later - Duration::SECOND).await.is_none());

        let second = lease_at(&store, later).await.unwrap();
        assert_eq!(second.attempt, 2);
        let listed = &store.jobs().list(false, 10).await.unwrap()[0];
        assert_eq!(listed.last_error.as_deref(), Some("keyholder_away"));
        store.jobs().fail(&second.lease, "failed", None, later).await.unwrap();
        assert!(lease_at(&store, later + Duration::DAY).await.is_none());
        assert_eq!(store.jobs().list(false, 10).await.unwrap(), []);
        let dead = &store.jobs().list(true, 10).await.unwrap()[0];
        assert_eq!((dead.id, dead.dead_at, dead.attempts), (first.lease.job(), Some(later), 2));

        let (one, other) = (tenant(&store).await, tenant(&store).await);
        let retried = |tenant| database.values(&retried_in(tenant));
        store.jobs().retry(dead.id, retry_of(dead.id, later)).await.unwrap();
        // It was a job for every tenant.
        assert_eq!((retried(one), retried(other)), (vec![dead.id.to_string()], vec![dead.id.to_string()]));
        assert_eq!(lease_at(&store, later).await.unwrap().attempt, 1);
        for id in [dead.id, JobId::generate()] {
            assert!(matches!(store.jobs().retry(id, retry_of(id, later)).await, Err(StoreError::NotFound)));
        }
        assert_eq!(retried(one).len(), 1, "nothing was done, and nothing is recorded");

        let own = NewJob { tenant: Some(one), ..job() };
        store.jobs().enqueue(own).await.unwrap();
        let lease = lease_at(&store, later).await.unwrap().lease;
        store.jobs().fail(&lease, "failed", None, later).await.unwrap();
        store.jobs().retry(lease.job(), retry_of(lease.job(), later)).await.unwrap();
        assert_eq!(retried(one), [dead.id.to_string(), lease.job().to_string()]);
        assert_eq!(retried(other), [dead.id.to_string()], "of its own tenant alone");
    });
}

#[test]
fn a_job_that_its_workers_die_of_is_dead_after_the_last_attempt() {
    on_each_database(|database| async move {
        let store = database.store().await;
        store.jobs().enqueue(job()).await.unwrap();
        let mut now = NOW;
        for attempt in 1..=ATTEMPTS_MAX {
            assert_eq!(lease_at(&store, now).await.unwrap().attempt, attempt);
            now += LEASE;
        }
        assert!(lease_at(&store, now).await.is_none());
        let dead = &store.jobs().list(true, 10).await.unwrap()[0];
        assert_eq!(dead.last_error.as_deref(), Some("worker_vanished"));
    });
}

#[test]
fn a_job_that_was_given_back_has_not_been_tried() {
    on_each_database(|database| async move {
        let store = database.store().await;
        store.jobs().enqueue(job()).await.unwrap();
        let first = lease_at(&store, NOW).await.unwrap();
        store.jobs().give_back(&first.lease).await.unwrap();
        assert!(is_lost(&store, &first.lease).await);
        assert_eq!(lease_at(&store, NOW).await.unwrap().attempt, 1);
    });
}

#[test]
fn a_job_with_a_key_is_queued_once_as_long_as_it_is_not_done() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let daily = || NewJob { unique_key: Some("daily".to_owned()), ..job() };
        let other = database.store_at(&database.url).await;
        let both = futures_util::future::join_all([&store, &other].map(|store| async move {
            for _ in 0..10 {
                store.jobs().enqueue(daily()).await.unwrap();
            }
        }));
        both.await;
        assert_eq!(database.count("jobs"), 1);
        let first = lease_at(&store, NOW).await.unwrap();
        store.jobs().enqueue(daily()).await.unwrap();
        assert_eq!(database.count("jobs"), 1, "it is at work");

        // Put off, it stays the one; dead, it makes room, and does not come back beside its successor.
        store.jobs().put_off(&first.lease, NOW + Duration::DAY).await.unwrap();
        store.jobs().enqueue(daily()).await.unwrap();
        assert_eq!(database.count("jobs"), 1);
        assert!(lease_at(&store, NOW).await.is_none());
        let second = lease_at(&store, NOW + Duration::DAY).await.unwrap();
        assert_eq!(second.attempt, 1);
        store.jobs().fail(&second.lease, "failed", None, NOW).await.unwrap();
        store.jobs().enqueue(daily()).await.unwrap();
        assert_eq!(database.count("jobs"), 2);
        let id = second.lease.job();
        let retried = store.jobs().retry(id, retry_of(id, NOW)).await;
        assert!(matches!(retried, Err(StoreError::Conflict(Conflict::JobQueued))));
    });
}

#[test]
fn a_job_that_this_program_cannot_read_keeps_no_other_from_being_done() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let columns = "INSERT INTO jobs (id, kind, payload, due_at, attempts, created_at) VALUES";
        let (newer, broken) = (JobId::generate(), JobId::generate());
        database.execute(&format!("{columns} ('{newer}', 'of_tomorrow', '{{}}', 0, 0, 0)")).unwrap();
        database.execute(&format!("{columns} ('{broken}', 'retention', 'no json', 0, 0, 0)")).unwrap();
        store.jobs().enqueue(job()).await.unwrap();

        let leased = store.jobs().lease(NOW, NOW + LEASE, 10).await.unwrap();
        assert_eq!(leased.len(), 1);
        assert_eq!(leased[0].payload, job().payload);
        let dead = store.jobs().list(true, 10).await.unwrap();
        assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [broken]);
        let waiting = store.jobs().list(false, 10).await.unwrap();
        assert!(waiting.iter().any(|job| job.id == newer && job.attempts == 0), "for a program that knows it");
    });
}

#[test]
fn the_backlog_says_what_waits_since_when_and_what_is_dead() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let backlog = store.jobs().backlog(NOW).await.unwrap();
        assert_eq!((backlog.due, backlog.later, backlog.dead, backlog.oldest_due_at), (0, 0, 0, None));
        for due_at in [NOW - Duration::HOUR, NOW, NOW + Duration::SECOND] {
            store.jobs().enqueue(NewJob { due_at, ..job() }).await.unwrap();
        }
        let oldest = lease_at(&store, NOW).await.unwrap();
        let backlog = store.jobs().backlog(NOW).await.unwrap();
        assert_eq!((backlog.due, backlog.later, backlog.dead), (2, 1, 0));
        assert_eq!(backlog.oldest_due_at, Some(NOW - Duration::HOUR));
        store.jobs().fail(&oldest.lease, "failed", None, NOW).await.unwrap();
        let backlog = store.jobs().backlog(NOW).await.unwrap();
        assert_eq!((backlog.due, backlog.later, backlog.dead, backlog.oldest_due_at), (1, 1, 1, Some(NOW)));
    });
}

#[test]
fn a_job_of_a_tenant_that_is_not_there_is_refused() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let orphan = NewJob { tenant: Some(TenantId::generate()), ..job() };
        assert!(store.jobs().enqueue(orphan).await.is_err());
        assert_eq!(database.count("jobs"), 0);
    });
}
