use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use crate::free_address;
use crate::http::client;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::program::command;
use crate::shoal_binary;

/// One `shoal daemon` or `shoal scheduler` with its configuration file and its admin address.
#[derive(Debug)]
pub struct Service {
    role: &'static str,
    name: String,
    config: PathBuf,
    log: PathBuf,
    admin: SocketAddr,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Service {
    /// Writes the configuration (an `[admin]` table is added) and starts nothing yet.
    pub(crate) fn prepare(role: &'static str, name: &str, folder: &Path, toml: &str) -> Self {
        let admin = free_address();
        let config = folder.join(format!("{name}.toml"));
        std::fs::write(&config, format!("{toml}\n[admin]\nlisten = \"{admin}\"\n")).unwrap();
        let log = folder.join(format!("{name}.log"));
        Self { role, name: name.to_owned(), config, log, admin, environment: Vec::new(), process: None }
    }

    /// Variables that its processes get from now on.
    pub(crate) fn set_environment(&mut self, environment: &[(String, String)]) {
        self.environment = environment.to_vec();
    }

    /// Starts the process and waits until `/readyz` answers 200.
    pub async fn start(&mut self) {
        let mut shoal = command(&shoal_binary().display().to_string());
        shoal.arg(self.role).arg("--config").arg(&self.config);
        shoal.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::spawn(&self.name, shoal, &self.log);
        let deadline = Process::readiness_deadline();
        let (client, url) = (client(), format!("http://{}/readyz", self.admin));
        while !client.get(&url).send().await.is_ok_and(|response| response.status().is_success()) {
            process.may_still_become_ready(deadline, "become ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.process = Some(process);
    }

    /// SIGTERM; returns how it ended.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.take().expect("it was started").stop().await
    }

    /// SIGKILL.
    pub async fn kill9(&mut self) {
        self.process.take().expect("it was started").kill9().await;
    }

    /// SIGTERM, then start again with the same configuration and data.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_alive)
    }

    /// Address of `/metrics`, `/healthz`, `/readyz` and `/status`.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin_get("/metrics").await)
    }

    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.admin_get("/status").await).expect("/status answers JSON")
    }

    /// What all its processes so far wrote to standard output.
    pub fn output(&self) -> String {
        let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        read(self.log.clone()) + &read(self.log.with_extension("err"))
    }

    async fn admin_get(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.admin);
        client().get(&url).send().await.unwrap_or_else(|e| panic!("{url}: {e}")).text().await.unwrap()
    }
}
