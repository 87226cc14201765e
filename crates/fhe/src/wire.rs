//! Versioned bytes in and out.
//!
//! Every object travels in one frame, all integers little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | `VELM` |
//! | 4 | format version, 1 |
//! | 5 | kind: 1 template, 2 decision, 3 public key, 4 evaluation key, 5 secret key, 6 re-key |
//! | 6..8 | parameter set, 1 |
//! | 8..24 | key id (of a re-key: the one that its templates come out under) |
//! | 24..32 | length of the body |
//! | .. | body: the library's own versioned serialisation |
//! | last 32 | SHA-256 of everything before |
//!
//! The hash tells damage from malice apart; it authenticates nothing (rest and transport are sealed elsewhere). On the
//! way in: size limit before anything is allocated, then frame, hash, key, and the library's conformance check against
//! [`super::params`], so that a foreign shape never reaches the arithmetic.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tfhe::{
    Unversionize, Versionize,
    conformance::ParameterSetConformant,
    core_crypto::commons::math::random::{CompressionSeed, Seed},
    core_crypto::prelude::{compressed_modulus_switched_glwe_ciphertext::CompressedModulusSwitchedGlweCiphertext, *},
    named::Named,
    safe_serialization::{safe_deserialize_conformant, safe_serialize},
};
use tfhe_versionable::VersionsDispatch;
use zeroize::Zeroizing;

use velum_domain::matching::Metric;

use super::{
    decide::EncryptedDecision,
    encode::{DIMENSION_MAX, Encoding},
    encrypt::EncryptedTemplate,
    keys::{CompressedEvaluationKey, KeyId, PublicKey, SecretKeys},
    params::*,
    rekey::Rekey,
};

const MAGIC: &[u8; 4] = b"VELM";
const FORMAT_VERSION: u8 = 1;
const HEADER_BYTES: usize = 32;
const HASH_BYTES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{found} bytes, of which the frame promises {expected}")]
    Truncated { expected: u64, found: u64 },
    #[error("{found} bytes, at most {limit} are accepted")]
    TooLarge { limit: u64, found: u64 },
    #[error("not a Velum FHE object")]
    Foreign,
    #[error("format version {0} is unknown to this program")]
    UnknownVersion(u8),
    #[error("expected {expected}, found kind {found}")]
    WrongKind { expected: &'static str, found: u8 },
    #[error("the content does not fit its hash: it was damaged")]
    Damaged,
    #[error("parameter set {0} is unknown to this program")]
    UnknownParameters(u16),
    #[error("belongs to key {found}, expected {expected}")]
    WrongKey { expected: KeyId, found: KeyId },
    #[error("the content has another shape than its parameter set")]
    NotConformant,
}

/// What can stand in a frame.
trait Framed:
    Serialize + DeserializeOwned + Versionize + Unversionize + Named + ParameterSetConformant<ParameterSet = ()>
{
    const KIND: u8;
    /// Largest whole frame, in bytes.
    const BYTES_MAX: u64;
}

macro_rules! framed {
    ($($body:ident { $($field:ident: $type:ty),* $(,)? } $versions:ident, $kind:literal, $name:literal, $bytes_max:expr;)*) => {$(
        #[derive(Serialize, Deserialize, Versionize)]
        #[versionize($versions)]
        struct $body { $($field: $type),* }

        #[derive(VersionsDispatch)]
        #[allow(dead_code, reason = "the variants are the format's history")]
        enum $versions { V0($body) }

        impl Named for $body {
            const NAME: &'static str = $name;
        }

        impl Framed for $body {
            const KIND: u8 = $kind;
            const BYTES_MAX: u64 = $bytes_max;
        }
    )*};
}

framed! {
    TemplateBody {
        model: String,
        metric: u8,
        dimension: u32,
        scale: f64,
        norm_squared_max: i64,
        delta: u64,
        glwe: CompressedModulusSwitchedGlweCiphertext<u64>,
    } TemplateVersions, 1, "velum template", 20_000;
    DecisionBody { lwe: LweCiphertextOwned<u64> } DecisionVersions, 2, "velum decision", 20_000;
    PublicBody { zero: SeededGlweCiphertextOwned<u64> } PublicVersions, 3, "velum public key", 20_000;
    EvaluationBody {
        bootstrap: SeededLweBootstrapKeyOwned<u64>,
        key_switch: SeededLweKeyswitchKeyOwned<u32>,
    } EvaluationVersions, 4, "velum evaluation key", 40_000_000;
    SecretBody { glwe: GlweSecretKeyOwned<u64> } SecretVersions, 5, "velum secret key", 20_000;
    RekeyBody { from: String, switch: GlweKeyswitchKeyOwned<u64> } RekeyVersions, 6, "velum re-key", 120_000;
}

impl ParameterSetConformant for TemplateBody {
    type ParameterSet = ();

    fn is_conformant(&self, (): &()) -> bool {
        let coefficients = self.glwe.bodies_count().0;
        self.glwe.is_conformant(&glwe_shape())
            && self.glwe.packed_integers().log_modulus() == TEMPLATE_MODULUS_LOG
            && (2..=DIMENSION_MAX).contains(&(self.dimension as usize))
            && self.scale.is_finite()
            && self.encoding().is_some_and(|encoding| encoding.template_coefficients() == coefficients)
    }
}

impl TemplateBody {
    fn encoding(&self) -> Option<Encoding> {
        let metric = match self.metric {
            1 => Metric::SquaredEuclid,
            2 => Metric::Cosine,
            _ => return None,
        };
        Some(Encoding {
            model: self.model.parse().ok()?,
            metric,
            dimension: self.dimension as usize,
            scale: self.scale,
            norm_squared_max: self.norm_squared_max,
        })
    }
}

impl ParameterSetConformant for DecisionBody {
    type ParameterSet = ();

    fn is_conformant(&self, (): &()) -> bool {
        self.lwe.is_conformant(&wide_lwe_shape())
    }
}

impl ParameterSetConformant for PublicBody {
    type ParameterSet = ();

    fn is_conformant(&self, (): &()) -> bool {
        self.zero.is_conformant(&glwe_shape()) && begins_its_stream(&self.zero.compression_seed())
    }
}

impl ParameterSetConformant for EvaluationBody {
    type ParameterSet = ();

    fn is_conformant(&self, (): &()) -> bool {
        self.bootstrap.is_conformant(&bootstrap_key_shape())
            && self.key_switch.is_conformant(&key_switch_key_shape())
            && begins_its_stream(&self.bootstrap.compression_seed())
            && begins_its_stream(&self.key_switch.compression_seed())
    }
}

/// Our masks begin where their random stream does. The library does not ask, and reads beyond its buffer's end (it panics)
/// where a seed says another place.
fn begins_its_stream(seed: &CompressionSeed) -> bool {
    seed.inner.first_index == CompressionSeed::from(Seed(0)).inner.first_index
}

impl ParameterSetConformant for SecretBody {
    type ParameterSet = ();

    fn is_conformant(&self, (): &()) -> bool {
        // The size first: the library divides by it to find the dimension.
        self.glwe.polynomial_size() == POLYNOMIAL_SIZE
            && self.glwe.glwe_dimension() == GLWE_DIMENSION
            && self.glwe.as_ref().len() == WIDE_LWE_DIMENSION.0
            && self.glwe.as_ref().iter().all(|&bit| bit <= 1)
    }
}

impl ParameterSetConformant for RekeyBody {
    type ParameterSet = ();

    fn is_conformant(&self, (): &()) -> bool {
        self.from.parse::<KeyId>().is_ok_and(|key| key.to_string() == self.from)
            && self.switch.is_conformant(&rekey_shape())
    }
}

impl EncryptedTemplate {
    /// Coefficients are rounded to 32 bits and body coefficients that play no part are left out: about 9 KB.
    pub fn to_bytes(&self) -> Vec<u8> {
        let coefficients = LweCiphertextCount(self.encoding.template_coefficients());
        let body = TemplateBody {
            model: self.encoding.model.as_str().to_owned(),
            metric: match self.encoding.metric {
                Metric::SquaredEuclid => 1,
                Metric::Cosine => 2,
            },
            dimension: self.encoding.dimension as u32,
            scale: self.encoding.scale,
            norm_squared_max: self.encoding.norm_squared_max,
            delta: self.delta,
            glwe: CompressedModulusSwitchedGlweCiphertext::compress(&self.glwe, TEMPLATE_MODULUS_LOG, coefficients),
        };
        write_frame(self.key, &body)
    }

    pub fn from_bytes(bytes: &[u8], expected: KeyId) -> Result<Self, WireError> {
        let (key, body) = read_frame_of::<TemplateBody>(bytes, expected)?;
        let encoding = body.encoding().ok_or(WireError::NotConformant)?;
        Ok(Self { key, encoding, delta: body.delta, glwe: body.glwe.extract() })
    }
}

impl EncryptedDecision {
    pub fn to_bytes(&self) -> Vec<u8> {
        write_frame(self.key, &DecisionBody { lwe: self.lwe.clone() })
    }

    pub fn from_bytes(bytes: &[u8], expected: KeyId) -> Result<Self, WireError> {
        let (key, body) = read_frame_of::<DecisionBody>(bytes, expected)?;
        Ok(Self { key, lwe: body.lwe })
    }
}

impl PublicKey {
    pub fn to_bytes(&self) -> Vec<u8> {
        write_frame(self.key, &PublicBody { zero: self.seeded.clone() })
    }

    /// The key id is computed anew from the key itself.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let (claimed, body) = read_frame::<PublicBody>(bytes)?;
        let key = Self::from_seeded(body.zero);
        if key.key != claimed {
            return Err(WireError::WrongKey { expected: key.key, found: claimed });
        }
        Ok(key)
    }
}

impl CompressedEvaluationKey {
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = EvaluationBody { bootstrap: self.bootstrap.clone(), key_switch: self.key_switch.clone() };
        write_frame(self.key, &body)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let (key, body) = read_frame::<EvaluationBody>(bytes)?;
        Ok(Self { key, bootstrap: body.bootstrap, key_switch: body.key_switch })
    }
}

impl SecretKeys {
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut body = SecretBody { glwe: self.glwe.clone() };
        let frame = Zeroizing::new(write_frame(self.key, &body));
        zeroize::Zeroize::zeroize(body.glwe.as_mut());
        frame
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let (key, body) = read_frame::<SecretBody>(bytes)?;
        Ok(Self { key, glwe: body.glwe })
    }
}

impl Rekey {
    pub fn to_bytes(&self) -> Vec<u8> {
        write_frame(self.to, &RekeyBody { from: self.from.to_string(), switch: self.switch.clone() })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let (to, body) = read_frame::<RekeyBody>(bytes)?;
        let from = body.from.parse().map_err(|_| WireError::NotConformant)?;
        Ok(Self { from, to, switch: body.switch })
    }
}

fn write_frame<Body: Framed>(key: KeyId, body: &Body) -> Vec<u8> {
    // In one piece from the start: growing would leave copies of a secret key behind, unwiped.
    let mut frame =
        Vec::with_capacity(if Body::KIND == SecretBody::KIND { Body::BYTES_MAX as usize } else { HEADER_BYTES });
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&[FORMAT_VERSION, Body::KIND]);
    frame.extend_from_slice(&PARAMETER_NUMBER.to_le_bytes());
    frame.extend_from_slice(&key.0);
    frame.extend_from_slice(&[0; 8]);
    #[expect(clippy::expect_used, reason = "writing a plain value to memory under its own size limit cannot fail")]
    safe_serialize(body, &mut frame, Body::BYTES_MAX).expect("an object of this program fits its own frame");
    let body_bytes = (frame.len() - HEADER_BYTES) as u64;
    frame[24..HEADER_BYTES].copy_from_slice(&body_bytes.to_le_bytes());
    let hash = Sha256::digest(&frame);
    frame.extend_from_slice(&hash);
    frame
}

fn read_frame_of<Body: Framed>(bytes: &[u8], expected: KeyId) -> Result<(KeyId, Body), WireError> {
    let (found, body) = read_frame(bytes)?;
    if found == expected { Ok((found, body)) } else { Err(WireError::WrongKey { expected, found }) }
}

fn read_frame<Body: Framed>(bytes: &[u8]) -> Result<(KeyId, Body), WireError> {
    let found = bytes.len() as u64;
    if found > Body::BYTES_MAX {
        return Err(WireError::TooLarge { limit: Body::BYTES_MAX, found });
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(WireError::Truncated { expected: (HEADER_BYTES + HASH_BYTES) as u64, found });
    };
    let header = Header::read(header)?;
    if header.kind != Body::KIND {
        return Err(WireError::WrongKind { expected: Body::NAME, found: header.kind });
    }
    let expected = header.body_bytes.saturating_add((HEADER_BYTES + HASH_BYTES) as u64);
    if found != expected {
        return Err(WireError::Truncated { expected, found });
    }
    let (body, hash) = rest.split_at(rest.len() - HASH_BYTES);
    if Sha256::digest(&bytes[..bytes.len() - HASH_BYTES]).as_slice() != hash {
        return Err(WireError::Damaged);
    }
    if header.parameters != PARAMETER_NUMBER {
        return Err(WireError::UnknownParameters(header.parameters));
    }
    let body = safe_deserialize_conformant::<Body>(body, Body::BYTES_MAX, &()).map_err(|_| WireError::NotConformant)?;
    Ok((header.key, body))
}

struct Header {
    kind: u8,
    parameters: u16,
    key: KeyId,
    body_bytes: u64,
}

impl Header {
    fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, version, kind, p0, p1, rest @ ..] = *bytes;
        if [m0, m1, m2, m3] != *MAGIC {
            return Err(WireError::Foreign);
        }
        if version != FORMAT_VERSION {
            return Err(WireError::UnknownVersion(version));
        }
        let mut key = [0; 16];
        key.copy_from_slice(&rest[..16]);
        let mut body_bytes = [0; 8];
        body_bytes.copy_from_slice(&rest[16..]);
        Ok(Self {
            kind,
            parameters: u16::from_le_bytes([p0, p1]),
            key: KeyId(key),
            body_bytes: u64::from_le_bytes(body_bytes),
        })
    }
}
