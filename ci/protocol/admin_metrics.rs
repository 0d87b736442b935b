//! Metrics, as Debian's Prometheus reads them; the alert rules and the dashboard.

use crate::harness::process::{Process, wait_until};
use crate::harness::program::free_port;
use crate::harness::skip::cannot_run;
use crate::http::{ask, get, tcp};
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::server::Server;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const ALERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/programs/service/alerts.yml");
const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/programs/service/grafana.json");
/// What only a server with `--fleet` has: see ci/hosts.
const OF_FLEET: &str = "nat64handoff_fleet_";

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// What promtool says of what it is given.
fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        cannot_run("promtool: ci/packages promtool prometheus");
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn is_good(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("WARNING"), "{said}");
    let lines = said.lines().filter(|line| !line.is_empty());
    let lines: Vec<_> =
        lines.filter(|line| !line.contains("SUCCESS") && !line.contains("Checking")).collect();
    assert_eq!(lines, [""; 0]);
}

#[test]
fn metrics_are_as_prometheus_wants_them() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(1));
    let path = server.admin();
    let answer = get(&path, "/metrics");
    assert!(answer.headers.contains("content-type: text/plain; version=0.0.4"), "{answer:?}");
    is_good(&promtool(&["check", "metrics"], &answer.body));
    let value = |name: &str| {
        let line = answer.body.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name}")).parse::<f64>().unwrap()
    };
    assert_eq!(value("nat64handoff_created_total"), 1.0);
    assert_eq!((value("nat64handoff_nat64s"), value("nat64handoff_ready")), (1.0, 1.0));
    let batches = value("nat64handoff_batch_datagrams_count");
    assert!(batches > 0.0 && value("nat64handoff_batch_datagrams_sum") >= batches);
    // One in 16 is timed, the first one first.
    assert_eq!(value("nat64handoff_batch_duration_seconds_count"), (batches / 16.0).ceil());
    // A remote makes no line more, whatever it sends.
    for _ in 0..20 {
        let other = Nat64::known(&server);
        (0..5).for_each(|client| assert_ne!(other.map(Client::nth(client)), 0));
        other.silent("nothing", b"");
        other.silent("no message", b"\xff\xff\xff");
    }
    let later = get(&path, "/metrics").body;
    assert_eq!(later.lines().count(), answer.body.lines().count());
    assert!(!later.contains("127.0."), "no address of anybody");
}

#[test]
fn each_query_of_alerts_and_dashboard_has_a_value() {
    is_good(&promtool(&["check", "rules", ALERTS], ""));
    let web = loopback();
    let server = Server::start_single(&["--web", &web.to_string()]);
    let nat64 = Nat64::known(&server);
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{ALERTS}']\n\
             scrape_configs:\n- job_name: nat64handoff\n  static_configs: [{{targets: ['{web}']}}]\n"
        ),
    )
    .unwrap();
    is_good(&promtool(&["check", "config", config.to_str().unwrap()], ""));
    let prometheus = Prometheus::start(&config, &directory.path().join("data"));
    // Rates want two scrapes, and what they are rates of.
    let mut client = (0..).map(Client::nth);
    let rises = || {
        nat64.map(client.next().unwrap());
        let rate = prometheus.values("rate(nat64handoff_created_total[1m])");
        rate.iter().any(|rate| *rate > 0.0)
    };
    assert!(wait_until(PATIENCE, rises), "{}", prometheus.process.said());

    let rules = fs::read_to_string(ALERTS).unwrap();
    let rules: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(rules.len() >= 10, "{rules:?}");
    for rule in rules.into_iter().filter(|rule| !rule.contains(OF_FLEET)) {
        // What is compared has a value.
        let (left, compared, number) = split_comparison(rule);
        let values = prometheus.values(left);
        assert!(!values.is_empty(), "{left}");
        // What is true of this machine at this moment is not known: a disk may be full.
        assert!(values.iter().all(|value| value.is_finite()) && number.is_finite(), "{left}");
        assert!([">", "<", "=="].contains(&compared), "{rule}");
        prometheus.values(rule);
    }
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 20, "{queries:?}");
    for query in queries.into_iter().filter(|query| !query.contains(OF_FLEET)) {
        let query = query.replace("$instance", ".*").replace("$__rate_interval", "1m");
        // Quantiles of what has not happened yet are no numbers.
        let has_value = || prometheus.values(&query).iter().any(|value| value.is_finite());
        assert!(wait_until(PATIENCE, has_value), "{query}");
    }
}

/// `LEFT OPERATOR NUMBER`
fn split_comparison(rule: &str) -> (&str, &str, f64) {
    let (rest, number) = rule.rsplit_once(' ').unwrap();
    let (left, compared) = rest.rsplit_once(' ').unwrap();
    (left, compared, number.parse().unwrap())
}

struct Prometheus {
    process: Process,
    address: SocketAddr,
}

impl Prometheus {
    fn start(config: &Path, data: &Path) -> Self {
        let address = loopback();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address={address}"));
        let mut process = Process::spawn(&mut command);
        let is_ready = process.says("Server is ready to receive web requests", PATIENCE);
        assert!(is_ready, "{}", process.said());
        Self { process, address }
    }

    /// What a query comes to, for each set of labels.
    fn values(&self, query: &str) -> Vec<f64> {
        let encoded: String = query.bytes().map(|octet| format!("%{octet:02x}")).collect();
        let what = format!("GET /api/v1/query?query={encoded}");
        let host = format!("Host: {}", self.address);
        let answer = ask(tcp(self.address), &what, &[&host, "Connection: close"]);
        assert_eq!(answer.code, 200, "{query}: {answer:?}");
        let body = answer.body;
        // It may come in chunks.
        let (begin, end) = (body.find('{').unwrap(), body.rfind('}').unwrap());
        let json: Value = serde_json::from_str(&unchunked(&body[begin..=end])).unwrap();
        let values = json["data"]["result"].as_array().unwrap().iter();
        values.map(|each| each["value"][1].as_str().unwrap().parse().unwrap_or(f64::NAN)).collect()
    }
}

fn unchunked(body: &str) -> String {
    body.split("\r\n")
        .enumerate()
        .filter(|(place, _)| place % 2 == 0)
        .map(|(_, part)| part)
        .collect()
}
