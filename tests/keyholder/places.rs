//! What holds wherever the keyholder is.

use futures_util::{StreamExt as _, stream};
use time::Duration;
use velum::{
    domain::{
        decision::Decision,
        id::{TenantId, VerificationId},
    },
    keyholder::{BudgetScope, Budgets, DECISIONS_MAX, DEFAULT_BUDGETS, Keyholder, KeyholderError, OpenRequest},
    store::journal::subject_digest,
};

use crate::bench::{Bench, JournalDatabase, NOW, Person, Place, assert_spent, decision};

/// The same story for both places.
macro_rules! in_both_places {
    ($($(#[$note:meta])* async fn $name:ident($bench:ident, $keyholder:ident, $budgets:expr) $story:block)*) => {$(
        mod $name {
            use super::*;

            $(#[$note])*
            async fn story(bench: (Bench, Keyholder)) {
                #[allow(unused_mut, reason = "only some stories restart it")]
                let (mut $bench, $keyholder) = bench;
                $story
                $bench.stop().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn in_process() {
                story(Bench::new(Place::InProcess, $budgets).await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn behind_mutual_tls() {
                story(Bench::new(Place::BehindMutualTls, $budgets).await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn behind_mutual_tls_with_postgres() {
                let Some(database) = JournalDatabase::postgres() else {
                    eprintln!("skipped: VELUM_TEST_POSTGRES_URL is not set");
                    return;
                };
                let directory = tempfile::tempdir().unwrap();
                story(Bench::on(database, directory, Place::BehindMutualTls, $budgets).await).await;
            }
        }
    )*};
}

in_both_places! {
    async fn answers_match_and_no_match(bench, keyholder, DEFAULT_BUDGETS) {
        keyholder.ready().await.unwrap();
        for expected in [Decision::Match, Decision::NoMatch] {
            assert_eq!(keyholder.open(Person::new().asks(vec![decision(expected)])).await, Ok(expected));
        }
    }

    async fn several_decisions_are_one_bit(bench, keyholder, DEFAULT_BUDGETS) {
        use Decision::{Match, NoMatch};
        for (decisions, expected) in [
            (vec![NoMatch, Match, NoMatch], Match),
            (vec![NoMatch; 3], NoMatch),
            ([vec![NoMatch; DECISIONS_MAX - 1], vec![Match]].concat(), Match),
        ] {
            let decisions = decisions.into_iter().map(decision).collect();
            assert_eq!(keyholder.open(Person::new().asks(decisions)).await, Ok(expected));
        }
    }

    async fn a_verification_id_is_answered_once(bench, keyholder, DEFAULT_BUDGETS) {
        let person = Person::new();
        let first = person.asks_once();
        let again = OpenRequest { decisions: vec![decision(Decision::NoMatch)], ..person.asks_once() };
        let again = OpenRequest { verification: first.verification, ..again };
        keyholder.open(first).await.unwrap();
        let verification = again.verification;
        assert_eq!(keyholder.open(again).await, Err(KeyholderError::AlreadyOpened));

        // Neither another person nor a restart makes it fresh.
        let other = OpenRequest { verification, ..Person::new().asks_once() };
        assert_eq!(keyholder.open(other).await, Err(KeyholderError::AlreadyOpened));
        bench.stop().await;
        let keyholder = bench.start().await;
        let later = OpenRequest { verification, ..person.asks_once() };
        assert_eq!(keyholder.open(later).await, Err(KeyholderError::AlreadyOpened));
    }

    async fn a_subjects_budget_is_its_own(bench, keyholder, Budgets { per_subject: 2, ..DEFAULT_BUDGETS }) {
        let person = Person::new();
        for _ in 0..2 {
            keyholder.open(person.asks_once()).await.unwrap();
        }
        assert_spent(keyholder.open(person.asks_once()).await, BudgetScope::Subject);
        keyholder.open(Person::at(person.tenant).asks_once()).await.unwrap();
    }

    async fn a_tenants_budget_is_its_own(bench, keyholder, Budgets { per_tenant: 2, ..DEFAULT_BUDGETS }) {
        let tenant = TenantId::generate();
        for _ in 0..2 {
            keyholder.open(Person::at(tenant).asks_once()).await.unwrap();
        }
        assert_spent(keyholder.open(Person::at(tenant).asks_once()).await, BudgetScope::Tenant);
        keyholder.open(Person::new().asks_once()).await.unwrap();
    }

    async fn the_days_budget_is_everybodys_and_survives_a_restart(
        bench, keyholder, Budgets { per_day: 2, ..DEFAULT_BUDGETS }
    ) {
        for _ in 0..2 {
            keyholder.open(Person::new().asks_once()).await.unwrap();
        }
        assert_spent(keyholder.open(Person::new().asks_once()).await, BudgetScope::Day);
        bench.stop().await;
        let keyholder = bench.start().await;
        assert_spent(keyholder.open(Person::new().asks_once()).await, BudgetScope::Day);
        bench.clock.advance(Duration::hours(2));
        keyholder.open(Person::new().asks_once()).await.unwrap();
    }

    async fn a_refusal_for_a_spent_budget_uses_no_other_budget(
        bench, keyholder, Budgets { per_subject: 1, per_tenant: 2, per_day: 2 }
    ) {
        let person = Person::new();
        keyholder.open(person.asks_once()).await.unwrap();
        for _ in 0..3 {
            assert_spent(keyholder.open(person.asks_once()).await, BudgetScope::Subject);
        }
        keyholder.open(Person::at(person.tenant).asks_once()).await.unwrap();
    }

    async fn many_at_once_never_exceed_a_budget(bench, keyholder, Budgets { per_tenant: 7, ..DEFAULT_BUDGETS }) {
        let tenant = TenantId::generate();
        // More at once than there is left, and no more than a slow disk answers in time.
        let asked = stream::iter((0..30).map(|_| {
            let keyholder = keyholder.clone();
            async move { keyholder.open(Person::at(tenant).asks_once()).await }
        }));
        let mut asked = asked.buffer_unordered(10);
        let mut answered = 0;
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Decision::Match) => answered += 1,
                refused => assert_spent(refused, BudgetScope::Tenant),
            }
        }
        assert_eq!(answered, 7);
    }

    async fn the_same_id_at_once_is_answered_once(bench, keyholder, DEFAULT_BUDGETS) {
        let (person, verification) = (Person::new(), VerificationId::generate_at(NOW));
        let asked: Vec<_> = (0..10)
            .map(|_| {
                let (keyholder, request) = (keyholder.clone(), OpenRequest { verification, ..person.asks_once() });
                tokio::spawn(async move { keyholder.open(request).await })
            })
            .collect();
        let mut answered = 0;
        for answer in asked {
            match answer.await.unwrap() {
                Ok(_) => answered += 1,
                Err(refusal) => assert_eq!(refusal, KeyholderError::AlreadyOpened),
            }
        }
        assert_eq!(answered, 1);
    }

    async fn no_decision_or_too_many_are_refused(bench, keyholder, Budgets { per_day: 1, ..DEFAULT_BUDGETS }) {
        for count in [0, DECISIONS_MAX + 1] {
            let decisions = (0..count).map(|_| decision(Decision::Match)).collect();
            assert_eq!(keyholder.open(Person::new().asks(decisions)).await, Err(KeyholderError::Malformed));
        }
        // The budget of one is still there.
        keyholder.open(Person::new().asks_once()).await.unwrap();
    }

    async fn a_forgotten_subject_has_no_counter_and_is_not_asked_about_again(
        bench, keyholder, Budgets { per_subject: 1, ..DEFAULT_BUDGETS }
    ) {
        let person = Person::new();
        keyholder.open(person.asks_once()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(keyholder.forget(person.tenant, person.subject).await, Ok(Some(1)));
        }
        assert_eq!(keyholder.open(person.asks_once()).await, Err(KeyholderError::Forgotten));
        keyholder.open(Person::at(person.tenant).asks_once()).await.unwrap();
    }

    async fn every_opening_leaves_an_audit_line_with_its_caller(
        bench, keyholder, Budgets { per_subject: 1, ..DEFAULT_BUDGETS }
    ) {
        let caller = match bench.place {
            Place::InProcess => "in-process".to_owned(),
            Place::BehindMutualTls => format!("edge:{}", bench.tls.edge.fingerprint().unwrap()),
        };
        let person = Person::new();
        let (opened, refused) = (person.asks_once(), person.asks_once());
        let ids = [opened.verification.to_string(), refused.verification.to_string()];
        keyholder.open(opened).await.unwrap();
        keyholder.open(refused).await.unwrap_err();
        keyholder.forget(person.tenant, person.subject).await.unwrap();

        let lines = bench.audit_lines().await;
        let told: Vec<_> = lines.iter().map(|line| (line.event.as_str(), line.reason.as_str(), line.verification.as_str())).collect();
        assert_eq!(told, [
            ("opening_admitted", "", ids[0].as_str()),
            ("opening_refused", "subject_budget_spent", ids[1].as_str()),
            ("subject_forgotten", "", ""),
        ]);
        for line in lines {
            assert_eq!((line.caller, line.at, line.tenant), (caller.clone(), NOW, person.tenant.to_string()));
            assert_eq!(line.subject_digest, subject_digest(person.tenant, person.subject));
        }
    }
}
