//! No active consent at the moment of writing, no row; whatever else runs at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use diesel::connection::SimpleConnection;
use time::Duration;
use velum::{
    domain::{
        consent::{Consent, ConsentState, Purpose},
        id::{ConsentId, SubjectId},
    },
    store::{Conflict, StoreError},
};

use crate::databases::*;

#[test]
fn a_consent_lives_from_grant_to_withdrawal() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, _) = subject(&store, tenant, "emp-0042").await;
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap(), None);

        let consent = Consent { expires_at: Some(NOW + Duration::DAY), ..consent_of(id) };
        store.consents().insert(tenant, &consent, act()).await.unwrap();
        assert_eq!(store.consents().find(tenant, id, consent.id).await.unwrap(), consent);
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap(), Some(consent.clone()));
        let other: Purpose = "face_identification".parse().unwrap();
        assert_eq!(store.consents().active(tenant, id, &other, NOW).await.unwrap(), None);
        let after_expiry = store.consents().active(tenant, id, &purpose(), NOW + Duration::DAY).await.unwrap();
        assert_eq!(after_expiry, None);

        let later = NOW + Duration::HOUR;
        let withdrawn = store.consents().withdraw(tenant, id, consent.id, later, act_of).await.unwrap();
        assert_eq!((withdrawn.state(later), withdrawn.withdrawn_at), (ConsentState::Withdrawn, Some(later)));
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap(), None);
        let again = store.consents().withdraw(tenant, id, consent.id, later + Duration::HOUR, act_of).await.unwrap();
        assert_eq!(again, withdrawn);
        assert_eq!(store.consents().list(tenant, id).await.unwrap(), [withdrawn]);
    });
}

#[test]
fn withdrawing_one_consent_withdraws_the_purpose_and_a_new_grant_gives_it_back() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, _) = subject(&store, tenant, "emp-0042").await;
        let (_, second) = (grant(&store, tenant, id).await, grant(&store, tenant, id).await);
        let other = Consent { purpose: "face_identification".parse().unwrap(), ..consent_of(id) };
        store.consents().insert(tenant, &other, act()).await.unwrap();

        store.consents().withdraw(tenant, id, second, NOW, act_of).await.unwrap();
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap(), None);
        assert!(store.consents().active(tenant, id, &other.purpose, NOW).await.unwrap().is_some());

        let third = grant(&store, tenant, id).await;
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap().map(|c| c.id), Some(third));
    });
}

#[test]
fn a_consent_needs_its_subject() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, _) = subject(&store, tenant, "emp-0042").await;
        let orphan = store.consents().insert(tenant, &consent_of(SubjectId::generate()), act()).await;
        assert!(matches!(orphan, Err(StoreError::NotFound)));
        let missing = store.consents().withdraw(tenant, id, ConsentId::generate(), NOW, act_of).await;
        assert!(matches!(missing, Err(StoreError::NotFound)));
        let consent = consent_of(id);
        store.consents().insert(tenant, &consent, act()).await.unwrap();
        let twice = store.consents().insert(tenant, &consent, act()).await;
        assert!(matches!(twice, Err(StoreError::Conflict(Conflict::Id))));
    });
}

#[test]
fn nothing_is_written_without_an_active_consent() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        let past = Some(NOW - Duration::SECOND);
        let useless = [
            Consent { expires_at: past, ..consent_of(id) },
            Consent { expires_at: Some(NOW), ..consent_of(id) },
            Consent { withdrawn_at: past, ..consent_of(id) },
            Consent { purpose: "face_identification".parse().unwrap(), ..consent_of(id) },
        ];
        for consent in [None].into_iter().chain(useless.iter().map(Some)) {
            if let Some(consent) = consent {
                store.consents().insert(tenant, consent, act()).await.unwrap();
            }
            let template = insert_template(&store, tenant, id, &key, b"template").await;
            assert!(matches!(template, Err(StoreError::NoConsent)), "{consent:?}");
            let verification = insert_verification(&store, tenant, verification_of(id), &key).await;
            assert!(matches!(verification, Err(StoreError::NoConsent)), "{consent:?}");
        }
        assert_eq!((database.count("enrolments"), database.count("verifications")), (0, 0));
    });
}

#[test]
fn once_a_withdrawal_has_returned_nothing_more_is_written() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        let key = Arc::new(key);
        for round in 0..5 {
            let consent = grant(&store, tenant, id).await;
            let written = Arc::new(AtomicUsize::new(0));
            let writers: Vec<_> = (0..4)
                .map(|_| {
                    let (store, key, written) = (store.clone(), key.clone(), written.clone());
                    tokio::spawn(async move {
                        loop {
                            match insert_verification(&store, tenant, verification_of(id), &key).await {
                                Ok(()) => written.fetch_add(1, Ordering::SeqCst),
                                Err(StoreError::NoConsent) => break,
                                Err(error) => panic!("{error:?}"),
                            };
                        }
                    })
                })
                .collect();
            while written.load(Ordering::SeqCst) < 10 {
                tokio::task::yield_now().await;
            }
            store.consents().withdraw(tenant, id, consent, NOW, act_of).await.unwrap();
            let at_return = database.count("verifications");
            for writer in writers {
                writer.await.unwrap();
            }
            assert_eq!(database.count("verifications"), at_return, "round {round}");
        }
    });
}

#[test]
fn a_withdrawal_waits_for_the_write_that_came_first() {
    on(Kind::Postgres, |database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        let consent = grant(&store, tenant, id).await;
        // A stranger stops the writer between its look at the consent and its insert.
        let mut stranger = database.stranger("BEGIN; LOCK TABLE verifications IN SHARE MODE");
        let writer = tokio::spawn({
            let store = store.clone();
            async move { insert_verification(&store, tenant, verification_of(id), &key).await }
        });
        database.wait_for_blocked(1).await;
        let withdrawal = tokio::spawn({
            let store = store.clone();
            async move { store.consents().withdraw(tenant, id, consent, NOW, act_of).await }
        });
        database.wait_for_blocked(2).await;
        stranger.batch_execute("COMMIT").unwrap();
        withdrawal.await.unwrap().unwrap();
        assert_eq!(database.count("verifications"), 1);
        writer.await.unwrap().unwrap();
    });
}
