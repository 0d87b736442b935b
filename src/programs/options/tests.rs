//! Every option from every place, and every error.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::CommandFactory;

use super::about::{About, variable_of};
use super::*;
use crate::disk::storage::SyncPolicy;
use crate::handoff::change::LogFormat;
use crate::handoff::pool::PoolUnit;
use crate::kernel::backend::Io;
use crate::kernel::memory::{LimitedBy, Memory};
use crate::programs::exit::EXIT_USAGE;

/// A value of each option of `serve` that is not its default.
const SERVE: [(&str, &str); 39] = [
    ("listen", "192.0.2.1:5000,192.0.2.2"),
    ("port", "5000"),
    ("allow", "192.0.2.0/24,198.51.100.1"),
    ("deny", "192.0.2.128/25"),
    ("reactors", "7"),
    ("io", "mmsg"),
    ("state", "/s"),
    ("log", "/l"),
    ("log-format", "full"),
    ("history", "/h"),
    ("log-keep", "6"),
    ("sync", "interval:1m 30s"),
    ("max-nat64s", "8"),
    ("max-entries", "9"),
    ("client-share", "0.5"),
    ("validation-rate", "10"),
    ("create-rate", "11"),
    ("peer-names", "ipv6"),
    ("peer-maps", "/m"),
    ("peer-pool", "10.0.0.0/10"),
    ("peer-pool-for", "address"),
    ("peer-pool-idle", "2m"),
    ("deliver", "native"),
    ("deliver-port", "22=cache,53=native"),
    ("deliver-device", "ho7"),
    ("deliver-service", "64:ff9b::203.0.113.5"),
    ("geneve", "on"),
    ("fleet", "http://192.0.2.9:2379,http://192.0.2.10:2379"),
    ("fleet-cell", "paris"),
    ("fleet-host", "3"),
    ("fleet-address", "198.51.100.1:64065"),
    ("fleet-fold", "2000000"),
    ("fleet-withdraw", "3s"),
    ("fleet-authority", "/ca"),
    ("fleet-certificate", "/c"),
    ("fleet-key", "/k"),
    ("admin", "/a"),
    ("web", "127.0.0.9:8064"),
    ("web-token-file", "/t"),
];

fn serve(arguments: &[&str]) -> ServeOptions {
    let arguments = ["nat64handoff", "serve"].iter().chain(arguments);
    match Cli::try_parse_from(arguments).unwrap().command {
        Command::Serve(options) => options,
        other => panic!("{other:?}"),
    }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment {
        variables: variables.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
        cpus: Some(3),
        memory: machine(1 << 30),
    }
}

fn resolve(arguments: &[&str], variables: &[(&str, &str)]) -> Result<ServeConfig, String> {
    serve(arguments).resolve(&environment(variables)).map_err(|error| error.to_string())
}

fn error(arguments: &[&str]) -> String {
    resolve(arguments, &[]).unwrap_err()
}

/// A configuration file with this text, and what comes of it.
fn file(text: &str) -> Result<ServeConfig, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    resolve(&["--config", path], &[]).map_err(|error| {
        assert_eq!(error.lines().count(), 1, "{error}");
        error.replace(path, "FILE")
    })
}

#[test]
fn definitions_hold() {
    Cli::command().debug_assert();
}

#[test]
fn defaults() {
    let config = resolve(&[], &[]).unwrap();
    assert_eq!(
        config,
        ServeConfig {
            listen: vec!["0.0.0.0:64064".parse().unwrap()],
            state: "./state".into(),
            log: LogDestination::Stdout,
            log_format: LogFormat::Plain,
            history: HistoryDestination::Off,
            log_keep: 180,
            reactors: 3,
            io: None,
            sync: SyncPolicy::Interval(Duration::from_millis(100)),
            journal: true,
            nat64s_max: 1000,
            entries_max: (1 << 30) / 4 / 700,
            client_share: 0.125,
            validation_rate: 10_000,
            create_rate: 2000,
            allow: vec![],
            deny: vec![],
            peer_names: PeerNames::Off,
            peer_maps: "/sys/fs/bpf/nat64handoff".into(),
            peer_pool: "100.64.0.0/12".parse().unwrap(),
            peer_pool_for: PoolUnit::Prefix64,
            peer_pool_idle: Duration::from_hours(1),
            deliver: Deliver::Cache,
            deliver_ports: vec![],
            deliver_device: "ho0".into(),
            deliver_services: vec![],
            geneve: false,
            admin: AdminPlace::Default("./state/admin.sock".into()),
            web: None,
            web_token: None,
            ..config.clone()
        }
    );
    assert_eq!(config.listen[0].port(), 64064);
}

#[test]
fn defaults_from_the_machine_are_bounded() {
    let resolve = |cpus, memory| {
        let environment = Environment { cpus, memory, ..Environment::default() };
        let config = ServeOptions::default().resolve(&environment).unwrap();
        (config.reactors, config.entries_max)
    };
    assert_eq!(resolve(None, None), (1, 64_508));
    assert_eq!(resolve(Some(0), machine(0)), (1, 8));
    assert_eq!(resolve(Some(1000), machine(u64::MAX)), (256, 16_000_000));
    // Half of the memory of a small group, a quarter of more; a full table in between.
    assert_eq!(resolve(None, machine(64 << 20)).1, (64 << 20) / 2 / 700);
    assert_eq!(resolve(None, machine(128 << 20)).1, 64_508);
    assert_eq!(resolve(None, machine(512 << 20)).1, (512 << 20) / 4 / 700);
}

#[test]
fn what_can_be_reached_from_elsewhere_wants_a_token() {
    let web = |arguments: &[&str]| resolve(arguments, &[]).map(|config| config.web);
    for loopback in ["127.0.0.1:8064", "127.9.9.9:1", "[::1]:8064"] {
        assert_eq!(web(&["--web", loopback]), Ok(Some(loopback.parse().unwrap())));
    }
    for open in ["0.0.0.0:8064", "192.0.2.7:8064", "[::]:8064", "[2001:db8::1]:8064"] {
        let said = web(&["--web", open]).unwrap_err();
        assert!(said.contains("--web-token-file") && said.contains("127.0.0.1:8064"), "{said}");
        assert_eq!(
            web(&["--web", open, "--web-token-file", "/t"]),
            Ok(Some(open.parse().unwrap()))
        );
    }
    for none in ["127.0.0.1", "127.0.0.1:0", "localhost:8064", "8064", ""] {
        assert!(web(&["--web", none]).is_err_and(|said| said.contains("127.0.0.1:8064")), "{none}");
    }
    assert_eq!(web(&["--web", "off"]), Ok(None));
    let off = resolve(&["--admin", "off"], &[]).unwrap();
    assert_eq!(off.admin, AdminPlace::Off);
}

fn machine(octets: u64) -> Option<Memory> {
    Some(Memory { octets, by: LimitedBy::Machine })
}

#[test]
fn check_config_says_what_the_default_is_for() {
    let by = LimitedBy::Group("/sys/fs/cgroup/a/memory.max".into());
    let memory = Some(Memory { octets: 64 << 20, by });
    let environment = Environment { memory, ..Environment::default() };
    let (_, text) = ServeOptions::default().effective(&environment).unwrap();
    let line = "max-entries = 47934 # default, for 64 MiB by /sys/fs/cgroup/a/memory.max\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn directories_of_systemd() {
    let variables =
        [("STATE_DIRECTORY", "/var/lib/n"), ("LOGS_DIRECTORY", "/var/log/n:/var/log/other")];
    let config = resolve(&[], &variables).unwrap();
    assert_eq!(config.state, Path::new("/var/lib/n"));
    let log = LogDestination::File("/var/log/n/events.log".into());
    assert_eq!(config.log, log);
    assert_eq!(config.history, HistoryDestination::Folder("/var/log/n/history".into()));
    let config = resolve(&["--history", "off"], &variables).unwrap();
    assert_eq!(config.history, HistoryDestination::Off);
    let config = resolve(&["--log", "events.log"], &variables).unwrap();
    assert_eq!(config.history, HistoryDestination::Folder("./history".into()));
    let config = resolve(&["--state", "s", "--log", "-"], &variables).unwrap();
    assert_eq!(config.state, Path::new("s"));
    assert_eq!(config.log, LogDestination::Stdout);
    assert_eq!(config.admin, AdminPlace::Default("s/admin.sock".into()));
    let config = resolve(&[], &[("RUNTIME_DIRECTORY", "/run/n")]).unwrap();
    assert_eq!(config.admin, AdminPlace::Default("/run/n/admin.sock".into()));
    let config = resolve(&[], &[("STATE_DIRECTORY", ""), ("LOGS_DIRECTORY", ":")]).unwrap();
    assert_eq!(config.state, Path::new("./state"));
    assert_eq!(config.log, LogDestination::Stdout);
}

#[test]
fn command_line_then_environment_then_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n.toml");
    fs::write(
        &path,
        "reactors = 1\nmax-nat64s = 1\nvalidation-rate = 1\nallow = ['192.0.2.0/24']\n",
    )
    .unwrap();
    let variables = [
        ("NAT64HANDOFF_CONFIG", path.to_str().unwrap()),
        ("NAT64HANDOFF_REACTORS", "2"),
        ("NAT64HANDOFF_MAX_NAT64S", "2"),
        ("NAT64HANDOFF_ALLOW", "198.51.100.0/24, 203.0.113.7"),
        ("NAT64HANDOFF_DENY", ""),
    ];
    let config = resolve(&["--reactors", "4"], &variables).unwrap();
    assert_eq!(config.reactors, 4);
    assert_eq!(config.nat64s_max, 2);
    assert_eq!(config.validation_rate, 1);
    // A list replaces the other, it is not added to it.
    assert_eq!(
        config.allow,
        ["198.51.100.0/24".parse().unwrap(), "203.0.113.7/32".parse().unwrap()]
    );
    assert_eq!(config.deny, []);
}

#[test]
fn every_option_from_every_place() {
    let all = SERVE;
    let table = ServeConfig::table();
    let keys: Vec<_> = table.iter().filter(|about| about.in_file).map(|about| about.name).collect();
    assert_eq!(keys, all.map(|(key, _)| key));

    let arguments: Vec<_> = all.iter().map(|(key, value)| format!("--{key}={value}")).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let expected = resolve(&arguments, &[]).unwrap();
    assert_eq!(expected.listen[1].to_string(), "192.0.2.2:5000");
    assert_eq!(expected.listen[0].port(), 5000);
    assert_eq!(expected.sync, SyncPolicy::Interval(Duration::from_secs(90)));
    assert_eq!(expected.client_share, 0.5);
    assert_eq!(expected.io, Some(Io::Mmsg));

    let variables: Vec<_> = all.iter().map(|&(key, value)| (variable_of(key), value)).collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(resolve(&[], &variables).unwrap(), expected);
    let strings: String = all.iter().map(|(key, value)| format!("{key} = '{value}'\n")).collect();
    assert_eq!(file(&strings).unwrap(), expected);
    let typed = "listen = ['192.0.2.1:5000', '192.0.2.2']\nport = 5000\nstate = '/s'\nlog = '/l'\n\
        log-format = 'full'\nhistory = '/h'\nlog-keep = 6\nreactors = 7\nio = 'mmsg'\nsync = 'interval:90s'\nmax-nat64s = 8\nmax-entries = 9\n\
        client-share = 0.5\nvalidation-rate = 10\ncreate-rate = 11\nallow = ['192.0.2.0/24', '198.51.100.1']\n\
        deny = ['192.0.2.128/25']\npeer-names = 'ipv6'\npeer-maps = '/m'\npeer-pool = '10.0.0.0/10'\npeer-pool-for = 'address'\npeer-pool-idle = '2m'\ndeliver = 'native'\n\
        deliver-port = ['22=cache', '53=native']\ndeliver-device = 'ho7'\ndeliver-service = ['64:ff9b::203.0.113.5']\ngeneve = 'on'\nfleet = ['http://192.0.2.9:2379', 'http://192.0.2.10:2379']\nfleet-cell = 'paris'\nfleet-host = 3\nfleet-address = '198.51.100.1:64065'\nfleet-fold = 2000000\nfleet-withdraw = '3s'\nfleet-authority = '/ca'\nfleet-certificate = '/c'\nfleet-key = '/k'\nadmin = '/a'\nweb = '127.0.0.9:8064'\nweb-token-file = '/t'\n";
    assert_eq!(file(typed).unwrap(), expected);
}

/// The rows about options in a document's tables, as `--option VALUE` and default.
fn rows_of_document(text: &str) -> BTreeSet<(String, String)> {
    let rows = text.lines().filter(|line| line.starts_with("| `--"));
    rows.map(|row| {
        let row = row.replace("\\|", "\0").replace('`', "");
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().replace('\0', "|")).collect();
        (cells[1].clone(), cells[2].clone())
    })
    .collect()
}

fn rows_of_table(table: &[About]) -> BTreeSet<(String, String)> {
    let shown = table.iter().filter(|about| about.is_shown());
    shown
        .map(|about| {
            let default = about.default.unwrap_or_default().to_owned();
            (format!("--{} {}", about.name, about.value), default)
        })
        .collect()
}

#[test]
fn documents_have_a_row_for_each_option() {
    let serve = rows_of_document(include_str!("../../../README.md"));
    assert_eq!(serve, rows_of_table(&ServeConfig::table()));
    assert!(serve.contains(&("--max-nat64s N".to_owned(), "1000".to_owned())), "{serve:?}");
    let gateway = rows_of_document(include_str!("../../GATEWAY.md"));
    assert_eq!(gateway, rows_of_table(&GatewaySetup::table()));
}

#[test]
fn manual_and_help_have_each_option() {
    let text = crate::programs::manual::man(ManualPage::Program).unwrap();
    let text = String::from_utf8(text).unwrap();
    let manual = text.replace("\\-", "-").replace("\\*(Aq", "'");
    for (name, table) in [("serve", ServeConfig::table()), ("gateway", GatewaySetup::table())] {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut(name).unwrap().render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for about in table {
            let default = about.default.map(|default| format!(" [default: {default}]"));
            let says = format!("{}{}", about.help, default.unwrap_or_default());
            let value = match about.value {
                "on|off" => "[<on|off>]".to_owned(),
                value => format!("<{value}>"),
            };
            let option = format!("--{} {value}", about.name);
            let is_shown = about.is_shown();
            assert!(!about.help.is_empty(), "{option}");
            assert_eq!(help.contains(&format!("{option} {says}")), is_shown, "{option}: {help}");
            let value = match about.value {
                "on|off" => "[\\fI<on|off>\\fR]".to_owned(),
                value => format!("\\fI<{value}>\\fR"),
            };
            let roff = format!("\\fB--{}\\fR {value}\n{says}\n", about.name);
            assert_eq!(manual.contains(&roff), is_shown, "{roff}: {manual}");
        }
    }
}

#[test]
fn check_config_has_each_option_from_variable_and_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n.toml");
    for (key, value) in SERVE {
        // The port is a part of the addresses.
        let shown = if key == "port" { "listen" } else { key };
        let origin_of = |environment: &Environment| {
            let (_, text) = ServeOptions::default().effective(environment).unwrap();
            let begin = format!("{shown} = ");
            let line = text.lines().find(|line| line.starts_with(&begin)).unwrap();
            line.split_once(" # ").unwrap().1.to_owned()
        };
        // Of a list, one item: without --port, two of the addresses have different ports.
        let value = value.split(',').next().unwrap();
        // That one wants others, too.
        let value = if key == "geneve" { "off" } else { value };
        let default = match key {
            "max-entries" => "default, for 1024 MiB by the memory of the machine",
            _ => "default",
        };
        assert_eq!(origin_of(&environment(&[])), default, "{key}");
        assert_eq!(origin_of(&environment(&[(&variable_of(key), value)])), "environment", "{key}");
        fs::write(&path, format!("{key} = '{value}'\n")).unwrap();
        let file = path.to_str().unwrap();
        let from_file = environment(&[("NAT64HANDOFF_CONFIG", file)]);
        assert_eq!(origin_of(&from_file), format!("{file:?}"), "{key}");
    }
}

#[test]
fn check_config_prints_what_makes_the_same_configuration() {
    let arguments = ["--max-entries", "70000", "--allow", "192.0.2.0/24", "--client-share", "1"];
    let environment = environment(&[
        ("STATE_DIRECTORY", "/var/lib/a \"quoted\" name"),
        ("NAT64HANDOFF_SYNC", "always"),
    ]);
    let (_, text) = serve(&arguments).effective(&environment).unwrap();
    for line in [
        "listen = [\"0.0.0.0:64064\"] # default\n",
        "max-entries = 70000 # command line\n",
        "sync = \"always\" # environment\n",
        " # $STATE_DIRECTORY\n",
        "client-share = 1.0 # command line\n",
        "deny = [] # default\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    let config = serve(&arguments).resolve(&environment).unwrap();
    // What was a default is written now.
    let admin = AdminPlace::At(config.admin.path().unwrap().to_owned());
    assert_eq!(file(&text).unwrap(), ServeConfig { admin, ..config });
}

#[test]
fn listen_errors() {
    for (arguments, expected) in [
        (
            &["--listen", "[2001:db8::1]:64064"][..],
            "--listen: \"[2001:db8::1]:64064\" is IPv6; NAT64s ask over IPv4, \
             give an IPv4 address of this host",
        ),
        (
            &["--listen=192.0.2.1:64064", "--listen=192.0.2.2:64065"],
            "--listen: 192.0.2.1:64064 and 192.0.2.2:64065 have different ports; \
             a server has one port, give the same to all addresses",
        ),
        (
            &["--listen=192.0.2.1", "--listen=192.0.2.1:64064"],
            "--listen: 192.0.2.1:64064 stands there twice; remove one of them",
        ),
        (
            &["--listen=localhost"],
            "--listen: \"localhost\" is no IPv4 address with or without a port; \
             write it like 192.0.2.1:64064",
        ),
        (
            &["--listen=192.0.2.1:0"],
            "--listen: \"192.0.2.1:0\" has port 0; choose one from 1 to 65535",
        ),
        (
            &["--listen=224.0.0.1"],
            "--listen: \"224.0.0.1\" is not the address of one host; give one of this host",
        ),
        (&["--port=65536"], "--port: \"65536\" is not a whole number from 1 to 65535; give one"),
    ] {
        assert_eq!(error(arguments), expected);
    }
    for text in ["::", "[::1]", "2001:db8::1"] {
        assert!(error(&["--listen", text]).contains("is IPv6"), "{text}");
    }
    for text in ["", ":64064", "192.0.2.1:", "192.0.2.1:99999", "192.0.2.0/24", "[", "é"] {
        let text = error(&[&format!("--listen={text}")]);
        assert!(text.contains("is no IPv4 address"), "{text}");
    }
}

#[test]
fn network_errors() {
    assert_eq!(
        error(&["--allow", "192.0.2.7/24"]),
        "--allow: \"192.0.2.7/24\" has bits set beyond its prefix length; did you mean 192.0.2.0/24?"
    );
    assert_eq!(
        error(&["--deny", "192.0.2.0/33"]),
        "--deny: \"192.0.2.0/33\" is no IPv4 network; write it like 192.0.2.0/24, or 192.0.2.7"
    );
    assert!(error(&["--deny", "2001:db8::/32"]).contains("is IPv6"));
    assert!(error(&["--deny", "2001:db8::1"]).contains("is IPv6"));
}

#[test]
fn other_errors() {
    for (argument, expected) in [
        ("--sync=interval:soon", "--sync: \"soon\" is no duration ("),
        ("--sync=interval:0s", "--sync: \"0s\" is too short or too long; choose 1ms to 1h"),
        ("--sync=interval:2h", "--sync: \"2h\" is too short"),
        ("--sync=interval", "--sync: \"interval\" is not known; choose none, always or"),
        ("--sync=none:", "--sync: \"none:\" is not known"),
        ("--io=epoll", "--io: \"epoll\" is not known; choose auto, uring or mmsg"),
        ("--client-share=0", "--client-share: \"0\" is not a number from 0.0009765625"),
        ("--client-share=1.5", "--client-share: \"1.5\" is not"),
        ("--client-share=NaN", "--client-share: \"NaN\" is not"),
        ("--client-share=-1", "--client-share: \"-1\" is not"),
        ("--reactors=0", "--reactors: \"0\" is not a whole number from 1 to 256"),
        ("--reactors=257", "--reactors: \"257\" is not"),
        ("--max-nat64s=many", "--max-nat64s: \"many\" is not"),
        ("--max-entries=18446744073709551616", "--max-entries: \"18446744073709551616\" is not"),
        ("--validation-rate=10000001", "--validation-rate: \"10000001\" is not"),
        ("--log-format=xml", "--log-format: \"xml\" is no format; choose plain, full or json"),
        ("--config=/nowhere/n.toml", "--config: /nowhere/n.toml cannot be read: No such file"),
    ] {
        let error = error(&[argument]);
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn errors_name_the_variable() {
    let error = |name, value| resolve(&[], &[(name, value)]).unwrap_err();
    assert_eq!(
        error("NAT64HANDOFF_DENY", "192.0.2.0/24,x"),
        "NAT64HANDOFF_DENY: \"x\" is no IPv4 network; write it like 192.0.2.0/24, or 192.0.2.7"
    );
    assert!(error("NAT64HANDOFF_CONFIG", "/nowhere").starts_with("NAT64HANDOFF_CONFIG: /nowhere"));
    use std::os::unix::ffi::OsStringExt;
    let mut environment = environment(&[]);
    let value = OsString::from_vec(vec![0xff]);
    environment.variables.insert("NAT64HANDOFF_SYNC".into(), value);
    let error = ServeOptions::default().resolve(&environment).unwrap_err();
    assert!(error.to_string().starts_with("NAT64HANDOFF_SYNC: is not UTF-8"));
}

#[test]
fn all_errors_are_told_at_once() {
    let variables = [("NAT64HANDOFF_MAX_ENTIRES", "1000"), ("NAT64HANDOFF_SYNC", "never")];
    let error =
        resolve(&["--reactors=0", "--port=x", "--config=/nowhere"], &variables).unwrap_err();
    let places: Vec<_> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let expected =
        ["NAT64HANDOFF_MAX_ENTIRES", "--config", "--port", "--reactors", "NAT64HANDOFF_SYNC"];
    assert_eq!(places, expected, "{error}");
    assert!(error.contains("did you mean NAT64HANDOFF_MAX_ENTRIES?"), "{error}");
    // One that is like none of ours, and one that is set to nothing.
    let variables = [("NAT64HANDOFF_COLOUR", "red"), ("NAT64HANDOFF_EMPTY", "")];
    let error = resolve(&["--listen=192.0.2.1", "--port=x"], &variables).unwrap_err();
    assert!(error.starts_with("NAT64HANDOFF_COLOUR: there is no such option; unset it"), "{error}");
    assert_eq!(error.lines().count(), 2, "the port is named once: {error}");
}

/// As Kubernetes sets them for a service of our name.
#[test]
fn service_links_are_no_options() {
    let links = [
        ("NAT64HANDOFF_PORT", "tcp://10.0.0.1:9"),
        ("NAT64HANDOFF_PORT_9_TCP", "tcp://10.0.0.1:9"),
        ("NAT64HANDOFF_PORT_9_TCP_PROTO", "tcp"),
        ("NAT64HANDOFF_SERVICE_PORT", "9"),
        ("NAT64HANDOFF_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("NAT64HANDOFF_METRICS_PORT", "tcp://10.0.0.1:9"),
    ];
    assert_eq!(resolve(&[], &links).unwrap().listen[0].port(), 64064);
    resolve(&[], &[("NAT64HANDOFF_PORT", "udp://[2001:db8::1]:9")]).unwrap();
    for value in ["tcp://10.0.0.1", "http://10.0.0.1:9", "10.0.0.1:9"] {
        resolve(&[], &[("NAT64HANDOFF_PORT", value)]).unwrap_err();
    }
}

#[test]
fn counts_have_suffixes_and_bounds() {
    let entries = |text: &str| resolve(&[&format!("--max-entries={text}")], &[]);
    for (text, count) in
        [("20k", 20_000), ("2M", 2_000_000), ("8", 8), ("1000000000", 1_000_000_000)]
    {
        assert_eq!(entries(text).unwrap().entries_max, count, "{text}");
    }
    assert_eq!(resolve(&["--create-rate=1k"], &[]).unwrap().create_rate, 1000);
    for text in ["1", "0k", "k", "M", "1kk", "1.5M", "1001M", "99999999999999M", "-1k", "1 k"] {
        assert!(entries(text).unwrap_err().contains("like 20000, 20k or 1M"), "{text}");
    }
}

#[test]
fn errors_name_the_file() {
    for (text, expected) in [
        (
            "port = 1\nmax-entires = 3\n",
            "FILE line 2: unknown key \"max-entires\"; did you mean max-entries?",
        ),
        (
            "\n\nmax_entries = 3",
            "FILE line 3: unknown key \"max_entries\"; did you mean max-entries?",
        ),
        (
            "colour = 'red'",
            "FILE line 1: unknown key \"colour\"; the keys are listen, port, allow, deny, reactors, io, \
             state, log, log-format, history, log-keep, sync, max-nat64s, max-entries, client-share, \
             validation-rate, create-rate",
        ),
        ("config = 'x'", "FILE line 1: unknown key \"config\"; the keys are"),
        ("[serve]\nport = 1", "FILE line 1: unknown key \"serve\""),
        ("reactors = 0", "FILE line 1: reactors: \"0\" is not a whole number from 1 to 256"),
        ("reactors = -1", "FILE line 1: reactors: \"-1\" is not"),
        ("client-share = nan", "FILE line 1: client-share: \"NaN\" is not"),
        ("state = ''", "FILE line 1: state: is empty"),
        ("listen = []", "FILE line 1: listen: is an empty list"),
        ("port = 1\nlog = 3", "FILE line 2: log: invalid type: integer `3`, expected path string"),
        ("port = true", "FILE line 1: port: invalid type: boolean `true`, expected a number"),
        ("allow = [1]", "FILE line 1: allow: invalid type: integer `1`, expected a string"),
        ("port = 1\nport = 2", "FILE line 2: duplicate key"),
        ("port = 1\n= =", "FILE line 2: "),
    ] {
        let error = file(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn demo_and_version() {
    let parse = |arguments: &[&str]| Cli::try_parse_from(arguments);
    match parse(&["nat64handoff", "demo", "--port", "64064"]).unwrap().command {
        Command::Demo(DemoOptions { port }) => assert_eq!(port, Some(64064)),
        other => panic!("{other:?}"),
    }
    let error = parse(&["nat64handoff", "serve", "--lisen", "x"]).unwrap_err();
    assert_eq!(error.exit_code(), i32::from(EXIT_USAGE));
    assert_eq!(parse(&["nat64handoff", "--version"]).unwrap_err().exit_code(), 0);
}

#[test]
fn who_is_translated_has_an_address_of_his_own_that_is_kept() {
    let resolve = |arguments: &[&str]| serve(arguments).resolve(&Environment::default());
    let settings = |arguments: &[&str]| resolve(arguments).unwrap().pool();
    assert_eq!(settings(&["--deliver", "native"]), None);
    for arguments in [["--deliver", "translate"], ["--deliver-port", "80=translate"]] {
        let pool = settings(&arguments).unwrap();
        assert_eq!((pool.unit, pool.names, pool.translates), (PoolUnit::Address, false, true));
    }
    let error = resolve(&["--deliver", "translate", "--no-journal"]).unwrap_err().to_string();
    assert!(error.contains("translate wants a journal"), "{error}");
}
