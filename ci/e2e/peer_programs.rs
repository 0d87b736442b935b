//! Programs of Debian, not changed, with what they say of a client.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::peers::Place;

/// A program: what it is called, what executes it in a shell, at which port, and what it says of a
/// client at an address and port.
pub struct Program {
    pub name: &'static str,
    pub line: String,
    pub port: u16,
    pub tells: fn(&str, u16) -> String,
}

/// Where Go keeps what it has built.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/go");
pub const NGINX: &str = "daemon off; master_process off; pid FOLDER/nginx.pid; error_log stderr;
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
const GO: &str = "package main
import (\"fmt\"; \"net/http\")
func main() {
    http.HandleFunc(\"/\", func(_ http.ResponseWriter, asked *http.Request) { fmt.Println(\"go\", asked.RemoteAddr) })
    http.ListenAndServe(\":8007\", nil)
}
";
/// It writes its log every few seconds.
const LIGHTTPD: &str = "server.document-root = \"/usr/share\"
server.port = 8008
server.bind = \"[::]\"
server.set-v6only = \"disable\"
server.modules = ( \"mod_accesslog\" )
accesslog.filename = \"FOLDER/log\"
accesslog.format = \"lighttpd %h %{remote}p\"
";
const CADDY: &str = "{
    admin off
    auto_https off
    storage file_system FOLDER/caddy
}
:8009 {
    log {
        output stdout
    }
    respond ok
}
";
/// It takes IPv4 clients at sockets of their own, so HAProxy takes them for it.
const POSTFIX: &str = "compatibility_level = 3.6
queue_directory = FOLDER/queue
data_directory = FOLDER/data
maillog_file = FOLDER/log
maillog_file_prefixes = FOLDER
inet_interfaces = 127.0.0.1
myhostname = service.example
mynetworks =
local_recipient_maps =
postscreen_upstream_proxy_protocol = haproxy
";
const POSTFIX_PARTS: &str = "8010 inet n - n - 1 postscreen
smtpd pass - - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
";
const HAPROXY_FOR_POSTFIX: &str = "defaults
    mode tcp
    timeout client 60s
    timeout server 60s
    timeout connect 60s
listen mail
    bind [::]:8011 v4v6
    server postfix 127.0.0.1:8010 send-proxy
";

/// Executes a line, beside which its log is shown as long as it lives.
const WITH_LOG: &str = "touch FOLDER/log
tail --pid=$$ -n +1 -f FOLDER/log &
";
/// What was built before is not built again.
const GO_RUN: &str = "export GOCACHE=KEPT GOPATH=KEPT/path GO111MODULE=off CGO_ENABLED=0
go build -o FOLDER/peer-go FOLDER/peer.go && exec FOLDER/peer-go
";
const POSTFIX_RUN: &str = "mkdir FOLDER/queue FOLDER/data && chown postfix FOLDER/data
postfix -c FOLDER check
{
    until grep -q 'daemon started' FOLDER/log; do sleep 0.05; done
    haproxy -db -f FOLDER/mail.cfg &
    tail --pid=$$ -f /dev/null
    kill $!
} &
exec /usr/lib/postfix/sbin/master -d -c FOLDER
";

/// Those that are here; nginx, Python and sshd are.
pub fn programs(place: &Place) -> Vec<Program> {
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
    let others = others(file);
    // Some are not root.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
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
        let name = program.name;
        let is_here = ["/usr/bin", "/usr/sbin"].iter().any(|at| Path::new(at).join(name).exists())
            && (name != "postfix" || Path::new("/usr/sbin/haproxy").exists())
            || name == "python3";
        if !is_here {
            println!("without {name}, which is not here");
        }
        is_here
    };
    all.into_iter().chain(others).filter(is_here).collect()
}

/// Those whose files a script begins with.
fn others(file: impl Fn(&str, &str) -> String) -> [Program; 4] {
    for (name, text) in [
        ("peer.go", GO),
        ("lighttpd.conf", LIGHTTPD),
        ("Caddyfile", CADDY),
        ("main.cf", POSTFIX),
        ("master.cf", POSTFIX_PARTS),
        ("mail.cfg", HAPROXY_FOR_POSTFIX),
    ] {
        file(name, text);
    }
    let script = |name, text: &str| format!("sh {}", file(name, text));
    let program = |name, line, port, tells| Program { name, line, port, tells };
    [
        program("go", script("go.sh", &GO_RUN.replace("KEPT", KEPT)), 8007, |c, p| {
            format!("go [{c}]:{p}\n")
        }),
        program(
            "lighttpd",
            script("lighttpd.sh", &format!("{WITH_LOG}exec lighttpd -D -f FOLDER/lighttpd.conf\n")),
            8008,
            |c, p| format!("lighttpd {c} {p}\n"),
        ),
        program(
            "caddy",
            script("caddy.sh", "XDG_CONFIG_HOME=FOLDER exec caddy run --config FOLDER/Caddyfile\n"),
            8009,
            |c, p| format!("\"remote_ip\":\"{c}\",\"remote_port\":\"{p}\""),
        ),
        program(
            "postfix",
            script("postfix.sh", &[WITH_LOG, POSTFIX_RUN].concat()),
            8011,
            |c, p| format!("CONNECT from [{c}]:{p} "),
        ),
    ]
}
