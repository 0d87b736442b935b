//! Our own messages, for people: standard error. Events go to the event log and nowhere else.
//!
//! Standard error may be a pipe that nobody reads or a terminal that is stopped, and then a write
//! waits for ever. A program that serves must not wait with it: after [`in_background`] a thread of
//! its own writes, from a queue. Lines that find the queue full are lost, counted, and said.
//!
//! Where standard error is the system's journal, each line begins with its priority.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

/// The most lines that wait to be written.
const LINES_MAX: usize = 256;
/// How long the end of the program waits for them.
const END_WAIT: Duration = Duration::from_millis(300);
/// Where the journal says that standard error is its own: device and inode.
const JOURNAL: &str = "JOURNAL_STREAM";

static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// How much a message matters, as the journal counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    Error = 3,
    Warning = 4,
    Information = 6,
}

/// Writes a line about what happens as it should.
pub fn say(message: fmt::Arguments<'_>) {
    tell(Priority::Information, message);
}

/// Writes a line about what an operator should look after.
pub fn warn(message: fmt::Arguments<'_>) {
    tell(Priority::Warning, message);
}

/// Writes a line about why the program ends.
pub fn fail(message: fmt::Arguments<'_>) {
    tell(Priority::Error, message);
}

/// Writes a line that matters this much.
pub fn tell(priority: Priority, message: fmt::Arguments<'_>) {
    let line = line(priority, message, is_journal());
    match QUEUE.get() {
        Some(queue) => queue.push(line),
        // A closed standard error is no reason to fail.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// The line with the program's name in front.
fn line(priority: Priority, message: fmt::Arguments<'_>, journal: bool) -> String {
    let text = format!("nat64handoff: {message}\n");
    if !journal {
        return text;
    }
    text.lines().map(|line| format!("<{}>{line}\n", priority as u8)).collect()
}

fn is_journal() -> bool {
    static IS_JOURNAL: OnceLock<bool> = OnceLock::new();
    *IS_JOURNAL.get_or_init(|| {
        let stderr = || io::stderr().as_fd().try_clone_to_owned().map(File::from)?.metadata();
        let named = std::env::var(JOURNAL).unwrap_or_default();
        stderr().is_ok_and(|file| named == format!("{}:{}", file.dev(), file.ino()))
    })
}

/// From now on nothing that is said makes the thread wait that says it, what a panic says
/// included. Where the system gives no thread or descriptor, all stays as it is.
pub fn in_background() {
    let Ok(file) = io::stderr().as_fd().try_clone_to_owned() else { return };
    let queue = Arc::<Queue>::default();
    let writer = Arc::clone(&queue);
    let thread = thread::Builder::new().name("messages".into());
    if thread.spawn(move || writer.write_all_to(&file)).is_ok() && QUEUE.set(queue).is_ok() {
        panic::set_hook(Box::new(|panic| {
            let thread = thread::current();
            fail(format_args!("thread {} {panic}", thread.name().unwrap_or("without a name")));
            flush();
        }));
    }
}

/// Waits until all is written, but not for long. To be called before the program ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(END_WAIT);
    }
}

/// Lines on their way to standard error.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    /// A line was taken, and is not written yet.
    writing: bool,
    /// Lines that found the queue full since this was last said.
    lost: u64,
}

impl State {
    fn tell_lost(&mut self) -> Option<String> {
        let lost = std::mem::take(&mut self.lost);
        let about =
            format_args!("{lost} lines are missing here, as standard error was not read in time");
        (lost > 0).then(|| line(Priority::Warning, about, is_journal()))
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        let mut state = self.lock();
        // One more than the line itself, for what was lost before it.
        if state.lines.len() + 1 < LINES_MAX {
            let lost = state.tell_lost();
            state.lines.extend(lost);
            state.lines.push_back(line);
            self.changed.notify_all();
        } else {
            state.lost += 1;
        }
    }

    /// The life of the thread that writes.
    fn write_all_to(&self, file: &OwnedFd) {
        let mut state = self.lock();
        loop {
            let next = state.lines.pop_front().or_else(|| state.tell_lost());
            state.writing = next.is_some();
            self.changed.notify_all();
            match next {
                Some(line) => {
                    drop(state);
                    // Whoever closed it does not want to know.
                    drop(write_all(file.as_fd(), line.as_bytes()));
                    state = self.lock();
                }
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn flush(&self, patience: Duration) {
        let waits = |state: &mut State| state.writing || !state.lines.is_empty() || state.lost > 0;
        drop(self.changed.wait_timeout_while(self.lock(), patience, waits));
    }
}

/// Waits also where the other holders of the file have made it non-blocking.
fn write_all(file: BorrowedFd<'_>, mut octets: &[u8]) -> io::Result<()> {
    while !octets.is_empty() {
        match rustix::io::write(file, octets) {
            Ok(written) => octets = &octets[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(&file, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_reader_that_stops_makes_nobody_wait_and_learns_what_it_missed() {
        let (reader, writer) = UnixStream::pair().unwrap();
        // In one go it takes less than the lines below, and the first write waits for the reader.
        let queue = Arc::<Queue>::default();
        let thread = Arc::clone(&queue);
        thread::spawn(move || thread.write_all_to(&writer.into()));
        let long = "x".repeat(4096);
        let said = 3 * LINES_MAX;
        for number in 0..said {
            queue.push(format!("{number} {long}\n"));
        }
        queue.flush(Duration::from_millis(1));
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        let (mut read, mut lost) = (0, 0);
        for line in lines {
            match line.strip_prefix("nat64handoff: ") {
                Some(told) => lost += told.split(' ').next().unwrap().parse::<usize>().unwrap(),
                None => read += 1,
            }
            if read + lost == said {
                break;
            }
        }
        assert!(lost > 0 && read >= LINES_MAX - 1, "{read} and {lost}");
        queue.flush(Duration::from_secs(20));
        assert!(queue.lock().lines.is_empty());
    }

    #[test]
    fn each_line_has_its_priority_in_the_journal() {
        let warning = |journal| line(Priority::Warning, format_args!("one\ntwo"), journal);
        assert_eq!(warning(true), "<4>nat64handoff: one\n<4>two\n");
        assert_eq!(warning(false), "nat64handoff: one\ntwo\n");
    }
}
