//! Keys by their names and ages.

use actix_web::{HttpResponse, web::Data};
use askama::Template;
use time::OffsetDateTime;

use super::{
    Fault, Officer, page,
    words::{Moment, State, distance},
};
use crate::flows::{
    Flows,
    keys::{self, KeyStatus, Keys},
};

#[derive(Template)]
#[template(path = "keys.html")]
struct Page<'a> {
    officer: &'a Officer,
    keys: Keys,
    /// What they sign, the name of the section, and the keys.
    signing: [(&'static str, &'static str, Vec<SigningKey>); 2],
}

struct SigningKey {
    kid: String,
    state: State,
    /// `None`: the one key of an installation that does not rotate.
    from: Option<Moment>,
    age: String,
}

impl SigningKey {
    fn of(key: &KeyStatus, now: OffsetDateTime) -> Self {
        let dated = key.signs_from > OffsetDateTime::UNIX_EPOCH;
        let state = match (key.signing, key.signs_from > now) {
            (true, _) => State { word: "signs", css: "good" },
            (false, true) => State { word: "will sign", css: "open" },
            (false, false) => State { word: "is only checked with", css: "ended" },
        };
        Self {
            kid: key.kid.clone(),
            state,
            from: dated.then_some(Moment(key.signs_from)),
            age: match dated {
                true if key.signs_from <= now => distance(now - key.signs_from),
                true => "not yet in use".to_owned(),
                false => "not known".to_owned(),
            },
        }
    }
}

pub async fn show(officer: Officer, flows: Data<Flows>) -> Result<HttpResponse, Fault> {
    let (keys, now) = (keys::status(&flows), flows.now());
    let list = |keys: &[KeyStatus]| keys.iter().rev().map(|key| SigningKey::of(key, now)).collect();
    let signing = [
        ("Receipts, certificates and checkpoints are signed by", "evidence", list(&keys.evidence)),
        ("Access tokens are signed by", "tokens", list(&keys.tokens)),
    ];
    page(&officer, Page { officer: &officer, keys, signing })
}
