//! Calls that may come twice: a claim that ran out is taken over, and who lost it has no effect.

use time::Duration;
use velum::{
    domain::id::TenantId,
    store::{Act, Claim, Claimed, Receipt, RecordId, Store, StoreError},
};

use crate::databases::*;

const RECORD: RecordId = [7; 32];

async fn claim(store: &Store, tenant: TenantId, at: Duration) -> Claimed {
    let (now, lease) = (NOW + at, Duration::seconds(35));
    store.idempotency().claim(tenant, RECORD, [1; 32], now, now + lease).await.unwrap()
}

async fn claimed(store: &Store, tenant: TenantId, at: Duration) -> Claim {
    match claim(store, tenant, at).await {
        Claimed::Yours(claim) => claim,
        Claimed::Running { until } => panic!("claimed until {until}"),
        Claimed::Done(_) => panic!("done"),
    }
}

#[test]
fn a_claim_that_ran_out_is_taken_over_and_its_first_holder_has_no_effect_any_more() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (subject, key) = subject(&store, tenant, "somebody").await;
        let slow = claimed(&store, tenant, Duration::ZERO).await;
        let until = NOW + Duration::seconds(35);
        for at in [0, 34] {
            let running = claim(&store, tenant, Duration::seconds(at)).await;
            assert!(matches!(running, Claimed::Running { until: seen } if seen == until));
        }
        let quick = claimed(&store, tenant, Duration::seconds(35)).await;

        let receipt = |claim: Claim| Receipt::bare(claim, 201, None).about(subject, &key, b"{\"id\":1}").unwrap();
        let first = consent_of(subject);
        let lost = store
            .consents()
            .insert(tenant, &first, &any_key(), Act { receipt: Some(receipt(slow.clone())), ..act() })
            .await;
        assert!(matches!(lost, Err(StoreError::Conflict(_))), "{lost:?}");
        assert!(all_consents(&store, tenant, subject, &any_key()).await.is_empty(), "undone with its receipt");
        store.idempotency().release(slow).await.unwrap();

        store
            .consents()
            .insert(tenant, &first, &any_key(), Act { receipt: Some(receipt(quick.clone())), ..act() })
            .await
            .unwrap();
        store.idempotency().release(quick).await.unwrap();
        let Claimed::Done(done) = claim(&store, tenant, Duration::MINUTE).await else { panic!("not done") };
        assert_eq!((done.status, done.subject, done.fingerprint.as_slice()), (201, Some(subject), [1; 32].as_slice()));
        assert_eq!(done.open_answer(&key).unwrap().as_deref(), Some(b"{\"id\":1}".as_slice()));
        claimed(&store, tenant, Duration::hours(25)).await;
    });
}

#[test]
fn of_many_who_claim_at_once_one_has_it() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let claims = (0..16).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { matches!(claim(&store, tenant, Duration::ZERO).await, Claimed::Yours(_)) })
        });
        let mut won = 0;
        for claim in claims.collect::<Vec<_>>() {
            won += usize::from(claim.await.unwrap());
        }
        assert_eq!(won, 1);
    });
}
