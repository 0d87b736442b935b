//! Sockets of the handoff port that outlive the process: what arrives between two processes waits
//! in them.
//!
//! The service manager keeps them, or a process hands them over to the program that it executes.
//! Each has a name that says its place in the group of its address, so that the next process reads
//! from each what its reactor is to answer. The sockets of a `.socket` unit have other names; they
//! stand in the order in which they were passed, and nobody can join their group.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::{set_socket_reuseport, socket_domain, socket_type};
use rustix::net::{AddressFamily, RecvFlags, SocketType, bind, recv};

use super::{BoundSockets, ReactorSocket, attach_steering, bound, configure, open, undeafen};
use crate::kernel::service::{self, PassedFile};

/// What the name of a socket of ours begins with.
const NAME: &str = "handoff-";
/// What the name of a unit's socket begins with when it is handed over.
const UNIT_NAME: &str = "unit-";
/// What the names of listening sockets begin with that one process hands over to the next, and that
/// are not of the handoff port.
const OTHER_NAME: &str = "listening-";
/// The most datagrams that are taken from a socket whose group changes: more than its queue holds.
const DRAINED_MAX: u64 = 100_000;

/// Sockets that another process bound.
#[derive(Debug, Default)]
pub struct KeptSockets {
    groups: Vec<(SocketAddrV4, Vec<KeptSocket>)>,
    /// The names of those that have no use here. The service manager has them still.
    useless: Vec<String>,
    /// Listening sockets of other use, by name.
    others: Vec<(String, OwnedFd)>,
}

#[derive(Debug)]
struct KeptSocket {
    socket: UdpSocket,
    name: String,
    /// Its place in the group, where its name says it.
    place: Option<usize>,
}

impl KeptSockets {
    /// Those that were passed to this process, for the addresses that it listens on. Others are
    /// closed, and forgotten when these are bound.
    pub fn of_process(listen: &[SocketAddrV4]) -> Self {
        let is_ours = |name: &str| place_of(name).is_some() || name.starts_with(OTHER_NAME);
        Self::of(service::passed(is_ours), listen)
    }

    /// Whether another process served with them: this one goes on.
    pub fn goes_on(&self) -> bool {
        !self.groups.is_empty()
    }

    /// A socket that was handed over under this name by [`handed_over_as`].
    pub fn take_listening(&mut self, name: &str) -> Option<OwnedFd> {
        let name = format!("{OTHER_NAME}{name}");
        let at = self.others.iter().position(|(other, _)| *other == name)?;
        Some(self.others.swap_remove(at).1)
    }

    pub(super) fn of(passed: Vec<PassedFile>, listen: &[SocketAddrV4]) -> Self {
        let mut kept = Self::default();
        for PassedFile { name, file, is_units } in passed {
            if name.starts_with(OTHER_NAME) {
                kept.others.push((name, file));
                continue;
            }
            let place = if is_units { None } else { place_of(&name) };
            match local_of(file) {
                Some((socket, local)) if listen.contains(&local) && local.port() != 0 => {
                    kept.add(local, KeptSocket { socket, name, place });
                }
                // It would be in the way of those that are bound now.
                _ if !is_units => kept.useless.push(name),
                _ => {}
            }
        }
        for (_, members) in &mut kept.groups {
            // A unit's sockets stay open whatever we do, so they are the ones to use.
            if members.iter().any(|member| member.place.is_none()) {
                let ours = members.extract_if(.., |member| member.place.is_some());
                kept.useless.extend(names_of_ours(ours));
            }
            members.sort_by_key(|member| member.place);
            // A group with a gap is steered to sockets that nobody has.
            let whole =
                |(at, member): (usize, &KeptSocket)| member.place.is_none_or(|place| place == at);
            if !members.iter().enumerate().all(whole) {
                kept.useless.extend(names_of_ours(members.drain(..)));
            }
        }
        kept.groups.retain(|(_, members)| !members.is_empty());
        kept
    }

    fn add(&mut self, local: SocketAddrV4, member: KeptSocket) {
        match self.groups.iter_mut().find(|(address, _)| *address == local) {
            Some((_, members)) => members.push(member),
            None => self.groups.push((local, vec![member])),
        }
    }

    /// How many reactors there can be, of the `wanted` ones: nobody can join a unit's sockets.
    pub fn reactors(&self, wanted: usize) -> usize {
        let units = self.groups.iter().filter(|(_, members)| members[0].place.is_none());
        units.map(|(_, members)| members.len()).chain([wanted]).min().unwrap_or(wanted)
    }

    /// Has the service manager close those that would be in the way.
    pub(super) fn forget_useless(&mut self) {
        self.useless.drain(..).for_each(|name| service::forget(&name));
    }

    /// The addresses whose sockets are those of a unit.
    pub(super) fn of_units(&self) -> Vec<SocketAddrV4> {
        let units = self.groups.iter().filter(|(_, members)| members[0].place.is_none());
        units.map(|&(address, _)| address).collect()
    }

    /// The group of an address, if it was kept, for this number of reactors. `lost` counts the
    /// datagrams that waited for a reactor that is another now.
    pub(super) fn take(
        &mut self,
        address: SocketAddrV4,
        shared: bool,
        reactors: usize,
        lost: &mut u64,
    ) -> Option<io::Result<Vec<ReactorSocket>>> {
        let index = self.groups.iter().position(|(local, _)| *local == address)?;
        let (_, members) = self.groups.remove(index);
        Some(adopt(address, members, shared, reactors, lost))
    }
}

/// A group that was whole before: it grows or shrinks, and never stops to hear. All are steered as
/// for `reactors` before what waits in the queues for the reactors of before is thrown away.
fn adopt(
    address: SocketAddrV4,
    mut members: Vec<KeptSocket>,
    shared: bool,
    reactors: usize,
    lost: &mut u64,
) -> io::Result<Vec<ReactorSocket>> {
    let before = members.len();
    let unneeded = members.split_off(before.min(reactors));
    let mut group = Vec::with_capacity(reactors);
    for KeptSocket { socket, .. } in members {
        configure(socket.as_fd(), *address.ip())?;
        if shared || before > 1 {
            set_socket_reuseport(&socket, true)?;
        }
        let mut socket = bound(socket.into())?;
        // What was dropped before is not for this process to count.
        socket.overflowed();
        group.push(socket);
    }
    while group.len() < reactors {
        let socket = open(address)?;
        set_socket_reuseport(&socket, true)?;
        bind(&socket, &address)?;
        let socket = bound(socket)?;
        undeafen(&socket)?;
        group.push(socket);
    }
    if reactors > 1 || before > 1 {
        attach_steering(&group[0], reactors)?;
    }
    if before != reactors {
        let sockets = group.iter().map(|one| &one.socket);
        let sockets = sockets.chain(unneeded.iter().map(|member| &member.socket));
        *lost += sockets.map(drain).sum::<u64>();
    }
    // The last ones of the group, so that the others keep their places.
    names_of_ours(unneeded).for_each(|name| service::forget(&name));
    Ok(group)
}

/// Closes the sockets. The service manager has those of these names still.
fn names_of_ours(members: impl IntoIterator<Item = KeptSocket>) -> impl Iterator<Item = String> {
    let ours = |member: KeptSocket| member.place.is_some().then_some(member.name);
    members.into_iter().filter_map(ours)
}

/// Takes all that waits.
fn drain(socket: &UdpSocket) -> u64 {
    let mut octet = [0; 1];
    let mut taken = 0;
    while taken < DRAINED_MAX && recv(socket, &mut octet[..], RecvFlags::DONTWAIT).is_ok() {
        taken += 1;
    }
    taken
}

impl BoundSockets {
    /// Has the service manager keep the sockets of all reactors. Returns them, to be handed over.
    ///
    /// # Errors
    /// Where the process may not have more descriptors.
    pub fn keep(&self) -> io::Result<Vec<PassedFile>> {
        let mut kept = Vec::new();
        for (place, shard) in self.shards.iter().enumerate() {
            for socket in shard {
                let local = socket.local;
                let is_units = self.of_units.contains(&local);
                let kind = if is_units { UNIT_NAME } else { NAME };
                let name = format!("{kind}{place}-{}-{}", local.ip(), local.port());
                if !is_units {
                    service::keep(&name, socket.as_fd());
                }
                kept.push(PassedFile {
                    name,
                    file: socket.as_fd().try_clone_to_owned()?,
                    is_units,
                });
            }
        }
        Ok(kept)
    }
}

/// A listening socket, to be handed over to the next process under a name without white space.
///
/// # Errors
/// Where the process may not have another descriptor.
pub fn handed_over_as(name: &str, socket: BorrowedFd<'_>) -> io::Result<PassedFile> {
    let file = socket.try_clone_to_owned()?;
    Ok(PassedFile { name: format!("{OTHER_NAME}{name}"), file, is_units: false })
}

fn place_of(name: &str) -> Option<usize> {
    name.strip_prefix(NAME)?.split('-').next()?.parse().ok()
}

/// The address that it is bound to, if it is a UDP socket for IPv4.
fn local_of(file: OwnedFd) -> Option<(UdpSocket, SocketAddrV4)> {
    let fits = socket_type(&file).ok()? == SocketType::DGRAM
        && socket_domain(&file).ok()? == AddressFamily::INET;
    let socket = fits.then(|| UdpSocket::from(file))?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(local) => Some((socket, local)),
        SocketAddr::V6(_) => None,
    }
}
