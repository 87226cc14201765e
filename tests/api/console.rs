//! The officer console as a browser meets it: signing in, staying signed in, forms, and what a browser is held to.

use std::{collections::BTreeSet, process::Command};

use reqwest::Method;
use time::Duration;
use velum::{
    console,
    domain::{
        clock::Clock as _,
        id::{OfficerId, TenantId},
    },
    flows::{clients, officer_accounts::HandedOut},
};

use super::helpers::{Answer, Client, Kind, TestApp, WithForm as _, each_database, onnxruntime};

const NAME: &str = "a.meyer@example.org";
const OWN_PASSWORD: &str = "correct horse battery";
const COOKIE: &str = "__Host-velum-session";

/// A browser: it keeps its cookie and says where a form comes from.
#[derive(Clone)]
struct Browser {
    client: Client,
    cookie: Option<String>,
}

impl Browser {
    fn new(app: &TestApp) -> Self {
        Self { client: app.stranger(), cookie: None }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], &[]).await
    }

    /// With these headers, and the cookie.
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Answer {
        let mut request = self.client.request(method.clone(), path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", format!("theme=dark; {COOKIE}={cookie}"));
        }
        if method == Method::POST {
            request = request.with_form(form);
        }
        self.client.send(request).await
    }

    async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Answer {
        let answer = self.send(Method::POST, path, &[("sec-fetch-site", "same-origin")], form).await;
        if let Some(set) = answer.header("set-cookie") {
            let value = set.split([';', '=']).nth(1).unwrap_or_default();
            self.cookie = (!value.is_empty()).then(|| value.to_owned());
        }
        answer
    }

    /// Fills in the form of a page, as it was shown.
    async fn submit(&mut self, page: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let hidden = hidden_fields(&self.get(page).await.expect(200).text);
        let hidden: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post(path, &[&hidden, fields].concat()).await
    }

    async fn sign_in(&mut self, name: &str, password: &str, code: &str) -> Answer {
        self.post("/console/sign-in", &[("name", name), ("password", password), ("code", code)]).await
    }

    async fn sign_out(&mut self) -> Answer {
        self.submit("/console/password", "/console/sign-out", &[]).await
    }

    async fn change_password(&mut self, present: &str, new: &str) -> Answer {
        let fields = [("present", present), ("new", new), ("again", new)];
        self.submit("/console/password", "/console/password", &fields).await
    }

    /// Whether the console shows this browser its pages.
    async fn is_signed_in(&self) -> bool {
        let answer = self.get("/console").await;
        match answer.status.as_u16() {
            200 => true,
            303 => {
                assert_eq!(answer.header("location"), Some("/console/sign-in"));
                false
            }
            other => panic!("{other}: {}", answer.text),
        }
    }
}

/// Of the first form of a page.
fn hidden_fields(page: &str) -> Vec<(String, String)> {
    let form = page.split("<form").nth(1).expect("a form").split("</form").next().unwrap();
    let attribute = |tag: &str, name: &str| {
        let rest = tag.split(&format!(r#"{name}=""#)).nth(1).expect("the attribute");
        rest.split('"').next().unwrap().to_owned()
    };
    let tags = form.split("<input").skip(1).filter(|tag| tag.contains(r#"type="hidden""#));
    tags.map(|tag| (attribute(tag, "name"), attribute(tag, "value"))).collect()
}

fn tenant(app: &TestApp) -> TenantId {
    let tenants = app.databases.texts(&app.databases.main, "SELECT id AS text FROM tenants ORDER BY id");
    tenants[0].parse().unwrap()
}

async fn add(app: &TestApp, name: &str) -> HandedOut {
    app.running.flows().officer_accounts().add(tenant(app), name, app.clock.now()).await.unwrap()
}

/// What the app on the officer's phone shows; a moment later, so that every code is a new one.
fn next_code(app: &TestApp, officer: &HandedOut) -> String {
    app.clock.advance(Duration::seconds(30));
    officer.authenticator.code(app.clock.now())
}

/// An officer with a password of their own, and a browser that is signed in.
async fn officer(app: &TestApp) -> (HandedOut, Browser) {
    let (officer, mut browser) = (add(app, NAME).await, Browser::new(app));
    let code = next_code(app, &officer);
    browser.sign_in(NAME, officer.password.expose_text(), &code).await.expect(303);
    browser.change_password(officer.password.expose_text(), OWN_PASSWORD).await.expect(303);
    assert!(browser.is_signed_in().await);
    (officer, browser)
}

/// Actions of the tenant's log by one actor, oldest first.
fn acts(app: &TestApp, actor: &str) -> Vec<String> {
    let query = format!("SELECT action AS text FROM audit_events WHERE actor = '{actor}' ORDER BY sequence");
    app.databases.texts(&app.databases.main, &query)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_comes_in_chooses_a_password_and_goes() {
    each_database(|app| async move {
        let officer = add(&app, NAME).await;
        let mut browser = Browser::new(&app);
        assert!(!browser.is_signed_in().await);
        browser.get("/console/password").await.expect(303);
        let (handed_out, code) = (officer.password.expose_text(), next_code(&app, &officer));

        // Capitals and spaces do not matter in a name, nor spaces in a code.
        let spaced = format!("{} {}", &code[..3], &code[3..]);
        let entered = browser.sign_in(" A.Meyer@Example.org ", handed_out, &spaced).await.expect(303);
        assert_eq!(entered.header("location"), Some("/console"));
        let cookie = entered.header("set-cookie").unwrap();
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        assert!(pair.starts_with("__Host-velum-session=") && pair.len() == COOKIE.len() + 1 + 64, "{pair}");
        let mut attributes: Vec<_> = attributes.split("; ").collect();
        attributes.sort_unstable();
        assert_eq!(attributes, ["HttpOnly", "Path=/", "SameSite=Strict", "Secure"]);

        // What was handed out opens one page.
        let led = browser.get("/console").await.expect(303);
        assert_eq!(led.header("location"), Some("/console/password"));
        let first = browser.clone();
        let changed = browser.change_password(handed_out, OWN_PASSWORD).await.expect(303);
        assert_eq!(changed.header("location"), Some("/console"));
        assert_ne!(browser.cookie, first.cookie, "another session in place of the first");
        assert_eq!(first.get("/console").await.expect(303).header("location"), Some("/console/sign-in"));
        let home = browser.get("/console").await.expect(200);
        assert!(home.text.contains(NAME), "{}", home.text);

        let last = browser.clone();
        let out = browser.sign_out().await.expect(303);
        assert_eq!(out.header("location"), Some("/console/sign-in"));
        assert_eq!(browser.cookie, None);
        assert!(!last.is_signed_in().await, "the session ended, not only the cookie");

        // The first password is over.
        let code = next_code(&app, &officer);
        browser.sign_in(NAME, handed_out, &code).await.expect(403);
        let code = next_code(&app, &officer);
        browser.sign_in(NAME, OWN_PASSWORD, &code).await.expect(303);
        assert!(browser.is_signed_in().await);

        let id = officer.officer.to_string();
        let expected = ["signed_in", "password_changed", "signed_out", "sign_in_failed", "signed_in"];
        assert_eq!(acts(&app, &id), expected.map(|act| format!("officer.{act}")));
        assert!(acts(&app, "operator").contains(&"officer.added".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_the_answer_is_the_same() {
    each_database(|app| async move {
        let (officer, mut browser) = officer(&app).await;
        let mut stranger = Browser::new(&app);
        let used = next_code(&app, &officer);
        browser.sign_in(NAME, OWN_PASSWORD, &used).await.expect(303);
        let signed_in = browser.cookie.clone();

        let code = next_code(&app, &officer);
        let wrong_code = if code == "000000" { "000001" } else { "000000" };
        let answers = [
            stranger.sign_in(NAME, "another horse battery", &code).await,
            stranger.sign_in(NAME, OWN_PASSWORD, wrong_code).await,
            stranger.sign_in(NAME, OWN_PASSWORD, "").await,
            // Taken before, and still within its time.
            stranger.sign_in(NAME, OWN_PASSWORD, &used).await,
            stranger.sign_in("nobody@example.org", OWN_PASSWORD, &code).await,
        ];
        for (number, answer) in answers.iter().enumerate() {
            let answer = answer.clone().expect(403);
            assert_eq!(answer.text, answers[0].text, "attempt {number}");
            assert!(answer.header("set-cookie").is_none());
            assert!(answer.text.contains(r#"role="alert""#));
        }
        browser.sign_in(NAME, OWN_PASSWORD, &code).await.expect(303);
        assert_ne!(browser.cookie, signed_in, "every sign-in is a session of its own");
        let stale = Browser { cookie: signed_in, ..browser.clone() };
        assert!(stale.is_signed_in().await && browser.is_signed_in().await);

        // The log says so of whoever is meant, and knows nothing of a name that nobody has.
        let failed = app.databases.count(&app.databases.main, "audit_events", "action = 'officer.sign_in_failed'");
        assert_eq!(failed, 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_often_waits_longer_and_longer_whether_or_not_anybody_has_the_name() {
    each_database(|app| async move {
        let (officer, _) = officer(&app).await;
        let mut stranger = Browser::new(&app);
        for name in [NAME, "nobody@example.org"] {
            let mut waits = Vec::new();
            for _ in 0..5 {
                stranger.sign_in(name, "wrong", "123456").await.expect(403);
            }
            for _ in 0..8 {
                stranger.sign_in(name, "wrong", "123456").await.expect(403);
                let blocked = stranger.sign_in(name, OWN_PASSWORD, "123456").await.expect(429);
                let seconds: i64 = blocked.header("retry-after").unwrap().parse().unwrap();
                waits.push(seconds - 1);
                app.clock.advance(Duration::seconds(seconds));
            }
            assert_eq!(waits, [30, 60, 120, 240, 480, 900, 900, 900], "{name}");
        }

        // Right or wrong makes no difference meanwhile, and another process counts on.
        stranger.sign_in(NAME, "wrong", "123456").await.expect(403);
        let twin = app.twin(&[]).await;
        let mut elsewhere = Browser { client: stranger.client.at(twin.address.port()), cookie: None };
        let code = officer.authenticator.code(app.clock.now());
        elsewhere.sign_in(NAME, OWN_PASSWORD, &code).await.expect(429);
        app.clock.advance(Duration::minutes(16));
        let code = officer.authenticator.code(app.clock.now());
        elsewhere.sign_in(NAME, OWN_PASSWORD, &code).await.expect(303);
        // A success makes everything good.
        stranger.sign_in(NAME, "wrong", "123456").await.expect(403);
        stranger.sign_in(NAME, "wrong", "123456").await.expect(403);
        twin.stop(std::time::Duration::ZERO).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_nobody_uses_it_and_in_any_case_after_eight_hours() {
    each_database(|app| async move {
        let (officer, browser) = officer(&app).await;
        app.clock.advance(Duration::minutes(14));
        assert!(browser.is_signed_in().await);
        app.clock.advance(Duration::minutes(14));
        assert!(browser.is_signed_in().await, "used in between");
        app.clock.advance(Duration::minutes(15));
        assert!(!browser.is_signed_in().await);

        let mut again = Browser::new(&app);
        let code = next_code(&app, &officer);
        again.sign_in(NAME, OWN_PASSWORD, &code).await.expect(303);
        assert_eq!(app.databases.count(&app.databases.main, "officer_sessions", "1 = 1"), 1, "what is over is removed");
        for _ in 0..47 {
            app.clock.advance(Duration::minutes(10));
            assert!(again.is_signed_in().await);
        }
        app.clock.advance(Duration::minutes(10));
        assert!(!again.is_signed_in().await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_disabled_or_reset_is_out_at_once_in_every_process() {
    each_database(|app| async move {
        let (officer, browser) = officer(&app).await;
        let accounts = app.running.flows().officer_accounts();
        let twin = app.twin(&[]).await;
        let elsewhere = Browser { client: browser.client.at(twin.address.port()), ..browser.clone() };
        assert!(elsewhere.is_signed_in().await);

        accounts.disable(tenant(&app), NAME, app.clock.now()).await.unwrap();
        assert!(!browser.is_signed_in().await && !elsewhere.is_signed_in().await);
        let (mut again, code) = (Browser::new(&app), next_code(&app, &officer));
        again.sign_in(NAME, OWN_PASSWORD, &code).await.expect(403);

        let fresh = accounts.reset(tenant(&app), NAME, app.clock.now()).await.unwrap();
        assert_eq!(fresh.officer, officer.officer);
        let code = next_code(&app, &officer);
        again.sign_in(NAME, fresh.password.expose_text(), &code).await.expect(403);
        let code = next_code(&app, &fresh);
        again.sign_in(NAME, OWN_PASSWORD, &code).await.expect(403);
        let code = next_code(&app, &fresh);
        again.sign_in(NAME, fresh.password.expose_text(), &code).await.expect(303);
        accounts.reset(tenant(&app), NAME, app.clock.now()).await.unwrap();
        again.get("/console/password").await.expect(303);

        // What was handed out and not used in a week opens nothing.
        let late = accounts.reset(tenant(&app), NAME, app.clock.now()).await.unwrap();
        app.clock.advance(Duration::days(7));
        let code = next_code(&app, &late);
        again.sign_in(NAME, late.password.expose_text(), &code).await.expect(403);

        // Another tenant's operator finds nobody of this name.
        let other = clients::create_tenant(app.running.flows(), "another").await.unwrap();
        assert!(accounts.disable(other, NAME, app.clock.now()).await.is_err());
        assert!(accounts.reset(other, NAME, app.clock.now()).await.is_err());
        assert!(accounts.add(other, "A.MEYER@example.org", app.clock.now()).await.is_err(), "one name, one account");
        assert!(accounts.list(other).await.unwrap().is_empty());
        let listed = accounts.list(tenant(&app)).await.unwrap();
        assert_eq!((listed.len(), listed[0].name.as_deref()), (1, Some(NAME)));
        twin.stop(std::time::Duration::ZERO).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_not_ours_does_nothing() {
    let app = TestApp::start().await;
    let (officer, browser) = officer(&app).await;
    add(&app, "b.schulz").await;
    let hidden = hidden_fields(&browser.get("/console/password").await.expect(200).text);
    let (csrf, form) = (hidden[0].1.as_str(), hidden[1].1.as_str());
    assert_eq!((hidden[0].0.as_str(), hidden[1].0.as_str()), ("csrf", "form"));

    // The token of another session, of the same officer.
    let (mut other, code) = (Browser::new(&app), next_code(&app, &officer));
    other.sign_in(NAME, OWN_PASSWORD, &code).await.expect(303);
    let foreign = hidden_fields(&other.get("/console").await.expect(200).text)[0].1.clone();
    assert_ne!(foreign, csrf);

    let same_origin = ("sec-fetch-site", "same-origin");
    let own_origin = format!("https://localhost:{}", app.running.address.port());
    let good = [("csrf", csrf), ("form", form)];
    type Pairs<'a> = &'a [(&'a str, &'a str)];
    let forged: [(Pairs, Pairs); 11] = [
        (&[same_origin], &[]),
        (&[same_origin], &[("form", form)]),
        (&[same_origin], &[("csrf", csrf)]),
        (&[same_origin], &[("csrf", ""), ("form", form)]),
        (&[same_origin], &[("csrf", &foreign), ("form", form)]),
        (&[same_origin], &[("csrf", csrf), ("form", "frm_1")]),
        (&[("sec-fetch-site", "cross-site")], &good),
        (&[("sec-fetch-site", "same-site"), ("origin", &own_origin)], &good),
        (&[("origin", "https://evil.example")], &good),
        (&[("origin", "null")], &good),
        (&[], &good),
    ];
    for (headers, fields) in forged {
        let refused = browser.send(Method::POST, "/console/sign-out", headers, fields).await.expect(403);
        assert!(refused.text.contains("<h1>Refused</h1>"), "{headers:?} {fields:?}: {}", refused.text);
        assert!(browser.is_signed_in().await, "{headers:?} {fields:?}");
    }
    let code = next_code(&app, &officer);
    let entry = [("name", NAME), ("password", OWN_PASSWORD), ("code", code.as_str())];
    let elsewhere = [("sec-fetch-site", "cross-site")];
    let planted = Browser::new(&app).send(Method::POST, "/console/sign-in", &elsewhere, &entry).await.expect(403);
    assert!(planted.header("set-cookie").is_none());

    // A browser of before 2023, which says the origin alone.
    let old = browser.send(Method::POST, "/console/sign-out", &[("origin", &own_origin)], &good).await;
    old.expect(303);
    assert!(!browser.is_signed_in().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_ones_own_is_a_good_one() {
    let app = TestApp::start().await;
    let (officer, mut browser) = (add(&app, NAME).await, Browser::new(&app));
    let (handed_out, code) = (officer.password.expose_text(), next_code(&app, &officer));
    browser.sign_in(NAME, handed_out, &code).await.expect(303);
    for (new, why) in [
        ("short", "has fewer than 12 characters"),
        ("Password1234!", "is one of those that are tried first"),
        ("velum console 2026", "is one of those that are tried first"),
        ("I am a.meyer today", "contains your name"),
        (handed_out, "is the one you have"),
    ] {
        let refused = browser.change_password(handed_out, new).await.expect(422);
        assert!(refused.text.contains(why), "{new}: {}", refused.text);
        assert!(!refused.text.contains(handed_out), "no page shows a password");
    }
    let fields = [("present", handed_out), ("new", OWN_PASSWORD), ("again", "correct horse batterY")];
    browser.submit("/console/password", "/console/password", &fields).await.expect(422);
    browser.change_password("not the present one", OWN_PASSWORD).await.expect(403);
    assert_eq!(browser.get("/console").await.expect(303).header("location"), Some("/console/password"));
    browser.change_password(handed_out, OWN_PASSWORD).await.expect(303);
    assert!(browser.is_signed_in().await);

    // Whoever found the page open learns no password by trying.
    for _ in 0..6 {
        browser.change_password("not the present one", "another good password").await.expect(403);
    }
    browser.change_password(OWN_PASSWORD, "another good password").await.expect(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_held_to_what_our_pages_need() {
    let app = TestApp::start().await;
    let (_, officer) = officer(&app).await;
    let stranger = Browser::new(&app);
    let source = include_str!("../../src/console/mod.rs");
    let routed: BTreeSet<_> = source.split(r#".route(""#).skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    for route in &routed {
        let listed = console::PATHS.contains(route) || *route == "/assets/{name}";
        assert!(listed, "console::PATHS lacks {route}");
    }
    // No id is of this form: what is asked about does not exist.
    let filled = |path: &str| path.replace(['{', '}'], "");
    let paths = console::PATHS.iter().map(|path| format!("/console{}", filled(path)));
    for path in paths.chain(["/console/nowhere".to_owned(), "/console/assets/nothing.js".to_owned()]) {
        for (browser, method) in [(&stranger, Method::GET), (&officer, Method::GET), (&officer, Method::POST)] {
            let answer = browser.send(method.clone(), &path, &[], &[]).await;
            let case = format!("{method} {path}: {}", answer.status);
            let policy = answer.header("content-security-policy").expect(&case);
            for part in [
                "default-src 'none'",
                "style-src 'self'",
                "script-src 'self'",
                "img-src 'self' data:",
                "form-action 'self'",
                "frame-ancestors 'none'",
                "base-uri 'none'",
            ] {
                assert!(policy.split("; ").any(|stated| stated.trim() == part), "{case}: {part} in {policy}");
            }
            assert!(!policy.contains("unsafe"), "{case}");
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "same-origin"),
                ("cross-origin-opener-policy", "same-origin"),
                ("cross-origin-resource-policy", "same-origin"),
            ] {
                assert_eq!(answer.header(name), Some(value), "{case}");
            }
            let is_asset = path.starts_with("/console/assets/") && answer.status == 200;
            let kept = if is_asset { "private, max-age=300" } else { "no-store" };
            assert_eq!(answer.header("cache-control"), Some(kept), "{case}");
            let is_page = answer.header("content-type") == Some("text/html; charset=utf-8");
            if !is_page {
                assert!(answer.status.is_success() || answer.status == 303, "an error is a page: {case}");
                continue;
            }
            is_a_plain_page(&answer.text, &case);
        }
    }
    assert!(officer.is_signed_in().await);
    for unknown in ["/console/nowhere", "/console/assets/nothing.js"] {
        assert!(stranger.get(unknown).await.expect(404).text.contains("<h1>Not found</h1>"));
    }
}

/// No script and no style inside it, one main heading, a language, a title, and labels for what is filled in.
fn is_a_plain_page(page: &str, case: &str) {
    assert!(page.starts_with("<!doctype html>") && page.contains(r#"<html lang="en">"#), "{case}");
    assert_eq!(page.matches("<h1").count(), 1, "{case}");
    assert_eq!(page.matches("<main").count(), 1, "{case}");
    assert!(page.contains("<title>") && page.contains(r##"href="#main""##), "{case}");
    for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        let name = tag.split([' ', '\n']).next().unwrap().to_ascii_lowercase();
        assert_ne!(name, "style", "{case}");
        assert!(name != "script" || tag.contains(r#" src="/console/assets/"#), "{case}: {tag}");
        let attributes = tag.split_ascii_whitespace().skip(1);
        for attribute in attributes {
            let name = attribute.split_once('=').map(|(name, _)| name);
            let runs = name.is_some_and(|name| name == "style" || name.starts_with("on"));
            assert!(!runs, "{case}: <{tag}>");
        }
        let filled_in = ["input", "select", "textarea"].contains(&name.as_str()) && !tag.contains(r#"type="hidden""#);
        if filled_in {
            let id = tag.split(r#" id=""#).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            assert!(page.contains(&format!(r#"<label for="{id}""#)), "{case}: <{tag}>");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_shown_as_text_whatever_it_says() {
    let app = TestApp::start().await;
    let name = r#"<script>alert(1)</script>"O'Hara"#;
    let (officer, mut browser) = (add(&app, name).await, Browser::new(&app));
    let code = next_code(&app, &officer);
    browser.sign_in(name, officer.password.expose_text(), &code).await.expect(303);
    let page = browser.get("/console/password").await.expect(200);
    is_a_plain_page(&page.text, "a strange name");
    assert!(page.text.contains("&#60;script&#62;alert(1)"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_a_page_says_so() {
    if !Kind::Postgres.is_here() {
        return;
    }
    let app = TestApp::spawn(Kind::Postgres, &[]).await;
    let (officer, browser) = officer(&app).await;
    app.databases.take_main_away();
    let away = browser.get("/console").await.expect(503);
    assert!(away.text.contains("<h1>Not available now</h1>") && away.text.contains("The database is away."));
    assert!(away.header("retry-after").is_some());
    let (mut stranger, code) = (Browser::new(&app), next_code(&app, &officer));
    stranger.sign_in(NAME, OWN_PASSWORD, &code).await.expect(503);
    app.databases.bring_main_back();
    // What could not be looked at was not counted either, and the session stands.
    stranger.sign_in(NAME, OWN_PASSWORD, &code).await.expect(303);
    assert!(browser.is_signed_in().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_asks_too_often_is_shown_a_page() {
    let app = TestApp::spawn(Kind::Sqlite, &[("RATE_ADDRESS", "45")]).await;
    let mut browser = Browser::new(&app);
    // Each failure costs as much as twenty requests.
    browser.sign_in("nobody", "wrong", "123456").await.expect(403);
    browser.sign_in("nobody", "wrong", "123456").await.expect(403);
    let mut answer = browser.get("/console/sign-in").await;
    for _ in 0..200 {
        if answer.status == 429 {
            break;
        }
        answer = browser.get("/console/sign-in").await;
    }
    let refused = answer.expect(429);
    assert!(refused.text.contains("<h1>Too often</h1>") && refused.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_makes_accounts_on_the_host() {
    let app = TestApp::start().await;
    let officers = |arguments: &[&str]| {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut program = Command::new(env!("CARGO_BIN_EXE_velum"));
        program.arg("officers").args(arguments).env("VELUM_DATA_DIR", app.data_dir.path());
        let output = app.databases.are_of(&mut program).env("VELUM_ONNXRUNTIME", onnxruntime(root)).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (tenant, name) = (tenant(&app).to_string(), "c.nagy");
    let (good, told, errors) = officers(&["add", "--tenant", "development", name]);
    assert!(good, "{errors}");
    assert!(told.contains("otpauth://totp/Velum:c.nagy?") && told.contains('█'), "{told}");
    let (good, told, _) = officers(&["list", "--tenant", &tenant]);
    assert!(good && told.contains("invited") && told.contains(name), "{told}");
    let (good, _, errors) = officers(&["add", "--tenant", "development", "C.Nagy"]);
    assert!(!good && errors.contains("another officer of this installation signs in as C.Nagy"), "{errors}");

    let (good, told, errors) = officers(&["reset", "--tenant", "development", name, "--json"]);
    assert!(good, "{errors}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["officer"].as_str().unwrap().parse::<OfficerId>().is_ok());
    let accounts = app.running.flows().officer_accounts();
    let listed = accounts.list(tenant.parse().unwrap()).await.unwrap();
    assert!(listed[0].password_until.is_some() && listed[0].disabled_at.is_none());

    let (good, ..) = officers(&["disable", "--tenant", "development", name]);
    assert!(good && officers(&["list"]).1.contains("disabled"));
    let (good, _, errors) = officers(&["disable", "--tenant", "development", "nobody"]);
    assert!(!good && errors.contains("the tenant has no officer nobody"), "{errors}");
    let (good, _, errors) = officers(&["add", "--tenant", "nowhere", "d.ruiz"]);
    assert!(!good && errors.contains("there is no tenant nowhere"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_may_read_how_long_what_is_kept() {
    let app = TestApp::spawn(Kind::Sqlite, &[("RETENTION_VERIFICATIONS_DAYS", "90")]).await;
    let stranger = app.stranger();
    let page = stranger.get("/policies/retention").await.expect(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    let text = page.text.replace("&#39;", "'");
    assert!(text.contains("90 days"), "{text}");
    let schedule = stranger.get("/v1/policies/retention").await.expect(200).json();
    for record in schedule["records"].as_array().unwrap() {
        assert!(text.contains(record["counted_from"].as_str().unwrap()), "{record}");
    }
}
