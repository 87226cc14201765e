//! `velum serve` as a process of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Client, credential_in, databases::Databases, engine, free_port, onnxruntime};

/// The program, stopped at the end whatever comes.
pub struct Process {
    pub port: u16,
    child: Child,
    data: PathBuf,
}

/// The program on a data folder, and nothing of this machine's environment.
pub fn program(data: &Path, port: u16) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_velum"));
    command
        .env_clear()
        .env("VELUM_DATA_DIR", data)
        .env("VELUM_LISTEN", format!("127.0.0.1:{port}"))
        .env("VELUM_FHE_DIR", engine::fhe_dir())
        .env("VELUM_MODELS_DIR", root.join("models"))
        .env("VELUM_ONNXRUNTIME", onnxruntime(root))
        // Tests of one machine are one client at one address.
        .env("VELUM_RATE_CLIENT", "1000000")
        .env("VELUM_RATE_ADDRESS", "1000000")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl Process {
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, |_| {})
    }

    /// With whatever `prepare` adds to the command.
    pub fn start_with(data: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        engine::make_keys_once();
        let port = free_port();
        let mut command = program(data, port);
        prepare(&mut command);
        let environment = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let environment: Vec<_> = environment.collect();
        let mut process = Self { child: command.arg("serve").spawn().unwrap(), port, data: data.to_owned() };
        let begin = Instant::now();
        let ask = || program(data, port).envs(environment.clone()).arg("healthcheck").stderr(Stdio::null()).status();
        while !ask().unwrap().success() {
            assert_eq!(process.child.try_wait().unwrap(), None, "the server has ended");
            assert!(begin.elapsed() < Duration::from_secs(120), "the server does not become ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        process
    }

    /// Another command of the operator, beside this one.
    pub fn command(&self) -> Command {
        program(&self.data, self.port)
    }

    pub fn authority(&self) -> PathBuf {
        self.data.join("tls/ca.pem")
    }

    /// The client that the first start made.
    pub async fn client(&self) -> Client {
        let (id, secret) = credential_in(&self.data);
        Client::stranger(&self.authority(), self.port).with_token(&id, &secret, "").await
    }

    /// A client of the first tenant, on the server's own databases, in a role.
    pub async fn client_of_role(&self, role: &str) -> Client {
        let mut command = self.command();
        command.args(["clients", "create", "--tenant", "development", "--role", role, "--json"]);
        self.client_made_by(&mut command).await
    }

    async fn client_made_by(&self, command: &mut Command) -> Client {
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (id, secret) = (made["client_id"].as_str().unwrap(), made["client_secret"].as_str().unwrap());
        Client::stranger(&self.authority(), self.port).with_token(id, secret, "").await
    }

    /// A client of the first tenant, made by the operator with these scopes.
    pub async fn client_with_scopes(&self, databases: &Databases, scopes: &str) -> Client {
        let tenant = databases.texts(&databases.main, "SELECT tenant_id AS text FROM clients ORDER BY id").remove(0);
        let mut command = self.command();
        databases.are_of(&mut command);
        command.args(["clients", "create", "--tenant", &tenant, "--scopes", scopes, "--json"]);
        self.client_made_by(&mut command).await
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "the server does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Resident memory in megabytes: now, and the most since [`Process::forget_peak`].
    pub fn memory_mb(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kilobytes = |name: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of /proc/PID/status");
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (kilobytes("VmRSS:") / 1e3, kilobytes("VmHWM:") / 1e3)
    }

    /// Connections that it holds at this moment, as its open files tell.
    pub fn connections(&self) -> usize {
        let inodes = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let inodes: Vec<_> = inodes.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X}", self.port);
        let mut ours = table.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            (fields.len() > 9 && fields[1].ends_with(&port) && fields[3] != "0A").then(|| fields[9].to_owned())
        });
        ours.by_ref().filter(|inode| inodes.contains(&PathBuf::from(format!("socket:[{inode}]")))).count()
    }

    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// `velum worker`, ended with the test.
pub struct Worker(pub Child);

impl Worker {
    pub fn start(mut command: Command) -> Self {
        Self(command.arg("worker").stdout(Stdio::null()).spawn().unwrap())
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}
