//! The gateway's device is set down and up: the service is reached again.

use crate::field::{Field, SERVICE6};
use crate::process::run;
use crate::programs::Gateway;

fn pings(field: &Field) -> bool {
    let service = SERVICE6.to_string();
    run(field.client(), "ping", &["-6", "-c", "1", "-W", "5", &service]).status.success()
}

#[test]
fn routes_are_set_again_when_the_device_comes_up() {
    let field = Field::new();
    let site = &field.sites[0];
    let mut gateway = Gateway::start(site);
    assert!(pings(&field));
    site.nat64.ip("link set nat64 down");
    gateway.wait_for("warning: nat64 is down");
    site.nat64.ip("link set nat64 up");
    gateway.wait_for("nat64 is up, and its routes are set again\n");
    assert!(pings(&field));
}
