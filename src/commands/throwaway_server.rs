//! A server of our own for `demo` and `bench`: `velum serve` on its embedded defaults, in a folder that is thrown away.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use reqwest::{Client, ClientBuilder};

use super::{
    api_client::{ApiClient, Credential},
    console_client::ConsoleClient,
};
use crate::{
    settings::{FaceSettings, PREFIX},
    tls,
};

/// First start makes keys and certificates and loads the models.
const START_TIMEOUT: Duration = Duration::from_secs(120);

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

pub struct ThrowawayServer {
    child: Child,
    data: tempfile::TempDir,
    base: String,
}

impl ThrowawayServer {
    /// `settings`: variables beyond those that every trial has.
    pub fn start(face: &FaceSettings, settings: &[(&str, &str)]) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("velum-").tempdir().context("cannot make a temporary folder")?;
        let port = free_port()?;
        let log = fs::File::create(data.path().join("serve.log"))?;
        let mut command = program(data.path())?;
        command
            .arg("serve")
            .env("VELUM_LISTEN", format!("127.0.0.1:{port}"))
            .env("VELUM_MODELS_DIR", &face.models_dir)
            .env("VELUM_ONNXRUNTIME", &face.onnxruntime)
            .env("VELUM_LOG", "info")
            // One client, one address and one person do more here than anybody should in a day.
            .env("VELUM_KEYHOLDER_BUDGET_PER_SUBJECT", "1000000")
            .env("VELUM_RATE_CLIENT", "10000000")
            .env("VELUM_RATE_ADDRESS", "10000000")
            .env("VELUM_QUOTA_PER_DAY", "1000000000")
            .envs(settings.iter().copied())
            .envs(face.embedder.as_ref().map(|id| ("VELUM_EMBEDDER", id.as_str())))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("cannot start velum serve")?;
        Ok(Self { child, data, base: format!("https://localhost:{port}") })
    }

    /// Waits until the server says that it is ready, then signs in with the credential that it made.
    pub async fn ready(&mut self) -> Result<ApiClient> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("velum serve ended with {status}:\n{}", self.log());
            }
            if let Ok(client) = self.http_client()
                && let Ok(answer) = client.get(format!("{}/readyz", self.base)).send().await
                && answer.status().is_success()
            {
                return ApiClient::sign_in(client, self.base.clone(), &self.credential()?).await;
            }
            if start.elapsed() > START_TIMEOUT {
                bail!("velum serve was not ready after {} s:\n{}", START_TIMEOUT.as_secs(), self.log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A client of a tenant of its own, made as an operator makes one.
    pub async fn another_tenant(&self) -> Result<ApiClient> {
        self.new_client(&["--tenant", "another"]).await
    }

    /// A client of the first tenant that answers requests of persons.
    pub async fn compliance_officer(&self) -> Result<ApiClient> {
        self.new_client(&["--tenant", "development", "--role", "compliance-officer"]).await
    }

    async fn new_client(&self, whose: &[&str]) -> Result<ApiClient> {
        let output = program(self.data.path())?.args(["clients", "create", "--json"]).args(whose).output()?;
        let credential =
            serde_json::from_slice(&output.stdout).context("velum clients create printed no credential")?;
        ApiClient::sign_in(self.http_client()?, self.base.clone(), &credential).await
    }

    /// An officer of the first tenant, made as an operator makes one, and signed in. Browsers follow no redirect here.
    pub async fn officer(&self) -> Result<ConsoleClient> {
        let output = program(self.data.path())?
            .args(["officers", "add", "--tenant", "development", "--json", "bench"])
            .output()?;
        let account = serde_json::from_slice(&output.stdout).context("velum officers add printed no account")?;
        let http = self.client_builder()?.redirect(reqwest::redirect::Policy::none()).build()?;
        ConsoleClient::sign_in(http, self.base.clone(), &account).await
    }

    /// Of the client that the server made at its first start.
    pub fn credential(&self) -> Result<Credential> {
        let credential = fs::read(self.data.path().join("dev_client.json")).context("no dev_client.json")?;
        Ok(serde_json::from_slice(&credential)?)
    }

    /// Trusts the server's own certificate authority and nothing else.
    fn http_client(&self) -> Result<Client> {
        Ok(self.client_builder()?.build()?)
    }

    fn client_builder(&self) -> Result<ClientBuilder> {
        let trust = tls::public_client(&self.data.path().join("tls/ca.pem"))?;
        Ok(Client::builder().tls_backend_preconfigured(trust).no_proxy().timeout(ANSWER_TIMEOUT))
    }

    /// Resident memory in bytes (Linux).
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("serve.log")).unwrap_or_default()
    }
}

impl Drop for ThrowawayServer {
    fn drop(&mut self) {
        // Best effort: the folder goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program, on a data folder. Whatever this shell is set up for, an operator's databases above all, is not for a trial.
fn program(data: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes())) {
        command.env_remove(name);
    }
    command.env("VELUM_DATA_DIR", data);
    Ok(command)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?.local_addr()?.port())
}
