//! The audit log: written with its act or not at all, whole whatever happens at the same time, and never changed.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use time::Duration;
use tokio::task::JoinSet;
use velum::{
    audit::{Action, Actor, Chain, Checkpoint, Event, export},
    domain::{
        id::{ApiKeyId, EnrolmentId, TenantId},
        retention::{Line, RecordKind},
    },
    flows::{audit, retention},
    store::{AuditFilter, Store, StoreError},
};

use crate::{
    databases::*,
    retention::{SCHEDULE, line, swept},
};

#[test]
fn an_act_and_its_entry_are_one() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (subject, _) = subject(&store, tenant, "somebody").await;
        let before = store.audit().chain(tenant).await.unwrap().size();
        let consent = consent_of(subject);
        store.consents().insert(tenant, &consent, &any_key(), act()).await.unwrap();
        assert_eq!(store.audit().chain(tenant).await.unwrap().size(), before + 1);

        // The act fails: no entry.
        assert!(store.consents().insert(tenant, &consent, &any_key(), act()).await.is_err());
        let nothing = store.templates().delete(tenant, subject, EnrolmentId::generate(), act()).await;
        assert!(matches!(nothing, Err(StoreError::NotFound)));
        assert_eq!(store.audit().chain(tenant).await.unwrap().size(), before + 1);

        // The entry cannot be written: no act.
        database.execute("DELETE FROM audit_heads").unwrap();
        assert!(store.consents().insert(tenant, &consent_of(subject), &any_key(), act()).await.is_err());
        assert_eq!(all_consents(&store, tenant, subject, &any_key()).await, [consent]);
    });
}

#[test]
fn what_changes_nothing_leaves_no_entry() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (subject, _) = subject(&store, tenant, "somebody").await;
        let consent = grant(&store, tenant, subject).await;
        for _ in 0..3 {
            store
                .consents()
                .withdraw(tenant, subject, consent, withdrawal(said(NOW), any_key()), act_of)
                .await
                .unwrap();
        }
        // The tenant, the person, the consent, the first withdrawal.
        assert_eq!(store.audit().chain(tenant).await.unwrap().size(), 4);
    });
}

#[test]
fn many_writers_at_once_and_clocks_that_jump_leave_the_log_whole() {
    on_each_database(|database| async move {
        let store = Arc::new(database.store().await);
        let (tenant, other) = (tenant(&store).await, tenant(&store).await);
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                for step in 0..20 {
                    let at = NOW + Duration::hours((writer * 7 + step * 5) % 11 - 5);
                    let event = Event::of(Actor::service(), Action::ApiKeyCreated, ApiKeyId::generate(), at);
                    store.audit().append(tenant, event).await.unwrap();
                }
            });
        }
        writers.join_all().await;
        let file = exported(&store, tenant).await;
        let signed = store.audit().chain(tenant).await.unwrap().checkpoint(NOW);
        assert_eq!(signed.size, 161);
        assert_eq!(export::verify(file.as_slice(), |_| Some(signed.clone())).unwrap().checkpoint, signed);
        assert_eq!(store.audit().chain(other).await.unwrap().size(), 1, "a log for each tenant");
    });
}

/// As a file, the signature left out.
async fn exported(store: &Store, tenant: TenantId) -> Vec<u8> {
    let beginning = store.audit().beginning(tenant).await.unwrap();
    let mut file = export::first_line(tenant, beginning.as_ref());
    let mut last = beginning.map_or(0, |(gone, _)| gone.size());
    loop {
        let entries = store.audit().after(tenant, last, 50).await.unwrap();
        let Some((newest, _)) = entries.last() else { break };
        last = newest.sequence;
        file.extend(entries.into_iter().flat_map(|(entry, hash)| export::entry_line(entry, &hash)));
    }
    file.extend(export::last_line(String::new()));
    file
}

#[test]
fn entries_cannot_be_changed_or_removed_and_one_that_was_shows() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        for _ in 0..4 {
            subject(&store, tenant, &ApiKeyId::generate().to_string()).await;
        }
        for change in ["UPDATE audit_events SET actor = 'nobody'", "DELETE FROM audit_events WHERE sequence = 3"] {
            let refused = database.execute(change).unwrap_err().to_string();
            assert!(refused.contains("append-only"), "{refused}");
        }
        // Whoever owns the tables can do away with that. The chain stays.
        let unlocked = match database.kind {
            Kind::Postgres => "DROP TRIGGER audit_events_append_only ON audit_events",
            Kind::Sqlite => "DROP TRIGGER audit_events_no_update",
        };
        database.execute(unlocked).unwrap();
        database.execute("UPDATE audit_events SET actor = 'nobody' WHERE sequence = 3").unwrap();
        let signed = store.audit().chain(tenant).await.unwrap().checkpoint(NOW);
        let file = exported(&store, tenant).await;
        let fault = export::verify(file.as_slice(), |_| Some(signed.clone())).unwrap_err();
        assert!(matches!(fault, export::Fault::Broken { line: 4 }), "{fault}");
    });
}

/// As a checkpoint is kept; who signed it is not asked at home.
fn jws(checkpoint: &Checkpoint) -> String {
    format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(checkpoint).unwrap()))
}

/// A log of six entries, of which the first five are signed for at `NOW`.
async fn signed_log(store: &Store) -> TenantId {
    let tenant = tenant(store).await;
    for _ in 0..4 {
        subject(store, tenant, &ApiKeyId::generate().to_string()).await;
    }
    let checkpoint = store.audit().chain(tenant).await.unwrap().checkpoint(NOW);
    store.audit().keep_checkpoint(tenant, &checkpoint, NOW, jws(&checkpoint)).await.unwrap();
    store.audit().append(tenant, act().event).await.unwrap();
    tenant
}

#[test]
fn the_oldest_entries_go_where_a_signed_checkpoint_stands_for_them() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = signed_log(&store).await;
        let kind = RecordKind::AuditEvents;
        let due = NOW + SCHEDULE.kept(kind);
        let delete = async |now| swept(&store, &SCHEDULE, now).await[&kind];
        assert_eq!(delete(due - Duration::SECOND).await, 0);
        assert!(database.execute("DELETE FROM audit_events").is_err());

        assert_eq!(retention::report(&store, &SCHEDULE, due).await.unwrap()[&kind], 5);
        assert_eq!(delete(due).await, 5);
        assert_eq!(delete(due).await, 0);
        // The sixth, and that five went.
        let left = database.values("SELECT action AS value FROM audit_events ORDER BY sequence");
        assert_eq!(left.last().map(String::as_str), Some("retention.deleted"));
        assert_eq!(left.len(), 2);
        for more in ["DELETE FROM audit_events", "DELETE FROM audit_checkpoints", "DELETE FROM audit_beginnings"] {
            assert!(database.execute(more).is_err(), "{more}");
        }

        // What is left is proved as before.
        let signed = store.audit().chain(tenant).await.unwrap().checkpoint(NOW);
        let open = |jws: &str| if jws.is_empty() { Some(signed.clone()) } else { Checkpoint::stated_in(jws) };
        let whole = export::verify(exported(&store, tenant).await.as_slice(), open).unwrap();
        assert_eq!((whole.gone, whole.checkpoint.size), (5, 7));
    });
}

#[test]
fn a_shortening_that_was_broken_off_leaves_the_log_whole_and_is_taken_up() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = signed_log(&store).await;
        let kind = RecordKind::AuditEvents;
        let due = NOW + SCHEDULE.kept(kind);
        let is_whole = async |size| {
            let end = store.audit().chain(tenant).await.unwrap();
            let signed = end.checkpoint(NOW);
            let open = |jws: &str| if jws.is_empty() { Some(signed.clone()) } else { Checkpoint::stated_in(jws) };
            let whole = export::verify(exported(&store, tenant).await.as_slice(), open).unwrap();
            assert_eq!((whole.gone, whole.checkpoint.size), (5, size));
            let mut chain = audit::beginning(&store, tenant).await.unwrap();
            assert_eq!(audit::walk(&store, tenant, &mut chain, size).await.unwrap(), None);
            assert_eq!(chain, end);
        };
        // It ends after the first transaction: everything may go, and nothing went.
        assert!(audit::shorten(&store, tenant, due).await.unwrap());
        assert_eq!(database.count("audit_events"), 6);
        is_whole(6).await;

        // It ends when a part went, and that is on record.
        let by = (Actor::service(), due);
        let some = Line { kept: SCHEDULE.kept(kind), ..line(kind) };
        assert_eq!(store.retention().delete(Some(tenant), &some, 2, by).await.unwrap(), 2);
        assert_eq!(database.count("audit_events"), 5);
        is_whole(7).await;

        assert_eq!(retention::report(&store, &SCHEDULE, due).await.unwrap()[&kind], 3);
        assert_eq!(swept(&store, &SCHEDULE, due).await[&kind], 3);
        is_whole(8).await;
        let left = database.values("SELECT CAST(sequence AS TEXT) AS value FROM audit_events ORDER BY sequence");
        assert_eq!(left, ["6", "7", "8"]);
        assert_eq!(swept(&store, &SCHEDULE, due).await[&kind], 0);
    });
}

#[test]
fn a_log_that_is_not_what_was_signed_is_kept_as_evidence() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = signed_log(&store).await;
        let unlocked = match database.kind {
            Kind::Postgres => "DROP TRIGGER audit_events_append_only ON audit_events",
            Kind::Sqlite => "DROP TRIGGER audit_events_no_update",
        };
        database.execute(unlocked).unwrap();
        database.execute("UPDATE audit_events SET actor = 'nobody' WHERE sequence = 3").unwrap();
        let due = NOW + SCHEDULE.audit_events;
        assert!(!audit::shorten(&store, tenant, due).await.unwrap());
        let gone = swept(&store, &SCHEDULE, due).await;
        assert_eq!((gone[&RecordKind::AuditEvents], database.count("audit_events")), (0, 6));
    });
}

#[test]
fn what_concerns_everybody_stands_in_every_log_or_in_none() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenants = [tenant(&store).await, tenant(&store).await];
        let event = || Event::of(Actor::operator(), Action::FieldKeyTookOver, "2026-11-21", NOW);
        store.audit().append_to_all(event()).await.unwrap();
        for tenant in tenants {
            assert_eq!(store.audit().chain(tenant).await.unwrap().size(), 2);
        }
        // The log of the last to be written to has an end that does not fit.
        database
            .execute("UPDATE audit_heads SET size = 9 WHERE tenant_id = (SELECT max(tenant_id) FROM audit_heads)")
            .unwrap();
        assert!(store.audit().append_to_all(event()).await.is_err());
        assert_eq!(database.count("audit_events"), 4);
    });
}

#[test]
fn a_log_is_read_newest_first_by_person_and_by_act() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (tenant, foreign) = (tenant(&store).await, tenant(&store).await);
        let digest = velum::audit::SubjectDigest([7; 32]);
        for _ in 0..3 {
            let event = Event { subject: Some(digest), ..act().event };
            store.audit().append(tenant, event).await.unwrap();
        }
        store.audit().append(tenant, Event { action: Action::ClientDisabled, ..act().event }).await.unwrap();
        let list = async |filter: AuditFilter, before| {
            let page = store.audit().list(tenant, filter, before, 2).await.unwrap();
            (page.items.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), page.next)
        };
        let about = || AuditFilter { subject: Some(digest), ..AuditFilter::default() };
        assert_eq!(list(AuditFilter::default(), None).await, (vec![5, 4], Some(4)));
        assert_eq!(list(about(), None).await, (vec![4, 3], Some(3)));
        assert_eq!(list(about(), Some(3)).await, (vec![2], None));
        let disabled = AuditFilter { action: Some("client.disabled".to_owned()), ..AuditFilter::default() };
        assert_eq!(list(disabled, None).await, (vec![5], None));
        let object = Some("an object".to_owned());
        let later = Event { object: object.clone(), at: NOW + Duration::HOUR, ..act().event };
        store.audit().append(tenant, later).await.unwrap();
        let since = AuditFilter { since: Some(NOW + Duration::HOUR), ..AuditFilter::default() };
        assert_eq!(list(since, None).await, (vec![6], None));
        let before = AuditFilter { before: Some(NOW + Duration::HOUR), ..about() };
        assert_eq!(list(before, None).await, (vec![4, 3], Some(3)));
        assert_eq!(list(AuditFilter { object, ..AuditFilter::default() }, None).await, (vec![6], None));
        let none = store.audit().list(foreign, about(), None, 9).await.unwrap();
        assert!(none.items.is_empty());
    });
}

#[test]
fn checkpoints_are_kept_as_they_were_signed_first() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let mut chain: Chain = store.audit().chain(tenant).await.unwrap();
        for jws in ["first", "second"] {
            store.audit().keep_checkpoint(tenant, &chain.checkpoint(NOW), NOW, jws.to_owned()).await.unwrap();
        }
        store.audit().append(tenant, act().event).await.unwrap();
        chain = store.audit().chain(tenant).await.unwrap();
        store.audit().keep_checkpoint(tenant, &chain.checkpoint(NOW), NOW, "third".to_owned()).await.unwrap();
        let kept = store.audit().checkpoints(tenant, None, 9).await.unwrap().items;
        assert_eq!(kept, [(2, "third".to_owned()), (1, "first".to_owned())]);
        assert!(store.audit().checkpoints(TenantId::generate(), None, 9).await.unwrap().items.is_empty());
    });
}
