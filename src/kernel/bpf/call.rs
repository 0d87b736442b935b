//! The system call `bpf` (bpf(2)), as far as our programs and maps need it.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::assembler::Instruction;

const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO: libc::c_long = 15;
const BTF_LOAD: libc::c_long = 18;
const LINK_CREATE: libc::c_long = 28;
const LINK_DETACH: libc::c_long = 34;

/// What a program may be about, and look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ProgramKind {
    /// BPF_PROG_TYPE_SOCK_OPS
    Connections = 13,
    /// BPF_PROG_TYPE_CGROUP_SOCK_ADDR
    Addresses = 18,
}

/// What the verifier may say about a program that it refuses.
const LOG_OCTETS: usize = 64 * 1024;
/// The names of maps and programs are that long, with the octet 0 at the end.
const NAME_OCTETS: usize = 16;

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfStep {
    Map,
    Program,
    Attach,
    Pin,
    Open,
    Look,
    Change,
}

/// Why the kernel refused it.
#[derive(Debug)]
pub struct BpfError {
    pub step: BpfStep,
    pub cause: io::Error,
    /// The last line of what the verifier said, where it did.
    pub verifier: Option<String>,
}

impl BpfError {
    pub(super) fn last(step: BpfStep) -> Self {
        Self { step, cause: io::Error::last_os_error(), verifier: None }
    }

    /// There is no such file.
    pub fn is_missing(&self) -> bool {
        self.cause.kind() == io::ErrorKind::NotFound
    }

    /// A program does what this kernel does not know.
    pub(super) fn is_of_the_verifier(&self) -> bool {
        self.step == BpfStep::Program && self.verifier.is_some()
    }

    /// What is pinned is no map of this shape: only then is the cause not the kernel's.
    pub fn is_of_another_version(&self) -> bool {
        self.step == BpfStep::Open && self.cause.raw_os_error().is_none()
    }
}

impl fmt::Display for BpfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.step {
            BpfStep::Map => "the kernel makes no map",
            BpfStep::Program => "the kernel does not take the program",
            BpfStep::Attach => "the program cannot be attached to the control group",
            BpfStep::Pin => "it cannot be pinned",
            BpfStep::Open => "the pinned map cannot be opened",
            BpfStep::Look => "the map cannot be read",
            BpfStep::Change => "the map cannot be changed",
        })?;
        write!(f, ": {}", self.cause)?;
        match &self.verifier {
            Some(said) => write!(f, " ({said})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for BpfError {}

/// The kind of an attribute of the system call: plain integers, with no padding that is not zero.
///
/// # Safety
/// The addresses in it lead to memory of the sizes that it says, which stays valid during the call.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attribute: &mut T) -> Option<libc::c_long> {
    let size = mem::size_of::<T>();
    // SAFETY: the attribute is of this size; the caller vouches for what it leads to.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, (attribute as *mut T).cast::<u8>(), size) };
    (result >= 0).then_some(result)
}

fn owned(result: Option<libc::c_long>, step: BpfStep) -> Result<OwnedFd, BpfError> {
    let number = result.ok_or_else(|| BpfError::last(step))?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}

/// What the kernel calls a map or a program: as much of this as there is room for.
pub(super) const fn name_of(name: &str) -> [u8; NAME_OCTETS] {
    let mut octets = [0; NAME_OCTETS];
    let mut at = 0;
    while at < NAME_OCTETS - 1 && at < name.len() {
        octets[at] = name.as_bytes()[at];
        at += 1;
    }
    octets
}

/// What a map is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapShape {
    /// What the kernel calls it, with zeros at the end.
    pub name: [u8; NAME_OCTETS],
    /// BPF_MAP_TYPE_...
    pub kind: u32,
    pub key_octets: usize,
    pub value_octets: usize,
    /// BPF_F_...
    pub flags: u32,
}

#[repr(C)]
struct CreateMap {
    kind: u32,
    key_octets: u32,
    value_octets: u32,
    entries_max: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; NAME_OCTETS],
    interface: u32,
    types: u32,
    key_type: u32,
    value_type: u32,
}

/// Makes a map. `types` describes key and value to the kernel, where it wants to know.
pub(super) fn create_map(
    shape: MapShape,
    entries_max: u32,
    types: Option<(BorrowedFd<'_>, u32, u32)>,
) -> Result<OwnedFd, BpfError> {
    let (types, key_type, value_type) =
        types.map_or((0, 0, 0), |(types, key, value)| (types.as_raw_fd() as u32, key, value));
    let mut attribute = CreateMap {
        kind: shape.kind,
        key_octets: shape.key_octets as u32,
        value_octets: shape.value_octets as u32,
        entries_max,
        flags: shape.flags,
        inner: 0,
        node: 0,
        name: shape.name,
        interface: 0,
        types,
        key_type,
        value_type,
    };
    // SAFETY: there is no address in it.
    owned(unsafe { bpf(MAP_CREATE, &mut attribute) }, BpfStep::Map)
}

#[repr(C)]
struct LoadTypes {
    types: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    pad: u32,
}

/// Tells the kernel of types (BTF).
pub(super) fn load_types(types: &[u8]) -> Result<OwnedFd, BpfError> {
    let mut attribute = LoadTypes {
        types: types.as_ptr() as u64,
        log: 0,
        size: types.len() as u32,
        log_size: 0,
        log_level: 0,
        pad: 0,
    };
    // SAFETY: it leads to `types` alone, and says how long that is.
    owned(unsafe { bpf(BTF_LOAD, &mut attribute) }, BpfStep::Map)
}

#[repr(C)]
struct LoadProgram {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_OCTETS],
    interface: u32,
    attach_type: u32,
}

/// Loads a program, which is to be attached so.
pub(super) fn load_program(
    name: &str,
    kind: ProgramKind,
    attach_type: u32,
    instructions: &[Instruction],
) -> Result<OwnedFd, BpfError> {
    let mut log = vec![0_u8; LOG_OCTETS];
    let load = |log: &mut [u8]| {
        let mut attribute = LoadProgram {
            kind: kind as u32,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            licence: c"Dual MIT/GPL".as_ptr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: log.len() as u32,
            log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
            kernel_version: 0,
            flags: 0,
            name: name_of(name),
            interface: 0,
            attach_type,
        };
        // SAFETY: instructions and log are of the sizes that it says, and the licence ends with 0.
        owned(unsafe { bpf(PROG_LOAD, &mut attribute) }, BpfStep::Program)
    };
    let error = match load(&mut []) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, to hear why.
    load(&mut log).map_err(|_| {
        let said = String::from_utf8_lossy(&log);
        let mut said = said.trim_end_matches('\0').lines();
        let said = said.rfind(|line| !line.starts_with("processed "));
        BpfError { verifier: said.map(str::to_owned), ..error }
    })
}

#[repr(C)]
struct CreateLink {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a control group, as long as the link is pinned or open.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
    attach_type: u32,
) -> Result<OwnedFd, BpfError> {
    let mut attribute = CreateLink {
        program: program.as_raw_fd() as u32,
        target: group.as_raw_fd() as u32,
        attach_type,
        flags: 0,
    };
    // SAFETY: there is no address in it.
    owned(unsafe { bpf(LINK_CREATE, &mut attribute) }, BpfStep::Attach)
}

#[repr(C)]
struct DetachLink {
    link: u32,
}

/// Detaches a program now; the end of its link does so a little later. Linux 5.9 and later.
pub(super) fn detach(link: BorrowedFd<'_>) -> Result<(), BpfError> {
    let mut attribute = DetachLink { link: link.as_raw_fd() as u32 };
    // SAFETY: there is no address in it.
    let done = unsafe { bpf(LINK_DETACH, &mut attribute) };
    done.map(drop).ok_or_else(|| BpfError::last(BpfStep::Attach))
}

#[repr(C)]
struct PinnedObject {
    path: u64,
    descriptor: u32,
    flags: u32,
}

fn path_of(path: &Path, step: BpfStep) -> Result<CString, BpfError> {
    let made = CString::new(path.as_os_str().as_bytes());
    made.map_err(|_| BpfError { step, cause: io::ErrorKind::InvalidInput.into(), verifier: None })
}

/// Gives a map or a link a name in a file system for that (bpffs): it stays when we end.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), BpfError> {
    let path = path_of(path, BpfStep::Pin)?;
    let descriptor = object.as_raw_fd() as u32;
    let mut attribute = PinnedObject { path: path.as_ptr() as u64, descriptor, flags: 0 };
    // SAFETY: the path ends with 0.
    let done = unsafe { bpf(OBJ_PIN, &mut attribute) };
    done.map(drop).ok_or_else(|| BpfError::last(BpfStep::Pin))
}

/// Opens what was pinned.
pub(super) fn open(path: &Path) -> Result<OwnedFd, BpfError> {
    let path = path_of(path, BpfStep::Open)?;
    let mut attribute = PinnedObject { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the path ends with 0.
    owned(unsafe { bpf(OBJ_GET, &mut attribute) }, BpfStep::Open)
}

/// The beginning of `struct bpf_map_info`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct MapInformation {
    pub(super) kind: u32,
    pub(super) number: u32,
    pub(super) key_octets: u32,
    pub(super) value_octets: u32,
    pub(super) entries_max: u32,
    pub(super) flags: u32,
    pub(super) name: [u8; NAME_OCTETS],
}

#[repr(C)]
struct AskInformation {
    descriptor: u32,
    size: u32,
    information: u64,
}

/// What the kernel says of a map.
pub(super) fn map_information(map: BorrowedFd<'_>) -> Result<MapInformation, BpfError> {
    let mut information = MapInformation::default();
    let mut attribute = AskInformation {
        descriptor: map.as_raw_fd() as u32,
        size: mem::size_of::<MapInformation>() as u32,
        information: &raw mut information as u64,
    };
    // SAFETY: it leads to `information` alone, and says how long that is.
    let done = unsafe { bpf(OBJ_GET_INFO, &mut attribute) };
    done.map(|_| information).ok_or_else(|| BpfError::last(BpfStep::Open))
}
