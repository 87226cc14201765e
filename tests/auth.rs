//! Access tokens as a stranger would attack them: every rule of verification has a token that breaks only that rule.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use sha2::Sha256;
use time::{Duration, OffsetDateTime, macros::datetime};
use velum::{
    auth::{
        Principal, Scope, Scopes,
        jwt::{
            AccessToken, DatedKey, SigningKey, SigningKeyError, SigningKeys, TokenConfig, TokenError, TokenLifetime,
            Tokens,
        },
    },
    domain::{
        clock::ManualClock,
        id::{ClientId, TenantId},
    },
};

const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);

/// Used by these tests and nothing else.
const KEYS: [&str; 2] = [
    include_str!("fixtures/keys/test_only_rsa_2048_one.pem"),
    include_str!("fixtures/keys/test_only_rsa_2048_two.pem"),
];

fn key(index: usize) -> SigningKey {
    SigningKey::from_pem(KEYS[index]).unwrap()
}

/// Keys that sign from these moments on.
fn keys(dated: &[(usize, OffsetDateTime)]) -> SigningKeys {
    let dated = dated.iter().map(|&(index, signs_from)| DatedKey { signs_from, key: key(index) });
    SigningKeys::new(dated.collect()).unwrap()
}

fn config() -> TokenConfig {
    TokenConfig {
        issuer: "https://velum.example".to_owned(),
        audience: "velum".to_owned(),
        lifetime: TokenLifetime::DEFAULT,
        leeway: TokenConfig::LEEWAY_DEFAULT,
    }
}

fn service() -> (Tokens, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(NOW));
    (Tokens::new(SigningKeys::single(key(0)), config(), clock.clone()), clock)
}

fn principal() -> Principal {
    Principal { tenant: TenantId::generate(), client: ClientId::generate(), scopes: Scopes::client_app() }
}

/// The header and claims of a good token, to be spoilt one at a time.
fn good() -> (Header, Value) {
    let header =
        Header { typ: Some("at+jwt".to_owned()), kid: Some(key(0).kid().to_owned()), ..Header::new(Algorithm::RS256) };
    let client = ClientId::generate().to_string();
    let now = NOW.unix_timestamp();
    let claims = json!({
        "iss": "https://velum.example", "aud": "velum", "sub": client, "client_id": client,
        "tenant": TenantId::generate().to_string(), "scope": "subjects faces:verify",
        "iat": now, "nbf": now, "exp": now + 600, "jti": "0192f3a0b1c27d3e8f405162738495a6",
    });
    (header, claims)
}

fn sign(header: &Header, claims: &Value) -> String {
    encode(header, claims, &EncodingKey::from_rsa_pem(KEYS[0].as_bytes()).unwrap()).unwrap()
}

fn verdict(token: &str) -> Result<(), TokenError> {
    service().0.verify(token).map(|_| ())
}

fn verdict_with(claim: &str, value: Value) -> Result<(), TokenError> {
    let (header, mut claims) = good();
    claims[claim] = value;
    verdict(&sign(&header, &claims))
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

#[test]
fn an_issued_token_verifies_and_says_who_may_do_what() {
    let (tokens, _) = service();
    let principal = principal();
    let issued = tokens.issue(&principal).unwrap();
    let verified = tokens.verify(issued.token.expose_text()).unwrap();
    assert_eq!(verified.principal, principal);
    assert!(verified.principal.scopes.contains(Scope::FacesVerify));
    assert!(!verified.principal.scopes.contains(Scope::Admin));
    assert_eq!(verified.expires_at - verified.issued_at, 600);
    assert!(!verified.token_id.is_empty());
}

#[test]
fn two_tokens_of_one_client_have_different_ids() {
    let (tokens, _) = service();
    let principal = principal();
    let id = || tokens.verify(tokens.issue(&principal).unwrap().token.expose_text()).unwrap().token_id;
    assert_ne!(id(), id());
}

#[test]
fn the_hand_made_good_token_is_good() {
    let (header, claims) = good();
    assert_eq!(verdict(&sign(&header, &claims)), Ok(()));
}

#[test]
fn algorithm_none_is_refused() {
    let (_, claims) = good();
    for name in ["none", "None", "NONE", ""] {
        let header = json!({ "alg": name, "typ": "at+jwt", "kid": key(0).kid() });
        for signature in ["", "AAAA"] {
            let token = format!("{}.{}.{signature}", part(&header), part(&claims));
            assert_eq!(verdict(&token), Err(TokenError::Malformed), "{name:?}");
        }
    }
}

#[test]
fn hs256_with_the_public_key_as_its_secret_is_refused() {
    let (_, claims) = good();
    let jwk = &service().0.jwks().keys[0];
    let header = json!({ "alg": "HS256", "typ": "at+jwt", "kid": jwk.kid });
    let message = format!("{}.{}", part(&header), part(&claims));
    for secret in [jwk.n.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(&jwk.n).unwrap(), KEYS[0].as_bytes().to_vec()] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        mac.update(message.as_bytes());
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
        assert_eq!(verdict(&token), Err(TokenError::WrongAlgorithm));
    }
}

#[test]
fn other_rsa_algorithms_are_refused_even_under_our_key() {
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let (header, claims) = good();
        let token = sign(&Header { alg: algorithm, ..header }, &claims);
        assert_eq!(verdict(&token), Err(TokenError::WrongAlgorithm));
    }
}

#[test]
fn a_token_of_another_type_is_refused() {
    for kind in [None, Some("JWT"), Some("receipt+jwt"), Some("AT+JWT ")] {
        let (header, claims) = good();
        let token = sign(&Header { typ: kind.map(str::to_owned), ..header }, &claims);
        assert_eq!(verdict(&token), Err(TokenError::WrongType), "{kind:?}");
    }
}

#[test]
fn an_unknown_or_missing_key_id_is_refused() {
    for kid in [None, Some(""), Some("../../jwt_signing.pem"), Some(key(1).kid())] {
        let (header, claims) = good();
        let token = sign(&Header { kid: kid.map(str::to_owned), ..header }, &claims);
        assert_eq!(verdict(&token), Err(TokenError::UnknownKey), "{kid:?}");
    }
}

#[test]
fn a_signature_by_another_key_under_our_key_id_is_refused() {
    let (header, claims) = good();
    let token = encode(&header, &claims, &EncodingKey::from_rsa_pem(KEYS[1].as_bytes()).unwrap()).unwrap();
    assert_eq!(verdict(&token), Err(TokenError::WrongSignature));
}

#[test]
fn a_key_carried_inside_the_token_is_never_used() {
    let (header, claims) = good();
    let attacker = EncodingKey::from_rsa_pem(KEYS[1].as_bytes()).unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&attacker, Algorithm::RS256).unwrap();
    let header = Header { jwk: Some(jwk), jku: Some("https://attacker.example/jwks.json".to_owned()), ..header };
    let token = encode(&header, &claims, &attacker).unwrap();
    assert_eq!(verdict(&token), Err(TokenError::WrongSignature));
}

#[test]
fn a_critical_extension_that_is_not_understood_is_refused() {
    let (header, claims) = good();
    let token = sign(&Header { crit: Some(vec!["b64".to_owned()]), ..header }, &claims);
    assert_eq!(verdict(&token), Err(TokenError::Malformed));
}

#[test]
fn every_single_changed_character_is_noticed() {
    let (header, claims) = good();
    let token = sign(&header, &claims);
    let (tokens, _) = service();
    for position in (0..token.len()).step_by(7) {
        let mut bytes = token.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        let spoilt = String::from_utf8(bytes).unwrap();
        assert!(tokens.verify(&spoilt).is_err(), "position {position}");
    }
}

#[test]
fn claims_moved_under_another_tokens_signature_are_refused() {
    let (header, claims) = good();
    let honest = sign(&header, &claims);
    let mut wider = claims;
    wider["scope"] = json!("admin");
    let parts: Vec<&str> = honest.split('.').collect();
    assert_eq!(verdict(&format!("{}.{}.{}", parts[0], part(&wider), parts[2])), Err(TokenError::WrongSignature));
}

#[test]
fn another_issuer_is_refused() {
    assert_eq!(verdict_with("iss", json!("https://velum.example/")), Err(TokenError::WrongIssuer));
    assert_eq!(verdict_with("iss", json!("https://attacker.example")), Err(TokenError::WrongIssuer));
}

#[test]
fn another_audience_is_refused() {
    assert_eq!(verdict_with("aud", json!("billing")), Err(TokenError::WrongAudience));
    assert_eq!(verdict_with("aud", json!("")), Err(TokenError::WrongAudience));
    assert!(verdict_with("aud", json!([])).is_err());
}

#[test]
fn a_token_ends_at_its_expiry_plus_the_leeway_to_the_second() {
    let (tokens, clock) = service();
    let issued = tokens.issue(&principal()).unwrap();
    clock.advance(Duration::seconds(609));
    assert!(tokens.verify(issued.token.expose_text()).is_ok());
    clock.advance(Duration::seconds(1));
    assert_eq!(tokens.verify(issued.token.expose_text()), Err(TokenError::Expired));
}

#[test]
fn a_token_from_the_future_is_not_valid_yet() {
    let later = NOW.unix_timestamp() + 10;
    assert_eq!(verdict_with("nbf", json!(later)), Ok(()));
    assert_eq!(verdict_with("nbf", json!(later + 1)), Err(TokenError::NotYetValid));
    assert_eq!(verdict_with("nbf", json!(i64::MAX)), Err(TokenError::NotYetValid));
}

#[test]
fn extreme_times_do_not_wrap_around() {
    assert_eq!(verdict_with("exp", json!(i64::MIN)), Err(TokenError::UnreadableClaims));
    assert_eq!(verdict_with("exp", json!(0)), Err(TokenError::Expired));
    assert_eq!(verdict_with("exp", json!(i64::MAX)), Ok(()));
    assert_eq!(verdict_with("exp", json!(1e300)), Err(TokenError::UnreadableClaims));
    assert_eq!(verdict_with("exp", json!("2099-01-01")), Err(TokenError::UnreadableClaims));
}

#[test]
fn every_claim_is_required_and_has_one_type() {
    for claim in ["iss", "aud", "sub", "client_id", "tenant", "scope", "iat", "nbf", "exp", "jti"] {
        let (header, mut claims) = good();
        claims.as_object_mut().unwrap().remove(claim);
        assert_eq!(verdict(&sign(&header, &claims)), Err(TokenError::UnreadableClaims), "{claim} left out");
        assert!(verdict_with(claim, Value::Null).is_err(), "{claim} null");
        assert!(verdict_with(claim, json!({})).is_err(), "{claim} an object");
    }
}

#[test]
fn a_claim_that_appears_twice_is_refused() {
    let (header, claims) = good();
    let text = claims.to_string().replacen("\"scope\":", "\"scope\":\"admin\",\"scope\":", 1);
    let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).unwrap());
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(text));
    let key = EncodingKey::from_rsa_pem(KEYS[0].as_bytes()).unwrap();
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::RS256).unwrap();
    assert_eq!(verdict(&format!("{message}.{signature}")), Err(TokenError::UnreadableClaims));
}

#[test]
fn unreadable_identities_are_refused() {
    assert_eq!(verdict_with("tenant", json!("ten_1")), Err(TokenError::UnreadableClaims));
    assert_eq!(verdict_with("sub", json!(ClientId::generate().to_string())), Err(TokenError::UnreadableClaims));
    assert_eq!(verdict_with("scope", json!("everything")), Err(TokenError::UnreadableClaims));
    assert_eq!(verdict_with("jti", json!("")), Err(TokenError::UnreadableClaims));
}

#[test]
fn what_is_not_a_token_is_refused() {
    let huge = "a".repeat(1 << 20);
    for text in ["", ".", "..", "...", "a.b.c", "Bearer x", "\0", "é.é.é", &huge] {
        assert_eq!(verdict(text), Err(TokenError::Malformed), "{} bytes", text.len());
    }
}

#[test]
fn a_rotation_is_known_before_it_signs_and_remembered_after() {
    let clock = Arc::new(ManualClock::at(NOW));
    let tokens = Tokens::new(SigningKeys::single(key(0)), config(), clock.clone());
    let verifies = |token: &str| tokens.verify(token).is_ok();
    let issue = || tokens.issue(&principal()).unwrap().token;
    let kid = |token: &AccessToken| jsonwebtoken::decode_header(token.expose_text()).unwrap().kid.unwrap();

    let old = issue();
    tokens.replace_keys(keys(&[(0, NOW), (1, NOW + Duration::minutes(5))]));
    assert_eq!(tokens.jwks().keys.len(), 2, "published before it signs");
    assert_eq!(kid(&issue()), key(0).kid());
    clock.advance(Duration::minutes(5));
    let new = issue();
    assert_eq!(kid(&new), key(1).kid());
    assert!(verifies(old.expose_text()) && verifies(new.expose_text()));

    tokens.replace_keys(keys(&[(1, NOW + Duration::minutes(5))]));
    assert_eq!(tokens.verify(old.expose_text()), Err(TokenError::UnknownKey));
    assert!(verifies(new.expose_text()));
}

#[test]
fn the_newest_key_that_has_begun_signs_and_a_first_one_need_not_have() {
    let signer = |dated: &[(usize, OffsetDateTime)]| {
        let tokens = Tokens::new(keys(dated), config(), Arc::new(ManualClock::at(NOW)));
        let token = tokens.issue(&principal()).unwrap().token;
        jsonwebtoken::decode_header(token.expose_text()).unwrap().kid.unwrap()
    };
    let hour = Duration::HOUR;
    assert_eq!(signer(&[(1, NOW - hour), (0, NOW)]), key(0).kid());
    assert_eq!(signer(&[(0, NOW), (1, NOW - hour)]), key(0).kid());
    assert_eq!(signer(&[(0, NOW - hour), (1, NOW + hour)]), key(0).kid());
    assert_eq!(signer(&[(0, NOW + hour), (1, NOW + hour * 2)]), key(0).kid());
}

#[test]
fn the_key_set_shows_public_halves_only() {
    let tokens = Tokens::new(keys(&[(0, NOW), (1, NOW)]), config(), Arc::new(ManualClock::at(NOW)));
    let document = serde_json::to_value(tokens.jwks()).unwrap();
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    for entry in keys {
        let mut members: Vec<&str> = entry.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["alg", "e", "kid", "kty", "n", "use"]);
    }
}

#[test]
fn the_key_set_is_all_a_stranger_needs_to_check_a_token() {
    let (tokens, _) = service();
    let issued = tokens.issue(&principal()).unwrap();
    let published = &tokens.jwks().keys[0];
    let public = jsonwebtoken::DecodingKey::from_rsa_components(&published.n, &published.e).unwrap();
    let mut rules = jsonwebtoken::Validation::new(Algorithm::RS256);
    rules.validate_exp = false;
    rules.set_audience(&["velum"]);
    assert!(jsonwebtoken::decode::<Value>(issued.token.expose_text(), &public, &rules).is_ok());
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    let refusal = |pem: &str| SigningKey::from_pem(pem).err().unwrap();
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bad in [
        "",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        certificate,
        include_str!("fixtures/keys/bad_rsa_1024.pem"),
        include_str!("fixtures/keys/bad_ec_p256.pem"),
        &KEYS[0][..KEYS[0].len() / 2],
    ] {
        assert_eq!(refusal(bad), SigningKeyError::NotAnRsaKey);
    }
}

#[test]
fn a_generated_key_signs_and_has_3072_bits() {
    let key = SigningKey::from_pem(&SigningKey::generate_pem()).unwrap();
    let tokens = Tokens::new(SigningKeys::single(key), config(), Arc::new(ManualClock::at(NOW)));
    let modulus = URL_SAFE_NO_PAD.decode(&tokens.jwks().keys[0].n).unwrap();
    assert_eq!(modulus.len() * 8, 3072);
    assert!(tokens.verify(tokens.issue(&principal()).unwrap().token.expose_text()).is_ok());
}

#[test]
fn a_key_keeps_its_name() {
    assert_eq!(key(0).kid(), key(0).kid());
    assert_ne!(key(0).kid(), key(1).kid());
    assert_eq!(key(0).kid().len(), 43);
}

#[test]
fn lifetimes_outside_five_to_fifteen_minutes_are_refused() {
    for seconds in [0, 299, 901, u64::MAX] {
        assert!(TokenLifetime::from_seconds(seconds).is_err());
    }
    for seconds in [300, 600, 900] {
        assert_eq!(TokenLifetime::from_seconds(seconds).unwrap().as_seconds(), seconds);
    }
}

mod assertions {
    use serde_json::json;
    use velum::auth::assertion::{Assertion, AssertionError, AssertionKey, InvalidAssertionKey, claimed_client};

    use super::*;

    const AUDIENCES: [&str; 2] = ["https://velum.example", "https://velum.example/oauth/token"];

    fn key() -> AssertionKey {
        AssertionKey::from_pem(include_str!("fixtures/keys/test_only_rsa_2048_one.public.pem")).unwrap()
    }

    fn good(client: ClientId) -> Value {
        let now = NOW.unix_timestamp();
        json!({ "iss": client.to_string(), "sub": client.to_string(), "aud": AUDIENCES[1], "jti": "one",
            "iat": now, "exp": now + 60 })
    }

    fn signed(claims: &Value, header: &jsonwebtoken::Header, pem: &str) -> String {
        let key = jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
        jsonwebtoken::encode(header, claims, &key).unwrap()
    }

    fn verdict_on(change: impl FnOnce(&mut Value)) -> Result<Assertion, AssertionError> {
        let client = ClientId::generate();
        let mut claims = good(client);
        change(&mut claims);
        let assertion = signed(&claims, &jsonwebtoken::Header::new(Algorithm::RS256), KEYS[0]);
        key().verify(&assertion, client, &AUDIENCES, NOW)
    }

    #[test]
    fn a_good_assertion_is_accepted_for_either_name_of_the_server() {
        let assertion = verdict_on(|_| ()).unwrap();
        assert_eq!(assertion.id, "one");
        assert!(assertion.expires_at > NOW);
        assert!(verdict_on(|claims| claims["aud"] = AUDIENCES[0].into()).is_ok());
        assert!(verdict_on(|claims| claims["aud"] = json!(["elsewhere", AUDIENCES[0]])).is_ok());
        // A NumericDate may have a fraction.
        assert!(verdict_on(|claims| claims["exp"] = json!(NOW.unix_timestamp() as f64 + 59.5)).is_ok());
    }

    #[test]
    fn each_rule_of_rfc_7523_is_kept() {
        let now = NOW.unix_timestamp();
        type Change = fn(&mut Value, i64);
        let cases: [(&str, Change, AssertionError); 16] = [
            ("another issuer", |claims, _| claims["iss"] = "cli_1".into(), AssertionError::WrongClient),
            ("another subject", |claims, _| claims["sub"] = "cli_1".into(), AssertionError::WrongClient),
            ("another audience", |claims, _| claims["aud"] = "https://elsewhere".into(), AssertionError::WrongAudience),
            ("no audience", |claims, _| drop(claims.as_object_mut().unwrap().remove("aud")), AssertionError::Malformed),
            ("no end", |claims, _| drop(claims.as_object_mut().unwrap().remove("exp")), AssertionError::Malformed),
            ("no issuer", |claims, _| drop(claims.as_object_mut().unwrap().remove("iss")), AssertionError::Malformed),
            ("no id", |claims, _| drop(claims.as_object_mut().unwrap().remove("jti")), AssertionError::NoId),
            ("an empty id", |claims, _| claims["jti"] = "".into(), AssertionError::NoId),
            ("an endless id", |claims, _| claims["jti"] = "x".repeat(257).into(), AssertionError::NoId),
            ("expired", |claims, now| claims["exp"] = (now - 10).into(), AssertionError::WrongTime),
            ("a long life", |claims, now| claims["exp"] = (now + 311).into(), AssertionError::WrongTime),
            ("from the future", |claims, now| claims["iat"] = (now + 11).into(), AssertionError::WrongTime),
            ("not valid yet", |claims, now| claims["nbf"] = (now + 11).into(), AssertionError::WrongTime),
            (
                "the last second of all time",
                |claims, _| claims["exp"] = 253_402_300_799_i64.into(),
                AssertionError::WrongTime,
            ),
            ("beyond all time", |claims, _| claims["exp"] = i64::MAX.into(), AssertionError::WrongTime),
            ("the first second of all", |claims, _| claims["exp"] = 0.into(), AssertionError::WrongTime),
        ];
        for (name, change, expected) in cases {
            assert_eq!(verdict_on(|claims| change(claims, now)), Err(expected), "{name}");
        }
    }

    #[test]
    fn only_the_clients_own_key_with_rs256_signs() {
        let client = ClientId::generate();
        let claims = good(client);
        let verdict = |assertion: &str| key().verify(assertion, client, &AUDIENCES, NOW);
        let rs256 = jsonwebtoken::Header::new(Algorithm::RS256);
        assert_eq!(verdict(&signed(&claims, &rs256, KEYS[1])), Err(AssertionError::WrongSignature));
        let rs512 = jsonwebtoken::Header::new(Algorithm::RS512);
        assert_eq!(verdict(&signed(&claims, &rs512, KEYS[0])), Err(AssertionError::WrongAlgorithm));

        // The public key as an HMAC secret: the oldest trick of all.
        let public = jsonwebtoken::EncodingKey::from_secret(key().pem().as_bytes());
        let hs256 = jsonwebtoken::Header::new(Algorithm::HS256);
        let forged = jsonwebtoken::encode(&hs256, &claims, &public).unwrap();
        assert_eq!(verdict(&forged), Err(AssertionError::WrongAlgorithm));

        let good = signed(&claims, &rs256, KEYS[0]);
        let (head, rest) = good.split_once('.').unwrap();
        let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), rest.split_once('.').unwrap().0);
        assert_eq!(verdict(&unsigned), Err(AssertionError::Malformed));
        assert_eq!(verdict(&format!("{head}.{head}.{head}")), Err(AssertionError::WrongSignature));
        assert_eq!(claimed_client(&good), Ok(client));
        for bad in ["", "a.b.c", &"a".repeat(5_000)] {
            assert_eq!(claimed_client(bad), Err(AssertionError::Malformed));
        }
    }

    #[test]
    fn weak_and_foreign_public_keys_are_refused() {
        for bad in [
            "",
            KEYS[0],
            include_str!("fixtures/keys/bad_rsa_1024.public.pem"),
            include_str!("fixtures/keys/bad_ec_p256.public.pem"),
        ] {
            assert_eq!(AssertionKey::from_pem(bad).err(), Some(InvalidAssertionKey));
        }
    }
}
