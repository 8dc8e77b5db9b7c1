use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Ended, WAIT_MAX, free_port, mokv, run, wait_until};

/// A node of its own, ended with the test.
pub(crate) struct Server {
    child: Child,
    endpoint: String,
    _dir: Option<TempDir>,
}

impl Server {
    /// Starts a node of a new cluster and waits until it listens.
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let server = Self::start_with(&dir.path().join("data"), &["--bootstrap"], &[]);
        Self { _dir: Some(dir), ..server }
    }

    /// Starts a node on a directory and waits until it listens.
    pub(crate) fn start_on(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[], &[])
    }

    fn start_with(data_dir: &Path, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
        let [gossip, endpoint] = [0, 1].map(|port| format!("127.0.0.1:{}", ports[port]));
        let args = ["serve", "--exit-with-stdin", "--node-name", "n", "--bind-addr", &gossip];
        let mut command = mokv(&args);
        command.args(["--rpc-port", &ports[1], "--metrics-port", &ports[2], "--data-dir"]).arg(data_dir).args(more);
        command.envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::piped()).spawn().expect("mokv");
        let address = (Ipv4Addr::LOCALHOST, ports[1].parse().expect("a port"));
        wait_until("the node listens", || {
            assert!(child.try_wait().expect("mokv").is_none(), "the node ended");
            TcpStream::connect(address).is_ok()
        });
        Self { child, endpoint, _dir: None }
    }

    pub(crate) fn ask(&self, args: &[&str]) -> Ended {
        run(&[args, &["--endpoints", &self.endpoint][..]].concat())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    fn end(child: Child) -> Ended {
        child.wait_with_output().expect("mokv").into()
    }
}

#[test]
fn a_signal_stops_the_server_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        // `wait_with_output` would close it, and so stop the server by itself.
        let stdin = server.child.stdin.take();
        server.signal(signal);
        let ended = Server::end(server.child);
        assert_eq!(ended.code, 0, "{}", ended.err);
        drop(stdin);
    }
}

#[test]
fn the_end_of_standard_input_stops_the_server_of_a_parent() {
    let mut server = Server::start();
    server.child.stdin.as_mut().expect("stdin").write_all(b"what is written does not matter").expect("write");
    let ended = Server::end(server.child);
    assert_eq!(ended.code, 0, "{}", ended.err);
}

#[test]
fn a_service_manager_is_told() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(WAIT_MAX)).expect("a timeout");
    let path = path.to_str().expect("UTF-8");
    let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000")];
    let mut server = Server::start_with(&dir.path().join("data"), &["--bootstrap"], &variables);
    let wait_for = |said: &str| {
        let mut message = [0; 1024];
        loop {
            let length = socket.recv(&mut message).unwrap_or_else(|error| panic!("{said} was not said: {error}"));
            if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == said) {
                return;
            }
        }
    };
    wait_for("READY=1");
    for _ in 0..3 {
        wait_for("WATCHDOG=1");
    }
    let stdin = server.child.stdin.take();
    server.signal(Signal::TERM);
    wait_for("STOPPING=1");
    assert_eq!(Server::end(server.child).code, 0);
    drop(stdin);
}
