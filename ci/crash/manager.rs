//! A service manager that only listens.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

/// Counts the signs of life of a server, as the service manager's watchdog sees them, and hears
/// which process is the service.
pub struct Manager {
    folder: tempfile::TempDir,
    signs_of_life: Arc<AtomicUsize>,
    /// 0: nobody has said so.
    service: Arc<AtomicU32>,
}

impl Manager {
    pub fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let signs_of_life = Arc::new(AtomicUsize::new(0));
        let service = Arc::new(AtomicU32::new(0));
        let (counted, heard) = (Arc::clone(&signs_of_life), Arc::clone(&service));
        thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(length) = manager.recv(&mut octets) {
                let is_one = octets[..length].starts_with(b"WATCHDOG=1");
                counted.fetch_add(usize::from(is_one), Ordering::Relaxed);
                let text = String::from_utf8_lossy(&octets[..length]);
                let process = text.lines().find_map(|line| line.strip_prefix("MAINPID="));
                if let Some(process) = process {
                    heard.store(process.parse().unwrap(), Ordering::Release);
                }
            }
        });
        Manager { folder, signs_of_life, service }
    }

    /// What the command starts tells it of itself, each second.
    pub fn watches(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.env("WATCHDOG_USEC", "1000000");
    }

    /// So far.
    pub fn signs_of_life(&self) -> usize {
        self.signs_of_life.load(Ordering::Relaxed)
    }

    /// The process that is the service now, if it is not the one that was started.
    pub fn service(&self) -> Option<u32> {
        Some(self.service.load(Ordering::Acquire)).filter(|&process| process != 0)
    }
}
