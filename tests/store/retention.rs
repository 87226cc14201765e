//! What is kept long enough goes to the instant, is announced before, and nothing else goes with it.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};
use velum::{
    audit::Actor,
    domain::{
        consent::{Consent, Purpose, ShownNotice},
        id::{ClientId, SubjectId, TenantId},
        notice::Notice,
        restriction::{Ground, Restriction},
        retention::{Line, RecordKind, RetentionSchedule, Serves},
        usage::Operation,
    },
    flows::retention::{Counts, Sweep, delete, report},
    store::{NewClient, Store, StoreError, TokenRef, Verification},
    vault::DataKey,
};

use crate::databases::*;

pub const SCHEDULE: RetentionSchedule = RetentionSchedule {
    unused_templates: Duration::days(1_095),
    templates_without_consent: Duration::days(30),
    ended_consents: Duration::days(1_000),
    ended_consents_of: BTreeMap::new(),
    verifications: Duration::days(365),
    audit_events: Duration::days(366),
    usage_days: Duration::days(400),
};
const INSTANT: Duration = Duration::microseconds(1);

/// What would go at that moment, kinds without any left out.
async fn announced(store: &Store, now: OffsetDateTime) -> Vec<(RecordKind, u64)> {
    some(report(store, &SCHEDULE, now).await.unwrap())
}

fn by(now: OffsetDateTime) -> (Actor, OffsetDateTime) {
    (Actor::service(), now)
}

/// What a run that nothing stands against deletes.
pub async fn swept(store: &Store, schedule: &RetentionSchedule, now: OffsetDateTime) -> Counts {
    let Sweep { gone, failed } = delete(store, schedule, Actor::service(), now).await;
    assert!(failed.is_none(), "{failed:?}");
    gone
}

/// Rows of a kind that need not be old.
pub fn line(kind: RecordKind) -> Line {
    Line { kind, serves: Serves::Service, kept: Duration::ZERO }
}

/// What then goes: exactly that.
async fn gone(store: &Store, now: OffsetDateTime) -> Vec<(RecordKind, u64)> {
    let before = announced(store, now).await;
    assert_eq!(some(swept(store, &SCHEDULE, now).await), before);
    assert_eq!(announced(store, now).await, []);
    before
}

fn some(counts: Counts) -> Vec<(RecordKind, u64)> {
    assert_eq!(counts.len(), RecordKind::ALL.len());
    counts.into_iter().filter(|(_, rows)| *rows > 0).collect()
}

/// A person who consented and has a template.
async fn enrolled(store: &Store, tenant: TenantId, name: &str) -> (SubjectId, DataKey) {
    let (subject, key) = subject(store, tenant, name).await;
    grant(store, tenant, subject).await;
    insert_template(store, tenant, subject, &key, b"template").await.unwrap();
    (subject, key)
}

async fn verify(store: &Store, tenant: TenantId, subject: SubjectId, key: &DataKey, at: OffsetDateTime) {
    let verification = Verification { created_at: at, ..verification_of(subject) };
    insert_verification(store, tenant, verification, key).await.unwrap();
}

#[test]
fn a_template_goes_three_years_after_the_last_use_even_though_the_record_of_that_use_went_before() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (one, other) = (tenant(&store).await, tenant(&store).await);
        let (used, key) = enrolled(&store, one, "used").await;
        enrolled(&store, one, "unused").await;
        enrolled(&store, other, "unused as well").await;
        let last_used = NOW + Duration::days(700);
        verify(&store, one, used, &key, last_used).await;

        let end = NOW + SCHEDULE.unused_templates;
        assert_eq!(gone(&store, end - INSTANT).await, [(RecordKind::Verifications, 1)]);
        assert_eq!(gone(&store, end).await, [(RecordKind::UnusedTemplates, 2)]);
        assert_eq!(store.templates().list(one, used).await.unwrap().len(), 1);

        let end = last_used + SCHEDULE.unused_templates;
        assert_eq!(announced(&store, end - INSTANT).await, []);
        assert_eq!(gone(&store, end).await, [(RecordKind::UnusedTemplates, 1)]);
        assert_eq!(database.count("enrolments"), 0);
        // The persons and their consents stand.
        assert_eq!((database.count("subjects"), database.count("consents")), (3, 3));
    });
}

#[test]
fn a_template_goes_after_the_last_consent_has_ended_and_stays_with_one_that_stands() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let end = NOW + Duration::days(10);
        let (withdrawn, _) = enrolled(&store, tenant, "withdrawn").await;
        let (again, _) = enrolled(&store, tenant, "again").await;
        enrolled(&store, tenant, "standing").await;
        let (expired, expired_key) = subject(&store, tenant, "expired").await;
        let ending = Consent { expires_at: Some(end), ..consent_of(expired) };
        store.consents().insert(tenant, &ending, &any_key(), act()).await.unwrap();
        insert_template(&store, tenant, expired, &expired_key, b"template").await.unwrap();
        for subject in [withdrawn, again] {
            let consent = all_consents(&store, tenant, subject, &any_key()).await[0].id;
            store
                .consents()
                .withdraw(tenant, subject, consent, withdrawal(said(end), any_key()), act_of)
                .await
                .unwrap();
        }
        grant(&store, tenant, again).await;

        let over = end + SCHEDULE.templates_without_consent;
        assert_eq!(announced(&store, over - INSTANT).await, []);
        assert_eq!(gone(&store, over).await, [(RecordKind::TemplatesWithoutConsent, 2)]);
        for (subject, templates) in [(withdrawn, 0), (expired, 0), (again, 1)] {
            assert_eq!(store.templates().list(tenant, subject).await.unwrap().len(), templates);
        }

        // The consents themselves are kept as evidence for longer; those that stand are kept.
        let over = end + SCHEDULE.ended_consents;
        assert_eq!(announced(&store, over - INSTANT).await, []);
        assert_eq!(gone(&store, over).await, [(RecordKind::EndedConsents, 3)]);
        assert_eq!(all_consents(&store, tenant, again, &any_key()).await.len(), 1);
    });
}

#[test]
fn a_run_that_was_cut_short_is_taken_up_where_it_stopped() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (subject, key) = enrolled(&store, tenant, "one").await;
        verify(&store, tenant, subject, &key, NOW).await;
        let columns = "id, tenant_id, subject_id, model_id, false_match_rate, threshold, decision, created_at";
        let same = columns.replacen("id,", "id || i,", 1);
        let copies = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1202) \
             INSERT INTO verifications ({columns}) SELECT {same} FROM verifications, n"
        );
        database.execute(&copies).unwrap();
        verify(&store, tenant, subject, &key, NOW + INSTANT).await;

        let now = NOW + SCHEDULE.verifications;
        let verifications = line(RecordKind::Verifications);
        let cut_short = store.retention().delete(Some(tenant), &verifications, 500, by(NOW)).await.unwrap();
        assert_eq!((cut_short, database.count("verifications")), (500, 704));
        assert_eq!(gone(&store, now).await, [(RecordKind::Verifications, 703)]);
        assert_eq!(database.count("verifications"), 1);
        // Each of the three transactions is on record.
        let recorded = "SELECT object AS value FROM audit_events WHERE action = 'retention.deleted' ORDER BY sequence";
        assert_eq!(database.values(recorded), ["verifications: 500", "verifications: 500", "verifications: 203"]);
    });
}

#[test]
fn what_serves_the_running_of_the_service_goes_when_it_says_nothing_any_more() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let client = ClientId::generate();
        let new = NewClient {
            id: client,
            name: "signer".to_owned(),
            secret_hash: Vec::new(),
            public_key: None,
            scopes: Vec::new(),
            created_at: NOW,
        };
        store.clients().create(tenant, new, Actor::operator()).await.unwrap();
        let hour = NOW + Duration::HOUR;
        let today = NOW.unix_timestamp().div_euclid(86_400);
        store.usage().charge(tenant, today, Operation::Enrolment, 10).await.unwrap().unwrap();
        store.idempotency().claim(tenant, [1; 32], [2; 32], NOW, hour).await.unwrap();
        assert!(store.tokens().use_assertion(client, "one", hour, NOW).await.unwrap());
        let token = TokenRef { token_id: "one".to_owned(), client, expires_at: hour };
        store.tokens().revoke(tenant, token, Actor::operator(), NOW).await.unwrap();

        assert_eq!(gone(&store, hour - INSTANT).await, []);
        assert_eq!(gone(&store, hour).await, [(RecordKind::UsedAssertions, 1)]);
        assert_eq!(gone(&store, hour + Duration::HOUR).await, [(RecordKind::Revocations, 1)]);
        assert_eq!(gone(&store, NOW + Duration::DAY - INSTANT).await, []);
        assert_eq!(gone(&store, NOW + Duration::DAY).await, [(RecordKind::IdempotencyRecords, 1)]);
        // The day of the use was over at midnight.
        let midnight = NOW.replace_time(time::Time::MIDNIGHT) + Duration::DAY + SCHEDULE.usage_days;
        assert_eq!(gone(&store, midnight - INSTANT).await, []);
        assert_eq!(gone(&store, midnight).await, [(RecordKind::UsageDays, 1)]);
    });
}

#[test]
fn a_tenants_rows_go_within_its_own_reach() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (one, other) = (tenant(&store).await, tenant(&store).await);
        for tenant in [one, other] {
            enrolled(&store, tenant, "person").await;
        }
        let line = line(RecordKind::UnusedTemplates);
        assert_eq!(store.retention().count(Some(one), &line, NOW).await.unwrap(), 1);
        assert_eq!(store.retention().delete(Some(one), &line, 500, by(NOW)).await.unwrap(), 1);
        assert_eq!(store.retention().count(Some(one), &line, NOW).await.unwrap(), 0);
        assert_eq!(store.retention().count(Some(other), &line, NOW).await.unwrap(), 1);
    });
}

#[test]
fn a_database_from_before_knows_when_its_persons_were_last_used() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (verified, key) = enrolled(&store, tenant, "verified").await;
        verify(&store, tenant, verified, &key, NOW + Duration::DAY).await;
        enrolled(&store, tenant, "enrolled").await;
        subject(&store, tenant, "neither").await;
        let used =
            || database.values("SELECT coalesce(CAST(last_used_at AS TEXT), '') AS value FROM subjects ORDER BY id");
        let kept = used();
        loop {
            let reverted = store.database().migrate_down().await.unwrap().expect("the migration of this table");
            if reverted.starts_with("20261121000520") {
                break;
            }
        }
        store.migrate().await.unwrap();
        assert_eq!(used(), kept);
        assert_eq!(kept.iter().filter(|used| used.is_empty()).count(), 1);
    });
}

#[test]
fn what_is_known_of_a_person_whose_data_rest_stays_until_they_rest_no_more() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (resting, key) = enrolled(&store, tenant, "resting").await;
        enrolled(&store, tenant, "another").await;
        verify(&store, tenant, resting, &key, NOW).await;
        let consent = all_consents(&store, tenant, resting, &any_key()).await[0].id;
        store.consents().withdraw(tenant, resting, consent, withdrawal(said(NOW), any_key()), act_of).await.unwrap();
        let restriction = Restriction { ground: Ground::LegalClaims, since: NOW };
        let set = store.subjects().restrict(tenant, resting, restriction, |_| Ok(act())).await.unwrap();
        assert_eq!(set, restriction);
        let later = NOW + Duration::days(2_000);
        assert_eq!(gone(&store, later).await, [(RecordKind::UnusedTemplates, 1)], "the other person's");
        store.subjects().lift_restriction(tenant, resting, None, act()).await.unwrap();
        assert_eq!(announced(&store, later).await.len(), 4, "all kinds that are about persons");
    });
}

#[test]
fn what_a_legal_hold_stands_against_stays_until_it_is_released() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (held, key) = enrolled(&store, tenant, "held").await;
        verify(&store, tenant, held, &key, NOW).await;
        let hold = format!(
            "INSERT INTO erasure_requests (id, tenant_id, subject_id, subject_digest, regulation, state, received_at, due_at) \
             SELECT 'ers_1', tenant_id, id, external_ref_index, 'gdpr', 'on_hold', 0, 0 FROM subjects WHERE id = '{held}'"
        );
        database.execute(&hold).unwrap();
        let later = NOW + Duration::days(2_000);
        assert_eq!(gone(&store, later).await, []);
        database.execute("UPDATE erasure_requests SET state = 'received'").unwrap();
        assert_eq!(gone(&store, later).await, [(RecordKind::UnusedTemplates, 1), (RecordKind::Verifications, 1)]);
    });
}

#[test]
fn what_rests_on_a_notice_that_has_changed_goes_as_if_the_consent_had_ended_then() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (tenant, foreign) = (tenant(&store).await, tenant(&store).await);
        let changed = NOW + Duration::days(10);
        let published = async |version: &str, language: &str, material, published_at| {
            publish(&store, &Notice { published_at, ..notice_of(tenant, version, language, material) }).await.unwrap()
        };
        let (asked_in_vain, _) = enrolled(&store, tenant, "asked in vain").await;
        let (renewed, _) = enrolled(&store, tenant, "renewed").await;
        enrolled(&store, foreign, "of somebody else").await;
        published("1", "en", false, NOW).await;
        let second = published("2", "en", true, changed).await;
        let shown = ShownNotice { version: second.version, id: Some(second.id), generation: second.generation };
        let again = Consent { notice: shown, granted: said(changed), ..consent_of(renewed) };
        store.consents().insert(tenant, &again, &any_key(), act()).await.unwrap();
        // Neither another language nor a later change that matters to nobody puts it off.
        published("2", "de", true, changed + Duration::DAY).await;
        published("3", "en", false, changed + Duration::DAY).await;

        let over = changed + SCHEDULE.templates_without_consent;
        assert_eq!(announced(&store, over - INSTANT).await, []);
        assert_eq!(gone(&store, over).await, [(RecordKind::TemplatesWithoutConsent, 1)]);
        for (subject, templates) in [(asked_in_vain, 0), (renewed, 1)] {
            assert_eq!(store.templates().list(tenant, subject).await.unwrap().len(), templates);
        }

        let over = changed + SCHEDULE.ended_consents;
        assert_eq!(announced(&store, over - INSTANT).await, []);
        assert_eq!(gone(&store, over).await, [(RecordKind::EndedConsents, 2)]);
        assert_eq!(all_consents(&store, tenant, renewed, &any_key()).await[0].id, again.id);
        assert_eq!(database.count("consents"), 2);
    });
}

#[test]
fn consents_to_a_purpose_with_a_time_of_its_own_go_in_that_time() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let newsletter: Purpose = "newsletter".parse().unwrap();
        let own = Duration::days(400);
        let schedule = RetentionSchedule { ended_consents_of: [(newsletter.clone(), own)].into(), ..SCHEDULE };
        let (subject, _) = subject(&store, tenant, "emp-0042").await;
        for purpose in [newsletter, "attendance".parse().unwrap(), purpose()] {
            let consent = Consent { purpose, expires_at: Some(NOW), ..consent_of(subject) };
            store.consents().insert(tenant, &consent, &any_key(), act()).await.unwrap();
        }
        for (now, rows) in [
            (NOW + own - INSTANT, 0),
            (NOW + own, 1),
            (NOW + SCHEDULE.ended_consents - INSTANT, 0),
            (NOW + SCHEDULE.ended_consents, 2),
        ] {
            assert_eq!(report(&store, &schedule, now).await.unwrap()[&RecordKind::EndedConsents], rows);
            assert_eq!(swept(&store, &schedule, now).await[&RecordKind::EndedConsents], rows);
        }
    });
}

#[test]
fn what_cannot_be_deleted_keeps_nothing_else() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (subject, key) = enrolled(&store, tenant, "one").await;
        verify(&store, tenant, subject, &key, NOW).await;
        let today = NOW.unix_timestamp().div_euclid(86_400);
        store.usage().charge(tenant, today, Operation::Enrolment, 10).await.unwrap().unwrap();
        let (refusal, no_refusal) = match database.kind {
            Kind::Postgres => (
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$; \
                 CREATE TRIGGER refuse BEFORE DELETE ON verifications FOR EACH ROW EXECUTE FUNCTION refuse()",
                "DROP TRIGGER refuse ON verifications",
            ),
            Kind::Sqlite => (
                "CREATE TRIGGER refuse BEFORE DELETE ON verifications BEGIN SELECT RAISE(ABORT, 'no'); END",
                "DROP TRIGGER refuse",
            ),
        };
        database.execute(refusal).unwrap();
        let later = NOW + Duration::days(2_000);
        let Sweep { gone: first, failed } = delete(&store, &SCHEDULE, Actor::service(), later).await;
        assert!(matches!(failed, Some(StoreError::Database(_))), "{failed:?}");
        // One comes before what failed, the other after it.
        assert_eq!(some(first), [(RecordKind::UnusedTemplates, 1), (RecordKind::UsageDays, 1)]);
        database.execute(no_refusal).unwrap();
        assert_eq!(gone(&store, later).await, [(RecordKind::Verifications, 1)]);
    });
}
