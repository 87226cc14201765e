//! A token is accepted where we signed it and its claims hold, and nowhere else; an assertion likewise.
//!
//! The first byte says what the rest is: a whole token, or a header and claims that get a good signature, which no mutation
//! would find by itself.
#![no_main]

use std::sync::{Arc, LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use time::{OffsetDateTime, macros::datetime};
use velum::{
    auth::{
        assertion::{self, AssertionKey},
        jwt::{SigningKey, SigningKeys, TokenConfig, TokenLifetime, Tokens},
    },
    domain::{clock::ManualClock, id::ClientId},
};

const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);
const LEEWAY_S: i64 = 10;
const ISSUER: &str = "https://velum.example";
const PRIVATE: &str = include_str!("../../tests/fixtures/keys/test_only_rsa_2048_one.pem");
const PUBLIC: &str = include_str!("../../tests/fixtures/keys/test_only_rsa_2048_one.public.pem");

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let config = TokenConfig {
        issuer: ISSUER.to_owned(),
        audience: "velum".to_owned(),
        lifetime: TokenLifetime::DEFAULT,
        leeway: TokenConfig::LEEWAY_DEFAULT,
    };
    let key = SigningKey::from_pem(PRIVATE).expect("a test key");
    Tokens::new(SigningKeys::single(key), config, Arc::new(ManualClock::at(NOW)))
});
static ASSERTION_KEY: LazyLock<AssertionKey> = LazyLock::new(|| AssertionKey::from_pem(PUBLIC).expect("a test key"));

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match mode {
        b'=' => whole(text),
        _ => {
            let Some((header, claims)) = text.split_once('\n') else { return };
            good_signature(header, claims);
        }
    }
});

/// No text gets a good signature by mutation: what is accepted here, we have signed and put into the corpus.
fn whole(text: &str) {
    if TOKENS.verify(text).is_ok() {
        let (message, _) = text.rsplit_once('.').expect("three parts");
        assert_eq!(text, format!("{message}.{}", signature(message)), "RS256 signs in one way only");
    }
    let _refused = assertion::claimed_client(text).map(|client| verify_assertion(text, client));
}

fn good_signature(header: &str, claims: &str) {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let token = format!("{message}.{}", signature(&message));
    let (header, claims) = (json(header), json(claims));
    if let Ok(verified) = TOKENS.verify(&token) {
        assert_eq!((&header["alg"], &header["typ"]), (&"RS256".into(), &"at+jwt".into()));
        assert_eq!(claims["iss"], ISSUER);
        let audience = &claims["aud"];
        assert!(audience == "velum" || audience.as_array().is_some_and(|all| all.contains(&"velum".into())));
        let now = NOW.unix_timestamp();
        assert!(claims["exp"].as_i64().is_some_and(|exp| exp > now - LEEWAY_S));
        assert!(claims["nbf"].as_i64().is_some_and(|nbf| nbf <= now + LEEWAY_S));
        assert_eq!(claims["sub"], verified.principal.client.to_string());
    }
    if let Ok(client) = assertion::claimed_client(&token) {
        if verify_assertion(&token, client) {
            assert_eq!(header["alg"], "RS256");
            assert_eq!((&claims["iss"], &claims["sub"]), (&client.to_string().into(), &client.to_string().into()));
            let ahead = claims["exp"].as_f64().expect("a time") - NOW.unix_timestamp() as f64;
            assert!((-10.0..=311.0).contains(&ahead), "{ahead}");
        }
    }
}

fn verify_assertion(text: &str, client: ClientId) -> bool {
    ASSERTION_KEY.verify(text, client, &[ISSUER, "https://velum.example/oauth/token"], NOW).is_ok()
}

fn signature(message: &str) -> String {
    static KEY: LazyLock<EncodingKey> =
        LazyLock::new(|| EncodingKey::from_rsa_pem(PRIVATE.as_bytes()).expect("a test key"));
    jsonwebtoken::crypto::sign(message.as_bytes(), &KEY, Algorithm::RS256).expect("a signature")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
