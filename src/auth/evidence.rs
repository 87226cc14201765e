//! Evidence: documents of ours that others keep for years and check without us. Each is a JWS in the compact form (RFC 7515),
//! RS256, under keys that sign nothing else.
//!
//! Its header has three members, all checked: `alg`; `kid`, the RFC 7638 thumbprint of the key; `typ`, one word for each kind of
//! document (RFC 8725, section 3.11), so that a receipt cannot pass for a certificate, nor either for an access token.
//! A document says itself when it was made; none of them expires.

use std::collections::BTreeMap;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, crypto, decode, decode_header, encode,
    jwk::{JwkSet, KeyAlgorithm, PublicKeyUse, ThumbprintHash},
};
use serde::{Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use super::signing_key::{Jwks, KeyStatus, KeysInUse, SigningKeys, modulus_bits};

/// Smallest RSA modulus for documents that must hold beyond 2030 (NIST SP 800-57 part 1: 128-bit strength).
pub const MODULUS_BITS_MIN: usize = 3072;

/// Longest document that is looked at, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    ConsentReceipt,
    ErasureCertificate,
    AuditCheckpoint,
    EvidencePack,
}

impl Document {
    /// The media type that stands in `typ`, without `application/` (RFC 7515, section 4.1.9).
    pub fn media_type(self) -> &'static str {
        match self {
            Self::ConsentReceipt => "vnd.velum.consent-receipt+jwt",
            Self::ErasureCertificate => "vnd.velum.erasure-certificate+jwt",
            Self::AuditCheckpoint => "vnd.velum.audit-checkpoint+jwt",
            Self::EvidencePack => "vnd.velum.evidence-pack+jwt",
        }
    }
}

/// Why a document proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    #[error("the text is not a JWS in the compact form")]
    Malformed,
    #[error("the document is not signed with RS256")]
    WrongAlgorithm,
    #[error("the document is not of type {expected}")]
    WrongType { expected: &'static str },
    #[error("the document names no key of the key set")]
    UnknownKey,
    #[error("the signature does not fit the document")]
    WrongSignature,
    #[error("the document lacks a claim, or a claim cannot be read")]
    UnreadableClaims,
}

#[derive(Debug, thiserror::Error)]
#[error("a document could not be signed")]
pub struct EvidenceNotSigned(#[source] jsonwebtoken::errors::Error);

/// Signs documents.
pub struct EvidenceKeys {
    keys: KeysInUse,
}

impl EvidenceKeys {
    pub fn new(keys: SigningKeys) -> Self {
        Self { keys: KeysInUse::new(keys) }
    }

    /// Puts other keys in place of those in use, between two documents.
    pub fn replace_keys(&self, keys: SigningKeys) {
        self.keys.replace(keys);
    }

    /// The public halves of every key that ever signed, for `/.well-known/evidence-jwks.json`.
    pub fn jwks(&self) -> Jwks {
        self.keys.get().jwks()
    }

    /// When each key began or begins to sign, and which one signs at `now`.
    pub fn status(&self, now: OffsetDateTime) -> Vec<KeyStatus> {
        self.keys.get().status(now)
    }

    /// What a document says that one of these keys signed.
    pub fn verify<T: DeserializeOwned>(&self, document: Document, jws: &str) -> Result<T, EvidenceError> {
        let jwks = serde_json::to_string(&self.jwks()).map_err(|_| EvidenceError::UnknownKey)?;
        EvidenceVerifier::from_jwks(&jwks).map_err(|_| EvidenceError::UnknownKey)?.verify(document, jws)
    }

    /// The document as a compact JWS, signed by the key of this moment.
    pub fn sign(
        &self,
        document: Document,
        claims: &impl Serialize,
        now: OffsetDateTime,
    ) -> Result<String, EvidenceNotSigned> {
        let keys = self.keys.get();
        let key = keys.current(now);
        let header = Header {
            typ: Some(document.media_type().to_owned()),
            kid: Some(key.kid().to_owned()),
            ..Header::new(Algorithm::RS256)
        };
        encode(&header, claims, key.private()).map_err(EvidenceNotSigned)
    }

    /// A body that is sent with its signature beside it, as OpenDSR wants it. It can never pass for the part of a document that
    /// is signed there: that begins with the base64 of a header, JSON with a brace or a quotation mark.
    pub fn sign_json(&self, body: &impl Serialize, now: OffsetDateTime) -> Result<SignedJson, EvidenceNotSigned> {
        let keys = self.keys.get();
        let key = keys.current(now);
        let body = serde_json::to_vec(body).map_err(|error| EvidenceNotSigned(error.into()))?;
        let signature = crypto::sign(&body, key.private(), Algorithm::RS256).map_err(EvidenceNotSigned)?;
        // The library has it for a JWS, in the other alphabet and without padding.
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|error| EvidenceNotSigned(error.into()))?;
        Ok(SignedJson { body, signature: STANDARD.encode(signature), key: key.kid().to_owned() })
    }
}

/// A body of JSON, the signature over its bytes, and the name of the key.
pub struct SignedJson {
    pub body: Vec<u8>,
    /// RSASSA-PKCS1-v1_5 with SHA-256, in base64.
    pub signature: String,
    pub key: String,
}

/// A key set that nothing can be checked with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeySet {
    #[error("expected a JWK set with RSA keys for RS256")]
    Malformed,
    #[error("the key `{kid}` of the set has another name than its thumbprint (RFC 7638)")]
    WrongName { kid: String },
    #[error("the key `{kid}` of the set has fewer than {MODULUS_BITS_MIN} bits")]
    TooShort { kid: String },
}

/// The public halves, as a third party holds them: all it takes to check a document, without a network and without us.
pub struct EvidenceVerifier {
    keys: BTreeMap<String, DecodingKey>,
}

impl EvidenceVerifier {
    /// From the text of a JWK set (RFC 7517). One bad key spoils the set: whoever trusts it should know.
    pub fn from_jwks(text: &str) -> Result<Self, InvalidKeySet> {
        let set: JwkSet = serde_json::from_str(text).map_err(|_| InvalidKeySet::Malformed)?;
        let mut keys = BTreeMap::new();
        for jwk in set.keys {
            let common = &jwk.common;
            let signs = common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
            let (Some(kid), Some(KeyAlgorithm::RS256), true) = (&common.key_id, &common.key_algorithm, signs) else {
                return Err(InvalidKeySet::Malformed);
            };
            let jsonwebtoken::jwk::AlgorithmParameters::RSA(parameters) = &jwk.algorithm else {
                return Err(InvalidKeySet::Malformed);
            };
            if modulus_bits(&parameters.n).is_none_or(|bits| bits < MODULUS_BITS_MIN) {
                return Err(InvalidKeySet::TooShort { kid: kid.clone() });
            }
            if jwk.thumbprint(ThumbprintHash::SHA256).ok().as_ref() != Some(kid) {
                return Err(InvalidKeySet::WrongName { kid: kid.clone() });
            }
            keys.insert(kid.clone(), DecodingKey::from_jwk(&jwk).map_err(|_| InvalidKeySet::Malformed)?);
        }
        if keys.is_empty() { Err(InvalidKeySet::Malformed) } else { Ok(Self { keys }) }
    }

    /// What a document of this kind says, if one of the keys signed it.
    pub fn verify<T: DeserializeOwned>(&self, document: Document, jws: &str) -> Result<T, EvidenceError> {
        if jws.len() > DOCUMENT_BYTES_MAX {
            return Err(EvidenceError::Malformed);
        }
        let header = decode_header(jws).map_err(|_| EvidenceError::Malformed)?;
        if header.alg != Algorithm::RS256 {
            return Err(EvidenceError::WrongAlgorithm);
        }
        if header.typ.as_deref() != Some(document.media_type()) {
            return Err(EvidenceError::WrongType { expected: document.media_type() });
        }
        // RFC 7515, section 4.1.11: an extension that is marked critical and not understood makes the document invalid.
        if header.crit.is_some() {
            return Err(EvidenceError::Malformed);
        }
        let key = header.kid.and_then(|kid| self.keys.get(&kid)).ok_or(EvidenceError::UnknownKey)?;

        let mut rules = Validation::new(Algorithm::RS256);
        rules.algorithms = vec![Algorithm::RS256];
        // Evidence is for nobody in particular and does not expire.
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.validate_nbf = false;
        rules.validate_aud = false;
        let refusal = |error: jsonwebtoken::errors::Error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => EvidenceError::WrongSignature,
            jsonwebtoken::errors::ErrorKind::InvalidToken => EvidenceError::Malformed,
            _ => EvidenceError::UnreadableClaims,
        };
        Ok(decode::<T>(jws, key, &rules).map_err(refusal)?.claims)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;
    use serde_json::{Value, json};
    use time::{Duration, macros::datetime};

    use super::*;
    use crate::auth::signing_key::{DatedKey, SigningKey};

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
    const PEMS: [&str; 2] = [
        include_str!("../../tests/fixtures/keys/test_only_rsa_3072_one.pem"),
        include_str!("../../tests/fixtures/keys/test_only_rsa_3072_two.pem"),
    ];

    fn key(index: usize) -> SigningKey {
        SigningKey::from_pem_of(PEMS[index], MODULUS_BITS_MIN).unwrap()
    }

    fn keys() -> EvidenceKeys {
        EvidenceKeys::new(SigningKeys::single(key(0)))
    }

    fn verifier(keys: &EvidenceKeys) -> EvidenceVerifier {
        EvidenceVerifier::from_jwks(&serde_json::to_string(&keys.jwks()).unwrap()).unwrap()
    }

    fn receipt() -> String {
        keys().sign(Document::ConsentReceipt, &json!({ "subject": "sub_1", "state": "granted" }), NOW).unwrap()
    }

    fn verdict(jws: &str) -> Result<Value, EvidenceError> {
        verifier(&keys()).verify(Document::ConsentReceipt, jws)
    }

    /// The receipt's claims under another header, signed by the key of receipts.
    fn headed(header: &Value) -> String {
        let claims = receipt().split('.').nth(1).unwrap().to_owned();
        let text = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(header.to_string()));
        let key = EncodingKey::from_rsa_pem(PEMS[0].as_bytes()).unwrap();
        let signature = jsonwebtoken::crypto::sign(text.as_bytes(), &key, Algorithm::RS256).unwrap();
        format!("{text}.{signature}")
    }

    #[test]
    fn a_document_says_to_a_stranger_what_was_signed_and_by_which_key() {
        assert_eq!(verdict(&receipt()).unwrap()["state"], "granted");
        let header = URL_SAFE_NO_PAD.decode(receipt().split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        let expected = json!({ "alg": "RS256", "typ": "vnd.velum.consent-receipt+jwt", "kid": key(0).kid() });
        assert_eq!(header, expected);
        // The means of the tests below are good: put together by hand, the same header opens.
        assert!(verdict(&headed(&expected)).is_ok());
    }

    #[test]
    fn no_document_passes_for_another() {
        use Document::{AuditCheckpoint, ConsentReceipt, ErasureCertificate};
        let (keys, all) = (keys(), [ConsentReceipt, ErasureCertificate, AuditCheckpoint]);
        for made in all {
            let jws = keys.sign(made, &json!({}), NOW).unwrap();
            for taken_for in all {
                let taken = verifier(&keys).verify::<Value>(taken_for, &jws);
                assert_eq!(taken.is_ok(), made == taken_for, "{made:?} for {taken_for:?}");
            }
        }
    }

    #[test]
    fn another_type_algorithm_or_key_and_a_critical_extension_are_refused() {
        let good = json!({ "alg": "RS256", "typ": Document::ConsentReceipt.media_type(), "kid": key(0).kid() });
        let with = |name: &str, value: Value| {
            let mut header = good.clone();
            header[name] = value;
            verdict(&headed(&header)).unwrap_err()
        };
        let wrong_type = EvidenceError::WrongType { expected: Document::ConsentReceipt.media_type() };
        for typ in [json!(null), json!("JWT"), json!("at+jwt"), json!("VND.VELUM.CONSENT-RECEIPT+JWT")] {
            assert_eq!(with("typ", typ), wrong_type);
        }
        for kid in [json!(null), json!(""), json!("../evidence"), json!(key(1).kid())] {
            assert_eq!(with("kid", kid), EvidenceError::UnknownKey);
        }
        assert_eq!(with("alg", json!("none")), EvidenceError::Malformed);
        for alg in ["HS256", "RS384", "PS256", "ES256"] {
            assert_eq!(with("alg", json!(alg)), EvidenceError::WrongAlgorithm, "{alg}");
        }
        assert_eq!(with("crit", json!(["exp"])), EvidenceError::Malformed);
    }

    #[test]
    fn nothing_unsigned_and_no_hmac_under_the_public_key_is_evidence() {
        let jwks = keys().jwks();
        let typ = Document::ConsentReceipt.media_type();
        let claims = json!({ "state": "granted" });
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let none = json!({ "alg": "none", "typ": typ, "kid": jwks.keys[0].kid });
        assert_eq!(verdict(&format!("{}.{}.", encoded(&none), encoded(&claims))), Err(EvidenceError::Malformed));

        let header =
            Header { typ: Some(typ.to_owned()), kid: Some(jwks.keys[0].kid.clone()), ..Header::new(Algorithm::HS256) };
        for secret in [jwks.keys[0].n.as_bytes(), &URL_SAFE_NO_PAD.decode(&jwks.keys[0].n).unwrap()] {
            let forged = encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap();
            assert_eq!(verdict(&forged), Err(EvidenceError::WrongAlgorithm));
        }
        let unsigned = receipt();
        let unsigned = unsigned.rsplit_once('.').unwrap().0;
        assert!(verdict(&format!("{unsigned}.")).is_err() && verdict(unsigned).is_err());
    }

    #[test]
    fn any_flipped_bit_of_a_document_is_found() {
        let (verifier, good) = (verifier(&keys()), receipt());
        for position in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone().into_bytes();
                bytes[position] ^= 1 << bit;
                let spoilt = String::from_utf8_lossy(&bytes);
                let verdict = verifier.verify::<Value>(Document::ConsentReceipt, &spoilt);
                assert!(verdict.is_err(), "byte {position}, bit {bit}");
            }
        }
        for more in [format!("{good}="), format!("{good} "), format!("{good}.{good}"), format!("\n{good}")] {
            assert!(verdict(&more).is_err());
        }
    }

    #[test]
    fn documents_of_an_earlier_key_still_verify_after_a_rotation() {
        let dated = |index, signs_from| DatedKey { signs_from, key: key(index) };
        let (keys, old) = (keys(), receipt());
        keys.replace_keys(SigningKeys::new(vec![dated(0, NOW), dated(1, NOW + Duration::HOUR)]).unwrap());
        let sign = |now| keys.sign(Document::ConsentReceipt, &json!({}), now).unwrap();
        let kid = |jws: &str| decode_header(jws).unwrap().kid.unwrap();
        let new = sign(NOW + Duration::HOUR);
        assert_eq!((kid(&sign(NOW)), kid(&new)), (key(0).kid().to_owned(), key(1).kid().to_owned()));
        for jws in [&old, &new] {
            assert!(verifier(&keys).verify::<Value>(Document::ConsentReceipt, jws).is_ok());
        }
        assert_eq!(verdict(&new), Err(EvidenceError::UnknownKey), "the key set of yesterday");
    }

    #[test]
    fn a_key_set_that_proves_nothing_is_refused() {
        let refusal = |text: &str| EvidenceVerifier::from_jwks(text).err();
        let set = serde_json::to_value(keys().jwks()).unwrap();
        let with = |name: &str, value: Value| {
            let mut set = set.clone();
            set["keys"][0][name] = value;
            refusal(&set.to_string())
        };
        assert_eq!(refusal(&set.to_string()), None);
        for bad in ["", "{}", "[]", r#"{"keys":[]}"#] {
            assert_eq!(refusal(bad), Some(InvalidKeySet::Malformed), "{bad}");
        }
        assert_eq!(with("alg", json!("HS256")), Some(InvalidKeySet::Malformed));
        assert_eq!(with("use", json!("enc")), Some(InvalidKeySet::Malformed));
        assert_eq!(with("kid", json!("mine")), Some(InvalidKeySet::WrongName { kid: "mine".to_owned() }));
        let another = key(1).kid().to_owned();
        assert_eq!(with("kid", json!(another)), Some(InvalidKeySet::WrongName { kid: another }));
        let short = SigningKey::from_pem(include_str!("../../tests/fixtures/keys/test_only_rsa_2048_one.pem")).unwrap();
        let kid = short.kid().to_owned();
        let short = serde_json::to_string(&SigningKeys::single(short).jwks()).unwrap();
        assert_eq!(refusal(&short), Some(InvalidKeySet::TooShort { kid }));
    }
}
