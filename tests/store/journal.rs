//! The keyholder's journal: an id opens once, a budget holds under pressure and over restarts, and no line changes.

use futures_util::future::join_all;
use time::{Duration, macros::datetime};
use velum::{
    domain::id::{SubjectId, TenantId, VerificationId},
    store::{
        KeyholderJournal,
        journal::{AuditEvent, BudgetScope, Budgets, Chain, JournalError, Opening, subject_digest},
    },
};

use crate::databases::*;

const CALLER: &str = "sha256:edge-1";
const GENEROUS: Budgets = Budgets { per_subject: 1_000, per_tenant: 1_000, per_day: 1_000 };

fn opening(tenant: TenantId, subject: SubjectId) -> Opening {
    Opening { verification: VerificationId::generate_at(NOW), tenant, subject, caller: CALLER.to_owned() }
}

fn somebody() -> Opening {
    opening(TenantId::generate(), SubjectId::generate())
}

fn spent(result: Result<(), JournalError>) -> Option<BudgetScope> {
    match result {
        Ok(()) => None,
        Err(JournalError::BudgetSpent { scope, .. }) => Some(scope),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_verification_is_opened_once_even_when_asked_for_at_the_same_time() {
    on_each_database(|database| async move {
        let journal = database.journal().await;
        let once = somebody();
        let results = join_all((0..12).map(|_| journal.admit(once.clone(), GENEROUS, NOW))).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        let refused = results.iter().filter(|result| matches!(result, Err(JournalError::AlreadyOpened))).count();
        assert_eq!(refused, 11);
        // Neither a restart nor the next day makes it fresh.
        let reopened = database.journal().await;
        let later = reopened.admit(once, GENEROUS, NOW + Duration::days(3)).await;
        assert!(matches!(later, Err(JournalError::AlreadyOpened)));
    });
}

#[test]
fn each_budget_ends_where_it_says_and_starts_anew_at_midnight() {
    on_each_database(|database| async move {
        let journal = database.journal().await;
        let budgets = Budgets { per_subject: 2, per_tenant: 4, per_day: 6 };
        let (tenant, other_tenant) = (TenantId::generate(), TenantId::generate());
        let (one, two, three) = (SubjectId::generate(), SubjectId::generate(), SubjectId::generate());
        let evening = datetime!(2026-11-20 23:59:30 UTC);
        let admit = |tenant, subject| journal.admit(opening(tenant, subject), budgets, evening);

        for _ in 0..2 {
            admit(tenant, one).await.unwrap();
        }
        match admit(tenant, one).await {
            Err(JournalError::BudgetSpent { scope: BudgetScope::Subject, retry_after_s }) => {
                assert_eq!(retry_after_s, 31);
            }
            other => panic!("{other:?}"),
        }
        for _ in 0..2 {
            admit(tenant, two).await.unwrap();
        }
        assert_eq!(spent(admit(tenant, three).await), Some(BudgetScope::Tenant));
        for _ in 0..2 {
            admit(other_tenant, three).await.unwrap();
        }
        assert_eq!(spent(admit(other_tenant, SubjectId::generate()).await), Some(BudgetScope::Day));

        let reopened = database.journal().await;
        let after_restart = reopened.admit(opening(tenant, one), budgets, evening).await;
        assert_eq!(spent(after_restart), Some(BudgetScope::Subject));
        let morning = evening + Duration::seconds(31);
        reopened.admit(opening(tenant, one), budgets, morning).await.unwrap();
    });
}

#[test]
fn a_refused_verification_is_not_used_up() {
    on_each_database(|database| async move {
        let journal = database.journal().await;
        let request = somebody();
        let nothing = Budgets { per_subject: 0, ..GENEROUS };
        assert_eq!(spent(journal.admit(request.clone(), nothing, NOW).await), Some(BudgetScope::Subject));
        journal.admit(request, GENEROUS, NOW).await.unwrap();
    });
}

#[test]
fn no_budget_is_overdrawn_by_asking_for_many_at_once() {
    on_each_database(|database| async move {
        // Two processes of the keyholder, as during a deploy.
        let journals = [database.journal().await, database.journal().await];
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        let budgets = Budgets { per_subject: 7, ..GENEROUS };
        let requests = (0..30).map(|i| journals[i % 2].admit(opening(tenant, subject), budgets, NOW));
        let admitted = join_all(requests).await.into_iter().filter(was_admitted).count();
        assert_eq!(admitted, 7);
        assert_eq!(database.count("opened_verifications"), 7);
    });
}

fn was_admitted(result: &Result<(), JournalError>) -> bool {
    match result {
        Ok(()) => true,
        Err(JournalError::BudgetSpent { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_forgotten_subject_leaves_no_counter_and_gets_no_fresh_budget() {
    on_each_database(|database| async move {
        let journal = database.journal().await;
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        journal.admit(opening(tenant, subject), GENEROUS, NOW).await.unwrap();
        let forget = async || journal.forget(tenant, subject, CALLER.to_owned(), NOW).await.unwrap();
        for _ in 0..2 {
            assert_eq!(forget().await, Some(1), "what was removed first stands");
        }
        let nobody = journal.forget(tenant, SubjectId::generate(), CALLER.to_owned(), NOW).await;
        assert_eq!(nobody.unwrap(), Some(0));
        assert_eq!(database.count("budget_counters WHERE scope = 'subject'"), 0);
        assert_eq!(database.count("forgotten_subjects"), 2);
        // A program of before noted nothing.
        database.execute("UPDATE forgotten_subjects SET counters = NULL").unwrap();
        assert_eq!(forget().await, None);
        let refused = journal.admit(opening(tenant, subject), GENEROUS, NOW).await;
        assert!(matches!(refused, Err(JournalError::Forgotten)));
        // The other tenants' persons are not concerned.
        journal.admit(opening(TenantId::generate(), subject), GENEROUS, NOW).await.unwrap();
    });
}

#[test]
fn every_act_and_every_refusal_leaves_a_line_without_the_subjects_id() {
    on_each_database(|database| async move {
        let journal = database.journal().await;
        let request = somebody();
        journal.note(AuditEvent { event: "keyholder_started", ..AuditEvent::default() }, NOW).await.unwrap();
        journal.admit(request.clone(), GENEROUS, NOW).await.unwrap();
        journal.admit(request.clone(), GENEROUS, NOW).await.unwrap_err();
        journal.forget(request.tenant, request.subject, CALLER.to_owned(), NOW).await.unwrap();

        let lines = journal.audit_lines(0, 100).await.unwrap();
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line.sequence, line.event.as_str(), line.reason.as_str(), line.caller.as_str()))
            .collect();
        let expected = [
            (1, "keyholder_started", "", ""),
            (2, "opening_admitted", "", CALLER),
            (3, "opening_refused", "already_opened", CALLER),
            (4, "subject_forgotten", "", CALLER),
        ];
        assert_eq!(told, expected);
        assert_eq!(lines[1].verification, request.verification.to_string());
        assert_eq!(lines[1].subject_digest, subject_digest(request.tenant, request.subject));
        assert_eq!(lines[1].at, NOW);
        assert_eq!(journal.audit_lines(2, 1).await.unwrap(), lines[2..3]);
        assert!(!format!("{lines:?}").contains(&request.subject.to_string()));
        assert_eq!(journal.verify_chain().await.unwrap(), Chain::Whole { lines: 4, head: lines[3].hash.clone() });
    });
}

/// Takes the append-only triggers away, as somebody with the database in his hands could.
fn disarm(database: &TestDatabase) {
    let disarm = match database.kind {
        Kind::Sqlite => "DROP TRIGGER audit_lines_no_update; DROP TRIGGER audit_lines_no_delete",
        Kind::Postgres => "DROP TRIGGER audit_lines_append_only ON audit_lines",
    };
    database.execute(disarm).unwrap();
}

async fn ten_lines(database: &TestDatabase) -> KeyholderJournal {
    let journal = database.journal().await;
    for _ in 0..10 {
        journal.admit(somebody(), GENEROUS, NOW).await.unwrap();
    }
    journal
}

#[test]
fn lines_can_neither_be_changed_nor_removed() {
    on_each_database(|database| async move {
        ten_lines(&database).await;
        for sql in ["UPDATE audit_lines SET event = 'x' WHERE sequence = 5", "DELETE FROM audit_lines"] {
            let refused = database.execute(sql).unwrap_err();
            assert!(refused.to_string().contains("append-only"), "{refused}");
        }
        assert_eq!(database.count("audit_lines"), 10);
    });
}

#[test]
fn a_changed_removed_or_reordered_line_breaks_the_chain_where_it_stood() {
    let damages = [
        ("UPDATE audit_lines SET event = 'opening_refused' WHERE sequence = 5", 5),
        ("UPDATE audit_lines SET at = at + 1 WHERE sequence = 1", 1),
        ("UPDATE audit_lines SET tenant_id = '', reason = tenant_id WHERE sequence = 7", 7),
        ("DELETE FROM audit_lines WHERE sequence = 4", 4),
        ("DELETE FROM audit_lines WHERE sequence = 10", 10),
        ("DELETE FROM audit_lines", 1),
        (
            "UPDATE audit_lines SET sequence = 100 WHERE sequence = 2; UPDATE audit_lines SET sequence = 2 \
             WHERE sequence = 3; UPDATE audit_lines SET sequence = 3 WHERE sequence = 100",
            2,
        ),
        ("DELETE FROM audit_lines WHERE sequence = 10; UPDATE audit_head SET sequence = 9", 10),
    ];
    for (damage, sequence) in damages {
        on_each_database(|database| async move {
            let journal = ten_lines(&database).await;
            disarm(&database);
            database.execute(damage).unwrap();
            assert_eq!(journal.verify_chain().await.unwrap(), Chain::BrokenAt { sequence }, "{damage}");
        });
    }
}

#[test]
fn an_id_is_forgotten_only_when_its_own_time_makes_it_stale() {
    on_each_database(|database| async move {
        let journal = database.journal().await;
        let at = |made_at| Opening { verification: VerificationId::generate_at(made_at), ..somebody() };
        let (week, instant) = (Duration::days(7), Duration::MILLISECOND);
        for made_at in [NOW - week, NOW + week] {
            journal.admit(at(made_at), GENEROUS, NOW).await.unwrap();
        }
        for made_at in [NOW - week - instant, NOW + week + instant, NOW - Duration::days(400)] {
            let refused = journal.admit(at(made_at), GENEROUS, NOW).await;
            assert!(matches!(refused, Err(JournalError::Untimely)), "{refused:?}");
        }
        let of_another_version = "ver_00000000000040008000000000000000".parse().unwrap();
        let refused = journal.admit(Opening { verification: of_another_version, ..somebody() }, GENEROUS, NOW).await;
        assert!(matches!(refused, Err(JournalError::Untimely)));

        // More than one opening forgets at once.
        let early = at(NOW);
        journal.admit(early.clone(), GENEROUS, NOW).await.unwrap();
        let many = (0..150).map(|_| {
            let id = VerificationId::generate_at(NOW);
            format!("INSERT INTO opened_verifications (verification_id, opened_at) VALUES ('{id}', 0)")
        });
        database.execute(&many.collect::<Vec<_>>().join("; ")).unwrap();
        let later = NOW + Duration::days(9);
        let ids = || database.count("opened_verifications");
        assert_eq!(ids(), 153);
        journal.admit(at(later), GENEROUS, later).await.unwrap();
        assert_eq!(ids(), 153 + 1 - 1, "none of that day yet: they are as old as may be");
        let later = later + instant;
        journal.admit(at(later), GENEROUS, later).await.unwrap();
        assert_eq!(ids(), 153 + 1 - 100);
        journal.admit(at(later), GENEROUS, later).await.unwrap();
        assert_eq!(ids(), 4, "the one that lay ahead, and the last three");

        // Forgotten, and still not fresh: neither now nor with a clock that was set back by a day.
        for now in [later, later - Duration::DAY] {
            let again = journal.admit(early.clone(), GENEROUS, now).await;
            assert!(matches!(again, Err(JournalError::Untimely)), "{again:?}");
        }
    });
}
