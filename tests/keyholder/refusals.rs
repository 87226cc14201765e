//! Ciphertexts that are not what they should be, and a keyholder without its journal.

use velum::{
    fhe::{
        decide::EncryptedDecision,
        keys::{self, SecretKeys},
    },
    keyholder::{BudgetScope, Budgets, DEFAULT_BUDGETS, Keyholder, KeyholderError},
};

use crate::bench::{Bench, Person, Place, assert_spent, stored, stored_secret};

/// A stored decision with one mask coefficient turned by a quarter: well-formed, and neither of the two values.
fn turned_decision(secret: &SecretKeys) -> EncryptedDecision {
    use sha2::{Digest, Sha256};
    const HASH_BYTES: usize = 32;
    let frame = stored("decision_match.bin");
    (1_000..2_000)
        .filter_map(|place| {
            let mut frame = frame[..frame.len() - HASH_BYTES].to_vec();
            frame[place] = frame[place].wrapping_add(0x40);
            let hash = Sha256::digest(&frame);
            frame.extend_from_slice(&hash);
            EncryptedDecision::from_bytes(&frame, secret.key_id()).ok()
        })
        .find(|turned| secret.open(turned).is_err())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_out_not_to_be_a_decision_is_counted_all_the_same() {
    for place in [Place::InProcess, Place::BehindMutualTls] {
        let (mut bench, keyholder) = Bench::new(place, Budgets { per_day: 1, ..DEFAULT_BUDGETS }).await;
        let turned = turned_decision(&stored_secret());
        assert_eq!(keyholder.open(Person::new().asks(vec![turned])).await, Err(KeyholderError::Malformed));
        assert_spent(keyholder.open(Person::new().asks_once()).await, BudgetScope::Day);
        let lines = bench.audit_lines().await;
        let events: Vec<_> = lines.iter().map(|line| (line.event.as_str(), line.reason.as_str())).collect();
        assert_eq!(
            events,
            [
                ("opening_admitted", ""),
                ("opening_failed", "keyholder_malformed_request"),
                ("opening_refused", "day_budget_spent"),
            ]
        );
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_of_another_key_is_refused_and_costs_nothing() {
    let other_bytes = keys::generate().secret.to_bytes();
    let other = || SecretKeys::from_bytes(&other_bytes).unwrap();
    let budgets = Budgets { per_day: 1, ..DEFAULT_BUDGETS };

    let (bench, _) = Bench::new(Place::InProcess, budgets).await;
    let keyholder = Keyholder::Local(bench.local(other()).await);
    assert_eq!(keyholder.open(Person::new().asks_once()).await, Err(KeyholderError::WrongKey));
    assert_eq!(bench.audit_lines().await[0].reason, "keyholder_wrong_key");

    let (mut bench, _) = Bench::new(Place::BehindMutualTls, budgets).await;
    bench.stop().await;
    let other_key = other().key_id();
    let local = bench.local(other()).await;
    bench.serve(local, Vec::new()).await;
    // An edge of the stored key, and one that is mistaken about its own decisions.
    for key in [stored_secret().key_id(), other_key] {
        let keyholder = bench.ask_as(&bench.tls, key);
        assert_eq!(keyholder.open(Person::new().asks_once()).await, Err(KeyholderError::WrongKey));
        assert_eq!(keyholder.ready().await, if key == other_key { Ok(()) } else { Err(KeyholderError::WrongKey) });
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_journal_the_keyholder_opens_nothing() {
    let (bench, keyholder) = Bench::new(Place::InProcess, DEFAULT_BUDGETS).await;
    let journal = bench.journal().await;
    while journal.database().migrate_down().await.unwrap().is_some() {}
    let answer = keyholder.open(Person::new().asks_once()).await;
    assert!(matches!(answer, Err(KeyholderError::Unavailable { .. })), "{answer:?}");
}
