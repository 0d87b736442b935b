//! The programs that take part: server, gateway, nginx, curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::judge::eventlog::{self, Event, Kind};
use crate::judge::names::Names;
use crate::process::{Process, run, wait_until};

const NAT64HANDOFF: &str = env!("CARGO_BIN_EXE_nat64handoff");

/// Where nginx serves the files of its folder.
pub fn url(file: &str) -> String {
    url_at(SERVICE6, file)
}

fn url_at(address: Ipv6Addr, file: &str) -> String {
    format!("http://[{address}]/{file}")
}

/// The handoff server, on the host of the service.
pub struct Server {
    process: Process,
    log: PathBuf,
}

impl Server {
    /// Starts it, or starts it again: state and log are those from before.
    pub fn start(field: &Field) -> Server {
        Server::start_with(field, &[])
    }

    /// With further options.
    pub fn start_with(field: &Field, options: &[&str]) -> Server {
        let (state, log) = (field.path("state"), field.path("events.log"));
        let listen = SERVICE.to_string();
        let mut arguments = vec!["serve", "--listen", &listen];
        arguments.extend(["--state", state.to_str().unwrap(), "--log", log.to_str().unwrap()]);
        arguments.extend(options);
        let mut process = Process::start(&field.server, NAT64HANDOFF, &arguments);
        process.wait_for("nat64handoff: serving");
        // Where the disk is slow, new clients are served later.
        if process.said().contains("the event log is not complete yet") {
            process.wait_for("new clients are served");
        }
        Server { process, log }
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.process.said()
    }

    pub fn wait_for_look(&self) {
        self.process.wait_for_look();
    }

    /// What happened so far. That the log does not contradict itself is checked here.
    pub fn events(&self) -> Vec<Event> {
        let events = eventlog::parse_all(&std::fs::read_to_string(&self.log).unwrap_or_default());
        eventlog::check_consistency(&events);
        events
    }

    /// Whom the addresses of the pool stand for.
    pub fn names(&self) -> Names {
        Names::of(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// All events of a kind: their NAT64, mapped port, client address and port.
    pub fn entries(&self, kind: Kind) -> Vec<(Ipv4Addr, u16, Ipv6Addr, u16)> {
        let of_kind = |event: Event| {
            let (port, client, client_port) = event.entry.filter(|_| event.kind == kind)?;
            Some((event.nat64, port, client, client_port))
        };
        self.events().into_iter().filter_map(of_kind).collect()
    }

    /// Who is behind a port of a NAT64, by the log alone. Waits until it says so.
    pub fn who(&self, nat64: Ipv4Addr, port: u16) -> (Ipv6Addr, u16) {
        let mut found = None;
        wait_until(&format!("the log says who is behind {nat64}:{port}"), || {
            let mut last = self.events().into_iter().rev();
            let event = last.find(|event| {
                let ours = event.nat64 == nat64 && event.kind != Kind::Conflict;
                ours && event.entry.is_some_and(|(mapped, ..)| mapped == port)
            });
            found = event.filter(|event| event.kind == Kind::Created).and_then(|event| event.entry);
            found.is_some()
        });
        let (_, client, client_port) = found.unwrap();
        (client, client_port)
    }

    /// Waits until it has a table for the NAT64.
    pub fn wait_until_known(&self, nat64: Ipv4Addr) {
        wait_until(&format!("the server knows {nat64}"), || {
            let known = |event: &Event| event.kind == Kind::Initialized && event.nat64 == nat64;
            self.events().iter().any(known)
        });
    }
}

/// The NAT64.
pub struct Gateway {
    process: Process,
}

impl Gateway {
    pub fn start(site: &Site) -> Gateway {
        Gateway::start_with(site, &["--secret", site.secret.to_str().unwrap()])
    }

    /// With other options than the file that keeps the key of authenticators.
    pub fn start_with(site: &Site, options: &[&str]) -> Gateway {
        Gateway::start_of(site, &[site.pool], options)
    }

    /// With these public addresses.
    pub fn start_of(site: &Site, pool: &[Ipv4Addr], options: &[&str]) -> Gateway {
        let pool: Vec<_> = pool.iter().map(ToString::to_string).collect();
        let (list, said) = (pool.join(","), pool.join(", "));
        let arguments = [&["gateway", "--pool", &list], options].concat();
        let mut process = Process::start(&site.nat64, NAT64HANDOFF, &arguments);
        process.wait_for(&format!(" -> {said} on nat64\n"));
        Gateway { process }
    }

    /// Waits until it has said this.
    pub fn wait_for(&mut self, what: &str) {
        self.process.wait_for(what);
    }

    /// How often a thread of this name began to run.
    pub fn turns(&self, thread: &str) -> u64 {
        self.process.turns(thread)
    }

    /// Does something while nothing is read from its device.
    pub fn while_stopped(&self, act: impl FnOnce()) {
        self.process.while_stopped(act);
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// What it counted under this name, when it has stopped.
    pub fn counted(&self, name: &str) -> u64 {
        let said = self.process.said();
        let line = said.lines().find(|line| line.contains("stopped: ")).expect("counts");
        let mut words = line.split([' ', ',']).skip_while(|word| *word != name).skip(1);
        words.next().and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }

    /// Empties it, as a reboot does.
    pub fn reboot(&self) {
        let times = || self.process.said().matches("all entries are forgotten").count();
        let before = times();
        self.process.signal(libc::SIGUSR1);
        wait_until("the NAT64 rebooted", || times() > before);
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn stop(&mut self) {
        self.process.stop();
    }
}

/// An nginx of our own, on port 80 of the service.
pub struct Nginx {
    _process: Process,
    folder: PathBuf,
}

/// A line of nginx's access log.
#[derive(Debug)]
pub struct Access {
    pub address: IpAddr,
    pub port: u16,
    pub path: String,
}

impl Nginx {
    pub fn start(field: &Field) -> Nginx {
        Nginx::start_at(field, &[&format!("{SERVICE}:80")])
    }

    /// One that listens there, the service's address among them.
    pub fn start_at(field: &Field, listen: &[&str]) -> Nginx {
        let folder = field.path("nginx");
        std::fs::create_dir_all(folder.join("files")).unwrap();
        let config = folder.join("nginx.conf");
        std::fs::write(&config, config_of(folder.to_str().unwrap(), listen)).unwrap();
        let arguments = ["-c", config.to_str().unwrap(), "-e", "stderr"];
        let process = Process::start(&field.server, "nginx", &arguments);
        let nginx = Nginx { _process: process, folder };
        nginx.put("hello", b"hello\n");
        wait_until("nginx listens", || {
            field.server.inside(|| std::net::TcpStream::connect((SERVICE, 80)).is_ok())
        });
        nginx
    }

    /// Serves that as a file.
    pub fn put(&self, name: &str, octets: &[u8]) {
        std::fs::write(self.folder.join("files").join(name), octets).unwrap();
    }

    /// The requests so far.
    pub fn accesses_so_far(&self) -> Vec<Access> {
        let log = std::fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        log.lines().map(Access::parse).collect()
    }

    /// The requests so far. Waits until there are `count`.
    pub fn accesses(&self, count: usize) -> Vec<Access> {
        let mut lines = Vec::new();
        wait_until(&format!("nginx answered {count} requests"), || {
            lines = self.accesses_so_far();
            lines.len() >= count
        });
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }
}

impl Access {
    /// `192.0.2.7:3719 GET /hello HTTP/1.1`, or with an IPv6 address, which nginx writes without
    /// brackets.
    fn parse(line: &str) -> Access {
        let mut words = line.split(' ');
        let (address, port) = words.next().unwrap().rsplit_once(':').unwrap();
        let path = words.nth(1).unwrap().into();
        Access { address: address.parse().unwrap(), port: port.parse().unwrap(), path }
    }
}

fn config_of(folder: &str, listen: &[&str]) -> String {
    let listen: String = listen.iter().map(|at| format!("listen {at} backlog=1024; ")).collect();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr;
        events {{ worker_connections 1024; }}
        http {{
            log_format behind '$remote_addr:$remote_port $request';
            access_log {folder}/access.log behind;
            log_format handoff '$remote_addr - $remote_user [$time_local] \"$request\" '
                               '$status $body_bytes_sent \"$http_referer\" \"$http_user_agent\" '
                               'port=$remote_port time=$msec';
            access_log {folder}/handoff.log handoff;
            client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
            uwsgi_temp_path {folder}; scgi_temp_path {folder};
            keepalive_timeout 600s;
            server {{ {listen}root {folder}/files; }}
        }}"
    )
}

/// A server, the first NAT64's gateway that knows it, and an nginx.
pub fn known(field: &Field) -> (Server, Gateway, Nginx) {
    let server = Server::start(field);
    let nginx = Nginx::start(field);
    let mut gateway = Gateway::start(&field.sites[0]);
    curl(&field.sites[0], "hello").unwrap();
    gateway.wait_for("is known");
    (server, gateway, nginx)
}

/// Downloads a file with curl.
pub fn curl(site: &Site, file: &str) -> Result<Vec<u8>, String> {
    curl_at(site, SERVICE6, file)
}

/// Likewise, from another address of the service.
pub fn curl_at(site: &Site, address: Ipv6Addr, file: &str) -> Result<Vec<u8>, String> {
    let url = url_at(address, file);
    let arguments = ["-6", "--silent", "--show-error", "--fail", "--max-time", "20", &url];
    let output = run(&site.client, "curl", &arguments);
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
