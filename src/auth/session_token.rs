//! What a browser holds while an officer is signed in: 256 random bits, of which only a hash is stored. Another hash of the
//! same bits stands in every form, and tells a form of ours from one that somebody else put together.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::random_32;

pub struct SessionToken(Zeroizing<[u8; 32]>);

/// Stands in the forms of one session. Tells nobody the session's token.
#[derive(Clone, PartialEq, Eq)]
pub struct CsrfToken([u8; 32]);

impl SessionToken {
    pub fn generate() -> Self {
        Self(random_32())
    }

    /// From a cookie; `None` for what we never wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, bytes.as_mut_slice()).ok()?;
        Some(Self(bytes))
    }

    pub fn expose_text(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.as_slice()))
    }

    /// What is stored. No slow hash: nobody guesses 256 bits.
    pub fn hash(&self) -> [u8; 32] {
        self.digest(b"velum console session v1")
    }

    pub fn csrf(&self) -> CsrfToken {
        CsrfToken(self.digest(b"velum console form v1"))
    }

    fn digest(&self, domain: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(domain).chain_update([0]).chain_update(self.0.as_slice()).finalize().into()
    }
}

impl CsrfToken {
    pub fn is(&self, presented: &str) -> bool {
        let mut bytes = [0; 32];
        hex::decode_to_slice(presented, &mut bytes).is_ok() && bool::from(bytes.ct_eq(&self.0))
    }
}

impl std::fmt::Display for CsrfToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_says_nothing_of_itself() {
        let token = SessionToken::generate();
        let (text, csrf) = (token.expose_text(), token.csrf().to_string());
        let again = SessionToken::parse(&text).unwrap();
        assert_eq!((again.hash(), again.csrf().to_string()), (token.hash(), csrf.clone()));
        assert_ne!(hex::encode(token.hash()), *text);
        assert_ne!(csrf, *text);
        assert_ne!(hex::encode(token.hash()), csrf);
        assert_ne!(SessionToken::generate().hash(), token.hash());
        for no in ["", "00", &text[1..], &format!("{}00", *text), &"zz".repeat(32)] {
            assert!(SessionToken::parse(no).is_none(), "{no}");
        }
    }

    #[test]
    fn a_form_is_of_its_own_session_alone() {
        let (one, other) = (SessionToken::generate(), SessionToken::generate());
        assert!(one.csrf().is(&one.csrf().to_string()));
        for no in [String::new(), other.csrf().to_string(), one.expose_text().to_string(), hex::encode(one.hash())] {
            assert!(!one.csrf().is(&no));
        }
    }
}
