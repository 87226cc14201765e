//! Models and keys, loaded once a process. The keys are made once a machine: that takes seconds.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use velum::{
    app::Engine,
    secrets::{self, Kind},
    settings::Settings,
};

/// Where the keys of tests lie from one run to the next. Named after the parameters: other ones need other keys.
pub fn fhe_dir() -> PathBuf {
    let name =
        format!("fhe-{}", velum::fhe::params::PARAMETER_ID.replace(|letter: char| !letter.is_alphanumeric(), "-"));
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

pub fn make_keys_once() {
    let folder = fhe_dir();
    fs::create_dir_all(&folder).unwrap();
    // Test processes start together; the first one makes the keys, the others wait for it.
    let lock = fs::File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    if !folder.join("public.key").exists() {
        secrets::make(Kind::Fhe, &folder, &folder, time::OffsetDateTime::now_utc()).unwrap();
    }
}

pub fn engine(settings: &Settings) -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::load(settings).expect("models and keys load")).clone()
}
