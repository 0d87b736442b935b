//! How much memory this process may have: that of the machine, or less where a control group or a
//! limit of the process says so.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use rustix::system::sysinfo;

/// What replay takes besides the tables.
const REPLAY_OCTETS: u64 = 96 << 20;

/// The least of all that limits memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Octets.
    pub octets: u64,
    /// What says so.
    pub by: LimitedBy,
}

/// What limits memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitedBy {
    /// There is no more in the machine.
    Machine,
    /// A file of a control group.
    Group(PathBuf),
    /// The limit on addresses.
    AddressSpace,
}

impl fmt::Display for LimitedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitedBy::Machine => f.write_str("the memory of the machine"),
            LimitedBy::Group(file) => write!(f, "{}", file.display()),
            LimitedBy::AddressSpace => f.write_str("RLIMIT_AS"),
        }
    }
}

/// What is known of the memory of this process.
pub fn of_process() -> Option<Memory> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let text = |path: &str| read(Path::new(path)).unwrap_or_default();
    // A service may not see the file, and a container may see less in it than the kernel says.
    let machine = line_of(&text("/proc/meminfo"), "MemTotal:").or_else(of_machine);
    let addresses = getrlimit(Resource::As).current;
    let groups = in_groups(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"), read);
    let machine = machine.map(|octets| Memory { octets, by: LimitedBy::Machine });
    let addresses = addresses.map(|octets| Memory { octets, by: LimitedBy::AddressSpace });
    machine.into_iter().chain(addresses).chain(groups).min_by_key(|memory| memory.octets)
}

/// Whether there may be a second process like this one for a while.
pub fn has_room_for_another() -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let own = resident(&read("/proc/self/statm"));
    let meminfo = line_of(&read("/proc/meminfo"), "MemAvailable:");
    let available = meminfo.or_else(|| available(&read("/sys/fs/cgroup/memory.stat")));
    match (own, of_process()) {
        (Some(own), Some(Memory { octets, .. })) => is_room(own, octets, available),
        _ => false,
    }
}

/// What the machine has free or can give back, where the service may not see /proc/meminfo:
/// `stat` is that of the highest control group that it sees, empty where it sees none.
fn available(stat: &str) -> Option<u64> {
    let octets = |name: &str| -> u64 {
        let line = stat.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    let files = octets("file ").saturating_sub(octets("shmem "));
    let system = sysinfo();
    let free = system.freeram.checked_add(system.bufferram)?;
    let free = free.checked_mul(u64::from(system.mem_unit))?;
    free.checked_add(files.saturating_add(octets("slab_reclaimable ")))
}

/// Whether there is room for two processes, one of which has `own` octets, for a third of that
/// besides, and for what replay takes for a while.
fn is_room(own: u64, limit: u64, available: Option<u64>) -> bool {
    let another = own.saturating_add(own / 3).saturating_add(REPLAY_OCTETS);
    own.saturating_add(another) <= limit && available.is_none_or(|available| another <= available)
}

/// The octets that this process has in memory.
fn resident(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

fn of_machine() -> Option<u64> {
    let system = sysinfo();
    system.totalram.checked_mul(u64::from(system.mem_unit))
}

/// A line of /proc/meminfo, in octets.
fn line_of(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kibioctets: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibioctets.checked_mul(1024)
}

/// The lowest limit of the groups that the process is in, and of all above them: of both versions,
/// as a system may have both. `groups` is /proc/self/cgroup.
fn in_groups(
    groups: &str,
    mountinfo: &str,
    read: impl Fn(&Path) -> Option<String>,
) -> Option<Memory> {
    /// Above the second the kernel slows us down so much that nothing is gained.
    const VERSION_2: &[&str] = &["memory.max", "memory.high"];
    const VERSION_1: &[&str] = &["memory.limit_in_bytes"];
    let mut least: Option<Memory> = None;
    for group in groups.lines() {
        let mut fields = group.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let is_version_2 = controllers.is_empty();
        if !is_version_2 && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let Some((mount, below)) = place_of(path, mountinfo, is_version_2) else { continue };
        let files = if is_version_2 { VERSION_2 } else { VERSION_1 };
        let directory = mount.join(below);
        let above = directory.ancestors().take_while(|directory| directory.starts_with(&mount));
        for file in above.flat_map(|directory| files.iter().map(|file| directory.join(file))) {
            // "max" where there is no limit.
            let Some(octets) = read(&file).and_then(|text| text.trim().parse().ok()) else {
                continue;
            };
            if least.as_ref().is_none_or(|least| octets < least.octets) {
                least = Some(Memory { octets, by: LimitedBy::Group(file) });
            }
        }
    }
    least
}

/// Where the hierarchy is mounted, and where in it the group `path` is: below the mount's root, or
/// at it, if the group is above what this process sees.
fn place_of(path: &str, mountinfo: &str, is_version_2: bool) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (own, system) = line.split_once(" - ")?;
        let mut own = own.split(' ').skip(3);
        let (root, mount) = (own.next()?, own.next()?);
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        let is_it = match is_version_2 {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|name| name == "memory"),
        };
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let is_above = below.components().any(|part| part.as_os_str() == "..");
        let below = if is_above { PathBuf::new() } else { below.to_owned() };
        is_it.then(|| (PathBuf::from(mount), below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 30 0:23 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:24 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
32 25 0:30 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory
";
    const CONTAINER: &str =
        "40 30 0:30 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    const UNIFIED: &str = "26 25 0:24 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";

    fn limit(groups: &str, mountinfo: &str, files: &[(&str, &str)]) -> Option<(u64, String)> {
        let read = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(format!("{}\n", file.1))
        };
        in_groups(groups, mountinfo, read).map(|memory| (memory.octets, memory.by.to_string()))
    }

    #[test]
    fn another_process_needs_a_third_more_than_this_one() {
        assert!(is_room(300 << 20, 796 << 20, None));
        assert!(!is_room(300 << 20, 795 << 20, None), "a limit");
        assert!(is_room(300 << 20, u64::MAX, Some(496 << 20)));
        assert!(!is_room(300 << 20, u64::MAX, Some(495 << 20)), "others have it");
        assert!(!is_room(u64::MAX, u64::MAX - 1, None));
        let own = resident(&fs::read_to_string("/proc/self/statm").unwrap()).unwrap();
        assert!((1 << 20..1 << 40).contains(&own), "{own}");
        assert!(of_machine().unwrap() > own);
        let free = available("").unwrap();
        let files = available("anon 7\nfile 50000\nshmem 20000\nslab_reclaimable 1000\n");
        // Others take some, and give some back, in between.
        assert!(files.unwrap().abs_diff(free) < 1 << 30 && free > 1 << 20);
        assert_eq!(line_of("MemTotal: 8 kB\nMemAvailable:   7 kB\n", "MemAvailable:"), Some(7168));
    }

    #[test]
    fn the_lowest_limit_up_the_tree_counts() {
        let service = "0::/system.slice/nat64handoff.service\n";
        let [slice, own, high] = [
            "/sys/fs/cgroup/system.slice/memory.max",
            "/sys/fs/cgroup/system.slice/nat64handoff.service/memory.max",
            "/sys/fs/cgroup/system.slice/nat64handoff.service/memory.high",
        ];
        let of = |files: &[_]| limit(service, UNIFIED, files);
        assert_eq!(of(&[(slice, "max"), (own, "max"), (high, "max")]), None);
        assert_eq!(of(&[(slice, "5000"), (own, "6000")]), Some((5000, slice.into())));
        assert_eq!(of(&[(slice, "5000"), (own, "4000")]), Some((4000, own.into())));
        assert_eq!(of(&[(own, "4000"), (high, "3000")]), Some((3000, high.into())));
        // Outside of the hierarchy that is mounted here.
        assert_eq!(of(&[("/sys/memory.max", "1")]), None);
    }

    #[test]
    fn both_versions_and_containers() {
        let groups = "4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/\n";
        let file = "/sys/fs/cgroup/memory/a/memory.limit_in_bytes";
        assert_eq!(limit(groups, HYBRID, &[(file, "700")]), Some((700, file.into())));
        let unified = "/sys/fs/cgroup/unified/memory.max";
        let both = [(file, "700"), (unified, "600")];
        assert_eq!(limit(groups, HYBRID, &both), Some((600, unified.into())));
        let file = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        for path in ["/docker/ab", "/elsewhere", "/docker/ab/../.."] {
            let groups = format!("4:memory:{path}\n");
            assert_eq!(limit(&groups, CONTAINER, &[(file, "9")]), Some((9, file.into())));
        }
        assert_eq!(limit("", HYBRID, &[(file, "9")]), None);
        assert_eq!(limit("nonsense\n4:memory:/\n", "nonsense", &[(file, "9")]), None);
    }

    #[test]
    fn the_memory_of_the_machine() {
        assert_eq!(
            line_of("MemFree: 1 kB\nMemTotal:       24657920 kB\n", "MemTotal:"),
            Some(24657920 * 1024)
        );
        assert_eq!(line_of("MemTotal: 7\n", "MemTotal:"), None);
        assert!(of_process().unwrap().octets > 1 << 20);
    }
}
