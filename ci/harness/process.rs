//! Processes that tests start: what they say, and their end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often to look whether something is true.
const POLL: Duration = Duration::from_millis(2);

/// Whether the condition came true in time.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        // Between two looks at the condition: nothing waits for this time to be over.
        thread::sleep(POLL);
    }
}

/// Prints what somebody said, if the test has failed, and returns whether it has.
pub fn print_if_failed(who: &str, said: &str) -> bool {
    let failed = thread::panicking();
    if failed {
        println!("{who} said:\n{said}");
    }
    failed
}

/// What a process wrote so far, in whole lines.
#[derive(Clone, Default)]
pub struct Text(Arc<Mutex<String>>);

impl Text {
    pub fn get(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    pub fn contains(&self, text: &str) -> bool {
        self.0.lock().unwrap().contains(text)
    }

    /// Reads until the other end is closed.
    fn read(&self, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let text = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                text.0.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        })
    }
}

/// A process. It is killed with the value.
pub struct Process {
    child: Child,
    /// Its number.
    pub id: u32,
    pub stdout: Text,
    pub stderr: Text,
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Process {
        Process::spawn_to(command, Stdio::piped())
    }

    /// With a standard output that is not read here, unless that is a pipe of its own.
    pub fn spawn_to(command: &mut Command, stdout: Stdio) -> Process {
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (Text::default(), Text::default());
        let mut readers = vec![stderr.read(child.stderr.take().unwrap())];
        readers.extend(child.stdout.take().map(|output| stdout.read(output)));
        Process { id: child.id(), child, stdout, stderr, readers, status: None }
    }

    /// Both outputs, one behind the other.
    pub fn said(&self) -> String {
        self.stdout.get() + &self.stderr.get()
    }

    /// How it ended, if it has. All that it said can be read then.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
            if self.status.is_some() {
                self.readers.drain(..).for_each(|reader| reader.join().unwrap());
            }
        }
        self.status
    }

    /// Waits until it says that; false where it does not in this time, or ends without.
    pub fn says(&mut self, text: &str, patience: Duration) -> bool {
        wait_until(patience, || {
            let ended = self.ended().is_some();
            ended || self.stdout.contains(text) || self.stderr.contains(text)
        });
        self.stdout.contains(text) || self.stderr.contains(text)
    }

    /// Waits until it ends. None: it still runs.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        wait_until(patience, || self.ended().is_some());
        self.status
    }

    /// It must not have been waited for.
    pub fn signal(&self, signal: i32) {
        assert_eq!(self.status, None, "it ended before:\n{}", self.said());
        // SAFETY: takes numbers alone. The child was not waited for, so its number is its own.
        let done = unsafe { libc::kill(self.id as i32, signal) };
        assert_eq!(done, 0);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
