//! `velum keyholder` as an operator runs it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use velum::{
    domain::{decision::Decision, id::VerificationId},
    keyholder::{Keyholder, KeyholderError, OpenRequest, RemoteKeyholder},
    tls::{self, development},
};

use crate::{
    bench::{Person, stored, stored_secret},
    ports::free_port,
};

/// The program, stopped at the end whatever comes.
struct Process(Child);

impl Process {
    fn start(data: &Path, listen: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_velum"));
        command.arg("keyholder").env_clear().env("VELUM_DATA_DIR", data).env("VELUM_KEYHOLDER_LISTEN", listen);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }

    fn ended(&mut self) -> std::process::ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "the keyholder does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A data folder as it is on a keyholder's host: the secret key alone, which no start may touch; the rest makes itself.
fn data_folder() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let fhe = data.path().join("fhe");
    fs::create_dir(&fhe).unwrap();
    fs::write(fhe.join("secret.key"), stored("secret.key")).unwrap();
    fs::set_permissions(fhe.join("secret.key"), fs::Permissions::from_mode(0o600)).unwrap();
    data
}

async fn ready(keyholder: &Keyholder) {
    let begin = Instant::now();
    while keyholder.ready().await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the keyholder does not become ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_keyholder_comes_back_with_its_memory_and_stops_when_told() {
    let data = data_folder();
    let listen = format!("127.0.0.1:{}", free_port());
    let made = development::ensure(&data.path().join("tls"), &[], time::OffsetDateTime::now_utc()).unwrap();
    let client = tls::keyholder_client(&made.edge, &made.authority).unwrap();
    let client = RemoteKeyholder::new(&format!("https://{listen}"), client, stored_secret().key_id()).unwrap();
    let keyholder = Keyholder::Remote(client);

    let mut process = Process::start(data.path(), &listen);
    ready(&keyholder).await;
    let (person, verification) = (Person::new(), VerificationId::generate());
    let same = || OpenRequest { verification, ..person.asks_once() };
    assert_eq!(keyholder.open(same()).await, Ok(Decision::Match));

    process.signal("-KILL");
    process.ended();
    assert!(matches!(keyholder.open(person.asks_once()).await, Err(KeyholderError::Unavailable { .. })));

    let mut process = Process::start(data.path(), &listen);
    ready(&keyholder).await;
    assert_eq!(keyholder.open(same()).await, Err(KeyholderError::AlreadyOpened));
    assert_eq!(keyholder.open(person.asks_once()).await, Ok(Decision::Match));

    process.signal("-TERM");
    assert!(process.ended().success());
    assert_eq!(fs::read(data.path().join("fhe/secret.key")).unwrap(), stored("secret.key"));
    assert_eq!(fs::read_dir(data.path().join("fhe")).unwrap().count(), 1, "no second key set was made beside it");
}
