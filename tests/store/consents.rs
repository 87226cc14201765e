//! No active consent at the moment of writing, no row; whatever else runs at the same time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use diesel::connection::SimpleConnection;
use time::Duration;
use velum::{
    domain::{
        consent::{Consent, ConsentState, GivenBy, Method, Purpose, Reference, ShownNotice, Statement},
        erasure::ErasureState,
        id::{ConsentId, SubjectId, TenantId},
        job::JobKind,
        notice::{Generation, Notice},
        restriction::{Ground, Restriction},
    },
    store::{
        Conflict, ErasureRequest, NewErasureRequest, NewJob, NewWithdrawal, STANDING_CONSENTS_MAX, Store, StoreError,
    },
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
        store.consents().insert(tenant, &consent, &any_key(), act()).await.unwrap();
        assert_eq!(store.consents().find(tenant, id, consent.id, &any_key()).await.unwrap(), consent);
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap(), Some(consent.id));
        let other: Purpose = "face_identification".parse().unwrap();
        assert_eq!(store.consents().active(tenant, id, &other, NOW).await.unwrap(), None);
        let after_expiry = store.consents().active(tenant, id, &purpose(), NOW + Duration::DAY).await.unwrap();
        assert_eq!(after_expiry, None);

        let later = NOW + Duration::HOUR;
        let withdrawn = store
            .consents()
            .withdraw(tenant, id, consent.id, withdrawal(said(later), any_key()), act_of)
            .await
            .unwrap();
        assert_eq!((withdrawn.state(later), &withdrawn.withdrawn), (ConsentState::Withdrawn, &Some(said(later))));
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap(), None);
        let again = store
            .consents()
            .withdraw(tenant, id, consent.id, withdrawal(said(later + Duration::HOUR), any_key()), act_of)
            .await
            .unwrap();
        assert_eq!(again, withdrawn);
        assert_eq!(all_consents(&store, tenant, id, &any_key()).await, [withdrawn]);
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
        store.consents().insert(tenant, &other, &any_key(), act()).await.unwrap();

        store.consents().withdraw(tenant, id, second, withdrawal(said(NOW), any_key()), act_of).await.unwrap();
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap(), None);
        assert!(store.consents().active(tenant, id, &other.purpose, NOW).await.unwrap().is_some());

        let third = grant(&store, tenant, id).await;
        assert_eq!(store.consents().active(tenant, id, &purpose(), NOW).await.unwrap(), Some(third));
    });
}

#[test]
fn a_consent_needs_its_subject() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, _) = subject(&store, tenant, "emp-0042").await;
        let orphan = store.consents().insert(tenant, &consent_of(SubjectId::generate()), &any_key(), act()).await;
        assert!(matches!(orphan, Err(StoreError::NotFound)));
        let missing = store
            .consents()
            .withdraw(tenant, id, ConsentId::generate(), withdrawal(said(NOW), any_key()), act_of)
            .await;
        assert!(matches!(missing, Err(StoreError::NotFound)));
        let consent = consent_of(id);
        store.consents().insert(tenant, &consent, &any_key(), act()).await.unwrap();
        let twice = store.consents().insert(tenant, &consent, &any_key(), act()).await;
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
            Consent { withdrawn: past.map(said), ..consent_of(id) },
            Consent { purpose: "face_identification".parse().unwrap(), ..consent_of(id) },
        ];
        for consent in [None].into_iter().chain(useless.iter().map(Some)) {
            if let Some(consent) = consent {
                store.consents().insert(tenant, consent, &any_key(), act()).await.unwrap();
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
                            let begun = Instant::now();
                            match insert_verification(&store, tenant, verification_of(id), &key).await {
                                Ok(()) => written.fetch_add(1, Ordering::SeqCst),
                                Err(StoreError::NoConsent) => break,
                                Err(error) => panic!("{error:?}"),
                            };
                            // Who never rests would starve the others, as the lock of SQLite is not fair: the slower the
                            // disk, the longer.
                            tokio::time::sleep(3 * begun.elapsed()).await;
                        }
                    })
                })
                .collect();
            while written.load(Ordering::SeqCst) < 10 {
                tokio::task::yield_now().await;
            }
            store.consents().withdraw(tenant, id, consent, withdrawal(said(NOW), any_key()), act_of).await.unwrap();
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
            async move { store.consents().withdraw(tenant, id, consent, withdrawal(said(NOW), any_key()), act_of).await }
        });
        database.wait_for_blocked(2).await;
        stranger.batch_execute("COMMIT").unwrap();
        withdrawal.await.unwrap().unwrap();
        assert_eq!(database.count("verifications"), 1);
        writer.await.unwrap().unwrap();
    });
}

#[test]
fn a_restriction_waits_for_the_write_that_came_first_and_nothing_comes_after_it() {
    on(Kind::Postgres, |database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        let mut stranger = database.stranger("BEGIN; LOCK TABLE verifications IN SHARE MODE");
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                insert_verification(&store, tenant, verification_of(id), &key).await.unwrap();
                insert_verification(&store, tenant, verification_of(id), &key).await
            }
        });
        database.wait_for_blocked(1).await;
        let restriction = Restriction { ground: Ground::Objection, since: NOW };
        let restricting = tokio::spawn({
            let store = store.clone();
            async move { store.subjects().restrict(tenant, id, restriction, |_| Ok(act())).await }
        });
        database.wait_for_blocked(2).await;
        stranger.batch_execute("COMMIT").unwrap();
        assert_eq!(restricting.await.unwrap().unwrap(), restriction);
        let stored = database.count("verifications");
        assert!((1..=2).contains(&stored), "{stored}");
        let _before_or_refused = writer.await.unwrap();
        assert_eq!(database.count("verifications"), stored);
    });
}

#[test]
fn nothing_is_written_about_a_person_whose_data_rest_and_nothing_is_deleted_one_by_one() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        insert_template(&store, tenant, id, &key, b"template").await.unwrap();
        let restriction = Restriction { ground: Ground::AccuracyContested, since: NOW };
        store.subjects().restrict(tenant, id, restriction, |_| Ok(act())).await.unwrap();
        assert_eq!(store.subjects().find(tenant, id).await.unwrap().restriction, Some(restriction));

        let template = store.templates().list(tenant, id).await.unwrap()[0].id;
        for refused in [
            store.consents().active(tenant, id, &purpose(), NOW).await.map(drop),
            insert_template(&store, tenant, id, &key, b"template").await.map(drop),
            insert_verification(&store, tenant, verification_of(id), &key).await,
            store.templates().delete(tenant, id, template, act()).await,
        ] {
            assert!(matches!(refused, Err(StoreError::Restricted)), "{refused:?}");
        }
        assert_eq!((database.count("enrolments"), database.count("verifications")), (1, 0));
        store.subjects().lift_restriction(tenant, id, None, act()).await.unwrap();
        insert_verification(&store, tenant, verification_of(id), &key).await.unwrap();
        store.templates().delete(tenant, id, template, act()).await.unwrap();
    });
}

#[test]
fn who_said_what_when_and_how_comes_back_and_references_rest_sealed() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        let key = Arc::new(key);
        let named = |text: &str| Some(Reference::new(text.to_owned()));
        let yes = Statement { evidence: named("form of Zwiebelturm"), method: Some(Method::Paper), ..said(NOW) };
        let consent = Consent {
            granted: yes,
            given_by: GivenBy::Parent,
            guardian: named("mother of Zwiebelturm"),
            ..consent_of(id)
        };
        store.consents().insert(tenant, &consent, &key, act()).await.unwrap();
        assert_eq!(all_consents(&store, tenant, id, &key).await, vec![consent.clone()]);

        let no = Statement { evidence: named("call of Zwiebelturm"), by: Some("key_1".to_owned()), ..said(NOW) };
        let withdrawn = store
            .consents()
            .withdraw(tenant, id, consent.id, withdrawal(no.clone(), key.clone()), act_of)
            .await
            .unwrap();
        assert_eq!(withdrawn, Consent { withdrawn: Some(no), ..consent.clone() });
        assert_eq!(store.consents().find(tenant, id, consent.id, &key).await.unwrap(), withdrawn);

        for column in ["evidence", "guardian", "withdrawal_evidence"] {
            let stored = database.bytes("consents", column).concat();
            assert!(!stored.is_empty() && !stored.contains(&hex::encode("Zwiebelturm")), "{column}: {stored}");
        }
        let foreign = store.consents().find(tenant, id, consent.id, &any_key()).await;
        assert!(matches!(foreign, Err(StoreError::Sealed(_))));
    });
}

#[test]
fn a_material_change_ends_what_was_agreed_to_before_and_nothing_else_does() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        let active = async || store.consents().active(tenant, id, &purpose(), NOW).await;
        let superseded = |active| matches!(active, Err(StoreError::ConsentSuperseded));
        let agree = async |notice: &Notice| {
            let shown =
                ShownNotice { version: notice.version.clone(), id: Some(notice.id), generation: notice.generation };
            let consent = Consent { notice: shown, ..consent_of(id) };
            store.consents().insert(tenant, &consent, &key, act()).await.map(|()| consent.id)
        };

        let unregistered = grant(&store, tenant, id).await;
        let first = publish(&store, &notice_of(tenant, "1", "en", false)).await.unwrap();
        assert_eq!(active().await.unwrap(), Some(unregistered), "a first notice alone changes nothing");
        let under_first = agree(&first).await.unwrap();
        publish(&store, &notice_of(tenant, "2", "en", false)).await.unwrap();
        assert_eq!(active().await.unwrap(), Some(under_first));
        let other = Notice { purpose: "newsletter".parse().unwrap(), ..notice_of(tenant, "9", "en", true) };
        publish(&store, &other).await.unwrap();
        assert_eq!(active().await.unwrap(), Some(under_first), "another purpose");

        let third = publish(&store, &notice_of(tenant, "3", "en", true)).await.unwrap();
        assert_eq!(third.generation, Generation(1));
        assert!(superseded(active().await));
        let written = insert_template(&store, tenant, id, &key, b"template").await;
        assert!(matches!(written, Err(StoreError::ConsentSuperseded)));
        let states = all_consents(&store, tenant, id, &key).await;
        assert!(states.iter().all(|consent| consent.state(NOW) == ConsentState::Superseded));
        assert_eq!(store.history().counts(tenant, NOW).await.unwrap().active_consents, 0);
        let unregistered = store.consents().insert(tenant, &consent_of(id), &key, act()).await;
        for late in [agree(&first).await.map(drop), unregistered] {
            assert!(matches!(late, Err(StoreError::Conflict(Conflict::NoticeSuperseded))), "{late:?}");
        }

        let under_third = agree(&third).await.unwrap();
        assert_eq!(active().await.unwrap(), Some(under_third));
        assert_eq!(store.history().counts(tenant, NOW).await.unwrap().active_consents, 1);
        // What comes later in another language belongs to its version, even to an old one.
        let translated = publish(&store, &notice_of(tenant, "3", "de", true)).await.unwrap();
        assert_eq!(translated.generation, third.generation);
        let old = publish(&store, &notice_of(tenant, "1", "de", false)).await.unwrap();
        assert_eq!(old.generation, first.generation);
        assert_eq!(active().await.unwrap(), Some(under_third));
        insert_template(&store, tenant, id, &key, b"template").await.unwrap();

        store.consents().withdraw(tenant, id, under_first, withdrawal(said(NOW), Arc::new(key)), act_of).await.unwrap();
        assert_eq!(active().await.unwrap(), None, "who said no is not asked again for the notice's sake");
    });
}

#[test]
fn a_version_is_published_once_in_a_language_and_says_one_thing_of_what_it_changes() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (own, foreign) = (tenant(&store).await, tenant(&store).await);
        let notice = publish(&store, &notice_of(own, "1", "en", false)).await.unwrap();
        assert_eq!(store.notices().find(own, notice.id).await.unwrap(), notice);
        assert_eq!(store.notices().text(own, notice.id).await.unwrap(), "We compare your face.");
        let again = publish(&store, &notice_of(own, "1", "en", false)).await;
        assert!(matches!(again, Err(StoreError::Conflict(Conflict::NoticeVersion))));
        let otherwise = publish(&store, &notice_of(own, "1", "de", true)).await;
        assert!(matches!(otherwise, Err(StoreError::Conflict(Conflict::NoticeMateriality))));

        assert!(matches!(store.notices().find(foreign, notice.id).await, Err(StoreError::NotFound)));
        assert!(matches!(store.notices().text(foreign, notice.id).await, Err(StoreError::NotFound)));
        assert!(store.notices().list(foreign, None, None, 10).await.unwrap().items.is_empty());
        publish(&store, &notice_of(foreign, "1", "en", true)).await.unwrap();
        let listed = store.notices().list(own, Some(&purpose()), None, 10).await.unwrap();
        assert_eq!((listed.items, listed.next), (vec![notice.clone()], None));
        assert_eq!(store.notices().of_version(own, &purpose(), "1").await.unwrap(), vec![notice.clone()]);

        // The other tenant's notice is none that a person of ours can have been shown.
        let (id, key) = subject(&store, foreign, "emp-0042").await;
        let shown = ShownNotice { version: "1".to_owned(), id: Some(notice.id), generation: notice.generation };
        let smuggled =
            store.consents().insert(foreign, &Consent { notice: shown, ..consent_of(id) }, &key, act()).await;
        assert!(matches!(smuggled, Err(StoreError::NotFound)));
    });
}

#[test]
fn material_changes_that_are_published_at_once_are_counted_one_by_one() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let publishing = (0..8).map(|number| {
            let store = store.clone();
            tokio::spawn(async move { publish(&store, &notice_of(tenant, &number.to_string(), "en", true)).await })
        });
        let mut generations = vec![];
        for published in publishing.collect::<Vec<_>>() {
            generations.push(published.await.unwrap().unwrap().generation);
        }
        generations.sort();
        assert_eq!(generations, (1..=8).map(Generation).collect::<Vec<_>>());
    });
}

/// What is opened where it is policy to erase whoever agrees to nothing any more.
fn policy(tenant: TenantId, subject: SubjectId) -> NewErasureRequest {
    let request = ErasureRequest { state: ErasureState::Verified, begun_at: None, ..erasure_of(tenant, subject) };
    let job = NewJob {
        kind: JobKind::Erasure,
        tenant: Some(tenant),
        payload: serde_json::json!({}),
        unique_key: None,
        due_at: NOW,
        created_at: NOW,
    };
    NewErasureRequest { request, job, event: act().event }
}

/// Withdraws at that moment where it is policy to erase.
async fn withdraw(store: &Store, tenant: TenantId, subject: SubjectId, consent: ConsentId, said: Statement) {
    let new = NewWithdrawal { statement: said, key: any_key(), erasure: Some(policy(tenant, subject)) };
    store.consents().withdraw(tenant, subject, consent, new, act_of).await.unwrap();
}

#[test]
fn a_consent_that_a_notice_superseded_keeps_nobody_from_being_erased() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, _) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        let other = Consent { purpose: "newsletter".parse().unwrap(), ..consent_of(id) };
        store.consents().insert(tenant, &other, &any_key(), act()).await.unwrap();
        publish(&store, &notice_of(tenant, "1", "en", true)).await.unwrap();
        assert_eq!(database.count("erasure_requests"), 0);
        withdraw(&store, tenant, id, other.id, said(NOW)).await;
        assert_eq!(database.count("erasure_requests"), 1);
    });
}

#[test]
fn a_consent_that_stands_keeps_whoever_withdrew_another() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, _) = subject(&store, tenant, "emp-0042").await;
        let standing = grant(&store, tenant, id).await;
        let other = Consent { purpose: "newsletter".parse().unwrap(), ..consent_of(id) };
        store.consents().insert(tenant, &other, &any_key(), act()).await.unwrap();
        withdraw(&store, tenant, id, other.id, said(NOW)).await;
        assert_eq!(database.count("erasure_requests"), 0);
        withdraw(&store, tenant, id, standing, said(NOW)).await;
        assert_eq!(database.count("erasure_requests"), 1);
    });
}

#[test]
fn who_withdrew_while_the_data_rested_is_erased_when_they_rest_no_more() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let ended = said(NOW - Duration::HOUR);
        let resting = async |name: &str| {
            let (id, _) = subject(&store, tenant, name).await;
            // Withdrawn before: of that the policy had its say then.
            let before = grant(&store, tenant, id).await;
            store.consents().withdraw(tenant, id, before, withdrawal(ended.clone(), any_key()), act_of).await.unwrap();
            let restriction = Restriction { ground: Ground::LegalClaims, since: NOW };
            store.subjects().restrict(tenant, id, restriction, |_| Ok(act())).await.unwrap();
            id
        };
        let lift = async |id| {
            for _ in 0..2 {
                let erasure = Some(policy(tenant, id));
                store.subjects().lift_restriction(tenant, id, erasure, act()).await.unwrap();
            }
        };
        let silent = resting("said nothing").await;
        lift(silent).await;
        let again = resting("said no and then yes").await;
        let consent = grant(&store, tenant, again).await;
        withdraw(&store, tenant, again, consent, said(NOW)).await;
        grant(&store, tenant, again).await;
        lift(again).await;
        assert_eq!(database.count("erasure_requests"), 0);

        let gone = resting("said no").await;
        let consent = grant(&store, tenant, gone).await;
        withdraw(&store, tenant, gone, consent, said(NOW)).await;
        assert_eq!(database.count("erasure_requests"), 0);
        lift(gone).await;
        let opened = database.values("SELECT subject_id AS value FROM erasure_requests");
        assert_eq!(opened, [gone.to_string()]);
        assert_eq!(database.count("jobs"), 1);
    });
}

#[test]
fn consents_come_in_pages() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, _) = subject(&store, tenant, "emp-0042").await;
        let mut granted = vec![];
        for _ in 0..5 {
            granted.insert(0, grant(&store, tenant, id).await);
        }
        let (mut seen, mut sizes, mut before) = (vec![], vec![], None);
        loop {
            let page = store.consents().list(tenant, id, before, 2, &any_key()).await.unwrap();
            sizes.push(page.items.len());
            seen.extend(page.items.into_iter().map(|consent| consent.id));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!((seen, sizes), (granted, vec![2, 2, 1]));
    });
}

#[test]
fn a_person_has_so_many_standing_consents_to_a_purpose_and_no_more() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        let key = Arc::new(key);
        let insert = async |consent: &Consent| store.consents().insert(tenant, consent, &any_key(), act()).await;
        let full = |inserted| matches!(inserted, Err(StoreError::Conflict(Conflict::TooManyConsents)));
        let over = Consent { expires_at: Some(NOW), ..consent_of(id) };
        insert(&over).await.unwrap();
        for _ in 0..STANDING_CONSENTS_MAX {
            grant(&store, tenant, id).await;
        }
        assert!(full(insert(&consent_of(id)).await));
        insert(&Consent { purpose: "newsletter".parse().unwrap(), ..consent_of(id) }).await.unwrap();
        let (other, _) = subject(&store, tenant, "emp-0043").await;
        grant(&store, tenant, other).await;

        // Whoever agreed under an older notice may be asked under the new one, however often that was.
        let notice = publish(&store, &notice_of(tenant, "1", "en", true)).await.unwrap();
        let shown = ShownNotice { version: notice.version, id: Some(notice.id), generation: notice.generation };
        let newest = Consent { notice: shown, ..consent_of(id) };
        insert(&newest).await.unwrap();

        // One no ends them all, each with its evidence.
        let no = Statement { evidence: Some(Reference::new("call of Zwiebelturm".to_owned())), ..said(NOW) };
        let new = withdrawal(no.clone(), Arc::clone(&key));
        store.consents().withdraw(tenant, id, newest.id, new, act_of).await.unwrap();
        let listed = all_consents(&store, tenant, id, &key).await;
        let faces = listed.iter().filter(|consent| consent.purpose == purpose());
        assert!(faces.clone().count() > 90 && faces.clone().all(|consent| consent.withdrawn == Some(no.clone())));
        assert_eq!(store.consents().find(tenant, id, over.id, &key).await.unwrap().withdrawn, Some(no));
        insert(&Consent { id: ConsentId::generate(), ..newest }).await.unwrap();
    });
}
