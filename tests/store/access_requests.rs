//! Requests of persons to be given what is known of them, and the packages that answer them.

use time::Duration;
use velum::{
    domain::{
        access::{AccessState, LockKind},
        id::SubjectId,
    },
    store::{AccessFilter, AccessRequest, Conflict, Store, StoreError},
};

use crate::databases::*;

const END: Duration = Duration::DAY;

fn refused<T>(outcome: Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Conflict(Conflict::AccessState)))
}

fn absent<T>(outcome: Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::NotFound))
}

#[test]
fn a_package_is_had_by_its_request_and_its_link_and_rests_sealed() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (own, foreign) = (tenant(&store).await, tenant(&store).await);
        let (id, key) = subject(&store, own, "emp-0042").await;
        let done = answered(&store, own, id, &key).await;
        let requests = store.access_requests();
        assert_eq!(requests.find(own, done.id).await.unwrap(), done);
        assert_eq!(done.package.as_ref().unwrap().lock, LockKind::Passphrase);
        let fetched = requests.fetch(own, done.id, None, act().event).await.unwrap();
        assert_eq!(fetched.open(&key).unwrap(), b"package");
        assert!(matches!(fetched.open(&any_key()), Err(StoreError::Sealed(_))));
        assert!(!database.bytes("access_requests", "package")[0].contains(&hex::encode("package")));

        assert_eq!(requests.behind(link_of(done.id)).await.unwrap(), done);
        assert!(absent(requests.behind([7; 32]).await));
        for outcome in [
            requests.find(foreign, done.id).await.map(drop),
            requests.fetch(foreign, done.id, None, act().event).await.map(drop),
            requests.expire(foreign, done.id, act().event).await,
        ] {
            assert!(absent(outcome));
        }
        // Each time is on record, and counted where a link was followed.
        let acts = database.count("audit_events");
        for number in 1..=2 {
            requests.fetch(own, done.id, Some(2), act().event).await.unwrap();
            assert_eq!(requests.find(own, done.id).await.unwrap().package.unwrap().downloads, number);
        }
        assert!(absent(requests.fetch(own, done.id, Some(2), act().event).await));
        assert_eq!(database.count("audit_events"), acts + 2);
        requests.fetch(own, done.id, None, act().event).await.unwrap();
    });
}

#[test]
fn a_package_goes_at_its_end_and_not_before() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        let done = answered(&store, tenant, id, &key).await;
        let at = |at| velum::audit::Event { at, ..act().event };
        let list = async |state, now| {
            let filter = AccessFilter { state: Some(state), subject: Some(id), now };
            store.access_requests().list(tenant, filter, None, 10).await.unwrap().items.len()
        };
        let moment = Duration::microseconds(1);
        store.access_requests().expire(tenant, done.id, at(NOW + END - moment)).await.unwrap();
        assert_eq!(store.access_requests().find(tenant, done.id).await.unwrap(), done);
        store.access_requests().fetch(tenant, done.id, None, at(NOW + END - moment)).await.unwrap();
        // Out of reach, though nobody has taken it away.
        assert!(absent(store.access_requests().fetch(tenant, done.id, None, at(NOW + END)).await));
        assert_eq!(
            (list(AccessState::Expired, NOW + END).await, list(AccessState::Completed, NOW + END).await),
            (1, 0)
        );
        assert_eq!((list(AccessState::Expired, NOW).await, list(AccessState::Completed, NOW).await), (0, 1));

        for _ in 0..2 {
            store.access_requests().expire(tenant, done.id, at(NOW + END)).await.unwrap();
        }
        let expired = "SELECT object AS value FROM audit_events WHERE at > (SELECT min(at) FROM audit_events)";
        assert_eq!(database.values(expired).len(), 2, "one fetched, one taken away");
        let kept = "SELECT id AS value FROM access_requests WHERE package IS NOT NULL OR link_hash IS NOT NULL";
        assert!(database.values(kept).is_empty());
        let over = store.access_requests().find(tenant, done.id).await.unwrap();
        assert_eq!(over, AccessRequest { state: AccessState::Expired, ..done });
        assert_eq!((list(AccessState::Expired, NOW).await, list(AccessState::Completed, NOW).await), (1, 0));
    });
}

async fn end(store: &Store, request: &AccessRequest, state: AccessState) -> Result<AccessRequest, StoreError> {
    let because = (state, Some("not you".to_owned()));
    store.access_requests().end(request.tenant, request.id, because, NOW, |_| Ok(act())).await
}

#[test]
fn a_request_is_answered_or_ended_once() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        let waiting = access_of(tenant, id);
        store.access_requests().open(&waiting, None, act()).await.unwrap();
        let orphan = access_of(tenant, SubjectId::generate());
        assert!(absent(store.access_requests().open(&orphan, None, act()).await));
        let (open, due) = store.access_requests().open_and_first_due().await.unwrap();
        assert_eq!((open, due), (1, Some(waiting.due_at)));
        let rejected = end(&store, &waiting, AccessState::Rejected).await.unwrap();
        assert_eq!((rejected.state, rejected.reason.as_deref()), (AccessState::Rejected, Some("not you")));
        assert!(refused(end(&store, &waiting, AccessState::Cancelled).await));
        let late = package_of(&waiting, b"late", &key, NOW + END);
        assert!(refused(store.access_requests().complete(&waiting, late, act()).await));
        assert_eq!(store.access_requests().open_and_first_due().await.unwrap(), (0, None));

        let done = answered(&store, tenant, id, &key).await;
        assert!(refused(end(&store, &done, AccessState::Rejected).await));
        end(&store, &done, AccessState::Cancelled).await.unwrap();
        assert!(absent(store.access_requests().behind(link_of(done.id)).await));
        assert!(absent(store.access_requests().fetch(tenant, done.id, None, act().event).await));
        assert!(refused(end(&store, &done, AccessState::Cancelled).await));
        // Nothing is written where the person is gone.
        erase(&store, tenant, id).await;
        let gone = package_of(&waiting, b"gone", &key, NOW + END);
        assert!(absent(store.access_requests().complete(&waiting, gone, act()).await));
        assert_eq!(database.count("access_requests"), 0);
    });
}
