//! A process that writes each packet of its TUN device back to it, as it is.

use std::net::Ipv4Addr;
use std::time::Duration;

use nat64handoff::ip::offload::OFFLOAD_HEADER;
use nat64handoff::kernel::signals::Signals;
use nat64handoff::kernel::tun::{self, Tun};
use nat64handoff::kernel::waker::EventWaker;

/// Its device needs a route; nobody uses this one.
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);

pub fn run(device: &str) -> ! {
    let (tun, queues) = Tun::open(device, 1).unwrap();
    tun.set_up(1500, &[NOBODY], &[]).unwrap();
    let (signals, nobody) = (Signals::new().unwrap(), EventWaker::new().unwrap());
    let queue = &queues[0];
    let mut buffer = vec![0; OFFLOAD_HEADER + 40 + 65_536];
    loop {
        match queue.receive(&mut buffer).unwrap() {
            Some(received) => {
                let offload = received.offload.unwrap();
                // What the kernel does not take is lost, as on any link.
                let _ = queue.send(&offload, received.packet, []);
            }
            None => {
                tun::wait(&tun, queue, &nobody, &signals, Duration::from_secs(1)).unwrap();
            }
        }
    }
}
