//! A control group and a bpffs of a test's own: where `peer-names attach` puts what it loads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

/// A control group cannot be removed before the last process in it is gone.
const TRIES: u32 = 500;
const TRY_EVERY: Duration = Duration::from_millis(20);

pub struct Place {
    group: PathBuf,
    folder: TempDir,
}

impl Place {
    /// Where it cannot be had: what is missing.
    pub fn make() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find(|line| line.contains(" cgroup2 "));
        let root = root.and_then(|line| line.split(' ').nth(1)).ok_or("control groups v2")?;
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy().into_owned();
        let group = Path::new(root).join(format!("nat64handoff{name}"));
        fs::create_dir(&group).map_err(|error| {
            format!("a control group v2 ({}: {error}): run it as root", group.display())
        })?;
        let place = Self { group, folder };
        let bpf = place.path("bpf");
        fs::create_dir(&bpf).unwrap();
        let mount = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpf).status();
        match mount.unwrap().success() {
            true => Ok(place),
            false => Err("a bpffs: run it as root".into()),
        }
    }

    /// In a folder that goes with the value.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the maps are to be.
    pub fn maps(&self) -> String {
        self.path("bpf/maps").to_str().unwrap().to_owned()
    }

    /// The arguments of the program that attach its own there, for a server that is root.
    pub fn attaching(&self) -> Vec<String> {
        let (group, maps) = (self.group.to_str().unwrap(), self.maps());
        let words = ["peer-names", "attach", "--cgroup", group, "--maps", &maps, "--user", "0"];
        words.map(str::to_owned).to_vec()
    }

    /// A line of a shell that executes another one in the group.
    pub fn within(&self, line: &str) -> String {
        format!("echo $$ > {}/cgroup.procs && exec {line}", self.group.display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path("bpf")).status();
        for _ in 0..TRIES {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            thread::sleep(TRY_EVERY);
        }
        eprintln!("{} is left, as a process is in it", self.group.display());
    }
}
