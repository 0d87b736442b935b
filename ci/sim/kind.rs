//! The kinds of faults.

/// Makes the kinds, with their names and what each one is.
macro_rules! kinds {
    ($($kind:ident = $name:literal: $what:literal, $place:expr;)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $(#[doc = $what] $kind,)* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            pub fn place(self) -> Place {
                match self { $(Kind::$kind => $place,)* }
            }
        }
    };
}

/// Where and when a kind strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Packets, each with the same probability.
    Packet,
    /// Anything else, at random times.
    Incident,
    /// How the server is set up, throughout.
    Setup,
}

use Place::{Incident, Packet, Setup};

kinds! {
    Loss = "loss": "a packet between NAT64 and host is lost", Packet;
    Duplication = "duplication": "it arrives twice", Packet;
    Delay = "delay": "it arrives later than those behind it", Packet;
    Corruption = "corruption": "an octet of a control payload changes, and its checksum passes", Packet;
    LostFragments = "lost-fragments": "packets are fragmented for a small MTU, and one is lost", Packet;
    Rebinding = "rebinding": "a NAT before a NAT64 gives its control channel another port", Incident;
    Unreachable = "unreachable": "the server's port is closed for a time, and its kernel says so", Incident;
    ForgedUnreachable = "forged-unreachable": "somebody else says so", Incident;
    Strangers = "strangers": "requests are forged, or sent once more by somebody else", Incident;
    FalseReports = "false-reports": "a NAT64 reports what contradicts the table", Incident;
    Kill = "kill": "the server is killed between two steps", Incident;
    KillInDisk = "kill-in-disk": "the server is killed in the middle of an operation of the disk", Incident;
    PowerCut = "power-cut": "the host loses power, and what its disk did not sync", Incident;
    DiskError = "disk-error": "operations of the disk fail", Incident;
    DiskFull = "disk-full": "no room is left on the disk for a time", Incident;
    SlowDisk = "slow-disk": "nothing is synced, compacted or logged for a time", Incident;
    Reactors = "reactors": "the server is started again with another number of reactors", Incident;
    HandOver = "hand-over": "a successor takes over sockets and state", Incident;
    WallJump = "wall-jump": "the wall clock of the host is set", Incident;
    Pause = "pause": "the server does nothing for a time", Incident;
    Limits = "limits": "few NAT64s, few entries and a small journal are allowed", Setup;
    Reboot = "reboot": "a NAT64 forgets all, its keys included or not", Incident;
    Rotation = "rotation": "a NAT64 replaces the key of its tokens", Incident;
    Ban = "ban": "an operator bans a client for a time", Incident;
    DropTable = "drop-table": "an operator drops a table", Incident;
    Reload = "reload": "an operator has the configuration read again", Incident;
    LogRotation = "log-rotation": "an operator moves the log away, and has another one opened", Incident;
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u32);

const _: () = assert!(Kind::ALL.len() <= 32);

impl Kinds {
    pub fn of(kinds: &[Kind]) -> Self {
        kinds.iter().fold(Self::default(), |all, &kind| all.with(kind))
    }

    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u32 != 0
    }

    pub fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u32)
    }

    pub fn without(self, kind: Kind) -> Self {
        Self(self.0 & !(1 << kind as u32))
    }

    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(move |&kind| self.has(kind))
    }
}
