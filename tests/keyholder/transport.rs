//! The link: time-outs, restarts, certificates, framing.

use std::{net::TcpListener, time::Instant};

use time::OffsetDateTime;
use velum::{
    domain::{
        decision::Decision,
        id::{SubjectId, TenantId, VerificationId},
    },
    fhe::keys::{self, SecretKeys},
    keyholder::{Budgets, DECISIONS_MAX, DEFAULT_BUDGETS, KeyholderError},
    tls::{
        self,
        development::{self, DevelopmentTls},
    },
};

use crate::bench::{Bench, Person, Place, stored, stored_secret};

/// The longest that an edge waits for its answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(5_500);

fn is_unavailable<T>(answer: &Result<T, KeyholderError>) -> bool {
    matches!(answer, Err(KeyholderError::Unavailable { retry_after_s: 1.. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn away_is_unavailable_within_the_time_out_and_over_when_it_is_back() {
    let (mut bench, keyholder) = Bench::new(Place::BehindMutualTls, DEFAULT_BUDGETS).await;
    keyholder.open(Person::new().asks_once()).await.unwrap();
    bench.stop().await;

    let begin = Instant::now();
    assert!(is_unavailable(&keyholder.open(Person::new().asks_once()).await));
    assert!(is_unavailable(&keyholder.ready().await));
    assert!(is_unavailable(&keyholder.forget(TenantId::generate(), SubjectId::generate()).await));
    assert!(begin.elapsed() < PATIENCE);

    // The same handle, with whatever connections it kept.
    bench.start().await;
    keyholder.ready().await.unwrap();
    keyholder.open(Person::new().asks_once()).await.unwrap();
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_meets_a_restart_is_answered_by_its_second_attempt_to_connect() {
    let (mut bench, keyholder) = Bench::new(Place::BehindMutualTls, DEFAULT_BUDGETS).await;
    let mut answers = vec![];
    // On a busy machine it may listen later than is needed for once.
    while answers.len() < 3 && !answers.contains(&Ok(Decision::Match)) {
        bench.stop().await;
        // The second attempt is 200 ms after the first: all that a start does before it listens is done by then.
        let started = bench.local(stored_secret()).await;
        let keyholder = keyholder.clone();
        let asked = tokio::spawn(async move { keyholder.open(Person::new().asks_once()).await });
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        bench.serve(started, Vec::new()).await;
        answers.push(asked.await.unwrap());
    }
    assert_eq!(answers.last(), Some(&Ok(Decision::Match)));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyholder_that_accepts_and_says_nothing_is_given_up() {
    let (mut bench, _) = Bench::new(Place::BehindMutualTls, DEFAULT_BUDGETS).await;
    bench.stop().await;
    let silent = TcpListener::bind(bench.address()).unwrap();
    let begin = Instant::now();
    let keyholder = bench.ask_as(&bench.tls, stored_secret().key_id());
    assert!(is_unavailable(&keyholder.open(Person::new().asks_once()).await));
    assert!(begin.elapsed() < PATIENCE);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_the_answers_in_progress() {
    let (mut bench, keyholder) = Bench::new(Place::BehindMutualTls, DEFAULT_BUDGETS).await;
    keyholder.ready().await.unwrap();
    let held = bench.hold_journal();
    let asked = tokio::spawn(async move { keyholder.open(Person::new().asks_once()).await });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let release = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        drop(held);
    });
    bench.stop().await;
    release.await.unwrap();
    assert_eq!(asked.await.unwrap(), Ok(Decision::Match));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_without_a_certificate_of_the_authority() {
    let (mut bench, keyholder) = Bench::new(Place::BehindMutualTls, DEFAULT_BUDGETS).await;
    let strangers = tempfile::tempdir().unwrap();
    let strangers = development::ensure(strangers.path(), &[], OffsetDateTime::now_utc()).unwrap();
    let url = format!("https://{}/v1/ready", bench.address());
    let ask = async |tls: rustls::ClientConfig| {
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        client.get(&url).send().await
    };

    // The right authority is trusted each time; only what the client shows differs.
    let none = tls::public_client(&bench.tls.authority).unwrap();
    assert!(ask(none).await.is_err());
    let of_another = tls::keyholder_client(&strangers.edge, &bench.tls.authority).unwrap();
    assert!(ask(of_another).await.is_err());
    let of_a_server = tls::keyholder_client(&bench.tls.server, &bench.tls.authority).unwrap();
    assert!(ask(of_a_server).await.is_err());
    let ours = tls::keyholder_client(&bench.tls.edge, &bench.tls.authority).unwrap();
    assert_eq!(ask(ours).await.unwrap().status(), 200);

    keyholder.ready().await.unwrap();
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_does_not_talk_to_a_keyholder_of_another_authority() {
    let (mut bench, _) = Bench::new(Place::BehindMutualTls, DEFAULT_BUDGETS).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = development::ensure(elsewhere.path(), &[], OffsetDateTime::now_utc()).unwrap();
    let tls = DevelopmentTls { authority: elsewhere.authority, ..bench.tls.clone() };
    let keyholder = bench.ask_as(&tls, stored_secret().key_id());
    assert!(is_unavailable(&keyholder.open(Person::new().asks_once()).await));
    assert_eq!(bench.audit_lines().await, []);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_outside_the_list_is_turned_away() {
    let (mut bench, _) = Bench::new(Place::BehindMutualTls, DEFAULT_BUDGETS).await;
    for (listed, expected) in [
        (bench.tls.server.fingerprint().unwrap(), Err(KeyholderError::Forbidden)),
        (bench.tls.edge.fingerprint().unwrap(), Ok(())),
    ] {
        bench.stop().await;
        let local = bench.local(stored_secret()).await;
        bench.serve(local, vec![listed]).await;
        let keyholder = bench.ask_as(&bench.tls, stored_secret().key_id());
        assert_eq!(keyholder.ready().await, expected);
        assert_eq!(keyholder.open(Person::new().asks_once()).await.map(drop), expected);
    }
    let lines = bench.audit_lines().await;
    let told: Vec<_> = lines.iter().map(|line| (line.event.as_str(), line.reason.as_str())).collect();
    let refused = ("request_refused", "keyholder_forbidden");
    assert_eq!(told, [refused, refused, ("opening_admitted", "")]);
    assert!(lines.iter().all(|line| line.caller == format!("edge:{}", bench.tls.edge.fingerprint().unwrap())));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_questions_are_refused_and_cost_nothing() {
    let (mut bench, keyholder) = Bench::new(Place::BehindMutualTls, Budgets { per_day: 1, ..DEFAULT_BUDGETS }).await;
    let tls = tls::keyholder_client(&bench.tls.edge, &bench.tls.authority).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let url = format!("https://{}/v1/open", bench.address());
    let ask = async |verification: &str, body: Vec<u8>| {
        let person = Person::new();
        let question = client
            .post(&url)
            .header("velum-key", stored_secret().key_id().to_string())
            .header("velum-verification", verification)
            .header("velum-tenant", person.tenant.to_string())
            .header("velum-subject", person.subject.to_string())
            .body(body);
        let response = question.send().await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = response.json().await.unwrap();
        (status, problem["code"].as_str().unwrap().to_owned())
    };
    let malformed = (400, "keyholder_malformed_request".to_owned());
    let fresh = || VerificationId::generate().to_string();
    let framed = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat();

    let good = stored("decision_match.bin");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let bodies: [(&str, Vec<u8>); 9] = [
        ("nothing", Vec::new()),
        ("half a length", vec![1, 0]),
        ("a length without bytes", 16_000u32.to_le_bytes().to_vec()),
        ("a length beyond all limits", [&u32::MAX.to_le_bytes()[..], &good].concat()),
        ("a truncated decision", framed(&good[..good.len() - 1])),
        ("a decision and a rest", [framed(&good), vec![0]].concat()),
        ("a flipped bit", framed(&flipped)),
        ("a template", framed(&stored("template_match.bin"))),
        ("one decision too many", framed(&good).repeat(DECISIONS_MAX + 1)),
    ];
    for (what, body) in bodies {
        assert_eq!(ask(&fresh(), body).await, malformed, "{what}");
    }
    let too_large = ask(&fresh(), vec![0; 1_000_000]).await;
    assert_eq!(too_large, malformed);
    assert_eq!(ask("ver_1", framed(&good)).await, malformed);
    assert_eq!(ask(&Person::new().subject.to_string(), framed(&good)).await, malformed);

    let lines = bench.audit_lines().await;
    assert_eq!(lines.len(), 12, "each of them was written down");
    assert!(lines.iter().all(|line| line.reason == "keyholder_malformed_request"));

    // The budget of one is still there.
    keyholder.open(Person::new().asks_once()).await.unwrap();
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_keys_are_changed_edges_of_both_keys_are_served_and_then_those_of_the_new_one_alone() {
    let (mut bench, older_edge) = Bench::new(Place::BehindMutualTls, DEFAULT_BUDGETS).await;
    let fresh = keys::generate().secret.to_bytes();
    let fresh = || SecretKeys::from_bytes(&fresh).unwrap();
    bench.stop().await;
    bench.serve(bench.local_after(Some(stored_secret()), fresh()).await, Vec::new()).await;
    let newer_edge = bench.ask_as(&bench.tls, fresh().key_id());
    for edge in [&older_edge, &newer_edge] {
        edge.ready().await.unwrap();
    }
    assert_eq!(older_edge.open(Person::new().asks_once()).await, Ok(Decision::Match));
    bench.stop().await;

    bench.serve(bench.local_after(None, fresh()).await, Vec::new()).await;
    newer_edge.ready().await.unwrap();
    assert_eq!(older_edge.ready().await, Err(KeyholderError::WrongKey));
    assert_eq!(older_edge.open(Person::new().asks_once()).await, Err(KeyholderError::WrongKey));
    bench.stop().await;
}
