//! The options of `annotate`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;

/// Options of `annotate`.
#[derive(Debug, Args)]
pub struct AnnotateOptions {
    /// Access logs, in the order of time; those whose names end in .gz are compressed [default:
    /// standard input]
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Leave each line as it is, and put the client behind it
    #[arg(long)]
    pub append: bool,
    /// The shape of the lines: a regular expression with groups `ip`, `port` and, if there is one,
    /// `time`.
    #[arg(
        long,
        value_name = "REGEX",
        help = "The shape of the lines: a regular expression with groups (?<ip>...), (?<port>...) and, if \
                there is one, (?<time>...)"
    )]
    pub pattern: Option<String>,
    /// Take lines without a time as being of now, as they are written
    #[arg(long)]
    pub now: bool,
    /// Where a port came to another client within the second that a line tells, name that one;
    /// else the line stays as it is
    #[arg(long)]
    pub newcomer: bool,
    /// The address of the server that this access log is about, where it has several
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<Ipv4Addr>,
    /// The event log [default: that of `serve`]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// The history's folder; off: read the event log alone [default: beside the log]
    #[arg(long, value_name = "DIR|off")]
    pub history: Option<PathBuf>,
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What the help ends with.
pub(super) const SHAPES: &str = r#"A line must have the client's port beside its address, and a time. The event log
tells who had that port then, and the line comes out as if that client had come
by itself. These are recognised:

  nginx    the combined format, with the port at its end (http block):
             log_format handoff
               '$remote_addr - $remote_user [$time_local] "$request" '
               '$status $body_bytes_sent "$http_referer" "$http_user_agent" '
               'port=$remote_port time=$msec';
             access_log /var/log/nginx/access.log handoff;
           or $remote_addr:$remote_port in the place of $remote_addr
  Apache   LogFormat "%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \
             \"%{User-Agent}i\" port=%{remote}p time=%{sec}t.%{msec_frac}t" handoff
           CustomLog ${APACHE_LOG_DIR}/access.log handoff
           or %h:%{remote}p or %h %{remote}p in the place of %h; and the error log
  HAProxy  as it is (option httplog, option tcplog, or neither)
  Caddy    as it is: JSON with remote_ip and remote_port
  sshd     as it is, in the system's log
  Postfix  with smtpd_client_port_logging = yes in main.cf
  JSON     remote_addr and remote_port, client_ip and client_port and the like,
           or an address with its port; time, ts, timestamp, msec and the like
  others   --pattern '^(?<ip>\S+) (?<port>\d+) \[(?<time>[^]]+)\]'

Programs that read such logs do not mind what is behind the combined format.
A time without a zone is of the zone in TZ, or of this machine. Lines of other
clients, of NAT64s that the event log does not know, and those that cannot be
answered for sure come out as they are; standard error says why.

  nat64handoff annotate </var/log/nginx/access.log
  tail -F /var/log/nginx/access.log | nat64handoff annotate |
    goaccess --log-format=COMBINED -"#;
