//! A process in a namespace, what it says, and its end.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::threads::looks;

/// How long to wait for what must come. Two cores do the work of many tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

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
    child: crate::child::Process,
}

impl Process {
    pub fn start(namespace: &Namespace, program: &str, arguments: &[&str]) -> Process {
        let mut command = command(program);
        command.args(arguments);
        let child = namespace.inside(|| crate::child::Process::spawn(&mut command));
        let name = program.rsplit('/').next().unwrap_or(program);
        let name = format!("{name} {}", arguments.first().unwrap_or(&""));
        Process { name, child }
    }

    /// Waits until it said that.
    pub fn wait_for(&mut self, text: &str) {
        let said = self.child.says(text, PATIENCE);
        assert!(said, "{} does not say {text:?}:\n{}", self.name, self.said());
    }

    /// Waits until it said that, or ended without. Returns whether it said it.
    pub fn says_or_ends(&mut self, text: &str) -> bool {
        self.child.says(text, PATIENCE)
    }

    /// Waits until the server that it is has looked for live connections.
    pub fn wait_for_look(&self) {
        let before = looks(self.child.id);
        wait_until("the server looks for connections", || looks(self.child.id) >= before + 2);
    }

    pub fn said(&self) -> String {
        self.child.said()
    }

    pub fn signal(&self, signal: i32) {
        self.child.signal(signal);
    }

    /// How often a thread of this name began to run.
    pub fn turns(&self, thread: &str) -> u64 {
        let task = crate::threads::task(self.child.id, thread);
        let text = std::fs::read_to_string(format!("/proc/{task}/schedstat")).unwrap();
        text.split_whitespace().nth(2).unwrap().parse().unwrap()
    }

    /// Does something while the process is stopped: what comes for it is there at once when it goes
    /// on.
    pub fn while_stopped(&self, act: impl FnOnce()) {
        self.signal(libc::SIGSTOP);
        let status = format!("/proc/{}/status", self.child.id);
        let state = || std::fs::read_to_string(&status).unwrap_or_default();
        wait_until("the process is stopped", || state().contains("State:\tT"));
        act();
        self.signal(libc::SIGCONT);
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

    fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait(PATIENCE);
        status.unwrap_or_else(|| panic!("{} does not end:\n{}", self.name, self.said()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() && self.child.ended().is_none() {
            // What it counted, it may say at its end.
            self.signal(libc::SIGTERM);
            self.child.wait(LAST_WORDS);
        }
        crate::child::print_if_failed(&self.name, &self.said());
    }
}

/// Waits until the condition is true, or says that it never was.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    let came = crate::child::wait_until(PATIENCE, condition);
    assert!(came, "after {PATIENCE:?} it is still not true that {what}");
}
