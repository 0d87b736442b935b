//! The service that sends the events to a collector: into the real journal of a system that is
//! booted, and to a collector that its instance's name names.

use crate::booted::Booted;
use crate::harness::process::wait_until;
use crate::judge::LEISURE;

/// As the exposure of the server (`confined`).
const EXPOSURE_MAX: f64 = 2.0;

/// The events are found by their fields, once each over a restart of the exporter; nothing is left
/// of it after an uninstall.
#[test]
fn export_into_the_journal() {
    let booted = Booted::new();
    let before = booted.files();
    let installed = booted.install("--no-update");
    assert_eq!(installed.code, 0, "{}", installed.text);
    booted.done("systemctl enable --now nat64handoff-export@journald 2>&1");
    let is_waiting = "test -s /var/lib/nat64handoff-export/journald";
    assert!(wait_until(LEISURE, || booted.run(is_waiting).code == 0));
    let line = |port: u16| {
        format!(
            "2019-03-18 10:06:28.491727 Created 192.0.2.7:{port} [2001:db8::17]:53186 to 203.0.113.5 via 64:ff9b::/96"
        )
    };
    let append = |ports: std::ops::Range<u16>| {
        let lines: Vec<_> = ports.map(line).collect();
        booted.done(&format!(
            "printf '%s\\n' '{}' >>/home/nat64ho/logs/events.log",
            lines.join("' '")
        ));
    };
    let found = |query: &str| {
        let text = booted.done(&format!("journalctl --no-pager --output=json {query}"));
        let objects = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        objects.collect::<Vec<serde_json::Value>>()
    };
    append(3719..3729);
    booted.done("systemctl kill --signal=KILL nat64handoff-export@journald");
    append(3729..3739);
    let all = "-t nat64handoff CLIENT=2001:db8::17 EVENT=Created";
    assert!(wait_until(LEISURE, || found(all).len() >= 20), "{:?}", found(all));
    let entries = found(all);
    // The one that was sent when it was killed may be there twice.
    let mut entries = entries;
    entries.dedup_by_key(|entry| entry["NAT64_PORT"].clone());
    assert_eq!(entries.len(), 20);
    for (entry, port) in entries.iter().zip(3719..) {
        assert_eq!(entry["MESSAGE"], line(port)[27..]);
        for (name, value) in [
            ("NAT64", "192.0.2.7"),
            ("NAT64_PORT", &port.to_string()),
            ("CLIENT_PORT", "53186"),
            ("LOCAL", "203.0.113.5"),
            ("PREFIX", "64:ff9b::/96"),
            ("EVENT_TIME", "2019-03-18T10:06:28.491727Z"),
            ("PRIORITY", "6"),
            ("_SYSTEMD_UNIT", "nat64handoff-export@journald.service"),
        ] {
            assert_eq!(entry[name], value, "{entry}");
        }
    }
    let said = booted.done("systemd-analyze --no-pager security nat64handoff-export@journald");
    let exposure = said.lines().last().and_then(|line| line.split("service: ").nth(1));
    let exposure: f64 = exposure.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    assert!(exposure <= EXPOSURE_MAX, "{said}");

    // Another one, whose name has to be escaped.
    let escaped =
        "\"$(systemd-escape --template=nat64handoff-export@.service syslog+tcp://127.0.0.1:5140)\"";
    booted.done(&format!("systemctl enable --now {escaped} 2>&1"));
    let tries = || {
        let said = booted.done(&format!("journalctl --no-pager --unit {escaped}"));
        said.contains("syslog+tcp://127.0.0.1:5140 does not take events: Connection refused")
    };
    assert!(wait_until(LEISURE, tries));

    let purged = booted.install("--purge");
    assert_eq!(purged.code, 0, "{}", purged.text);
    assert_eq!(booted.files(), before);
}
