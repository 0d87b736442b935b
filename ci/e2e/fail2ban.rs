//! Debian's fail2ban on nginx's access log, both as they are: of two clients behind one NAT64, the
//! one that looks for what is not there is out, and the other is served.

use std::fs;
use std::net::{Ipv6Addr, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::bans::keeps_out;
use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::peers::Place;
use crate::process::{Process, run, wait_until};
use crate::programs::{Gateway, Server};
use crate::skip::cannot_run;

const PORT: u16 = 8001;
const JAIL: &str = "nginx-botsearch";
const NAT64HANDOFF: &str = env!("CARGO_BIN_EXE_nat64handoff");
const ACTION: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/src/programs/service/examples/fail2ban-action.conf");

const NGINX: &str = "daemon off; master_process off; pid FOLDER/nginx.pid; error_log stderr;
events {}
http {
    access_log FOLDER/access.log;
    client_body_temp_path FOLDER; proxy_temp_path FOLDER; fastcgi_temp_path FOLDER;
    uwsgi_temp_path FOLDER; scgi_temp_path FOLDER;
    server { listen [::]:8001 ipv6only=off; root FOLDER/files; }
}
";

/// fail2ban with Debian's filters and our action.
struct Fail2ban {
    process: Process,
    socket: String,
}

impl Fail2ban {
    fn start(field: &Field, folder: &Path) -> Self {
        let of_debian = Path::new("/etc/fail2ban");
        if !of_debian.join("filter.d/nginx-botsearch.conf").exists() {
            cannot_run("fail2ban (Debian's package of that name)");
        }
        let config = folder.join("fail2ban");
        let copied = Command::new("cp").args(["-r", "/etc/fail2ban"]).arg(&config).status();
        assert!(copied.unwrap().success());
        let _ = fs::remove_file(config.join("jail.d/defaults-debian.conf"));
        fs::copy(ACTION, config.join("action.d/nat64handoff.conf")).unwrap();
        let log = folder.join("access.log");
        fs::write(
            config.join("jail.local"),
            format!(
                "[{JAIL}]\nenabled = true\nbackend = polling\nlogpath = {}\nmaxretry = 3\nbantime = 1h\n\
                 usedns = no\naction = nat64handoff[options=\"--kill\"]\n",
                log.display()
            ),
        )
        .unwrap();
        let socket = folder.join("fail2ban.sock").to_str().unwrap().to_owned();
        let database = "[Definition]\ndbfile = None\nlogtarget = STDOUT\n";
        fs::write(config.join("fail2ban.local"), database).unwrap();
        let line = format!(
            "PATH={}:$PATH NAT64HANDOFF_ADMIN={} exec fail2ban-server -f -c {} -s {socket} -p {} start",
            Path::new(NAT64HANDOFF).parent().unwrap().display(),
            field.path("state/admin.sock").display(),
            config.display(),
            folder.join("fail2ban.pid").display(),
        );
        let mut process = Process::start(&field.server, "sh", &["-c", &line]);
        process.wait_for(&format!("Jail '{JAIL}' started"));
        Self { process, socket }
    }

    fn asks(&self, field: &Field, words: &[&str]) -> String {
        let words = [&["-s", &self.socket], words].concat();
        let output = run(&field.server, "fail2ban-client", &words);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        said
    }
}

/// What nginx answers to one of the addresses of the client's host; 0 where nothing comes.
fn fetch(site: &Site, from: Ipv6Addr, path: &str) -> u16 {
    let (from, url) = (from.to_string(), format!("http://[{SERVICE6}]:{PORT}/{path}"));
    let words = ["-6", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"];
    let words = [&words[..], &["--interface", &from, &url]].concat();
    let output = run(&site.client, "curl", &words);
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

#[test]
fn fail2ban_bans_the_attacker_and_not_its_neighbour() {
    let field = Field::new();
    let site = &field.sites[0];
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    let words = place.attaching();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let attached = run(&field.server, NAT64HANDOFF, &words);
    assert!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    let maps = place.maps();
    let mut server = Server::start_with(&field, &["--peer-names", "ipv6", "--peer-maps", &maps]);
    let mut gateway = Gateway::start(site);
    let mut set = keeps_out(&field);
    let (attacker, neighbour): (_, Ipv6Addr) = (site.address, "2001:db8:0::18".parse().unwrap());
    site.client.ip(&format!("address add {neighbour}/64 dev out nodad"));

    let folder = place.path("");
    let files = folder.join("files");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("page"), "ok").unwrap();
    let config = folder.join("nginx.conf");
    fs::write(&config, NGINX.replace("FOLDER", folder.to_str().unwrap())).unwrap();
    let line = place.within(&format!("nginx -e stderr -c {}", config.display()));
    let _nginx = Process::start(&field.server, "sh", &["-c", &line]);
    wait_until("nginx listens", || {
        field.server.inside(|| TcpStream::connect((SERVICE, PORT)).is_ok())
    });
    // The first packets of a NAT64 that does not know the server yet go on without it.
    fetch(site, neighbour, "page");
    gateway.wait_for("is known");
    let log = folder.join("access.log");
    wait_until("nginx sees the neighbour", || {
        assert_eq!(fetch(site, neighbour, "page"), 200);
        fs::read_to_string(&log).unwrap().contains(&format!("{neighbour} - - ["))
    });

    let mut fail2ban = Fail2ban::start(&field, &folder);
    assert_eq!(fetch(site, attacker, "page"), 200);
    for _ in 0..4 {
        fetch(site, attacker, "phpmyadmin/index.php");
    }
    wait_until("the attacker is out", || fetch(site, attacker, "page") == 0);
    assert!(fail2ban.process.said().contains(&format!("Ban {attacker}")));
    let admin = field.path("state/admin.sock");
    let bans = run(&field.server, NAT64HANDOFF, &["bans", "--admin", admin.to_str().unwrap()]);
    let bans = String::from_utf8_lossy(&bans.stdout).into_owned();
    assert!(bans.starts_with(&format!("{attacker} is banned since ")), "{bans}");
    assert!(bans.contains(" until "), "should fail2ban not be there to unban: {bans}");
    for _ in 0..5 {
        assert_eq!(fetch(site, neighbour, "page"), 200, "behind the same NAT64");
    }
    let status = fail2ban.asks(&field, &["status", JAIL]);
    assert!(status.contains(&attacker.to_string()), "{status}");
    fail2ban.asks(&field, &["set", JAIL, "unbanip", &attacker.to_string()]);
    wait_until("the attacker is served again", || fetch(site, attacker, "page") == 200);
    assert_eq!(fetch(site, neighbour, "page"), 200);
    assert!(!fail2ban.process.said().contains("ERROR"), "{}", fail2ban.process.said());
    fail2ban.process.stop();
    set.stop();
    server.stop();
}
