//! The networks between client, NAT64 and server.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::namespace::Namespace;
use crate::skip::cannot_run;

/// The address of the service.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// What clients call it.
pub const SERVICE6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);
/// How long packets may be where nothing else is said.
const MTU: u16 = 1500;

/// The host of the service, and the NAT64s that clients reach it through.
pub struct Field {
    pub server: Namespace,
    pub sites: Vec<Site>,
    folder: tempfile::TempDir,
}

/// A NAT64 and a client of it.
pub struct Site {
    pub client: Namespace,
    pub nat64: Namespace,
    /// The public address of the NAT64.
    pub pool: Ipv4Addr,
    /// The client's address.
    pub address: Ipv6Addr,
    /// Where the NAT64 keeps what a reboot must not change.
    pub secret: PathBuf,
    /// In between, where there are any.
    _routers: Vec<Namespace>,
}

impl Field {
    /// One NAT64.
    pub fn new() -> Field {
        Field::with(&[Narrow::default()])
    }

    /// Two NAT64s.
    pub fn of_two() -> Field {
        Field::with(&[Narrow::default(), Narrow::default()])
    }

    /// One NAT64, with a router on each side. The MTU between it and the router is `clients` on the
    /// clients' side, `servers` on the other.
    pub fn narrow(clients: u16, servers: u16) -> Field {
        Field::with(&[Narrow { clients: Some(clients), servers: Some(servers) }])
    }

    /// A test that cannot have one ends here.
    pub fn can_be() {
        // SAFETY: takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            cannot_run("network namespaces: run it as root");
        }
        if !Path::new("/dev/net/tun").exists() {
            cannot_run("/dev/net/tun: load the module tun");
        }
        install();
    }

    fn with(sites: &[Narrow]) -> Field {
        Field::can_be();
        let server = Namespace::new();
        server.ip(&format!("address add {SERVICE}/32 dev lo"));
        let folder = tempfile::tempdir().unwrap();
        let sites = (0..).zip(sites).map(|(number, narrow)| {
            let secret = folder.path().join(format!("secret-{number}"));
            Site::new(number, narrow, &server, secret)
        });
        Field { sites: sites.collect(), server, folder }
    }

    /// The first client.
    pub fn client(&self) -> &Namespace {
        &self.sites[0].client
    }

    /// For files. It is gone with the value.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

/// How long packets may be on the links on both sides of a NAT64, if there are routers.
#[derive(Default)]
struct Narrow {
    clients: Option<u16>,
    servers: Option<u16>,
}

impl Site {
    fn new(number: u8, narrow: &Narrow, server: &Namespace, secret: PathBuf) -> Site {
        let (client, nat64) = (Namespace::new(), Namespace::new());
        let pool = Ipv4Addr::new(192, 0, 2, 7 + 2 * number);
        let address: Ipv6Addr = format!("2001:db8:{number}::17").parse().unwrap();
        let mut routers = Vec::new();

        // Clients reach the NAT64 at 2001:db8:N::1, or behind a router at 2001:db8:N:1::1.
        if let Some(mtu) = narrow.clients {
            let router = Namespace::new();
            link((&client, "out"), (&router, "clients"), MTU);
            link((&router, "out"), (&nat64, "clients"), mtu);
            router.ip(&format!(
                "address add 2001:db8:{number}::1/64 dev clients nodad\n\
                 address add 2001:db8:{number}:1::2/64 dev out nodad\n\
                 route add default via 2001:db8:{number}:1::1"
            ));
            nat64.ip(&format!(
                "address add 2001:db8:{number}:1::1/64 dev clients nodad\n\
                 route add 2001:db8:{number}::/64 via 2001:db8:{number}:1::2"
            ));
            routers.push(router);
        } else {
            link((&client, "out"), (&nat64, "clients"), MTU);
            nat64.ip(&format!("address add 2001:db8:{number}::1/64 dev clients nodad"));
        }
        client.ip(&format!(
            "address add {address}/64 dev out nodad\n\
             route add default via 2001:db8:{number}::1"
        ));

        // The NAT64 reaches the server at 198.51.100.N2, or behind a router at 198.51.100.N6.
        let [near, far, router_near, router_far] =
            [1, 2, 5, 6].map(|host| Ipv4Addr::new(198, 51, 100, 16 * number + host));
        let (nat64_side, server_side) = ("servers", format!("nat64-{number}"));
        if let Some(mtu) = narrow.servers {
            let router = Namespace::new();
            link((&nat64, nat64_side), (&router, "nat64"), mtu);
            link((&router, "servers"), (server, &server_side), MTU);
            router.ip(&format!(
                "address add {far}/30 dev nat64\n\
                 address add {router_near}/30 dev servers\n\
                 route add {pool} via {near}\n\
                 route add {SERVICE} via {router_far}"
            ));
            server.ip(&format!(
                "address add {router_far}/30 dev {server_side}\n\
                 route add {near} via {router_near} src {SERVICE}\n\
                 route add {pool} via {router_near} src {SERVICE}"
            ));
            routers.push(router);
        } else {
            link((&nat64, nat64_side), (server, &server_side), MTU);
            server.ip(&format!(
                "address add {far}/30 dev {server_side}\n\
                 route add {pool} via {near} src {SERVICE}"
            ));
        }
        nat64.ip(&format!(
            "address add {near}/30 dev {nat64_side}\n\
             route add {SERVICE} via {far}"
        ));
        Site { client, nat64, pool, address, secret, _routers: routers }
    }
}

/// A link between devices of two namespaces.
fn link((one, name): (&Namespace, &str), (other, its_name): (&Namespace, &str), mtu: u16) {
    one.ip(&format!(
        "link add {name} mtu {mtu} type veth peer name {its_name} mtu {mtu} netns {}\n\
         link set dev {name} up",
        other.path()
    ));
    other.ip(&format!("link set dev {its_name} up"));
}

/// Installs what is missing, once.
fn install() {
    static INSTALLED: OnceLock<String> = OnceLock::new();
    let wrong = INSTALLED.get_or_init(|| {
        let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/packages");
        let output = Command::new(packages).output().unwrap();
        match output.status.success() {
            true => String::new(),
            false => String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    });
    if !wrong.is_empty() {
        cannot_run(wrong);
    }
}
