//! A Debian that is booted by systemd: the system of this machine behind an overlay in memory, with
//! a network of its own.

use crate::harness::process::wait_until;
use crate::harness::skip::cannot_run;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The root folder of another Debian or Ubuntu, to be booted instead of this machine's.
const OTHER_SYSTEM: &str = "CI_SYSTEM";
const BOOT_MAX: Duration = Duration::from_secs(120);
/// What all its files may take that differ from this machine's.
const ROOM: &str = "512m";
/// Where the repository and the program under test are seen.
pub const CHECKOUT: &str = "/root/checkout";
const PROGRAM: &str = "/usr/lib/under-test/nat64handoff";

/// Ends with the value; nothing of it is left.
pub struct Booted {
    folder: PathBuf,
    nspawn: Child,
    options: &'static [&'static str],
}

/// What a command said there.
pub struct Said {
    pub code: i32,
    pub text: String,
}

impl Said {
    /// Of `install`: its steps, and the commands of each.
    pub fn steps(&self) -> Vec<String> {
        let is_step = |line: &&str| line.starts_with("== ") || line.starts_with("   $ ");
        self.text.lines().filter(is_step).map(str::to_owned).collect()
    }
}

impl Booted {
    /// Waits until the system runs.
    pub fn new() -> Booted {
        Booted::with(&[])
    }

    /// The same, with further options of systemd-nspawn.
    pub fn with(options: &'static [&'static str]) -> Booted {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nat64handoff-boot-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir(&folder).unwrap();
        mount(
            &folder,
            &format!(
                "mount -t tmpfs -o size={ROOM},mode=755 tmpfs . && cd \"$PWD\" && mkdir up work root"
            ),
        );
        prepare(&folder.join("up"));
        let root = overlaid(&folder);
        let Some(nspawn) = boot(&folder, &root, options) else {
            unmount(&folder);
            cannot_run("systemd-nspawn (Debian's package systemd-container)")
        };
        let mut booted = Booted { folder, nspawn, options };
        booted.wait_for_boot();
        booted
    }

    fn wait_for_boot(&mut self) {
        let mut ended = false;
        let runs = wait_until(BOOT_MAX, || {
            ended = self.nspawn.try_wait().unwrap().is_some();
            ended
                || self.init().is_some() && {
                    let state = self.run("systemctl is-system-running").text;
                    ["running", "degraded"].contains(&state.trim())
                }
        });
        if ended || !runs {
            let console = fs::read_to_string(self.folder.join("console")).unwrap_or_default();
            cannot_run(&format!("a system that boots in a container: {console}"));
        }
        self.done("ip link set lo up");
    }

    /// The process that is its init, as this machine numbers it.
    fn init(&self) -> Option<u32> {
        let number = self.nspawn.id();
        let children = fs::read_to_string(format!("/proc/{number}/task/{number}/children")).ok()?;
        let mut children = children.split_whitespace().filter_map(|child| child.parse().ok());
        children.find(|child| {
            let name = fs::read_to_string(format!("/proc/{child}/comm"));
            name.is_ok_and(|name| name.trim_end() == "systemd")
        })
    }

    /// Runs a script there.
    pub fn run(&self, script: &str) -> Said {
        let Some(init) = self.init() else {
            return Said { code: -1, text: "it does not run".into() };
        };
        let output = Command::new("nsenter")
            .args(["--target", &init.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args([
                "env",
                "-i",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/root",
            ])
            .args(["bash", "-c", &format!("cd /root; exec 2>&1; {script}")])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Said { code: output.status.code().unwrap_or(-1), text }
    }

    /// What a script says that must not fail.
    pub fn done(&self, script: &str) -> String {
        let Said { code, text } = self.run(script);
        assert_eq!(code, 0, "{script}\n{text}");
        text
    }

    /// Copies a file there.
    pub fn bring(&self, file: &Path, to: &str) {
        fs::copy(file, self.folder.join("root").join(to.trim_start_matches('/'))).unwrap();
    }

    /// Runs `install` there.
    pub fn install(&self, arguments: &str) -> Said {
        self.run(&format!("{CHECKOUT}/install {arguments}"))
    }

    /// The service, after `install` with these arguments.
    pub fn installed(arguments: &str) -> Booted {
        let booted = Booted::new();
        let Said { code, text } = booted.install(arguments);
        assert_eq!(code, 0, "{text}\n{}", booted.run("journalctl --no-pager -n 50").text);
        booted
    }

    /// A property of the service.
    pub fn property(&self, name: &str) -> String {
        let shown = self.done(&format!("systemctl show --property={name} --value nat64handoff"));
        shown.trim_end().to_owned()
    }

    /// How much the service may do, as systemd-analyze counts: at most 10.
    pub fn exposure(&self) -> f64 {
        let said = self.done("systemd-analyze --no-pager security nat64handoff");
        let exposure = said.lines().last().and_then(|line| line.split("service: ").nth(1));
        exposure.and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a number")
    }

    /// Whether the server's process has no capability, and can get none.
    pub fn server_has_no_capability(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server())).unwrap();
        let is_empty = |set: &&str| status.contains(&format!("{set}:\t0000000000000000"));
        ["CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().all(is_empty)
            && status.contains("NoNewPrivs:\t1")
            && status.contains("Seccomp:\t2")
    }

    /// The server's process, as this machine numbers it.
    pub fn server(&self) -> u32 {
        self.server_now().expect("the server's process")
    }

    /// The server's process, or none where it has just ended.
    pub fn server_now(&self) -> Option<u32> {
        let program = |number: &str| fs::read_to_string(format!("/proc/{number}/status")).ok();
        let within = format!("NSpid:\t{{}}\t{}", self.property("MainPID"));
        let inner = within.rsplit('\t').next().unwrap_or_default().to_owned();
        let init = self.init().expect("it runs");
        let space = |number: u32| fs::read_link(format!("/proc/{number}/ns/pid")).ok();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let mut numbers = all.filter_map(|entry| entry.file_name().into_string().ok());
        let found = numbers.find(|number| {
            let Ok(outer) = number.parse() else { return false };
            let fits = space(outer).is_some() && space(outer) == space(init);
            let status = fits.then(|| program(number)).flatten().unwrap_or_default();
            let own = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            own.is_some_and(|own| own.split_whitespace().last() == Some(&inner))
        });
        found.map(|number| number.parse().unwrap())
    }

    /// Boots it again.
    pub fn reboot(&mut self) {
        self.done("systemctl reboot");
        // The container ends; what is on its disk stays.
        assert!(wait_until(BOOT_MAX, || self.nspawn.try_wait().unwrap().is_some()), "it goes on");
        self.nspawn = boot(&self.folder, &self.folder.join("root"), self.options).unwrap();
        self.wait_for_boot();
    }

    /// Its network.
    pub fn network(&self) -> Network {
        let init = self.init().expect("it runs");
        Network(fs::File::open(format!("/proc/{init}/ns/net")).unwrap())
    }

    /// Every file that differs from this machine's, with its mode, owner and content or target;
    /// not what the system itself writes as it runs.
    pub fn files(&self) -> String {
        const OF_THE_SYSTEM: &str = "/var/(log|cache|tmp)/|/var/lib/[^s]|/run/|/tmp/|/root/|/srv/|\
             /etc/(passwd|group|shadow|gshadow|subuid|subgid)-? |/etc/\\.pwd\\.lock ";
        let up = self.folder.join("up");
        // A folder that is only here because something in it was made, or removed again, is none.
        let script = format!(
            "cd {} && find . -mindepth 1 -printf '/%P %y %m %u %l.\\n' | grep -vE '^({OF_THE_SYSTEM})' | sort |
             while read -r path rest; do
             [ \"$rest\" != \"$(find \"$path\" -maxdepth 0 -type d -printf '%y %m %u %l.\\n' 2>/dev/null)\" ] || continue
             sum=; [ ! -f \".$path\" ] || sum=$(md5sum < \".$path\"); echo \"$path $rest $sum\"; done",
            up.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Where sockets can be.
pub struct Network(fs::File);

impl Network {
    /// Moves the calling thread there.
    pub fn enter(&self) {
        // SAFETY: takes numbers alone; the descriptor is open.
        let done = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if let Some(init) = self.init() {
            // SAFETY: takes numbers alone. SIGRTMIN+4: systemd powers off.
            unsafe { libc::kill(init as i32, libc::SIGRTMIN() + 4) };
        }
        wait_until(Duration::from_secs(20), || self.nspawn.try_wait().unwrap().is_some());
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
        unmount(&self.folder);
    }
}

/// The control groups that a script gives a container: one for each hierarchy of this machine, as
/// systemd-nspawn that keeps its unit would put all containers into the same.
const GROUPS: &str = "/sys/fs/cgroup/{,systemd/,unified/}";

/// Boots what is in a folder. None: there is no systemd-nspawn.
fn boot(folder: &Path, root: &Path, options: &[&str]) -> Option<Child> {
    let log = fs::File::create(folder.join("console")).unwrap();
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap();
    Command::new("systemd-nspawn").arg("--version").stdout(Stdio::null()).status().ok()?;
    let script = format!(
        "for group in {GROUPS}; do [ ! -e $group/cgroup.procs ] || {{ mkdir -p $group/{name} && \
         echo $$ >$group/{name}/cgroup.procs; }}; done; exec systemd-nspawn \"$@\""
    );
    let mut command = Command::new("bash");
    command
        .args(["-c", &script, "-"])
        .args(["--register=no", "--keep-unit", "--private-network", "--boot", "--quiet"])
        // What a machine's own system may do.
        .arg(
            "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        )
        .arg(format!("--machine={name}"))
        .args(options)
        .arg("--directory")
        .arg(root)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    // SAFETY: takes numbers alone, and may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().ok()
}

/// The root of the system to be booted.
fn lower() -> String {
    std::env::var(OTHER_SYSTEM).unwrap_or_else(|_| "/".into())
}

/// That root behind an overlay in memory, without the services that it starts, and without DNS: a
/// question to a resolver that is not there is answered by an ICMP error, and those are counted.
fn overlaid(folder: &Path) -> PathBuf {
    let lower = lower();
    mount(
        folder,
        &format!(
            "mount -t overlay overlay -o lowerdir={lower},upperdir=up,workdir=work root && \
             rm -f root/etc/systemd/system/multi-user.target.wants/*.service && \
             sed -i 's/^hosts:.*/hosts: files/' root/etc/nsswitch.conf"
        ),
    );
    folder.join("root")
}

/// Runs a script in a folder that becomes a root.
fn mount(folder: &Path, script: &str) {
    // SAFETY: takes nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    let init = fs::canonicalize(Path::new(&lower()).join("sbin/init")).unwrap_or_default();
    if !is_root || !init.ends_with("systemd/systemd") {
        let _ = fs::remove_dir(folder);
        cannot_run(
            "root, and a system whose /sbin/init is systemd (Debian's package systemd-sysv)",
        );
    }
    let script = format!("cd {} && {script}", folder.display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    if !output.status.success() {
        unmount(folder);
        cannot_run(&format!("an overlay of /: {}", String::from_utf8_lossy(&output.stderr)));
    }
}

fn unmount(folder: &Path) {
    let path = folder.display();
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap();
    // The last of its processes may still hold it.
    let script = format!(
        "umount -l {path}/root; umount -l {path}; for _ in $(seq 50); do rmdir {path} && break; sleep 0.1; done
         for group in {GROUPS}{name}; do for _ in $(seq 50); do [ -d $group ] || break
         find $group -depth -type d -exec rmdir {{}} +; sleep 0.1; done; done"
    );
    let _ = Command::new("bash").args(["-c", &script]).stderr(Stdio::null()).status();
}

/// A checkout with a commit, the program under test, and the stand-in for cargo.
fn prepare(up: &Path) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let under = |path: &str| up.join(path.trim_start_matches('/'));
    let checkout = under(CHECKOUT);
    let parts = checkout.join("src/programs/service");
    fs::create_dir_all(&parts).unwrap();
    for name in ["install", "Cargo.toml"] {
        fs::copy(repository.join(name), checkout.join(name)).unwrap();
    }
    let all = fs::read_dir(repository.join("src/programs/service")).unwrap().flatten();
    for part in all.filter(|part| part.path().is_file()) {
        fs::copy(part.path(), parts.join(part.file_name())).unwrap();
    }
    fs::write(checkout.join("program"), "good\n").unwrap();
    let program = under(PROGRAM);
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_nat64handoff"), &program).unwrap();
    let tools = under("/usr/lib/rust-1.999/bin");
    fs::create_dir_all(&tools).unwrap();
    fs::write(tools.join("rustc"), RUSTC).unwrap();
    // Before any other that this machine has.
    fs::create_dir_all(under("/usr/local/bin")).unwrap();
    let link = under("/usr/local/bin/rustc");
    std::os::unix::fs::symlink("/usr/lib/rust-1.999/bin/rustc", link).unwrap();
    fs::write(tools.join("cargo"), CARGO).unwrap();
    // What is upstream here is a folder of root's.
    for folder in ["/etc", "/usr/local/etc"] {
        fs::create_dir_all(under(folder)).unwrap();
        fs::write(under(folder).join("gitconfig"), "[safe]\n\tdirectory = *\n").unwrap();
    }
    let script = format!(
        "chmod 755 {tools}/* && cd {checkout} && git init -q -b main && git add . && \
         git -c user.name=test -c user.email=test@example.org commit -qm one && \
         git clone -q --bare . {origin} && git remote add origin /srv/origin.git",
        tools = tools.display(),
        checkout = checkout.display(),
        origin = under("/srv/origin.git").display(),
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const RUSTC: &str = "#!/bin/sh
case $1 in
    --print) echo /usr/lib/rust-1.999 ;;
    --version) echo 'rustc 1.999.0 (a stand-in)' ;;
esac
";

/// What the file `program` of the commit says is what it builds.
const CARGO: &str = r#"#!/bin/bash
set -e
[ "$1" = build ] || exit 0
mkdir -p "$CARGO_TARGET_DIR/release"
out=$CARGO_TARGET_DIR/release/nat64handoff
real=/usr/lib/under-test/nat64handoff
echo "   Compiling a stand-in" >&2
rm -f "$out"
case $(head -n 1 program) in
    good*) cp $real "$out" ;;
    unbuildable) echo 'error: it does not compile' >&2; exit 101 ;;
    failing)
        printf '#!/bin/sh\n[ "$1" != self-check ] || exit 1\nexec %s "$@"\n' $real >"$out"
        chmod 755 "$out" ;;
    crashing)
        printf '%s\n' '#include <stdlib.h>' '#include <string.h>' '#include <unistd.h>' \
            'int main(int n, char **a) { (void)n; if (strcmp(a[1], "serve")) { execv(REAL, a); return 1; }' \
            'sleep(2); abort(); }' >"$CARGO_TARGET_DIR/crashing.c"
        cc -DREAL="\"$real\"" -o "$out" "$CARGO_TARGET_DIR/crashing.c" ;;
esac
"#;
