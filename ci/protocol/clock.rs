//! The clocks of a server, which a test moves on: nobody waits for minutes, or days, to pass.

use crate::harness::skip::cannot_run;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/protocol/clock.c");

pub struct Clock {
    folder: tempfile::TempDir,
}

impl Clock {
    /// As far as the kernel's.
    pub fn new() -> Clock {
        let clock = Clock { folder: tempfile::tempdir().unwrap() };
        fs::write(clock.file(), [0; 16]).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(clock.library())
            .arg(SOURCE)
            .status();
        match built {
            Ok(status) => assert!(status.success(), "cc does not build {SOURCE}"),
            Err(error) if error.kind() == ErrorKind::NotFound => cannot_run("a C compiler (cc)"),
            Err(error) => panic!("cc: {error}"),
        }
        clock
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ahead")
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    /// What this starts goes by this clock.
    pub fn drives(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.library()).env("CLOCK_AHEAD", self.file());
    }

    /// From now on, the monotonic clock is this far ahead of the kernel's.
    #[allow(dead_code, reason = "not every test program moves both")]
    pub fn set_ahead(&self, seconds: u64) {
        self.write(seconds, 0);
    }

    /// From now on, the wall clock is this far ahead of the kernel's.
    pub fn set_wall_ahead(&self, seconds: u64) {
        self.write(seconds, 8);
    }

    fn write(&self, seconds: u64, at: u64) {
        // In place: the server has the file in its memory.
        let file = OpenOptions::new().write(true).open(self.file()).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), at).unwrap();
    }
}
