//! A program on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::harness::process::{print_if_failed, wait_until};

/// A process whose standard error and input are a terminal. It is killed with the value.
pub struct Terminal {
    child: Child,
    keys: File,
    /// All that was written to the terminal.
    written: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// With so many rows and columns; standard output is the terminal, too, unless there is
    /// another.
    pub fn spawn(command: &mut Command, size: (u16, u16), stdout: Option<Stdio>) -> Terminal {
        let (mut master, mut slave) = (0, 0);
        let size = window(size);
        let none = std::ptr::null_mut();
        // SAFETY: both numbers are written, the size is read; there is no name and no setting.
        let made = unsafe { libc::openpty(&mut master, &mut slave, none, none.cast(), &size) };
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: they were made just now and are nobody else's.
        let (master, slave) =
            unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let copy = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(copy()).stderr(copy()).stdout(stdout.unwrap_or_else(copy));
        command.env("TERM", "xterm-256color");
        // SAFETY: between fork and exec there are two calls of the system.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(slave);
        // The command has copies of it.
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
        let (keys, mut screen) = (File::from(master.try_clone().unwrap()), File::from(master));
        let written = Arc::new(Mutex::new(Vec::new()));
        let text = Arc::clone(&written);
        let reader = thread::spawn(move || {
            let mut octets = [0; 65536];
            // An error tells that no process has the terminal any more.
            while let Ok(count @ 1..) = screen.read(&mut octets) {
                text.lock().unwrap().extend(&octets[..count]);
            }
        });
        Terminal { child, keys, written, reader: Some(reader) }
    }

    /// All that was written so far.
    pub fn written(&self) -> Vec<u8> {
        self.written.lock().unwrap().clone()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.written()).into_owned()
    }

    /// Waits until it has written that.
    pub fn says(&self, text: &str, patience: Duration) -> bool {
        wait_until(patience, || self.text().contains(text))
    }

    /// What stands on it, if it is of this size now.
    pub fn screen(&self, (rows, columns): (u16, u16)) -> String {
        let [rows, columns] = [rows, columns].map(|count| NonZero::new(count).unwrap());
        let mut screen = vt100::Parser::new(rows, columns, 0);
        screen.process(&self.written());
        screen.screen().contents()
    }

    /// Waits until that stands on it.
    pub fn shows(&self, text: &str, size: (u16, u16), patience: Duration) {
        let shown = wait_until(patience, || self.screen(size).contains(text));
        assert!(shown, "{text:?} does not stand on:\n{}", self.screen(size));
    }

    /// As if it was typed.
    pub fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, size: (u16, u16)) {
        // SAFETY: the size is read.
        let done = unsafe { libc::ioctl(self.keys.as_raw_fd(), libc::TIOCSWINSZ, &window(size)) };
        assert_eq!(done, 0);
    }

    /// The settings of the terminal.
    pub fn settings(&self) -> (u32, u32, u32) {
        // SAFETY: zeros are settings; they are written.
        let settings = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.keys.as_raw_fd(), &mut settings), 0);
            settings
        };
        (settings.c_iflag, settings.c_oflag, settings.c_lflag)
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: takes numbers alone. The child was not waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits until it ends. All that it wrote can be read then.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let mut status = None;
        wait_until(patience, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap_or_else(|| panic!("it does not end:\n{}", self.text()));
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        print_if_failed("the program on the terminal", &self.text());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn window((rows, columns): (u16, u16)) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
