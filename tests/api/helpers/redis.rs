//! A Redis of a test's own, which it may kill.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use velum::tls::Identity;

use super::free_port;

pub struct Redis {
    port: u16,
    folder: TempDir,
    server: Child,
}

impl Redis {
    pub fn start() -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let server = launch(port, &folder, None);
        Self { port, folder, server }
    }

    /// With TLS and nothing else.
    pub fn start_with_tls(identity: &Identity) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let server = launch(port, &folder, Some(identity));
        Self { port, folder, server }
    }

    pub fn tls_url(&self) -> String {
        format!("rediss://velum:test_only@localhost:{}", self.port)
    }

    /// As a user with just the commands that docs/operations.md grants.
    pub fn url(&self) -> String {
        format!("redis://velum:test_only@127.0.0.1:{}", self.port)
    }

    /// As a power cut would.
    pub fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// With what its file still holds.
    pub fn restart(&mut self) {
        self.kill();
        self.server = launch(self.port, &self.folder, None);
    }

    /// With nothing.
    pub fn restart_empty(&mut self) {
        self.kill();
        self.folder = tempfile::tempdir().unwrap();
        self.server = launch(self.port, &self.folder, None);
    }

    /// Takes connections and answers nobody, or goes on.
    pub fn hang(&self, hung: bool) {
        self.signal(if hung { "-STOP" } else { "-CONT" });
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.server.id().to_string()]).status().unwrap().success());
    }

    /// Every command that changed something.
    pub fn log(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.folder.path().join("appendonlydir")).unwrap();
        files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    /// What `redis-cli` answers.
    pub fn ask(&self, words: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        let answer = cli.args(["-p", &self.port.to_string()]).args(words).output().unwrap();
        String::from_utf8(answer.stdout).unwrap().trim().to_owned()
    }
}

/// The line of the operations manual.
fn documented_user() -> String {
    let manual = include_str!("../../../docs/operations.md");
    let line = manual.lines().find(|line| line.starts_with("user velum on")).expect("the manual's user of Redis");
    line.replace(">PASSWORD", ">test_only")
}

fn launch(port: u16, folder: &TempDir, tls: Option<&Identity>) -> Child {
    let settings = folder.path().join("redis.conf");
    let listening = match tls {
        None => format!("port {port}"),
        Some(Identity { certificate, key }) => {
            let (certificate, key) = (certificate.display(), key.display());
            format!(
                "port 0\ntls-port {port}\ntls-cert-file {certificate}\ntls-key-file {key}\ntls-auth-clients no\ntls-ca-cert-file {certificate}"
            )
        }
    };
    std::fs::write(&settings, format!("{}\n{listening}\n", documented_user())).unwrap();
    let mut command = Command::new("redis-server");
    let server = command
        .arg(settings)
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn();
    let server = server.expect("redis-server is installed: scripts/setup.sh --tests");
    let begin = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(10), "Redis does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _gone_already = self.server.kill();
        let _status = self.server.wait();
    }
}
