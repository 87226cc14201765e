//! Rates, quotas and delays: exact across processes, kept where a restart must not forget them, tighter without Redis.

use std::time::Duration;

use futures_util::{StreamExt as _, future::join_all, stream};
use reqwest::{Method, StatusCode};
use velum::{app::Running, tls::development};

use super::helpers::{Answer, Client, Kind, Options, Redis, TestApp, each_database, each_database_with, photos, until};

/// The same caller, at another process.
fn at(client: &Client, running: &Running) -> Client {
    client.at(running.address.port())
}

fn statuses(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == StatusCode::from_u16(status).unwrap()).count()
}

/// One parameter of one policy in a `RateLimit` header.
fn parameter(answer: &Answer, header: &'static str, policy: &str, name: &str) -> u64 {
    let text = answer.header(header).unwrap_or_else(|| panic!("no {header}: {}", answer.text));
    let policy = text.split(", ").find_map(|part| part.strip_prefix(&format!("\"{policy}\";")));
    let found = policy.and_then(|rest| rest.split(';').find_map(|pair| pair.strip_prefix(&format!("{name}="))));
    found.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// The first answer that is no. Every second or so another request is due, perhaps at this very moment.
async fn refused(ask: impl AsyncFn() -> Answer) -> Answer {
    for _ in 0..2 {
        let answer = ask().await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            return answer;
        }
    }
    ask().await.expect(429)
}

/// Redis is met at the first request, and may be late then.
async fn becomes_whole(client: &Client) {
    let is_whole = async || client.get("/readyz").await.expect(200).json()["status"] == "ok";
    until("Redis is found", 10, is_whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_count_as_one() {
    let redis = Redis::start();
    let options = [("REDIS_URL", &*redis.url()), ("RATE_CLIENT", "50")];
    let app = TestApp::spawn(Kind::Sqlite, &options).await;
    let other = app.twin(&options).await;
    let mut here = app.client().await;
    becomes_whole(&here).await;
    becomes_whole(&at(&here, &other)).await;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let there = at(&here, &other);
        let started = std::time::Instant::now();
        // Not all at once: on a busy machine Redis would not answer in time, and each process would count by itself.
        let calls = stream::iter((0..200).map(|number| if number % 2 == 0 { &here } else { &there }));
        let answers: Vec<Answer> = calls.map(|client| client.get("/v1/models")).buffer_unordered(16).collect().await;
        let due = 50 + (started.elapsed().as_secs_f64() * 50.0 / 60.0).ceil() as usize;
        let served = statuses(&answers, 200);
        assert_eq!(served + statuses(&answers, 429), 200);
        if (50..=due).contains(&served) {
            break;
        }
        // It did answer late once: then each lets a quarter through by itself, and another client shows the rest.
        assert!(attempts < 3 && served <= due + 2 * 13, "{served} in {:?}", started.elapsed());
        here = app.foreign_client().await;
    }

    let seconds = |answer: &Answer| -> u64 { answer.header("retry-after").unwrap().parse().unwrap() };
    let ask = async || here.get("/v1/models").await;
    let mut refused = self::refused(ask).await;
    if seconds(&refused) > 3 {
        refused = self::refused(ask).await; // late once, as above
    }
    let refused = refused.expect_problem(429, "rate_limited");
    let wait = seconds(&refused);
    assert!((1..=3).contains(&wait), "one request is there again after 1.2 s: {wait}");
    assert_eq!(parameter(&refused, "ratelimit-policy", "client", "q"), 50);
    assert_eq!(parameter(&refused, "ratelimit-policy", "client", "w"), 60);
    assert_eq!(parameter(&refused, "ratelimit", "client", "r"), 0);
    assert!((50..=61).contains(&parameter(&refused, "ratelimit", "client", "t")));
    assert!(parameter(&refused, "ratelimit", "address", "r") > 0);
    // Another client has a rate of its own; probes have none.
    app.foreign_client().await.get("/v1/models").await.expect(200);
    assert_eq!(here.get("/livez").await.expect(200).header("ratelimit"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_process_lets_less_through_and_says_that_it_is_degraded() {
    let mut redis = Redis::start();
    let app = TestApp::spawn(Kind::Sqlite, &[("REDIS_URL", &redis.url()), ("RATE_CLIENT", "40")]).await;
    let client = app.client().await;
    becomes_whole(&client).await;
    redis.kill();
    let answers = join_all((0..20).map(|_| client.get("/v1/models"))).await;
    assert!((10..=11).contains(&statuses(&answers, 200)), "a quarter of 40: {}", statuses(&answers, 200));
    let ready = client.get("/readyz").await.expect(200).json();
    assert_eq!(ready["status"], "degraded");
    let of_redis = ready["checks"].as_array().unwrap().iter().find(|check| check["name"] == "redis").unwrap();
    assert_eq!(of_redis["status"], "unavailable");

    redis.restart();
    becomes_whole(&client).await;
    until("the rate is whole again", 10, async || client.get("/v1/models").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_by_tls_and_only_where_its_certificate_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let made = development::ensure(folder.path(), &[], time::OffsetDateTime::now_utc()).unwrap();
    let redis = Redis::start_with_tls(&made.server);
    let url = redis.tls_url();
    let authority = made.authority.display().to_string();
    let trusting = TestApp::spawn(Kind::Sqlite, &[("REDIS_URL", &url), ("REDIS_CA_FILE", &authority)]).await;
    becomes_whole(&trusting.stranger()).await;
    let doubting = TestApp::spawn(Kind::Sqlite, &[("REDIS_URL", &url)]).await;
    assert_eq!(doubting.stranger().get("/readyz").await.expect(200).json()["status"], "degraded");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_at_credentials_spends_the_rate_of_an_address_twenty_times_as_fast() {
    let app = TestApp::spawn(Kind::Sqlite, &[("RATE_ADDRESS", "40")]).await;
    let mut stranger = app.stranger();
    stranger.token = Some("velum_test_nonsense".to_owned());
    for _ in 0..2 {
        stranger.get("/v1/models").await.expect_problem(401, "api_key_invalid");
    }
    refused(async || stranger.get("/v1/models").await).await.expect_problem(429, "rate_limited");
    let form = [("grant_type", "client_credentials"), ("client_id", "a"), ("client_secret", "b")];
    let refused = refused(async || stranger.post_token(&form).await).await;
    assert_eq!(refused.json()["error"], "temporarily_unavailable");
    assert!(refused.header("retry-after").is_some());
    stranger.get("/readyz").await.expect(200);
}

/// Somebody who guessed as often as he was let.
struct Guesser {
    app: TestApp,
    stranger: Client,
    burst: usize,
}

async fn guesser(options: Options<'_>) -> Guesser {
    let app = TestApp::spawn(Kind::Sqlite, options).await;
    let stranger = Client { token: Some("velum_test_nonsense".to_owned()), ..app.stranger() };
    becomes_whole(&stranger).await;
    let mut burst = 0;
    while stranger.get("/v1/models").await.status == 401 {
        burst += 1;
    }
    Guesser { app, stranger, burst }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_guessing_gets_a_twentieth_of_the_rate_with_redis_and_without() {
    let redis = Redis::start();
    for options in [vec![("RATE_ADDRESS", "2400")], vec![("RATE_ADDRESS", "2400"), ("REDIS_URL", &*redis.url())]] {
        let mut guesser = guesser(&options).await;
        if guesser.burst < 120 {
            // Where Redis is late for once, the process counts by itself, and lets a quarter through.
            guesser = self::guesser(&options).await;
        }
        let Guesser { app: _app, stranger, burst } = guesser;
        assert!(burst >= 120, "a whole minute's worth: {burst}");
        let guess = async || stranger.get("/v1/models").await.status.as_u16();
        // Two a second; at twenty times that rate the door would be open for those who have patience.
        let patient = async || {
            let (begin, mut open) = (std::time::Instant::now(), 0);
            while begin.elapsed() < Duration::from_secs(4) {
                open += usize::from(guess().await == 401);
            }
            open
        };
        let mut later = patient().await;
        if later > 16 {
            // Late once, as above.
            later = patient().await;
        }
        assert!((4..=16).contains(&later), "{later}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_route_is_counted_too() {
    let app = TestApp::spawn(Kind::Sqlite, &[("RATE_ADDRESS", "8")]).await;
    let stranger = app.stranger();
    for (path, status) in [("/nowhere", 404), ("/docs", 308), ("/docs/", 200), ("/docs/nothing", 404)].repeat(2) {
        stranger.get(path).await.expect(status);
    }
    for path in ["/nowhere", "/docs", "/docs/"] {
        stranger.get(path).await.expect_problem(429, "rate_limited");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_left_of_the_day_an_earlier_answer_is_given_again() {
    each_database_with(&[("QUOTA_PER_DAY", "1")], |app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        let enrol = async |key: &str| {
            let request = client.request(Method::POST, &format!("/v1/subjects/{subject}/enrolments"));
            let request = request.header("idempotency-key", key).header("content-type", "image/jpeg");
            client.send(request.body(photos::collins())).await
        };
        let first = enrol("one").await.expect(201);
        for _ in 0..2 {
            let again = enrol("one").await.expect(201);
            assert_eq!((again.header("idempotency-replayed"), &again.text), (Some("true"), &first.text));
            drop(enrol("two").await.expect_problem(429, "quota_spent"));
        }
        let usage = client.get("/v1/usage").await.expect(200).json();
        assert_eq!((&usage["used"], &usage["remaining"]), (&1.into(), &0.into()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_exact_across_processes_and_restarts_and_comes_back_at_midnight() {
    let options = [("QUOTA_PER_DAY", "5")];
    each_database_with(&options, |app| async move {
        let other = app.twin(&options).await;
        let here = app.client().await;
        let there = at(&here, &other);
        let subject = here.consenting_subject().await;
        let calls = (0..12).map(|number| if number % 2 == 0 { &here } else { &there });
        let answers = join_all(calls.map(|client| client.enrol(&subject, photos::collins()))).await;
        assert_eq!((statuses(&answers, 201), statuses(&answers, 429)), (5, 7));
        let refused = answers.into_iter().find(|answer| answer.status == 429).unwrap();
        let wait: u64 = refused.expect_problem(429, "quota_spent").header("retry-after").unwrap().parse().unwrap();
        assert!((1..=86_400).contains(&wait));

        let usage = here.get("/v1/usage").await.expect(200).json();
        assert_eq!((&usage["quota_per_day"], &usage["used"], &usage["remaining"]), (&5.into(), &5.into(), &0.into()));
        assert_eq!((&usage["days"][0]["enrolments"], &usage["days"][0]["verifications"]), (&5.into(), &0.into()));
        assert!(usage["resets_at"].as_str().unwrap().ends_with("T00:00:00Z"));

        let restarted = app.twin(&options).await;
        at(&here, &restarted).verify(&subject, photos::collins()).await.expect_problem(429, "quota_spent");
        app.foreign_client().await.get("/v1/usage").await.expect(200);

        app.clock.advance(time::Duration::seconds(wait as i64));
        let here = app.client().await;
        here.verify(&subject, photos::collins()).await.expect(201);
        let usage = here.get("/v1/usage?days=2").await.expect(200).json();
        assert_eq!((&usage["used"], &usage["days"][0]["verifications"]), (&1.into(), &1.into()));
        assert_eq!(usage["days"][1]["enrolments"], 5);
        assert_eq!(here.get("/v1/usage?days=1").await.json()["days"].as_array().unwrap().len(), 1);
        here.get("/v1/usage?days=0").await.expect_problem(422, "validation_failed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_on_our_side_costs_nothing_of_the_quota() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        app.databases.execute(&app.databases.journal, "ALTER TABLE opened_verifications RENAME TO away");
        client.verify(&subject, photos::collins()).await.expect_problem(503, "keyholder_unavailable");
        // Before the answer: who stops the server after it loses nothing.
        assert_eq!(client.get("/v1/usage").await.json()["used"], 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_row_slow_down_the_next_attempt_and_a_restart_does_not_forget_them() {
    let options = [("ATTEMPTS_FREE", "2")];
    each_database_with(&options, |app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        for _ in 0..3 {
            assert_eq!(client.verify(&subject, photos::hopper()).await.expect(201).json()["decision"], "no_match");
        }
        let blocked = client.verify(&subject, photos::collins()).await.expect_problem(429, "attempts_blocked");
        let wait: i64 = blocked.header("retry-after").unwrap().parse().unwrap();
        assert!((29..=31).contains(&wait), "{wait}");
        let restarted = at(&client, &app.twin(&options).await).verify(&subject, photos::collins()).await;
        drop(restarted.expect_problem(429, "attempts_blocked"));
        let another = client.consenting_subject().await;
        client.enrol(&another, photos::collins()).await.expect(201);
        assert_eq!(client.verify(&another, photos::collins()).await.expect(201).json()["decision"], "match");

        // The next failure doubles the wait; a match ends the series.
        app.clock.advance(time::Duration::seconds(wait));
        assert_eq!(client.verify(&subject, photos::hopper()).await.expect(201).json()["decision"], "no_match");
        let blocked = client.verify(&subject, photos::collins()).await.expect_problem(429, "attempts_blocked");
        let wait: i64 = blocked.header("retry-after").unwrap().parse().unwrap();
        assert!((59..=61).contains(&wait), "{wait}");
        app.clock.advance(time::Duration::seconds(wait));
        let client = app.client().await;
        assert_eq!(client.verify(&subject, photos::collins()).await.expect(201).json()["decision"], "match");
        for _ in 0..2 {
            assert_eq!(client.verify(&subject, photos::hopper()).await.expect(201).json()["decision"], "no_match");
        }
        assert_eq!(client.verify(&subject, photos::collins()).await.expect(201).json()["decision"], "match");
        assert_eq!(app.databases.count(&app.databases.main, "verification_attempts", "1 = 1"), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_who_are_all_the_right_person_are_no_failures() {
    each_database_with(&[("COMPUTE_QUEUE", "64")], |app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        for _ in 0..3 {
            let answers = join_all((0..8).map(|_| client.verify(&subject, photos::collins()))).await;
            assert_eq!(
                statuses(&answers, 201),
                8,
                "{:?}",
                answers.iter().map(|answer| &answer.text).collect::<Vec<_>>()
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_come_to_no_outcome_do_not_count() {
    let app = TestApp::spawn(Kind::foremost(), &[]).await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    client.verify(&subject, photos::hopper()).await.expect(201);
    app.databases.execute(&app.databases.journal, "ALTER TABLE opened_verifications RENAME TO away");
    client.verify(&subject, photos::hopper()).await.expect(503);
    assert_eq!(app.databases.count(&app.databases.main, "verification_attempts", "failures = 1"), 1);
}
