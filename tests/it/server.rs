//! The real binary, started on a free port and ended with the test.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::fixtures;

/// Nothing here takes longer; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running `corolla serve`.
pub(crate) struct Server {
    child: Child,
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
    log: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

/// A configuration with the tiny Llama of the fixtures, quick to load and to run.
pub(crate) fn tiny_llama() -> String {
    model("tiny-llama", &fixtures::path("models/tiny-llama"), "")
}

/// A configuration with the real chat model.
pub(crate) fn smollm2() -> String {
    model("smollm2-135m-instruct", &fixtures::smollm2(), "")
}

/// One entry of a configuration's models.
pub(crate) fn model(id: &str, path: &Path, more: &str) -> String {
    format!("[[models]]\nid = \"{id}\"\npath = \"{}\"\n{more}\n", path.display())
}

/// Runs `corolla` with a configuration to its end.
pub(crate) fn run(config: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("corolla.toml");
    std::fs::write(&file, config).unwrap();
    corolla().args(arguments).arg("--config").arg(&file).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn corolla() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corolla"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COROLLA_")) {
        command.env_remove(name);
    }
    command.env("COROLLA_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command
}

impl Server {
    /// Starts it and waits until every model answers.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_with(config, &[]).await
    }

    /// The same with more flags.
    pub(crate) async fn start_with(config: &str, flags: &[&str]) -> Self {
        let server = Self::open_door(config, flags, "info");
        server.until("ready", async || server.get("/health/ready").await.0 == 200).await;
        server
    }

    /// Starts it with that much in its log and waits until it listens; its models may not be there yet, or ever.
    pub(crate) fn open_door(config: &str, flags: &[&str], log_level: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("corolla.toml");
        std::fs::write(&file, config).unwrap();
        let mut child = corolla()
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .args(flags)
            .env("COROLLA_LOG", log_level)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, told) = mpsc::sync_channel(1);
        let log = Arc::<Mutex<String>>::default();
        let written = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = writeln!(written.lock().unwrap(), "{line}");
                if let Some((_, base)) = line.split_once("listening on ") {
                    let base = base.split(['"', ' ']).next().unwrap_or_default();
                    let _ = tell.try_send(Ok(base.to_owned()));
                }
            }
            let _ = tell.try_send(Err(written.lock().unwrap().clone()));
        });
        let base = told.recv_timeout(PATIENCE).unwrap().expect("the server started");
        Self { child, base, http: reqwest::Client::new(), log, _folder: folder }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{path}", self.base)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Posts a form to `/api/v1/generate`; the JSON that comes back, and the `Server-Timing` header.
    pub(crate) async fn generate(&self, form: &[(&str, &str)]) -> (Value, String) {
        let response = self.http.post(format!("{}/api/v1/generate", self.base)).form(form).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let timing = response.headers().get("server-timing").map(|v| v.to_str().unwrap().to_owned());
        (response.json().await.unwrap(), timing.unwrap_or_default())
    }

    /// The text of a reply that must succeed.
    pub(crate) async fn outputs(&self, form: &[(&str, &str)]) -> String {
        let (reply, _) = self.generate(form).await;
        assert_eq!(reply["ok"], true, "{reply}");
        reply["outputs"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn open(&self, query: &str) -> String {
        let (_, text) = self.get(&format!("/api/v1/open_inference_session?{query}")).await;
        let reply: Value = serde_json::from_str(&text).unwrap();
        reply["session_id"].as_str().expect(&text).to_owned()
    }

    /// One number of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect(&text).parse().unwrap()
    }

    /// Asks again and again until it is so.
    pub(crate) async fn until(&self, what: &str, mut so: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !so().await {
            assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
            ticks.tick().await;
        }
    }

    /// Memory in use now, in MiB.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Asks it to end, again and again until it has; how it ended.
    #[cfg(unix)]
    pub(crate) async fn interrupt(mut self) -> std::process::ExitStatus {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            // One that has ended meanwhile cannot be asked.
            let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        }
    }

    /// Asks it once to end, as the system does; how it ended.
    #[cfg(unix)]
    pub(crate) async fn terminate(mut self) -> std::process::ExitStatus {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
        }
    }

    /// What it has written to its log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Whether the process runs.
    pub(crate) fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
