//! One `mokv` process that can be killed and started again: its directory and its addresses outlive its processes.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use mokv_client::messages::StatusResponse;
use mokv_client::{Client, Error, KeyRange, Pair};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::eventually;

/// A node that does not answer a question about itself in this time is passed over.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where and how a node runs.
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    /// The address to listen on, and the ports for gRPC, gossip and metrics there.
    pub(crate) host: String,
    pub(crate) ports: [u16; 3],
    /// The command that runs the binary, if there is one.
    pub(crate) prefix: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

impl Place {
    /// On loopback, at ports that nobody uses.
    pub(crate) fn local(data_dir: PathBuf) -> Self {
        let ports = [(); 3].map(|()| free_port());
        Self { data_dir, host: "127.0.0.1".into(), ports, prefix: Vec::new(), env: Vec::new() }
    }
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) place: Place,
    settings: Vec<String>,
    output: PathBuf,
    /// Where in `output` the present process began.
    output_begin: u64,
    client: Client,
    probe: Client,
    child: Option<Child>,
}

impl Node {
    /// A node that does not run yet. It writes what it says to a file in `dir`.
    pub(crate) fn new(name: String, place: Place, settings: &[(&str, &str)], dir: &Path) -> Self {
        let client = Client::connect(&format!("{}:{}?routing=single", place.host, place.ports[0])).expect("address");
        Self {
            output: dir.join(format!("{name}.log")),
            output_begin: 0,
            settings: settings.iter().map(|(setting, value)| format!("--{setting}={value}")).collect(),
            probe: client.clone().with_timeout(PROBE_TIMEOUT),
            client,
            child: None,
            name,
            place,
        }
    }

    pub(crate) fn addr(&self) -> String {
        format!("{}:{}", self.place.host, self.place.ports[0])
    }

    pub(crate) fn start(&mut self, bootstrap: bool) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let output = File::options().create(true).append(true).open(&self.output).expect("output");
        self.output_begin = output.metadata().expect("output").len();
        let Place { data_dir, host, ports: [rpc, gossip, metrics], prefix, env } = &self.place;
        let mut words = prefix.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_mokv")]);
        let mut command = Command::new(words.next().expect("a program"));
        command
            .args(words)
            .args(["--node-name", &self.name, "--bind-addr", &format!("{host}:{gossip}")])
            .args(["--rpc-port", &rpc.to_string(), "--metrics-port", &metrics.to_string()])
            .arg("--data-dir")
            .arg(data_dir)
            .args(&self.settings)
            .args(bootstrap.then_some("--bootstrap"))
            // Nobody is left behind should this process be killed.
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output);
        // They are settings, or mistaken for ones.
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MOKV_")) {
            command.env_remove(variable);
        }
        command.envs(env.iter().map(|(variable, value)| (variable, value)));
        self.child = Some(command.spawn().expect("start"));
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("pid")).expect("pid");
        kill_process(pid, signal).expect("signal");
    }

    /// SIGKILL, and the end of the process.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// Waits for the process, which was sent SIGKILL.
    pub(crate) fn reap(&mut self) {
        let status = self.child.take().expect("running").wait().expect("wait");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{} ended by itself: {status}", self.name);
    }

    /// SIGKILL for a process that may have ended by itself.
    pub(crate) fn end(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        let ended = eventually("the process ends", async || child.try_wait().expect("wait").ok_or("it runs")).await;
        drop(child);
        ended
    }

    /// Waits until the process ends by itself with exit code 1, and returns its last words.
    pub(crate) async fn failure(&mut self) -> String {
        let status = self.exit().await;
        let said = self.said();
        assert_eq!(status.code(), Some(1), "{}: {status}: {said}", self.name);
        // Threads that end with it may have something to say after that.
        let last = said.lines().rfind(|line| line.starts_with("error: "));
        last.unwrap_or_else(|| panic!("{} did not say why it ended: {said}", self.name)).to_owned()
    }

    /// What the present or last process has said.
    pub(crate) fn said(&self) -> String {
        let all = fs::read(&self.output).expect("output");
        let own = &all[usize::try_from(self.output_begin).expect("length")..];
        String::from_utf8_lossy(own).into_owned()
    }

    /// Calls that go to this node alone.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn status(&self) -> Result<StatusResponse, Error> {
        self.probe.status().await
    }

    /// A linearizable read that is answered soon.
    pub(crate) async fn reads(&self) -> Result<(), Error> {
        self.probe.get("none").await.map(drop)
    }

    /// Everything that this node has.
    pub(crate) async fn pairs(&self) -> Result<Vec<Pair>, Error> {
        self.client.list(KeyRange::all()).local().await?.all().await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            self.output_begin = 0;
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            eprintln!("--- {} said last:\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// A port that nobody uses, below those that the operating system gives to outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + u16::try_from(std::process::id() % 200).unwrap_or(0) * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
