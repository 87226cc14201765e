//! Officers, their sessions and their attempts.

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};
use velum::{
    audit::{Action, Actor, Event},
    domain::{
        attempts::AttemptRule,
        id::{OfficerId, TenantId},
    },
    flows::exchange::Exchange,
    store::{Conflict, Credentials, NewOfficer, NewSession, Officer, Store, StoreError},
    vault::DataKey,
};

use crate::databases::*;

const NAME: &str = "a.meyer@example.org";
const LONGEST: Duration = Duration::minutes(15);

fn event(action: Action) -> Event {
    Event::of(Actor::operator(), action, "off_1", NOW)
}

fn credentials(password_hash: &str) -> Credentials<'_> {
    Credentials { password_hash, password_until: NOW + Duration::DAY, totp_secret: b"twenty bytes of it.." }
}

async fn add(store: &Store, tenant: TenantId, name: &str) -> Result<(Officer, DataKey), StoreError> {
    let (id, key) = (OfficerId::generate(), DataKey::generate().unwrap());
    let new = NewOfficer { id, name, credentials: credentials("$first") };
    store.officers().add(tenant, new, &key, event(Action::OfficerAdded)).await?;
    Ok((find(store, name).await.unwrap(), key))
}

async fn find(store: &Store, name: &str) -> Option<Officer> {
    let officers = store.officers();
    officers.find_by_name(&officers.name_index(name)).await.unwrap()
}

fn session(token: u8, now: OffsetDateTime) -> NewSession {
    let (started_after, used_after) = (now - Duration::hours(8), now - Duration::minutes(15));
    NewSession { token_hash: [token; 32], now, started_after, used_after }
}

async fn sign_in(store: &Store, officer: &Officer, step: i64, token: u8, now: OffsetDateTime) -> bool {
    let (officers, event) = (store.officers(), event(Action::OfficerSignedIn));
    officers.sign_in(officer, officers.name_index(NAME), step, session(token, now), event).await.unwrap()
}

async fn has_session(store: &Store, token: u8) -> bool {
    store.officers().session([token; 32]).await.unwrap().is_some()
}

#[test]
fn an_officer_rests_sealed_and_is_found_by_name() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (one, other) = (tenant(&store).await, tenant(&store).await);
        let (officer, key) = add(&store, one, NAME).await.unwrap();
        assert_eq!((officer.tenant, officer.password_until), (one, Some(NOW + Duration::DAY)));
        assert_eq!(officer.open_name(&key).unwrap(), NAME);
        assert_eq!(officer.open_password_hash(&key).unwrap().as_str(), "$first");
        assert_eq!(officer.open_totp_secret(&key).unwrap().as_slice(), b"twenty bytes of it..");
        assert!(officer.open_name(&DataKey::generate().unwrap()).is_err());
        for (column, text) in [("name", NAME), ("password_hash", "$first"), ("totp_secret", "twenty bytes")] {
            assert!(!database.bytes("officers", column).concat().contains(&hex::encode(text)), "{column}");
        }

        assert_eq!(find(&store, " A.MEYER@example.org").await.unwrap().id, officer.id);
        assert!(find(&store, "a.meyer").await.is_none());
        for tenant in [one, other] {
            let taken = add(&store, tenant, "A.Meyer@example.org").await;
            assert!(matches!(taken, Err(StoreError::Conflict(Conflict::OfficerName))));
        }
        assert!(matches!(add(&store, TenantId::generate(), "b").await, Err(StoreError::NotFound)));
        assert_eq!(store.officers().list(one).await.unwrap().len(), 1);
        assert!(store.officers().list(other).await.unwrap().is_empty());
        // Refused additions are in no log.
        assert_eq!(store.audit().chain(one).await.unwrap().size(), 2);
        assert_eq!(store.audit().chain(other).await.unwrap().size(), 1);
    });
}

#[test]
fn a_code_opens_one_session_and_none_after_a_change() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (one, other) = (tenant(&store).await, tenant(&store).await);
        let (officer, key) = add(&store, one, NAME).await.unwrap();
        let (officers, name) = (store.officers(), store.officers().name_index(NAME));
        assert!(sign_in(&store, &officer, 7, 1, NOW).await);
        for step in [7, 6] {
            assert!(!sign_in(&store, &officer, step, 2, NOW).await, "a code of step {step}");
        }
        assert!(sign_in(&store, &officer, 8, 2, NOW).await);
        let (found, whose) = officers.session([1; 32]).await.unwrap().unwrap();
        assert_eq!((found.started_at, found.last_used_at, whose.id), (NOW, NOW, officer.id));

        // Another tenant neither uses nor ends it.
        officers.touch(other, [1; 32], NOW + Duration::HOUR).await.unwrap();
        officers.sign_out(other, [1; 32], event(Action::OfficerSignedOut)).await.unwrap();
        assert_eq!(officers.session([1; 32]).await.unwrap().unwrap().0.last_used_at, NOW);
        assert_eq!(store.audit().chain(other).await.unwrap().size(), 1);
        officers.touch(one, [1; 32], NOW + Duration::MINUTE).await.unwrap();
        assert_eq!(officers.session([1; 32]).await.unwrap().unwrap().0.last_used_at, NOW + Duration::MINUTE);
        let size = store.audit().chain(one).await.unwrap().size();
        for _ in 0..2 {
            officers.sign_out(one, [1; 32], event(Action::OfficerSignedOut)).await.unwrap();
        }
        assert!(!has_session(&store, 1).await && has_session(&store, 2).await);
        assert_eq!(store.audit().chain(one).await.unwrap().size(), size + 1, "nothing ends twice");

        // Whoever was looked up before a change comes too late.
        let before = find(&store, NAME).await.unwrap();
        let changed = event(Action::OfficerPasswordChanged);
        let hash = "$second";
        assert!(officers.change_password(&before, name.clone(), hash, &key, session(3, NOW), changed).await.unwrap());
        assert!(!has_session(&store, 2).await && has_session(&store, 3).await);
        assert!(!sign_in(&store, &before, 9, 4, NOW).await);
        let again = event(Action::OfficerPasswordChanged);
        assert!(!officers.change_password(&before, name.clone(), hash, &key, session(4, NOW), again).await.unwrap());
        let now = find(&store, NAME).await.unwrap();
        assert_eq!(now.open_password_hash(&key).unwrap().as_str(), "$second");
        assert_eq!(now.password_until, None);

        officers.disable(&now, event(Action::OfficerDisabled)).await.unwrap();
        assert!(!has_session(&store, 3).await);
        assert!(!sign_in(&store, &now, 9, 4, NOW).await);
        let size = store.audit().chain(one).await.unwrap().size();
        officers.disable(&now, event(Action::OfficerDisabled)).await.unwrap();
        assert_eq!(store.audit().chain(one).await.unwrap().size(), size);
        let reset = event(Action::OfficerReset);
        officers.reset(&now, name, credentials("$third"), &key, reset).await.unwrap();
        assert!(!sign_in(&store, &now, 9, 4, NOW).await, "the password of before");
        let fresh = find(&store, NAME).await.unwrap();
        assert_eq!((fresh.disabled_at, fresh.open_password_hash(&key).unwrap().as_str()), (None, "$third"));
        assert!(sign_in(&store, &fresh, 1, 4, NOW).await, "another authenticator counts anew");
    });
}

#[test]
fn sessions_that_are_over_go_when_another_begins() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (officer, _) = add(&store, tenant, NAME).await.unwrap();
        assert!(sign_in(&store, &officer, 1, 1, NOW).await);
        assert!(sign_in(&store, &officer, 2, 2, NOW + Duration::minutes(10)).await);
        assert!(has_session(&store, 1).await && has_session(&store, 2).await);
        // The first is in use; the second is not.
        store.officers().touch(tenant, [1; 32], NOW + Duration::minutes(20)).await.unwrap();
        assert!(sign_in(&store, &officer, 3, 3, NOW + Duration::minutes(25)).await);
        assert!(has_session(&store, 1).await && !has_session(&store, 2).await);
        // Nor does use help beyond the longest time.
        for token in [1, 3] {
            store.officers().touch(tenant, [token; 32], NOW + Duration::hours(8)).await.unwrap();
        }
        assert!(sign_in(&store, &officer, 4, 4, NOW + Duration::hours(8)).await);
        assert!(!has_session(&store, 1).await && has_session(&store, 3).await && has_session(&store, 4).await);
    });
}

#[test]
fn attempts_at_the_same_time_are_counted_one_after_the_other() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let rule = AttemptRule { free: 3 };
        let attempts = (0..10).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let officers = store.officers();
                officers.begin_attempt(&officers.name_index("nobody"), rule, LONGEST, NOW).await.unwrap()
            })
        });
        let mut begun = 0;
        let mut waits = BTreeSet::new();
        for attempt in attempts.collect::<Vec<_>>() {
            match attempt.await.unwrap() {
                Ok(()) => begun += 1,
                Err(until) => _ = waits.insert(until),
            }
        }
        assert_eq!((begun, waits), (4, BTreeSet::from([NOW + Duration::seconds(30)])));

        // Another name is not concerned, and what was long ago is forgotten.
        let officers = store.officers();
        let begin = async |name: &str, now| {
            officers.begin_attempt(&officers.name_index(name), rule, LONGEST, now).await.unwrap()
        };
        assert_eq!(begin("somebody", NOW).await, Ok(()));
        assert_eq!(begin("NOBODY ", NOW).await, Err(NOW + Duration::seconds(30)));
        assert_eq!(database.count("sign_in_attempts"), 2);
        assert_eq!(begin("somebody", NOW + Duration::days(3)).await, Ok(()));
        assert_eq!(database.count("sign_in_attempts"), 1);
    });
}

#[test]
fn an_officer_follows_to_another_data_key() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let beside = TestDatabase::new(database.kind).unwrap();
        let (keystore, tenant, id) = (beside.key_store().await, tenant(&store).await, OfficerId::generate());
        let old = keystore.create(tenant, id.key_holder(), NOW).await.unwrap();
        let new = NewOfficer { id, name: NAME, credentials: credentials("$first") };
        store.officers().add(tenant, new, &old, event(Action::OfficerAdded)).await.unwrap();

        let exchange = Exchange { store: store.clone(), keystore: keystore.clone(), patience: Default::default() };
        assert_eq!(exchange.run(NOW + Duration::SECOND, |_| {}).await.unwrap(), []);
        let key = keystore.get(tenant, id.key_holder()).await.unwrap().unwrap();
        let officer = find(&store, NAME).await.unwrap();
        assert_eq!(officer.open_name(&key).unwrap(), NAME);
        assert_eq!(officer.open_password_hash(&key).unwrap().as_str(), "$first");
        assert_eq!(officer.open_totp_secret(&key).unwrap().as_slice(), b"twenty bytes of it..");
        assert!(officer.open_name(&old).is_err() && officer.open_totp_secret(&old).is_err());
    });
}
