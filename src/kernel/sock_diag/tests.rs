use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use proptest::prelude::*;

use super::*;

const SEQUENCE: u32 = 0x0403_0201;

/// A connection over IPv4, one of a v4-mapped socket, one over IPv6, and the end.
#[cfg(target_endian = "little")]
#[rustfmt::skip]
const ANSWER: [u8; 3 * 88 + 20] = [
    88, 0, 0, 0,  20, 0,  2, 0,  1, 2, 3, 4,  9, 9, 0, 0,
    2, 1, 0, 0,  0, 80,  0x0e, 0x87,
    203, 0, 113, 5,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,
    192, 0, 2, 7,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,
    0, 0, 0, 0,  1, 2, 3, 4,  5, 6, 7, 8,
    0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,

    88, 0, 0, 0,  20, 0,  2, 0,  1, 2, 3, 4,  9, 9, 0, 0,
    10, 8, 0, 0,  1, 187,  255, 255,
    0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 255, 255,  203, 0, 113, 6,
    0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 255, 255,  192, 0, 2, 9,
    0, 0, 0, 0,  1, 2, 3, 4,  5, 6, 7, 8,
    0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,

    88, 0, 0, 0,  20, 0,  2, 0,  1, 2, 3, 4,  9, 9, 0, 0,
    10, 1, 0, 0,  1, 187,  255, 255,
    0x20, 1, 0xd, 0xb8,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 1,
    0x20, 1, 0xd, 0xb8,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 2,
    0, 0, 0, 0,  1, 2, 3, 4,  5, 6, 7, 8,
    0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,

    20, 0, 0, 0,  3, 0,  2, 0,  1, 2, 3, 4,  9, 9, 0, 0,  0, 0, 0, 0,
];

fn parsed(datagram: &[u8]) -> (io::Result<bool>, Vec<Connection>) {
    let mut found = Vec::new();
    let mut push = |socket: FoundSocket<'_>| found.push(socket.connection);
    let result = netlink::parse(datagram, SEQUENCE, &mut |kind, data| note(kind, data, &mut push));
    (result, found)
}

#[cfg(target_endian = "little")]
fn connections() -> [Connection; 2] {
    [("203.0.113.5:80", "192.0.2.7:3719"), ("203.0.113.6:443", "192.0.2.9:65535")].map(
        |(local, remote)| Connection {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        },
    )
}

#[test]
#[cfg(target_endian = "little")]
fn an_answer_in_octets() {
    let (last, found) = parsed(&ANSWER);
    assert!(last.unwrap());
    assert_eq!(found, connections());
    // The same in two datagrams.
    let (first, second) = ANSWER.split_at(88);
    let (last, found) = parsed(first);
    assert_eq!((last.unwrap(), found), (false, connections()[..1].to_vec()));
    let (last, found) = parsed(second);
    assert_eq!((last.unwrap(), found), (true, connections()[1..].to_vec()));
    assert!(!parsed(&[]).0.unwrap());
}

#[test]
#[cfg(target_endian = "little")]
fn every_truncation() {
    for length in 0..ANSWER.len() {
        let (last, found) = parsed(&ANSWER[..length]);
        let whole = length / 88;
        assert_eq!(found, connections()[..whole.min(2)], "{length}");
        match length % 88 {
            0 => assert!(!last.unwrap(), "{length}"),
            _ => assert_eq!(last.unwrap_err().kind(), io::ErrorKind::InvalidData, "{length}"),
        }
    }
    // Messages whose length field is right, but that are too short for their type.
    for length in 0..16 + 4 + 48 {
        let mut message = ANSWER[..length].to_vec();
        if let Some(field) = message.first_chunk_mut() {
            *field = (length as u32).to_ne_bytes();
        }
        let (result, found) = parsed(&message);
        assert_eq!((result.is_err(), found), (length > 0, vec![]), "{length}");
    }
    let mut end = ANSWER[3 * 88..][..18].to_vec();
    end[0] = 18;
    parsed(&end).0.unwrap_err();
}

#[test]
#[cfg(target_endian = "little")]
fn other_messages() {
    let message = |kind: u8, data: &[u8]| {
        let length = 16 + data.len() as u8;
        [&[length, 0, 0, 0, kind, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0], data].concat()
    };
    // An error, EPERM, ends the answer.
    let refused = [&message(2, &(-1_i32).to_ne_bytes()), &ANSWER[..]].concat();
    let (result, found) = parsed(&refused);
    assert_eq!((result.unwrap_err().kind(), found), (io::ErrorKind::PermissionDenied, vec![]));
    assert_eq!(
        parsed(&message(3, &(-2_i32).to_ne_bytes())).0.unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    parsed(&message(3, &i32::MIN.to_ne_bytes())).0.unwrap_err();
    parsed(&message(4, &[])).0.unwrap_err();
    parsed(&message(99, &[])).0.unwrap_err();
    // A no-op of an odd length, padded.
    let (last, found) = parsed(&[&message(1, &[7])[..], &[0, 0, 0], &ANSWER].concat());
    assert_eq!((last.unwrap(), found), (true, connections().to_vec()));
    // The answer to another request.
    let (last, found) = parsed(&ANSWER.map(|octet| if octet == 4 { 5 } else { octet }));
    assert_eq!((last.unwrap(), found), (false, vec![]));
}

#[test]
#[cfg(target_endian = "little")]
#[rustfmt::skip]
fn a_request_in_octets() {
    let hosts = [Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 9)];
    let mut expected = vec![
        112, 0, 0, 0,  20, 0,  1, 3,  1, 2, 3, 4,  0, 0, 0, 0,
        10, 6, 0, 0,  0x36, 0x0b, 0, 0,
    ];
    expected.extend([0; 48]);
    expected.extend([
        40, 0,  1, 0,
        // The first host? A match continues with the jump to the end, anything else after it.
        8, 16,  20, 0,  2, 32, 0, 0,  255, 255, 255, 255,  192, 0, 2, 7,
        1, 4,  20, 0,
        // The second host? A match continues at the end, anything else beyond it.
        8, 16,  20, 0,  2, 32, 0, 0,  255, 255, 255, 255,  192, 0, 2, 9,
    ]);
    expected[0] = expected.len() as u8;
    let body = request(FAMILY_IPV6, LIVE, &hosts);
    let request = netlink::message(SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, SEQUENCE, &body);
    assert_eq!(request, expected);

    let any = [8, 16,  20, 0,  2, 0, 0, 0,  255, 255, 255, 255,  0, 0, 0, 0];
    assert_eq!(bytecode(&[]), any);
    assert_eq!(bytecode(&[Ipv4Addr::LOCALHOST; HOSTS_MAX + 1]), any);
    assert_eq!(bytecode(&[Ipv4Addr::LOCALHOST; HOSTS_MAX]).len(), 20 * HOSTS_MAX - 4);
}

proptest! {
    #![proptest_config(crate::cases::config())]

    #[test]
    fn nothing_is_too_strange_to_be_read(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((0..284_usize, any::<u8>()), 0..8),
    ) {
        let _ = parsed(&noise);
        #[cfg(target_endian = "little")]
        {
            let mut answer = ANSWER;
            for (at, octet) in changes {
                answer[at] = octet;
            }
            prop_assert!(parsed(&answer).1.len() <= 3);
        }
    }
}

/// The live connections of this host with `hosts`.
fn live(hosts: &[Ipv4Addr]) -> Vec<Connection> {
    let mut found = Vec::new();
    SockDiag::open().unwrap().connections(hosts, |connection| found.push(connection)).unwrap();
    found
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, address.port()),
        IpAddr::V6(ip) => panic!("{ip}"),
    }
}

/// The connection, from both of its ends.
fn ends(client: &TcpStream) -> [Connection; 2] {
    let (local, remote) = (v4(client.local_addr().unwrap()), v4(client.peer_addr().unwrap()));
    [Connection { local, remote }, Connection { local: remote, remote: local }]
}

#[test]
fn connections_of_this_host() {
    // The kernel has many other connections, and leaves them out.
    let [one, two, third] = [11, 12, 13].map(|last| Ipv4Addr::new(127, 0, 64, last));
    let listeners = [
        TcpListener::bind((one, 0)).unwrap(),
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap(),
        TcpListener::bind((third, 0)).unwrap(),
    ];
    let mut accepted = Vec::new();
    let mut connect = |listener: &TcpListener, ip: Ipv4Addr| {
        let client = TcpStream::connect((ip, listener.local_addr().unwrap().port())).unwrap();
        accepted.push(listener.accept().unwrap().0);
        client
    };
    let clients = [(&listeners[0], one), (&listeners[1], two), (&listeners[2], third)]
        .map(|(l, ip)| connect(l, ip));
    let [first, second, other] = [0, 1, 2].map(|i| ends(&clients[i]));
    // A socket of `[::]` has a v4-mapped address.
    assert!(accepted[1].local_addr().unwrap().is_ipv6());

    // Only the ends that are connected with these hosts, and no listening socket.
    let mut found = live(&[one, two]);
    found.sort_by_key(|connection| *connection.remote.ip());
    assert_eq!(found, [first[0], second[0]]);
    assert_eq!(live(&[third]), [other[0]]);
    assert_eq!(live(&[Ipv4Addr::new(127, 0, 64, 14)]), []);
    // The other ends are all on this one host. They are found with a filter, without one, and with
    // the most hosts that a filter has.
    let local = *first[0].local.ip();
    let mut many: Vec<_> = (0..HOSTS_MAX as u8).map(|i| Ipv4Addr::new(127, 0, 65, i)).collect();
    many[HOSTS_MAX - 1] = local;
    for hosts in [&[local][..], &[], &many[..]] {
        let found = live(hosts);
        assert!(found.contains(&first[1]) && found.contains(&second[1]), "{found:?}");
        assert!(found.iter().all(|connection| connection.remote.port() != 0), "{found:?}");
    }

    // Half-closed, it is live at both ends.
    clients[1].shutdown(Shutdown::Write).unwrap();
    assert_eq!(live(&[two]), [second[0]]);
    assert!(live(&[local]).contains(&second[1]));
    // Closed by both, it is not live; the end that closed first is in TIME_WAIT.
    drop(accepted.remove(1));
    let mut tries = 0..2000;
    while !live(&[two]).is_empty() || live(&[local]).contains(&second[1]) {
        tries.next().expect("a connection that is closed is over");
        thread::sleep(std::time::Duration::from_millis(5));
    }
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let in_time_wait = format!(":{:04X} 06 ", second[0].remote.port());
    assert!(table.contains(&in_time_wait), "{in_time_wait} is not in\n{table}");
    assert_eq!(live(&[one]), [first[0]]);
}

#[test]
fn sockets_that_take_packets_of_ipv6() {
    let found = || {
        let mut found = Vec::new();
        SockDiag::open().unwrap().listening(|socket| found.push(socket)).unwrap();
        found
    };
    let any = TcpListener::bind("[::]:0").unwrap();
    let own = std::net::UdpSocket::bind("[::1]:0").unwrap();
    let connected = std::net::UdpSocket::bind("[::1]:0").unwrap();
    connected.connect(own.local_addr().unwrap()).unwrap();
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let of = |transport, address: SocketAddr| {
        found().into_iter().find(|it| (it.transport, it.port) == (transport, address.port()))
    };
    let tcp = of(Transport::Tcp, any.local_addr().unwrap()).unwrap();
    assert_eq!((tcp.address, tcp.device), (Ipv6Addr::UNSPECIFIED, 0));
    let udp = of(Transport::Udp, own.local_addr().unwrap()).unwrap();
    assert_eq!((udp.address, udp.device), (Ipv6Addr::LOCALHOST, 0));
    assert_eq!(of(Transport::Udp, connected.local_addr().unwrap()), None);
    assert_eq!(of(Transport::Tcp, old.local_addr().unwrap()), None);
    let at = any.local_addr().unwrap();
    drop(any);
    assert_eq!(of(Transport::Tcp, at), None);
}
