//! A process in a namespace, what it says, and its end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;

/// How long to wait for what must come. Two cores do the work of many tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often to look whether something is true.
const POLL: Duration = Duration::from_millis(5);
/// How long a process may take for its end when a test failed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A command that ends, at the latest, with the thread that starts it.
pub fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]).stdin(Stdio::null());
    let variables: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in variables {
        let text = name.to_string_lossy();
        let ours = text.starts_with("NAT64HANDOFF_") && text != "NAT64HANDOFF_IO";
        if ours || ["STATE_DIRECTORY", "LOGS_DIRECTORY", "LISTEN_FDS"].contains(&&*text) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a program in the namespace until it ends.
pub fn run(namespace: &Namespace, program: &str, arguments: &[&str]) -> Output {
    namespace.inside(|| command(program).args(arguments).output().unwrap())
}

/// A program that runs until it is told to end.
pub struct Process {
    name: String,
    child: Child,
    said: Arc<Mutex<String>>,
    gone: bool,
}

impl Process {
    pub fn start(namespace: &Namespace, program: &str, arguments: &[&str]) -> Process {
        let mut command = command(program);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = namespace.inside(|| command.spawn().unwrap());
        let said = Arc::default();
        collect(child.stdout.take().unwrap(), &said);
        collect(child.stderr.take().unwrap(), &said);
        let name = program.rsplit('/').next().unwrap_or(program);
        let name = format!("{name} {}", arguments.first().unwrap_or(&""));
        Process { name, child, said, gone: false }
    }

    /// Waits until it said that.
    pub fn wait_for(&mut self, text: &str) {
        wait_until(&format!("{} says {text:?}", self.name), || {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "{} ended:\n{}", self.name, self.said());
            self.said().contains(text)
        });
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).unwrap();
        // SAFETY: takes numbers alone. The child was not waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    /// Kills it, without a chance to say anything.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        let status = self.wait();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{}: {status}", self.name);
    }

    /// Tells it to end, which must be a success.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        self.wait_for_success();
    }

    /// Waits until it ends by itself, which must be a success.
    pub fn wait_for_success(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{}: {status}\n{}", self.name, self.said());
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let mut status = None;
        wait_until(&format!("{} ends", self.name), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.gone = true;
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            // What it counted, it may say at its end.
            let started = Instant::now();
            let mut asked = false;
            while !self.gone && started.elapsed() < LAST_WORDS {
                self.gone = matches!(self.child.try_wait(), Ok(Some(_)));
                if !self.gone && !asked {
                    self.signal(libc::SIGTERM);
                    asked = true;
                }
                thread::sleep(POLL);
            }
        }
        if !self.gone {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            println!("{} said:\n{}", self.name, self.said());
        }
    }
}

fn collect(from: impl Read + Send + 'static, said: &Arc<Mutex<String>>) {
    let said = Arc::clone(said);
    thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            said.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}

/// Waits until the condition is true, or says that it never was.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < PATIENCE,
            "after {PATIENCE:?} it is still not true that {what}"
        );
        thread::sleep(POLL);
    }
}
