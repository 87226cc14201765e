//! What was ended stays ended, on every process, whatever becomes of Redis.

use std::{
    collections::VecDeque,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};

use super::helpers::{
    Client, Kind, Process, Redis, TestApp, claims_of, credential_in, databases::Databases, photos, signed_like,
    signing_key, until,
};

/// From the answer to a revocation until no process accepts the token any more.
const WITHIN: Duration = Duration::from_secs(1);
const DEATHS: usize = 20;
/// Every fourth time Redis hangs instead of dying.
const ROUNDS: usize = DEATHS / 3 * 4 + DEATHS % 3;
const TOKENS: usize = 10_000;

struct House {
    redis: Redis,
    /// Two processes of one deployment.
    processes: [Process; 2],
    client: Client,
    credential: (String, String),
    databases: Databases,
    _data: tempfile::TempDir,
}

impl House {
    async fn open() -> Self {
        let (data, redis) = (tempfile::tempdir().unwrap(), Redis::start());
        let kind = Kind::foremost();
        let databases = Databases::make(kind, data.path());
        let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys/test_only_rsa_2048_one.pem");
        let own_key = data.path().join("token_key.pem");
        std::fs::copy(key, &own_key).unwrap();
        set_private(&own_key);
        let serve = || {
            Process::start_with(data.path(), |command| {
                databases
                    .are_of(command)
                    .env("VELUM_DATABASE_POOL_SIZE", "8")
                    .env("VELUM_REDIS_URL", redis.url())
                    .env("VELUM_JWT_SIGNING_KEY_FILE", &own_key)
                    .env("VELUM_RATE_CLIENT", "10000000")
                    .env("VELUM_RATE_ADDRESS", "10000000")
                    .env("VELUM_LOG", "error");
            })
        };
        let processes = [serve(), serve()];
        let client = processes[0].client().await;
        let credential = credential_in(data.path());
        Self { redis, processes, client, credential, databases, _data: data }
    }

    fn at(&self, number: usize) -> Client {
        self.client.at(self.processes[number % 2].port)
    }

    async fn token(&self, number: usize) -> String {
        let (id, secret) = &self.credential;
        let bought = Client { token: None, ..self.at(number) }.with_token(id, secret, "subjects").await;
        bought.token.unwrap()
    }

    async fn revoke(&self, number: usize, token: &str) {
        let (id, secret) = &self.credential;
        let form = [("token", token), ("client_id", id.as_str()), ("client_secret", secret.as_str())];
        self.at(number).post_oauth("/oauth/revoke", &form).await.expect(200);
    }
}

fn set_private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn status(client: &Client, token: &str) -> u16 {
    let client = Client { token: Some(token.to_owned()), ..client.clone() };
    client.get("/v1/models").await.status.as_u16()
}

/// What was revoked, and when the answer came.
type Revoked = Arc<Mutex<VecDeque<(String, Instant)>>>;

/// Asks both processes about tokens that were revoked a second ago or longer, all the time.
fn watch(
    house: &House,
    revoked: &Revoked,
    over: &Arc<AtomicBool>,
    asked: &Arc<AtomicUsize>,
) -> Vec<tokio::task::JoinHandle<()>> {
    (0..4)
        .map(|number| {
            let (client, revoked) = (house.at(number), Arc::clone(revoked));
            let (over, asked) = (Arc::clone(over), Arc::clone(asked));
            tokio::spawn(async move {
                let mut position = number;
                while !over.load(Ordering::Relaxed) {
                    let found = {
                        let revoked = revoked.lock().unwrap();
                        let old = revoked.iter().take_while(|(_, at)| at.elapsed() >= WITHIN).count();
                        position = (position + 1) % old.max(1);
                        // The newest of the old ones matter most.
                        (old > 0).then(|| revoked[old - 1 - position % old.min(50)].clone())
                    };
                    let Some((token, at)) = found else {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    let status = status(&client, &token).await;
                    assert_eq!(status, 401, "accepted {:?} after it was revoked", at.elapsed());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_tokens_no_revoked_one_is_accepted_while_redis_dies_twenty_times() {
    let mut house = House::open().await;
    let mut deaths = 0;
    let (revoked, over, asked) = (Revoked::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let watchers = watch(&house, &revoked, &over, &asked);
    let mut live = vec![];
    for round in 0..ROUNDS {
        let numbers = stream::iter(TOKENS * round / ROUNDS..TOKENS * (round + 1) / ROUNDS);
        let tokens: Vec<String> = numbers.map(|number| house.token(number)).buffer_unordered(16).collect().await;
        let (ended, kept) = tokens.split_at(tokens.len() / 2);
        let revoking = stream::iter(ended.iter().enumerate()).for_each_concurrent(16, |(number, token)| {
            let (house, revoked) = (&house, &revoked);
            async move {
                house.revoke(number, token).await;
                revoked.lock().unwrap().push_back((token.clone(), Instant::now()));
            }
        });
        let hung = round % 4 == 3;
        let dying = async {
            tokio::time::sleep(Duration::from_millis(20 + 37 * (round as u64 % 7))).await;
            if hung {
                house.redis.hang(true)
            } else {
                kill(&house.redis)
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
        };
        tokio::join!(revoking, dying);
        deaths += usize::from(!hung);
        match round % 4 {
            3 => house.redis.hang(false),
            2 => house.redis.restart_empty(),
            _ => house.redis.restart(),
        }
        for (number, token) in kept.iter().take(20).enumerate() {
            assert_eq!(status(&house.at(number), token).await, 200, "a live token is served throughout");
        }
        live.extend_from_slice(kept);
    }
    tokio::time::sleep(WITHIN).await;
    over.store(true, Ordering::Relaxed);
    for watcher in watchers {
        watcher.await.unwrap();
    }
    let ended: Vec<String> = revoked.lock().unwrap().iter().map(|(token, _)| token.clone()).collect();
    assert_eq!((ended.len() + live.len(), deaths), (TOKENS, DEATHS));
    assert!(ended.len() >= TOKENS / 2 - ROUNDS, "{}", ended.len());
    for (tokens, expected) in [(&ended, 401), (&live, 200)] {
        let answers = stream::iter(tokens.iter().enumerate()).map(|(number, token)| {
            let client = house.at(number);
            async move { status(&client, token).await }
        });
        let wrong = answers.buffer_unordered(16).filter(|status| std::future::ready(*status != expected)).count().await;
        assert_eq!(wrong, 0, "of {} that should be answered {expected}", tokens.len());
    }
    eprintln!("{} questions about revoked tokens while Redis died {deaths} times", asked.load(Ordering::Relaxed));
}

fn kill(redis: &Redis) {
    redis.signal("-KILL");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_and_a_withdrawn_consent_hold_on_every_process() {
    let mut house = House::open().await;
    let subject = house.client.consenting_subject().await;
    for round in 0..4 {
        if round % 2 == 1 {
            house.redis.kill();
        }
        let consent = house.client.consent(&subject).await;
        house.at(round).withdraw(&subject, &consent).await.expect(200);
        let refused = house.at(round + 1).enrol(&subject, photos::collins()).await;
        drop(refused.expect_problem(403, "consent_required"));

        let made = house
            .databases
            .are_of(&mut house.processes[0].command())
            .args(["clients", "create", "--tenant", "another", "--name", "app", "--json"])
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        let member = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("no {name}")).to_owned();
        let (id, secret) = (member("client_id"), member("client_secret"));
        let client = Client { token: None, ..house.client.clone() }.with_token(&id, &secret, "").await;
        let token = client.token.clone().unwrap();
        assert_eq!(status(&house.at(0), &token).await, 200);
        assert_eq!(status(&house.at(1), &token).await, 200);
        let disabled = house
            .databases
            .are_of(&mut house.processes[0].command())
            .args(["clients", "disable", "--tenant", "another", &id])
            .output()
            .unwrap();
        assert!(disabled.status.success(), "{}", String::from_utf8_lossy(&disabled.stderr));
        tokio::time::sleep(WITHIN).await;
        assert_eq!(status(&house.at(0), &token).await, 401);
        assert_eq!(status(&house.at(1), &token).await, 401);
        if round % 2 == 1 {
            house.redis.restart();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_is_used_while_it_is_whole_and_not_believed_when_it_is_not() {
    let redis = Redis::start();
    let app = TestApp::spawn(Kind::Sqlite, &[("REDIS_URL", &redis.url())]).await;
    let (id, secret) = app.credential();
    let clients: Vec<Client> = vec![app.client().await, app.client().await, app.client().await];
    for client in &clients[..2] {
        let form = [("token", client.token.as_deref().unwrap()), ("client_id", &id), ("client_secret", &secret)];
        client.post_oauth("/oauth/revoke", &form).await.expect(200);
    }
    let key = redis.ask(&["KEYS", "velum:revoked:*"]);
    let filled = async || redis.ask(&["ZSCORE", &key, "version"]) == "-3";
    until("the copy is filled", 10, filled).await;
    assert_eq!(redis.ask(&["ZCARD", &key]), "3", "two tokens and the version");
    // The database forgets: what is refused now is refused by the copy, as soon as that is believed.
    app.databases.execute(&app.databases.main, "DELETE FROM revocations");
    until("the copy refuses", 10, async || status(&clients[0], clients[0].token.as_deref().unwrap()).await == 401)
        .await;
    clients[0].get("/v1/models").await.expect_problem(401, "token_revoked");
    clients[2].get("/v1/models").await.expect(200);

    // One member lost, and the version with it, as an older file or an eviction would: the next request asks the database.
    app.databases.execute(
        &app.databases.main,
        &format!(
            "INSERT INTO revocations (version, member, expires_at) SELECT 3, 't:' || '{}', 4102444800000000",
            token_id(&clients[2])
        ),
    );
    redis.ask(&["FLUSHALL"]);
    clients[2].get("/v1/models").await.expect_problem(401, "token_revoked");
    until("the copy is made again", 10, filled).await;
    // The database was set back, and the copy is further on.
    redis.ask(&["ZADD", &key, "-99", "version"]);
    until("the copy is replaced", 10, filled).await;
    clients[2].get("/v1/models").await.expect_problem(401, "token_revoked");
}

/// Versions of two databases say nothing about each other: whichever is behind must not be filled up from the other's.
#[tokio::test(flavor = "multi_thread")]
async fn two_installations_on_one_redis_do_not_see_each_others_revocations() {
    let redis = Redis::start();
    let apps = [(); 2].map(|()| async { TestApp::spawn(Kind::Sqlite, &[("REDIS_URL", &redis.url())]).await });
    let [one, other] = apps;
    let (one, other) = tokio::join!(one, other);
    let mut ended = vec![];
    for app in [&one, &other, &other, &one, &one] {
        let client = app.client().await;
        let (id, secret) = app.credential();
        let form = [("token", client.token.as_deref().unwrap()), ("client_id", &id), ("client_secret", &secret)];
        client.post_oauth("/oauth/revoke", &form).await.expect(200);
        ended.push(client);
        for client in &ended {
            // Where Redis is late for once, the copy of before is believed for half a second.
            let token = client.token.as_deref().unwrap();
            until("it is refused", 2, async || status(client, token).await == 401).await;
            client.get("/v1/models").await.expect_problem(401, "token_revoked");
        }
    }
    let sizes = || {
        let keys = redis.ask(&["KEYS", "velum:revoked:*"]);
        let mut sizes: Vec<String> = keys.lines().map(|key| redis.ask(&["ZCARD", key])).collect();
        sizes.sort();
        sizes
    };
    until("each has its own, and the version", 10, async || sizes() == ["3", "4"]).await;
}

/// Its issuer's clock may be ahead of the one that is asked to end it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_valid_yet_can_be_ended() {
    let app = TestApp::spawn(Kind::Sqlite, &[]).await;
    let (id, secret) = app.credential();
    let good = app.client().await;
    let mut claims = claims_of(good.token.as_deref().unwrap());
    claims["nbf"] = (claims["nbf"].as_i64().unwrap() + 60).into();
    let early = signed_like(good.token.as_deref().unwrap(), &claims, &signing_key(&app));
    let early = Client { token: Some(early), ..good.clone() };
    early.get("/v1/models").await.expect_problem(401, "token_not_yet_valid");
    let form = [("token", early.token.as_deref().unwrap()), ("client_id", &id), ("client_secret", &secret)];
    good.post_oauth("/oauth/revoke", &form).await.expect(200);
    app.clock.advance(time::Duration::seconds(60));
    early.get("/v1/models").await.expect_problem(401, "token_revoked");
}

/// The `jti` of a client's token.
fn token_id(client: &Client) -> String {
    use base64::Engine as _;
    let payload = client.token.as_deref().unwrap().split('.').nth(1).unwrap();
    let payload = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}
