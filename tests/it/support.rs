//! Real servers on loopback: start, kill, stop, start again on the same data.

use std::fs;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// The line that says a server takes requests.
const READY: &str = "ready to serve client requests";

/// Returns the program under test: `KV_BIN`, or the one built with the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("KV_BIN").map_or_else(|| env!("CARGO_BIN_EXE_kv").into(), PathBuf::from)
}

/// Returns a port that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound port").port()
}

/// A directory of its own for one test, removed when the test passes.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> TempDir {
        let unique = format!("kv-{name}-{}-{}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// One member of its own, and where its data and log are.
pub struct Server {
    dir: PathBuf,
    args: Vec<String>,
    /// Words in front of the program: how to enter a namespace, say.
    wrapper: Vec<String>,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts a server on free ports with its data under `dir`, and waits until it is ready.
    pub fn start(dir: &Path, args: &[&str]) -> Server {
        let mut server = Server::prepare(dir, args);
        server.restart();
        server
    }

    /// Chooses ports and flags, and starts nothing yet.
    pub fn prepare(dir: &Path, args: &[&str]) -> Server {
        Server {
            dir: dir.to_path_buf(),
            args: args.iter().map(|arg| arg.to_string()).collect(),
            wrapper: Vec::new(),
            client_port: free_port(),
            peer_port: free_port(),
            child: None,
        }
    }

    /// Runs the program behind other words, such as `nsenter` and its flags.
    pub fn behind(mut self, wrapper: Vec<String>) -> Server {
        self.wrapper = wrapper;
        self
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Starts the process with the same flags and waits until it is ready.
    pub fn restart(&mut self) {
        self.spawn();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.log().contains(READY) {
            if let Some(status) = self.exited() {
                panic!(
                    "the server ended with {status} before it was ready:\n{}",
                    self.tail()
                );
            }
            assert!(
                Instant::now() < deadline,
                "not ready after 30 s:\n{}",
                self.tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "already running");
        // The log of the previous run is kept beside it for whoever reads a failure.
        let _ = fs::rename(self.log_path(), self.dir.join("server.log.old"));
        let log = File::create(self.log_path()).expect("a log file");
        let program = binary().to_string_lossy().into_owned();
        let mut words = self.wrapper.iter().chain([&program]);
        let child = Command::new(words.next().expect("a program"))
            .args(words)
            .arg("server")
            .args(self.flags())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.child = Some(child);
    }

    fn flags(&self) -> Vec<String> {
        let client = self.client_url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        vec![
            format!("--data-dir={}", self.data_dir().display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ]
    }

    /// Waits until the process takes requests or has ended; `Err` is how it ended.
    pub fn wait_ready_or_end(&mut self) -> Result<(), ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.log().contains(READY) {
            if let Some(status) = self.exited() {
                self.child = None;
                return Err(status);
            }
            assert!(Instant::now() < deadline, "neither:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .and_then(|child| child.try_wait().expect("a child to ask"))
    }

    /// Waits for the process to end by itself, at most `within`.
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.exited() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "still running:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a process to kill");
            child.wait().expect("a process to reap");
        }
    }

    /// Ends the process with SIGTERM and waits for it.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = self.pid().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success(), "no process {pid}");
        self.wait_exit(Duration::from_secs(20))
    }

    /// Opens a connection; it connects when first used.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.client_url())
            .expect("a valid URL")
            .connect_lazy()
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
