//! Two gateways of ours before one server of ours that delivers: one sends packets by the handoff
//! port, the other by a tunnel of Geneve.

use std::net::IpAddr;
use std::process::Command;

use crate::TIME;
use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::measured::{Process, ip6, print, rounds, until};
use crate::traffic::{self, FLOWS, Service, label};

/// Of what the path carries unfragmented by the handoff port.
const MTU: u16 = 1418;

/// What either costs the server, and its gateway. No figure is a goal.
pub fn measure() {
    let field = Field::of_two();
    lay_out(&field);
    let service = Service::start(&field.server);
    let server = server(&field);
    let names = ["handoff", "geneve"];
    let gateways = [gateway(&field.sites[0], &[]), gateway(&field.sites[1], &["--geneve"])];
    let to = (IpAddr::V6(SERVICE6), service.port).into();
    for (site, name) in field.sites.iter().zip(names) {
        // The first ones may be by an entry.
        for _ in 0..3 {
            until(name, || traffic::reaches(&site.client, to));
        }
    }
    for (who, costs) in [("server", [&server, &server]), ("gateway", gateways.each_ref())] {
        println!("TCP to a server that delivers, CPU seconds of the {who} for a GB, likewise");
        for (direction, flows) in FLOWS {
            let rounds = rounds(|which| {
                let client = &field.sites[which].client;
                costs[which].cost(|| service.bulk(client, to, direction, flows, TIME)) * 1e9
            });
            print(&label(direction, flows), names, &rounds, 0, "s/GB");
        }
    }
}

fn lay_out(field: &Field) {
    field.server.ip(&format!(
        "tuntap add dev ho0 mode tun multi_queue vnet_hdr\n\
         link set ho0 mtu {MTU} addrgenmode none up\n\
         address add {SERVICE6}/128 dev ho0 nodad preferred_lft 0 noprefixroute"
    ));
    ip6(&field.server, "route add default dev ho0 table 6464");
    ip6(&field.server, &format!("rule add from {SERVICE6} iif lo lookup 6464 priority 6464"));
}

fn server(field: &Field) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat64handoff"));
    command.args(["serve", "--listen", &SERVICE.to_string(), "--reactors", "1"]);
    command.args(["--deliver", "native", "--geneve", "--log"]).arg(field.path("log"));
    command.arg("--state").arg(field.path("state"));
    Process::start(&field.server, "server", &mut command)
}

fn gateway(site: &Site, options: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat64handoff"));
    command.args(["gateway", "--pool", &site.pool.to_string(), "--secret"]).arg(&site.secret);
    command.args(options);
    Process::start(&site.nat64, "gateway", &mut command)
}
