//! An event for systemd's journal, in its native protocol: a datagram of `FIELD=value` lines.

use std::fmt::Write;

use super::encoder::{EventEncoder, IDENTIFIER, notice, what};
use crate::disk::eventlog::Lost;
use crate::handoff::logged::LoggedLine;
use crate::handoff::names::client_text;

/// One event a datagram.
#[derive(Debug, Default)]
pub struct JournalEncoder {
    text: String,
}

impl JournalEncoder {
    fn begin(&mut self, message: impl std::fmt::Display, priority: u8) {
        self.text.clear();
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(
            self.text,
            "MESSAGE={message}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}"
        );
    }

    fn field(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            let _ = writeln!(self.text, "{name}={value}");
        }
    }
}

impl EventEncoder for JournalEncoder {
    fn message(&mut self, events: &[LoggedLine], out: &mut Vec<u8>) -> usize {
        let Some(event) = events.first() else { return 0 };
        self.begin(what(event), notice(event));
        let entry = event.entry();
        self.field("EVENT", Some(event.kind.name()));
        self.field("EVENT_TIME", Some(event.at.rfc3339()));
        let named = event.named();
        self.field(if named.is_some() { "POOL" } else { "NAT64" }, Some(event.nat64));
        self.field("NAT64_PORT", entry.map(|entry| entry.port));
        self.field("CLIENT", entry.map(|entry| entry.client));
        self.field("CLIENT", named.map(client_text));
        self.field("CLIENT_PORT", entry.map(|entry| entry.client_port));
        self.field("LOCAL", event.local);
        self.field("PREFIX", entry.and_then(|entry| entry.prefix));
        out.extend_from_slice(self.text.as_bytes());
        1
    }

    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>) {
        self.begin(lost, 4);
        self.field("EVENT", Some("Lost"));
        self.field("EVENT_TIME", Some(lost.at().rfc3339()));
        self.field("WHY", Some(lost.why()));
        out.extend_from_slice(self.text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_fields() {
        let mut encoder = JournalEncoder::default();
        let mut encoded = |line: &str| {
            let mut out = Vec::new();
            let events = [LoggedLine::parse(line).unwrap()];
            assert_eq!(encoder.message(&events, &mut out), 1);
            String::from_utf8(out).unwrap()
        };
        let created = "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186 to 203.0.113.5 via 64:ff9b::/96";
        assert_eq!(
            encoded(created),
            "MESSAGE=Created 192.0.2.7:3719 [2001:db8::17]:53186 to 203.0.113.5 via 64:ff9b::/96\n\
             PRIORITY=6\nSYSLOG_IDENTIFIER=nat64handoff\nEVENT=Created\n\
             EVENT_TIME=2019-03-18T10:06:28.491727Z\nNAT64=192.0.2.7\nNAT64_PORT=3719\n\
             CLIENT=2001:db8::17\nCLIENT_PORT=53186\nLOCAL=203.0.113.5\nPREFIX=64:ff9b::/96\n"
        );
        let conflict = "2019-03-18 10:06:28.491727 Conflict 192.0.2.7:3719 [2001:db8::17]:53186";
        assert!(encoded(conflict).contains("PRIORITY=5\n"));
        let named = "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8:0:1::/64]";
        assert_eq!(
            encoded(named),
            "MESSAGE=Named 100.64.0.7 [2001:db8:0:1::/64]\nPRIORITY=6\n\
             SYSLOG_IDENTIFIER=nat64handoff\nEVENT=Named\n\
             EVENT_TIME=2019-03-18T10:06:28.491727Z\nPOOL=100.64.0.7\nCLIENT=2001:db8:0:1::/64\n"
        );
        assert!(!encoded(conflict).contains("LOCAL="));
        let initialized = "2019-03-18 10:06:28.491727 Initialized 192.0.2.7";
        assert_eq!(
            encoded(initialized),
            "MESSAGE=Initialized 192.0.2.7\nPRIORITY=6\nSYSLOG_IDENTIFIER=nat64handoff\n\
             EVENT=Initialized\nEVENT_TIME=2019-03-18T10:06:28.491727Z\nNAT64=192.0.2.7\n"
        );
    }
}
