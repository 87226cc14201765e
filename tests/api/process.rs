//! `velum serve` as an operator runs it.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future, stream};
use tokio::sync::oneshot;

use super::helpers::{Client, credential_in, engine, onnxruntime, photos, streamed};

/// The program, stopped at the end whatever comes.
struct Process {
    child: Child,
    port: u16,
}

fn velum(data: &Path, port: u16) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_velum"));
    command
        .env_clear()
        .env("VELUM_DATA_DIR", data)
        .env("VELUM_LISTEN", format!("127.0.0.1:{port}"))
        .env("VELUM_FHE_DIR", engine::fhe_dir())
        .env("VELUM_MODELS_DIR", root.join("models"))
        .env("VELUM_ONNXRUNTIME", onnxruntime(root))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl Process {
    fn start(data: &Path) -> Self {
        engine::make_keys_once();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = velum(data, port).arg("serve").spawn().unwrap();
        let process = Self { child, port };
        let begin = Instant::now();
        while !velum(data, port).arg("healthcheck").stderr(Stdio::null()).status().unwrap().success() {
            assert!(begin.elapsed() < Duration::from_secs(120), "the server does not become ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        process
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    async fn ended(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "the server does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_told_to_stop_answers_the_upload_that_is_on_its_way_and_ends_with_0() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::start(data.path());
    let (id, secret) = credential_in(data.path());
    let client = Client::stranger(&data.path().join("tls/ca.pem"), process.port).with_token(&id, &secret, "").await;
    let subject = client.consenting_subject().await;

    let photo = photos::collins();
    let (first, rest) = (photo[..1_000].to_vec(), photo[1_000..].to_vec());
    let (told, telling) = oneshot::channel::<()>();
    let rest = stream::once(async move {
        telling.await.unwrap();
        rest
    });
    let body = streamed(stream::once(future::ready(first)).chain(rest));
    let enrolling = {
        let path = format!("/v1/subjects/{subject}/enrolments");
        let client = client.clone();
        tokio::spawn(async move { client.post_raw(&path, "image/png", body).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    process.signal("-TERM");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    told.send(()).unwrap();
    enrolling.await.unwrap().expect(201);
    assert!(process.ended().await.success());
}
