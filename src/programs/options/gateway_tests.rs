//! Every option of `gateway`, and every error.

use std::time::Duration;

use clap::Parser;

use super::*;
use crate::ip::address::Prefix96;

fn gateway(arguments: &[&str]) -> Result<GatewaySetup, String> {
    let arguments = ["nat64handoff", "gateway"].iter().chain(arguments);
    match Cli::try_parse_from(arguments).unwrap().command {
        Command::Gateway(options) => options.resolve().map_err(|error| error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_of_gateway() {
    let prefix = |text: &str| Prefix96::of(text.parse().unwrap());
    let defaults = gateway(&["--pool", "192.0.2.7"]).unwrap();
    let expected = GatewaySetup {
        pool: vec![Ipv4Addr::new(192, 0, 2, 7)],
        prefixes: vec![prefix("64:ff9b::")],
        tun: "nat64".into(),
        mtu: 1500,
        lowest_ipv6_mtu: 1280,
        zero_traffic_class: false,
        drop_unsummed_udp: false,
        queues: 1,
        handoff_port: 64064,
        client_share: 0.125,
        rotate: Duration::from_secs(3600),
        secret: None,
        geneve: false,
        state: None,
        log: None,
        metrics: None,
    };
    assert_eq!(defaults, expected);
    let all = [
        "--pool=192.0.2.7,192.0.2.9",
        "--pool=192.0.2.8",
        "--prefix=2001:db8:64::/96,64:ff9b::/96",
        "--prefix=2001:db8:64:0:0:1::/96",
        "--tun=tun7",
        "--mtu=1480",
        "--lowest-ipv6-mtu=1400",
        "--zero-traffic-class",
        "--drop-unsummed-udp",
        "--queues=4",
        "--handoff-port=6",
        "--client-share=0.5",
        "--rotate=5m",
        "--secret=/etc/secret",
        "--geneve",
        "--state=/var/lib/gateway/entries",
        "--log=/var/log/gateway",
        "--metrics=[::1]:8065",
    ];
    let expected = GatewaySetup {
        pool: [7, 9, 8].map(|last| Ipv4Addr::new(192, 0, 2, last)).into(),
        prefixes: ["2001:db8:64::", "64:ff9b::", "2001:db8:64:0:0:1::"].map(prefix).into(),
        tun: "tun7".into(),
        mtu: 1480,
        lowest_ipv6_mtu: 1400,
        zero_traffic_class: true,
        drop_unsummed_udp: true,
        queues: 4,
        handoff_port: 6,
        client_share: 0.5,
        rotate: Duration::from_secs(300),
        secret: Some("/etc/secret".into()),
        geneve: true,
        state: Some("/var/lib/gateway/entries".into()),
        log: Some(LogDestination::File("/var/log/gateway".into())),
        metrics: Some("[::1]:8065".parse().unwrap()),
    };
    assert_eq!(gateway(&all).unwrap(), expected);
    let log = gateway(&[&all[..1], &["--log=-"]].concat()).unwrap().log;
    assert_eq!(log, Some(LogDestination::Stdout));
    assert!(Cli::try_parse_from(["nat64handoff", "gateway"]).is_err());
}

#[test]
fn errors_of_gateway() {
    let good = ["--pool", "192.0.2.7"];
    for (option, value, expected) in [
        ("--pool", "192.0.2.7", "twice"),
        ("--prefix", "64:ff9b::/64", "has 64 bits"),
        ("--prefix", "64:ff9b::", "has 128 bits"),
        ("--prefix", "64:ff9b::1/96", "did you mean 64:ff9b::/96?"),
        ("--prefix", "192.0.2.0/24", "is no IPv6 prefix"),
        ("--prefix", "ff02::/96", "cannot be routed"),
        ("--prefix", "fe80::/96", "cannot be routed"),
        ("--prefix", "2001:db8:0:0:100::/96", "at 64 to 71"),
        ("--prefix", "64:ff9b::/96,64:ff9b::/96", "twice"),
        ("--tun", "", "is no name"),
        ("--tun", "a/b", "is no name"),
        ("--tun", "sixteen-letters-", "is no name"),
        ("--mtu", "1279", "from 1280 to 65535"),
        ("--mtu", "65536", "from 1280 to 65535"),
        ("--lowest-ipv6-mtu", "1279", "from 1280 to 65535"),
        ("--queues", "65", "from 1 to 64"),
        ("--lowest-ipv6-mtu", "1501", "longer than --mtu"),
        ("--handoff-port", "0", "from 1 to 65535"),
        ("--client-share", "0", "is not a number from"),
        ("--metrics", "8065", "is no address with a port"),
        ("--rotate", "1s", "too short"),
        ("--rotate", "often", "is no duration"),
        ("--geneve", "on", "name a file for a key by --secret"),
        ("--geneve", "perhaps", "choose on or off"),
    ] {
        let error = gateway(&[&good[..], &[option, value]].concat()).unwrap_err();
        assert!(error.starts_with(&format!("{option}: ")), "{error}");
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
    let many: Vec<_> = (0..65).map(|last| format!("198.51.100.{last}")).collect();
    let error = gateway(&["--pool", &many.join(",")]).unwrap_err();
    assert!(error.contains("more than 64"), "{error}");
    for pool in
        ["", "192.0.2", "2001:db8::1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"]
    {
        assert!(gateway(&["--pool", pool]).unwrap_err().starts_with("--pool: "), "{pool}");
    }
}
