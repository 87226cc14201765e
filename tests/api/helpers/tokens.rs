//! Access tokens taken apart and put together again.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, decode_header, encode};
use serde_json::Value;

use super::TestApp;

pub fn claims_of(token: &str) -> Value {
    let claims = token.split('.').nth(1).expect("a token has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

/// Other claims under the header of a token.
pub fn signed_like(token: &str, claims: &Value, pem: &str) -> String {
    encode(&decode_header(token).unwrap(), claims, &EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap()).unwrap()
}

/// The private key that the server signs with.
pub fn signing_key(app: &TestApp) -> String {
    let folder = app.data_dir.path().join("secrets/jwt");
    let key = std::fs::read_dir(folder).unwrap().next().expect("a key").unwrap().path();
    std::fs::read_to_string(key).unwrap()
}
