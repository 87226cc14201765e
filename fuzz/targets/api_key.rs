//! What parses as an API key is exactly one, and every key that is put together by the rule parses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};
use velum::auth::api_key::ApiKey;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(key) = ApiKey::parse(text) {
            assert!(ApiKey::resembles(text));
            assert_eq!(key.expose_text(), text);
            assert!(text.starts_with(key.shown_prefix()) && key.shown_prefix().len() == 17);
            assert!(text.ends_with(&checksum(&text[..text.len() - 8])));
        }
    }
    if let Some(random) = data.first_chunk::<32>() {
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        for prefix in ["velum_live_", "velum_test_"] {
            let begun = format!("{prefix}{digits}");
            let text = format!("{begun}{}", checksum(&begun));
            assert!(ApiKey::parse(&text).is_ok());
            let rest = &data[32..];
            if let (Some(&at), Some(&bit)) = (rest.first(), rest.get(1)) {
                let mut spoilt = text.into_bytes();
                let at = usize::from(at) % spoilt.len();
                spoilt[at] ^= 1 << (bit % 7);
                assert!(ApiKey::parse(std::str::from_utf8(&spoilt).expect("ASCII")).is_err());
            }
        }
    }
});

fn checksum(text: &str) -> String {
    Sha256::digest(text)[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}
