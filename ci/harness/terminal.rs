//! A program on a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::harness::process::{print_if_failed, wait_until};

/// A process whose standard error and input are a terminal. It is killed with the value.
pub struct Terminal {
    child: Child,
    _keys: File,
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
        Terminal { child, _keys: keys, written, reader: Some(reader) }
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
