//! The second factor: codes of an authenticator app (TOTP, RFC 6238), with the parameters that every app has: SHA-1, six
//! digits, thirty seconds. A clock that is a step off is borne.

use time::OffsetDateTime;
use totp_rs::{Algorithm, Builder, Totp, TotpError};
use zeroize::Zeroizing;

use super::random_32;

const SECRET_BYTES: usize = 20; // as many as SHA-1 gives (RFC 4226, section 4)
const ISSUER: &str = "Velum";

pub struct Authenticator(Totp);

#[derive(Debug, thiserror::Error)]
#[error("the secret of an authenticator cannot be used: {0}")]
pub struct BadAuthenticator(TotpError);

impl Authenticator {
    /// Without a colon in the name, which would end it in the address that apps read.
    pub fn generate(name: &str) -> Result<(Self, Zeroizing<Vec<u8>>), BadAuthenticator> {
        let secret = Zeroizing::new(random_32()[..SECRET_BYTES].to_vec());
        Ok((Self::new(&secret, name)?, secret))
    }

    pub fn new(secret: &[u8], name: &str) -> Result<Self, BadAuthenticator> {
        let built = Builder::new()
            .with_algorithm(Algorithm::SHA1)
            .with_digits(6)
            .with_skew(1)
            .with_step_duration(30)
            .with_secret(secret.to_vec())
            .with_account_name(name.replace(':', " "))
            .with_issuer(Some(ISSUER))
            .build();
        built.map(Self).map_err(BadAuthenticator)
    }

    /// As an app takes it from the picture.
    pub fn from_address(address: &str) -> Result<Self, BadAuthenticator> {
        Totp::from_url(address).map(Self).map_err(BadAuthenticator)
    }

    /// The step that a code belongs to. Whoever asks takes no code of a step twice.
    pub fn step_of(&self, code: &str, now: OffsetDateTime) -> Option<i64> {
        let digits: Zeroizing<String> = Zeroizing::new(code.chars().filter(|sign| !sign.is_whitespace()).collect());
        let step = self.0.check(&digits, seconds(now))?;
        i64::try_from(step).ok()
    }

    /// What the app shows at that moment.
    pub fn code(&self, now: OffsetDateTime) -> String {
        self.0.generate(seconds(now)).to_string()
    }

    /// What an app reads from the picture, or takes as a link.
    pub fn address(&self) -> Result<Zeroizing<String>, BadAuthenticator> {
        self.0.to_url().map(Zeroizing::new).map_err(BadAuthenticator)
    }
}

fn seconds(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds)
    }

    /// RFC 6238, appendix B, cut to six digits.
    #[test]
    fn codes_are_those_of_the_standard() {
        let authenticator = Authenticator::new(b"12345678901234567890", "a.meyer").unwrap();
        for (seconds, code) in [(59, "287082"), (1_111_111_109, "081804"), (2_000_000_000, "279037")] {
            assert_eq!(authenticator.code(at(seconds)), code);
            assert_eq!(authenticator.step_of(code, at(seconds)), Some(seconds / 30));
        }
    }

    #[test]
    fn a_clock_may_be_a_step_off_and_no_more() {
        let authenticator = Authenticator::new(b"12345678901234567890", "a.meyer").unwrap();
        let code = authenticator.code(at(59));
        for (now, step) in [(59, Some(1)), (29, Some(1)), (89, Some(1)), (90, None), (1_000_000, None)] {
            assert_eq!(authenticator.step_of(&code, at(now)), step, "at {now}");
        }
        assert_eq!(authenticator.step_of("287 082", at(59)), Some(1));
        assert_eq!(authenticator.step_of("", at(59)), None);
    }

    #[test]
    fn an_app_is_told_all_it_needs() {
        let authenticator = Authenticator::new(b"12345678901234567890", "a:meyer@example.org").unwrap();
        let address = authenticator.address().unwrap();
        assert!(address.starts_with("otpauth://totp/Velum:a%20meyer%40example.org?"), "{}", *address);
        assert!(address.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"), "{}", *address);
        let (_, one) = Authenticator::generate("a").unwrap();
        let (_, other) = Authenticator::generate("a").unwrap();
        assert_eq!(one.len(), 20);
        assert_ne!(*one, *other);
    }
}
