use std::{io::ErrorKind, process::Command};

use super::helpers::TestApp;

/// The committed document is the one that this program serves. To renew it: VELUM_UPDATE=1 cargo test --test api
#[test]
fn the_committed_openapi_document_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let current = velum::http::openapi::document_json();
    if std::env::var_os("VELUM_UPDATE").is_some() {
        std::fs::write(&path, current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == current, "docs/openapi.json is out of date; renew it with VELUM_UPDATE=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docs_page_is_served_from_inside_and_asks_nobody_else() {
    let app = TestApp::start().await;
    let stranger = app.stranger();
    let redirect = stranger.get("/docs").await.expect(308);
    assert_eq!(redirect.header("location"), Some("/docs/"));
    let page = stranger.get("/docs/").await.expect(200);
    assert!(page.header("content-security-policy").unwrap().contains("script-src 'self'"));
    assert!(!page.text.contains("<script>"), "a script in the page itself would be stopped by our own policy");
    let assets: Vec<&str> =
        page.text.split(['"', '\'']).filter(|part| part.ends_with(".js") || part.ends_with(".css")).collect();
    assert!(assets.len() >= 3, "{}", page.text);
    for asset in assets {
        assert!(!asset.starts_with("http") && !asset.starts_with("//"), "{asset} comes from elsewhere");
        let asset = asset.trim_start_matches("./");
        stranger.get(&format!("/docs/{asset}")).await.expect(200);
    }
    let initializer = stranger.get("/docs/swagger-initializer.js").await.expect(200);
    assert!(initializer.text.contains("/openapi.json"));
    stranger.get("/docs/nowhere.js").await.expect_problem(404, "not_found");
    let document = stranger.get("/openapi.json").await.expect(200).json();
    assert_eq!(document["openapi"], "3.1.0");
}

/// What our own policy would stop (an inline script, an asset from elsewhere) shows only where a browser runs the page.
#[tokio::test(flavor = "multi_thread")]
async fn the_docs_page_works_in_a_real_browser() {
    let app = TestApp::start().await;
    let profile = tempfile::tempdir().unwrap();
    let page = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--no-first-run"])
        .arg("--disable-dev-shm-usage") // which a container has little of
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=20000", "--timeout=60000", "--dump-dom"])
        .arg(format!("https://localhost:{}/docs/", app.running.address.port()))
        .output();
    let page = match page {
        Ok(page) => String::from_utf8_lossy(&page.stdout).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return eprintln!("skipped: no chromium here; scripts/setup.sh --tests installs it");
        }
        Err(error) => panic!("{error}"),
    };
    for path in ["/oauth/token", "/v1/subjects/{subject}/enrolments", "/v1/subjects/{subject}/verifications"] {
        assert!(page.contains(&format!("data-path=\"{path}\"")), "{path} is not on the page: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_without_a_token() {
    let app = TestApp::start().await;
    let stranger = app.stranger();
    for path in ["/livez", "/readyz", "/startupz", "/health"] {
        assert_eq!(stranger.get(path).await.expect(200).json()["status"], "ok", "{path}");
    }
    let checks = stranger.get("/readyz").await.json()["checks"].clone();
    let names: Vec<_> = checks.as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["store", "keystore", "erasure_ledger", "keyholder"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_and_the_metadata_of_the_token_endpoint_are_public() {
    let app = TestApp::start().await;
    let stranger = app.stranger();
    let keys = stranger.get("/.well-known/jwks.json").await.expect(200).json();
    let key = &keys["keys"][0];
    assert_eq!((&key["kty"], &key["alg"], &key["use"]), (&"RSA".into(), &"RS256".into(), &"sig".into()));
    assert!(key["kid"].is_string() && key.get("d").is_none());
    let evidence = stranger.get("/.well-known/evidence-jwks.json").await.expect(200).json();
    assert!(evidence["keys"][0].get("d").is_none());
    assert_ne!(evidence["keys"][0]["kid"], key["kid"], "evidence has keys of its own");
    let metadata = stranger.get("/.well-known/oauth-authorization-server").await.expect(200).json();
    let issuer = metadata["issuer"].as_str().unwrap();
    assert_eq!(metadata["token_endpoint"], format!("{issuer}/oauth/token"));
    assert_eq!(metadata["grant_types_supported"][0], "client_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_in_use_states_its_rates() {
    let app = TestApp::start().await;
    let models = app.client().await.get("/v1/models").await.expect(200).json();
    let model = &models["data"][0];
    let rates: Vec<_> = model["thresholds"].as_array().unwrap().iter().map(|one| &one["false_match_rate"]).collect();
    assert_eq!(rates, ["1e-2", "1e-3", "1e-4"]);
    assert_eq!(model["thresholds"].as_array().unwrap().iter().filter(|one| one["is_default"] == true).count(), 1);
}
