//! An etcd that wants certificates, and to know who asks: over TLS, with users and roles.

use std::fs;
use std::path::Path;
use std::process::Command;

use nat64handoff::disk::fleet::etcd::{Etcd, EtcdAccess};
use nat64handoff::disk::fleet::{
    FleetEngine, FleetEngineError, FleetKey, FleetWatch, KeyRange, read_all,
};
use nat64handoff::handoff::ownership::{HostId, Revision};

use crate::PATIENCE;
use crate::cluster::{Cluster, run};
use crate::harness::process::wait_until;
use crate::harness::program::{LOCAL, command, free_port};
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::server::Server;

/// What the README says a host has to have there.
const USER: &str = "nat64ho";
const PREFIX: &str = "nat64handoff/";

/// Certificates that `ca.pem` signs: of the nodes, and of a host.
const CERTIFICATES: &str = "
key() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj \"/CN=$1\" -keyout $2.key \"${@:3}\"; }
key ca ca -x509 -days 2 -out ca.pem
key other other -x509 -days 2 -out other.pem
sign() {
    key $1 $2 -out $2.csr
    openssl x509 -req -in $2.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile <(echo $3) -out $2.pem
}
sign node node subjectAltName=IP:127.0.0.1
sign nat64ho host keyUsage=digitalSignature
sign root root keyUsage=digitalSignature
";

pub fn certificates(folder: &Path) -> (Vec<String>, Vec<String>) {
    let made = Command::new("bash").args(["-ec", CERTIFICATES]).current_dir(folder).output();
    let made = made.expect("bash");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let with = |options: &[(&str, &str)]| {
        let pairs = options.iter().flat_map(|(option, file)| {
            [(*option).to_owned(), folder.join(file).display().to_string()]
        });
        pairs.collect::<Vec<_>>()
    };
    let mut node = with(&[
        ("--cert-file", "node.pem"),
        ("--key-file", "node.key"),
        ("--trusted-ca-file", "ca.pem"),
    ]);
    node.push("--client-cert-auth".to_owned());
    (node, with(&[("--cacert", "ca.pem"), ("--cert", "root.pem"), ("--key", "root.key")]))
}

/// One where nobody may do anything but root, and the user may do what a host does.
fn secured() -> Cluster {
    let cluster = Cluster::start_secured(certificates);
    for line in [
        "user add root:secret",
        "user grant-role root root",
        "role add hosts",
        &format!("role grant-permission hosts --prefix=true readwrite {PREFIX}"),
        &format!("user add {USER}:word"),
        &format!("user grant-role {USER} hosts"),
        "user add stranger:word",
        "auth enable",
    ] {
        let words: Vec<_> = line.split(' ').collect();
        assert!(wait_until(PATIENCE, || cluster.ask(&words).is_some()), "{line}");
    }
    cluster
}

/// With the files of this name, and this user.
fn access(cluster: &Cluster, authority: &str, own: &str, user: Option<(&str, &str)>) -> EtcdAccess {
    let read = |name: String| fs::read(cluster.folder().join(name)).unwrap();
    EtcdAccess {
        nodes: cluster.urls(),
        user: user.map(|(name, word)| (name.to_owned(), word.to_owned())),
        authority: Some(read(format!("{authority}.pem"))),
        identity: Some((read(format!("{own}.pem")), read(format!("{own}.key")))),
    }
}

fn engine(access: EtcdAccess) -> Etcd {
    Etcd::new(access, &"cell".parse().unwrap())
}

/// Until a node answers, in time.
async fn put(engine: &Etcd, key: &FleetKey) -> Result<(), String> {
    loop {
        match engine.put(key, b"x").await {
            Ok(()) => return Ok(()),
            Err(FleetEngineError::Unusable(why)) => return Err(why),
            Err(_) => {}
        }
    }
}

#[test]
fn a_host_is_who_its_certificate_or_its_password_says() {
    let mut cluster = secured();
    run(async {
        let by_word = engine(access(&cluster, "ca", "root", Some((USER, "word"))));
        let by_certificate = engine(access(&cluster, "ca", "host", None));
        for (engine, number) in [(&by_word, 1), (&by_certificate, 2)] {
            let key = FleetKey::Host(HostId(number));
            assert_eq!(put(engine, &key).await, Ok(()));
            let mut watch = engine.watch(Revision(1)).await.unwrap();
            let mut seen = Vec::new();
            while !seen.contains(&key) {
                let watched = watch.next().await.unwrap();
                seen.extend(watched.values.into_iter().map(|value| value.key));
            }
        }
        // Who one is is known to a node alone, and forgotten by it when it ends.
        for node in 0..cluster.nodes.len() {
            cluster.kill(node);
        }
        for node in 0..cluster.nodes.len() {
            cluster.begin(node);
        }
        cluster.wait_for_leader();
        for (engine, number) in [(&by_word, 3), (&by_certificate, 4)] {
            assert_eq!(put(engine, &FleetKey::Host(HostId(number))).await, Ok(()));
            while let Err(why) = engine.compact(Revision(number.into())).await {
                assert!(!matches!(why, FleetEngineError::Unusable(_)), "{why}");
            }
        }
        let (_, all) = read_all(&by_word, KeyRange::beginning("host/"), None).await.unwrap();
        assert_eq!(all.len(), 4);
    });
}

#[test]
fn who_may_not_is_told_why() {
    let cluster = secured();
    let key = FleetKey::Host(HostId(1));
    run(async {
        let wrong_word = engine(access(&cluster, "ca", "root", Some((USER, "wrong"))));
        let why = put(&wrong_word, &key).await.unwrap_err();
        assert!(why.contains("authentication failed"), "{why}");
        let stranger = engine(access(&cluster, "ca", "root", Some(("stranger", "word"))));
        let why = put(&stranger, &key).await.unwrap_err();
        assert!(why.contains("permission denied"), "{why}");
        // Who signed the node's certificate is not trusted.
        let other = engine(access(&cluster, "other", "host", None));
        assert!(other.put(&key, b"x").await.is_err());
        let why = other.why_away();
        assert!(why.contains("certificate"), "{why}");
        // Without a certificate of its own.
        let none = EtcdAccess { identity: None, ..access(&cluster, "ca", "host", None) };
        assert!(engine(none).put(&key, b"x").await.is_err());
        // In clear text, where TLS is spoken.
        let nodes = cluster.urls().iter().map(|url| url.replace("https", "http")).collect();
        let clear = engine(EtcdAccess { nodes, ..EtcdAccess::default() });
        assert!(clear.put(&key, b"x").await.is_err());
    });
}

#[test]
fn a_server_joins_over_tls_and_says_what_keeps_it_out() {
    let cluster = secured();
    let urls = cluster.urls().join(",");
    let options = |urls: &str, own: &str| -> Vec<String> {
        let at = |name: String| cluster.folder().join(name).display().to_string();
        let (authority, certificate) = (at("ca.pem".to_owned()), at(format!("{own}.pem")));
        let fleet = ["--fleet", urls, "--fleet-host", "1", "--fleet-address", "127.0.0.1:64065"];
        let files = ["--fleet-authority", &authority, "--fleet-certificate", &certificate];
        let key = ["--fleet-key", &at(format!("{own}.key"))].map(str::to_owned);
        [&fleet[..], &files].concat().into_iter().map(str::to_owned).chain(key).collect()
    };
    let service = free_port();
    let start = |options: Vec<String>| {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        Server::launch(command(), tempfile::tempdir().unwrap(), service, vec![LOCAL], &options)
    };
    let mut server = start(options(&urls, "host"));
    assert!(server.process.says("--fleet: read", PATIENCE), "{}", server.stderr());
    let nat64 = Nat64::known(&server);
    let port = nat64.map(Client::nth(1));
    server.process.signal(libc::SIGTERM);
    assert!(server.wait_exit(PATIENCE).success());
    drop(server);

    // The password of another: it is said, without it, and nobody is answered.
    let named = urls.replace("https://", &format!("https://{USER}:letmein@"));
    let mut kept_out = start(options(&named, "root"));
    assert!(kept_out.process.says("authentication failed", PATIENCE), "{}", kept_out.stderr());
    assert!(!kept_out.stderr().contains("letmein"), "{}", kept_out.stderr());
    drop(kept_out);

    let named = urls.replace("https://", &format!("https://{USER}:word@"));
    let mut server = start(options(&named, "root"));
    assert!(server.process.says("--fleet: read", PATIENCE), "{}", server.stderr());
    assert_eq!(nat64.map(Client::nth(1)), port, "what was recorded is there");
}
