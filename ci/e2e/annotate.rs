//! `nat64handoff annotate`, with nginx's lines as nginx writes them, and with GoAccess behind it.

use std::fs;

use crate::field::Field;
use crate::process::{Process, run, wait_until};
use crate::programs::{curl, known};

/// The log is followed until there is a file `stop`; what `annotate` makes of it is kept beside.
const FOLLOW: &str = r#"
cd "$0"
(
    tail -n +1 -F nginx/handoff.log & tail=$!
    until [ -e stop ]; do sleep 0.05; done
    kill "$tail"
) | "$1" annotate --log events.log | tee annotated | goaccess --log-format=COMBINED -o seen.json -
"#;

#[test]
fn annotate_names_the_client_in_nginxs_lines_as_they_come() {
    let field = Field::new();
    let site = &field.sites[0];
    let (mut server, _gateway, nginx) = known(&field);
    let program = env!("CARGO_BIN_EXE_nat64handoff");
    let folder = field.folder().to_str().unwrap();
    let mut pipeline = Process::start(&field.server, "bash", &["-c", FOLLOW, folder, program]);
    let annotated = || fs::read_to_string(field.path("annotated")).unwrap_or_default();
    let lines = || annotated().lines().count();
    wait_until("what was there comes out", || lines() == 1);
    for count in 2..=6 {
        let (port, address) = {
            curl(site, "hello").unwrap();
            let access = nginx.accesses(count).pop().unwrap();
            (access.port, site.address)
        };
        wait_until("the line comes out as it comes in", || lines() == count);
        let said = annotated();
        let line = said.lines().last().unwrap();
        let (_, client_port) = server.who(site.pool, port);
        assert!(line.starts_with(&format!("{address} - - [")), "{line}");
        assert!(line.contains(&format!(" port={client_port} time=")), "{line}");
    }
    // One that came over IPv4.
    let local = ["--silent", "--fail", "http://203.0.113.5/hello"];
    assert!(run(&field.server, "curl", &local).status.success());
    wait_until("that line comes out, too", || lines() == 7);
    let access = fs::read_to_string(field.path("nginx/handoff.log")).unwrap();
    assert_eq!(annotated().lines().last(), access.lines().last());
    fs::write(field.path("stop"), "").unwrap();
    pipeline.wait_for_success();
    let seen = fs::read_to_string(field.path("seen.json")).unwrap();
    assert!(seen.contains("\"valid_requests\": 7"), "{seen}");
    assert!(seen.contains(&format!("\"data\": \"{}\"", site.address)), "{seen}");
    server.stop();
}
