//! The same as files of systemd-networkd, which makes the device at each boot.

use std::fmt::Write;
use std::net::Ipv6Addr;

use super::HostReport;
use super::steps::{METRIC, QUEUE_LENGTH, TABLE};

/// Where its files are, and what they begin with.
const PLACE: &str = "/etc/systemd/network/60-";

impl HostReport {
    /// Commands for a shell of root that write the files, and have them read.
    pub fn networkd(&self) -> String {
        let mut out =
            String::from("# What --deliver needs of this host, as files of systemd-networkd:\n");
        for line in &self.about {
            let _ = writeln!(out, "# {line}");
        }
        let device = &self.wanted.device;
        for (kind, text) in [
            ("netdev", self.netdev()),
            ("network", self.network()),
            // Read by udev, as the device comes.
            (
                "link",
                format!(
                    "[Match]\nOriginalName={device}\n\n[Link]\nTransmitQueueLength={QUEUE_LENGTH}\n"
                ),
            ),
        ] {
            let _ = write!(out, "cat >{PLACE}{device}.{kind} <<'END'\n{text}END\n");
        }
        out.push_str("networkctl reload\n");
        out
    }

    fn netdev(&self) -> String {
        format!(
            "[NetDev]\nName={}\nKind=tun\n\n[Tun]\nUser={}\nMultiQueue=yes\nVNetHeader=yes\n",
            self.wanted.device, self.wanted.user.name
        )
    }

    fn network(&self) -> String {
        let mtu = self.wanted.mtu();
        // Nothing has it open before the server starts.
        let mut out = format!(
            "[Match]\nName={}\n\n[Link]\nMTUBytes={mtu}\nRequiredForOnline=no\n\n[Network]\nLinkLocalAddressing=no\n\
             IPv6AcceptRA=no\nConfigureWithoutCarrier=yes\nIgnoreCarrierLoss=yes\n",
            self.wanted.device
        );
        for service in &self.wanted.services {
            let _ = write!(
                out,
                "\n[Address]\nAddress={service}/128\nPreferredLifetime=0\nAddPrefixRoute=no\n\
                 DuplicateAddressDetection=none\n\
                 \n[RoutingPolicyRule]\nFrom={service}\nIncomingInterface=lo\nTable={TABLE}\nPriority={TABLE}\n"
            );
        }
        if self.wanted.native {
            let _ = write!(out, "\n[Route]\nDestination=::/0\nTable={TABLE}\n");
        }
        if let Some(pool) = self.wanted.pool {
            let source = self.wanted.host.map(|host| format!("PreferredSource={host}\n"));
            let source = source.unwrap_or_default();
            let _ = write!(out, "\n[Route]\nDestination={pool}\n{source}");
        }
        if let Some(service) = self.source_of_others() {
            let _ = write!(
                out,
                "\n[Route]\nDestination=::/0\nPreferredSource={service}\nMetric={METRIC}\n"
            );
        }
        out
    }

    /// On a host without IPv6 of its own: with which programs answer that choose no source.
    fn source_of_others(&self) -> Option<Ipv6Addr> {
        // The last step of those that are not about the pool.
        let place = self.anew.len().checked_sub(1 + usize::from(self.wanted.pool.is_some()))?;
        let step = self.anew.get(place).filter(|step| step.can_run() && step.is_wanted());
        step.and_then(|_| self.wanted.services.first().copied())
    }
}
