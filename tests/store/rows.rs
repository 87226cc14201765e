//! What goes in comes out, for the tenant whose it is and for nobody else, and rests sealed.

use time::Duration;
use velum::{
    audit::Actor,
    domain::{
        decision::Decision,
        id::{ClientId, EnrolmentId, SubjectId, TenantId},
        revocation::{Revocation, client_member},
        usage::Operation,
    },
    store::{
        Conflict, NewClient, NewSubject, PAGE_ROWS_MAX, StoreError, TEMPLATES_PER_SUBJECT_MAX, TemplateKind, Tenant,
        TokenRef, Verification,
    },
    vault::{DataKey, VaultError},
};

use crate::databases::*;

#[test]
fn tenants_are_found_by_id() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = Tenant { id: TenantId::generate(), name: "Example Bank".to_owned(), created_at: NOW };
        store.tenants().create(&tenant, Actor::operator()).await.unwrap();
        assert_eq!(store.tenants().find(tenant.id).await.unwrap(), tenant);
        assert_eq!(store.tenants().list().await.unwrap().as_slice(), std::slice::from_ref(&tenant));
        assert!(matches!(
            store.tenants().create(&tenant, Actor::operator()).await,
            Err(StoreError::Conflict(Conflict::Id))
        ));
        assert!(matches!(store.tenants().find(TenantId::generate()).await, Err(StoreError::NotFound)));
    });
}

#[test]
fn a_disabled_client_keeps_the_time_it_was_first_disabled() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (tenant, id) = (tenant(&store).await, ClientId::generate());
        let new = |id| NewClient {
            id,
            name: "web shop".to_owned(),
            secret_hash: vec![1, 2, 3],
            public_key: None,
            scopes: vec!["subjects".to_owned(), "faces:verify".to_owned()],
            created_at: NOW,
        };
        store.clients().create(tenant, new(id), Actor::operator()).await.unwrap();
        let client = store.clients().find(id).await.unwrap();
        assert_eq!((client.tenant, client.disabled_at), (tenant, None));
        assert_eq!(client.scopes, ["subjects", "faces:verify"]);
        assert_eq!(client.secret_hash, [1, 2, 3]);
        assert!(store.clients().list(tenant).await.unwrap() == [client]);

        store.clients().disable(tenant, id, NOW + Duration::HOUR, NOW, Actor::operator()).await.unwrap();
        store
            .clients()
            .disable(tenant, id, NOW + Duration::HOUR, NOW + Duration::DAY, Actor::operator())
            .await
            .unwrap();
        assert_eq!(store.clients().find(id).await.unwrap().disabled_at, Some(NOW));

        let foreign = store.clients().disable(TenantId::generate(), id, NOW, NOW, Actor::operator()).await;
        assert!(matches!(foreign, Err(StoreError::NotFound)));
        let orphan = store.clients().create(TenantId::generate(), new(ClientId::generate()), Actor::operator()).await;
        assert!(matches!(orphan, Err(StoreError::NotFound)));
    });
}

#[test]
fn tokens_and_assertions_are_remembered_as_long_as_they_live() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let client = ClientId::generate();
        let new = NewClient {
            id: client,
            name: "signer".to_owned(),
            secret_hash: Vec::new(),
            public_key: Some("PEM".to_owned()),
            scopes: vec!["subjects".to_owned()],
            created_at: NOW,
        };
        store.clients().create(tenant, new, Actor::operator()).await.unwrap();
        assert_eq!(store.clients().find(client).await.unwrap().public_key.as_deref(), Some("PEM"));

        let tokens = store.tokens();
        let token = |id: &str, expires_at| TokenRef { token_id: id.to_owned(), client, expires_at };
        assert!(tokens.is_live("one", client).await.unwrap());
        assert!(!tokens.is_live("one", ClientId::generate()).await.unwrap(), "nobody's token");
        for _ in 0..2 {
            tokens.revoke(tenant, token("one", NOW + Duration::MINUTE), Actor::operator(), NOW).await.unwrap();
            assert!(!tokens.is_live("one", client).await.unwrap());
        }
        tokens
            .revoke(tenant, token("two", NOW + Duration::HOUR * 3), Actor::operator(), NOW + Duration::HOUR * 2)
            .await
            .unwrap();
        assert_eq!(database.count("revocations"), 1, "the first has ended by itself, long ago");
        assert_eq!(tokens.revocation_version().await.unwrap(), 3);
        let seen = |rows: Vec<Revocation>| rows.into_iter().map(|row| row.member).collect::<Vec<_>>();
        assert_eq!(seen(tokens.revocations(1, 3).await.unwrap()), ["t:two"]);
        assert!(tokens.revocations(3, 3).await.unwrap().is_empty());

        let used = async |id: &str, after| {
            let now = NOW + Duration::seconds(after);
            tokens.use_assertion(client, id, now + Duration::MINUTE, now).await.unwrap()
        };
        assert!(used("one", 0).await);
        assert!(!used("one", 30).await);
        assert!(used("two", 30).await);
        assert!(!used("one", 100).await, "another clock may be behind");
        assert!(used("three", 3_700).await);
        assert_eq!(database.count("used_assertions"), 1);

        store.clients().disable(tenant, client, NOW + Duration::HOUR, NOW, Actor::operator()).await.unwrap();
        assert!(!tokens.is_live("three", client).await.unwrap());
        assert_eq!(seen(tokens.revocations(3, 4).await.unwrap()), [client_member(client)]);
    });
}

#[test]
fn a_subject_is_found_by_its_external_reference_and_rests_sealed() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042 Ålesund").await;

        let found = store.subjects().find_by_external_ref(tenant, "emp-0042 Ålesund").await.unwrap().unwrap();
        assert_eq!(found, store.subjects().find(tenant, id).await.unwrap());
        assert_eq!((found.id, found.created_at), (id, NOW));
        assert_eq!(found.open_external_ref(&key).unwrap().as_str(), "emp-0042 Ålesund");
        let wrong_key = found.open_external_ref(&DataKey::generate().unwrap());
        assert!(matches!(wrong_key, Err(StoreError::Sealed(VaultError::NotAuthentic))));
        assert_eq!(store.subjects().find_by_external_ref(tenant, "emp-0043").await.unwrap(), None);

        for column in ["external_ref", "external_ref_index"] {
            let stored = &database.bytes("subjects", column)[0];
            assert!(!stored.contains(&hex::encode("emp-0042")), "{column}");
        }
    });
}

#[test]
fn an_external_reference_names_one_subject_of_a_tenant() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (one, other) = (tenant(&store).await, tenant(&store).await);
        subject(&store, one, "emp-0042").await;
        subject(&store, other, "emp-0042").await;
        let (id, key) = (SubjectId::generate(), DataKey::generate().unwrap());
        let again = NewSubject { id, external_ref: "emp-0042", created_at: NOW };
        let refused = store.subjects().insert(one, again, &key, act()).await;
        assert!(matches!(refused, Err(StoreError::Conflict(Conflict::ExternalRef))));
    });
}

#[test]
fn another_tenant_sees_nothing_and_changes_nothing() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (own, foreign) = (tenant(&store).await, tenant(&store).await);
        let (id, key) = subject(&store, own, "emp-0042").await;
        let consent = grant(&store, own, id).await;
        let template = insert_template(&store, own, id, &key, b"template").await.unwrap();
        insert_verification(&store, own, verification_of(id), &key).await.unwrap();

        assert!(matches!(store.subjects().find(foreign, id).await, Err(StoreError::NotFound)));
        assert_eq!(store.subjects().find_by_external_ref(foreign, "emp-0042").await.unwrap(), None);
        assert!(store.subjects().list(foreign, None, 10).await.unwrap().items.is_empty());
        assert!(all_consents(&store, foreign, id, &any_key()).await.is_empty());
        assert_eq!(store.consents().active(foreign, id, &purpose(), NOW).await.unwrap(), None);
        assert!(matches!(store.consents().find(foreign, id, consent, &any_key()).await, Err(StoreError::NotFound)));
        assert!(matches!(
            store.consents().withdraw(foreign, id, consent, withdrawal(said(NOW), any_key()), act_of).await,
            Err(StoreError::NotFound)
        ));
        assert!(matches!(
            store.consents().insert(foreign, &consent_of(id), &any_key(), act()).await,
            Err(StoreError::NotFound)
        ));
        assert!(store.templates().list(foreign, id).await.unwrap().is_empty());
        assert!(store.templates().load(foreign, id, &kind(), None, &key).await.unwrap().is_empty());
        assert!(matches!(store.templates().delete(foreign, id, template, act()).await, Err(StoreError::NotFound)));
        let inserted = insert_template(&store, foreign, id, &key, b"template").await;
        assert!(matches!(inserted, Err(StoreError::NotFound)));
        assert!(store.verifications().list(foreign, id, None, 10, &key).await.unwrap().items.is_empty());
        let erasure = store.erasures().open(&erasure_of(foreign, id), None, act()).await;
        assert!(matches!(erasure, Err(StoreError::NotFound)));

        assert!(store.consents().active(own, id, &purpose(), NOW).await.unwrap().is_some());
        assert_eq!(store.templates().load(own, id, &kind(), None, &key).await.unwrap().len(), 1);
    });
}

#[test]
fn a_list_comes_in_pages_newest_first_and_complete() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let mut ids = Vec::new();
        for number in 0..7 {
            ids.push(subject(&store, tenant, &format!("emp-{number}")).await.0);
        }
        ids.sort();
        ids.reverse();
        let (mut seen, mut before, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = store.subjects().list(tenant, before, 3).await.unwrap();
            seen.extend(page.items.iter().map(|subject| subject.id));
            pages += 1;
            match page.next {
                Some(next) => before = Some(next),
                None => break,
            }
        }
        assert_eq!((seen, pages), (ids, 3));
        let all = store.subjects().list(tenant, None, PAGE_ROWS_MAX * 1_000).await.unwrap();
        assert_eq!((all.items.len(), all.next), (7, None));
        assert_eq!(store.subjects().list(tenant, None, 0).await.unwrap().items.len(), 1);
    });
}

#[test]
fn templates_of_one_kind_are_opened_and_others_left_alone() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        let bytes = vec![0x5a; 9_000];
        let first = insert_template(&store, tenant, id, &key, &bytes).await.unwrap();
        let second = insert_template(&store, tenant, id, &key, b"second").await.unwrap();

        let loaded = store.templates().load(tenant, id, &kind(), None, &key).await.unwrap();
        let loaded: std::collections::BTreeMap<EnrolmentId, Vec<u8>> =
            loaded.into_iter().map(|row| (row.id, row.template.to_vec())).collect();
        assert_eq!(loaded, [(first, bytes), (second, b"second".to_vec())].into());
        assert!(!database.bytes("enrolments", "template").iter().any(|stored| stored.contains("5a5a5a5a5a5a5a5a")));

        for other in [
            TemplateKind { model: "other".parse().unwrap(), ..kind() },
            TemplateKind { parameter_id: "velum-2".to_owned(), ..kind() },
            TemplateKind { fhe_key_id: "ff".repeat(16), ..kind() },
        ] {
            assert!(store.templates().load(tenant, id, &other, None, &key).await.unwrap().is_empty(), "{other:?}");
        }

        store.templates().delete(tenant, id, first, act()).await.unwrap();
        assert!(matches!(store.templates().delete(tenant, id, first, act()).await, Err(StoreError::NotFound)));
        let left = store.templates().list(tenant, id).await.unwrap();
        assert_eq!(left.iter().map(|row| (row.id, row.kind.clone())).collect::<Vec<_>>(), [(second, kind())]);
    });
}

#[test]
fn a_template_put_into_another_row_does_not_open() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        insert_template(&store, tenant, id, &key, b"one").await.unwrap();
        insert_template(&store, tenant, id, &key, b"two").await.unwrap();
        let copy = "UPDATE enrolments SET template = (SELECT template FROM enrolments ORDER BY id LIMIT 1)";
        database.execute(copy).unwrap();
        let refused = store.templates().load(tenant, id, &kind(), None, &key).await.err().unwrap();
        assert!(matches!(refused, StoreError::Sealed(VaultError::NotAuthentic)), "{refused}");
    });
}

#[test]
fn a_subject_has_no_more_templates_of_a_kind_than_one_answer_can_open() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        let inserts =
            (0..TEMPLATES_PER_SUBJECT_MAX + 4).map(|_| insert_template(&store, tenant, id, &key, b"template"));
        let results = futures_util::future::join_all(inserts).await;
        let refused = results.into_iter().filter_map(Result::err).collect::<Vec<_>>();
        assert_eq!(refused.len(), 4);
        assert!(refused.iter().all(|error| matches!(error, StoreError::Conflict(Conflict::TooManyTemplates))));
        assert_eq!(database.count("enrolments"), TEMPLATES_PER_SUBJECT_MAX);
    });
}

#[test]
fn verifications_come_back_newest_first_with_their_sealed_decision() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        let mut written: Vec<Verification> = Vec::new();
        for decision in [Decision::Match, Decision::NoMatch, Decision::Match] {
            let verification = Verification { decision, ..verification_of(id) };
            insert_verification(&store, tenant, verification.clone(), &key).await.unwrap();
            written.push(verification);
        }
        written.sort_by_key(|verification| std::cmp::Reverse(verification.id));
        let page = store.verifications().list(tenant, id, None, 2, &key).await.unwrap();
        assert_eq!(page.items, written[..2]);
        let rest = store.verifications().list(tenant, id, page.next, 2, &key).await.unwrap();
        assert_eq!((rest.items.as_slice(), rest.next), (&written[2..], None));

        // Match and no match must not differ in length.
        let lengths: Vec<_> = database.bytes("verifications", "decision").iter().map(String::len).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]));
        let twice = insert_verification(&store, tenant, written[0].clone(), &key).await;
        assert!(matches!(twice, Err(StoreError::Conflict(Conflict::Id))));
    });
}

#[test]
fn instants_are_kept_to_the_microsecond() {
    on_each_database(|database| async move {
        let store = database.store().await;
        for created_at in [NOW + Duration::nanoseconds(123_456_789), time::macros::datetime!(1969-07-20 20:17 UTC)] {
            let tenant = Tenant { id: TenantId::generate(), name: "Example Bank".to_owned(), created_at };
            store.tenants().create(&tenant, Actor::operator()).await.unwrap();
            let kept = store.tenants().find(tenant.id).await.unwrap().created_at;
            assert!((created_at - kept).abs() < Duration::MICROSECOND, "{created_at} {kept}");
        }
    });
}

#[test]
fn first_requests_of_a_day_that_come_at_once_are_all_counted() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        for day in 0..10 {
            let usage = store.usage();
            let charges = (0..8).map(|_| usage.charge(tenant, day, Operation::Verification, 7));
            let charged = futures_util::future::join_all(charges).await.into_iter().map(Result::unwrap);
            assert_eq!(charged.filter(Result::is_ok).count(), 7, "day {day}");
        }
        let days = store.usage().days(tenant, 0).await.unwrap();
        assert!(days.len() == 10 && days.iter().all(|day| day.total() == 7), "{days:?}");
    });
}
