//! Small file systems, in a mount namespace of the calling thread alone: what is mounted here is
//! not seen elsewhere, and is gone with the thread and its children, whatever happens; but for one
//! that is frozen when the test is killed.

use crate::harness::skip::cannot_run;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system, mounted as long as the value is there.
pub struct Mounted {
    pub path: PathBuf,
}

/// Gives this thread, and the servers that it starts, a mount namespace of their own.
fn private_namespace() {
    let (none, root) = (CString::new("none").unwrap(), CString::new("/").unwrap());
    // SAFETY: both calls get flags and strings that live long enough; only this thread changes.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                none.as_ptr(),
                root.as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
    };
    if !done {
        let error = std::io::Error::last_os_error();
        cannot_run(&format!("a mount namespace: run it as root ({error})"));
    }
}

impl Mounted {
    /// Makes the directory and mounts a tmpfs on it.
    pub fn tmpfs(path: &Path, kib: usize) -> Mounted {
        Mounted::tmpfs_with(path, &format!("size={kib}k,mode=0700"))
    }

    pub fn tmpfs_with(path: &Path, options: &str) -> Mounted {
        private_namespace();
        std::fs::create_dir_all(path).unwrap();
        let tmpfs = CString::new("tmpfs").unwrap();
        let target = CString::new(path.as_os_str().as_bytes()).unwrap();
        let options = CString::new(options).unwrap();
        // SAFETY: all four strings end in NUL and outlive the call.
        let result = unsafe {
            libc::mount(tmpfs.as_ptr(), target.as_ptr(), tmpfs.as_ptr(), 0, options.as_ptr().cast())
        };
        assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
        Mounted { path: path.to_path_buf() }
    }

    /// An ext4 on a new directory of this name, in a file beside it: with inodes that are used
    /// again, and attributes.
    pub fn ext4(directory: &Path, name: &str) -> Mounted {
        private_namespace();
        let (image, path) = (directory.join(format!("{name}.image")), directory.join(name));
        File::create(&image).unwrap().set_len(8 << 20).unwrap();
        std::fs::create_dir(&path).unwrap();
        let (image, on) = (image.as_os_str(), path.as_os_str());
        can("mkfs.ext4 -q -b 1024 -I 256", &[image]);
        can("mount -o loop", &[image, on]);
        Mounted { path }
    }

    /// A btrfs on a new directory of this name, in a file beside it, and in it a directory that has
    /// a quota: only that one is mounted, and there is room elsewhere.
    pub fn quota(directory: &Path, name: &str, limit: &str) -> Mounted {
        private_namespace();
        let (image, path) = (directory.join(format!("{name}.image")), directory.join(name));
        let own = path.join("own");
        File::create(&image).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(&path).unwrap();
        can("mkfs.btrfs -q", &[image.as_os_str()]);
        can("mount -o loop", &[image.as_os_str(), path.as_os_str()]);
        can("btrfs quota enable", &[path.as_os_str()]);
        can("btrfs subvolume create", &[own.as_os_str()]);
        can(&format!("btrfs qgroup limit {limit}"), &[own.as_os_str()]);
        can("mount --bind", &[own.as_os_str(), path.as_os_str()]);
        Mounted { path }
    }

    /// Whoever changes anything on it waits, as on a disk that does not answer, until the value is
    /// dropped.
    pub fn frozen(&self) -> Frozen {
        can("fsfreeze --freeze", &[self.path.as_os_str()]);
        Frozen(self.path.clone())
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Takes all the room that is left, to the last octet.
    pub fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.ballast()).unwrap();
        let mut piece = vec![0x55; 1 << 20];
        while !piece.is_empty() {
            match file.write(&piece) {
                Ok(1..) => {}
                _ => piece.truncate(piece.len() / 2),
            }
        }
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

/// A file system that hangs.
pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
        if !thawed.is_ok_and(|status| status.success()) {
            eprintln!("{} hangs for ever", self.0.display());
        }
    }
}

/// Runs a command with these arguments behind its own; a test that needs it cannot run where it
/// fails.
fn can(command: &str, last: &[&OsStr]) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).args(last).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            cannot_run(&format!("{command}: {}", String::from_utf8_lossy(&output.stderr)))
        }
        Err(error) => cannot_run(&format!("{command}: {error}")),
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let target = CString::new(self.path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends in NUL and outlives the call. The mount is our own.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}
