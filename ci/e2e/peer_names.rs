//! `--peer-names`: programs of Debian, not changed, that listen at `[::]` and see who the client of
//! a NAT64 is.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use crate::field::{Field, SERVICE, SERVICE6};
use crate::peers::Place;
use crate::process::{PATIENCE, Process, run, wait_until};
use crate::programs::{Gateway, Server};
use crate::skip::cannot_run;

/// A program: what it is called, what executes it in a shell, at which port, and what it says of a
/// client at an address and port.
struct Program {
    name: &'static str,
    line: String,
    port: u16,
    tells: fn(&str, u16) -> String,
}

const NGINX: &str = "daemon off; master_process off; pid FOLDER/nginx.pid; error_log stderr;
events {}
http {
    log_format peer 'nginx $remote_addr $remote_port';
    access_log /dev/stdout peer;
    client_body_temp_path FOLDER; proxy_temp_path FOLDER; fastcgi_temp_path FOLDER;
    uwsgi_temp_path FOLDER; scgi_temp_path FOLDER;
    server { listen LISTEN; return 200 ok; }
}
";
const NODE: &str = "require('net').createServer(peer => {
    console.log('node', peer.remoteAddress, peer.remotePort); peer.end('ok') }).listen(8002, '::')";
const PYTHON: &str = "import http.server, socket
class Peer(http.server.BaseHTTPRequestHandler):
    def do_GET(self): print('python', *self.client_address[:2], flush=True); self.send_error(404)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer): address_family = socket.AF_INET6
Server(('::', 8003), Peer).serve_forever()
";
const APACHE: &str = "ServerRoot /etc/apache2
PidFile FOLDER/apache.pid
ServerName service
Listen [::]:8004
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
ErrorLog /dev/stderr
LogFormat \"apache %a %{remote}p\" peer
CustomLog \"|$cat >&2\" peer
User www-data
Group www-data
DocumentRoot /usr/share
";
const HAPROXY: &str = "global
    log stdout format raw daemon
defaults
    mode http
    log global
    timeout client 60s
    timeout server 60s
    timeout connect 60s
frontend all
    bind [::]:8005 v4v6
    log-format \"haproxy %ci %cp\"
    http-request return status 200
";

/// Those that are here; nginx, Python and sshd are.
fn programs(place: &Place) -> Vec<Program> {
    let folder = place.path("");
    let file = |name: &str, text: &str| {
        let path = place.path(name);
        let folder = folder.to_str().unwrap();
        fs::write(&path, text.replace("FOLDER", folder)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let nginx = |name, listen: &str| {
        format!("nginx -e stderr -c {}", file(name, &NGINX.replace("LISTEN", listen)))
    };
    let key = place.path("host_key");
    let key = key.to_str().unwrap();
    fs::create_dir_all("/run/sshd").unwrap();
    // As Debian's ssh.socket has it: a socket that sshd makes itself takes no IPv4 clients at [::].
    let sshd = format!(
        "sh -c 'ssh-keygen -q -t ed25519 -N \"\" -f {key} && exec systemd-socket-activate --listen=[::]:8022 \
         --accept --inetd /usr/sbin/sshd -i -e -f none -h {key} -o LogLevel=VERBOSE'"
    );
    let program = |name, line, port, tells| Program { name, line, port, tells };
    let all = [
        program("nginx", nginx("nginx.conf", "[::]:8001 ipv6only=off"), 8001, |client, port| {
            format!("nginx {client} {port}\n")
        }),
        program("python3", format!("python3 {}", file("peer.py", PYTHON)), 8003, |client, port| {
            format!("python {client} {port}\n")
        }),
        program("sshd", sshd, 8022, |client, port| {
            format!("Connection from {client} port {port} on")
        }),
        program("node", format!("node {}", file("peer.js", NODE)), 8002, |client, port| {
            format!("node {client} {port}\n")
        }),
        program(
            "apache2",
            format!("apache2 -X -f {}", file("apache.conf", APACHE)),
            8004,
            |c, p| format!("apache {c} {p}\n"),
        ),
        program(
            "haproxy",
            format!("haproxy -db -f {}", file("haproxy.cfg", HAPROXY)),
            8005,
            |c, p| format!("haproxy {c} {p}\n"),
        ),
    ];
    let is_here = |program: &Program| {
        ["/usr/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(program.name).exists())
            || program.name == "python3"
    };
    all.into_iter().filter(is_here).collect()
}

/// Speaks to a port of the service from the client's namespace: the client's own port.
fn visit(field: &Field, port: u16) -> u16 {
    field.client().inside(|| {
        let to = SocketAddr::from((SERVICE6, port));
        let mut connection = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        let own = connection.local_addr().unwrap().port();
        std::io::Write::write_all(&mut connection, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        // Until it has been looked at. What sshd says to such words is its own affair.
        let _ = std::io::Read::read(&mut connection, &mut [0; 100]);
        own
    })
}

#[test]
fn unchanged_programs_see_the_client() {
    let field = Field::new();
    let site = &field.sites[0];
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    let words = place.attaching();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let attached = run(&field.server, env!("CARGO_BIN_EXE_nat64handoff"), &words);
    assert!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    let maps = place.maps();
    let mut server = Server::start_with(&field, &["--peer-names", "ipv6", "--peer-maps", &maps]);
    let _gateway = Gateway::start(site);
    let client = site.address.to_string();
    let mut known = false;
    for program in programs(&place) {
        let line = place.within(&program.line);
        let process = Process::start(&field.server, "sh", &["-c", &line]);
        wait_until(&format!("{} listens", program.name), || {
            field.server.inside(|| TcpStream::connect((SERVICE, program.port)).is_ok())
        });
        // The first packets of a NAT64 that the server does not know yet go on without it.
        if !std::mem::replace(&mut known, true) {
            visit(&field, program.port);
            server.wait_until_known(site.pool);
        }
        let own = visit(&field, program.port);
        let line = (program.tells)(&client, own);
        wait_until(&format!("{} says {line:?}", program.name), || process.said().contains(&line));
        // One that came over IPv4 is what it is, and so is the one that asked whether it listens.
        assert!(!process.said().contains("64:ff9b"), "{}", process.said());
    }
    // A socket of IPv4 alone sees the NAT64, whose port the log knows.
    let line = format!("{SERVICE}:8006");
    let config = place.path("ipv4.conf");
    let text = NGINX.replace("LISTEN", &line).replace("FOLDER", place.path("").to_str().unwrap());
    fs::write(&config, text).unwrap();
    let line = place.within(&format!("nginx -e stderr -c {}", config.display()));
    let nginx = Process::start(&field.server, "sh", &["-c", &line]);
    wait_until("nginx listens", || {
        field.server.inside(|| TcpStream::connect((SERVICE, 8006)).is_ok())
    });
    visit(&field, 8006);
    wait_until("it saw the NAT64", || nginx.said().contains(&format!("nginx {} ", site.pool)));
    server.stop();
}
