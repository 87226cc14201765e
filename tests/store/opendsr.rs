//! Requests that controllers passed on, and what their receivers have yet to be told.

use time::{Duration, OffsetDateTime};
use velum::{
    domain::{
        erasure::ErasureState,
        id::{SubjectId, TenantId},
        job::JobKind,
        opendsr::SubjectRequestId,
    },
    store::{Conflict, ErasureRequest, Exchanged, Lease, NewJob, OpenDsrRequest, Receivers, Step, Store, StoreError},
    vault::DataKey,
};

use crate::databases::*;

const ID: &str = "a7551968-d5d6-44b2-9831-815ac9017798";
const ADDRESS: &str = "https://controller.example/hook?secret=s3cr3t";

fn id() -> SubjectRequestId {
    ID.parse().unwrap()
}

fn request_of(erasure: &ErasureRequest) -> OpenDsrRequest {
    OpenDsrRequest {
        id: id(),
        tenant: erasure.tenant,
        erasure: Some(erasure.id),
        fingerprint: [7; 32],
        received_at: NOW,
        due_at: erasure.due_at,
    }
}

fn job(tenant: TenantId) -> NewJob {
    NewJob {
        kind: JobKind::Erasure,
        tenant: Some(tenant),
        payload: serde_json::json!({}),
        unique_key: None,
        due_at: NOW + Duration::DAY,
        created_at: NOW,
    }
}

/// Somebody's request with two receivers.
async fn submitted(store: &Store, tenant: TenantId, key: &DataKey) -> (ErasureRequest, SubjectId) {
    let (person, _) = subject(store, tenant, "somebody").await;
    let mut erasure = erasure_of(tenant, person);
    (erasure.state, erasure.begun_at) = (ErasureState::Verified, None);
    let key_id = SubjectId::generate();
    let addresses = [ADDRESS.to_owned(), "https://other.example/".to_owned()];
    let receivers = Receivers { key_id, key, addresses: &addresses };
    let opened = Some((erasure.clone(), job(tenant)));
    store.opendsr().submit(&request_of(&erasure), Some(receivers), opened, act()).await.unwrap();
    (erasure, key_id)
}

async fn step(store: &Store, erasure: &ErasureRequest, from: ErasureState, to: ErasureState) {
    let step = Step { from, to, reason: None, at: NOW };
    store.erasures().step(erasure.tenant, erasure.id, step, None, |_| Ok(act())).await.unwrap();
}

async fn callback_jobs(store: &Store) -> Vec<(i64, Lease)> {
    let leased = store.jobs().lease_of(vec![JobKind::Callback], NOW, NOW + Duration::MINUTE, 10).await.unwrap();
    leased.into_iter().map(|job| (job.payload["receiver"].as_i64().unwrap(), job.lease)).collect()
}

#[test]
fn what_is_not_written_whole_is_not_written_at_all() {
    on_each_database(|database| async move {
        let (store, key) = (database.store().await, any_key());
        let tenant = tenant(&store).await;
        let (erasure, _) = submitted(&store, tenant, &key).await;
        assert_eq!(store.opendsr().find(tenant, id()).await.unwrap(), request_of(&erasure));
        let other = crate::databases::tenant(&store).await;
        assert!(matches!(store.opendsr().find(other, id()).await, Err(StoreError::NotFound)));

        // The same id again: no second erasure request, of somebody else neither.
        let (person, _) = subject(&store, tenant, "another").await;
        let second = erasure_of(tenant, person);
        let size = store.audit().chain(tenant).await.unwrap().size();
        let again =
            store.opendsr().submit(&request_of(&second), None, Some((second.clone(), job(tenant))), act()).await;
        assert!(matches!(again, Err(StoreError::Conflict(Conflict::SubjectRequestId))), "{again:?}");
        assert!(matches!(store.erasures().find(tenant, second.id).await, Err(StoreError::NotFound)));

        // Another id for a person with an open request: nothing either.
        let another = OpenDsrRequest { id: ID.replace("a755", "b755").parse().unwrap(), ..request_of(&erasure) };
        let fresh = ErasureRequest { id: second.id, ..erasure.clone() };
        let open = store.opendsr().submit(&another, None, Some((fresh, job(tenant))), act()).await;
        assert!(matches!(open, Err(StoreError::Conflict(Conflict::ErasureOpen))), "{open:?}");
        assert!(matches!(store.opendsr().find(tenant, another.id).await, Err(StoreError::NotFound)));
        assert_eq!(store.audit().chain(tenant).await.unwrap().size(), size);
        assert!(
            database
                .bytes("opendsr_requests", "addresses")
                .iter()
                .all(|sealed| !sealed.contains(&hex::encode("s3cr3t")))
        );
    });
}

#[test]
fn a_receiver_is_told_in_order_and_its_job_ends_when_it_knows_everything() {
    on_each_database(|database| async move {
        let (store, key) = (database.store().await, any_key());
        let tenant = tenant(&store).await;
        let (erasure, key_id) = submitted(&store, tenant, &key).await;
        let opendsr = store.opendsr();
        assert_eq!(opendsr.next(tenant, id(), 0).await.unwrap(), None);
        step(&store, &erasure, ErasureState::Verified, ErasureState::OnHold).await;
        step(&store, &erasure, ErasureState::OnHold, ErasureState::Verified).await;
        let mut jobs = callback_jobs(&store).await;
        jobs.sort_by_key(|(receiver, _)| *receiver);
        assert_eq!(jobs.iter().map(|(receiver, _)| *receiver).collect::<Vec<_>>(), [0, 1], "one for each");

        let first = opendsr.next(tenant, id(), 0).await.unwrap().unwrap();
        assert_eq!((first.state, first.change, first.key_id), (ErasureState::OnHold, 1, key_id));
        assert_eq!(*first.open_address(&key).unwrap(), ADDRESS);
        assert!(first.open_address(&any_key()).is_err());
        assert_eq!(opendsr.next(tenant, id(), 0).await.unwrap().as_ref(), Some(&first), "until it was told");
        let size = store.audit().chain(tenant).await.unwrap().size();
        opendsr.told(tenant, &first, act().event).await.unwrap();
        opendsr.told(tenant, &first, act().event).await.unwrap();
        assert_eq!(store.audit().chain(tenant).await.unwrap().size(), size + 1, "told once");

        let second = opendsr.next(tenant, id(), 0).await.unwrap().unwrap();
        assert_eq!((second.state, second.change), (ErasureState::Verified, 2));
        assert!(!opendsr.finish(tenant, id(), 0, jobs[0].1.clone()).await.unwrap(), "there is something to tell");
        opendsr.told(tenant, &second, act().event).await.unwrap();
        assert!(opendsr.finish(tenant, id(), 0, jobs[0].1.clone()).await.unwrap());
        assert!(callback_jobs(&store).await.is_empty(), "the other is at work still");

        // It is over when the request has ended and everybody knows.
        step(&store, &erasure, ErasureState::Verified, ErasureState::Cancelled).await;
        assert_eq!(callback_jobs(&store).await.len(), 1, "a new job for who had none");
        for receiver in [0, 1] {
            assert_eq!(opendsr.key_to_forget(tenant, id()).await.unwrap(), None);
            while let Some(next) = opendsr.next(tenant, id(), receiver).await.unwrap() {
                opendsr.told(tenant, &next, act().event).await.unwrap();
            }
        }
        assert_eq!(opendsr.key_to_forget(tenant, id()).await.unwrap(), Some(key_id));
        assert_eq!(opendsr.kept_addresses(NOW).await.unwrap(), []);
        assert_eq!(opendsr.kept_addresses(NOW + Duration::SECOND).await.unwrap()[0].key_id, key_id);
        opendsr.forget_addresses(tenant, id(), None).await.unwrap();
        assert_eq!(opendsr.key_to_forget(tenant, id()).await.unwrap(), None);
        assert_eq!(database.values("SELECT id AS value FROM opendsr_requests WHERE addresses IS NOT NULL"), [""; 0]);
    });
}

#[test]
fn a_change_that_comes_while_a_job_ends_is_never_forgotten() {
    on_each_database(|database| async move {
        let (store, key) = (database.store().await, any_key());
        let tenant = tenant(&store).await;
        let (erasure, _) = submitted(&store, tenant, &key).await;
        let opendsr = store.opendsr();
        let (mut from, mut to) = (ErasureState::Verified, ErasureState::OnHold);
        for _ in 0..30 {
            let mut leases = callback_jobs(&store).await;
            let work = async {
                for (receiver, lease) in leases.drain(..) {
                    loop {
                        while let Some(next) = opendsr.next(tenant, id(), receiver).await.unwrap() {
                            opendsr.told(tenant, &next, act().event).await.unwrap();
                        }
                        if opendsr.finish(tenant, id(), receiver, lease.clone()).await.unwrap() {
                            break;
                        }
                    }
                }
            };
            tokio::join!(work, step(&store, &erasure, from, to));
            (from, to) = (to, from);
            // Whatever is left to tell has a job.
            for receiver in [0, 1] {
                if opendsr.next(tenant, id(), receiver).await.unwrap().is_some() {
                    let of_receiver = format!("kind = 'callback' AND unique_key LIKE '% {receiver}'");
                    let waiting = format!("SELECT id AS value FROM jobs WHERE {of_receiver}");
                    assert_eq!(database.values(&waiting).len(), 1);
                }
            }
        }
    });
}

#[test]
fn addresses_follow_an_exchange_of_their_key_and_a_replay_of_the_ledger() {
    on_each_database(|database| async move {
        let beside = TestDatabase::new(database.kind).unwrap();
        let (store, keys) = (database.store().await, beside.key_store().await);
        let tenant = tenant(&store).await;
        let (person, _) = subject(&store, tenant, "somebody").await;
        let erasure = erasure_of(tenant, person);
        let key_id = SubjectId::generate();
        let key = keys.create(tenant, key_id, NOW).await.unwrap();
        let addresses = [ADDRESS.to_owned()];
        let receivers = Receivers { key_id, key: &key, addresses: &addresses };
        store
            .opendsr()
            .submit(&request_of(&erasure), Some(receivers), Some((erasure.clone(), job(tenant))), act())
            .await
            .unwrap();

        let later = OffsetDateTime::now_utc() + Duration::DAY;
        keys.begin_exchange(later, NOW).await.unwrap();
        let both = keys.get(tenant, key_id).await.unwrap().unwrap();
        store.reseal(Exchanged { tenant, subject: key_id }, both).await.unwrap();
        keys.finish_exchange(vec![Exchanged { tenant, subject: key_id }]).await.unwrap();
        let new = keys.get(tenant, key_id).await.unwrap().unwrap();

        // The ledger knows of another erasure of the same person: the controller is told of that one.
        let replayed = erasure_of(tenant, person);
        store.erasures().restore(&replayed, job(tenant), act().event, act().event).await.unwrap();
        assert_eq!(store.opendsr().find(tenant, id()).await.unwrap().erasure, Some(replayed.id));
        store.erasures().remove_rows(tenant, replayed.id, person, act().event).await.unwrap();
        store.erasures().certify(tenant, replayed.id, "certificate".to_owned(), act()).await.unwrap();
        let next = store.opendsr().next(tenant, id(), 0).await.unwrap().unwrap();
        assert_eq!(next.state, ErasureState::Completed);
        assert_eq!(*next.open_address(&new).unwrap(), ADDRESS);
        assert!(next.open_address(&key).is_err(), "the old key opens nothing any more");
    });
}
